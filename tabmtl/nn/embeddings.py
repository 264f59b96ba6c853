"""From encoded columns to tokens or to one vector: the input of every network.

Shapes: B rows, Fn numeric and Fc categorical columns, Fb columns of bags, V numbers of all vectors, n tokens, e token
width, D width of a row's vector.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import replace
from itertools import accumulate
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from rtdl_num_embeddings import LinearEmbeddings, PeriodicEmbeddings, PiecewiseLinearEmbeddings
from torch import Tensor, nn
from torch.nn import functional as F

from tabmtl.base.schema import UNSEEN, Columns
from tabmtl.nn.layers import DENSE_ROWS, Members, Widened
from tabmtl.nn.sequences import SequenceEmbedding, SequencePooling, draw

if TYPE_CHECKING:
    from tabmtl.columns import Features
    from tabmtl.columns.ragged import Bags

NumericEmbedding = Literal["linear", "piecewise", "periodic"]

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
        draw(self.table.weight, std)

    def widen(self, n_networks: int) -> None:
        """Take K tables as one, whose columns are those of the K networks, one after the other."""
        self.offsets = _widened(self.offsets, self.n_codes, self.n_networks or 1, n_networks)
        super().widen(n_networks)

    def forward(self, codes: Tensor) -> Tensor:
        """Embed codes (B, Fc) to (B, Fc, e)."""
        return self.table(codes + self.offsets)


class BagEmbedding(Widened):
    """All columns of bags in one table, as in `CategoricalEmbedding`: a bag is the weighted mean of its codes' rows.

    A bag without a code is a learned vector of its column. That of a missing one is the row of its code, MISSING. A
    table of more than 200 000 rows gives sparse gradients.

    Parameters
    ----------
    columns : Columns
        With at least one column of bags.
    d_token : int
        Width e of an embedding.
    std : float, optional
        As in `CategoricalEmbedding`.
    """

    def __init__(self, columns: Columns, d_token: int, std: float | None = None) -> None:
        super().__init__()
        self.starts = list(accumulate(columns.bag_sizes, initial=0))
        self.table = nn.EmbeddingBag(self.starts[-1], d_token, mode="sum", sparse=self.starts[-1] > DENSE_ROWS)
        draw(self.table.weight, std)
        self.empty = nn.Parameter(torch.zeros(len(columns.bag_sizes), d_token))

    def forward(self, bags: Sequence[Bags]) -> Tensor:
        """Embed bags, B of each of Fb columns, to (B, Fb, e)."""
        codes, offsets, weights = self._beside(bags)
        tokens = self.table(codes, offsets[:-1], per_sample_weights=weights)
        is_empty = (offsets.diff() == 0).unflatten(0, (len(bags), -1))
        return (tokens.unflatten(0, (len(bags), -1)) + is_empty[:, :, None] * self.empty[:, None]).transpose(0, 1)

    def own_tokens(self, bags: Sequence[Bags], which: Tensor, n_parts: int) -> Tensor:
        """Embed bags to (B, Fb, s, e / n_parts): of the parts of an embedding those that a row asks for, (B, s)."""
        codes, offsets, weights = self._beside(bags)
        parts, n = which.T.repeat(1, len(bags)), len(bags)  # (s, Fb B)
        if self.table.sparse:  # a sparse gradient knows whole rows only
            tokens = self.table(codes, offsets[:-1], per_sample_weights=weights).unflatten(1, (n_parts, -1))
            tokens = take_parts(tokens, parts.T).transpose(0, 1)
        else:
            table, lengths = self.table.weight.view(len(self.table.weight) * n_parts, -1), offsets.diff()
            m = codes.shape[0]  # no len(), by which an export would take it as given
            rows = codes.long() * n_parts + parts.repeat_interleave(lengths, dim=1, output_size=m)
            starts = offsets[:-1] + m * torch.arange(len(parts), device=codes.device)[:, None]
            weights = weights.repeat(len(parts))
            tokens = F.embedding_bag(
                rows.flatten(), table, starts.flatten(), mode="sum", per_sample_weights=weights
            ).unflatten(0, (len(parts), -1))
        empty = self.empty.unflatten(1, (n_parts, -1))[:, which].transpose(0, 1)  # (B, Fb, s, d)
        is_empty = (offsets.diff() == 0).unflatten(0, (n, -1)).T
        return tokens.unflatten(1, (n, -1)).permute(2, 1, 0, 3) + is_empty[:, :, None, None] * empty

    def _beside(self, bags: Sequence[Bags]) -> tuple[Tensor, Tensor, Tensor]:
        """Return codes of the table, offsets (Fb B + 1,) and weights of all columns, one after the other."""
        if len(bags) == 1:
            codes, offsets, weights = bags[0].codes, bags[0].offsets, bags[0].weights
        else:
            n = len(self.starts) - 1
            starts = [k * self.starts[-1] + self.starts[j] for k in range(len(bags) // n) for j in range(n)]
            codes = torch.cat([own.codes + start for own, start in zip(bags, starts, strict=True)])
            before = accumulate((own.codes.shape[0] for own in bags[:-1]), initial=0)
            shifted = [own.offsets + start for own, start in zip(bags, before, strict=True)]
            offsets = torch.cat([*(own[:-1] for own in shifted[:-1]), shifted[-1]])
            weights = torch.cat([own.weights for own in bags])
        # numbers of one type, or torch makes them so
        return codes, offsets.to(codes.dtype), weights.to(self.table.weight.dtype)


class VectorEmbedding(Widened):
    """All columns of vectors by one linear layer, plus a learned vector for each column that is missing.

    Parameters
    ----------
    columns : Columns
        With at least one number in a vector.
    d_token : int
        Width e of the embedding.
    std : float, optional
        Standard deviation of the first embeddings of standardised numbers; by default that of `CategoricalEmbedding`.
    """

    starts: Tensor

    def __init__(self, columns: Columns, d_token: int, std: float | None = None) -> None:
        super().__init__()
        widths = [width for width in columns.vector_widths if width]
        starts = list(accumulate(widths, initial=0))
        self.register_buffer("starts", torch.tensor(starts[:-1]), persistent=False)
        self.width = starts[-1]
        self.linear = nn.Linear(self.width, d_token)
        nn.init.normal_(self.linear.weight, std=((3 * d_token) ** -0.5 if std is None else std) * self.width**-0.5)
        nn.init.zeros_(self.linear.bias)
        self.missing = nn.Parameter(torch.zeros(len(widths), d_token))

    def widen(self, n_networks: int) -> None:
        """Take the vectors of K networks side by side."""
        self.starts = _widened(self.starts, self.width, self.n_networks or 1, n_networks)
        super().widen(n_networks)

    def forward(self, vectors: Tensor) -> Tensor:
        """Embed vectors (B, V), NaN where missing, to (B, 1, e); of K networks (B, K V) to (B, K, e)."""
        values, missing = fill_missing(vectors)
        added = missing.index_select(1, self.starts)[:, :, None] * self.missing
        if self.n_networks is None:
            return (self.linear(values) + added.sum(dim=1))[:, None]
        values, added = (part.unflatten(1, (self.n_networks, -1)) for part in (values, added))
        return self.linear(values.transpose(0, 1)).transpose(0, 1) + added.sum(dim=2)


def fill_missing(numbers: Tensor) -> tuple[Tensor, Tensor]:
    """Split numeric values (B, Fn), NaN where missing, into values with 0 there and 0/1 flags (B, Fn).

    Zero is the middle of a standardised column, so a missing value without a flag counts as an average one.
    """
    missing = torch.isnan(numbers)
    return numbers.masked_fill(missing, 0.0), missing.to(numbers.dtype)


def take_parts(tokens: Tensor, which: Tensor) -> Tensor:
    """Take parts (..., s, d) of tokens (..., p, d), by the numbers (..., s) of the parts."""
    # an export of take_along_dim holds for one number of rows
    return tokens.gather(-2, which[..., None].expand(*which.shape, tokens.shape[-1]))


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


def count_tokens(columns: Columns) -> int:
    """Count the tokens of a row: one per column, and one for all vectors."""
    n_lists = len(columns.bag_sizes) + len(columns.sequences)
    return len(columns.categorical) + len(columns.numeric) + n_lists + any(columns.vector_widths)


def grown_rows(before: Sequence[int], now: Sequence[int]) -> np.ndarray:
    """Find the old row for every row of a table that has more codes now; a new code has that of the unseen levels.

    Parameters
    ----------
    before, now : sequence of int
        Numbers of codes of all columns of the table.

    Returns
    -------
    rows : ndarray of int64
    """
    starts, found = accumulate(before, initial=0), [np.zeros(0, dtype=np.int64)]
    for start, few, many in zip(starts, before, now, strict=False):  # behind the last column is one start more
        codes = np.arange(many)
        found.append(start + np.where(codes < few, codes, UNSEEN))
    return np.concatenate(found)


class FeatureTokenizer(Widened):
    """One token per column, categorical columns first, then numeric ones, then bags, and one for all vectors.

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
    sequence_pooling : {"attention", "mean"}, default="attention"
        See :class:`tabmtl.nn.sequences.SequenceEmbedding`.

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
        sequence_pooling: SequencePooling = "attention",
    ) -> None:
        super().__init__()
        self._n_numeric, self.n_tokens = len(columns.numeric), count_tokens(columns)
        if self.n_tokens == 0:
            raise ValueError("a network needs at least one feature column, got none")
        self.categorical = CategoricalEmbedding(columns, d_token, std) if columns.categorical else None
        self.numeric = _numeric_embedding(numeric_embedding, columns, d_token) if columns.numeric else None
        with_missing = [j for j, missing in enumerate(columns.has_missing) if missing]
        self.register_buffer("missing_index", torch.tensor(with_missing, dtype=torch.int64), persistent=False)
        self.missing = nn.Parameter(torch.zeros(len(with_missing), d_token)) if with_missing else None
        self.bags = BagEmbedding(columns, d_token, std) if columns.bag_sizes else None
        self.sequences = SequenceEmbedding(columns, d_token, sequence_pooling, std) if columns.sequences else None
        self.vectors = VectorEmbedding(columns, d_token, std) if any(columns.vector_widths) else None

    def widen(self, n_networks: int) -> None:
        """Take the numeric columns of K networks as K Fn columns."""
        self.missing_index = _widened(self.missing_index, self._n_numeric, self.n_networks or 1, n_networks)
        super().widen(n_networks)

    def forward(self, x: Features, first: Sequence[Tensor] = ()) -> Tensor:
        """Turn rows into tokens (B, n, e); rows with the columns of K networks into (B, K, n, e).

        Tokens (B, s, e) given in ``first`` are put before them, in the one copy that joins all.
        """
        parts = [*first, *self.parts(x)]
        if self.n_networks is not None:
            parts = [part.unflatten(1, (self.n_networks, -1)) for part in parts]
        return torch.cat(parts, dim=-2)

    def parts(self, x: Features) -> list[Tensor]:
        """Return the tokens (B, m, e) of categories, numbers, bags, sequences and vectors, of those that are there."""
        parts = []
        if self.categorical is not None:
            parts.append(self.categorical(x.codes))
        if self.numeric is not None:
            values, missing = fill_missing(x.numbers)
            tokens = self.numeric(values)
            if self.missing is not None:
                flags = missing.index_select(1, self.missing_index)
                tokens = self._add_missing(tokens, flags[:, :, None] * self.missing)
            parts.append(tokens)
        if self.bags is not None:
            parts.append(self.bags(x.bags))
        if self.sequences is not None:
            parts.append(self.sequences(x, self.categorical))
        if self.vectors is not None:
            parts.append(self.vectors(x.vectors))
        return parts

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
    sequence_pooling : {"attention", "mean"}, default="attention"
        See :class:`tabmtl.nn.sequences.SequenceEmbedding`.
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
        sequence_pooling: SequencePooling = "attention",
    ) -> None:
        super().__init__()
        self.numbers_as_they_are = numeric_embedding == "none" and len(columns.numeric) > 0
        embedded = replace(columns, numeric=(), has_missing=(), bins=()) if self.numbers_as_they_are else columns
        kind: NumericEmbedding = "linear" if numeric_embedding == "none" else numeric_embedding
        n_tokens, self.tokenizer = count_tokens(embedded), None
        if n_tokens or not self.numbers_as_they_are:
            self.tokenizer = FeatureTokenizer(
                embedded, d_embedding, numeric_embedding=kind, std=std, sequence_pooling=sequence_pooling
            )
        self.width = n_tokens * d_embedding
        if self.numbers_as_they_are:
            with_missing = [j for j, missing in enumerate(columns.has_missing) if missing]
            self.register_buffer("missing_index", torch.tensor(with_missing, dtype=torch.int64), persistent=False)
            self._n_numeric, self._place = len(columns.numeric), int(bool(columns.categorical))
            self.width += len(columns.numeric) + len(with_missing)
            self.members = Members(n_members, self.width, 1)
        else:
            self.members = Members(n_members, n_tokens, d_embedding)

    def widen(self, n_networks: int) -> None:
        """Take the columns of K networks side by side."""
        if self.numbers_as_they_are:
            self.missing_index = _widened(self.missing_index, self._n_numeric, self.n_networks or 1, n_networks)
        super().widen(n_networks)

    def forward(self, x: Features) -> Tensor:
        """Turn rows into vectors (B, D), or (k B, D) of k members; rows of K networks into (K, B, D) or (K, k B, D)."""
        tokens = self._with_numbers(x) if self.numbers_as_they_are or self.tokenizer is None else self.tokenizer(x)
        return self.members(tokens if self.n_networks is None else tokens.transpose(0, 1)).flatten(-2)

    def _with_numbers(self, x: Features) -> Tensor:
        """Put numbers and flags of missing ones between the embeddings of categories and the others: (B, [K,] D, 1)."""
        values, missing = fill_missing(x.numbers)
        parts = [] if self.tokenizer is None else [part.flatten(1) for part in self.tokenizer.parts(x)]
        parts[self._place : self._place] = [values, missing.index_select(1, self.missing_index)]
        if self.n_networks is not None:
            parts = [part.unflatten(1, (self.n_networks, -1)) for part in parts]
        return torch.cat(parts, dim=-1)[..., None]


def _widened(places: Tensor, n: int, n_before: int, n_networks: int) -> Tensor:
    """Return places among the n things of each of K networks, given those of the first ``n_before`` networks."""
    own = places[: len(places) // n_before]
    return (torch.arange(n_networks, dtype=own.dtype)[:, None] * n + own).flatten()
