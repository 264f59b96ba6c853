"""Shared bottom (Caruana, 1997, "Multitask Learning"): one trunk that all tasks share, one head per task."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from tabmtl.blocks import MLP, FeatureTokenizer, NumericEmbedding, Towers
from tabmtl.schema import Columns, Task


class SharedBottomNetwork(nn.Module):
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
    numeric_embedding : {"linear", "piecewise", "periodic"}, default="linear"
        How a number becomes an embedding, see :class:`tabmtl.blocks.FeatureTokenizer`.
    dropout : float, default=0.0
        Share of hidden values dropped in training, in trunk and heads.
    """

    batch_dependent = False

    def __init__(
        self,
        columns: Columns,
        tasks: Sequence[Task],
        *,
        hidden: Sequence[int] = (256, 128),
        head_hidden: int | None = 64,
        d_embedding: int = 16,
        numeric_embedding: NumericEmbedding = "linear",
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.tokenizer = FeatureTokenizer(columns, d_embedding, numeric_embedding=numeric_embedding)
        d_flat = self.tokenizer.n_tokens * d_embedding
        self.trunk = MLP(d_flat, hidden, dropout=dropout)
        widths = [task.width for task in tasks]
        self.heads = Towers((d_flat, *hidden)[-1], widths, hidden=head_hidden, dropout=dropout)

    def represent(self, x_num: Tensor, x_cat: Tensor, task: Tensor | None = None) -> Tensor:
        """Return the trunk's output (B, hidden[-1]); the task of a row plays no part in it."""
        return self.trunk(self.tokenizer(x_num, x_cat).flatten(1))

    def forward(self, x_num: Tensor, x_cat: Tensor, task: Tensor | None = None) -> list[Tensor]:
        """Score rows.

        Parameters
        ----------
        x_num : Tensor of shape (B, Fn), float32
            Standardised values, NaN where missing.
        x_cat : Tensor of shape (B, Fc), int32
            Codes.
        task : Tensor of shape (B,), int64, optional
            For task-per-row data the task of each row.

        Returns
        -------
        list of Tensor
            (B, width) raw scores per task; with ``task``, one tensor with each row's own.
        """
        return self.heads(self.represent(x_num, x_cat), task)
