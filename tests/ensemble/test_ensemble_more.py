"""MultiTaskEnsemble as users meet it: containers, copies, callbacks, declared tasks, dropped columns, few labels."""

import copy

import numpy as np
import polars as pl
import pytest
from conformance import CANDIDATES, features, mixed_targets
from numpy.testing import assert_allclose
from polars.testing import assert_frame_equal
from sklearn.base import clone
from sklearn.dummy import DummyClassifier, DummyRegressor

from tabmtl import RMTGB, IndependentTasks, MultiTaskEnsemble, SharedBottom, SharedTrees, load
from tabmtl.base.schema import TabmtlWarning
from tabmtl.targets import Task

X = features()
Y = mixed_targets(X)

pytestmark = pytest.mark.usefixtures("one_penalty")  # as `mixed` is made


class NoModel(DummyRegressor):
    def fit(self, X, y, sample_weight=None):
        raise RuntimeError("no model")


def ensemble(**params):
    return MultiTaskEnsemble(**{"models": CANDIDATES, "n_folds": 2, "random_state": 0, **params})


def test_other_candidates_matter_at_the_next_fit_only(mixed):
    assert not hasattr(CANDIDATES["together"], "tasks_")
    changed = copy.deepcopy(mixed).set_params(models={"trees": SharedTrees(n_estimators=5, n_estimators_task=5)})
    assert changed.predict(X).equals(mixed.predict(X))
    assert list(clone(changed).models) == ["trees"]
    changed.set_params(models={"odd": IndependentTasks(classifier=DummyClassifier(), regressor=NoModel())})
    with pytest.raises(ValueError, match="'delay': NoModel cannot be fitted: no model"):
        changed.fit(X, Y)
    assert changed.predict(X).equals(mixed.predict(X))


def test_callbacks_see_one_task(mixed):
    pytest.importorskip("sklearn.callback")

    from tabmtl.training.hooks import SUPPORTED

    if not SUPPORTED:
        pytest.skip("scikit-learn has no callbacks yet")
    from sklearn.callback import ProgressBar

    assert ensemble().set_callbacks(ProgressBar()).fit(X, Y).predict(X).equals(mixed.predict(X))


def test_declared_tasks_reach_every_candidate():
    late = Task(name="late", kind="binary", classes=("on time", "late"), metric="average_precision", weight=3.0)
    size = Task(name="size", kind="multiclass", classes=("small", "medium", "large", "huge"))
    model = ensemble(tasks={"late": late, "size": size}).fit(X, Y)
    assert model.tasks_[0] == late
    assert {part.tasks_ for parts in model.estimators_.values() for part in parts} == {model.tasks_}
    assert model.predict_proba(X)["size"].shape == (120, 4)
    assert_allclose(model.predict_proba(X)["size"].sum(axis=1), 1)


def test_a_column_may_be_dropped_by_the_ensemble_and_by_a_candidate():
    table = X.with_columns(patient=pl.int_range(120) // 4)
    candidates = CANDIDATES | {
        "more": SharedTrees(n_estimators=5, n_estimators_task=0, columns={"patient": "ignore", "text": "ignore"})
    }
    model = ensemble(models=candidates, columns={"patient": "ignore"}).fit(table, Y, groups="patient")
    assert model.predict(X).shape == (120, 3)
    board = model.leaderboard_.filter(task="delay")
    assert board.filter(model="more")["score"].item() < board.filter(model="alone")["score"].item()


def test_hardly_any_label_is_fitted_with_a_warning():
    few = pl.DataFrame({"a": [1.5, 2.5, 3.5], "b": ["x", "y", None]})
    y = pl.concat([few, few.clear(117)])
    candidates = CANDIDATES | {"sides": RMTGB(n_estimators_shared=5, n_estimators_outlier=5, n_estimators_task=5)}
    with pytest.warns(TabmtlWarning, match="tasks 'a', 'b' have labels too few to judge"):
        model = ensemble(models=candidates).fit(X, y)
    assert model.predict(X).null_count().row(0) == (0, 0)


@pytest.mark.parametrize(("given", "cure"), [("groups", "or give smaller groups"), ("time", "of their later rows, by")])
def test_the_warning_of_few_labels_names_what_would_help(given, cure):
    y = pl.DataFrame({"a": np.arange(120.0), "b": [*np.arange(8.0), *[None] * 112]})
    with pytest.warns(TabmtlWarning, match=f"tasks 'b' have labels too few to judge.*; label more .*{cure}"):
        ensemble().fit(X, y, **{given: np.arange(120) // 4})


@pytest.mark.parametrize("name", ["add_task", "remove_task"])
def test_a_task_that_comes_or_goes_has_another_way(name):
    with pytest.raises(AttributeError, match=rf"MultiTaskEnsemble has no {name}: .*distill\(model, X\)"):
        getattr(MultiTaskEnsemble(), name)


def test_a_constant_has_an_auc_of_a_half():
    """Of a rare class the constants of folds differ, the more the smaller the folds are."""
    X = pl.DataFrame({"a": np.arange(60.0)})
    y = pl.DataFrame({"b": np.random.default_rng(0).permutation(np.arange(60) < 15)})
    candidates = {
        "alone": IndependentTasks(families=("lightgbm",), min_child_samples=60, patience=1),
        "together": SharedTrees(n_estimators=1, n_estimators_task=0, min_child_samples=60),
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tabmtl.models.independent.folds.Folds.beat_constant", lambda *_: False)
        model = ensemble(models=candidates, n_folds="auto").fit(X, y)
    assert_allclose(model.leaderboard_["score"][:2], 0.5)


def test_an_ensemble_of_dates_is_saved_though_its_network_reads_other_parts_of_them(tmp_path):
    days = pl.datetime_range(pl.datetime(2024, 1, 1), pl.datetime(2024, 5, 1), "1d", eager=True)
    rng = np.random.default_rng(0)
    dated = pl.DataFrame({"a": rng.normal(size=len(days)), "day": days, "hour": days.dt.time()})
    y = pl.DataFrame({"u": dated["a"] + rng.normal(size=len(days)), "v": dated["a"] > 0})
    models = {"alone": IndependentTasks(families=("lightgbm",)), "net": SharedBottom(epochs=1)}
    model = ensemble(models=models).fit(dated, y)
    assert (model.model_weights_["net"] > 0).any()
    model.save(tmp_path / "model")
    assert_frame_equal(load(tmp_path / "model").predict(dated), model.predict(dated))
