"""scikit-learn's callbacks see fits and epochs, may end training, and change nothing else."""

import importlib.util
import pickle
import sys
import warnings

import numpy as np
import polars as pl
import pytest
from conformance import ESTIMATORS, NETWORKS, answers, features, mixed_targets, same, targets_for, tiny
from models_at_hand import fitted
from sklearn.base import clone
from sklearn.callback import ProgressBar, ScoringMonitor
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import tabmtl.training.hooks
from tabmtl import ConstantFeatureWarning, MMoE, MultiTabNet, SharedBottom, make_multitask_scorer

X, Y = features(), mixed_targets(features())
every_network = pytest.mark.parametrize("cls", NETWORKS, ids=lambda cls: cls.__name__)


class Witness:
    """Writes down what happens; asks to stop at the end of an epoch, or fails there."""

    def __init__(self, stop_after=None, fail_after=None):
        self.seen, self.kept = [], []
        self.stop_after, self.fail_after = stop_after, fail_after

    def setup(self, estimator, context):
        self.seen.append("setup")

    def teardown(self, estimator, context):
        self.seen.append("teardown")

    def on_fit_task_begin(self, estimator, context):
        self.seen.append(f"begin {context.task_name} {context.task_id}")

    def on_fit_task_end(self, estimator, context, *, X, y, metadata, fitted_estimator):
        self.seen.append(f"end {context.task_name} {context.task_id}")
        if context.task_name == "epoch":
            if context.task_id == self.fail_after:
                raise OSError("the disk is full")
            self.kept.append(fitted_estimator)
        return context.task_name == "epoch" and context.task_id == self.stop_after


def test_fit_and_epochs_are_tasks():
    witness = Witness()
    tiny(SharedBottom, epochs=2).set_callbacks(witness).fit(X, Y)
    epochs = ["begin epoch 0", "end epoch 0", "begin epoch 1", "end epoch 1"]
    assert witness.seen == ["setup", "begin fit 0", *epochs, "end fit 0", "teardown"]


@pytest.mark.parametrize(
    "cls",
    [
        pytest.param(cls, id=cls.__name__, marks=pytest.mark.all_faces if cls._target_kind else ())
        for cls in ESTIMATORS
        if "epochs" not in cls._get_param_names()
    ],
)
def test_without_epochs_the_fit_is_one_task(cls):
    witness = Witness()
    estimator = tiny(cls).set_callbacks(witness).fit(X, targets_for(cls, X))
    assert witness.seen == ["setup", "begin fit 0", "end fit 0", "teardown"]
    assert same(answers(estimator, X), answers(fitted(cls)[0], X))


@every_network
def test_callbacks_change_no_bit(cls):
    witness = Witness()
    estimator = tiny(cls).set_callbacks(witness).fit(X, Y)
    plain = tiny(cls).fit(X, Y)
    assert same(answers(estimator, X), answers(plain, X))
    assert estimator.history_.equals(plain.history_)
    assert vars(estimator).keys() - vars(plain).keys() == {"_skl_callbacks"}


@pytest.mark.parametrize("early_stopping", [True, False])
@pytest.mark.parametrize("cls", [MMoE, MultiTabNet], ids=lambda cls: cls.__name__)
def test_a_stop_ends_training_with_the_estimator_that_the_callback_was_given(cls, early_stopping, reloaded):
    params = {"epochs": 5, "early_stopping": early_stopping, "learning_rate": 0.02}
    witness = Witness(stop_after=2)
    stopped = tiny(cls, **params).set_callbacks(witness).fit(X, Y)
    assert stopped.history_["epoch"].to_list() == [0, 1, 2]
    assert witness.seen[-3:] == ["end epoch 2", "end fit 0", "teardown"]
    assert [len(kept.history_) for kept in witness.kept] == [1, 2, 3]
    chosen = reloaded(witness.kept[stopped.best_iteration_ - 1])
    assert same(answers(chosen, X), answers(stopped, X))
    assert not same(answers(witness.kept[0], X), answers(witness.kept[1], X))


def test_the_hook_and_the_callbacks_are_both_asked():
    records = []
    estimator = tiny(SharedBottom, epochs=4, on_epoch=lambda record: records.append(record) or len(records) == 3)
    estimator.set_callbacks(Witness()).fit(X, Y)
    assert len(estimator.history_) == len(records) == 3
    estimator.set_callbacks(Witness(stop_after=1)).fit(X, Y)
    assert len(estimator.history_) == 2


def test_an_epoch_that_never_runs_is_ended():
    witness = Witness()
    estimator = tiny(SharedBottom, epochs=40, patience=1, learning_rate=0.5).set_callbacks(witness).fit(X, Y)
    assert len(estimator.history_) < 40
    begun, ended = ([line for line in witness.seen if line.startswith(what)] for what in ("begin", "end"))
    assert len(begun) == len(ended) == 1 + len(estimator.history_) + 1
    assert witness.kept[-1] is None


@pytest.mark.parametrize("fail_after", [0, 1])
def test_a_failed_fit_leaves_the_estimator_as_it_was(fail_after):
    estimator = tiny(SharedBottom).fit(X, Y)
    witness = Witness(fail_after=fail_after)
    estimator.set_callbacks(witness)
    before = dict(vars(estimator))
    with pytest.raises(OSError, match="the disk is full"):
        estimator.fit(X[:60], Y[:60])
    assert witness.seen[-1] == "teardown"
    assert vars(estimator) == before
    assert same(answers(estimator, X), answers(tiny(SharedBottom).fit(X, Y), X))


def test_a_wrong_parameter_is_refused_before_a_callback_hears_of_it():
    witness = Witness()
    with pytest.raises(ValueError, match="epochs"):
        tiny(SharedBottom, epochs="many").set_callbacks(witness).fit(X, Y)
    assert witness.seen == []


def test_clones_have_the_callbacks_and_files_do_not(reloaded):
    witness = Witness()
    estimator = clone(tiny(SharedBottom).set_callbacks(witness)).fit(X, Y)
    assert witness.seen[0] == "setup"
    loaded = reloaded(estimator)
    assert not hasattr(loaded, "_skl_callbacks")
    assert same(answers(loaded, X), answers(estimator, X))
    assert same(answers(pickle.loads(pickle.dumps(estimator)), X), answers(estimator, X))
    witness.seen.clear()
    estimator.set_callbacks().fit(X, Y)
    assert witness.seen == []


def test_a_monitor_scores_every_epoch():
    monitor = ScoringMonitor(scoring=make_multitask_scorer(per_task=True))
    estimator = tiny(SharedBottom, epochs=3, early_stopping=False).set_callbacks(monitor).fit(X, Y)
    log = pl.DataFrame(monitor.get_logs().data)
    epochs = log.filter(task_name="epoch").sort("task_id")
    assert epochs["task_id"].to_list() == [0, 1, 2]
    assert epochs["mean"].n_unique() == 3
    last = {name: epochs[name][-1] for name in Y.columns}
    assert last == estimator.score_tasks(X, Y)
    assert log.filter(task_name="fit")["mean"].item() == epochs["mean"][-1]


def test_a_monitor_weighs_the_rows_as_fit_does():
    monitor = ScoringMonitor(scoring=make_multitask_scorer(per_task=True))
    weight = np.random.default_rng(0).random(len(X))
    estimator = tiny(SharedBottom).set_callbacks(monitor).fit(X, Y, sample_weight=weight)
    row = monitor.get_logs().data[0]
    assert {name: row[name] for name in Y.columns} == estimator.score_tasks(X, Y, weight)


def test_a_search_shows_the_epochs_of_its_fits(capsys):
    pytest.importorskip("rich")
    witness = Witness()
    estimator = tiny(SharedBottom).set_callbacks(witness)
    search = GridSearchCV(estimator, {"learning_rate": [0.001, 0.01]}, cv=2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # an estimator without support would be warned of
        warnings.simplefilter("ignore", ConstantFeatureWarning)
        search.set_callbacks(ProgressBar(max_propagation_depth=None)).fit(X, Y)
    shown = capsys.readouterr().out
    assert "GridSearchCV - search #0" in shown
    assert "SharedBottom - fit #3" in shown
    assert "refit-with-best-params | SharedBottom - fit #1" in shown
    assert witness.seen.count("end epoch 1") == 5
    assert vars(search.best_estimator_).keys() == vars(estimator.fit(X, Y)).keys()


def test_a_bar_reaches_the_network_of_a_pipeline(capsys):
    pytest.importorskip("rich")
    model = make_pipeline(StandardScaler(), tiny(SharedBottom))
    model.set_callbacks(ProgressBar()).fit(X.select("plain", "count"), Y)
    assert "fit-final-estimator | SharedBottom - fit #1" in capsys.readouterr().out


@pytest.mark.parametrize("missing", ["module", "method"])
def test_without_the_young_part_of_scikit_learn_a_fit_is_plain(missing, monkeypatch):
    if missing == "module":
        monkeypatch.setitem(sys.modules, "sklearn.callback", None)
    else:
        monkeypatch.delattr("sklearn.callback.CallbackSupportMixin._init_callback_context")
    spec = importlib.util.spec_from_file_location("callbacks_without", tabmtl.training.hooks.__file__)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)
    assert not module.SUPPORTED
    assert module.CallbackSupport is object

    class Estimator(module.CallbackSupport):
        _skl_callbacks = (Witness(),)

    with module.fit_as_task(Estimator(), {"X": X, "y": Y}) as task, module.epochs_as_tasks(task, print, dict) as hook:
        assert hook is print
