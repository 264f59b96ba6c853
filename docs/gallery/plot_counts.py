"""
Counts and quantiles
====================

Not every number is asked for its mean with errors that are alike everywhere. A count has none below 0, and a delay that
is planned with is asked how far it may go. A task says what its target is.
"""

# %%
# Rodents again, but counted: how many animals of each of four genera are in the traps of a plot in a month.
import numpy as np
import polars as pl
from sklearn.metrics import d2_tweedie_score

from tabmtl import IndependentTasks, SharedTrees
from tabmtl.metrics.scores import score_task
from tabmtl.pipelines.datasets import load

portal = load("portal")
animals = pl.concat([portal.part(name)[0] for name in ("train", "val", "test")])
genera = ["Dipodomys", "Chaetodipus", "Onychomys", "Reithrodontomys"]
traps = (
    animals.group_by("year", "month", "plot_id", "plot_type", maintain_order=True)
    .agg((pl.col("genus") == genus).sum().alias(genus) for genus in genera)
    .sample(fraction=1, shuffle=True, seed=0)
)
X, y = traps.drop(genera), traps.select(genera)
train, test = slice(1000), slice(3000, None)

# %%
# Each kind is learned by the same trees. D² is the share of the deviance of Poisson's law that is explained: 0 for the
# mean of all. It takes no answer of 0 or less, and squared errors give some, so these are lifted to a hundredth.
models = {
    "poisson": SharedTrees(tasks=dict.fromkeys(genera, "poisson"), random_state=0),
    "regression": SharedTrees(
        tasks=dict.fromkeys(genera, "regression"), random_state=0
    ),
    "poisson, each genus alone": IndependentTasks(
        tasks=dict.fromkeys(genera, "poisson"),
        families=("lightgbm",),
        random_state=0,
    ),
}
counts = {
    name: model.set_params(learning_rate=0.1).fit(X[train], y[train]).predict(X[test])
    for name, model in models.items()
}
scores = pl.DataFrame(
    {
        "model": name,
        "mean D²": np.mean(
            [
                d2_tweedie_score(y[test][genus], found[genus].clip(0.01), power=1)
                for genus in genera
            ]
        ),
        "answers below 0": (found.to_numpy() < 0).mean(),
    }
    for name, found in counts.items()
)
below = dict(scores.select("model", "answers below 0").iter_rows())
assert below["poisson"] == 0 < below["regression"]
scores

# %%
# Now delays of flights. Three levels are one task: early, median and late. They never cross.
flights = load("flights")
X, y = (part.sample(4000, seed=0) for part in flights.part("train"))
X_test, y_test = (part.sample(4000, seed=1) for part in flights.part("test"))
y, y_test = (labels.select("arr_delay", "dep_del15") for labels in (y, y_test))

model = SharedTrees(
    tasks={"arr_delay": "quantiles:0.1:0.5:0.9"}, learning_rate=0.1, random_state=0
).fit(X, y)
delays = model.predict_quantiles(X_test)
delays.head(3)

# %%
# The width differs from flight to flight, which one width around a mean could not tell.
import matplotlib.pyplot as plt

hours = delays.with_columns(hour=X_test["sched_dep_min"] // 60).sort("hour")
means = hours.group_by("hour", maintain_order=True).mean()
figure, ax = plt.subplots()
low, middle, high = (means[name] for name in delays.columns)
ax.fill_between(means["hour"], low, high, alpha=0.3, label="eight in ten")
ax.plot(means["hour"], middle, label="median")
ax.set(xlabel="hour of departure", ylabel="minutes of delay on arrival")
ax.legend()

# %%
# Eight in ten flights should lie between the outer levels. These are other days than those of the fit, with other
# weather, so fewer do. D² is the share of the loss that is explained, as the mean of the levels. Learning the delay
# beside the yes or no of a quarter of an hour gains nothing: the delay tells it.
alone = IndependentTasks(tasks=model.tasks, families=("lightgbm",), random_state=0)
alone.fit(X, y)
rows = []
for name, own in (("together", model), ("alone", alone)):
    found = own.predict_quantiles(X_test)
    low, high = found["arr_delay_q0.1"], found["arr_delay_q0.9"]
    rows.append(
        {
            "model": name,
            "D²": own.score_tasks(X_test, y_test)["arr_delay"],
            "share inside": y_test["arr_delay"].is_between(low, high).mean(),
            "mean width": (high - low).mean(),
        }
    )
levels = [y["arr_delay"].quantile(level) for level in (0.1, 0.5, 0.9)]
same = np.tile(levels, (len(y_test), 1))
rows.append(
    {
        "model": "levels of the fit",
        "D²": score_task(model.tasks_[0], y_test["arr_delay"].to_numpy(), same),
        "share inside": y_test["arr_delay"].is_between(levels[0], levels[2]).mean(),
        "mean width": levels[2] - levels[0],
    }
)
ranges = pl.DataFrame(rows)
assert ranges["D²"][0] > 0.02 and ranges["share inside"][0] > 0.6
ranges
