"""MultiTaskEnsemble: honest answers, limits of time, candidates of all sorts, files."""

from contextlib import ExitStack
from copy import copy
from dataclasses import replace
from functools import partial
from time import perf_counter
from types import SimpleNamespace
from unittest.mock import Mock

import numpy as np
import polars as pl
import pytest
from cases import later
from conformance import CANDIDATES
from hanging import Hanging
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone
from sklearn.linear_model import Ridge
from sklearn.metrics import r2_score

from tabmtl import (
    IndependentTasks,
    MultiTaskEnsemble,
    MultiTaskEnsembleRegressor,
    SharedBottom,
    SharedTrees,
    load,
)
from tabmtl.base.schema import TabmtlWarning
from tabmtl.ensemble import trials
from tabmtl.ensemble.estimator import EnsembleState
from tabmtl.ensemble.folds import Folds, Table
from tabmtl.ensemble.models import candidates
from tabmtl.estimators.learner import Marks
from tabmtl.estimators.model import Over
from tabmtl.testing import features, long_table, mixed_targets
from tabmtl.training import watch

ALONE, TOGETHER = CANDIDATES["alone"], CANDIDATES["together"]


def scarce_table(n=600, n_labels=40, seed=0):
    """A target with few labels beside two with many, all of one smooth function."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, 6))
    f = np.sin(2 * X[:, 0]) + X[:, 1] * X[:, 2]
    y = pl.DataFrame({name: f + 0.3 * rng.normal(size=n) for name in ("first", "second", "scarce")})
    return pl.DataFrame(X), y.with_columns(scarce=pl.when(pl.int_range(n) < n_labels).then("scarce"))


def raising(error, base=SharedTrees, from_rows=0):
    """A candidate whose fit raises an error on tables of so many rows."""

    class Raising(base):
        def _fit(self, coder, rows, valid, seed):
            if len(rows) >= from_rows:
                raise error
            return super()._fit(coder, rows, valid, seed)

    return Raising(n_estimators=20, n_estimators_task=0, num_leaves=8) if base is SharedTrees else Raising()


def answering(change):
    """A candidate that changes what it would answer."""

    class Changed(Over):
        name = "changed"

        def change(self, answers, labels, task):
            return change(answers)

    class Odd(SharedTrees):
        def _set_fitted(self, coder, found, **kept):
            super()._set_fitted(coder, found, **kept, over=(Changed(),))

    return Odd(n_estimators=5, n_estimators_task=0)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda answers: answers[:2], "it gives 2 answers, expected 3"),
        (lambda answers: [answers[0][:, :1], *answers[1:]], r"task 'late': its answer has the shape \(\d+, 1\)"),
        (lambda answers: [*answers[:2], answers[2][:, None]], r"task 'delay': its answer has the shape \(\d+, 1\)"),
        (lambda answers: [2 * answers[0], *answers[1:]], "task 'late': its answer holds .* expected probabilities"),
        (lambda answers: [*answers[:2], answers[2] * np.nan], "task 'delay': its answer holds nan in row 0"),
    ],
)
def test_a_candidate_of_odd_answers_is_left_out(change, reason):
    X = features()
    candidates = {"alone": ALONE, "odd": answering(change)}
    with pytest.warns(TabmtlWarning, match=f"the candidate 'odd' is left out, because its fit raised .*{reason}"):
        model = MultiTaskEnsemble(models=candidates, n_folds=2, random_state=0).fit(X, mixed_targets(X))
    assert "odd" not in model.model_weights_.columns


@pytest.mark.all_faces  # starts processes
def test_a_candidate_that_hangs_is_ended_where_its_fits_have_processes(monkeypatch):
    assert trials._patience(10.0) == 70.0
    assert trials._patience(np.inf) is None
    monkeypatch.setattr(trials, "_patience", lambda seconds: 60.0)
    X, y = scarce_table(200)
    ensemble = MultiTaskEnsemble(
        models={"alone": ALONE, "hanging": Hanging()}, n_folds=2, n_processes=2, random_state=0
    )
    start = perf_counter()
    with pytest.warns(TabmtlWarning, match="'hanging' is left out, .* TimeoutError: a fit hung"):
        ensemble.fit(X, y)
    assert perf_counter() - start < 300


def test_a_model_of_other_columns_is_refused_at_load(mixed, tmp_path, monkeypatch):
    X = features()
    odd = copy(mixed)
    name, parts = next(iter(mixed.estimators_.items()))
    strange = copy(parts[0]).set_params(columns=None).fit(X.rename({"plain": "other"}), mixed_targets(X))
    estimators = {**mixed.estimators_, name: (strange, *parts[1:])}
    odd._model = replace(mixed._model, fitted=replace(mixed._fitted, estimators=estimators))
    with monkeypatch.context() as patch:
        patch.setattr(EnsembleState, "_check_columns", lambda *_: None)
        odd.save(tmp_path / "odd")
    with pytest.raises(ValueError, match=rf"a model of '{name}' was fitted on other columns .*'other'"):
        load(tmp_path / "odd")


def test_a_scarce_target_learns_from_the_others():
    X, y = scarce_table()
    X_test, y_test = scarce_table(n_labels=600, seed=1)
    model = MultiTaskEnsemble(models=CANDIDATES, n_folds=4, random_state=0).fit(X, y)
    score = model.score_tasks(X_test, y_test)["scarce"]
    alone = np.mean([part.predict(X_test)["scarce"] for part in model.estimators_["alone"]], axis=0)
    # the mean: R² 0; the single-task models: below .4
    assert r2_score(y_test["scarce"], alone) < 0.4
    assert score > 0.7
    weights = model.model_weights_.filter(task="scarce").drop("task").row(0, named=True)
    assert weights["alone"] < 0.2
    assert "LinearStack" in weights


def test_out_of_fold_scores_are_honest():
    rng = np.random.default_rng(0)
    X, noise = rng.normal(size=(200, 4)), rng.normal(size=(200, 2))
    model = MultiTaskEnsemble(models=CANDIDATES, n_folds=5, random_state=0).fit(X, noise)
    scores = model.leaderboard_.filter(pl.col("model") != "MultiTaskEnsemble")["score"]
    assert scores.max() < 0.05  # of labels that were seen, trees reach far more
    assert model.score_tasks(X, noise)["y0"] > 0.1


@pytest.mark.parametrize("is_long", [False, True])
def test_predictions_are_the_weighted_means_of_the_folds(is_long):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(300, 4))
    y = 2 * x[:, 0] + x[:, 1] + 1.5 * np.sin(3 * x[:, 2]) + 0.3 * rng.normal(size=300)  # lines and trees know a part
    X = pl.DataFrame(x)
    if is_long:
        X = X.with_columns(school=pl.Series(np.resize(["east", "north", "west"], 300)))
    candidates = CANDIDATES if is_long else {"trees": ALONE, "line": IndependentTasks(regressor=Ridge())}
    task_column = "school" if is_long else None
    model = MultiTaskEnsemble(models=candidates, n_folds=3, task_column=task_column, random_state=0).fit(X, y)
    assert {len(parts) for parts in model.estimators_.values()} == {3}
    plain = {
        name: np.mean([np.ravel(p.predict(X)) for p in parts], axis=0) for name, parts in model.estimators_.items()
    }
    weights = model.model_weights_.drop("task").to_numpy()
    assert_allclose(weights.sum(axis=1), 1)
    assert is_long or 0.1 < model.model_weights_["line"].item() < 0.9
    expected = (weights.T[:, np.arange(300) % len(weights)] * list(plain.values())).sum(axis=0)
    for t in range(len(weights)):
        expected[t :: len(weights)] = model.stretch_.answer(model.tasks_, t, expected[t :: len(weights)])
    assert_allclose(np.ravel(model.predict(X)), expected)


def test_the_leaderboard_tells_all(mixed):
    board = mixed.leaderboard_
    names = ["alone", "together", "LinearStack", "MultiTaskEnsemble"]
    assert board["model"].unique(maintain_order=True).to_list() == names
    assert board.filter(model="alone")["task"].to_list() == ["late", "size", "delay"]
    assert_allclose(board.drop_nulls("weight").group_by("task").agg(pl.col("weight").sum())["weight"], 1)
    mixture = board.filter(model="MultiTaskEnsemble")
    best_alone = board.filter(model="alone")
    # each third of the rows has weights that the others choose
    assert (mixture["score"] >= best_alone["score"] - best_alone["standard_error"] / 2).all()
    assert (board["standard_error"] > 0).all()
    assert (board["seconds"] > 0).all()
    assert board["left_out"].null_count() == len(board)


def test_one_task_has_no_linear_models_and_the_largest_seed_a_seed_for_every_fold():
    X, y = scarce_table(60)
    ensemble = MultiTaskEnsembleRegressor(models=CANDIDATES, n_folds=2, random_state=2**32 - 1)
    model = ensemble.fit(X, y["first"])
    assert "LinearStack" not in model.leaderboard_["model"].to_list()
    assert model.stack_ is None
    for parts in model.estimators_.values():
        assert [part.random_state for part in parts] == [2**32 - 1, 0]


@pytest.mark.all_faces  # starts processes
def test_full_refits_once_on_all_rows_and_processes_change_nothing():
    X, y = scarce_table(300)
    ensemble = MultiTaskEnsemble(models=CANDIDATES, n_folds=2, refit=True, random_state=0)
    model, other = (copy(ensemble.set_params(n_processes=n).fit(X, y)) for n in (1, 2))
    assert_array_equal(model.predict(X), other.predict(X))
    assert model.model_weights_.equals(other.model_weights_)
    assert {len(parts) for parts in model.estimators_.values()} == {1}
    alone = model.estimators_["alone"][0]
    direct = IndependentTasks(**ALONE.get_params(deep=False) | {"random_state": 0}).fit(X, y)
    assert_array_equal(alone.predict(X), direct.predict(X))
    X_test, y_test = scarce_table(n_labels=600, seed=1)
    assert model.score_tasks(X_test, y_test)["scarce"] > 0.6  # the mean: 0


def test_validation_rows_choose_the_weights_and_nothing_else():
    """Validation rows lie beyond those to fit, where lines go on and trees do not."""
    rng = np.random.default_rng(0)
    X, X_val = pl.DataFrame(rng.normal(size=(150, 2))), pl.DataFrame(3 + rng.normal(size=(80, 2)))
    line = X.to_series() + 0.1 * rng.normal(size=150)
    y = pl.DataFrame({"line": line, "noise": rng.normal(size=150), "unseen": line})
    y_val = pl.DataFrame({"line": X_val.to_series(), "noise": rng.normal(size=80), "unseen": [None] * 80})
    candidates = {"trees": ALONE, "line": IndependentTasks(regressor=Ridge()), "together": TOGETHER}
    ensemble = MultiTaskEnsemble(models=candidates, random_state=0)
    with pytest.warns(TabmtlWarning, match=r"tasks 'unseen' have labels too few.*; label more rows of them in y_val$"):
        model = ensemble.fit(X, y, X_val=X_val, y_val=y_val)
    assert model.model_weights_["line"][0] == 1
    means = model.model_weights_[:2].drop("task").mean().row(0)
    assert_allclose(model.model_weights_.drop("task").row(2), means)  # the task without labels follows the others
    assert model.stack_ is None
    (part,) = model.estimators_["line"]
    assert_allclose(part.predict(X_val)["line"], Ridge().fit(X, line).predict(X_val))
    board = model.leaderboard_.filter(model="line", task="line")
    assert board["score"].item() == pytest.approx(r2_score(y_val["line"], part.predict(X_val)["line"]))


class Zeros:
    """What answers 0 to all rows."""

    def answer(self, rows, labels, how, X=None, places=None):
        return [np.zeros(len(rows))]


class Timed(IndependentTasks):
    """A candidate whose fit takes some seconds of a clock, which stands still otherwise."""

    def after(self, clock, seconds):
        self.clock, self.seconds = clock, seconds
        return self

    def __sklearn_clone__(self):
        return Timed().after(self.clock, self.seconds)

    def _fit(self, coder, rows, valid, seed):
        self.clock.return_value += self.seconds
        return {"_fitted": Zeros()}


@pytest.mark.parametrize(
    ("time_limit", "expected", "end"),
    [
        (1, ["a"], 10),  # the first is always fitted
        (24, ["a", "b"], 20),  # none begins with less time left than 5 seconds, half of what each has taken
        (39, ["a", "b"], 42),  # one fold of c says that all would take 50, and one of d passes the limit
        (70, ["a", "b", "e"], 47),  # c and d are given up after one fold each
        (75, ["a", "b", "c"], 70),
        (1e9, ["a", "b", "c", "d", "e"], 135),
    ],
)
def test_the_limit_of_time_is_kept(monkeypatch, time_limit, expected, end):
    X, y = scarce_table(20)
    coder, rows, _ = IndependentTasks().__learner__().rows(ExitStack(), X, y["first"], None, Marks())
    clock = Mock(return_value=0.0)
    for module in (trials, watch):
        monkeypatch.setattr(module, "perf_counter", clock)
    seconds = {"a": 2, "b": 2, "c": 10, "d": 12, "e": 1}
    candidates = {name: Timed().after(clock, fold) for name, fold in seconds.items()}
    folds = Folds.deal(Table.read(X, coder, rows.batch), coder, 5, 0)
    limit = watch.Watch(time_limit=time_limit)
    found = trials.Trials(candidates, folds, 0, limit, 1, lambda name: False)
    assert list(found.run()) == expected
    assert limit.was_cut == (len(expected) < 5)
    assert found.left_out == {name: "there was no time" for name in candidates if name not in expected}
    assert clock.return_value == end


def test_what_does_not_fit_the_time_is_left_out_and_said(reloaded, capsys):
    X, y = scarce_table(60)
    ensemble = MultiTaskEnsemble(models=CANDIDATES, n_folds=2, time_limit=1e-9, random_state=0, verbose=1)
    with pytest.warns(TabmtlWarning, match=r"time_limit=1e-09 .*\['together'\]"):
        board = ensemble.fit(X, y[["first"]]).leaderboard_
    assert board["model"].to_list() == ["alone", "together", "MultiTaskEnsemble"]
    assert board["left_out"].to_list() == [None, "there was no time", None]
    assert "together  left out: there was no time\n" in capsys.readouterr().out
    assert reloaded(ensemble).leaderboard_.equals(board)


def test_candidates_that_raise_errors_are_left_out_and_said():
    X, y = scarce_table(100)
    candidates = {
        "odd": raising(ValueError("no luck"), IndependentTasks),
        **CANDIDATES,
        "wild": SharedBottom(learning_rate=1e30, epochs=3, device="cpu"),
    }
    with pytest.warns(TabmtlWarning) as caught:
        model = MultiTaskEnsemble(models=candidates, n_folds=2, random_state=0).fit(X, y[["first"]])
    reasons = {"odd": "ValueError: no luck", "wild": "diverged"}
    assert len(caught) == 2
    for warning, (name, reason) in zip(caught, reasons.items(), strict=True):
        assert f"the candidate {name!r} is left out" in str(warning.message)
        assert reason in str(warning.message)
        row = model.leaderboard_.row(by_predicate=pl.col("model") == name, named=True)
        assert reason in row.pop("left_out")
        nothing = dict.fromkeys(("score", "standard_error", "seconds"))
        assert row == {"model": name, "task": "first", "weight": 0, "is_judged": True, **nothing}
    others = model.leaderboard_.filter(~pl.col("model").is_in([*reasons]))
    assert others["left_out"].null_count() == len(others) == 3
    assert model.predict(X).shape == (100, 1)


def test_a_candidate_that_raises_when_refitted_is_left_out_and_the_others_are_weighed_anew():
    X, y = scarce_table(100)
    candidates = CANDIDATES | {"together": raising(ValueError("too many"), from_rows=100)}
    ensemble = MultiTaskEnsemble(models=candidates, n_folds=2, refit=True, random_state=0)
    with pytest.warns(TabmtlWarning, match="'together' is left out, because its fit raised ValueError: too many"):
        model = ensemble.fit(X, y[["first", "second"]])
    assert "together" not in model.model_weights_.columns
    assert_allclose(model.model_weights_.drop("task").sum_horizontal(), 1)
    assert set(model.leaderboard_.filter(model="together")["left_out"]) == {"ValueError: too many"}


@pytest.mark.parametrize(
    ("candidates", "error"),
    [
        ({"odd": partial(raising, base=IndependentTasks), "together": lambda error: TOGETHER}, ValueError("no luck")),
        ({"alone": lambda error: ALONE, "big": raising}, MemoryError()),
        ({"alone": lambda error: ALONE, "long": raising}, KeyboardInterrupt()),
    ],
)
def test_errors_that_end_the_fit(candidates, error):
    X, y = scarce_table(40)
    ensemble = MultiTaskEnsemble(models={name: make(error) for name, make in candidates.items()}, n_folds=2)
    with pytest.raises(type(error)) as caught:
        ensemble.fit(X, y[["first"]])
    assert caught.value is error
    assert not hasattr(ensemble, "model_weights_")
    if isinstance(error, ValueError):
        assert "'odd', the last of single tasks" in error.__notes__[0]


def test_candidates_that_are_changed_later_are_saved_as_they_were_fitted(reloaded):
    X, y = scarce_table(60)
    candidates = {"alone": ALONE, "together": SharedTrees(n_estimators=20, n_estimators_task=5)}
    model = MultiTaskEnsemble(models=candidates, n_folds=2, random_state=0).fit(X, y[["first"]])
    candidates["together"].set_params(n_estimators=7)
    candidates["more"] = SharedTrees()
    loaded = reloaded(model)
    assert list(loaded.models) == ["alone", "together"]
    assert loaded.models["together"].n_estimators == 20
    assert model.models is candidates


@pytest.mark.parametrize(
    ("candidates", "error", "message"),
    [
        ({}, TypeError, "map names to estimators"),
        ([SharedTrees()], TypeError, "map names to estimators"),
        ({"ridge": Ridge()}, TypeError, r"models\['ridge'\].*IndependentTasks\(classifier"),
        ({"trees": SharedTrees}, TypeError, r"models\['trees'\].*that is the class; write SharedTrees\(\)"),
        ({"LinearStack": SharedTrees()}, ValueError, "'LinearStack'"),
        ({"task": SharedTrees()}, ValueError, "got 'task'"),
        ({3: SharedTrees()}, ValueError, "names of text"),
        (
            {"alone": raising(AssertionError("fitted"), IndependentTasks), "net": SharedBottom(epochs=0)},
            ValueError,
            r"models\['net'\]: epochs must be",
        ),
    ],
)
def test_bad_candidates_are_named(candidates, error, message):
    with pytest.raises(error, match=message):
        MultiTaskEnsemble(models=candidates).fit(np.zeros((3, 1)), [1.5, 2.5, 3.5])


def test_a_reference_is_added_where_none_is_given_and_single_tasks_come_first():
    (name, added), *others = candidates({"together": TOGETHER}).items()
    assert (name, added.answers_unseen) == ("IndependentTasks", True)
    assert others == [("together", TOGETHER)]
    taken = {"IndependentTasks": TOGETHER}
    assert list(candidates(taken)) == ["IndependentTasks_", "IndependentTasks"]
    own = {"together": TOGETHER, "ridge": IndependentTasks(regressor=Ridge())}
    assert list(candidates(own)) == ["ridge", "together"]


def test_fits_are_shown(capsys):
    X, y = scarce_table(60)
    ensemble = MultiTaskEnsemble(models=CANDIDATES, n_folds=2, refit=True, verbose=1, random_state=0)
    ensemble.fit(X, y[["first"]])
    names = ["alone", "alone", "together", "together", *ensemble.estimators_]
    lines = capsys.readouterr().out.splitlines()
    fits = [line.split("  ")[:3] for line in lines[: len(names)]]
    assert fits == [["MultiTaskEnsemble", f"fit {k}/6", name] for k, name in enumerate(names, 1)]
    scores = ensemble.leaderboard_["model", "score"].rows()
    told = [f"MultiTaskEnsemble  {name}  mean out-of-fold score {score:.4f}" for name, score in scores]
    assert lines[len(names) :] == told


@pytest.mark.all_faces  # five models, in all folds
@pytest.mark.parametrize("is_long", [False, True])
def test_all_default_models_are_tried(is_long):
    X, y = long_table() if is_long else (features(), mixed_targets(features()))
    params = {"task_column": "school"} if is_long else {}
    board = MultiTaskEnsemble(n_folds=2, random_state=0, **params).fit(X, y).leaderboard_
    assert board["left_out"].null_count() == len(board)
    assert {*MultiTaskEnsemble.default_models()} <= {*board["model"]}


def test_a_fit_has_the_time_that_is_left_as_its_own_limit(monkeypatch):
    X, y = scarce_table(60)
    limits = []

    class Limited(SharedTrees):
        def _fit(self, coder, rows, valid, seed):
            limits.append(self.time_limit)
            return super()._fit(coder, rows, valid, seed)

    candidates = {"alone": ALONE, "own": Limited(n_estimators=2, time_limit=5.0), "rest": Limited(n_estimators=2)}
    MultiTaskEnsemble(models=candidates, n_folds=2, time_limit=500, random_state=0).fit(X, y[["first"]])
    assert limits[:2] == [5.0, 5.0]
    assert all(100 < limit < 500 for limit in limits[2:])


def test_tasks_with_next_to_no_labels_follow_the_others():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(240, 3))
    signal = X[:, 0] + 0.5 * X[:, 1]
    y = pl.DataFrame({"many": signal + 0.3 * rng.normal(size=240), "also": signal + 0.3 * rng.normal(size=240)})
    rank = signal.argsort().argsort()
    y = y.with_columns(
        four=pl.Series(np.where(rank >= 236, "yes", "no")), nine=pl.when(pl.int_range(240) < 9).then("many")
    )
    with pytest.warns(TabmtlWarning, match=r"tasks 'four', 'nine' have labels too few.*; label more rows of them$"):
        model = MultiTaskEnsemble(models=CANDIDATES, n_folds=3, random_state=0).fit(X, y)
    weights = model.model_weights_.drop("task").to_numpy()
    assert_allclose(weights.sum(axis=1), 1)
    assert_array_equal(weights[2], weights[3])
    X_new = rng.normal(size=(400, 3))
    signal = X_new[:, 0] + 0.5 * X_new[:, 1]
    truth = pl.DataFrame({"many": signal, "also": signal, "four": np.where(signal > 1.5, "yes", "no"), "nine": signal})
    scores = model.score_tasks(X_new, truth)
    judged = model.leaderboard_.filter(model="MultiTaskEnsemble")["is_judged"]
    assert judged.to_list() == [True, True, False, False]
    assert scores["four"] > 0.8  # chance: .5
    assert scores["nine"] > 0.3  # the mean: 0


@pytest.mark.parametrize("options", [{}, {"groups": True, "sample_weight": True}])
def test_validation_rows_are_learned_by_the_models_that_are_fitted_again(options):
    X, y = scarce_table(300)
    X_val, y_val = scarce_table(100, seed=1)
    given = {"groups": np.arange(len(X)) // 3, "sample_weight": np.full(len(X), 2.0)} if options else {}
    ensemble = MultiTaskEnsemble(models={"alone": ALONE, "together": TOGETHER}, random_state=0)
    first, again = (
        copy(ensemble.set_params(refit=refit).fit(X, y, X_val=X_val, y_val=y_val, **given)) for refit in (False, True)
    )
    assert again.model_weights_.equals(first.model_weights_)
    both = pl.concat([X, X_val]), pl.concat([y, y_val])
    if options:  # rows without a group are one, and rows without a weight have the mean weight
        given = {"groups": np.append(given["groups"], [-1] * len(X_val)), "sample_weight": np.ones(len(both[0]))}
    assert again.estimators_.keys() == first.estimators_.keys()
    for name, (model,) in again.estimators_.items():
        direct = clone(ensemble.models[name]).set_params(random_state=0).fit(*both, **given)
        assert_array_equal(model.predict(X_val), direct.predict(X_val))


def test_what_was_refitted_is_not_fitted_again_for_the_sake_of_others(monkeypatch):
    fitted = []

    def fit_or_catch(candidate, table, seed):
        fitted.append(candidate)
        return ValueError("too many") if candidate == "b" else candidate.upper()

    monkeypatch.setattr("tabmtl.ensemble.trials._fit_or_catch", fit_or_catch)
    candidates = {"a": "a", "b": "b", "c": "c"}
    folds = SimpleNamespace(whole=None)
    made = trials.Trials(candidates, folds, 0, watch.Watch(), 1, lambda name: False)
    monkeypatch.setattr(trials.Trials, "_leave_out", lambda self, name, error: self.left_out.update({name: "error"}))
    assert made.refit(["a", "b"]) == {"a": "A"}
    assert made.refit(["a", "c"]) == {"a": "A", "c": "C"}
    assert fitted == ["a", "b", "c"]


@pytest.mark.parametrize("is_long", later([False, True], True))
def test_single_tasks_are_fitted_once_and_answer_rows_unseen(is_long, reloaded):
    rng = np.random.default_rng(0)
    if is_long:
        X, y = long_table(240)
    else:
        X, y = rng.normal(size=(240, 3)), rng.normal(size=(240, 2))  # noise
        y[100:, 1] = np.nan
    params = {"task_column": "school"} if is_long else {}
    candidates = {"alone": IndependentTasks(patience=5), "together": TOGETHER}
    model = MultiTaskEnsemble(models=candidates, n_folds=2, random_state=0, **params).fit(X, y)
    assert {name: len(parts) for name, parts in model.estimators_.items()}.items() <= {
        "alone": 1,
        "together": 2,
    }.items()
    if not is_long:
        assert model.leaderboard_.filter(model="alone")["score"].max() < 0.05  # of labels that were seen, far more
    assert_array_equal(np.ravel(reloaded(model).predict(X)), np.ravel(model.predict(X)))
