"""What all networks share: training options, the history, early stopping, devices, and that they learn."""

from __future__ import annotations

import pickle
import warnings

import numpy as np
import polars as pl
import pytest
from cases import quick
from conformance import NETWORKS, answers, features, mixed_targets, same, tiny
from models_at_hand import fitted

from tabmtl import IndependentTasks, MultiTabNet, SharedBottom, TabmtlWarning
from tabmtl.synth import make_multitab_bench
from tabmtl.training.epochs import Judged
from tabmtl.training.table_loop import TableLoop

every_network = pytest.mark.parametrize("cls", NETWORKS, ids=lambda cls: cls.__name__)
#: What the code that all networks share does: asked of two in `make test`, of all in `make test-all`.
a_few_networks = pytest.mark.parametrize("cls", quick(NETWORKS, "SharedBottom", "MultiTabNet"))


def parts(n: int = 120):
    """Features and targets to train on and to validate on."""
    X, X_val = features(n), features(n, seed=1)
    return X, mixed_targets(X), X_val, mixed_targets(X_val, seed=1)


@every_network
def test_the_history_is_a_frame_with_a_row_an_epoch(cls):
    X, y, X_val, y_val = parts()
    estimator = tiny(cls, epochs=3).fit(X, y, X_val=X_val, y_val=y_val)
    history = estimator.history_
    metrics = ["late/loss", "late/roc_auc", "size/loss", "size/roc_auc", "delay/loss", "delay/r2"]
    expected = ["epoch"] + [f"{part}/{name}" for part in ("train", "val") for name in [*metrics, "loss", "score"]]
    assert history.columns == expected
    assert history.schema == {name: pl.Int64 if name == "epoch" else pl.Float64 for name in expected}
    assert history["epoch"].to_list() == [0, 1, 2]
    assert sum(history.null_count().row(0)) == 0


@every_network
def test_the_kept_weights_have_the_best_score_of_the_history(cls):
    X, y, X_val, y_val = parts()
    estimator = tiny(cls, epochs=12, learning_rate=0.05, patience=3).fit(X, y, X_val=X_val, y_val=y_val)
    scores = estimator.history_["val/score"]
    assert estimator.score(X_val, y_val) == pytest.approx(scores.max(), abs=1e-6)
    assert estimator.best_iteration_ == scores.arg_max() + 1
    assert len(scores) <= estimator.best_iteration_ + 3


@a_few_networks
def test_rows_are_set_aside_where_none_are_given(cls):
    X, y, _, _ = parts()
    estimator = tiny(cls, validation_fraction=0.25).fit(X, y)
    assert "val/score" in estimator.history_.columns
    assert "val/score" not in tiny(cls).fit(X[:15], y[:15]).history_.columns


@a_few_networks
def test_the_hook_sees_every_epoch_and_can_stop(cls):
    X, y, X_val, y_val = parts()
    records = []

    def stop_after_two(record):
        records.append(dict(record))
        return len(records) == 2

    estimator = tiny(cls, epochs=9, on_epoch=stop_after_two).fit(X, y, X_val=X_val, y_val=y_val)
    assert records == estimator.history_.to_dicts()
    assert len(records) == 2


@a_few_networks
def test_an_error_in_the_hook_leaves_the_estimator_as_it_was(cls):
    estimator, X, y = fitted(cls)
    said, before = answers(estimator, X), dict(vars(estimator))
    estimator.on_epoch = lambda record: 1 / 0
    with pytest.raises(ZeroDivisionError):
        estimator.fit(X, y)
    estimator.on_epoch = None
    assert vars(estimator) == before
    assert same(said, answers(estimator, X))


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"random_state": -1}, "random_state"),
        ({"balance": "famo"}, "balance must be 'sum', weights by task name or in task order, or an object with a"),
        ({"device": "toaster"}, "toaster"),
        ({"monitor": "speed"}, r"monitor must be 'mean' or a task, got 'speed'; tasks are \['late'"),
        ({"batch_size": "all"}, "batch_size must be a whole number or 'auto', got 'all'"),
        ({"monitor": "delay"}, r"y_val has no label to stop on .*delay"),
    ],
)
def test_what_no_field_refuses_by_itself_is_named(params, message):
    X, y, X_val, y_val = parts()
    y_val = y_val.with_columns(pl.lit(None).cast(y_val["delay"].dtype).alias("delay"))
    with pytest.raises((ValueError, RuntimeError), match=message):
        tiny(SharedBottom, **params).fit(X, y, X_val=X_val, y_val=y_val)


def test_a_monitor_without_a_label_in_rows_that_were_set_aside_is_named():
    X, y, _, _ = parts()
    y = y.with_columns(delay=pl.when(pl.int_range(pl.len()) == 0).then("delay"))
    with pytest.raises(ValueError, match=r"none of the \d+ rows that were set aside has a label of 'delay', .*X_val"):
        tiny(SharedBottom, monitor="delay").fit(X, y)


@a_few_networks
def test_both_ways_to_scale_numbers_are_there(cls):
    X, y, _, _ = parts()
    quantile = tiny(cls, numeric_transform="quantile").fit(X, y)
    assert not same(answers(quantile, X), answers(tiny(cls, numeric_transform="standardize").fit(X, y), X))
    stretched = X.with_columns(pl.col("plain").exp())
    other = tiny(cls, numeric_transform="quantile").fit(stretched, y)
    assert np.corrcoef(quantile.predict(X)["delay"], other.predict(stretched)["delay"])[0, 1] > 0.998


@a_few_networks
def test_bfloat16_is_close_to_float32(cls):
    X, y, _, _ = parts()
    full, half = (tiny(cls, precision=precision).fit(X, y) for precision in ("float32", "bf16"))
    gap = np.abs(full.predict_proba(X)["late"] - half.predict_proba(X)["late"]).max()
    assert 0 < gap < 0.05


def test_rows_that_look_at_each_other_meet_in_batches():
    estimator, X, _ = fitted(MultiTabNet, row_layer="batch_attention", batch_size=50)
    whole = answers(estimator, X)
    parts = [answers(estimator, X[start : start + 40]) for start in range(0, 120, 40)]
    assert same(whole, [np.concatenate(each) for each in zip(*parts, strict=True)])
    assert not same([whole[-1][:20]], [answers(estimator, X[:20])[-1]])
    estimator.set_params(batch_size=7)
    assert same(whole, answers(estimator, X))


@every_network
def test_the_representation_is_named_and_float32(cls):
    estimator, X, _ = fitted(cls)
    representation = estimator.transform(X)
    assert (representation.dtype, representation.ndim, len(representation)) == (np.dtype("float32"), 2, len(X))
    names = estimator.get_feature_names_out()
    assert names.tolist() == [f"{cls.__name__.lower()}{i}" for i in range(representation.shape[1])]
    framed = estimator.set_output(transform="polars").transform(X)
    assert framed.columns == names.tolist()


@every_network
def test_a_pickle_has_arrays_and_no_module(cls):
    estimator, X, _ = fitted(cls)
    answers(estimator, X)  # by its module, which is built
    assert all(isinstance(array, np.ndarray) for array in estimator.weights_.values())
    pickled = pickle.dumps(estimator)
    assert b"torch" not in pickled
    frozen = pickle.loads(pickled)
    for array in frozen.weights_.values():
        array.flags.writeable = False
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert same(answers(frozen, X), answers(estimator, X))


@a_few_networks
def test_the_scores_of_one_class_of_a_task_are_left_out_of_the_history(cls):
    X, y, X_val, y_val = parts()
    only = y_val.with_columns(late=pl.lit("late"))
    estimator = tiny(cls).fit(X, y, X_val=X_val, y_val=only)
    assert estimator.history_["val/late/roc_auc"].null_count() == 2
    assert estimator.history_["val/score"].null_count() == 0
    with pytest.warns(TabmtlWarning, match="'late'"):
        assert estimator.score_tasks(X_val, only)["late"] is None


@a_few_networks
def test_parameters_changed_after_fit_do_not_change_the_fitted_network(cls, reloaded):
    estimator, X, _ = fitted(cls)
    said = answers(estimator, X)
    estimator.set_params(head_hidden=3, dropout=0.7)
    loaded = reloaded(estimator)
    assert loaded.head_hidden == 8
    for other in (estimator, pickle.loads(pickle.dumps(estimator)), loaded):
        assert same(said, answers(other, X))


#: R² of four tasks y = z + z² of closely related projections z of 8 features, on 2 000 new rows after 1 500.
#: The mean of the labels scores 0, a linear model 0.33 at best, no model above 0.997, and one LightGBM per task 0.88.
SINGLE_TASK, CEILING = 0.88, 0.997


@pytest.mark.parametrize(
    ("estimator", "score"),
    [
        (SharedBottom(epochs=15, hidden=(64, 32), batch_size=128, learning_rate=5e-3, n_jobs=1, random_state=0), 0.90),
        (MultiTabNet(epochs=15, batch_size=128, learning_rate=5e-3, n_jobs=1, random_state=0), 0.97),
    ],
    ids=["SharedBottom", "MultiTabNet"],
)
def test_networks_learn_related_tasks_better_than_single_models(estimator, score):
    train = make_multitab_bench(1_500, 8, 4, correlation=0.9, degrees=2, noise=0.1, random_state=0)
    test = train.draw(2_000, random_state=1)
    assert SINGLE_TASK < score <= estimator.fit(train.X, train.y).score(test.X, test.y) < CEILING


@pytest.mark.all_faces  # a model for every task
def test_the_single_models_score_what_the_comparison_says():
    train = make_multitab_bench(1_500, 8, 4, correlation=0.9, degrees=2, noise=0.1, random_state=0)
    test = train.draw(2_000, random_state=1)
    single = IndependentTasks(families=("lightgbm",), n_jobs=1, random_state=0).fit(train.X, train.y)
    assert single.score(test.X, test.y) == pytest.approx(SINGLE_TASK, abs=0.02)
    assert train.truth.linear_score.mean() == pytest.approx(0.33, abs=0.01)
    assert train.truth.score_ceiling.mean() == pytest.approx(CEILING, abs=0.001)


@pytest.mark.parametrize(
    ("changes", "scores", "warns"),
    [
        ({}, [1.0, 2.0, 3.0, 4.0, 5.0, 6.0], True),
        ({"epochs": 5}, [1.0, 2.0, 3.0, 4.0, 5.0], False),  # fewer epochs than the default: the user's choice
        ({"early_stopping": False}, [1.0, 2.0, 3.0, 4.0, 5.0, 6.0], False),
        ({"on_epoch": lambda record: record["epoch"] == 4}, [1.0, 2.0, 3.0, 4.0, 5.0], False),
    ],
)
def test_epochs_that_end_while_the_score_rises_cause_a_warning(changes, scores, warns, monkeypatch):
    monkeypatch.setattr(SharedBottom, "epochs", 6)
    values = iter(scores)
    record = {"val/loss": 0.0, "val/score": 0.0}
    monkeypatch.setattr(TableLoop, "validate", lambda loop: [Judged(record, next(values))])
    X, y, X_val, y_val = parts()
    model = tiny(SharedBottom, **{"epochs": 6, "patience": 4} | changes)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model.fit(X, y, X_val=X_val, y_val=y_val)
    told = [str(one.message) for one in caught if "still rose" in str(one.message)]
    assert bool(told) is warns
    if warns:
        assert "training ended after epochs=6: 6, against 2 4 epochs before; more epochs are likely" in told[0]
        assert {one.filename for one in caught if str(one.message) in told} == {__file__}
