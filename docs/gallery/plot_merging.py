"""
Three departments, one model
============================

Three departments begin with one common network, and each goes on learning its own targets from rows of its own. Merging
makes one network of the three, without training and without their rows.
"""

# %%
# The common network knows all targets of 600 flights, and has seen the airports of the others. Each department has
# labels of its own targets for 1 200 further flights. It goes on in small steps: networks that move far apart do not
# merge well.
from copy import copy

import polars as pl

from tabmtl import SharedBottom
from tabmtl.pipelines.datasets import load

flights = load("flights")
X, y = (part.sample(4200, seed=0, shuffle=True) for part in flights.part("train"))
X_val, y_val = flights.part("val")
X_test, y_test = flights.part("test")

few = y.select(pl.when(pl.int_range(pl.len()) < 600).then(pl.all()))
base = SharedBottom(hidden=(64, 32), epochs=10, tasks=flights.tasks, random_state=0)
base.fit(X, few)
departments = {
    "operations": ["cancelled", "dep_del15"],
    "passengers": ["arr_delay"],
    "crews": ["air_time"],
}
models = []
for k, targets in enumerate(departments.values()):
    rows = slice(600 + 1200 * k, 1800 + 1200 * k)
    labels = y[rows].with_columns(
        pl.lit(None, dtype).alias(other)
        for other, dtype in y.schema.items()
        if other not in targets
    )
    model = copy(base).set_params(warm_start=True, learning_rate=5e-4)
    models.append(model.fit(X[rows], labels))

# %%
# Heads come from the department that trained them. All other weights are the mean of the three.
from tabmtl.extras import merge

merged = merge(base, models)
known = {
    name: model.score_tasks(X_test, y_test)
    for name, model in {"common": base, "merged": merged}.items()
}
scores = pl.DataFrame(
    [
        {
            "target": target,
            "constant": 0.5 if flights.tasks[target] == "binary" else 0.0,
            "common": known["common"][target],
            "its department": model.score_tasks(X_test, y_test)[target],
            "merged": known["merged"][target],
        }
        for model, targets in zip(models, departments.values(), strict=True)
        for target in targets
    ]
)
assert scores["merged"].mean() > scores["common"].mean() + 0.005
scores

# %%
# The mean takes all departments alike, also those whose steps cost others: `air_time` is worse than by the common
# network. A few merged networks, scored on validation rows, tell which other scales are worth a try: the front from
# which no target gains without loss of another. Dotted lines are those of the common network.
from tabmtl.extras import merge_front
from tabmtl.tuning import ParetoDisplay

two = ["dep_del15", "air_time"]
front = merge_front(base, models, X_val, y_val, tasks=two, random_state=0)
common = base.score_tasks(X_val, y_val)
ParetoDisplay.from_front(front, reference={target: common[target] for target in two})

# %%
# Any row of the front is a network, by its scales. Here, it is the best in delays of those that lose no `air_time` to the
# common network. The department of passengers hardly counts then.
best = front.filter(pl.col("score/air_time") >= common["air_time"]).sort(
    "score/dep_del15"
)[-1]
scale = best["scale"].item().to_list()
chosen = merge(base, models, method="task_arithmetic", scale=scale).score_tasks(
    X_test, y_test
)
assert all(chosen[target] > known["common"][target] for target in two)
scale, chosen
