"""Scores by group in a search."""

import numpy as np
import pytest

from tabmtl import SharedTrees, Task
from tabmtl.synth import make_funnel
from tabmtl.tuning import objective, open_study, run_study

LOG = make_funnel(600, n_users=30, n_items=10, click_rate=0.4, conversion_rate=0.2, random_state=0)
X, Y = LOG.X.select("user", "item", "user_x0", "position"), LOG.y.select("click", "conversion")
USER = X["user"].to_numpy()
TRAIN, VAL = np.flatnonzero(USER < "u20"), np.flatnonzero(USER >= "u20")
TASKS = {"click": Task(name="click", kind="binary", metric=("gauc", "ndcg@3"))}
PAIR = (USER[TRAIN], USER[VAL])
SPLIT = {"X_val": X[VAL], "y_val": Y[VAL]}


def test_a_search_maximises_scores_by_group(tmp_path):
    model = SharedTrees(tasks=TASKS, n_estimators=5, n_estimators_task=5, random_state=0)
    space = {"max_leaves": {"choices": (4,)}} if "max_leaves" in model.get_params() else None
    goal = objective(model, X[TRAIN], Y[TRAIN], **SPLIT, groups=PAIR, per_task=True, search_space=space)
    study = open_study("by user", goal, storage=str(tmp_path / "by_user.db"), seed=0)
    run_study(study, goal, n_trials=1)
    best = model.set_params(**study.trials[0].params).fit(X[TRAIN], Y[TRAIN], groups=PAIR, **SPLIT)
    found = best.score_tasks(X[VAL], Y[VAL], groups=USER[VAL])
    assert study.trials[0].values == pytest.approx([found["click"], found["conversion"]])
