"""Unlabelled cells give a network no gradient at all."""

import math

import numpy as np
import pytest
import torch
from conformance import NETWORKS
from models_at_hand import fitted

from tabmtl.columns import Features
from tabmtl.estimators.training import in_training_units
from tabmtl.training.device import on_device, seeded
from tabmtl.training.losses import MultiTaskLoss

every_network = pytest.mark.parametrize("cls", NETWORKS, ids=lambda cls: cls.__name__)

CPU = torch.device("cpu")


def untrained(cls):
    """A network of an estimator in training mode, its tasks, and the batch of its training rows."""
    # statistics of a batch, by which one normalises, are of all its rows, unlabelled ones too
    estimator, X, y = fitted(cls, expert_norm="layer")
    coder = estimator.coder_
    batch = on_device(in_training_units(coder.read(X, y), coder), CPU)
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
    without = gradients(network, lambda net: loss(net(batch.x, None), y))
    alone = gradients(network, lambda net: loss(net(batch.x, None), batch.y)[others])
    assert equal(without, alone)
    own = gradients(network, lambda net: loss(net(batch.x, None), batch.y)[t : t + 1])
    assert sum(np.abs(gradient).sum() for gradient in own.values()) > 0


@every_network
def test_a_row_without_labels_has_exactly_zero_gradient(cls):
    network, tasks, batch = untrained(cls)
    loss = MultiTaskLoss(tasks)
    y = batch.y.clone()
    y[::3] = math.nan
    other = batch.x.numbers.clone()
    other[::3] = 1.7
    codes = batch.x.codes.clone()
    codes[::3] = 0
    there = gradients(network, lambda net: loss(net(batch.x, None), y))
    elsewhere = gradients(network, lambda net: loss(net(Features(numbers=other, codes=codes), None), y))
    assert equal(there, elsewhere)
