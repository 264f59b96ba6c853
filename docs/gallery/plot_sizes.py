"""
A network without what it does not need
=======================================

``prune`` takes units and experts from a fitted network, cut by cut, until a share of its multiplications is left or a
target would lose more of its score than allowed.
"""

# %%
# Train once, and prune by rows that the network has not learned from.
import tempfile

import matplotlib.pyplot as plt
import polars as pl

import tabmtl
from tabmtl import SharedBottom
from tabmtl.extras import multiply_adds, prune, widths
from tabmtl.pipelines.datasets import load

flights = load("flights")
X, y = (part.sample(3000, seed=0) for part in flights.part("train"))
X_aside, y_aside = (part.sample(1500, seed=0) for part in flights.part("val"))
X_test, y_test = (part.sample(3000, seed=0) for part in flights.part("test"))
model = SharedBottom(
    tasks=flights.tasks, numeric_embedding="none", epochs=15, random_state=0
)
model.fit(X, y)
smaller = prune(model, X_aside, y_aside, keep=0.2, floor=0.05)
print(f"{multiply_adds(model)} multiplications a row, {multiply_adds(smaller)} left")

# %%
# Units of every layer, and of the head of every target, before and after.
pl.DataFrame(
    {
        "layer": [*widths(model)],
        "before": [*widths(model).values()],
        "after": [*widths(smaller).values()],
    }
)

# %%
# Every cut, what a row then costs, and the score of each target on the rows that judged: where the lines begin to fall is
# the size to ask for.
cuts = smaller.pruned_
for task in ("arr_delay", "dep_del15"):
    plt.plot(cuts["multiply_adds"], cuts[f"score/{task}"], marker=".", label=task)
plt.xscale("log")
plt.xlabel("multiplications of a row with weights")
plt.ylabel("score on the rows that judged")
plt.legend()
plt.show()

# %%
# Both on test rows. The smaller network is saved, exported and trained on like any other.
pl.DataFrame(
    {
        "task": [task.name for task in model.tasks_],
        "before": model.score_tasks(X_test, y_test).values(),
        "after": smaller.score_tasks(X_test, y_test).values(),
    }
)

# %%
with tempfile.TemporaryDirectory() as folder:
    smaller.save(f"{folder}/small")
    loaded = tabmtl.load(f"{folder}/small")
assert loaded.predict(X_test).equals(smaller.predict(X_test))
