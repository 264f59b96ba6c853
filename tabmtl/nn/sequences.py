"""Sequences to tokens: the mean of a history, or what of it bears on the item that a row is about.

Shapes: B rows, m entries of the sequences of all rows in a column, Fs columns of sequences, e token width, h units.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Literal, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tabmtl.base.schema import MISSING, Columns, SequenceColumn
from tabmtl.nn.layers import DENSE_ROWS

if TYPE_CHECKING:
    from tabmtl.columns import Features
    from tabmtl.columns.ragged import Entries

SequencePooling = Literal["attention", "mean"]


_UNITS = 16
_EPS = 1e-6  # of the mean square of an embedding, so that one of zeros stays finite
_FIRST_SCORE = -1.0


class SharedTable(Protocol):
    """Embeddings of all categories: the table, and where the rows of each column begin."""

    table: nn.Embedding
    offsets: Tensor


class SequenceEmbedding(nn.Module):
    """All columns of sequences, a token for each; see :class:`PooledSequence`.

    Parameters
    ----------
    columns : Columns
        With at least one column of sequences.
    d_token : int
        Width e of a token.
    pooling : {"attention", "mean"}, default="attention"
    std : float, optional
        Of the first embeddings, see :class:`tabmtl.nn.embeddings.CategoricalEmbedding`.
    """

    def __init__(
        self, columns: Columns, d_token: int, pooling: SequencePooling = "attention", std: float | None = None
    ) -> None:
        super().__init__()
        self.pooled = nn.ModuleList(PooledSequence(own, columns, d_token, pooling, std) for own in columns.sequences)

    def forward(self, x: Features, categories: SharedTable | None) -> Tensor:
        """Embed the sequences of rows to (B, Fs, e), given the embedding of their categories."""
        return torch.stack([pooled(entries, x.codes, categories) for pooled, entries in self._pairs(x)], dim=1)

    def weights(self, x: Features, categories: SharedTable | None) -> list[Tensor]:
        """Return the weights of the entries of every column, (m,) each."""
        return [pooled.weights(entries, x.codes, categories)[0] for pooled, entries in self._pairs(x)]

    def _pairs(self, x: Features) -> Iterator[tuple[Any, Entries]]:
        return zip(self.pooled, x.sequences, strict=True)


class PooledSequence(nn.Module):
    """A column of sequences as one token: the sum of its entries by their weights.

    The embedding of an entry is the row of its item in the table of the column of items, or in a table of its own, plus
    those of the lists of text beside it, a linear map of the numbers beside it, and a constant. The constant tells
    later layers the sum of the weights, which is how much of the sequence bears on the row. A missing sequence and an
    empty one are a learned vector each.

    ``"mean"`` weighs all entries alike. ``"attention"`` is that of the deep interest network (Zhou et al., "Deep
    Interest Network for Click-Through Rate Prediction", KDD 2018): a unit of two layers reads an entry k, the item q of
    the row, and how they meet, and weighs the entry without a softmax, so that a history in which nothing bears on the
    item weighs little. Ours are: the unit reads k, q and k * q, scaled to a mean square of 1, since k - q is a linear
    function of what is there, and how long ago an entry was, in entries and by the numbers beside it; ReLU in
    place of PReLU and Dice, whose statistics would make a row's answer hang on its batch; and weights σ(s) / (1 + Σ
    σ(s)), which stay bounded for histories of any length. A sequence without a column of items has a learned q.

    Parameters
    ----------
    sequence : SequenceColumn
    columns : Columns
    d_token : int
    pooling : {"attention", "mean"}
    std : float, optional
    """

    def __init__(
        self, sequence: SequenceColumn, columns: Columns, d_token: int, pooling: SequencePooling, std: float | None
    ) -> None:
        super().__init__()
        self.place = None if sequence.item is None else columns.categorical.index(sequence.item)
        sizes = ((sequence.size,) if sequence.item is None else ()) + sequence.label_sizes
        self.tables = nn.ModuleList(nn.Embedding(size, d_token, sparse=size > DENSE_ROWS) for size in sizes)
        self.beside = nn.Parameter(torch.empty(1 + sequence.n_numbers, d_token))
        for table in (*(own.weight for own in self._tables), self.beside):
            draw(table, std)
        self.missing, self.empty = (nn.Parameter(torch.zeros(d_token)) for _ in range(2))
        self.unit = ActivationUnit(d_token, sequence.n_numbers) if pooling == "attention" else None
        self.query = nn.Parameter(torch.ones(d_token)) if self.unit is not None and self.place is None else None

    def forward(self, entries: Entries, codes: Tensor, categories: SharedTable | None) -> Tensor:
        """Embed the sequences of B rows, whose categories have codes (B, Fc), to (B, e)."""
        weights, row = self.weights(entries, codes, categories)
        starts, n = entries.offsets[:-1].to(entries.codes.dtype), codes.shape[0]
        table, rows = self._rows(entries, categories)
        found = _weighted_sum(table, rows, starts, weights)
        for own, label in self._labels(entries):
            found = found + _weighted_sum(own, label.contiguous(), starts, weights)
        beside = weights[:, None]
        if entries.numbers is not None:
            beside = torch.cat([beside, beside * entries.numbers], dim=1)
        sums = beside.new_zeros(n, beside.shape[1]).index_add(0, row, beside)
        is_missing = sums.new_zeros(n).index_add(0, row, (entries.codes == MISSING).to(sums.dtype))
        is_empty = (entries.lengths == 0).to(sums.dtype)
        return found + sums @ self.beside + is_missing[:, None] * self.missing + is_empty[:, None] * self.empty

    def weights(self, entries: Entries, codes: Tensor, categories: SharedTable | None) -> tuple[Tensor, Tensor]:
        """Return the weights of the entries, 0 in place of a missing sequence, and their rows, (m,) both."""
        lengths, m = entries.lengths, entries.codes.shape[0]
        row = torch.arange(codes.shape[0], device=lengths.device).repeat_interleave(lengths, output_size=m)
        is_there = (entries.codes != MISSING).to(self.beside.dtype)
        if self.unit is None:
            return is_there / lengths[row], row
        table, rows = self._rows(entries, categories)
        keys = table(rows)
        for own, label in self._labels(entries):
            keys = keys + own(label)
        if self.place is None:
            queries = self.query.expand(codes.shape[0], -1)  # type: ignore[union-attr]
        else:
            queries = table(codes[:, self.place] + categories.offsets[self.place])  # type: ignore[union-attr]
        ago = entries.offsets[1:][row] - torch.arange(1, m + 1, device=row.device)
        return self.unit(keys, queries, row, ago, entries.numbers) * is_there, row

    @property
    def _tables(self) -> list[nn.Embedding]:
        return list(self.tables)  # type: ignore[arg-type]

    def _labels(self, entries: Entries) -> Iterator[tuple[nn.Embedding, Tensor]]:
        """Yield the table and the codes (m,) of every list of text beside the sequence."""
        if entries.labels is not None:
            yield from zip(self._tables[self.place is None :], entries.labels.unbind(dim=1), strict=True)

    def _rows(self, entries: Entries, categories: SharedTable | None) -> tuple[nn.Embedding, Tensor]:
        """Return the table of the entries, and their rows in it (m,)."""
        if self.place is None:
            return self._tables[0], entries.codes
        return categories.table, entries.codes + categories.offsets[self.place]  # type: ignore[union-attr]


class ActivationUnit(nn.Module):
    """Weights of the entries of sequences by two layers, see :class:`PooledSequence`.

    Parameters
    ----------
    d_token : int
        Width e of entries and items.
    n_numbers : int
        Number s of numbers beside an entry.
    """

    def __init__(self, d_token: int, n_numbers: int) -> None:
        super().__init__()
        self.entries = nn.Linear(2 * d_token + 2 + n_numbers, _UNITS)
        self.items = nn.Linear(d_token, _UNITS, bias=False)
        self.score = nn.Linear(_UNITS, 1)
        nn.init.constant_(self.score.bias, _FIRST_SCORE)

    def forward(self, keys: Tensor, queries: Tensor, row: Tensor, ago: Tensor, numbers: Tensor | None) -> Tensor:
        """Weigh entries.

        Parameters
        ----------
        keys : (m, e)
        queries : (B, e)
            The item of every row.
        row : (m,)
            Of every entry.
        ago : (m,)
            Entries after it.
        numbers : (m, s), or None

        Returns
        -------
        Tensor of shape (m,)
            From 0 to 1; those of a row add up to less than 1.
        """
        keys, queries = (F.rms_norm(part, part.shape[1:], eps=_EPS) for part in (keys, queries))
        ages = torch.stack([ago.to(keys.dtype).log1p() / 2, 1 / (1 + ago.to(keys.dtype))], dim=1)
        parts = [keys, keys * queries[row], ages, *([] if numbers is None else [numbers])]
        hidden = F.relu(self.entries(torch.cat(parts, dim=1)) + self.items(queries)[row])
        weights = self.score(hidden)[:, 0].sigmoid()
        total = 1 + weights.new_zeros(queries.shape[0]).index_add(0, row, weights)
        return weights / total[row]


def weigh_entries(network: nn.Module, x: Features) -> list[Tensor]:
    """Return the weights that a network gives the entries of the sequences of rows, (m,) for every column."""
    reader = next(
        module for module in network.modules() if isinstance(getattr(module, "sequences", None), SequenceEmbedding)
    )
    return reader.sequences.weights(x, reader.categorical)  # type: ignore[union-attr, operator]


def draw(table: Tensor, std: float | None) -> None:
    """Draw the first embeddings: by default uniform in ±e^-½."""
    if std is None:
        nn.init.uniform_(table, -(table.shape[1] ** -0.5), table.shape[1] ** -0.5)
    else:
        nn.init.normal_(table, std=std)


def _weighted_sum(table: nn.Embedding, rows: Tensor, starts: Tensor, weights: Tensor) -> Tensor:
    """Add the rows (m,) of a table, by their weights, to (B, e)."""
    weights = weights.to(table.weight.dtype)
    return F.embedding_bag(rows, table.weight, starts, mode="sum", sparse=table.sparse, per_sample_weights=weights)
