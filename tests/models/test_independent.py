"""IndependentTasks: LightGBM or any estimator per task, on that task's labelled rows alone."""

import copy

import lightgbm as lgb
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from cases import later
from conformance import answers, features, mixed_targets, same, tiny
from rare_classes import accuracy, log_loss, rare_classes
from sklearn.dummy import DummyClassifier, DummyRegressor
from sklearn.ensemble import GradientBoostingRegressor, HistGradientBoostingRegressor, RandomForestRegressor
from sklearn.linear_model import LinearRegression, LogisticRegression, RidgeClassifier
from sklearn.metrics import roc_auc_score
from sklearn.neighbors import KNeighborsRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder
from sklearn.tree import DecisionTreeRegressor

import tabmtl
from tabmtl import IndependentTasks, Task
from tabmtl.base.schema import TabmtlWarning
from tabmtl.estimators.boosted import rounds
from tabmtl.model_selection import train_valid_split
from tabmtl.models.independent import folds


def numbers(n=120):
    return features(n).select("plain", "count", "constant")


def test_a_task_is_fitted_on_its_labelled_rows_alone():
    X, y = numbers(), mixed_targets(features())
    labelled = y["delay"].is_not_null()
    alone = LinearRegression().fit(X.filter(labelled), y["delay"].filter(labelled))
    estimator = IndependentTasks(regressor=LinearRegression(), classifier=LogisticRegression()).fit(X, y)
    np.testing.assert_allclose(estimator.predict(X)["delay"], alone.predict(X), rtol=1e-12)


def test_the_other_tasks_change_nothing(three_folds):
    X, y = features(), mixed_targets(features())
    whole = tiny(IndependentTasks).fit(X, y)
    for name in y.columns:
        alone = tiny(IndependentTasks).fit(X, y.select(name))
        assert alone.predict(X)[name].equals(whole.predict(X)[name])


def test_trees_stop_where_validation_says():
    X, y = features(600), mixed_targets(features(600))
    stopped = tiny(IndependentTasks).fit(X, y)
    assert stopped.estimators_["late"].num_trees() < 10 * 200  # those of ten folds
    of_size = stopped._learners(stopped.coder_, 0, True, None)[1]
    assert of_size.grower.params["max_delta_step"] == 20  # no leaf of classes goes astray
    full = tiny(IndependentTasks, early_stopping=False, regressor=lgb.LGBMRegressor(n_estimators=40)).fit(X, y["delay"])
    assert full.estimators_["delay"].num_trees() == 40
    given = tiny(IndependentTasks).fit(X[:400], y[:400], X_val=X[400:], y_val=y[400:])
    assert given.estimators_["late"].num_trees() < 200


def test_one_class_on_the_validation_rows_does_not_stop_training_at_once():
    X, y = features(600), mixed_targets(features(600))
    X_val = features(600, seed=1)
    y_val = mixed_targets(X_val)
    only = y_val["late"].is_null() | (y_val["late"] == "late")
    estimator = tiny(IndependentTasks).fit(X, y, X_val=X_val.filter(only), y_val=y_val.filter(only))
    assert estimator.estimators_["late"].num_trees() > 1


@pytest.mark.all_faces
def test_rare_classes_do_not_end_the_training_early():
    """LightGBM without a bound of its leaves stops after 37 rounds: log loss .18 and accuracy .989.

    The frequencies of the classes have 1.25 and .55.
    """
    (X, y), (X_test, y_test) = rare_classes(2, n_rows=14_000)
    model = IndependentTasks(families=("lightgbm",), random_state=0).fit(X.drop("task"), y)
    assert log_loss(model, X_test.drop("task"), y_test) < 0.02
    assert accuracy(model, X_test.drop("task"), y_test) > 0.995


def test_parameters_of_a_lightgbm_estimator_count():
    X, y = features(300), mixed_targets(features(300))
    given = lgb.LGBMClassifier(n_estimators=7, num_leaves=3, learning_rate=0.3, random_state=5)
    model = tiny(IndependentTasks, classifier=given, early_stopping=False).fit(X, y).estimators_["late"]
    assert model.num_trees() == 7
    text = model.model_to_string()
    for line in ("[seed: 5]", "[num_threads: 1]", "[num_leaves: 3]", "[learning_rate: 0.3]"):
        assert line in text


def test_the_default_equals_lightgbm_itself():
    X = numbers(300).to_numpy().astype(np.float32)
    y = mixed_targets(features(300))["delay"].fill_null(100.0).to_numpy()
    regressor = lgb.LGBMRegressor(n_estimators=20, n_jobs=1, verbose=-1, deterministic=True, force_col_wise=True)
    ours = IndependentTasks(regressor=regressor, early_stopping=False, random_state=0).fit(X, y)
    alone = copy.deepcopy(regressor).set_params(random_state=0).fit(X, y)
    np.testing.assert_allclose(ours.predict(X), alone.predict(X), rtol=1e-6)


@pytest.mark.parametrize("weights", ["balanced", {"late": 9.0, "on time": 1.0}])
def test_class_weights_of_a_lightgbm_classifier_count(weights):
    X = numbers(300).to_numpy().astype(np.float32)
    y = mixed_targets(features(300)).select(pl.col("late").fill_null("late"))
    params = {"n_estimators": 10, "n_jobs": 1, "verbose": -1, "deterministic": True, "force_col_wise": True}
    given = lgb.LGBMClassifier(class_weight=weights, random_state=0, **params)
    ours = IndependentTasks(classifier=given, early_stopping=False).fit(X, y).predict_proba(X)["late"]
    alone = copy.deepcopy(given).fit(X, y["late"].to_numpy())
    np.testing.assert_allclose(ours, alone.predict_proba(X), rtol=1e-5)
    plain = IndependentTasks(classifier=lgb.LGBMClassifier(random_state=0, **params), early_stopping=False).fit(X, y)
    assert np.abs(ours - plain.predict_proba(X)["late"]).max() > 0.01


def test_weights_reach_a_foreign_estimator_or_are_refused():
    X, y = numbers(), mixed_targets(features())
    weight = (np.arange(len(X)) < 60).astype(float)
    weighted = IndependentTasks(regressor=LinearRegression()).fit(X, y["delay"], sample_weight=weight)
    half = IndependentTasks(regressor=LinearRegression()).fit(X[:60], y["delay"][:60])
    np.testing.assert_allclose(weighted.predict(X), half.predict(X))
    with pytest.raises(ValueError, match=r"task 'delay': KNeighborsRegressor.fit takes no sample_weight"):
        IndependentTasks(regressor=KNeighborsRegressor()).fit(X, y["delay"], sample_weight=np.ones(len(X)))


def test_a_foreign_estimator_gets_the_frame_as_it_was_given():
    X, y = features(), mixed_targets(features())["delay"].fill_null(100.0)
    model = IndependentTasks(regressor=HistGradientBoostingRegressor(max_iter=5, categorical_features="from_dtype"))
    framed = X.cast({"text": pl.Enum(["red", "green", "blue"])})
    assert model.fit(framed, y).predict(framed).len() == len(X)
    assert model.estimators_["delay"].feature_names_in_.tolist() == X.columns
    encoded = IndependentTasks(regressor=make_pipeline(OneHotEncoder(), LinearRegression()))
    texts = X.select("text").to_pandas()
    assert len(encoded.fit(texts, y).predict(texts)) == len(X)


def test_classes_without_labels_and_hard_answers_become_probabilities():
    X, y = numbers(), mixed_targets(features())
    tasks = {"late": Task(name="late", kind="multiclass", classes=("lost", "on time", "late"))}
    for classifier in (LogisticRegression(max_iter=500), RidgeClassifier(), DummyClassifier(strategy="prior")):
        p = IndependentTasks(classifier=classifier, tasks=tasks, early_stopping=False).fit(X, y).predict_proba(X)
        assert (p["late"][:, 0] == 0).all()
        np.testing.assert_allclose(p["late"].sum(axis=1), 1)
        np.testing.assert_allclose(p["size"].sum(axis=1), 1)
        if isinstance(classifier, RidgeClassifier):
            assert set(np.unique(p["late"])) == {0.0, 1.0}


@pytest.mark.parametrize("classes", [[0, 2**100], [-5, 2**63 + 5], ["a", "a\0"]], ids=["Int128", "beyond", "zero byte"])
def test_classes_that_numpy_does_not_hold_reach_a_foreign_estimator(classes):
    X = pl.DataFrame({"x": [0.0, 1.0] * 20})
    y = pl.Series("t", classes * 20, dtype=pl.String if "a" in classes else pl.Int128)
    model = IndependentTasks(classifier=LogisticRegression()).fit(X, y)
    assert model.predict(X).equals(y)


@pytest.mark.parametrize(
    "X",
    [
        pl.DataFrame({"^a$": pl.Series([0, 2**100] * 10, dtype=pl.Int128), "a": [0.0, 1.0] * 10}),
        pl.LazyFrame({"a": [0.0, 1.0] * 10}),
        pa.table({"a": pa.array(["0", "1"] * 10, pa.string_view())}),
    ],
    ids=["Int128", "lazy", "views of text"],
)
def test_any_frame_reaches_a_foreign_estimator_as_it_can_be_read(X):
    y = np.arange(20) % 2 * 1.5
    y[3] = np.nan
    model = IndependentTasks(regressor=DecisionTreeRegressor()).fit(X, y)
    np.testing.assert_allclose(model.predict(X), np.arange(20) % 2 * 1.5)


class Broken(DummyRegressor):
    def fit(self, X, y, sample_weight=None):
        raise IndexError("nothing to take")


def test_an_answer_that_fails_names_the_task_and_the_cure():
    X, y = pl.DataFrame({"x": ["1", "2", "3"] * 5}), pl.Series("t", range(15), dtype=pl.Float64)
    model = IndependentTasks(regressor=LinearRegression()).fit(X, y)
    with pytest.raises(TypeError, match=r"task 't': LinearRegression cannot predict: .*\n.*put an encoder before it"):
        model.predict(pl.DataFrame({"x": ["four"]}))


def test_foreign_estimators_follow_the_seed_and_never_see_the_task_column():
    rng = np.random.default_rng(0)
    X = pl.DataFrame({"a": rng.normal(size=80), "school": rng.choice(["s", "t"], 80)})
    y = pl.Series("mark", X["a"].to_numpy() * 2)
    models = [
        IndependentTasks(regressor=RandomForestRegressor(3), task_column="school", random_state=0).fit(X, y)
        for _ in range(2)
    ]
    assert models[0].estimators_["s"].n_features_in_ == 1
    assert models[0].predict(X).equals(models[1].predict(X))


def split_of_fit(y, task, seed=0):
    """The rows that fit keeps and those that it sets aside."""
    labels = y.to_numpy().astype(float)[:, None]
    return train_valid_split(labels, [Task(name=task, kind="regression")], 0.15, np.random.default_rng(seed))


def test_the_trees_are_found_on_a_split_and_grown_on_all_rows():
    X, y = features(700), mixed_targets(features(700))["delay"].fill_null(100.0)
    kept, held_out = split_of_fit(y, "delay")
    on_split = tiny(IndependentTasks).fit(X[kept], y[kept], X_val=X[held_out], y_val=y[held_out]).estimators_["delay"]
    whole = tiny(IndependentTasks).fit(X, y).estimators_["delay"]
    assert whole.num_trees() == on_split.num_trees() < 1000
    assert [model.dump_model()["tree_info"][0]["tree_structure"]["internal_count"] for model in (on_split, whole)] == [
        len(kept),
        700,
    ]


def test_a_refit_that_goes_astray_is_not_kept(monkeypatch):
    """Then the fit that chose the trees is, to the bit."""
    X, y = features(700), mixed_targets(features(700))["delay"].fill_null(100.0)
    kept, held_out = split_of_fit(y, "delay")
    given = tiny(IndependentTasks, columns={"constant": "ignore"}).fit(
        X[kept], y[kept], X_val=X[held_out], y_val=y[held_out]
    )
    monkeypatch.setattr(rounds, "is_worse", lambda losses, others: losses[0].mean() < others[0].mean())
    message = r"task 'delay': the fit of all rows has the mean loss .* on the 105 labels"
    with pytest.warns(TabmtlWarning, match=message) as told:
        model = tiny(IndependentTasks, columns={"constant": "ignore"}).fit(X, y)
    assert [warning.filename for warning in told] == [__file__]
    assert model.predict(X).equals(given.predict(X))


def test_the_configuration_with_the_highest_mean_score_serves_all_tasks():
    X, y = features(400), mixed_targets(features(400)).select("late", "delay")
    parts = {"X_val": X[300:], "y_val": y[300:]}
    tuned = tiny(IndependentTasks, tune="all", num_leaves=3).fit(X[:300], y[:300], **parts)
    scores = tuned.configuration_scores_
    assert scores.columns == ["task", "small", "mid", "default", "big"]
    assert scores["task"].to_list() == ["late", "delay"]
    means = {name: scores[name].mean() for name in scores.columns[1:]}
    assert tuned.configuration_ == max(means, key=means.get)
    first = tiny(IndependentTasks, tune=("small",)).fit(X[:300], y[:300], **parts)
    assert first.configuration_ == "small"
    assert dict(first.configuration_scores_.rows()) == pytest.approx(first.score_tasks(X[300:], y[300:]))
    assert first.configuration_scores_["small"].equals(scores["small"])
    own = tiny(IndependentTasks, num_leaves=3).fit(X[:300], y[:300], **parts)
    assert own.configuration_ == "default"
    assert own.configuration_scores_.equals(scores.select("task", "default"))


def test_names_of_configurations_that_nothing_judges_are_told():
    X, y = features(60), mixed_targets(features(60)).select("delay")
    with pytest.warns(TabmtlWarning, match=r"tune=\['small'\] had no effect.*: folds chose the trees of all tasks"):
        named = tiny(IndependentTasks, tune=["small"]).fit(X, y)
    assert named.predict(X).equals(tiny(IndependentTasks, tune="all").fit(X, y).predict(X))


def test_the_choice_is_saved(reloaded):
    X, y = features(400), mixed_targets(features(400))
    parts = {"X_val": X[300:], "y_val": y[300:]}
    model = tiny(IndependentTasks, tune=("small", "mid")).fit(X[:300], y[:300], **parts)
    loaded = reloaded(model)
    assert loaded.configuration_ == model.configuration_
    assert loaded.configuration_scores_.equals(model.configuration_scores_)
    assert same(answers(loaded, X), answers(model, X))


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"tune": ["small"], "regressor": lgb.LGBMRegressor()}, r"tune=\['small'\] .* leave out regressor"),
        ({"tune": "all", "early_stopping": False}, "tune='all' needs validation rows; set early_stopping=True"),
        ({"tune": 4}, "tune must be 'all', or hold names of .*, each once, got 4"),
        ({"tune": "small"}, "tune must be 'all', or hold names of .*, each once, got 'small'"),
        ({"tune": ["smal"]}, "got .'smal'.*'small'"),
        ({"tune": ["mid", "mid"]}, "each once, got .'mid', 'mid'"),
        ({"classifier": lgb.LGBMClassifier(objective=max)}, "task 'late': the objective of LightGBM must be a name"),
        ({"classifier": lgb.LGBMClassifier(importance_type="gain")}, "importance_type"),
        ({"regressor": Broken()}, "task 'delay': Broken cannot be fitted: nothing to take"),
    ],
)
def test_what_cannot_be_done_is_refused(params, message):
    X, y = features(), mixed_targets(features())
    with pytest.raises(ValueError, match=message):
        tiny(IndependentTasks, **params).fit(X, y)


def few(n, seed, *, signal=True):
    """Rows of a smooth function of three numbers, and fresh ones; or of noise."""
    rng = np.random.default_rng([seed, n])
    X = rng.random((n + 500, 6))
    y = 10 * np.sin(np.pi * X[:, 0] * X[:, 1]) + 10 * X[:, 2] if signal else 3 * rng.normal(size=n + 500)
    y = y + rng.normal(size=n + 500)
    return (X[:n], y[:n]), (X[n:], y[n:])


def rmse(model, X, y):
    return np.sqrt(np.mean(np.square(y - model.predict(X))))


@pytest.mark.parametrize("n_seeds", later([1, 5], 5))
def test_few_rows_are_learned_and_noise_is_answered_by_the_mean(n_seeds):
    """Mean RMSE of 30 rows, five seeds: the mean has 4.1, stumps of scikit-learn 2.6, 8 leaves of 20 rows the mean.

    Of noise, stumps have 1.2 times the RMSE of the mean.
    """
    errors = {True: [], False: []}
    for signal, found in errors.items():
        for seed in range(n_seeds):
            train, test = few(30, seed, signal=signal)
            models = (
                IndependentTasks(n_jobs=1, random_state=0),
                GradientBoostingRegressor(max_depth=1),
                DummyRegressor(),
            )
            found.append([rmse(model.fit(*train), *test) for model in models])
    (ours, stumps, constant), (of_noise, _, mean) = (np.mean(found, axis=0) for found in errors.values())
    assert ours < 1.1 * stumps < 0.8 * constant
    assert of_noise < 1.05 * mean


def test_leaves_of_single_rows_learn_numbers_without_noise_alone(monkeypatch, three_folds):
    rng = np.random.default_rng(0)
    X = rng.integers(0, 4, (600, 5)).astype(float)
    exact = X[:, 0] * X[:, 1] + 3 * (X[:, 2] == X[:, 3]) + X[:, 4]
    rows = ((60, exact + 3 * rng.normal(size=600)), (300, exact))
    found = []
    for least in (folds._LEAST_NOISE, 0.0):
        monkeypatch.setattr(folds, "_LEAST_NOISE", least)
        model = IndependentTasks(families=("lightgbm",), n_jobs=1, random_state=0)
        noisy, fitted = (model.fit(X[:n], y[:n]).predict(X[300:]) for n, y in rows)
        found.append((noisy.tolist(), np.square(fitted - exact[300:]).mean()))
    (noisy, fine), (noisy_before, coarse) = found
    assert fine < 0.5 * coarse
    assert noisy == noisy_before


@pytest.mark.parametrize("n", [1, 2, 3, 9])
def test_hardly_any_rows_are_fitted(n):
    X, y = np.arange(12.0)[:, None], np.where(np.arange(12) < n, np.arange(12) + 0.5, np.nan)
    model = IndependentTasks(n_jobs=1, random_state=0).fit(X, y)
    assert np.isfinite(model.predict(X)).all()
    if n < 3:
        np.testing.assert_allclose(model.predict(X), n / 2)


@pytest.mark.all_faces
def test_few_rows_of_classes_and_categories_are_learned():
    """A level decides the class of 40 rows; the frequencies of the classes have an accuracy near a third."""
    rng = np.random.default_rng(0)
    level = rng.integers(0, 6, 140)
    X = pl.DataFrame({"level": pl.Series(list("abcdef")).gather(level), "noise": rng.normal(size=140)})
    y = pl.DataFrame({"three": pl.Series(list("xyzxyz")).gather(level), "two": level % 2 == 0})
    model = IndependentTasks(n_jobs=1, random_state=0).fit(X[:40], y[:40])
    predicted = model.predict(X[40:])
    assert (predicted["three"] == y["three"][40:]).mean() > 0.8
    assert (predicted["two"] == y["two"][40:]).mean() > 0.9


def test_a_task_of_one_row_is_fitted_where_equal_rows_stay_together():
    rng = np.random.default_rng(0)
    X = pl.DataFrame(np.tile(rng.normal(size=(60, 3)), (2, 1))).with_columns(task=pl.Series(["a"] * 60 + ["b"] * 60))
    X = pl.concat([X, X[:1].with_columns(task=pl.lit("c"))])
    model = tiny(IndependentTasks, task_column="task").fit(X, pl.Series("y", [*rng.normal(size=120), 5.0]))
    np.testing.assert_allclose(model.predict(X[-1:]).to_numpy(), 5.0)


@pytest.mark.parametrize(("n", "regressor"), [(60, None), (300, None), (300, lgb.LGBMRegressor())])
def test_a_task_in_one_group_is_answered_by_a_constant_alone(n, regressor, three_folds):
    """The other task is learned, and validation rows let this one be."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(600, 3))
    y = np.column_stack([X[:, 0], X[:, 1] + 4])
    y[n:, 1] = np.nan
    groups = np.where(np.arange(600) < n, 0, np.arange(600))
    model = IndependentTasks(regressor=regressor, n_jobs=1, random_state=0)
    with pytest.warns(TabmtlWarning, match=rf"task 'y1': all {n} labelled rows are in one group") as told:
        model.fit(X, y, groups=groups)
    assert {warning.filename for warning in told} == {__file__}
    answer = model.predict(X)
    np.testing.assert_allclose(answer[:, 1], np.nanmean(y[:, 1]), rtol=1e-6)
    assert np.corrcoef(answer[:, 0], y[:, 0])[0, 1] > 0.9
    X_val = rng.normal(size=(100, 3))
    model.fit(X, y, groups=groups, X_val=X_val, y_val=X_val[:, :2] + [0, 4])
    assert np.corrcoef(model.predict(X)[:, 1], X[:, 1])[0, 1] > 0.4


def test_a_task_without_labels_in_y_val_stops_on_a_split_of_its_own():
    """It has the trees of a fit without X_val, in place of all 1000; the other task has those of X_val."""
    X, y = features(600), mixed_targets(features(600)).select("late", pl.col("delay").fill_null(100.0))
    y_val = y[400:].with_columns(delay=pl.lit(None, pl.Float64))
    own = tiny(IndependentTasks).fit(X[:400], y[:400]).estimators_
    given = tiny(IndependentTasks).fit(X[:400], y[:400], X_val=X[400:], y_val=y_val).estimators_
    assert own["delay"].num_trees() < 1000
    assert given["delay"].model_to_string() == own["delay"].model_to_string()
    assert given["late"].model_to_string() != own["late"].model_to_string()


def test_the_seconds_left_are_no_parameter_of_a_model_of_ours():
    X, y = numbers(), mixed_targets(features())[["delay"]]
    trees = tabmtl.SharedTreesRegressor(n_estimators=5, n_estimators_task=0)
    model = IndependentTasks(regressor=trees, time_limit=1e4, random_state=0, n_jobs=1).fit(X, y)
    fitted = model.estimators_["delay"]
    assert fitted.time_limit is None and fitted._fitted_params["time_limit"] is None
    own = tabmtl.SharedTreesRegressor(n_estimators=5, n_estimators_task=0, time_limit=5e3)
    model = IndependentTasks(regressor=own, time_limit=1e4, random_state=0, n_jobs=1).fit(X, y)
    assert model.estimators_["delay"].time_limit == 5e3


class Odd(DummyClassifier):
    """A classifier that answers by a function of its answers."""

    def __init__(self, change=None):
        super().__init__(strategy="prior")
        self.change = change

    def predict_proba(self, X):
        return self.change(super().predict_proba(X))


class Wild(Odd):
    """One without probabilities."""

    predict_proba = property()

    def predict(self, X):
        return self.change(DummyClassifier.predict(self, X))


@pytest.mark.parametrize(
    ("foreign", "message"),
    [
        (Odd(lambda p: 2 * p), r"predict_proba holds 1\.\d+ in row 0, expected probabilities from 0 to 1"),
        (Odd(lambda p: p * np.nan), "predict_proba holds nan in row 0"),
        (Odd(lambda p: p[:, :1]), r"predict_proba has the shape \(120, 1\), expected \(120, 2\)"),
        (Odd(lambda p: p[:-1]), r"predict_proba has the shape \(119, 2\), expected \(120, 2\)"),
        (
            Odd(lambda p: np.full(p.shape, "much")),
            r"predict_proba is no array of numbers of shape \(120, 2\): could not",
        ),
        (Odd(lambda p: [[1.0], *p.tolist()[1:]]), r"predict_proba is no array of numbers of shape .*inhomogeneous"),
        (Wild(lambda p: p[:-1]), r"predict has the shape \(119,\), expected \(120,\)"),
        (Wild(lambda p: p[:, None]), r"predict has the shape \(120, 1\), expected \(120,\)"),
        (Wild(lambda p: [[1, 2], *p.tolist()[1:]]), r"predict holds \[1, 2\], expected classes: \["),
        (Wild(lambda p: np.full(len(p), 7)), r"predict holds 7, expected classes: \['late', 'on time'\]"),
    ],
)
def test_foreign_answers_that_do_not_fit_are_refused(foreign, message):
    X, y = numbers(), mixed_targets(features()).select("late")
    model = IndependentTasks(classifier=foreign).fit(X, y)
    with pytest.raises(ValueError, match=rf"task 'late': the answer of {type(foreign).__name__}.{message}"):
        model.predict(X)


def test_foreign_classes_may_be_lists_and_must_be_those_of_fit():
    X, y = numbers(), mixed_targets(features()).select("late")
    model = IndependentTasks(classifier=Wild(np.ndarray.tolist)).fit(X, y)
    expected = model.predict(X)
    model = IndependentTasks(classifier=Odd(np.ndarray.tolist)).fit(X, y)
    foreign = model.estimators_["late"]
    foreign.classes_ = foreign.classes_.tolist()
    assert model.predict(X).equals(expected)
    foreign.classes_ = ["late", "x"]
    with pytest.raises(ValueError, match=r"task 'late': Odd.classes_ holds 'x', expected classes"):
        model.predict(X)
    del foreign.classes_
    with pytest.raises(ValueError, match=r"task 'late': Odd cannot predict: .*has no attribute 'classes_'"):
        model.predict(X)


@pytest.mark.parametrize(
    ("column", "words"),
    [
        (pd.Series(pd.date_range("2024", periods=120)), r"with dates in \['own'\]; make numbers of them before it"),
        (pd.Series([["a"]] * 120), r"with lists in \['own'\]; make numbers of them before it, such as their length"),
        (pd.Series([[0.5, 1.0]] * 120), r"with lists in \['own'\]"),
        (pd.Series(["some words"] * 120), r"with free text in \['own'\]; put a TfidfVectorizer\(\)"),
    ],
)
def test_foreign_models_are_told_of_columns_that_are_no_numbers(column, words):
    X, y = features().to_pandas()[["plain"]].assign(own=column), mixed_targets(features()).select("delay")
    columns = {"own": "text"} if "text" in words else None
    message = rf"task 'delay': DecisionTree.* cannot be fitted: (.|\n)*it gets X as it is given, {words}"
    with pytest.raises((TypeError, ValueError), match=message):
        IndependentTasks(regressor=DecisionTreeRegressor(), columns=columns).fit(X, y)


def test_foreign_values_that_are_not_finite_are_refused():
    X, y = numbers(), mixed_targets(features()).select("delay")
    model = IndependentTasks(regressor=DummyRegressor()).fit(X, y)
    model.estimators_["delay"].constant_[:] = np.inf
    with pytest.raises(ValueError, match=r"DummyRegressor\.predict holds inf in row 0"):
        model.predict(X)


def rare(n, n_rare, seed, *, signal=True):
    """Rows of a rare class that two numbers of four tell, and fresh ones."""
    rng = np.random.default_rng([seed, n])
    X = rng.normal(size=(n + 3_000, 4))
    z = (X[:, 0] + X[:, 1] if signal else 0) + 1.5 * rng.normal(size=len(X))
    y = np.where(z > np.quantile(z[:n], 1 - n_rare / n), "yes", "no")
    return (X[:n], y[:n]), (X[n:], y[n:])


def test_a_rare_class_is_learned():
    """Rows set aside hold four of it, and ROC AUC of four stops anywhere."""
    train, test = rare(300, 25, 0)
    model = IndependentTasks(tune="all", families=("lightgbm",), n_jobs=1, random_state=0).fit(*train)
    plain = lgb.LGBMClassifier(n_jobs=1, verbose=-1).fit(*train)
    assert model.estimators_["y"].num_trees() >= 20
    score = roc_auc_score(test[1] == "yes", plain.predict_proba(test[0])[:, 1])
    assert model.score_tasks(*test)["y"] > score


def test_a_constant_answer_is_told():
    (X, y), _ = rare(400, 30, 1, signal=False)
    with pytest.warns(TabmtlWarning, match=r"tasks 'y': in the folds, the shares .* ROC AUC of .5"):
        model = IndependentTasks(n_jobs=1, random_state=0).fit(X, y)
    assert np.ptp(model.predict_proba(X)[:, 1]) == 0


@pytest.mark.all_faces
def test_the_models_take_encoded_rows_under_the_names_of_fit(tmp_path):
    rng = np.random.default_rng(0)
    X = pl.DataFrame({"town": rng.choice(["Ulm", "Bonn"], 200), "a b": rng.normal(size=200), "c": rng.normal(size=200)})
    Y = X.select(value=pl.col("c") + (pl.col("town") == "Ulm"), high=pl.col("a b") > 0)
    model = IndependentTasks(families=("lightgbm",), random_state=0).fit(X, Y)
    model.save(tmp_path / "model")
    encoded = model.encode(X.select("c", "town", "a b"))
    assert encoded.columns == ["a b", "c", "town"]
    for own in (model, tabmtl.load(tmp_path / "model")):
        assert own.estimators_["value"].feature_name() == ["a_b", "c", "town"]
        np.testing.assert_array_equal(own.estimators_["value"].predict(encoded), model.predict(X)["value"])
        np.testing.assert_array_equal(own.estimators_["high"].predict(encoded), model.predict_proba(X)["high"][:, 1])
