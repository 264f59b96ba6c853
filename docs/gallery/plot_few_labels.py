"""
A target with few labels
========================

Some labels are dear: a cancelled flight is known for a few hundred rows, while delays and air times are known for
all. From how many labels on is it enough to learn the target alone?
"""

# %%
# All labels of three targets, few of the fourth. Three draws of rows show the spread. Among 150 labels, some draws hold
# fewer than ten cancelled flights, of which a warning would tell.
import warnings

import polars as pl

from tabmtl import FewLabelsWarning, IndependentTasks, SharedTrees
from tabmtl.pipelines.datasets import load

warnings.simplefilter("ignore", FewLabelsWarning)
flights = load("flights")
X_all, y_all = flights.part("train")
X_test, y_test = (part.sample(4000, seed=9) for part in flights.part("test"))


def scores_at(n_labels: int, seed: int) -> dict[str, object]:
    """Score the target, learned beside the others and alone."""
    X, y = (part.sample(1500, seed=seed, shuffle=True) for part in (X_all, y_all))
    scarce = y.with_columns(
        pl.when(pl.int_range(pl.len()) < n_labels).then("cancelled").alias("cancelled")
    )
    together = SharedTrees(
        tasks=flights.tasks, n_estimators_task=0, random_state=seed
    ).fit(X, scarce)
    kind = {"cancelled": "binary"}
    alone = IndependentTasks(tasks=kind, random_state=seed).fit(
        X[:n_labels], scarce[:n_labels, :1]
    )
    return {
        "labels": n_labels,
        "seed": seed,
        "together": together.score_tasks(X_test, y_test)["cancelled"],
        "alone": alone.score_tasks(X_test, y_test.select("cancelled"))["cancelled"],
    }


scores = pl.DataFrame(
    [scores_at(n, seed) for n in (150, 500, 1500) for seed in (0, 1, 2)]
)
scores

# %%
# Points are draws, lines their means. The dotted line is a guess, which has an AUC of one half.
import matplotlib.pyplot as plt

means = scores.group_by("labels", maintain_order=True).mean()
for name in ("alone", "together"):
    (line,) = plt.plot(means["labels"], means[name], label=name)
    plt.plot(scores["labels"], scores[name], ".", color=line.get_color())
plt.axhline(0.5, ls=":", color="grey", label="guess")
plt.xscale("log")
plt.minorticks_off()
plt.xticks([150, 500, 1500], ["150", "500", "1500"])
plt.xlabel("labels of cancelled; all labels of three other targets")
plt.ylabel("ROC AUC on other days")
plt.legend()
plt.show()

# %%
# The gain is largest where labels are few. It depends on the draw: a few hundred labels hold only some dozen cancelled
# flights. That is why one looks at several.
few = scores.filter(pl.col("labels") == 150)
assert few["together"].mean() > few["alone"].mean()
means.with_columns(gain=pl.col("together") - pl.col("alone"))
