"""Scores of answers to rows that a model has not seen: those of noise tell nothing."""

import numpy as np
import polars as pl
import pytest

from tabmtl import IndependentTasks
from tabmtl.models.independent.mixture import FAMILIES

MODELS = (*FAMILIES, "IndependentTasks")


def noise(n, seed, n_numbers=4):
    """Numbers and levels that tell nothing of two targets."""
    rng = np.random.default_rng([seed, n])
    X = pl.DataFrame(rng.normal(size=(n, n_numbers))).with_columns(
        level=pl.Series([f"level {k}" for k in rng.integers(0, 12, n)])
    )
    return X, pl.DataFrame({"r": rng.normal(size=n), "b": rng.random(n) < 0.4})


def boards(n_fits, n):
    several = (IndependentTasks(n_jobs=1, random_state=seed).fit(*noise(n, seed)) for seed in range(n_fits))
    return pl.concat([model.leaderboard_ for model in several])


def check_noise(scores, n_fits, *, most):
    """Mean scores are below ``most`` for R², and for ROC AUC, which the choice of trees flatters by .02, near .5."""
    for model in MODELS:
        r, b = (scores.filter(task=task, model=model) for task in "rb")
        assert len(r) == len(b) == n_fits
        assert r["score"].mean() < most, model
        error = np.sqrt(np.square(b["standard_error"].to_numpy()).sum()) / n_fits
        assert b["score"].mean() < 0.52 + 3 * error, model


@pytest.mark.all_faces
@pytest.mark.filterwarnings("ignore:tasks 'b'. in the folds")
def test_noise_is_told_as_noise(three_folds):
    check_noise(boards(6, 60), 6, most=0.04)


@pytest.mark.all_faces
@pytest.mark.filterwarnings("ignore:tasks 'b'. in the folds")
def test_noise_is_told_as_noise_by_all_folds():
    check_noise(boards(20, 150), 20, most=0.01)


@pytest.mark.filterwarnings("ignore:tasks 'b'. in the folds")
def test_means_of_levels_know_nothing_of_rows_that_judge(three_folds):
    """Nearly every row has a level of its own: a mean that knew the row would tell its label."""
    rng = np.random.default_rng(0)
    X = pl.DataFrame({"level": [f"level {k // 2}" for k in range(160)]})
    y = pl.DataFrame({"r": rng.normal(size=160), "b": rng.random(160) < 0.5})
    scores = IndependentTasks(n_jobs=1, random_state=0).fit(X, y).leaderboard_
    assert scores.filter(task="r")["score"].max() < 0.1  # .5 if it were known
    assert scores.filter(task="b")["score"].max() < 0.68
