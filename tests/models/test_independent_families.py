"""Families of single-task models: forests as LightGBM's text, additive curves, and the weights that mix them."""

from dataclasses import replace

import lightgbm as lgb
import numpy as np
import polars as pl
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.linear_model import Ridge
from sklearn.tree import ExtraTreeRegressor

from tabmtl import IndependentTasks, IndependentTasksClassifier, gain_importances
from tabmtl.base.schema import Batch, Columns
from tabmtl.base.storage.lightgbm_text import check_trees
from tabmtl.estimators.boosted.border import tree_matrix
from tabmtl.models.independent import forest as forests
from tabmtl.models.independent.additive import PIECES, Pieces, fit_linear
from tabmtl.models.independent.forest import Forest, joined
from tabmtl.models.independent.mixture import FAMILIES, MOST_MIXED, Mixture
from tabmtl.models.independent.rows import Sample
from tabmtl.targets import Task
from tabmtl.training.watch import Watch

pytestmark = pytest.mark.usefixtures("three_folds")
TASKS = {
    "r": Task(name="r", kind="regression"),
    "b": Task(name="b", kind="binary", classes=(0, 1)),
    "m": Task(name="m", kind="multiclass", classes=("x", "y", "z")),
}


def matrix(n: int, seed: int = 0) -> np.ndarray:
    """Three numbers, the second with gaps and the third of whole numbers, and a column of levels with gaps."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 4)).astype(np.float32)
    x[:, 2], x[:, 3] = rng.integers(0, 4, n), rng.integers(0, 15, n)
    x[rng.random(n) < 0.2, 1] = x[rng.random(n) < 0.2, 3] = np.nan
    return x


def columns() -> Columns:
    return Columns(
        numeric=("u", "v", "w"), categorical=("level",), levels=((),), has_missing=(False,) * 3, bins=((),) * 3
    )


def labels(x: np.ndarray, kind: str) -> np.ndarray:
    value = x[:, 0] ** 2 + np.nan_to_num(x[:, 3]) % 3 + np.random.default_rng(9).normal(size=len(x)) / 2
    return {"r": value, "b": (value > 1.5).astype(float), "m": np.digitize(value, [1.0, 2.0]).astype(float)}[kind]


@pytest.fixture
def few_settings(three_folds, monkeypatch):
    """Let mixtures choose by three folds among two penalties, and forests of one size of leaves."""
    monkeypatch.setattr("tabmtl.models.independent.mixture.PENALTIES", (30.0, 1.0))
    monkeypatch.setattr("tabmtl.models.independent.mixture.LEAVES", (3,))


@pytest.fixture
def table():
    """A frame of 300 rows and a task of each kind, of which the first has 80 labels."""
    x = matrix(300)
    X = pl.DataFrame({name: x[:, j] for j, name in enumerate("uvw")}).with_columns(pl.all().fill_nan(None))
    X = X.with_columns(level=pl.Series([None if np.isnan(code) else f"level {code:.0f}" for code in x[:, 3]]))
    y = pl.DataFrame(
        {"r": labels(x, "r"), "b": labels(x, "b") > 0, "m": np.array(list("xyz"))[labels(x, "m").astype(int)]}
    )
    return X, y.with_columns(pl.when(pl.int_range(pl.len()) < 80).then("r"))


@pytest.mark.parametrize("leaf", [1, 4])
def test_a_forest_of_lightgbm_answers_as_that_of_scikit_learn(monkeypatch, leaf):
    grown = []

    class Kept(ExtraTreeRegressor):
        def fit(self, *args, **options):
            grown.append(self)
            return super().fit(*args, **options)

    monkeypatch.setattr(forests, "ExtraTreeRegressor", Kept)
    x, asked = matrix(150), np.vstack([matrix(500, 1), matrix(150), np.full((1, 4), np.nan)]).astype(np.float32)
    y = np.column_stack([labels(x, "r"), labels(x, "b")])
    rows, places = Sample(x, y[:, 0], np.linspace(0.5, 2, 150), None), np.array([0, 1, 3])
    forest, other = (Forest(rows, y, seed, places, min_samples_leaf=leaf, max_features=0.5) for seed in (0, 1))
    forest.grow(5)
    forest.grow(15)
    other.grow(5)
    text = joined([forest, other], columns(), 2)
    assert check_trees(text.encode())[:3] == (4, 2, 20)
    model = lgb.Booster(model_str=text)
    several = [tree.predict(asked[:, places]) for tree in grown]
    assert_allclose(forest.means(asked), np.mean(several[:15], axis=0), rtol=0, atol=1e-12)
    expected = (np.mean(several[:15], axis=0) + np.mean(several[15:], axis=0)) / 2
    assert_allclose(model.predict(asked), expected, rtol=0, atol=1e-12)
    assert_allclose(lgb.Booster(model_str=model.model_to_string()).predict(asked), expected, rtol=0, atol=1e-12)
    shares = model.predict(asked[:5], pred_contrib=True).reshape(5, 2, 5).sum(axis=2)
    assert_allclose(shares, expected[:5], atol=1e-9)


@pytest.mark.parametrize("width", [1, 3])
def test_a_forest_may_have_two_rows(width):
    places = np.arange(4)
    forest = Forest(Sample(matrix(2), np.arange(2.0), None, None), np.eye(2, width), 0, places, min_samples_leaf=1)
    forest.grow(20)
    assert forest.means(matrix(5)).shape == (5, width)
    assert np.isfinite(lgb.Booster(model_str=joined([forest], columns(), width)).predict(matrix(5))).all()


def test_no_model_that_saw_a_group_answers_its_rows():
    """Groups have labels of their own, and features that name them: only a model that saw a group could tell."""
    rng, group = np.random.default_rng(0), np.repeat(np.arange(60), 3)
    X, y = np.column_stack([group, np.zeros((180, 3))]), rng.normal(size=60)[group]
    by_row, by_group = (
        IndependentTasks(n_jobs=1, random_state=0).fit(X, y, groups=units).leaderboard_ for units in (None, group)
    )
    scores = dict(by_row.select("model", "score").iter_rows())
    assert min(scores["lightgbm"], scores["extra_trees"]) > 0.3
    assert by_group["score"].max() < 0.05


@pytest.mark.parametrize("kind", TASKS)
@pytest.mark.parametrize("n_pieces", PIECES)
def test_curves_are_the_linear_model_of_their_pieces(kind, n_pieces):
    x, task = matrix(200), TASKS[kind]
    pieces = Pieces(x, [n_pieces] * 3)
    ((slope, intercept),) = fit_linear(task, pieces.columns, labels(x, kind), None, (2.0,))
    model = pieces.additive(slope, intercept)
    assert model.shape == (3, 1, task.width)
    assert_allclose(model.scores(x), pieces.columns @ slope + intercept, rtol=0, atol=1e-12)
    asked = matrix(100, 1)
    assert_array_equal(np.vstack([model.scores(row[None]) for row in asked]), model.scores(asked))
    far, edge = asked.copy(), asked.copy()
    far[:, 0], edge[:, 0] = 1e6, x[:, 0].max()
    assert_array_equal(model.scores(far), model.scores(edge))
    unknown, none = asked.copy(), asked.copy()
    unknown[:, 3], none[:, 3] = 99, np.nan
    assert_array_equal(model.scores(unknown), model.scores(none))


@pytest.mark.parametrize("n_columns", [3, 60])
@pytest.mark.parametrize("weight", [None, np.linspace(0.5, 2, 50)])
def test_penalties_that_share_their_work_are_ridge_regressions(n_columns, weight):
    x, y = np.random.default_rng(0).normal(size=(2, 50, n_columns))
    columns = Pieces(x.astype(np.float32), [1] * n_columns).columns
    penalties = (100.0, 1.0, 0.1)
    found = fit_linear(TASKS["r"], columns, y[:, 0], weight, penalties)
    for penalty, (slope, intercept) in zip(penalties, found, strict=True):
        alone = Ridge(alpha=penalty).fit(columns, y[:, 0], sample_weight=weight)
        assert_allclose(slope[:, 0], alone.coef_, rtol=0, atol=1e-10)
        assert_allclose(intercept, alone.intercept_, atol=1e-10)


@pytest.mark.parametrize(("bound", "task"), [("_MOST_VALUES", "b"), ("_MOST_VALUES", "r"), ("_MOST_PRODUCTS", "r")])
def test_curves_of_more_pieces_than_fit_are_left_out(table, monkeypatch, bound, task):
    X, y = table
    monkeypatch.setattr(f"tabmtl.models.independent.additive.{bound}", 10)
    weights = IndependentTasks(random_state=0).fit(X[:60], y[:60, [task]]).family_weights_
    assert weights["additive"].item() == 0 < weights["extra_trees"].item()


def test_two_present_classes_of_many_have_the_log_odds_of_their_shares():
    x, task = matrix(100), TASKS["m"]
    y = np.where(np.arange(100) < 10, 0.0, 2.0)
    pieces = Pieces(x, [1] * 3)
    ((slope, intercept),) = fit_linear(task, pieces.columns, y, None, (1e9,))
    answers = task.kind.answers(pieces.additive(slope, intercept).scores(x), 0.0, 1.0, np)
    assert_allclose(answers.mean(axis=0), [0.1, 0.0, 0.9], atol=1e-3)


def test_columns_without_any_value_or_change_add_nothing(table, reloaded):
    X, y = table
    blank = pl.DataFrame({"z": [None] * 300, "level": [None] * 300, "one": [1e30] * 300})
    blank = blank.cast({"z": pl.Float64, "level": pl.String})
    for columns_of in (blank, pl.concat([X.drop("level"), blank], how="horizontal")):
        model = IndependentTasks(random_state=0).fit(columns_of[:80], y[:80, ["r"]])
        answers = model.predict(columns_of)
        assert answers["r"].is_finite().all()
        assert reloaded(model).predict(columns_of).equals(answers)


def test_mixtures_are_saved_and_answer_a_row_as_in_the_batch(table, reloaded, few_settings):
    X, y = (part[:150] for part in table)
    model = IndependentTasks(random_state=0).fit(X, y)
    assert model.family_weights_.columns == ["task", *FAMILIES]
    assert_allclose(model.family_weights_.select(FAMILIES).sum_horizontal(), 1)
    assert any(isinstance(each, Mixture) for each in model.estimators_.values())
    loaded = reloaded(model)
    assert loaded.family_weights_.equals(model.family_weights_)
    assert loaded.predict(X).equals(model.predict(X))
    for name, answer in model.predict_proba(X).items():
        assert_array_equal(np.vstack([loaded.predict_proba(X[i])[name] for i in range(5)]), answer[:5])
    assert pl.concat([loaded.predict(X[i]) for i in range(5)]).equals(model.predict(X[:5]))


def test_importances_of_a_mixture_name_the_columns_that_tell(table, reloaded):
    X, y = table
    model = IndependentTasks(random_state=0).fit(X[:80], y[:80, ["r"]])
    mixture, found = model.estimators_["r"], gain_importances(model)
    assert mixture.additive is not None and mixture.extra_trees is not None
    assert found["importance"].sum() == pytest.approx(1)
    shares = dict(found.select("feature", "importance").iter_rows())
    assert min(shares["u"], shares["level"]) > max(shares["v"], shares["w"])
    x = tree_matrix(model._levels.extended(Batch(x=model.coder_.features.encode(X[:80]))))
    curves = mixture.additive
    alone = [np.where(np.arange(x.shape[1]) == j, x, x[0]) for j in range(x.shape[1])]  # one column varies
    variances, is_mean = [curves.scores(rows).var() for rows in alone], np.arange(x.shape[1]) == 3
    assert_allclose(curves.variances[~is_mean], np.array(variances)[~is_mean], rtol=1e-9)
    assert curves.variances[is_mean] == pytest.approx(variances[3], rel=0.3)  # over means by other parts of the rows
    assert gain_importances(reloaded(model)).equals(found)


@pytest.mark.parametrize(
    "options",
    [
        {"validated": True},
        *(pytest.param(o, marks=pytest.mark.all_faces) for o in ({}, {"groups": True}, {"sample_weight": True})),
    ],
)
def test_mixtures_learn_groups_weights_and_given_validation_rows(table, options, few_settings):
    X, y = (part[:150] for part in table)
    given = {"groups": np.arange(150) // 3} if "groups" in options else {}
    given |= {"sample_weight": np.linspace(1, 2, 150)} if "sample_weight" in options else {}
    given |= {"X_val": X[100:], "y_val": y[100:, ["r", "b"]]} if "validated" in options else {}
    rows = slice(100) if "validated" in options else slice(150)
    first, second = (
        IndependentTasks(random_state=0).fit(X[rows], y[rows, ["r", "b"]], **given).predict(X) for _ in range(2)
    )
    assert first.equals(second)
    assert first.null_count().sum_horizontal().item() == 0


def test_rows_of_one_group_are_judged_by_given_validation_rows(table):
    X, y = table[0], table[1][["r"]]
    one = IndependentTasks(random_state=0)
    one.fit(X[:60], y[:60], groups=np.zeros(60), X_val=X[60:], y_val=y[60:])
    assert one.family_weights_.select("extra_trees", "additive").sum_horizontal().item() > 0


def test_many_rows_are_set_aside_to_weigh_and_learned_then(table, monkeypatch):
    """From 5 000 labels on, rows set aside stop LightGBM and weigh all families."""
    from tabmtl.models.independent import choice

    monkeypatch.setattr(choice, "MOST_FOLDED", 100)
    monkeypatch.setattr(choice, "FEW_ROWS", 100)
    X, y = table
    model = IndependentTasks(random_state=0).fit(X, y[["b"]])
    weights = model.family_weights_.select(FAMILIES).row(0)
    assert sum(weight > 0 for weight in weights) > 1
    assert model.score(X, y[["b"]]) > 0.8  # ROC AUC on the rows of fit; .5 for a constant


def test_curves_help_where_columns_add_up():
    """R² of 100 labels on 400 new rows: 0 by their mean, .825 by LightGBM, .874 mixed, .93 by the truth."""
    rng = np.random.default_rng(3)
    X = rng.normal(size=(500, 6))
    y = np.sin(2 * X[:, 0]) + X[:, 1] - 0.5 * X[:, 2] + np.abs(X[:, 3]) + 0.4 * rng.normal(size=500)
    train, test = slice(100), slice(100, 500)
    alone = IndependentTasks(families=("lightgbm",), random_state=0).fit(X[train], y[train])
    mixed = IndependentTasks(random_state=0).fit(X[train], y[train])
    assert mixed.family_weights_["additive"][0] > 0.5
    assert mixed.score(X[test], y[test]) > alone.score(X[test], y[test]) + 0.02


def test_two_rows_with_all_of_the_weight_choose_no_family():
    X = np.random.default_rng(0).normal(size=(100, 2))
    y, weight = X[:, 0] > 0, np.where(np.arange(100) < 2, 1e6, 1.0)
    found = [
        IndependentTasksClassifier(random_state=0).fit(X, y, sample_weight=own).family_weights_
        for own in (np.ones(100), weight)
    ]
    spreads = [np.ptp(weights.select(FAMILIES).row(0)) for weights in found]
    assert spreads[1] < 0.2 < spreads[0]


def test_lightgbm_alone_learns_more_labels_than_the_others_take(monkeypatch, table):
    from tabmtl.models.independent import mixture

    X, y = table
    monkeypatch.setattr(mixture, "MOST_MIXED", 79)
    model = IndependentTasks(random_state=0).fit(X, y[["r"]])
    assert model.family_weights_["lightgbm"].to_list() == [1.0]
    assert isinstance(model.estimators_["r"], lgb.Booster)
    assert MOST_MIXED == 20_000


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"families": ("lightgbm", "trees")}, ValueError, "families must be 'all', or hold names of"),
        ({"families": np.ones(3)}, ValueError, "families must be 'all', or hold names of"),
        ({"families": ("additive",)}, ValueError, "families must have 'lightgbm' among them"),
        ({"families": FAMILIES, "early_stopping": False}, ValueError, "set early_stopping=True"),
        ({"families": FAMILIES, "classifier": lgb.LGBMClassifier()}, ValueError, "leave out classifier"),
    ],
)
def test_families_that_cannot_be(table, options, error, words):
    X, y = table
    with pytest.raises(error, match=words):
        IndependentTasks(**options).fit(X, y)


def test_lightgbm_learns_alone_what_the_others_cannot(table, few_settings):
    """Without names of families, it does so silently: no rows to weigh by, and tasks with a given model."""
    X, y = table
    plain = IndependentTasks(early_stopping=False, random_state=0).fit(X, y[["b"]])
    assert isinstance(plain.estimators_["b"], lgb.Booster)
    given = IndependentTasks(classifier=lgb.LGBMClassifier(n_estimators=5, verbose=-1), random_state=0).fit(
        X, y[["r", "b"]]
    )
    assert [type(model) for model in given.estimators_.values()] == [Mixture, lgb.Booster]


def curves(**arrays):
    pieces = Pieces(matrix(50), [1] * 3)
    model = pieces.additive(np.zeros((pieces.columns.shape[1], 1)), np.zeros(1))
    return replace(model, **arrays)


@pytest.mark.parametrize(
    "weights", [(0.5, 0.5, 0.0), (1.0, 0.0, 0.0), (0.0, 0.0, 0.9), (0.0, -1.0, 2.0), (np.nan, 0.0, 1.0)]
)
def test_weights_that_fit_no_mixture(weights):
    with pytest.raises(ValueError, match="do not fit its parts or sum to 1"):
        Mixture(weights=weights, lightgbm=None, extra_trees=None, additive=curves())


@pytest.mark.parametrize(
    "arrays",
    [
        {"knots": np.ones((3, 2))},
        {"knots": np.zeros((3, 1))},
        {"codes": np.zeros((1, 0), dtype=np.float32)},
        {"variances": np.ones(3)},
    ],
)
def test_arrays_that_are_no_curves(arrays):
    with pytest.raises(ValueError, match=r"at least two knots, which rise|there are 3 variances of columns"):
        curves(**arrays)


def recurring(n=60):
    """Rows with times, whose groups come again, but for those of the second target."""
    X, group = pl.DataFrame({"x": np.random.default_rng(0).normal(size=n)}), np.arange(n)
    group[: n // 2] %= 5
    y = pl.DataFrame({"again": X["x"], "new": X["x"]})
    y = y.with_columns(again=pl.when(pl.int_range(n) < n // 2).then("again"))
    return X, y, {"time": np.arange(n), "groups": group}


def test_a_constant_answers_a_task_whose_newest_rows_have_known_groups():
    X, y, marks = recurring()
    model = IndependentTasks(families=("lightgbm", "additive"), n_jobs=1, random_state=0)
    with pytest.warns(
        UserWarning,
        match="'again': all 30 labelled rows are .* or of groups that have older rows",
    ):
        model.fit(X, y, **marks)
    assert_allclose(model.predict(X)["again"], y["again"].mean(), rtol=1e-6)
    assert model.predict(X)["new"].n_unique() > 5
    with pytest.raises(ValueError, match="task 'again': all of the newest rows"):
        model.fit(X, y.select("again"), **marks)


def test_given_rows_judge_where_groups_come_again(few_settings):
    X, y, marks = recurring()
    X = X.with_columns(time=marks["time"], group=marks["groups"])
    model = IndependentTasks(columns={"time": "ignore", "group": "ignore"}, n_jobs=1, random_state=0)
    model.fit(X[:30], y["again"][:30], X_val=X[30:], y_val=y["new"][30:].alias("again"), time="time", groups="group")
    assert model.leaderboard_["model"].to_list() == [*FAMILIES, "IndependentTasks"]


@pytest.mark.parametrize(
    ("n", "given", "expected"), [(100, {}, False), (700, {"families": ("lightgbm",)}, True), (700, {}, False)]
)
def test_the_time_is_halved_only_where_all_rows_are_learned_once_more(monkeypatch, n, given, expected):
    shares = []
    monkeypatch.setattr(Watch, "part", lambda self, share, name="": shares.append(share) or self)
    X = pl.DataFrame({"x": np.random.default_rng(0).normal(size=n)})
    IndependentTasks(num_leaves=2, patience=1, n_jobs=1, random_state=0, **given).fit(X, X["x"].alias("y"))
    assert (0.5 in shares) == expected
