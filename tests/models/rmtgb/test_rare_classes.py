"""Twelve classes, the rarest with three rows: no leaf sends rows out of reach, and no refit goes astray unseen.

On the test rows of `rare_classes` the frequencies of the classes have the log loss 1.25 and the accuracy .55, one
LightGBM per task .042 and .992 (seed 0), .014 and .998 (seed 3), and RMTGB without guards .24 and .989, 1.1 and .93.
"""

import numpy as np
import pytest
from cases import later
from rare_classes import accuracy, log_loss, rare_classes

from tabmtl import RMTGB
from tabmtl.base.schema import TabmtlWarning
from tabmtl.estimators.boosted.rounds import is_worse
from tabmtl.model_selection import train_valid_split
from tabmtl.targets import Kind

SHORT = {"task_column": "task", "n_estimators_outlier": 20, "n_estimators_task": 0, "random_state": 0}


@pytest.fixture
def without_bound(monkeypatch):
    """Leaves add to a classification what they like."""
    monkeypatch.setattr(Kind, "longest_step", 0.0)


@pytest.mark.parametrize("seed", later([0, 3], 3))
def test_rare_classes_do_not_make_the_fit_diverge(seed):
    (X, y), test = rare_classes(seed)
    model = RMTGB(**SHORT).fit(X, y)
    assert log_loss(model, *test) < 0.03
    assert accuracy(model, *test) > 0.993


@pytest.mark.all_faces
def test_the_bound_of_leaves_is_enough_by_itself():
    (X, y), test = rare_classes(0)
    assert log_loss(RMTGB(**SHORT, reg_lambda=0.0).fit(X, y), *test) < 0.03


@pytest.mark.usefixtures("without_bound")
def test_the_penalty_of_leaves_is_enough_by_itself():
    (X, y), test = rare_classes(0)
    assert log_loss(RMTGB(**SHORT).fit(X, y), *test) < 0.03


@pytest.mark.all_faces  # seven seconds
@pytest.mark.usefixtures("without_bound")
def test_a_refit_that_goes_astray_is_not_kept():
    """The fit that chose the rounds is, to the bit; the loss of the refit on the rows that chose them is far above."""
    (X, y), test = rare_classes(3)
    with pytest.warns(TabmtlWarning, match=r"has the mean loss \d\d\.\d .* 0\.0419; the latter is kept"):
        model = RMTGB(**SHORT, reg_lambda=0.0).fit(X, y)
    assert log_loss(model, *test) < 0.1
    classes = model.tasks_[0].classes
    labels = np.array([classes.index(label) for label in y], dtype=float)[:, None]
    parts = train_valid_split(labels, model.tasks_, 0.15, np.random.default_rng(0), X["task"].cast(int).to_numpy())
    (X_kept, y_kept), (X_val, y_val) = ((X[rows], y[rows]) for rows in parts)
    given = RMTGB(**SHORT, reg_lambda=0.0).fit(X_kept, y_kept, X_val=X_val, y_val=y_val)
    np.testing.assert_array_equal(given.predict_proba(test[0]), model.predict_proba(test[0]))
    assert given.block_rounds_.equals(model.block_rounds_)
    assert given.outlier_score_.equals(model.outlier_score_)  # with the labels that it learned from


def test_losses_are_worse_beyond_chance_only():
    rng = np.random.default_rng(0)
    losses, noise = rng.exponential(size=(5, 40)), rng.normal(size=(5, 40))
    assert not is_worse(losses, losses)
    assert not is_worse(losses + noise - noise.mean(), losses)
    assert not is_worse(losses - 0.1, losses)
    assert is_worse(losses + 0.3 * losses.mean() * (1 + noise), losses)
    assert not is_worse(1.1 * losses, losses)  # no fit that went astray is so near
    few = losses.copy()
    few[0, :2] += 100  # two labels far off among 200
    assert is_worse(few, losses)
    assert not is_worse([np.zeros(0)], [np.zeros(0)])
