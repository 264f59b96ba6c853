"""Torch blocks that two or more networks use: from encoded columns to tokens, from features to scores.

Shapes: B rows, Fn numeric and Fc categorical columns, n tokens, e token width, T tasks.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import Literal

import torch
from rtdl_num_embeddings import LinearEmbeddings, PeriodicEmbeddings, PiecewiseLinearEmbeddings
from torch import Tensor, nn
from torch.nn import functional as F

from tabmtl.schema import Columns

NumericEmbedding = Literal["linear", "piecewise", "periodic"]


class Dropout(nn.Module):
    """Dropout with masks cut from random bytes, several times cheaper on a CPU than Bernoulli draws.

    The rate is rounded to a multiple of 1/256 and kept values are scaled by the rounded rate, so the mean is
    exactly that of the input. Masks come from torch's default generator. Identity in eval mode.

    Parameters
    ----------
    p : float, default=0.0
        Share of values set to zero, in [0, 1).

    Raises
    ------
    ValueError
        If p is outside [0, 1).

    Examples
    --------
    >>> import torch
    >>> Dropout(0.5)(torch.ones(4)).unique().numel() <= 2
    True
    """

    def __init__(self, p: float = 0.0) -> None:
        super().__init__()
        if not 0 <= p < 1:
            raise ValueError(f"dropout must be at least 0 and below 1, got {p!r}")
        self.p = p
        self._dropped = min(round(256 * p) or int(p > 0), 255)

    def forward(self, x: Tensor) -> Tensor:
        """Drop values of x, of any shape, in training."""
        if not self.training or self._dropped == 0:
            return x
        if x.device.type != "cpu":
            return F.dropout(x, self.p)
        # random_() without bounds never sets the sign bit: every eighth byte would be biased.
        words = torch.empty(-(-x.numel() // 8), dtype=torch.int64).random_(-(2**63), None)
        dropped = words.view(torch.uint8)[: x.numel()].view(x.shape) < self._dropped
        return x.masked_fill(dropped, 0.0) * (256 / (256 - self._dropped))

    def extra_repr(self) -> str:
        """Show the rate in the printed module."""
        return f"p={self.p}"


class CategoricalEmbedding(nn.Module):
    """All categorical columns in one table: column j's codes start at the sum of the cardinalities before it.

    Parameters
    ----------
    columns : Columns
        With at least one categorical column.
    d_token : int
        Width e of an embedding.
    """

    offsets: Tensor

    def __init__(self, columns: Columns, d_token: int) -> None:
        super().__init__()
        starts = list(accumulate(columns.cardinalities, initial=0))
        self.register_buffer("offsets", torch.tensor(starts[:-1], dtype=torch.int32), persistent=False)
        self.table = nn.Embedding(starts[-1], d_token)
        nn.init.uniform_(self.table.weight, -(d_token**-0.5), d_token**-0.5)

    def forward(self, x_cat: Tensor) -> Tensor:
        """Embed codes (B, Fc) to (B, Fc, e)."""
        return self.table(x_cat + self.offsets)


def fill_missing(x_num: Tensor) -> tuple[Tensor, Tensor]:
    """Split numeric values (B, Fn), NaN where missing, into values with 0 there and 0/1 flags (B, Fn).

    Zero is the middle of a standardised column, so a missing value without a flag counts as an average one.
    """
    missing = torch.isnan(x_num)
    return x_num.masked_fill(missing, 0.0), missing.to(x_num.dtype)


def _numeric_embedding(kind: NumericEmbedding, columns: Columns, d_token: int) -> nn.Module:
    n_columns = len(columns.numeric)
    if kind == "linear":
        return LinearEmbeddings(n_columns, d_token)
    if kind == "piecewise":
        bins = [torch.tensor(edges, dtype=torch.float32) for edges in columns.bins]
        with warnings.catch_warnings():
            # a constant column and one of zeros and ones have a single bin, as they should
            warnings.filterwarnings("ignore", "The .* feature has just two bin edges")
            return PiecewiseLinearEmbeddings(bins, d_token, activation=False, version="B")
    if kind == "periodic":
        return PeriodicEmbeddings(n_columns, d_token, lite=False)
    raise ValueError(f"numeric_embedding must be 'linear', 'piecewise' or 'periodic', got {kind!r}")


class FeatureTokenizer(nn.Module):
    """One token per column: categorical columns first, then numeric ones.

    A numeric column's token is an embedding of its value (Gorishniy et al., 2022, "On Embeddings for
    Numerical Features in Tabular Deep Learning"), plus a learned vector where the value is missing. Only
    columns that had missing values in fit have such a vector; in the others NaN counts as 0.

    Parameters
    ----------
    columns : Columns
        The features; at least one.
    d_token : int
        Width e of a token.
    numeric_embedding : {"linear", "piecewise", "periodic"}, default="linear"
        ``x w_j + b_j``; the same plus a piecewise-linear part over the quantile bins of the column; or sines
        and cosines of learned frequencies, a linear layer of the column's own and a ReLU.

    Raises
    ------
    ValueError
        If there is no column, or the numeric embedding is unknown.
    """

    missing_index: Tensor

    def __init__(self, columns: Columns, d_token: int, *, numeric_embedding: NumericEmbedding = "linear") -> None:
        super().__init__()
        self.n_tokens = len(columns.categorical) + len(columns.numeric)
        if self.n_tokens == 0:
            raise ValueError("a network needs at least one feature column, got none")
        self.categorical = CategoricalEmbedding(columns, d_token) if columns.categorical else None
        self.numeric = _numeric_embedding(numeric_embedding, columns, d_token) if columns.numeric else None
        with_missing = [j for j, missing in enumerate(columns.has_missing) if missing]
        self.register_buffer("missing_index", torch.tensor(with_missing, dtype=torch.int64), persistent=False)
        self.missing = nn.Parameter(torch.zeros(len(with_missing), d_token)) if with_missing else None

    def forward(self, x_num: Tensor, x_cat: Tensor, first: Sequence[Tensor] = ()) -> Tensor:
        """Turn values (B, Fn) and codes (B, Fc) into tokens (B, n, e).

        Tokens (B, s, e) given in ``first`` are put before them, in the one copy that joins all.
        """
        parts = list(first)
        if self.categorical is not None:
            parts.append(self.categorical(x_cat))
        if self.numeric is not None:
            values, missing = fill_missing(x_num)
            tokens = self.numeric(values)
            if self.missing is not None:
                flags = missing.index_select(1, self.missing_index)
                tokens = tokens.index_add(1, self.missing_index, flags[:, :, None] * self.missing)
            parts.append(tokens)
        return torch.cat(parts, dim=1)


class MLP(nn.Sequential):
    """Linear layers, each followed by ReLU and dropout.

    Parameters
    ----------
    d_in : int
        Width of the input.
    hidden : sequence of int
        Width of each layer; the last one is the width of the output.
    dropout : float, default=0.0
        Share of values dropped after each layer.
    """

    def __init__(self, d_in: int, hidden: Sequence[int], *, dropout: float = 0.0) -> None:
        layers: list[nn.Module] = []
        for before, after in pairwise((d_in, *hidden)):
            layers += [nn.Linear(before, after), nn.ReLU(), Dropout(dropout)]
        super().__init__(*layers)


class Boundary(nn.Module):
    """Where parameters that tasks share end: a tensor passes through as it is.

    Gradient balancing (:mod:`tabmtl.balance`) sets ``cut``. Then what comes out is a leaf, `leaf`, on which every
    task's gradient is taken, and `below` is what came in, from which the balanced gradient goes on.
    """

    def __init__(self) -> None:
        super().__init__()
        self.cut = False
        self.below: Tensor | None = None
        self.leaf: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        """Return x, or a leaf with its values where the graph is cut."""
        if not self.cut:
            return x
        self.below, self.leaf = x, x.detach().requires_grad_()
        return self.leaf


class TaskLinear(nn.Module):
    """One linear layer per task, as one batched matrix product.

    Parameters
    ----------
    n_tasks, d_in, d_out : int
        Number of layers, and width of the input and the output of each.
    """

    task_specific = True  # gradient balancing leaves its parameters to their own tasks

    def __init__(self, n_tasks: int, d_in: int, d_out: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(n_tasks, d_in, d_out))
        self.bias = nn.Parameter(torch.empty(n_tasks, d_out))
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -(d_in**-0.5), d_in**-0.5)

    def forward(self, x: Tensor, task: Tensor | None = None) -> Tensor:
        """Apply layer t to x[t] of (T, B, d_in), or layer task[b] to row b of (B, d_in)."""
        if task is None:
            return torch.baddbmm(self.bias[:, None], x, self.weight)
        weight, bias = self.weight.index_select(0, task), self.bias.index_select(0, task)
        return torch.baddbmm(bias[:, None], x[:, None], weight)[:, 0]


class Towers(nn.Module):
    """The heads of all tasks, each Linear(d_in, hidden), ReLU, dropout, Linear(hidden, width).

    Tasks of equal width share a batched product, so no head is padded.

    Parameters
    ----------
    d_in : int
        Width of the features.
    widths : sequence of int
        Number of scores of each task.
    hidden : int or None, default=64
        Width of the hidden layer; 0 or None leaves one linear layer per task.
    dropout : float, default=0.0
        Share of hidden values dropped in training.

    Examples
    --------
    >>> import torch
    >>> [scores.shape[1] for scores in Towers(8, [1, 5])(torch.zeros(3, 8))]
    [1, 5]
    """

    def __init__(self, d_in: int, widths: Sequence[int], *, hidden: int | None = 64, dropout: float = 0.0) -> None:
        super().__init__()
        self.n_tasks = len(widths)
        self.hidden = TaskLinear(self.n_tasks, d_in, hidden) if hidden else None
        self.dropout = Dropout(dropout)
        self._groups = [[t for t, w in enumerate(widths) if w == width] for width in sorted(set(widths))]
        self.out = nn.ModuleList(TaskLinear(len(group), hidden or d_in, widths[group[0]]) for group in self._groups)

    def forward(self, z: Tensor, task: Tensor | None = None) -> list[Tensor]:
        """Score features shared by all tasks (B, d_in) or each task's own (B, T, d_in).

        Parameters
        ----------
        z : Tensor of shape (B, d_in) or (B, T, d_in)
            Features; (B, d_in) where ``task`` is given.
        task : Tensor of shape (B,), optional
            Task of each row. All tasks then have one width.

        Returns
        -------
        list of Tensor
            (B, width) per task, in task order; with ``task``, one tensor that holds each row's own scores.
        """
        if task is not None:
            if self.hidden is not None:
                z = self.dropout(F.relu(self.hidden(z, task)))
            return [self.out[0](z, task)]
        z = z.transpose(0, 1) if z.ndim == 3 else z.expand(self.n_tasks, *z.shape)  # (T, B, d_in)
        if self.hidden is not None:
            z = self.dropout(F.relu(self.hidden(z)))
        scores: dict[int, Tensor] = {}
        for group, layer in zip(self._groups, self.out, strict=True):
            own = z if len(group) == self.n_tasks else torch.stack([z[t] for t in group])
            scores.update(zip(group, layer(own).unbind(), strict=True))
        return [scores[t] for t in range(self.n_tasks)]
