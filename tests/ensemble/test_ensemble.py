"""MultiTaskEnsemble: honest answers, limits of time, candidates of all sorts, files."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from conformance import CANDIDATES
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.linear_model import Ridge
from sklearn.metrics import r2_score

from tabmtl import (
    RMTGB,
    IndependentTasks,
    MultiTaskEnsemble,
    MultiTaskEnsembleRegressor,
    SharedBottom,
    SharedTrees,
    default_candidates,
    load,
)
from tabmtl.schema import TabmtlWarning
from tabmtl.testing import features, long_table, mixed_targets

ALONE, TOGETHER = CANDIDATES["alone"], CANDIDATES["together"]


def scarce_table(n=600, n_labels=40, seed=0):
    """A target with few labels beside two with many, all of one smooth function."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, 6))
    f = np.sin(2 * X[:, 0]) + X[:, 1] * X[:, 2]
    y = pl.DataFrame({name: f + 0.3 * rng.normal(size=n) for name in ("first", "second", "scarce")})
    return X, y.with_columns(scarce=pl.when(pl.int_range(n) < n_labels).then("scarce"))


def test_a_scarce_target_learns_from_the_others():
    X, y = scarce_table()
    X_test, y_test = scarce_table(n_labels=600, seed=1)
    model = MultiTaskEnsemble(candidates=CANDIDATES, random_state=0).fit(X, y)
    score = model.score_tasks(X_test, y_test)["scarce"]
    alone = IndependentTasks(tune=4, random_state=0).fit(X, y).score_tasks(X_test, y_test)["scarce"]
    # the mean: R² 0; the best single-task model: below .4
    assert alone < 0.4
    assert score > 0.7
    weights = model.weights_.filter(task="scarce").drop("task").row(0, named=True)
    assert weights["alone"] < 0.2
    assert "LinearStack" in weights


def test_out_of_fold_scores_are_honest():
    rng = np.random.default_rng(0)
    X, noise = rng.normal(size=(200, 4)), rng.normal(size=(200, 2))
    model = MultiTaskEnsemble(candidates=CANDIDATES, n_folds=5, random_state=0).fit(X, noise)
    scores = model.leaderboard_.filter(pl.col("candidate") != "MultiTaskEnsemble")["score"]
    assert scores.max() < 0.1  # of labels that were seen, trees reach far more
    assert model.score_tasks(X, noise)["y0"] > 0.15


def test_predictions_are_the_weighted_means_of_the_folds():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(300, 4))
    y = 2 * X[:, 0] + X[:, 1] + 1.5 * np.sin(3 * X[:, 2]) + 0.3 * rng.normal(size=300)  # lines and trees know a part
    candidates = {"trees": ALONE, "line": IndependentTasks(regressor=Ridge())}
    model = MultiTaskEnsemble(candidates=candidates, n_folds=3, random_state=0).fit(X, y)
    assert {len(parts) for parts in model.estimators_.values()} == {3}
    plain = {
        name: np.mean([np.ravel(p.predict(X)) for p in parts], axis=0) for name, parts in model.estimators_.items()
    }
    weights = model.weights_.drop("task").row(0, named=True)
    assert sum(weights.values()) == pytest.approx(1)
    assert 0.1 < weights["line"] < 0.9
    assert_allclose(model.predict(X), sum(weights[name] * values for name, values in plain.items()))


def test_the_leaderboard_tells_all():
    X = features()
    y = mixed_targets(X)
    model = MultiTaskEnsemble(candidates=CANDIDATES, n_folds=2, random_state=0).fit(X, y)
    board = model.leaderboard_
    assert board["candidate"].unique(maintain_order=True).to_list() == [
        "alone",
        "together",
        "LinearStack",
        "MultiTaskEnsemble",
    ]
    assert board.filter(candidate="alone")["task"].to_list() == y.columns
    assert_allclose(board.drop_nulls("weight").group_by("task").agg(pl.col("weight").sum())["weight"], 1)
    mixture = board.filter(candidate="MultiTaskEnsemble")
    best_alone = board.filter(candidate="alone")
    assert (mixture["score"] >= best_alone["score"]).all()
    assert (board["standard_error"] > 0).all()
    assert (board.filter(candidate="together")["seconds"] > 0).all()


def test_one_task_has_no_linear_models():
    X, y = scarce_table(200)
    model = MultiTaskEnsemble(candidates=CANDIDATES, n_folds=2, random_state=0).fit(X, y["first"])
    assert "LinearStack" not in model.leaderboard_["candidate"].to_list()
    assert model.stack_ is None


def test_the_largest_seed_has_a_seed_for_every_fold():
    X, y = scarce_table(60)
    model = MultiTaskEnsemble(candidates={"alone": ALONE}, n_folds=2, random_state=2**32 - 1).fit(X, y[["first"]])
    assert [part.random_state for part in model.estimators_["alone"]] == [2**32 - 1, 0]


def test_full_refits_once_on_all_rows():
    X, y = scarce_table(300)
    model = MultiTaskEnsemble(candidates=CANDIDATES, n_folds=3, refit="full", random_state=0).fit(X, y)
    assert {len(parts) for parts in model.estimators_.values()} == {1}
    alone = model.estimators_["alone"][0]
    direct = IndependentTasks(**ALONE.get_params(deep=False) | {"random_state": 0}).fit(X, y)
    assert_array_equal(alone.predict(X), direct.predict(X))
    X_test, y_test = scarce_table(n_labels=600, seed=1)
    assert model.score_tasks(X_test, y_test)["scarce"] > 0.6  # the mean: 0


def test_validation_rows_judge_instead_of_folds():
    X, y = scarce_table(300, n_labels=300)
    X_val, y_val = scarce_table(200, n_labels=200, seed=1)
    model = MultiTaskEnsemble(candidates=CANDIDATES, random_state=0).fit(X, y, X_val=X_val, y_val=y_val)
    assert {len(parts) for parts in model.estimators_.values()} == {1}
    assert "LinearStack" not in model.leaderboard_["candidate"].to_list()
    fitted = SharedTrees(**TOGETHER.get_params(deep=False) | {"random_state": 0}).fit(X, y)
    expected = r2_score(y_val["first"], fitted.predict(X_val)["first"])
    assert model.leaderboard_.filter(candidate="together", task="first")["score"].item() == pytest.approx(expected)


def test_processes_change_nothing():
    X, y = scarce_table(200)
    one, two = (
        MultiTaskEnsemble(candidates=CANDIDATES, n_folds=2, n_jobs=n_jobs, random_state=0).fit(X, y)
        for n_jobs in (1, 2)
    )
    assert_array_equal(one.predict(X), two.predict(X))
    assert one.weights_.equals(two.weights_)


def test_what_does_not_fit_the_time_is_left_out_and_said():
    X, y = scarce_table(200)
    ensemble = MultiTaskEnsemble(candidates=CANDIDATES, n_folds=2, time_limit=1e-9, random_state=0)
    with pytest.warns(TabmtlWarning, match=r"time_limit=1e-09 .*\['together'\]"):
        ensemble.fit(X, y)
    assert ensemble.leaderboard_["candidate"].unique(maintain_order=True).to_list() == [
        "alone",
        "LinearStack",
        "MultiTaskEnsemble",
    ]


def test_a_candidate_that_diverges_is_left_out_and_said():
    X, y = scarce_table(100)
    candidates = CANDIDATES | {"wild": SharedBottom(learning_rate=1e30, epochs=3, device="cpu")}
    with pytest.warns(TabmtlWarning, match=r"'wild' is left out.*diverged"):
        model = MultiTaskEnsemble(candidates=candidates, n_folds=2, random_state=0).fit(X, y)
    assert "wild" not in model.leaderboard_["candidate"].to_list()


def test_an_error_names_its_candidate():
    X, y = scarce_table(100)
    candidates = CANDIDATES | {"odd": SharedBottom(monitor="nobody")}
    with pytest.raises(ValueError, match="monitor") as caught:
        MultiTaskEnsemble(candidates=candidates, n_folds=2, random_state=0).fit(X, y)
    assert "'odd'" in caught.value.__notes__[0]


@pytest.mark.parametrize(
    ("candidates", "error", "message"),
    [
        ({}, TypeError, "map names to estimators"),
        ([SharedTrees()], TypeError, "map names to estimators"),
        ({"ridge": Ridge()}, TypeError, r"candidates\['ridge'\].*IndependentTasks\(classifier"),
        ({"trees": SharedTrees}, TypeError, r"candidates\['trees'\]"),
        ({"LinearStack": SharedTrees()}, ValueError, "'LinearStack'"),
        ({"task": SharedTrees()}, ValueError, "got 'task'"),
        ({3: SharedTrees()}, ValueError, "names of text"),
    ],
)
def test_bad_candidates_are_named(candidates, error, message):
    with pytest.raises(error, match=message):
        MultiTaskEnsemble(candidates=candidates).fit(np.zeros((3, 1)), [1.5, 2.5, 3.5])


def test_a_reference_is_added_where_none_is_given():
    X, y = scarce_table(120)
    model = MultiTaskEnsemble(candidates={"together": TOGETHER}, n_folds=2, random_state=0).fit(X, y[["first"]])
    assert model.leaderboard_["candidate"].to_list()[0] == "IndependentTasks"
    own = {"together": TOGETHER, "ridge": IndependentTasks(regressor=Ridge())}
    model = MultiTaskEnsembleRegressor(candidates=own, n_folds=2, random_state=0).fit(X, y[["first"]])
    assert model.leaderboard_["candidate"].unique(maintain_order=True).to_list()[:2] == ["ridge", "together"]


def test_default_candidates_are_fresh_and_named():
    first, second = default_candidates(), default_candidates()
    assert list(first) == list(second)
    assert isinstance(first["IndependentTasks"], IndependentTasks)
    assert isinstance(first["RMTGB"], RMTGB)
    assert all(first[name] is not second[name] for name in first)


def test_a_candidate_may_leave_out_columns():
    X = features()
    y = mixed_targets(X)
    candidates = CANDIDATES | {"fewer": SharedTrees(n_estimators=20, drop=["text", "plain"])}
    model = MultiTaskEnsemble(candidates=candidates, n_folds=2, random_state=0).fit(X, y)
    fewer = model.leaderboard_.filter(candidate="fewer", task="delay")["score"].item()
    assert fewer < 0.3 < model.leaderboard_.filter(candidate="alone", task="delay")["score"].item()


def test_models_of_other_classes_are_not_saved(tmp_path):
    class Mine(SharedTrees):
        pass

    X, y = scarce_table(200)
    candidates = {"mine": Mine(n_estimators=40, num_leaves=8), "alone": ALONE}
    model = MultiTaskEnsemble(candidates=candidates, n_folds=2, random_state=0).fit(X, y)
    with pytest.raises(TypeError, match=r"Mine.*no class of tabmtl"):
        model.save(tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_a_part_is_a_model_by_itself(tmp_path):
    X, y = scarce_table(200)
    model = MultiTaskEnsemble(candidates=CANDIDATES, n_folds=2, random_state=0).fit(X, y)
    model.save(tmp_path)
    folders = sorted(path for path in tmp_path.iterdir() if path.is_dir())
    assert len(folders) == sum(map(len, model.estimators_.values()))
    expected = [part.predict(X).rows() for parts in model.estimators_.values() for part in parts]
    assert all(load(folder).predict(X).rows() in expected for folder in folders)


def test_a_long_table_takes_weights_for_each_task():
    X, y = long_table(400)
    model = MultiTaskEnsemble(candidates=CANDIDATES, n_folds=2, task_column="school", random_state=0).fit(X, y)
    assert model.weights_["task"].to_list() == ["east", "north", "west"]
    parts = {
        name: np.mean([p.predict(X).to_numpy().ravel() for p in each], axis=0)
        for name, each in model.estimators_.items()
    }
    weights = X.select("school").join(model.weights_, left_on="school", right_on="task", maintain_order="left")
    expected = sum(weights[name].to_numpy() * parts[name].ravel() for name in model.weights_.columns[1:])
    assert_allclose(model.predict(X).to_numpy(), expected)


def test_fits_are_shown(capsys):
    X, y = scarce_table(100)
    MultiTaskEnsemble(candidates=CANDIDATES, n_folds=2, verbose=1, random_state=0).fit(X, y)
    assert "together" in capsys.readouterr().out
