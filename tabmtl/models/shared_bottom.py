"""Shared bottom (Caruana, 1997, "Multitask Learning"): one trunk that all tasks share, one head per task."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, ClassVar

from torch import Tensor

from tabmtl.base.params import CountOrZero, Rate, check_widths
from tabmtl.base.schema import Columns
from tabmtl.columns import Features
from tabmtl.estimators.faces import ClassifierFace, RegressorFace
from tabmtl.estimators.network import VectorEstimator
from tabmtl.nn.layers import MLP, Boundary, RowOwners, Towers
from tabmtl.nn.task_network import TaskNetwork
from tabmtl.nn.units import Group, head_units, mlp_units, readers_in_heads
from tabmtl.targets import Task


class SharedBottomNetwork(TaskNetwork):
    """Column embeddings side by side, an MLP over them, and one head per task.

    Parameters
    ----------
    columns : Columns
    tasks : sequence of Task
    options : SharedBottom
        The hyper-parameters.
    """

    is_joinable = is_even = True

    def __init__(self, columns: Columns, tasks: Sequence[Task], options: SharedBottom) -> None:
        super().__init__()
        self.vector = options._vector(columns)
        self.trunk = MLP(self.vector.width, options.hidden, dropout=options.dropout)
        self.shared = Boundary()
        width, widths = (self.vector.width, *options.hidden)[-1], [task.width for task in tasks]
        shape = {"hidden": options.head_hidden, "n_members": options.n_members}
        self.heads = Towers(width, widths, **shape, dropout=options.dropout)

    def task_features(self, x: Features, own: RowOwners | None = None) -> Tensor:
        """Return the trunk's output (B, hidden[-1]), which all tasks read; of K networks (B, K, hidden[-1])."""
        shared = self.shared(self.trunk(self.vector(x)))
        return shared if self.n_networks is None else shared.transpose(0, 1)

    def units(self) -> list[Group]:
        """Return the groups of the trunk's layers, and of the heads."""
        readers = readers_in_heads("heads", self.heads)
        return [*mlp_units("trunk", self.trunk, readers), *head_units("heads", self.heads)]

    def restrict(self, tasks: list[int]) -> None:
        """Leave the heads of some tasks only."""
        self.heads.restrict(tasks)


@dataclass(kw_only=True, eq=False, repr=False)
class SharedBottom(VectorEstimator):
    """Shared bottom: one trunk h = MLP(embeddings of the columns) for all tasks, and a head per task.

    Tasks share everything except their heads. This is the oldest multi-task network, and the one to beat.

    Parameters
    ----------
    hidden : sequence of int, default=(256, 128)
        Widths of the trunk's layers.
    head_hidden : int, default=64
        Width of a head's hidden layer; 0 leaves one linear layer per task.
    dropout : float in [0, 1), default=0.1
        Share of hidden values dropped in training.

    References
    ----------
    Caruana (1997), "Multitask Learning", Machine Learning 28.

    Examples
    --------
    >>> import numpy as np
    >>> from tabmtl import SharedBottom
    >>> X = np.random.default_rng(0).normal(size=(200, 4))
    >>> y = X @ np.ones((4, 2))
    >>> SharedBottom(epochs=2, random_state=0).fit(X, y).predict(X).shape
    (200, 2)
    """

    hidden: Annotated[Sequence[int], partial(check_widths, low=0)] = (256, 128)
    head_hidden: CountOrZero = 64
    dropout: Rate = 0.1

    search_space: ClassVar[dict[str, Any]] = VectorEstimator.search_space | {
        "hidden": {"choices": ((128,), (128, 64), (256, 128), (512, 256))},
        "head_hidden": {"choices": (0, 32, 64, 128)},
        "dropout": {"low": 0.0, "high": 0.5},
    }

    def _network(self, columns: Columns, tasks: Sequence[Task]) -> SharedBottomNetwork:
        return SharedBottomNetwork(columns, tasks, self)


class SharedBottomClassifier(ClassifierFace, SharedBottom):
    """`SharedBottom` whose every task is a classification."""


class SharedBottomRegressor(RegressorFace, SharedBottom):
    """`SharedBottom` whose every task is a regression."""
