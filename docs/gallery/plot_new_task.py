"""
A new task with 100 labels
==========================

A model of delays is in use. Now somebody asks for another target, of which 100 rows have a label. The new task reads what
the model has learned from all rows; the answers that are in use stay as they are.
"""

# %%
# The model knows delays at the arrival and times in the air of 4 000 flights. The new question is whether a flight left
# more than 15 minutes late.
import polars as pl

from tabmtl import IndependentTasks, SharedBottom, SharedTrees
from tabmtl.pipelines.datasets import load

flights = load("flights")
X, y = (part.sample(4000, seed=0) for part in flights.part("train"))
X_test, y_test = (part.sample(4000, seed=1) for part in flights.part("test"))
old, new = ["arr_delay", "air_time"], "dep_del15"
network = SharedBottom(random_state=0).fit(X, y.select(old))
trees = SharedTrees(random_state=0).fit(X, y.select(old))
before = network.predict(X_test), trees.predict(X_test)

# %%
# Three draws of 100 labelled flights. Each new task is removed again before the next one comes, and beside them stands
# what 100 labels are worth alone.
drawn = []
for seed in (0, 1, 2):
    labelled = y[new].is_not_null()
    X_new, y_new = (
        part.filter(labelled).sample(100, seed=seed) for part in (X, y.select(new))
    )
    alone = IndependentTasks(random_state=seed).fit(X_new, y_new)
    found = {"alone": alone.score_tasks(X_test, y_test.select(new))[new]}
    for name, model in (("network", network), ("trees", trees)):
        model.add_task(X_new, y_new)
        scores = model.score_tasks(X_test, y_test.select(*old, new))
        found[f"added to the {name}"] = scores[new]
        model.remove_task(new)
    drawn.append({"seed": seed, **found})
scores = pl.DataFrame(drawn)
scores

# %%
# Points are draws, lines their means. The dotted line is a guess, which has an AUC of one half.
import matplotlib.pyplot as plt

names = scores.columns[1:]
for place, name in enumerate(names):
    plt.plot(scores[name], [place] * len(scores), "o")
    plt.plot([scores[name].mean()] * 2, [place - 0.2, place + 0.2], color="black")
plt.yticks(range(len(names)), names)
plt.axvline(0.5, ls=":", color="grey")
plt.xlabel("ROC AUC of late departures on other days, by 100 labels")
plt.show()

# %%
# What the model has learned of the old targets is worth more than the labels alone.
for name in names[1:]:
    assert scores[name].mean() > scores["alone"].mean() + 0.02

# %%
# Old answers are equal bit for bit, with the task and without it.
network.add_task(X_new, y_new)
assert network.predict(X_test).select(old).equals(before[0])
assert trees.predict(X_test).equals(before[1])
