"""
Histories
=========

What a user has clicked so far tells what they will click next, where it bears on the item that is shown.
As a sequence of items, such a list is read beside that item.
"""

# %%
# Impressions of a shop. ``history`` holds items, the newest last, and ``history_hours`` how long ago each was.
# A click is likelier if the shown item was clicked before, the more so the shorter ago. A rating has nothing to do
# with the history.
from tabmtl.synth import make_histories

world = {
    "n_items": 20,
    "n_groups": 20,
    "mean_length": 6.0,
    "half_life": 200.0,
    "strength": 4.0,
}
shop = make_histories(5000, **world, random_state=0)
later = shop.draw(5000, random_state=1)
shop.X.head()

# %%
# A network weighs the entries of a history by the shown item; trees get how often the history holds it, and how long
# ago. Beside them are the same models without the history, and one model per task.
from tabmtl import IndependentTasks, SharedBottom, SharedTrees
from tabmtl.columns import Sequence

lists = {
    "history": Sequence(of="item", longest=200),
    "history_hours": "sequence:history",
}
common = {"tasks": {"rating": "regression"}, "random_state": 0}
models = {
    "network": SharedBottom(hidden=(32,), epochs=15, columns=lists, **common),
    "trees": SharedTrees(columns=lists, **common),
    "trees, no history": SharedTrees(columns=dict.fromkeys(lists, "ignore"), **common),
    "one model per task": IndependentTasks(
        families=("lightgbm",), columns=lists, **common
    ),
}
for model in models.values():
    model.fit(shop.X, shop.y, groups=shop.users)

# %%
# The generator knows what can be reached with the history and without it: ROC AUC, where a guess has 0.5, and R², where
# the mean has 0.
import polars as pl

scores = {name: model.score_tasks(later.X, later.y) for name, model in models.items()}
scores |= {
    "best possible": later.ceiling(),
    "best possible without": later.ceiling(history=False),
}
assert (
    min(scores["network"]["click"], scores["trees"]["click"])
    > scores["best possible without"]["click"]
)
pl.DataFrame([{"model": name, **own} for name, own in scores.items()])

# %%
# The network has found out by itself which entries matter: those that are the shown item, and of these the recent ones.
import matplotlib.pyplot as plt

weights = models["network"].history_weights(later.X)["history"]
entries = (
    pl.DataFrame([weights, later.X["history_hours"], later.matches])
    .explode(pl.all())
    .drop_nulls()
)
by_age = entries.group_by(
    "matches",
    pl.col("history_hours").cut([24, 48, 96, 192, 384]).to_physical().alias("age"),
)
means = by_age.agg(pl.col("history").mean()).sort("age")
_, ax = plt.subplots(layout="constrained")
for is_match, label in ((True, "is the shown item"), (False, "is another one")):
    part = means.filter(pl.col("matches") == is_match)
    ax.plot(part["age"], part["history"], marker="o", label=label)
ax.set_xticks(range(6), ["1 day", "2 days", "4 days", "8 days", "16 days", "more"])
ax.set(xlabel="age of an entry, up to", ylabel="mean weight of an entry", ylim=0)
ax.legend()
matching, others = (
    entries.filter(pl.col("matches") == own)["history"].mean() for own in (True, False)
)
assert matching > 3 * others
