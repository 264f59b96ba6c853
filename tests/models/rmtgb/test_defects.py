"""What the released code of R-MTGB (GAA-UAM/R-MTGB, June 2025) gets wrong, ours must not: one defect a test."""

import copy

import numpy as np
import polars as pl
import pytest
from scipy.special import expit

from tabmtl import RMTGB, RMTGBRegressor
from tabmtl.models.rmtgb import stages
from tabmtl.models.rmtgb.fitted import normal_theta
from tabmtl.synth import make_outlier_tasks

SHORT = {"n_estimators_shared": 5, "n_estimators_outlier": 20, "n_estimators_task": 10}


def bench(target="regression", n_tasks=5, n_train=80):
    return make_outlier_tasks(n_tasks=n_tasks, n_train=n_train, n_test=50, target=target, random_state=0)


def model(**options):
    return RMTGB(**{"task_column": "task", "random_state": 0, **SHORT, **options})


def renamed(X, names):
    """X with other task ids, t0, t1, ... in the order of the names."""
    return X.with_columns(task=pl.Series(names).gather(X["task"].str.slice(1).cast(int)))


@pytest.mark.parametrize("early_stopping", [pytest.param(True, marks=pytest.mark.all_faces), False])
def test_d4_half_of_the_rows_a_round_is_enough_to_learn(early_stopping):
    data = make_outlier_tasks(n_tasks=5, n_train=200, n_test=200, random_state=0)
    options = {"n_estimators_outlier": 150, "n_estimators_task": 100, "early_stopping": early_stopping}
    scores = {}
    for share in (0.5, 1.0):
        estimator = model(subsample=share, **options).fit(data.X, data.y)
        assert estimator.predict(data.X_test).is_finite().all()
        scores[share] = estimator.score(data.X_test, data.y_test)  # mean R²: 0 is for who knows the task's mean
    assert scores[0.5] > 0.5
    assert scores[0.5] > scores[1.0] - 0.1


def test_d4_every_round_draws_other_rows():
    """Labels of pure noise, which only rows that were drawn at some time can know."""
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(200, 5)), rng.normal(size=200)
    options = {"subsample": 0.5, "early_stopping": False, "min_child_samples": 1, "n_estimators_task": 300}
    assert model(task_column=None, **options).fit(X, y).score(X, y) > 0.95


def test_d5_early_stopping_keeps_the_best_round_and_stops_before_the_cap():
    data = make_outlier_tasks(n_tasks=1, n_outliers=0, n_train=300, n_test=300, noise=0.5, random_state=0)
    options = {"n_estimators_task": 400, "patience": 20}
    fitted = model(**options).fit(data.X, data.y, X_val=data.X_test, y_val=data.y_test)
    rounds = fitted.block_rounds_["own"][0]
    assert 10 < rounds < 300
    whole = model(early_stopping=False, **options).fit(data.X, data.y)
    export, matrix = whole.export_task("t0"), whole.encode(data.X_test)
    # the first tree is the constant
    losses = [np.mean((export.predict(matrix, num_iteration=1 + k) - data.y_test.to_numpy()) ** 2) for k in range(401)]
    assert rounds == np.argmin(losses[: rounds + 20])
    assert losses[rounds] < losses[-1] < losses[0]
    assert ((fitted.predict(data.X_test) - data.y_test) ** 2).mean() == pytest.approx(losses[rounds])


def test_d5_early_stopping_loses_no_row():
    data = make_outlier_tasks(n_tasks=1, n_outliers=0, n_train=300, n_test=50, noise=0.5, random_state=0)
    fitted = model(n_estimators_task=400).fit(data.X, data.y)
    rounds = fitted.block_rounds_["own"][0]
    assert 10 < rounds < 300
    whole = model(n_estimators_task=rounds, early_stopping=False).fit(data.X, data.y)
    assert fitted.predict(data.X_test).equals(whole.predict(data.X_test))
    assert fitted.outlier_score_["n_labels"].to_list() == [300]
    several = bench()
    y = several.y.to_frame().select(pl.when(pl.int_range(pl.len()) >= 20).then("y")).to_series()
    fitted = model().fit(several.X, y)
    assert fitted.outlier_score_["n_labels"].sum() == 380
    assert fitted.outlier_score_["check_labels"].sum() < 100


def test_d6_inputs_are_left_untouched():
    data = bench()
    X, X_test = data.X.to_pandas(), data.X_test.to_pandas()
    numbered = X.assign(task=X["task"].str[1:].astype(np.float32) + 10).astype(np.float32)
    for fitted_on, asked in ((X, X_test), (numbered, numbered), (data.X, data.X_test)):
        copies = copy.deepcopy((fitted_on, asked))
        model().fit(fitted_on, data.y).predict(asked)
        assert fitted_on.equals(copies[0])
        assert asked.equals(copies[1])
    array, labels = X.drop(columns="task").to_numpy(dtype=np.float32), data.y.to_numpy().astype(np.float32)
    kept = array.copy(), labels.copy()
    for part in (array, labels):
        part.setflags(write=False)
    estimator = RMTGBRegressor(random_state=0, **SHORT).fit(array, labels)
    estimator.predict(array)
    np.testing.assert_array_equal(array, kept[0])
    np.testing.assert_array_equal(labels, kept[1])


@pytest.mark.parametrize("ids", ["2**24", "2**53", "2**63", "negative", "text", "mathachieve"])
def test_d8_ids_are_what_they_are(ids):
    names = {
        "2**24": [2**24 + i for i in range(5)],
        "2**53": [2**53 + i for i in range(5)],
        "2**63": pl.Series([2**63 + i for i in range(5)], dtype=pl.UInt64),
        "negative": [-7, -1, 0, 3, 12],
        "text": ["", "Ä b", "ä", "日本", "🙂"],
        "mathachieve": [1224, 1288, 1296, 8367, 9586],
    }[ids]
    data = bench()
    said = model().fit(data.X, data.y)
    X, X_test = renamed(data.X, names), renamed(data.X_test, names)
    estimator = model().fit(X, data.y)
    assert [task.name for task in estimator.tasks_] == [str(name) for name in names]
    assert estimator.predict(X_test).equals(said.predict(data.X_test))
    some = X_test.filter(X_test["task"] == names[3])
    assert estimator.predict(some).equals(said.predict(data.X_test.filter(data.X_test["task"] == "t3")))


@pytest.mark.parametrize("target", ["regression", "classification"])
def test_d9_an_unknown_or_missing_task_is_answered_by_the_shared_part(target):
    data = bench(target)
    estimator = model(early_stopping=False).fit(data.X, data.y)
    group = estimator._groups[0]
    s = expit(normal_theta(group.theta))
    shared, B, A = group.shared(estimator.encode(data.X_test), 1)[:, 0]
    expected = group.start[0, 0] + shared + (1 - s) * B + s * A
    normal = np.sort(estimator.outlier_score_["outlier_score"])[:3]
    assert s == pytest.approx(normal[1])
    for unknown in (pl.lit("t99"), pl.lit(None, dtype=pl.String)):
        X = data.X_test.with_columns(task=unknown)
        if target == "regression":
            said, expected_answer = estimator.predict(X), expected * data.y.std(ddof=0) + data.y.mean()
        else:
            said, expected_answer = estimator.predict_proba(X)[:, 1], expit(expected)
        np.testing.assert_allclose(said, expected_answer, rtol=1e-9)
    mixed = data.X_test.with_columns(task=pl.when(pl.int_range(pl.len()) % 3 > 0).then("task"))
    known = mixed["task"].is_not_null()
    assert estimator.predict(mixed).filter(known).equals(estimator.predict(data.X_test).filter(known))


def test_d9_an_unknown_task_can_be_an_error():
    data = bench()
    estimator = model(unknown_task="error").fit(data.X, data.y)
    for unknown in ("t99", None):
        with pytest.raises(ValueError, match=r"not seen in fit.*'t0', 't1'"):
            estimator.predict(data.X_test.with_columns(task=pl.lit(unknown, dtype=pl.String)))


def test_d11_the_weight_knows_neither_rows_per_task_nor_the_scale_of_y(monkeypatch):
    monkeypatch.setattr(stages, "_EVIDENCE", 0.0)  # which asks for more of fewer rows
    data = bench()
    X = data.X.with_columns(pl.selectors.float().round(1))  # the same bins, however often a value comes
    # a penalty of leaves weighs less beside more rows
    options = {"n_estimators_task": 0, "early_stopping": False, "min_child_samples": 5, "reg_lambda": 0.0}
    score = model(**options).fit(X, data.y).outlier_score_["outlier_score"]
    scaled = model(**options).fit(X, 1000 * data.y).outlier_score_["outlier_score"]
    options["min_child_samples"] = 10
    doubled = model(**options).fit(pl.concat([X, X]), pl.concat([data.y, data.y])).outlier_score_["outlier_score"]
    np.testing.assert_allclose(scaled, score, rtol=1e-9)
    np.testing.assert_allclose(doubled, score, rtol=1e-4)  # gradients are summed as float32
    assert score.std() > 0.1


@pytest.mark.parametrize("value", [0.0, 1.0, np.nan])
def test_constant_features_leave_the_constants(value):
    rng = np.random.default_rng(0)
    Y = np.where(rng.random((120, 2)) < 0.3, np.nan, rng.normal(size=(120, 2)))
    model = RMTGB(random_state=0).fit(np.full((120, 2), value), Y)
    assert len(np.unique(model.predict(np.full((5, 2), value)), axis=0)) == 1
    assert np.abs(model.predict(np.full((1, 2), value)) - np.nanmean(Y, axis=0)).max() < 0.2
