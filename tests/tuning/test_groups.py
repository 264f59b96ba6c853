"""Trials that several processes fit together: rank 0 asks and tells, and the others fit the same parameters."""

from unittest.mock import Mock

import numpy as np
import optuna
import polars as pl
import pytest
from cases import later
from optuna.trial import TrialState
from sklearn.base import clone
from wired import read_small_parts, run_ranks

from tabmtl import SharedBottom
from tabmtl.base.ranks import EndedElsewhereError
from tabmtl.base.schema import TabmtlWarning
from tabmtl.scale import Shards, joined
from tabmtl.training.run import current
from tabmtl.tuning import ENDED, FAILURE, SCORES, objective, open_study, run_study

TARGETS = ["click", "spend"]
SPACE = {"learning_rate": {"low": 1e-3, "high": 1e-2, "log": True}, "d_embedding": {"choices": (2, 4)}}
NETWORK = SharedBottom(
    hidden=(8,), head_hidden=0, dropout=0.0, epochs=3, batch_size=128, device="cpu", n_jobs=1, random_state=0
)


@pytest.fixture(autouse=True)
def _small(monkeypatch):
    read_small_parts(monkeypatch, chunk_rows=16)


@pytest.fixture(scope="module")
def parts():
    """Training and validation rows."""
    x = np.random.default_rng(0).normal(size=(800, 3))
    frame = pl.DataFrame({f"x{j}": column for j, column in enumerate(x.T)}).sort("x2")
    frame = frame.with_columns(shop=pl.Series(np.random.default_rng(1).choice(["a", "b"], 800)))
    frame = frame.with_columns(click=pl.col("x0") > 0.5, spend=pl.sum_horizontal("x0", "x1", "x2"))
    return frame[::2], frame[1::2]


def search(parts, est=NETWORK, *, size, space=SPACE, pruner=None, n_trials=2, **options):
    """The study of a search by a group, whose ranks make their own objectives."""

    def work():
        train, valid = (Shards(part.lazy()) for part in parts)
        goal = objective(est, train, TARGETS, X_val=valid, y_val=TARGETS, search_space=space, **options)
        study = None
        if not current().rank:
            study = open_study("s", goal, storage=optuna.storages.InMemoryStorage(), seed=0)
            study.pruner = pruner or optuna.pruners.NopPruner()
        run_study(study, goal, n_trials=n_trials)
        return study

    return run_ranks(size, work)[0]


def values(study):
    return np.array([trial.values for trial in study.trials])


@pytest.mark.parametrize("per_task", later([False, True], True))
def test_two_ranks_find_what_one_finds(parts, per_task):
    one, two = (search(parts, size=size, per_task=per_task) for size in (1, 2))
    assert [trial.state for trial in two.trials] == [TrialState.COMPLETE] * 2
    if per_task:  # with one number, what is tried depends on scores, which rounding moves
        assert [trial.params for trial in one.trials] == [trial.params for trial in two.trials]
        np.testing.assert_allclose(values(one), values(two), rtol=0, atol=1e-3)
    np.testing.assert_allclose(values(one)[0], values(two)[0], rtol=0, atol=1e-3)
    assert list(two.trials[0].user_attrs[SCORES]) == TARGETS


@pytest.mark.parametrize("known", [True, False], ids=["of other rows", "none"])
def test_a_study_that_is_refused_ends_all_ranks(parts, known):
    ends = []

    def work():
        goals = [
            objective(NETWORK, Shards(rows.lazy()), TARGETS, X_val=Shards(parts[1].lazy()), y_val=TARGETS)
            for rows in (parts[0], parts[0].head(300))
        ]
        study = None
        if known and not current().rank:
            study = open_study("s", goals[0], storage=optuna.storages.InMemoryStorage(), seed=0)
        try:
            run_study(study, goals[1], n_trials=1)
        except (ValueError, EndedElsewhereError) as error:
            ends.append(type(error))

    run_ranks(2, work)
    assert set(ends) == {ValueError, EndedElsewhereError}


def test_rank_0_prunes_for_all(parts):
    pruner = Mock(spec=optuna.pruners.BasePruner, prune=lambda study, trial: trial.number == 1)
    study = search(parts, size=2, pruner=pruner, n_trials=3)
    assert [trial.state.name for trial in study.trials] == ["COMPLETE", "PRUNED", "COMPLETE"]
    assert [list(trial.intermediate_values) for trial in study.trials] == [[1, 2, 3], [1], [1, 2, 3]]
    assert study.trials[1].user_attrs[ENDED] == "by the pruner, after epoch 1"


def test_a_fit_that_diverges_is_pruned(parts):
    est = clone(NETWORK).set_params(learning_rate=1e30, clip_norm=None)
    space = {"d_embedding": SPACE["d_embedding"]}
    with pytest.warns(TabmtlWarning, match="trial 0 failed and counts as pruned: DivergenceError"):
        study = search(parts, est, size=2, space=space, n_trials=1)
    assert [trial.state for trial in study.trials] == [TrialState.PRUNED]
    assert study.trials[0].user_attrs[FAILURE].startswith("DivergenceError")


def test_any_other_error_ends_the_search(parts, monkeypatch):
    fit, begun = SharedBottom.fit, []

    def fail_at_last(model, *args, **options):
        begun.append(current().rank)
        if len(begun) > 2:
            raise ValueError("a bad row")
        return fit(model, *args, **options)

    monkeypatch.setattr(SharedBottom, "fit", fail_at_last)
    with pytest.raises(ValueError, match="a bad row"):
        search(parts, size=2)


def test_a_group_has_a_study_on_rank_0(parts):
    train, valid = (Shards(part.lazy()) for part in parts)
    goal = objective(NETWORK, train, TARGETS, X_val=valid, y_val=TARGETS, search_space=SPACE)
    with pytest.raises(ValueError, match="run_study needs a study, from open_study; None is for the other ranks"):
        run_study(None, goal, n_trials=1)


def test_trials_have_no_checkpoints_and_a_fit_after_them_has(parts, tmp_path):
    seen = []
    network = clone(NETWORK).set_params(on_epoch=lambda _: seen.append([file.name for file in tmp_path.iterdir()]))
    train, valid = (Shards(part.lazy()) for part in parts)
    with joined(checkpoint=tmp_path):
        goal = objective(network, train, TARGETS, X_val=valid, y_val=TARGETS, search_space=SPACE)
        run_study(open_study("s", goal, storage=optuna.storages.InMemoryStorage()), goal, n_trials=1)
        network.fit(train, TARGETS, X_val=valid, y_val=TARGETS)
    assert seen == [[], [], [], [], ["fit-1.safetensors"], ["fit-1.safetensors"]]
