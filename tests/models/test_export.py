"""What leaves boosted models: one plain LightGBM model per task, and the files of R-MTGB."""

import itertools

import lightgbm as lgb
import numpy as np
import polars as pl
import pytest
from conformance import answers, features, long_table, mixed_targets, same

import tabmtl
from tabmtl import RMTGB, SharedTrees, gain_importances
from tabmtl.base.storage.lightgbm_text import TreeText
from tabmtl.estimators.boosted.gain import feature_gains
from tabmtl.synth import make_outlier_tasks
from tabmtl.testing.storage import reload

ROUNDS = ("n_estimators_shared", "n_estimators_outlier", "n_estimators_task")
CASES = ["long regression", "long binary", "long multiclass", "wide"]

every_case = pytest.mark.parametrize("case", CASES)


def table(case):
    """Numbers with holes, categories with holes, and labels with holes."""
    if case == "wide":
        X = features(150)
        return X, mixed_targets(X).with_columns(again=1000 - 3 * X["count"] * X["plain"], soon=X["flag"])
    X, y = long_table(150)
    if case == "long binary":
        y = (y > 50).alias("grade")
    if case == "long multiclass":
        y = pl.Series("grade", ["C", "B", "A"]).gather((y > 45).cast(int) + (y > 55).cast(int))
    return X, y


def fit(case, rounds=(8, 12, 10), cls=RMTGB, **options):
    X, y = table(case)
    options = {"min_child_samples": 5, "random_state": 0, "early_stopping": False, **options}
    if cls is RMTGB:
        options |= dict(zip(ROUNDS, rounds, strict=True))
    else:
        options |= {"n_estimators": rounds[0], "n_estimators_task": rounds[2], "learning_rate": 0.1}
    return cls(task_column=None if case == "wide" else "school", **options).fit(X, y), X


def said_of(estimator, X, task):
    """What the estimator answers for one task: values, probabilities of the second class, or of all classes."""
    if estimator.task_column is None:
        found = (
            estimator.predict(X)[task.name] if task.kind.name == "regression" else estimator.predict_proba(X)[task.name]
        )
    else:
        X = X.with_columns(pl.lit(task.name).alias(estimator.task_column))
        found = estimator.predict(X) if task.kind.name == "regression" else estimator.predict_proba(X)
    return np.asarray(found)[:, 1] if task.kind.name == "binary" else np.asarray(found)


def largest_gap(one, two):
    return np.abs(one - two).max() / max(1.0, np.abs(two).max())


ROUNDS_OF_CASES = [
    pytest.param(
        cls,
        case,
        rounds,
        # blocks are left out in the same way whatever the labels of a long table
        marks=pytest.mark.all_faces if "0" in str(rounds) and case in ("long regression", "long binary") else (),
        id=f"{cls.__name__}-{case}-{rounds}",
    )
    for cls, own in ((RMTGB, itertools.product([0, 6], repeat=3)), (SharedTrees, [(12, 0, 0)]))
    for case, rounds in itertools.product(CASES, [*own, "early stopping"])
]


@pytest.mark.parametrize(("cls", "case", "rounds"), ROUNDS_OF_CASES)
def test_every_task_can_be_had_as_one_plain_model(cls, case, rounds):
    stopping = rounds == "early stopping"
    estimator, X = fit(case, (20, 40, 40) if stopping else rounds, cls, early_stopping=stopping)
    new = pl.concat([X, features(40, seed=7).select(X.columns) if case == "wide" else long_table(40, seed=7)[0]])
    matrix = estimator.encode(new)
    for task in estimator.tasks_:
        export = estimator.export_task(task.name)
        assert type(export) is lgb.Booster
        said = said_of(estimator, new, task)
        assert largest_gap(export.predict(matrix), said) < 1e-9
        again = lgb.Booster(model_str=export.model_to_string())
        assert largest_gap(again.predict(matrix), said) < 1e-9
    with pytest.raises(ValueError, match=f"{estimator.tasks_[0].name}.*{estimator.tasks_[2].name}.*'nobody'"):
        estimator.export_task("nobody")


@pytest.mark.parametrize("cls", [RMTGB, SharedTrees])
@every_case
def test_shap_values_sum_to_the_raw_prediction(cls, case):
    estimator, X = fit(case, cls=cls)
    matrix = estimator.encode(X)
    for task in estimator.tasks_:
        export = estimator.export_task(task.name)
        shares = export.predict(matrix, pred_contrib=True).reshape(len(X), task.width, matrix.shape[1] + 1)
        raw = export.predict(matrix, raw_score=True).reshape(len(X), task.width)
        assert largest_gap(shares.sum(axis=2), raw) < (1e-9 if cls is RMTGB else 1e-6)
        assert np.abs(shares[..., :-1]).max() > 0.01


def test_an_export_holds_only_what_the_task_uses():
    bench = make_outlier_tasks(n_tasks=4, n_outliers=0, common=0.0, n_train=100, n_test=0, random_state=0)
    options = {"task_column": "task", "random_state": 0, "n_estimators_task": 40}
    goes_alone = RMTGB(**options).fit(bench.X, bench.y)
    assert not goes_alone.outlier_score_["shares"].any()
    own = dict(goes_alone.block_rounds_.select("task", "own").iter_rows())
    assert {name: goes_alone.export_task(name).num_trees() - 1 for name in own} == own  # one tree is the constant
    sharing = RMTGB(early_stopping=False, n_estimators_shared=5, n_estimators_outlier=7, **options)
    assert sharing.fit(bench.X, bench.y).export_task("t2").num_trees() == 1 + 5 + 2 * 7 + 40


@every_case
def test_encode_puts_numbers_before_categories_and_leaves_the_task_out(case):
    estimator, X = fit(case, (1, 1, 1))
    encoded = estimator.encode(X)
    numbers = ["plain", "holes", "heavy", "count", "constant"]
    assert encoded.schema == dict.fromkeys([*numbers, "flag", "text"], pl.Float32)
    matrix = encoded.to_numpy()
    expected = X.select(pl.col(numbers).cast(pl.Float32)).to_numpy()
    np.testing.assert_array_equal(matrix[:, :5], expected)
    codes = matrix[:, 5:] - np.nanmin(matrix[:, 5:], axis=0)
    np.testing.assert_array_equal(codes[:, 0], X["flag"])
    text = X["text"].replace_strict({"blue": 0.0, "green": 1.0, "red": 2.0})
    np.testing.assert_array_equal(codes[:, 1], text.fill_null(np.nan))
    assert estimator.export_task(estimator.tasks_[0].name).feature_name() == encoded.columns
    assert estimator.block_importances_.shape == (3, estimator.n_features_in_)
    np.testing.assert_array_equal(estimator.feature_importances_, estimator.block_importances_.sum(axis=0))
    assert estimator.feature_importances_.sum() == pytest.approx(1)


def test_codes_count_from_0_and_an_unseen_level_is_missing():
    estimator, X = fit("wide")
    strange, missing = (X.with_columns(text=pl.lit(level, dtype=pl.String)) for level in ("violet", None))
    assert same(answers(estimator, strange), answers(estimator, missing))
    np.testing.assert_array_equal(estimator.encode(strange), estimator.encode(missing))
    assert estimator.encode(X)["flag", "text"].fill_nan(None).min().row(0) == (0, 0)


@pytest.mark.parametrize(
    "names",
    [
        ["two words", "[x]", "größe", "a=b"],
        ["a b", "a_b", "a\tb", "a-b"],
        ["=", " ", "{}", '"'],
        ["Tree=0", "end of trees", "feature_infos=", "日本\n語"],
        ["x", "X", "0", "*"],
    ],
    ids=["strange", "alike once cleaned", "signs only", "words of the format", "plain"],
)
def test_any_feature_names_survive(names, reloaded):
    rng = np.random.default_rng(0)
    X = pl.DataFrame(dict(zip(names, rng.normal(size=(4, 80)), strict=True)))
    Y = pl.DataFrame({"t=1": X[:, 0] + X[:, 1], "t 2": X[:, 0] * X[:, 2]})
    estimator = RMTGB(early_stopping=False, random_state=0, n_estimators_task=5).fit(X, Y)
    assert estimator.feature_names_in_.tolist() == names
    assert (estimator.feature_importances_[:3] > 0).all()
    for task in estimator.tasks_:
        export = estimator.export_task(task.name)
        assert len(set(export.feature_name())) == 4
        assert estimator.encode(X).columns == names
        assert largest_gap(export.predict(estimator.encode(X)), said_of(estimator, X, task)) < 1e-9
    assert reloaded(estimator).predict(X).equals(estimator.predict(X))


@pytest.mark.parametrize("early_stopping", [True, False])
@every_case
def test_a_loaded_model_says_the_same_to_the_bit(case, early_stopping, tmp_path):
    estimator, X = fit(case, early_stopping=early_stopping)
    loaded = reload(estimator, tmp_path / "model")
    assert same(answers(loaded, X), answers(estimator, X))
    np.testing.assert_array_equal(loaded.block_importances_, estimator.block_importances_)
    assert gain_importances(loaded).equals(gain_importances(estimator))
    for name in ("outlier_score_", "block_rounds_"):
        assert getattr(loaded, name).equals(getattr(estimator, name))
        assert getattr(loaded, name).schema == getattr(estimator, name).schema
    matrix = loaded.encode(X)
    for task in loaded.tasks_:
        one, two = (each.export_task(task.name).predict(matrix) for each in (loaded, estimator))
        np.testing.assert_array_equal(one, two)
    assert {file.suffix for file in (tmp_path / "model").iterdir()} == {".json", ".safetensors", ".txt"}


@pytest.mark.parametrize("cls", [RMTGB, SharedTrees])
@every_case
def test_importances_of_a_task_are_those_of_its_plain_model(case, cls):
    estimator, X = fit(case, cls=cls)
    found = gain_importances(estimator)
    features = [name for name in X.columns if name != "school"]
    assert found["feature"].to_list() == features * len(estimator.tasks_)
    for task in estimator.tasks_:
        export = estimator.export_task(task.name)
        gains = feature_gains(TreeText(export.model_to_string()).cut()[1], 7).ravel()
        gains = dict(zip(estimator.encode(X).columns, gains / gains.sum(), strict=True))
        own = found.filter(task=task.name)
        np.testing.assert_allclose(own["importance"], [gains[name] for name in features], rtol=1e-9, atol=1e-12)
        if cls is RMTGB:
            np.testing.assert_allclose(
                own.select(pl.sum_horizontal("shared", "outlier", "own")), own.select("importance")
            )


@every_case
def test_importances_are_shares_of_the_gain_by_block(case):
    for rounds in itertools.product([0, 6], repeat=3):
        estimator, _ = fit(case, rounds)
        blocks = estimator.block_importances_
        assert [total > 0 for total in blocks.sum(axis=1)] == [bool(n) for n in rounds]
        assert blocks.sum() == pytest.approx(float(any(rounds)))
        assert not blocks[:, estimator.feature_names_in_.tolist().index("constant")].any()
        if estimator.task_column is not None:
            assert not blocks[:, estimator.feature_names_in_.tolist().index(estimator.task_column)].any()


@every_case
def test_trees_of_every_block_have_as_many_leaves_as_asked(case):
    estimator, _ = fit(case, (4, 5, 6), num_leaves=3, reg_lambda=0.0)
    for task in estimator.tasks_:
        trees = estimator.export_task(task.name).dump_model()["tree_info"][task.width :]  # the first are constants
        assert {tree["num_leaves"] for tree in trees} <= {1, 2, 3}
        blocks = np.split(np.array([tree["num_leaves"] for tree in trees]), np.cumsum([4, 10])[:2] * task.width)
        assert all(3 in block for block in blocks if len(trees) > 6 * task.width)


def test_single_rows_need_one_booster(tmp_path):
    X = np.random.default_rng(0).normal(size=(80, 2))
    model = RMTGB(n_estimators_shared=2, n_estimators_outlier=2, n_estimators_task=2, random_state=0).fit(X, X)
    model.save(tmp_path / "model")  # a fit answers many rows for its profile
    model = tabmtl.load(tmp_path / "model")
    model.predict(X[:1])
    assert "booster" not in vars(model._groups[0].forest)
