"""The base of the networks with a head per task."""

import numpy as np
import polars as pl
import pytest
import torch

from tabmtl import SharedBottom
from tabmtl.estimators.network import VectorEstimator
from tabmtl.models.shared_bottom import SharedBottomNetwork
from tabmtl.nn.task_network import TaskNetwork


class TasksFirst(SharedBottomNetwork):
    def task_features(self, x, own=None):
        return torch.stack([super().task_features(x, own)] * 2)


class Turned(SharedBottom):
    def _network(self, columns, tasks):
        return TasksFirst(columns, tasks, self)


def test_features_that_do_not_begin_with_the_rows_are_refused():
    X = np.random.default_rng(0).normal(size=(30, 2))
    message = r"task_features must return \(B, T, H\) or \(B, H\) for B = \d+ rows, got shape \(2, \d+, 8\)"
    with pytest.raises(ValueError, match=message):
        Turned(hidden=(8,), epochs=1).fit(X, X)


class Unselected(SharedBottomNetwork):
    def task_features(self, x, own=None):
        return torch.stack([super().task_features(x, own)] * self.heads.n_tasks, dim=1)


class AllTasks(SharedBottom):
    def _network(self, columns, tasks):
        return Unselected(columns, tasks, self)


def test_features_of_all_tasks_are_refused_in_a_long_table():
    X = np.random.default_rng(0).normal(size=(30, 2))
    AllTasks(hidden=(8,), epochs=1).fit(X, X)
    long = pl.DataFrame(X).with_columns(task=pl.Series(["a", "b"] * 15))
    with pytest.raises(ValueError, match=r"\(B, 1, H\) or \(B, H\) where own is given, .*got shape \(\d+, 2, 8\)"):
        AllTasks(hidden=(8,), epochs=1, task_column="task").fit(long, X[:, 0])


class NoFeatures(SharedBottom):
    def _network(self, columns, tasks):
        network = TaskNetwork()
        network.heads = SharedBottomNetwork(columns, tasks, self).heads
        return network


class NoNetwork(VectorEstimator):
    pass


@pytest.mark.parametrize(
    ("cls", "message"), [(NoNetwork, "NoNetwork must define _network"), (NoFeatures, "must define task_features")]
)
def test_a_missing_definition_is_named(cls, message):
    X = np.random.default_rng(0).normal(size=(30, 2))
    with pytest.raises(NotImplementedError, match=message):
        cls(epochs=1).fit(X, X)
