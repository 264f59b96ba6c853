"""Some of the tasks are answered as among all, with all that was learned later, by what they need alone."""

import pickle
from copy import deepcopy

import numpy as np
import polars as pl
import pytest
from conformance import features, long_table, mixed_targets, tiny
from polars.testing import assert_frame_equal
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from tabmtl import ESMM, RMTGB, IndependentTasks, MultiTaskEnsemble, SharedBottom, SharedTrees
from tabmtl.estimators.asked import _MOST_PARTS, _parts, part_of
from tabmtl.estimators.mixing.judged import Choice
from tabmtl.models.independent.fitted import FittedTasks
from tabmtl.models.shared_trees.functions import FittedTrees
from tabmtl.synth import make_funnel
from tabmtl.testing import largest_gap

X = features(240)
Y = mixed_targets(X).with_columns(fast=pl.col("delay") ** 2)


@pytest.fixture(scope="module")
def trees():
    model = tiny(SharedTrees, tasks={"fast": "quantiles:0.1:0.9"}).fit(X[:120], Y[:120])
    return model.conformalize(X[120:], Y[120:], tasks=["late", "size", "delay"])


def test_quantiles_and_intervals_are_the_columns_of_all(trees):
    names = ["delay_low", "delay_high", "late_set"]
    assert_frame_equal(trees.predict_interval(X, tasks=["delay", "late"]), trees.predict_interval(X).select(names))
    together = trees.predict_interval(X, joint=True)
    assert_frame_equal(trees.predict_interval(X, joint=True, tasks="delay"), together.select(names[:2]))
    assert_frame_equal(trees.predict_quantiles(X, tasks="fast"), trees.predict_quantiles(X))


def test_no_rows_have_quantiles_and_intervals_of_the_same_types(trees):
    for ask in (trees.predict_quantiles, trees.predict_interval, lambda rows: trees.predict_interval(rows, joint=True)):
        none = ask(X[:0])
        assert len(none) == 0
        assert none.schema == ask(X[:2]).schema


def test_no_rows_of_any_container_come_back_as_rows_do():
    numbers, (table, grade) = X.select("plain", "count"), long_table()
    scaled = {"preprocessor": make_pipeline(StandardScaler())}
    for rows, y, options in (
        (numbers.to_numpy(), np.where(Y["delay"] > 0, "late", "soon"), scaled),
        (numbers.to_numpy(), Y.select("delay", "fast").to_numpy(), {}),
        (numbers.to_pandas(), Y.to_pandas().astype({"size": "category"}), scaled),
        (numbers, Y["size"], scaled),
        (table, grade, {"task_column": "school"}),
    ):
        model = tiny(SharedTrees, **options).fit(rows, y)
        some, none = model.predict(rows[:2]), model.predict(rows[:0])
        assert type(none) is type(some)
        assert (len(none), *none.shape[1:]) == (0, *some.shape[1:])
        assert str(getattr(none, "dtypes", getattr(none, "dtype", ""))) == str(
            getattr(some, "dtypes", getattr(some, "dtype", ""))
        )


@pytest.mark.parametrize(
    ("ask", "words"),
    [
        (lambda model: model.predict_proba(X, tasks="delay"), "probabilities of classes, and 'delay' is regression"),
        (lambda model: model.predict_quantiles(X, tasks=["fast", "late"]), "'late' is binary; leave it out of tasks"),
        (lambda model: model.predict_interval(X, tasks=["fast"]), r"was not given the tasks \['fast'\]"),
        (lambda model: model.predict_interval(X, tasks=["late"], joint=True), r"\['late'\] have classes"),
        (lambda model: model.predict(X, tasks=[]), r"tasks is empty; name some of \['late', "),
        (lambda model: model.predict(X, tasks=3), "a sequence of names, got 3"),
    ],
)
def test_what_does_not_fit_is_named(trees, ask, words):
    with pytest.raises((ValueError, TypeError), match=words):
        ask(trees)


def test_a_calibrated_step_of_a_funnel_stays_below_the_one_before():
    log = make_funnel(400, random_state=0)
    model = tiny(ESMM, task_chain=["click", "conversion"], tasks=None).fit(log.X[:200], log.y[:200])
    for step in (model, model.calibrate(log.X[200:], log.y[200:], tasks=["click"])):
        whole = dict(zip(log.y.columns, step.__answers__(log.X), strict=True))
        assert largest_gap([whole["conversion"]], step.__answers__(log.X, ["conversion"])) <= 1e-6


def test_the_parts_of_a_model_are_few_and_in_no_copy():
    model = tiny(SharedBottom).fit(X, Y)
    size = len(pickle.dumps(model))
    for first in Y.columns:
        for second in Y.columns:
            model.predict(X[:1], tasks=list(dict.fromkeys([first, second])))
    assert 0 < len(_parts[model.fitted_network()[0]]) <= _MOST_PARTS
    assert len(pickle.dumps(model)) == size
    whole, made = object.__new__(type("Whole", (), {})), []
    for key in [*range(40), 39, 0]:
        part_of(whole, key, lambda: made.append(0) or object())
    assert len(made) == 41  # the last one was kept, and the first was not


@pytest.mark.parametrize("cls", [RMTGB, IndependentTasks, SharedTrees])
def test_trees_of_other_tasks_are_not_walked_down(cls):
    model = tiny(cls, families=("lightgbm",)).fit(X, Y[["late", "delay"]])
    whole, broken = model.__answers__(X)[1], deepcopy(model)
    if cls is SharedTrees:
        functions = broken._fitted.restricted((1,)).functions
        assert functions.forest.values.shape[1] == 1
        assert functions.forest.values.any(axis=1).any()
    elif cls is RMTGB:
        assert [group.members.tolist() for group in broken._fitted.of((1,))] == [[1]]
    else:
        broken.estimators_["late"] = None
    assert np.array_equal(broken.__answers__(X, ["delay"])[0], whole)


def test_an_ensemble_asks_the_candidates_that_have_a_weight(monkeypatch):
    def split(judged, seed, cure):
        weights = np.eye(len(judged[0].answers))
        return [Choice(own, each, each, each.mix(own)) for each, own in zip(judged, weights, strict=False)]

    monkeypatch.setattr("tabmtl.ensemble.estimator.choose_weights", split)
    candidates = {"alone": tiny(IndependentTasks), "together": tiny(SharedTrees)}
    model = MultiTaskEnsemble(models=candidates, n_folds=2, random_state=0).fit(X, Y[["delay", "fast"]])
    whole, asked = model.__answers__(X), []
    for cls in (FittedTasks, FittedTrees):
        ask = cls.answer
        monkeypatch.setattr(cls, "answer", lambda self, *rest, ask=ask: asked.append(type(self)) or ask(self, *rest))
    for place, (name, cls) in enumerate((("delay", FittedTasks), ("fast", FittedTrees))):
        assert np.array_equal(model.__answers__(X, [name])[0], whole[place])
        assert {*asked} == {cls}
        asked.clear()
