"""The base of the networks with a head per task."""

import numpy as np
import pytest
import torch

from tabmtl import SharedBottom
from tabmtl.models.shared_bottom import SharedBottomNetwork


class TasksFirst(SharedBottomNetwork):
    def task_features(self, x_num, x_cat, own=None):
        return torch.stack([super().task_features(x_num, x_cat, own)] * 2)


class Turned(SharedBottom):
    def _network(self, columns, tasks):
        return TasksFirst(columns, tasks, self)


def test_features_that_do_not_begin_with_the_rows_are_refused():
    X = np.random.default_rng(0).normal(size=(30, 2))
    message = r"task_features must return \(B, T, H\) or \(B, H\) for B = \d+ rows, got shape \(2, \d+, 8\)"
    with pytest.raises(ValueError, match=message):
        Turned(hidden=(8,), epochs=1).fit(X, X)
