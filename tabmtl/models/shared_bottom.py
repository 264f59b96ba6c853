"""Shared bottom (Caruana, 1997, "Multitask Learning"): one trunk that all tasks share, one head per task."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, ClassVar, Literal

from torch import Tensor

from tabmtl.estimators.faces import ClassifierFace, RegressorFace
from tabmtl.estimators.network import VectorEstimator
from tabmtl.nn.embeddings import FeatureVector, NumericEmbedding
from tabmtl.nn.layers import MLP, Boundary, RowOwners, Towers
from tabmtl.nn.task_network import TaskNetwork
from tabmtl.params import CountOrZero, Rate, check_widths
from tabmtl.schema import Columns, Task


class SharedBottomNetwork(TaskNetwork):
    """Column embeddings side by side, an MLP over them, and one head per task.

    Parameters
    ----------
    columns : Columns
        The features; at least one.
    tasks : sequence of Task
        The targets, in the order of the returned scores.
    hidden : sequence of int, default=(256, 128)
        Widths of the trunk's layers.
    head_hidden : int or None, default=64
        Width of a head's hidden layer; 0 or None leaves one linear layer.
    d_embedding : int, default=16
        Width of a column's embedding.
    numeric_embedding : {"none", "linear", "piecewise", "periodic"}, default="linear"
        How a number becomes an embedding, see :class:`tabmtl.nn.embeddings.FeatureVector`.
    dropout : float, default=0.0
        Share of hidden values dropped in training, in trunk and heads.
    """

    def __init__(
        self,
        columns: Columns,
        tasks: Sequence[Task],
        *,
        hidden: Sequence[int] = (256, 128),
        head_hidden: int | None = 64,
        d_embedding: int = 16,
        numeric_embedding: NumericEmbedding | Literal["none"] = "linear",
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.vector = FeatureVector(columns, d_embedding, numeric_embedding=numeric_embedding)
        self.trunk = MLP(self.vector.width, hidden, dropout=dropout)
        self.shared = Boundary()
        widths = [task.width for task in tasks]
        self.heads = Towers((self.vector.width, *hidden)[-1], widths, hidden=head_hidden, dropout=dropout)

    def task_features(self, x_num: Tensor, x_cat: Tensor, own: RowOwners | None = None) -> Tensor:
        """Return the trunk's output (B, hidden[-1]), which all tasks read."""
        return self.shared(self.trunk(self.vector(x_num, x_cat)))


@dataclass(kw_only=True, eq=False, repr=False)
class SharedBottom(VectorEstimator):
    """Shared bottom: one trunk h = MLP(embeddings of the columns) for all tasks, and a head per task on it.

    The oldest multi-task network, and the one to beat: tasks share everything but their heads.

    Parameters
    ----------
    hidden : sequence of int, default=(256, 128)
        Widths of the trunk's layers.
    head_hidden : int, default=64
        Width of a head's hidden layer; 0 leaves one linear layer per task.
    dropout : float, default=0.1
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
        return SharedBottomNetwork(
            columns,
            tasks,
            hidden=self.hidden,
            head_hidden=self.head_hidden,
            d_embedding=self.d_embedding,
            numeric_embedding=self.numeric_embedding,
            dropout=self.dropout,
        )


class SharedBottomClassifier(ClassifierFace, SharedBottom):
    """`SharedBottom` whose every task is a classification."""


class SharedBottomRegressor(RegressorFace, SharedBottom):
    """`SharedBottom` whose every task is a regression."""
