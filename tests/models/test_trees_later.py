"""Trees after their fit: they go on by new rows, take new tasks, and part with tasks."""

import weakref
from copy import deepcopy
from dataclasses import replace
from functools import cache

import lightgbm as lgb
import numpy as np
import polars as pl
import pytest
from sklearn.linear_model import LinearRegression, SGDRegressor

from tabmtl import RMTGB, ConstantFeatureWarning, IndependentTasks, SharedTrees, gain_importances, load
from tabmtl.estimators.boosted.border import Ensemble
from tabmtl.models.rmtgb.stages import Stage

FEW = {"random_state": 0, "partial_rounds": 10}
QUICK = {"random_state": 0, "learning_rate": 0.3, "patience": 5}  # folds of few rows would look for many rounds
MODELS = {
    "shared": SharedTrees(n_estimators=15, n_estimators_task=10, **FEW),
    "stages": RMTGB(n_estimators_shared=10, n_estimators_outlier=10, n_estimators_task=10, **FEW),
    "sides": RMTGB(n_estimators_shared=0, n_estimators_outlier=10, n_estimators_task=0, **FEW),
    "alone": IndependentTasks(families=("lightgbm", "additive"), **FEW | QUICK),
}


def rows(n, seed):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, 3))
    signal = np.sin(2 * X[:, 0]) + X[:, 1]
    y = {"value": signal + 0.3 * rng.normal(size=n), "cost": 1 - signal + 0.3 * rng.normal(size=n)}
    y |= {"is_high": signal + rng.normal(size=n) > 0}
    return X, pl.DataFrame(y | {"size": np.array(["low", "mid", "top"])[np.digitize(signal, [-0.7, 0.7])]})


X, Y = rows(120, 0)
NEW, LABELS = rows(400, 1)
ASKED, TRUTH = rows(400, 2)


@cache
def fit_of(name):
    """The model of a name, fitted; tests let copies of it go on."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tabmtl.models.independent.choice.MOST_FOLDS", 3)
        return deepcopy(MODELS[name]).fit(X, Y)


@pytest.fixture(params=MODELS)
def fitted(request):
    return fit_of(request.param)


def went_on(model, X=NEW, y=LABELS, **params):
    return deepcopy(model).set_params(**params).partial_fit(X, y)


def test_new_rows_of_one_kind_raise_scores_and_files_keep_what_they_taught(fitted, reloaded):
    model = went_on(fitted)
    after, before = (each.score_tasks(ASKED, TRUTH) for each in (model, fitted))
    assert all(after[task] > before[task] - 0.01 for task in after)
    assert sum(after.values()) > sum(before.values())
    answers, loaded = model.predict(ASKED), reloaded(model)
    assert loaded.predict(ASKED).equals(answers)
    assert loaded.predict(ASKED[:1]).equals(answers[:1])
    assert loaded.partial_fit(X, Y).predict(ASKED).equals(deepcopy(model).partial_fit(X, Y).predict(ASKED))
    assert np.allclose(gain_importances(model).group_by("task").agg(pl.sum("importance"))["importance"], 1)


def test_tasks_without_new_labels_keep_their_bits(fitted):
    hidden = LABELS.with_columns(value=pl.lit(None, pl.Float64), size=pl.lit(None, pl.String))
    answers, before = went_on(fitted, y=hidden).predict_proba(ASKED), fitted.predict_proba(ASKED)
    assert np.array_equal(answers["size"], before["size"])
    assert not np.array_equal(answers["is_high"], before["is_high"])
    assert went_on(fitted, partial_rounds=0).predict(ASKED).equals(fitted.predict(ASKED))


@pytest.mark.parametrize("estimator", [MODELS["shared"], MODELS["stages"], MODELS["sides"]])
def test_long_tables_go_on_by_rows_of_some_tasks(estimator):
    def table(X, seed):
        names = np.random.default_rng(seed).choice(["north", "south", "west"], len(X))
        return pl.DataFrame(X, schema=["a", "b", "c"]).with_columns(place=pl.Series(names))

    asked, new = table(ASKED, 5), table(NEW, 4).with_columns(place=pl.lit("north"))
    model = deepcopy(estimator).set_params(task_column="place").fit(table(X, 3), Y["value"])
    after, before = (each.score_tasks(asked, TRUTH["value"]) for each in (went_on(model, new, LABELS["value"]), model))
    assert after["north"] > before["north"]


def test_counts_of_labels_of_a_long_table_are_whole_in_its_file(tmp_path):
    X = pl.DataFrame(NEW, schema=["a", "b", "c"]).with_columns(place=pl.Series(["north", "south"] * (len(NEW) // 2)))
    model = IndependentTasks(task_column="place", families=("lightgbm",), random_state=0).fit(X, LABELS["value"])
    model.partial_fit(X, LABELS["value"]).save(tmp_path / "model")
    assert load(tmp_path / "model").predict(X).equals(model.predict(X))


def test_lightgbm_alone_goes_on_as_from_its_own_model():
    big, labels = rows(700, 6)
    model = IndependentTasks(families=("lightgbm",), random_state=0).fit(big, labels["value"])
    booster, x = model.estimators_["value"], ASKED.astype(np.float32)
    params = model._learners(model.coder_, 0, True, None)[0].grower.params | {"min_data_per_group": 40}
    slower = params | {"learning_rate": params["learning_rate"] * 400 / 1100}  # new labels among all
    slower |= {"reg_lambda": 5.0}
    data = lgb.Dataset(NEW.astype(np.float32), LABELS["value"].to_numpy())
    expected = lgb.train(slower, data, 20, init_model=booster).predict(x)
    assert np.allclose(went_on(model, y=LABELS["value"]).predict(ASKED), expected, atol=1e-6)


@pytest.mark.parametrize("families", [("lightgbm",), "all"])
def test_a_shift_of_all_labels_gives_no_split_and_is_learned(families):
    model = IndependentTasks(families=families, **QUICK).fit(X, Y["value"])
    moved = went_on(model, X, Y["value"] + 9).predict(ASKED) - model.predict(ASKED)
    assert np.allclose(moved, 9 * (1 - 0.85**20), atol=0.01)  # steps of .3, for half of all labels


SHIFTS = (0.25, 0.5, 1, 2, 3, 6)  # standard deviations
SINGLE = {
    "shared": SharedTrees(n_estimators=30, n_estimators_task=5, random_state=0),
    "stages": RMTGB(n_estimators_task=30, random_state=0),
    "alone": IndependentTasks(families=("lightgbm",), **QUICK | {"learning_rate": 0.05}),
}
MANY, VALUES = rows(1200, 8)
OLD, LATER = slice(800), slice(800, 1200)


def moves(model, y, shift, name):
    """Return how far the mean answers of tasks move by shifted labels of one, over those by labels as they are."""
    shifted = y[LATER].with_columns(pl.col(name) + shift)
    moved, still = (went_on(model, MANY[LATER], own).predict(ASKED) for own in (shifted, y[LATER]))
    return (moved - still).mean().row(0)


@pytest.mark.parametrize("name", SINGLE)
def test_a_shift_of_all_labels_is_learned_by_the_share_of_new_ones_however_large(name, three_folds):
    y = VALUES.select((pl.col("value") - pl.col("value").mean()) / pl.col("value").std())
    model = deepcopy(SINGLE[name]).fit(MANY[OLD], y[OLD])
    shares = [moves(model, y, shift, "value")[0] / shift for shift in SHIFTS]
    assert 0.2 < min(shares) <= max(shares) < 0.45


def test_lightgbm_fits_one_number_by_itself_until_a_round_finds_no_split(monkeypatch):
    def refuse(stage, functions):
        raise AssertionError("LightGBM's own objective would do")

    model = deepcopy(SINGLE["stages"]).fit(MANY[OLD], VALUES["value"][OLD])
    monkeypatch.setattr(Stage, "gradients", refuse)
    assert not np.array_equal(went_on(model, MANY[LATER], VALUES["value"][LATER]).predict(ASKED), model.predict(ASKED))
    with pytest.raises(AssertionError, match="would do"):
        went_on(model, MANY[LATER], VALUES["value"][LATER] + 1e4)


def test_an_ensemble_leaves_its_target_for_gradients():
    target, params = VALUES["value"].to_numpy(), {"verbosity": -1, "num_threads": 1}
    scores = []
    for first in (target, None):
        grown = Ensemble(params, lgb.Dataset(MANY, np.zeros(1200), free_raw_data=False).construct(), target=first)
        for sign in (1, 1, 1, -1, -1, -1):
            if sign < 0:
                grown.follows_target = False
            grown.update(lambda scores, wanted=sign * target: (scores - wanted, np.ones_like(scores)))
        scores.append(grown.scores())
    assert np.allclose(*scores, atol=1e-4)


@pytest.mark.parametrize("name", ["shared", "stages", "sides"])
@pytest.mark.parametrize("shift", [2, 6])
def test_a_task_whose_labels_stay_does_not_move_with_another(name, shift):
    y = VALUES.select("value", "cost")
    model = deepcopy(MODELS[name]).set_params(partial_rounds=20).fit(MANY[OLD], y[OLD])
    stays, follows = moves(model, y, shift, "cost")
    assert abs(stays) < 0.03 * shift
    assert 0.1 * shift < follows < 0.45 * shift  # a round that another task leads has half the step, as one of sides


def test_a_task_without_new_labels_keeps_its_bits_beside_a_shift():
    hidden = LABELS.with_columns(value=pl.lit(None, pl.Float64), cost=pl.col("cost") + 6)
    after, before = went_on(fit_of("shared"), y=hidden).predict(ASKED), fit_of("shared").predict(ASKED)
    assert after["value"].equals(before["value"])
    assert 1 < (after["cost"] - before["cost"]).mean() < 6


@pytest.mark.parametrize("name", SINGLE)
@pytest.mark.parametrize("kind", ["binary", "multiclass", "poisson"])
def test_shares_and_counts_that_no_column_tells_of_are_learned_too(name, kind, reloaded):
    rng = np.random.default_rng(9)

    def labels(n, share, mean):
        y = {"binary": rng.random(n) < share, "poisson": rng.poisson(mean, n)}
        y["multiclass"] = np.where(rng.random(n) < share, "top", rng.choice(["low", "mid"], n))
        return pl.DataFrame({"target": y[kind]})

    model = deepcopy(SINGLE[name]).set_params(tasks={"target": kind}).fit(MANY[OLD], labels(800, 0.23, 2))
    after = went_on(model, MANY[LATER], labels(400, 0.73, 10))

    def level(model):
        answers = model.predict(ASKED)["target"] if kind == "poisson" else model.predict_proba(ASKED)["target"][:, -1]
        return answers.mean()

    way = (level(after) - level(model)) / (8 if kind == "poisson" else 0.5)
    assert 0.15 < way < 0.45
    assert reloaded(after).predict(ASKED).equals(after.predict(ASKED))


@pytest.mark.parametrize("name", SINGLE)
@pytest.mark.parametrize("label", [False, True])
def test_new_labels_of_one_class_are_learned_too(name, label, three_folds):
    is_rare = VALUES["value"] > VALUES["value"].quantile(0.9)
    old = pl.DataFrame({"two": is_rare, "three": VALUES["size"]})[OLD]
    model = deepcopy(SINGLE[name]).fit(MANY[OLD], old)
    new = pl.DataFrame({"two": [label] * 400, "three": ["top" if label else "low"] * 400})
    after, before = went_on(model, MANY[LATER], new).predict_proba(ASKED), model.predict_proba(ASKED)
    for task, told in (("two", int(label)), ("three", 2 * label)):
        rest = 1 - before[task][:, told].mean()
        assert 0.1 * rest < (after[task] - before[task])[:, told].mean() < 0.5 * rest


@pytest.mark.parametrize("name", ["shared", "stages", "sides"])
def test_rows_of_an_unknown_task_move_where_all_tasks_do(name):
    def table(place):
        return pl.DataFrame(MANY, schema=["a", "b", "c"]).with_columns(place=place)

    known, y = table(pl.Series(["north", "south"] * 600)), VALUES["value"]
    model = deepcopy(MODELS[name]).set_params(task_column="place", partial_rounds=20).fit(known[OLD], y[OLD])
    after, asked = went_on(model, known[LATER], y[LATER] + 6), table(pl.lit("east"))
    assert 0.1 < (after.predict(asked) - model.predict(asked)).mean() / 6 < 0.45
    answers = after.predict(known)
    assert 0.1 < (answers - model.predict(known)).mean() / 6 < 0.45


@pytest.mark.parametrize("kind", ["ordinal", "poisson", "quantile:0.9", "quantiles:0.1:0.9", "focal"])
def test_models_of_single_tasks_go_on_whatever_the_loss(kind):
    def labels(y):
        of_kind = {"ordinal": y["size"].cast(pl.Enum(["low", "mid", "top"])), "focal": y["is_high"]}
        return of_kind.get(kind, y["value"].exp()).alias("target").to_frame()

    model = IndependentTasks(tasks={"target": kind}, families=("lightgbm",), **QUICK).fit(X[:60], labels(Y[:60]))
    after, before = (each.score_tasks(ASKED, labels(TRUTH)) for each in (went_on(model, y=labels(LABELS)), model))
    assert after["target"] > before["target"]


def test_the_models_before_are_not_kept_for_few_rows():
    model = IndependentTasks(families=("lightgbm",), **QUICK).fit(X, Y["value"])
    model.predict(ASKED[:1])
    before = weakref.ref(model.estimators_["value"])
    model.partial_fit(NEW, LABELS["value"]).predict(ASKED[:1])
    assert before() is None


@pytest.mark.parametrize("counts", [(1,), (5, 5, 5, -5)])
def test_forged_counts_of_labels_are_refused(counts):
    state = fit_of("alone")._state()
    with pytest.raises(ValueError, match="n_labels"):
        replace(state, _n_labels=counts)


def test_other_estimators_go_on_by_a_partial_fit_of_their_own():
    linear = IndependentTasks(regressor=SGDRegressor(random_state=0)).fit(X[:10], Y["value"][:10])
    after, before = (each.score_tasks(ASKED, TRUTH["value"]) for each in (went_on(linear, y=LABELS["value"]), linear))
    assert after["value"] > before["value"]


def test_the_first_rows_are_fitted():
    begun = deepcopy(MODELS["shared"]).partial_fit(X, Y)
    assert begun.predict(ASKED).equals(fit_of("shared").predict(ASKED))


def test_new_levels_stay_unseen_and_are_told_once():
    table = pl.DataFrame({"level": ["a", "b"] * 60, "number": X[:, 0]})
    model = deepcopy(MODELS["shared"]).fit(table, Y["value"])
    with pytest.warns(UserWarning, match="level"):
        model.partial_fit(table.with_columns(level=pl.lit("c")), Y["value"])
    unseen = model.predict(table.with_columns(level=pl.lit("d")))
    assert np.array_equal(model.predict(table.with_columns(level=pl.lit("c"))), unseen)


@pytest.mark.parametrize(
    ("estimator", "y", "changed", "words"),
    [
        (SharedTrees(), Y["size"], ["other"] * 120, "other"),
        (IndependentTasks(regressor=LinearRegression()), Y["value"], Y["value"], "LinearRegression has no partial_fit"),
    ],
)
def test_what_cannot_go_on_is_named_and_stays(estimator, y, changed, words):
    model = deepcopy(estimator).set_params(random_state=0).fit(X, y)
    before = model.predict(ASKED)
    with pytest.raises(ValueError, match=words):
        model.partial_fit(X, changed)
    assert np.array_equal(model.predict(ASKED), before)


def new_tasks(y):
    """Make tasks of every width of those of the model."""
    return y.select(price=2 - pl.col("value"), cheap=pl.col("value") > 0.5, grade=pl.col("size") + "er")


@pytest.mark.parametrize("name", ["value", "is_high", "size"])
def test_the_others_keep_their_bits_without_a_task(fitted, name, reloaded):
    model = deepcopy(fitted).remove_task(name)
    expected = fitted.predict(ASKED).drop(name)
    assert model.predict(ASKED).equals(expected)
    assert reloaded(model).predict(ASKED).equals(expected)
    assert gain_importances(model)["task"].unique().len() == 3


@pytest.mark.parametrize("name", ["shared", "alone"])
def test_new_tasks_learn_and_the_others_keep_their_bits(name, reloaded, three_folds):
    model = deepcopy(fit_of(name))
    before, shares = model.predict(ASKED), model.predict_proba(ASKED)
    model.add_task(NEW[:100], new_tasks(LABELS[:100]))
    found = model.predict(ASKED)
    assert found.select(before.columns).equals(before)
    assert all(np.array_equal(model.predict_proba(ASKED)[task], own) for task, own in shares.items())
    scores = model.score_tasks(ASKED, TRUTH.with_columns(new_tasks(TRUTH)))
    assert scores["price"] > 0.4
    assert scores["cheap"] > 0.75
    assert scores["grade"] > 0.75
    assert reloaded(model).predict(ASKED).equals(found)
    for task in new_tasks(LABELS).columns:
        model.remove_task(task)
    assert model.predict(ASKED).equals(before)


def test_a_new_task_of_few_labels_takes_the_splits_of_the_others():
    many, labels = rows(1500, 7)
    model = SharedTrees(n_estimators=100, n_estimators_task=0, random_state=0).fit(many, labels)
    few, price = NEW[:30], new_tasks(LABELS[:30]).select("price")
    alone = SharedTrees(n_estimators=100, random_state=0).fit(few, price)
    added = model.add_task(few, price).score_tasks(ASKED, TRUTH.with_columns(new_tasks(TRUTH).select("price")))
    assert added["price"] > alone.score_tasks(ASKED, new_tasks(TRUTH).select("price"))["price"] + 0.1


def test_a_new_task_of_a_long_table_leans_on_the_pooled_answers():
    def table(X, name):
        return pl.DataFrame(X, schema=["a", "b", "c"]).with_columns(place=pl.lit(name))

    old = pl.concat([table(X, "north"), table(NEW, "south")])
    model = SharedTrees(n_estimators=40, task_column="place", random_state=0)
    model.fit(old, pl.concat([Y["value"], LABELS["value"]]))
    before, pooled = model.predict(old), model.predict(table(ASKED, "east"))
    model.add_task(table(ASKED[:60], "east"), TRUTH["value"][:60] + 1)
    assert np.array_equal(model.predict(old), before)
    answers, expected = model.predict(table(ASKED, "east")), TRUTH["value"].to_numpy() + 1
    error, of_pooled = (np.square(own - expected)[60:].mean() for own in (answers, pooled))
    assert error < 0.7 * of_pooled
    assert np.array_equal(model.remove_task("south").predict(table(ASKED, "east")), answers)


def test_shared_trees_without_a_tree_part_with_a_task():
    flat = np.ones((40, 1))
    with pytest.warns(ConstantFeatureWarning):
        model = SharedTrees(n_estimators=5, n_estimators_task=0, random_state=0).fit(flat, np.random.rand(40, 3))
    before = model.predict(flat)
    assert np.array_equal(model.remove_task(model.tasks_[0].name).predict(flat), before[:, 1:])


class Scale:
    def learn(self, blocks, labels, fold):
        raise AssertionError


def test_what_a_new_task_refuses():
    assert not hasattr(fit_of("stages"), "add_task")
    model = SharedTrees(n_estimators=5, n_estimators_task=5, random_state=0).fit(X, Y)
    for way, words in (({"head": Scale()}, "no features that a head could read"), ({"freeze": None}, "freeze=None")):
        with pytest.raises(ValueError, match=words):
            model.add_task(NEW, new_tasks(LABELS), **way)
    linear = deepcopy(fit_of("alone"))
    linear.set_params(regressor=SharedTrees())
    with pytest.raises(ValueError, match="SharedTrees, which reads X by itself"):
        linear.add_task(NEW, new_tasks(LABELS).select("price"))
