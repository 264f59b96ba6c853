"""
Labels missing here and there
=============================

Rows rarely carry every label. Most tools want complete rows, so one drops the others, or learns each target from its
own rows. A null-aware model reads every label that there is.
"""

# %%
# Field notes on rodents: weight, length of the hind foot and sex. We hide a growing share of all labels at random.
import numpy as np
import polars as pl

from tabmtl import IndependentTasks, SharedTrees
from tabmtl.pipelines.datasets import load

portal = load("portal")
X, y = (part.sample(900, seed=0) for part in portal.part("train"))
X_test, y_test = (part.sample(3000, seed=1) for part in portal.part("test"))


def hide(share: float) -> pl.DataFrame:
    """Hide a share of the labels."""
    keep = np.random.default_rng(0).random(y.shape) >= share
    return y.select(
        pl.when(pl.Series(keep[:, j])).then(name).alias(name)
        for j, name in enumerate(y.columns)
    )


def mean_score(model, X, y) -> float:
    """Fit, and return the mean over the tasks on the test rows."""
    return (
        model.set_params(tasks=portal.tasks, random_state=0)
        .fit(X, y)
        .score(X_test, y_test)
    )


rows = []
for share in (0.0, 0.4, 0.7):
    labels = hide(share)
    complete = ~pl.Series(
        labels.select(pl.any_horizontal(pl.all().is_null())).to_series()
    )
    rows.append(
        {
            "hidden": share,
            "complete rows": int(complete.sum()),
            "all targets, all labels": mean_score(
                SharedTrees(n_estimators_task=0), X, labels
            ),
            "one model per target, its labels": mean_score(
                IndependentTasks(), X, labels
            ),
            "all targets, complete rows only": mean_score(
                SharedTrees(n_estimators_task=0),
                X.filter(complete),
                labels.filter(complete),
            ),
        }
    )
scores = pl.DataFrame(rows)
scores

# %%
# A constant answer has 0.5 for the sex (AUC) and 0 for the two sizes (R²), so one sixth in the mean.
import matplotlib.pyplot as plt

for name in scores.columns[2:]:
    plt.plot(100 * scores["hidden"], scores[name], marker=".", label=name)
plt.axhline(1 / 6, ls=":", color="grey", label="constant answer")
plt.xlabel("labels hidden, %")
plt.ylabel("mean of R² and ROC AUC on test rows")
plt.legend()
plt.show()

# %%
# Dropping incomplete rows is what costs. Where labels are hidden at random, a model for each target is close behind.
last = scores.row(-1, named=True)
assert last["all targets, all labels"] > last["all targets, complete rows only"]
