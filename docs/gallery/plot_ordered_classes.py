"""
Ordered classes
===============

A flight is early, on time, late or very late. These are classes, and they have an order: to call a late flight early is
a larger mistake than to call it on time. What does a model gain that knows the order?
"""

# %%
# Only 500 flights of 1500 have a band; two other targets are known for all. The type of the column says the order.
import polars as pl

from tabmtl import IndependentTasks, SharedTrees
from tabmtl.pipelines.datasets import load

flights = load("flights")
X_all, y_all = flights.part("train")
X_test, y_test = (part.sample(4000, seed=9) for part in flights.part("test"))
bands = pl.Enum(["early", "on time", "late", "very late"])
edges = (-10, 5, 30)  # minutes after the timetable
delay = pl.col("arr_delay")
code = sum((delay > edge).cast(pl.UInt8) for edge in edges)
band = code.replace_strict(dict(enumerate(bands.categories)), return_dtype=bands)
known = y_test["arr_delay"].is_not_null()  # a cancelled flight never arrives
X_test, bands_test = X_test.filter(known), y_test.filter(known).select(band=band)


def fit(seed: int, kind: str, cls: type = SharedTrees):
    """Learn the band as ordered or as plain classes, beside two other targets, or alone."""
    X, y = (part.sample(1500, seed=seed, shuffle=True) for part in (X_all, y_all))
    is_labelled = pl.int_range(pl.len()) < 500
    scarce = y.select("cancelled", "dep_del15", band=pl.when(is_labelled).then(band))
    if cls is IndependentTasks:
        X, scarce = X[:500], scarce[:500].select("band")
    return cls(tasks={"band": kind}, random_state=seed).fit(X, scarce)


# %%
# The score is Cohen's kappa with quadratic weights, the usual one of grades: a constant has 0, and a mistake counts by
# the square of its distance. Beside it stands the distance itself. scikit-learn scores the answers of all models alike.
from sklearn.metrics import cohen_kappa_score, mean_absolute_error

truth = bands_test["band"].to_physical().to_numpy()


def scores_of(name: str, model, seed: int) -> dict[str, object]:
    """Score the answers of a model to flights of other days."""
    found = model.predict(X_test)["band"].to_physical().to_numpy()
    kappa = cohen_kappa_score(truth, found, weights="quadratic")
    return {
        "model": name,
        "seed": seed,
        "kappa": kappa,
        "distance": mean_absolute_error(truth, found),
    }


together = [fit(seed, "ordinal") for seed in range(3)]
rows = [
    row
    for seed in range(3)
    for row in (
        scores_of("ordered", together[seed], seed),
        scores_of("plain classes", fit(seed, "multiclass"), seed),
        scores_of("ordered, alone", fit(seed, "ordinal", IndependentTasks), seed),
    )
]
scores = pl.DataFrame(rows).group_by("model", maintain_order=True).mean().drop("seed")
scores

# %%
# The answer to ordered classes is the median: the first class up to which half of the probability lies. Plain classes
# answer the likeliest, which is often the first or the last where a model knows little.
kappa, distance = (
    dict(scores.select("model", name).iter_rows()) for name in ("kappa", "distance")
)
assert distance["ordered"] < distance["plain classes"] - 0.03
assert kappa["ordered"] > kappa["plain classes"] > 0

# %%
# Probabilities are those of being above a class, which fall from class to class. Ten groups of flights, from the
# surest to be early to the surest to be late, show whether they hold.
import matplotlib.pyplot as plt
import numpy as np

p = np.mean([model.predict_proba(X_test)["band"] for model in together], axis=0)
above = 1 - np.cumsum(p, axis=1)[:, :-1]
order = np.argsort(above.mean(axis=1))
for k, name in enumerate(bands.categories[:-1]):
    groups = [
        (above[part, k].mean(), (truth[part] > k).mean())
        for part in np.array_split(order, 10)
    ]
    plt.plot(*np.transpose(groups), "o-", label=f"above '{name}'")
plt.axline((0, 0), slope=1, ls=":", color="grey")
plt.xlabel("predicted probability")
plt.ylabel("share of flights")
plt.legend()
plt.show()
