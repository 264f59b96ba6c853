"""Every estimator leaves unlabelled cells out, weighs the others, and learns wide and long tables."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch
from conformance import (
    ESTIMATORS,
    FREE,
    MIXED,
    NETWORKS,
    answers,
    features,
    fitted,
    mixed_targets,
    same,
    targets_for,
    tiny,
)

from tabmtl import TabmtlWarning, Task
from tabmtl.estimators.network import _tensors
from tabmtl.training.device import seeded
from tabmtl.training.losses import MultiTaskLoss

every_estimator = pytest.mark.parametrize("cls", ESTIMATORS, ids=lambda cls: cls.__name__)
every_free_estimator = pytest.mark.parametrize("cls", FREE, ids=lambda cls: cls.__name__)
every_mixed = pytest.mark.parametrize("cls", MIXED, ids=lambda cls: cls.__name__)
every_network = pytest.mark.parametrize("cls", NETWORKS, ids=lambda cls: cls.__name__)

CPU = torch.device("cpu")


def untrained(cls):
    """A network of an estimator in training mode, its tasks, and the batch of its training rows."""
    # statistics of a batch, by which one normalises, are of all its rows, unlabelled ones too
    estimator, X, y = fitted(cls, expert_norm="layer")
    coder = estimator._coder
    batch = _tensors(coder.read(X, y), coder, CPU)
    with seeded(0, CPU):
        network = estimator._network(coder.features.columns, coder.labels.tasks)
    return network.train(), coder.labels.tasks, batch


def gradients(network, losses_of):
    """Gradients of all parameters by name, the dropout masks the same in every call."""
    network.zero_grad()
    with seeded(1, CPU):
        losses_of(network).sum().backward()
    return {
        name: np.zeros(p.shape, np.float32) if p.grad is None else p.grad.numpy().copy()
        for name, p in network.named_parameters()
    }


def equal(first, second):
    return all(np.array_equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("t", [0, 1, 2])
@every_network
def test_a_task_without_labels_in_a_batch_has_exactly_zero_gradient(cls, t):
    network, tasks, batch = untrained(cls)
    loss = MultiTaskLoss(tasks)
    y = batch.y.clone()
    y[:, t] = math.nan
    others = [j for j in range(len(tasks)) if j != t]
    without = gradients(network, lambda net: loss(net(batch.x_num, batch.x_cat, None), y))
    alone = gradients(network, lambda net: loss(net(batch.x_num, batch.x_cat, None), batch.y)[others])
    assert equal(without, alone)
    own = gradients(network, lambda net: loss(net(batch.x_num, batch.x_cat, None), batch.y)[t : t + 1])
    assert sum(np.abs(gradient).sum() for gradient in own.values()) > 0


@every_network
def test_a_row_without_labels_has_exactly_zero_gradient(cls):
    network, tasks, batch = untrained(cls)
    loss = MultiTaskLoss(tasks)
    y = batch.y.clone()
    y[::3] = math.nan
    other = batch.x_num.clone()
    other[::3] = 1.7
    codes = batch.x_cat.clone()
    codes[::3] = 0
    there = gradients(network, lambda net: loss(net(batch.x_num, batch.x_cat, None), y))
    elsewhere = gradients(network, lambda net: loss(net(other, codes, None), y))
    assert equal(there, elsewhere)


@every_free_estimator
def test_weight_zero_equals_an_absent_label(cls):
    X = features()
    y = targets_for(cls, X)
    rng = np.random.default_rng(1)
    weight = (rng.random(y.shape) < 0.7).astype(float)
    absent = y.select(
        pl.when(pl.Series(weight[:, j] > 0)).then(pl.col(name)).alias(name) for j, name in enumerate(y.columns)
    )
    ones = np.ones(y.shape)
    said = answers(tiny(cls).fit(X, absent, sample_weight=ones), X)
    assert same(said, answers(tiny(cls).fit(X, y, sample_weight=weight), X))
    junk = y.select(
        pl.when(pl.Series(weight[:, j] > 0)).then(pl.col(name)).otherwise(pl.lit(odd)).alias(name)
        for j, (name, odd) in enumerate((name, "odd" if y[name].dtype == pl.String else 1e9) for name in y.columns)
    )
    assert same(said, answers(tiny(cls).fit(X, junk, sample_weight=weight), X))


@every_estimator
def test_weights_come_in_three_forms(cls):
    X = features()
    y = targets_for(cls, X)
    weight = np.random.default_rng(1).integers(1, 4, size=len(X)).astype(float)
    said = answers(tiny(cls).fit(X, y, sample_weight=weight), X)
    per_task = np.column_stack([weight] * y.shape[1])
    frame = pl.DataFrame(per_task, schema=y.columns).select(reversed(y.columns))
    for form in (weight.tolist(), pl.Series(weight), pd.Series(weight), per_task, frame, frame.to_pandas()):
        assert same(said, answers(tiny(cls).fit(X, y, sample_weight=form), X))
    assert not same(said, answers(tiny(cls).fit(X, y), X))


@every_estimator
def test_weights_are_normalised_for_every_task(cls):
    X = features()
    y = targets_for(cls, X)
    weight = np.random.default_rng(1).integers(1, 4, size=y.shape).astype(float)
    scaled = weight * 2.0 ** np.arange(y.shape[1])
    assert same(
        answers(tiny(cls).fit(X, y, sample_weight=weight), X), answers(tiny(cls).fit(X, y, sample_weight=scaled), X)
    )


@every_estimator
def test_weights_count_in_scores(cls):
    estimator, X, y = fitted(cls)
    half = np.arange(len(X)) % 2
    expected = estimator.score_tasks(X.filter(half == 1), y.filter(half == 1))
    assert estimator.score_tasks(X, y, half) == pytest.approx(expected)
    assert estimator.score(X, y, sample_weight=half) == pytest.approx(
        estimator.score(X.filter(half == 1), y.filter(half == 1))
    )


@every_mixed
def test_whole_numbers_are_guessed_with_a_warning(cls):
    X = features()
    y = mixed_targets(X).with_columns(stars=X["count"] % 5)
    with pytest.warns(TabmtlWarning, match=r"'stars' .* tasks=\{'stars': 'multiclass'\}"):
        tiny(cls).fit(X, y)
    declared = tiny(cls, tasks={"stars": "regression"}).fit(X, y)
    assert declared.tasks_[3] == Task(name="stars", kind="regression", metric="r2")
    assert declared.predict(X)["stars"].dtype == pl.Float64


@every_mixed
def test_tasks_are_declared_by_name_or_in_order(cls):
    X, y = features(), mixed_targets(features())
    late = Task(name="late", kind="binary", classes=("on time", "late"), metric="accuracy", weight=2.0)
    by_name = tiny(cls, tasks={"late": late, "delay": "regression"}).fit(X, y)
    assert by_name.tasks_[0] == late
    plain = tiny(cls, tasks={"late": Task(name="late", kind="binary", weight=2.0)}).fit(X, y)
    assert plain.tasks_[0].classes == ("late", "on time")
    assert by_name.predict_proba(X)["late"].shape == plain.predict_proba(X)["late"].shape
    in_order = tiny(cls, tasks=[late, Task(name="size", kind="multiclass"), Task(name="delay", kind="regression")])
    array = y.to_pandas().to_numpy(dtype=object)
    assert [task.name for task in in_order.fit(X, array).tasks_] == ["late", "size", "delay"]
    assert same(list(in_order.predict_proba(X).values()), list(by_name.predict_proba(X).values()))
    assert list(in_order.score_tasks(X, array)) == ["late", "size", "delay"]


@every_mixed
def test_a_declared_class_may_be_without_labels(cls):
    X, y = features(), mixed_targets(features())
    tasks = {"late": Task(name="late", kind="multiclass", classes=("late", "lost", "on time"))}
    p = tiny(cls, tasks=tasks).fit(X, y).predict_proba(X)["late"]
    assert p.shape == (len(X), 3)
    np.testing.assert_allclose(p.sum(axis=1), 1)
