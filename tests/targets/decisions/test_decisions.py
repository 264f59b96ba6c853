"""Decisions of a model: part of its file, and of nothing that its fit learned."""

from dataclasses import replace

import numpy as np
import polars as pl
import pytest

import tabmtl
from tabmtl import ESMM, SharedTrees, SharedTreesClassifier
from tabmtl.base.schema import TabmtlWarning
from tabmtl.targets.decisions import Calibrator, Decisions
from tabmtl.targets.decisions.calibrators import Isotonic, Sigmoid
from tabmtl.testing import features, mixed_targets, same

X = features()
Y = mixed_targets(X)
SIGMOID = Calibrator(method="sigmoid", is_ordered=False, sigmoid=(Sigmoid(a=1.0, b=0.0),))
HALVED = Isotonic(x=np.array([0.0, 1.0]), y=np.array([0.0, 0.5]))


def fitted(**decisions):
    """Return a model whose probabilities of "late" are halved, or with other decisions."""
    model = SharedTrees(n_estimators=5, n_estimators_task=5, random_state=0).fit(X, Y)
    halved = Calibrator(method="isotonic", is_ordered=False, isotonic=(HALVED,))
    calibrators = [halved if task.name == "late" else None for task in model.tasks_]
    found = Decisions(**{"calibrators": tuple(calibrators), "tuned": (None,) * len(calibrators)} | decisions)
    coder = replace(model.coder_, labels=replace(model.coder_.labels, decisions=found))
    model._model = replace(model._model, coder=coder)
    return model


def test_answers_are_behind_the_calibrators_of_their_task_in_a_file_too(reloaded):
    model, plain = fitted(), SharedTrees(n_estimators=5, n_estimators_task=5, random_state=0).fit(X, Y)
    for task, answer, before in zip(model.tasks_, model.__answers__(X), plain.__answers__(X), strict=True):
        assert same(answer[:, 1], before[:, 1] / 2) if task.name == "late" else same(answer, before)
    assert all(map(same, reloaded(model).__answers__(X), model.__answers__(X)))
    assert all(map(same, model.fit(X, Y).__answers__(X), plain.__answers__(X)))


def test_files_of_models_before_there_were_decisions_load():
    saved = SharedTrees(n_estimators=5, n_estimators_task=5, random_state=0).fit(X, Y).__saved__()
    del saved.facts["coder"]["labels"]["decisions"]
    assert SharedTrees.__from_saved__(saved).coder_.labels.decisions is None


def test_files_of_calibrators_before_there_was_a_floor_have_none():
    saved = fitted().__saved__()
    for own in saved.facts["coder"]["labels"]["decisions"]["calibrators"]:
        if own is not None:
            del own["floor"]
    found = SharedTrees.__from_saved__(saved)
    assert {own.floor for own in found.coder_.labels.decisions.calibrators if own is not None} == {0.0}
    assert all(map(same, found.__answers__(X), fitted().__answers__(X)))


@pytest.mark.parametrize(
    ("forge", "words"),
    [
        (lambda: fitted(calibrators=()), "calibrators of 0 tasks"),
        (lambda: Calibrator(method="isotonic", is_ordered=False), "has the maps"),
        (
            lambda: Calibrator(method="sigmoid", is_ordered=False, sigmoid=(Sigmoid(a=1.0, b=0.0),)).check(3),
            "3 classes",
        ),
        (lambda: Calibrator(method="temperature", is_ordered=False, inverse_temperature=0.0), "above 0"),
        (lambda: Calibrator(method="temperature", is_ordered=False, floor=0.6), "the floor 0.6"),
        (lambda: Sigmoid(a=np.nan, b=0.0), "finite"),
        (lambda: Isotonic(x=np.array([0.5, 0.5]), y=np.array([0.0, 1.0])), "do not rise"),
    ],
)
def test_what_no_calibration_learns_is_refused(forge, words):
    with pytest.raises(ValueError, match=words):
        forge()


NEW = features(200, seed=1)
NEW_Y = mixed_targets(NEW)
COSTS = {("late", "on time"): 1.0, ("on time", "late"): 30.0}


@pytest.fixture(scope="module")
def model():
    return SharedTrees(n_estimators=20, n_estimators_task=5, random_state=0).fit(X, Y)


@pytest.fixture(scope="module")
def long():
    """A model of three tasks with classes in the long layout, calibrated and with thresholds of two of them."""
    rng = np.random.default_rng(0)
    X = features(900).with_columns(school=np.array(["east", "north", "west"])[rng.integers(0, 3, 900)])
    y = pl.Series("passed", np.where(X["plain"].to_numpy() + rng.normal(size=900) > 0, "yes", "no"))
    model = SharedTrees(n_estimators=5, n_estimators_task=5, task_column="school", random_state=0).fit(X[:450], y[:450])
    plain = model.__answers__(X)[0]
    model.calibrate(X[450:], y[450:], tasks=["north", "west"])
    model.tune_thresholds(X[450:], y[450:], costs={"west": {("yes", "no"): 30.0, ("no", "yes"): 1.0}})
    return model, X, plain


def test_rows_of_a_long_table_are_decided_by_their_own_task(long):
    model, X, plain = long
    east = (X["school"] == "east").to_numpy()
    answer = model.__answers__(X)[0]
    assert same(answer[east], plain[east])
    assert (answer[~east] != plain[~east]).all()
    (threshold,) = model.thresholds_["threshold"]
    at = np.where((X["school"] == "west").to_numpy(), threshold, 0.5)
    assert (model.predict(X).to_numpy() == np.where(answer[:, 1] >= at, "yes", "no")).all()


def test_a_step_of_a_funnel_is_never_likelier_than_the_one_before():
    rng = np.random.default_rng(0)
    y = pl.DataFrame({"click": rng.random(120) < 0.5, "buy": rng.random(120) < 0.4})
    model = SharedTrees(n_estimators=5, n_estimators_task=5, random_state=0).fit(X, y)
    labels = replace(model.coder_.labels, chain=(0, 1), decisions=Decisions.none(2))
    raw = model.__answers__(X)
    assert (raw[1][:, 1] > raw[0][:, 1]).any()
    assert all(map(same, labels.decided(raw), raw))
    calibrated = replace(labels.decisions, calibrators=(SIGMOID, None))
    click, buy = replace(labels, decisions=calibrated).decided(raw)
    assert (buy[:, 1] == np.minimum(raw[1][:, 1], click[:, 1])).all()


@pytest.mark.parametrize(("tasks", "left"), [("click", ["v"]), ("buy", ["click", "v"])])
def test_a_calibrated_step_drops_what_rests_on_answers_to_later_ones(tasks, left):
    rng = np.random.default_rng(0)
    click = rng.random(400) < 0.5
    X = pl.DataFrame({"x": click + rng.normal(size=400)})
    y = pl.DataFrame({"click": click, "buy": click & (rng.random(400) < 0.5), "v": rng.normal(size=400)})
    model = ESMM(task_chain=["click", "buy"], epochs=1, random_state=0).fit(X[:200], y[:200])
    model.tune_thresholds(X[200:], y[200:]).conformalize(X[200:], y[200:])
    with pytest.warns(TabmtlWarning, match="are dropped"):
        model.calibrate(X[200:], y[200:], tasks=tasks)
    assert [task.name for task in model.tasks_ if task.thresholds] == [name for name in left if name != "v"]
    assert [name.rpartition("_")[0] for name in model.predict_interval(X).columns] == [*left, "v"]


def test_scores_of_decisions_are_those_of_predictions():
    y, new = Y.drop("delay"), NEW_Y.drop("delay").drop_nulls()
    rows = NEW.filter(NEW_Y.drop("delay").select(~pl.any_horizontal(pl.all().is_null())).to_series())
    model = SharedTreesClassifier(n_estimators=5, n_estimators_task=5, random_state=0).fit(X, y)
    before = model.score(rows, new)
    model.tune_thresholds(rows, new, costs=COSTS)
    right = [(model.predict(rows)[name] == new[name]).mean() for name in new.columns]
    assert model.score(rows, new) == pytest.approx(np.mean(right))
    assert model.score(rows, new) != before
    assert isinstance(model.predict_proba(rows), list)


def test_calibrated_again_is_calibrated_once_and_drops_thresholds(model):
    model = fitted().calibrate(NEW, NEW_Y, tasks="late").tune_thresholds(NEW, NEW_Y)
    assert model.thresholds_["task"].to_list() == ["late"]
    with pytest.warns(TabmtlWarning, match=r"thresholds of the tasks \['late'\] .* dropped"):
        model.calibrate(NEW, NEW_Y)
    assert not hasattr(model, "thresholds_")
    assert model.tasks_[0].thresholds is None
    once = SharedTrees(n_estimators=5, n_estimators_task=5, random_state=0).fit(X, Y).calibrate(NEW, NEW_Y)
    assert all(map(same, once.__answers__(X), model.__answers__(X)))


def test_what_teaches_no_decision_is_refused_and_the_model_stays(model):
    before = model.__answers__(X)
    for call, words in REFUSED:
        with pytest.raises((ValueError, TypeError), match=words):
            call(model)
    assert all(map(same, before, model.__answers__(X)))
    assert not hasattr(model, "thresholds_")
    pickled = tabmtl.SharedTrees.__from_saved__(model.__saved__())
    pickled.calibrate(X, Y, method="temperature")  # nobody knows of these rows


REFUSED = [
    (lambda model: model.calibrate(X, Y), "calibrate needs rows that fit has not seen, .* 120 of the 120 rows"),
    (lambda model: model.tune_thresholds(X[::-1], Y[::-1]), "tune_thresholds needs rows that fit has not seen"),
    (lambda model: model.calibrate(NEW, NEW_Y, tasks="lat"), "that the model does not have: .*; near is 'late'"),
    (
        lambda model: model.calibrate(NEW, NEW_Y, tasks=["delay"]),
        "calibrate is for tasks of classes, and 'delay' is reg",
    ),
    (lambda model: model.calibrate(NEW, NEW_Y, method="isotonc"), "near is 'isotonic'"),
    (lambda model: model.calibrate(NEW[:12], NEW_Y[:12]), "'late': calibration by sigmoid needs at least 10 labels"),
    (lambda model: model.calibrate(NEW.drop("plain"), NEW_Y), "plain"),
    (lambda model: model.calibrate(NEW, None), "target y is None"),
    (lambda model: model.tune_thresholds(NEW, NEW_Y, tasks="size"), "ordered classes, and 'size' is multiclass"),
    (
        lambda model: model.tune_thresholds(NEW, NEW_Y, metric="roc_auc"),
        "thresholds of binary tasks are chosen for one",
    ),
    (lambda model: model.tune_thresholds(NEW, NEW_Y, metric={"size": "f1"}), "'size' is multiclass"),
    (
        lambda model: model.tune_thresholds(NEW, NEW_Y, costs={"late": COSTS}, tasks="size"),
        "for .'late'., which tasks=",
    ),
    (lambda model: model.tune_thresholds(NEW, NEW_Y, metric=1.0), "metric must be the name of a score"),
    (lambda model: model.tune_thresholds(NEW, NEW_Y, costs=[10, 1]), "costs must be numbers by the true class"),
    (lambda model: model.tune_thresholds(NEW, NEW_Y, metric="f1", costs=COSTS), "a metric or by costs, got both"),
    (lambda model: model.tune_thresholds(NEW, NEW_Y, groups=np.zeros(200)), "are of one group"),
    (
        lambda model: model.tune_thresholds(NEW, NEW_Y.with_columns(late=pl.lit("late"))),
        "labels of two classes or more, and the rows have 'late' alone",
    ),
]
