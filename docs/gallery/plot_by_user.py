"""
A ranker judged by user
=======================

A feed shows each user a list of their own, so it matters how well rows are ordered inside of it. ROC AUC over all rows
also counts pairs of two users, and rewards a model that only knows who clicks often.
"""

# %%
# A log of impressions. New ones of the same users judge.
import polars as pl

from tabmtl import ESMM, IndependentTasks, Task
from tabmtl.synth import make_funnel

log = make_funnel(
    6000, n_users=100, n_items=30, click_rate=0.2, spread=2.0, random_state=0
)
fresh = log.draw(4000, random_state=1)
chain = ["click", "conversion"]
y, y_test = (rows.y.select(chain) for rows in (log, fresh))

# %%
# The first metric of a task is watched: here GAUC, the mean of the users' AUC weighted by their number of rows. It
# needs the groups of rows, in ``fit`` too, which then stops by whole users.
tasks = {name: Task(name=name, kind="binary", metric="gauc") for name in chain}
common = {"tasks": tasks, "random_state": 0}
funnel = ESMM(task_chain=chain, epochs=15, **common)
funnel.fit(log.X, y, groups="user")

# %%
# One model per task is the reference. The trivial answer is a model that sees the user and nothing else: it knows the
# rate of each, and answers all rows of a user alike.
alone = IndependentTasks(families=("lightgbm",), **common)
alone.fit(log.X, y, groups="user")
rates = IndependentTasks(families=("lightgbm",), columns={"user": "category"}, **common)
rates.fit(log.X.select("user"), y, groups=log.X["user"])

# %%
# Scores by user, over draws of users. Users whose rows are all clicked, or none, tell nothing of the order; they are
# counted in ``n_left_out``.
models = {"ESMM": funnel, "one model per task": alone, "rates of users": rates}
tables = []
for name, model in models.items():
    X_test = fresh.X.select(model.feature_names_in_.tolist())
    table = model.score_intervals(
        X_test, y_test, groups=fresh.X["user"], metric=("roc_auc", "gauc")
    )
    tables.append(table.select(pl.lit(name).alias("model"), pl.all()))
scores = pl.concat(tables)
scores.filter(task="conversion").drop("task", "standard_error", "n_positive")

# %%
import matplotlib.pyplot as plt

clicks = scores.filter(task="click")
for place, (name, metric) in enumerate((("all rows", "roc_auc"), ("by user", "gauc"))):
    own = clicks.filter(metric=metric)
    error = [own["score"] - own["low"], own["high"] - own["score"]]
    y_places = [k + 0.2 * (place - 0.5) for k in range(own.height)]
    plt.errorbar(own["score"], y_places, xerr=error, fmt="o", capsize=3, label=name)
plt.yticks(range(len(models)), list(models))
plt.axvline(0.5, color="grey", ls=":", lw=1)
plt.xlabel("AUC of clicks, with 95 % intervals over users")
plt.legend()
plt.show()

# %%
# Over all rows, rates of users look like a model. By user they are a coin, and the others keep what they know.
by_model = dict(clicks.filter(metric="gauc").select("model", "score").iter_rows())
over_rows = dict(clicks.filter(metric="roc_auc").select("model", "score").iter_rows())
assert over_rows["rates of users"] > 0.55
assert abs(by_model["rates of users"] - 0.5) < 0.02
assert by_model["ESMM"] > 0.55

# %%
# ``score_tasks`` with groups adds the other scores by group. Those of a conversion given a click are on the clicked
# rows, as post-click rates are reported, and beside them those of both steps on all rows.
found = funnel.score_tasks(fresh.X, y_test, groups="user")
given = funnel.score_tasks(fresh.X, y_test, given="click", metric="roc_auc")
assert list(given) == ["click", "conversion|click", "conversion&click"]
pl.DataFrame([found.by_metric["click"]]), pl.DataFrame([given])
