"""From encoded columns to tokens or to one vector: the input of every network.

Shapes: B rows, Fn numeric and Fc categorical columns, n tokens, e token width, D width of a row's vector.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, Literal

import torch
from rtdl_num_embeddings import LinearEmbeddings, PeriodicEmbeddings, PiecewiseLinearEmbeddings
from torch import Tensor, nn

from tabmtl.nn.layers import Members, Widened
from tabmtl.schema import Columns

if TYPE_CHECKING:
    from tabmtl.columns import Features

NumericEmbedding = Literal["linear", "piecewise", "periodic"]

DENSE_ROWS = 200_000  # a larger table is trained in the rows that a batch touches only
EMBEDDING_STD = 0.01  # before experts, whose normalisation brings out small ones: large ones are noise that levels keep


class CategoricalEmbedding(Widened):
    """All categorical columns in one table: column j's codes start at the sum of the cardinalities before it.

    A table of more than 200 000 rows gives sparse gradients, and a step of `tabmtl.training.optimizer.Optimizer` then
    costs time by the rows it touches.

    Parameters
    ----------
    columns : Columns
        With at least one categorical column.
    d_token : int
        Width e of an embedding.
    std : float, optional
        Standard deviation of the normal distribution of the first embeddings; uniform in ±e^-½ by default.
    """

    offsets: Tensor

    def __init__(self, columns: Columns, d_token: int, std: float | None = None) -> None:
        super().__init__()
        starts = list(accumulate(columns.cardinalities, initial=0))
        self.register_buffer("offsets", torch.tensor(starts[:-1], dtype=torch.int32), persistent=False)
        self.n_codes = starts[-1]
        self.table = nn.Embedding(starts[-1], d_token, sparse=starts[-1] > DENSE_ROWS)
        if std is None:
            nn.init.uniform_(self.table.weight, -(d_token**-0.5), d_token**-0.5)
        else:
            nn.init.normal_(self.table.weight, std=std)

    def widen(self, n_networks: int) -> None:
        """Take K tables as one, whose columns are those of the K networks, one after the other."""
        self.offsets = _widened(self.offsets, self.n_codes, self.n_networks or 1, n_networks)
        super().widen(n_networks)

    def forward(self, codes: Tensor) -> Tensor:
        """Embed codes (B, Fc) to (B, Fc, e)."""
        return self.table(codes + self.offsets)


def fill_missing(numbers: Tensor) -> tuple[Tensor, Tensor]:
    """Split numeric values (B, Fn), NaN where missing, into values with 0 there and 0/1 flags (B, Fn).

    Zero is the middle of a standardised column, so a missing value without a flag counts as an average one.
    """
    missing = torch.isnan(numbers)
    return numbers.masked_fill(missing, 0.0), missing.to(numbers.dtype)


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


class FeatureTokenizer(Widened):
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
    std : float, optional
        Of the first embeddings of categories, see :class:`CategoricalEmbedding`.

    Raises
    ------
    ValueError
        If there is no column, or the numeric embedding is unknown.
    """

    missing_index: Tensor

    def __init__(
        self,
        columns: Columns,
        d_token: int,
        *,
        numeric_embedding: NumericEmbedding = "linear",
        std: float | None = None,
    ) -> None:
        super().__init__()
        self.n_tokens, self._n_numeric = len(columns.categorical) + len(columns.numeric), len(columns.numeric)
        if self.n_tokens == 0:
            raise ValueError("a network needs at least one feature column, got none")
        self.categorical = CategoricalEmbedding(columns, d_token, std) if columns.categorical else None
        self.numeric = _numeric_embedding(numeric_embedding, columns, d_token) if columns.numeric else None
        with_missing = [j for j, missing in enumerate(columns.has_missing) if missing]
        self.register_buffer("missing_index", torch.tensor(with_missing, dtype=torch.int64), persistent=False)
        self.missing = nn.Parameter(torch.zeros(len(with_missing), d_token)) if with_missing else None

    def widen(self, n_networks: int) -> None:
        """Take the numeric columns of K networks as K Fn columns."""
        self.missing_index = _widened(self.missing_index, self._n_numeric, self.n_networks or 1, n_networks)
        super().widen(n_networks)

    def forward(self, x: Features, first: Sequence[Tensor] = ()) -> Tensor:
        """Turn rows into tokens (B, n, e); rows of K networks, (B, K Fn) and (B, K Fc), into (B, K, n, e).

        Tokens (B, s, e) given in ``first`` are put before them, in the one copy that joins all.
        """
        parts = list(first)
        if self.categorical is not None:
            parts.append(self.categorical(x.codes))
        if self.numeric is not None:
            values, missing = fill_missing(x.numbers)
            tokens = self.numeric(values)
            if self.missing is not None:
                flags = missing.index_select(1, self.missing_index)
                tokens = self._add_missing(tokens, flags[:, :, None] * self.missing)
            parts.append(tokens)
        if self.n_networks is not None:
            parts = [part.unflatten(1, (self.n_networks, -1)) for part in parts]
        return torch.cat(parts, dim=-2)

    def _add_missing(self, tokens: Tensor, added: Tensor) -> Tensor:
        """Add vectors (B, m, ...) to the tokens (B, Fn, ...) of the m columns that had missing values in fit."""
        if added.shape[1] == tokens.shape[1]:  # in ONNX an index_add over all columns would lose the tokens
            return tokens + added
        return tokens.index_add(1, self.missing_index, added)


class FeatureVector(Widened):
    """A row as one vector: the embeddings of its columns side by side; with members, one vector for each.

    Parameters
    ----------
    columns : Columns
        The features; at least one.
    d_embedding : int
        Width of a column's embedding.
    numeric_embedding : {"none", "linear", "piecewise", "periodic"}
        ``"none"`` appends standardised numbers as they are (0 where missing), and a 0/1 flag for each numeric column
        that had missing values in fit; for the others see :class:`FeatureTokenizer`.
    std : float, optional
        Of the first embeddings of categories, see :class:`CategoricalEmbedding`.
    n_members : int, default=1
        Number k of members, see :class:`tabmtl.nn.layers.Members`.

    Attributes
    ----------
    width : int
        Width D of the vector.
    """

    missing_index: Tensor

    def __init__(
        self,
        columns: Columns,
        d_embedding: int,
        *,
        numeric_embedding: NumericEmbedding | Literal["none"],
        std: float | None = None,
        n_members: int = 1,
    ) -> None:
        super().__init__()
        self.tokenizer = self.categorical = None
        if numeric_embedding != "none" or not columns.numeric:
            kind: NumericEmbedding = "linear" if numeric_embedding == "none" else numeric_embedding
            self.tokenizer = FeatureTokenizer(columns, d_embedding, numeric_embedding=kind, std=std)
            self.width = self.tokenizer.n_tokens * d_embedding
            self.members = Members(n_members, self.tokenizer.n_tokens, d_embedding)
            return
        if columns.categorical:
            self.categorical = CategoricalEmbedding(columns, d_embedding, std)
        with_missing = [j for j, missing in enumerate(columns.has_missing) if missing]
        self.register_buffer("missing_index", torch.tensor(with_missing, dtype=torch.int64), persistent=False)
        self._n_numeric = len(columns.numeric)
        self.width = len(columns.categorical) * d_embedding + len(columns.numeric) + len(with_missing)
        self.members = Members(n_members, self.width, 1)

    def widen(self, n_networks: int) -> None:
        """Take the columns of K networks side by side."""
        if self.tokenizer is None:
            self.missing_index = _widened(self.missing_index, self._n_numeric, self.n_networks or 1, n_networks)
        super().widen(n_networks)

    def forward(self, x: Features) -> Tensor:
        """Turn rows into vectors (B, D), or (k B, D) of k members; rows of K networks into (K, B, D) or (K, k B, D)."""
        tokens = self._columns(x) if self.tokenizer is None else self.tokenizer(x)
        return self.members(tokens if self.n_networks is None else tokens.transpose(0, 1)).flatten(-2)

    def _columns(self, x: Features) -> Tensor:
        """Return embeddings of categories, numbers and flags side by side, (B, D, 1) or (B, K, D, 1)."""
        values, missing = fill_missing(x.numbers)
        parts = [values, missing.index_select(1, self.missing_index)]
        if self.categorical is not None:
            parts.insert(0, self.categorical(x.codes).flatten(1))
        if self.n_networks is not None:
            parts = [part.unflatten(1, (self.n_networks, -1)) for part in parts]
        return torch.cat(parts, dim=-1)[..., None]


def _widened(places: Tensor, n: int, n_before: int, n_networks: int) -> Tensor:
    """Return places among the n things of each of K networks, given those of the first ``n_before`` networks."""
    own = places[: len(places) // n_before]
    return (torch.arange(n_networks, dtype=own.dtype)[:, None] * n + own).flatten()
