"""Objectives: what a trial returns, what ends it early, and whose mistake a failure is."""

import pickle
import re
import sqlite3
from contextlib import closing, contextmanager
from unittest.mock import Mock

import numpy as np
import optuna
import polars as pl
import pytest
import recommenders
from cases import quick
from conformance import features, long_table, mixed_targets, tiny
from optuna.trial import TrialState
from recommenders import ITEMS, TEST, TRAIN
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from tabmtl import RMTGB, IndependentTasks, MultiTabNet, MultiTaskEnsemble, SharedBottom, SharedTrees
from tabmtl.base.schema import TabmtlWarning
from tabmtl.metrics.scores import mean_score
from tabmtl.scale import Shards, blocks
from tabmtl.sessions import VSKNN, Blend, Popularity, SequentialRules
from tabmtl.tuning import choose_point, objective, open_study, pareto_front, run_study, session_objective, with_params

X, Y = features(200), mixed_targets(features(200))
ROWS = {"X_val": X[140:], "y_val": Y[140:]}
NETWORK = tiny(SharedBottom, patience=99)
SPACE = {"learning_rate": {"low": 1e-3, "high": 1e-2, "log": True}}


def table(est=NETWORK, **options):
    return objective(est, X[:140], Y[:140], **{**ROWS, "search_space": SPACE, **options})


def run(goal, n_trials=1, pruner=None, **params):
    """A study of some trials, the first with these parameters."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    sampler = optuna.samplers.RandomSampler(seed=0)
    study = optuna.create_study(directions=["maximize"] * len(goal.names), sampler=sampler, pruner=pruner)
    if params:
        study.enqueue_trial(params)
    study.optimize(goal, n_trials=n_trials)
    return study


@pytest.mark.parametrize("in_files", [False, True])
def test_rows_that_judge_are_unseen_by_an_estimator_with_folds_of_its_own(in_files, tmp_path, monkeypatch):
    X.hstack(Y).write_parquet(tmp_path / "rows.parquet")
    rows = (Shards(str(tmp_path / "rows.parquet")), Y.columns) if in_files else (X, Y)
    goal = objective(IndependentTasks(), *rows, X_val=rows[0], y_val=rows[1], search_space=SPACE)
    monkeypatch.setattr(IndependentTasks, "fit", Mock(side_effect=OSError))
    with pytest.raises(OSError):
        run(goal)
    unseen = {"X_val": None, "y_val": None, "sample_weight": None, "groups": None}
    assert IndependentTasks.fit.call_args.kwargs == {"X": rows[0], "y": rows[1], **unseen}


def prune_after(epoch):
    """A pruner that ends every trial after an epoch."""
    return Mock(spec=optuna.pruners.BasePruner, prune=lambda study, trial: trial.last_step == epoch)


def test_the_mean_of_the_validation_scores_is_maximised():
    goal = table()
    study = run(goal)
    model = with_params(NETWORK, study.best_trial).fit(X[:140], Y[:140], **ROWS)
    assert goal.names == ("mean",)
    assert study.best_value == mean_score(model.score_tasks(*ROWS.values()))
    assert list(study.best_trial.intermediate_values.values()) == model.history_["val/score"].to_list()
    assert list(study.best_trial.intermediate_values) == [1, 2], "epochs from 1"


@pytest.mark.parametrize("cls", quick([SharedBottom, RMTGB, IndependentTasks], "SharedBottom", "RMTGB"))
def test_one_score_per_task_in_their_order(cls):
    est = tiny(cls)
    goal = objective(est, X[:140], Y[:140], **ROWS, per_task=True)
    (trial,) = run(goal).trials
    assert goal.names == ("late", "size", "delay")
    stopped_by = {} if est.__learns_all_rows__ else ROWS  # else they would be learned
    scores = with_params(est, trial).fit(X[:140], Y[:140], **stopped_by).score_tasks(*ROWS.values())
    assert trial.values == list(scores.values())
    assert trial.intermediate_values == {}


@pytest.mark.parametrize(
    ("per_task", "directions"), [(False, ["minimize"]), (True, ["maximize"]), (True, ["maximize"] * 2 + ["minimize"])]
)
def test_a_study_of_other_directions_is_refused_before_any_fit(per_task, directions, monkeypatch):
    monkeypatch.setattr(SharedBottom, "fit", lambda *_, **__: pytest.fail("it was fitted"))
    goal = table(per_task=per_task)
    message = rf"to be maximised, and .* are \['{directions[0]}'.*directions=\['maximize'\] \* {len(goal.names)}"
    with pytest.raises(ValueError, match=message):
        optuna.create_study(directions=directions).optimize(goal, n_trials=1)


@pytest.mark.filterwarnings("error", "ignore::tabmtl.ConstantFeatureWarning")
def test_a_study_made_by_hand_is_named_by_the_objective():
    study = run(table(per_task=True))
    front = pareto_front(study)
    assert choose_point(front, weights={"late": 2, "delay": 1})["score/late"].item() == study.trials[0].values[0]
    study = optuna.create_study(direction="maximize")
    table()(study.ask())
    assert study.metric_names == ["mean"]
    assert table()(optuna.trial.FixedTrial({"learning_rate": 2e-3})) > -99


def test_weights_reach_the_fit():
    weight = np.linspace(0.1, 3, 140)
    (trial,) = run(table(sample_weight=weight, per_task=True)).trials
    model = with_params(NETWORK, trial).fit(X[:140], Y[:140], sample_weight=weight, **ROWS)
    assert trial.values == list(model.score_tasks(*ROWS.values()).values())


def test_the_pruner_ends_a_trial_between_epochs():
    epochs = []
    est = tiny(SharedBottom, epochs=5, on_epoch=lambda record: epochs.append(record["epoch"]))
    (trial,) = run(table(est), pruner=prune_after(2)).trials
    assert trial.state == TrialState.PRUNED
    assert epochs == [0, 1], "the user's own hook is called, and the fit is not finished"
    assert list(trial.intermediate_values) == [1, 2]


def test_a_trial_says_what_it_scored_and_why_it_ended():
    (trial,) = run(table()).trials
    assert trial.user_attrs["scores"].keys() == {"late", "size", "delay"}
    assert mean_score(trial.user_attrs["scores"]) == trial.value
    for goal, reason in [
        (table().within(seconds=1e-6), r"after epoch 1 and \d+\.\d s, of 1e-06"),
        (table().within(floors={"late": 1.1}, warmup=1), r"late is at .*, below 1\.1"),
    ]:
        (trial,) = run(goal).trials
        assert re.fullmatch(reason, trial.user_attrs["ended"])
    (trial,) = run(table(), pruner=prune_after(2)).trials
    assert trial.user_attrs["ended"] == "by the pruner, after epoch 2"


class Notes:
    """A reporter that writes down what it is told."""

    def __init__(self):
        self.told = []

    @contextmanager
    def of(self, trial):
        self.told.append(("begun", dict(trial.params)))
        try:
            yield
        except optuna.TrialPruned as error:
            self.told.append(("pruned", str(error)))
            raise
        self.told.append(("complete", trial.number))

    def log_epoch(self, record):
        self.told.append(("epoch", record["epoch"]))

    def log_scores(self, model, scores):
        self.told.append(("scores", scores == model.score_tasks(*ROWS.values())))


@pytest.mark.parametrize("first", ["within", "reported_to"])
def test_trials_are_reported_in_order_within_their_budget(first):
    notes, budget, seen = Notes(), {"seconds": 600, "floors": {"late": 1.1}, "warmup": 2}, []
    goal = table(tiny(SharedBottom, epochs=4, patience=99, on_epoch=lambda record: seen.append(record["epoch"])))
    goal = goal.within(**budget).reported_to(notes) if first == "within" else goal.reported_to(notes).within(**budget)
    assert {name: getattr(goal, name) for name in budget} == budget
    (trial,) = run(goal).trials
    assert trial.state == TrialState.PRUNED
    assert notes.told[1:] == [("epoch", 0), ("epoch", 1), ("pruned", trial.user_attrs["ended"])]
    assert seen == [0, 1], "the user's own hook is called too"
    (trial,) = run(goal.within(seconds=600)).trials
    assert notes.told[-2:] == [("scores", True), ("complete", 0)]
    (trial,) = run(goal.within(seconds=1e-6)).trials
    assert trial.user_attrs["ended"].startswith("after epoch 1")


def test_floors_end_trials_after_the_warm_up_or_in_the_end():
    epochs = []
    est = tiny(SharedBottom, epochs=4, patience=99, on_epoch=lambda record: epochs.append(record["epoch"]))
    for floor, warmup, state, seen in [
        (1.1, 2, TrialState.PRUNED, [0, 1]),
        (1.1, 9, TrialState.PRUNED, [0, 1, 2, 3]),
        (-99.0, 1, TrialState.COMPLETE, [0, 1, 2, 3]),
    ]:
        epochs.clear()
        goal = table(est, per_task=True).within(floors={"delay": floor}, warmup=warmup)
        (trial,) = run(goal).trials
        assert (trial.state, epochs) == (state, seen)
    trees = objective(tiny(RMTGB), X[:140], Y[:140], **ROWS, per_task=True).within(floors={"late": 1.1})
    assert run(trees).trials[0].state == TrialState.PRUNED


FILES, CONSTANT = (Shards(X.hstack(y).lazy()) for y in (Y, Y.with_columns(size=pl.lit("large"))))
REFUSED = [
    (lambda: table().within(floors={"lat": 0.5}), r"floors names \['lat'\]; there are scores of \['late', 'size', "),
    (lambda: table().within(seconds=0), "seconds must be a finite number above 0"),
    (lambda: objective(tiny(RMTGB), X, Y, X_val=X, y_val=Y).within(seconds=60), "RMTGB has none: leave them out"),
    (lambda: table(y_val=None), "X_val and y_val belong together"),
    (lambda: table(X_val=None, y_val=None), "expected validation rows"),
    (lambda: table(y_val=Y[140:].drop("late")), "late"),
    (lambda: table(tiny(SharedBottom, epochs=0)), "epochs must be at least 1"),
    (lambda: table(VSKNN()), r"expected an estimator of tables.*session_objective"),
    (lambda: session_objective(NETWORK, TRAIN, clicks_val=TEST), "tables are tuned by objective"),
    (lambda: session_objective(Blend([Popularity()]), TRAIN, clicks_val=TEST), "Blend has nothing to tune"),
    (lambda: objective(tiny(MultiTaskEnsemble), X, Y, X_val=X, y_val=Y), "nothing to tune.*parameters by search_space"),
    (lambda: run(table(tiny(SharedBottom, monitor="lat"))), "monitor must be 'mean' or a task"),
    (lambda: objective(NETWORK, FILES, Y.columns, X_val=None, y_val=None), "expected validation rows to judge trials"),
    (lambda: objective(NETWORK, FILES, Y.columns, X_val=CONSTANT, y_val=Y.columns, per_task=True), "d .size: "),
]


@pytest.mark.parametrize(("call", "message"), REFUSED, ids=[message[:30] for _, message in REFUSED])
def test_mistakes_are_refused_before_a_trial_is_over(call, message):
    with pytest.raises((TypeError, ValueError), match=message):
        call()


def test_a_score_that_is_undefined_is_said_before_any_trial():
    one_class = Y[140:].with_columns(late=pl.lit("late"))
    with pytest.raises(ValueError, match=r"1 of 3 are undefined \(late: one single class.*X_val and y_val"):
        table(per_task=True, y_val=one_class)
    with pytest.raises(ValueError, match="3 of 3 are undefined"):
        table(y_val=Y[140:].clear(60))
    with pytest.warns(TabmtlWarning, match=r"1 of 3 tasks have no part in the mean score.*late: one single class"):
        goal = table(y_val=one_class)
    (trial,) = run(goal).trials  # and says nothing more
    model = with_params(NETWORK, trial).fit(X[:140], Y[:140], **ROWS)
    scores = model.score_tasks(*ROWS.values())
    assert trial.value == pytest.approx((scores["size"] + scores["delay"]) / 2, abs=0.2)


@pytest.mark.parametrize("per_task", [False, True])
def test_a_fit_that_diverges_is_pruned_with_its_reason(per_task):
    goal = table(search_space={"learning_rate": {"choices": (1e30,)}}, per_task=per_task)
    with pytest.warns(TabmtlWarning, match=r"trial 0 failed and counts as pruned: DivergenceError: .*diverged"):
        (trial,) = run(goal).trials
    assert trial.state == TrialState.PRUNED
    assert trial.user_attrs["failure"].startswith("DivergenceError")


def test_parameters_that_do_not_go_together_are_pruned_once_a_fit_has_gone_well():
    est = tiny(MultiTabNet, epochs=1)
    space = {"n_heads": {"choices": (2, 3)}}
    goal = table(est, search_space=space)
    with pytest.raises(ValueError, match="multiple of n_heads"):
        run(goal, n_heads=3)
    with pytest.warns(TabmtlWarning, match="ValueError: d_token must be a multiple of n_heads"):
        study = run(goal, n_trials=8, n_heads=2)
    assert {trial.state for trial in study.trials} == {TrialState.COMPLETE, TrialState.PRUNED}
    assert {trial.params["n_heads"] for trial in study.trials if trial.state == TrialState.PRUNED} == {3}


@pytest.mark.parametrize(("error", "is_pruned"), [(MemoryError("no room"), True), (RuntimeError("broken"), False)])
def test_a_lack_of_memory_is_pruned_and_an_error_that_is_no_value_error_raised(error, is_pruned, monkeypatch):
    goal = table()
    run(goal)
    monkeypatch.setattr(SharedBottom, "fit", Mock(side_effect=error))
    if is_pruned:
        with pytest.warns(TabmtlWarning, match="MemoryError: no room"):
            assert run(goal).trials[0].state == TrialState.PRUNED
    else:
        with pytest.raises(RuntimeError, match="broken"):
            run(goal)


def test_parts_of_a_blend_are_tuned_together():
    est = Blend([VSKNN(), SequentialRules(), Popularity()], refit=False, validation_fraction=0.3)
    goal = session_objective(est, TRAIN, clicks_val=TEST)
    assert {name.partition("__")[0] for name in goal.search_space} == {"VSKNN", "SequentialRules"}
    assert goal.defaults == {name: est.get_params()[name] for name in goal.search_space}
    (trial,) = run(goal, **goal.defaults | {"VSKNN__n_neighbors": 60}).trials
    model = with_params(est, trial)
    assert model.models[0].get_params() == VSKNN(n_neighbors=60).get_params()
    assert est.models[0].n_neighbors == VSKNN().n_neighbors
    assert trial.value == model.fit(TRAIN).score(TEST)


def test_sessions_are_pruned_between_epochs():
    est = recommenders.tiny("M2TRec", epochs=3)
    space = {"dropout": {"low": 0.0, "high": 0.5}}
    goal = session_objective(est, TRAIN, items=ITEMS, clicks_val=TEST, search_space=space)
    (trial,) = run(goal, pruner=prune_after(1)).trials
    assert trial.state == TrialState.PRUNED
    (trial,) = run(goal, dropout=0.2).trials
    model = with_params(est, trial).fit(TRAIN, items=ITEMS)
    assert list(trial.intermediate_values.values()) == model.history_["val/mrr@20"].to_list()
    assert trial.value == model.score(TEST)
    with pytest.raises(ValueError, match="floors names"):
        goal.within(floors={"mrr@20": 0.1})


def test_an_objective_can_be_sent_to_another_process():
    goal = pickle.loads(pickle.dumps(table(per_task=True)))
    assert (
        run(goal, learning_rate=2e-3).trials[0].values == run(table(per_task=True), learning_rate=2e-3).trials[0].values
    )


@pytest.mark.parametrize("is_long", [False, True], ids=["wide", "long"])
def test_rows_of_files_are_tried_and_judged_as_those_of_frames_are(is_long, monkeypatch):
    monkeypatch.setattr(blocks, "BLOCK_ROWS", 32)
    rows, targets = long_table() if is_long else (X, Y)
    targets = targets if isinstance(targets, pl.DataFrame) else targets.to_frame()
    est = tiny(RMTGB, task_column="school" if is_long else None)
    frames, files = [], []
    for part in (slice(100), slice(100, None)):
        frames += [rows[part], targets[part]]
        files += [Shards(pl.concat(frames[-2:], how="horizontal").lazy()), targets.columns]
    goals = [objective(est, *some[:2], X_val=some[2], y_val=some[3], per_task=True) for some in (frames, files)]
    assert goals[0].names == goals[1].names
    of_frames, of_files = (run(goal, **goal.defaults).trials[0] for goal in goals)
    assert of_files.values == of_frames.values
    assert of_files.user_attrs == of_frames.user_attrs


def test_other_rows_under_the_name_of_a_study_are_refused(tmp_path):
    storage = tmp_path / "s.db"
    study = open_study("s", table(), storage=storage)
    first = X.columns[0]
    other = X.with_columns(pl.when(pl.int_range(pl.len()) == 0).then(pl.lit(None)).otherwise(first).alias(first))
    changes = {"X": {"X": other[:140]}, "y": {"y": Y[:140][::-1]}, "X_val": {"X_val": X[139:199]}}
    changes |= {"y_val": {"y_val": Y[140:][::-1]}, "sample_weight": {"sample_weight": np.ones(140)}}
    for name, change in changes.items():
        rows = {"X": X[:140], "y": Y[:140], **ROWS, **change}
        goal = objective(NETWORK, rows.pop("X"), rows.pop("y"), **rows, search_space=SPACE)
        expected = rf"study 's' was made with {name} = .* on with 1?\d0 rows of .*another name"
        with pytest.raises(ValueError, match=expected):
            open_study("s", goal, storage=storage)
        with pytest.raises(ValueError, match=expected):
            run_study(study, goal, n_trials=1)
    again = objective(NETWORK, X[:140].lazy(), Y[:140], **ROWS, search_space=SPACE)
    run_study(open_study("s", again, storage=storage), again.within(seconds=60), n_trials=1)


def test_a_study_of_an_older_release_learns_its_rows(tmp_path):
    goal, storage = table(), f"sqlite:///{tmp_path}/s.db"
    study = open_study("s", goal, storage=storage)
    with closing(sqlite3.connect(tmp_path / "s.db")) as file, file:
        file.execute("DELETE FROM study_user_attributes WHERE key = 'tabmtl:facts'")
    open_study("s", goal, storage=storage)
    assert study.user_attrs["tabmtl:facts"] == goal.facts


def test_other_files_and_logs_under_the_name_of_a_study_are_refused(tmp_path):
    frame, target = X.hstack(Y), Y.columns[:1]
    goals = []
    for n in (140, 139):
        frame[:n].write_parquet(tmp_path / "train.parquet")
        frame[140:].write_parquet(tmp_path / "val.parquet")
        files = [Shards(tmp_path / f"{part}.parquet", columns=[*X.columns, *target]) for part in ("train", "val")]
        goals.append(objective(NETWORK, files[0], target, X_val=files[1], y_val=target, search_space=SPACE))
    open_study("files", goals[0], storage=tmp_path / "s.db")
    with pytest.raises(ValueError, match=r"X = 140 rows in 1 files .* on with 139 rows in 1 files"):
        open_study("files", goals[1], storage=tmp_path / "s.db")
    logs = [session_objective(SequentialRules(), TRAIN, clicks_val=test, items=ITEMS) for test in (TEST, TEST[1:])]
    open_study("log", logs[0], storage=tmp_path / "s.db")
    with pytest.raises(ValueError, match="made with clicks_val = "):
        open_study("log", logs[1], storage=tmp_path / "s.db")


def test_a_pipeline_names_the_cure():
    pipeline = make_pipeline(StandardScaler(), SharedTrees())
    with pytest.raises(TypeError, match=r"pipeline\[-1\]\.set_params\(preprocessor=pipeline\[:-1\]\)"):
        table(pipeline)
