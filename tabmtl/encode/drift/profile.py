"""The profile of a fit: how its rows are spread over columns, and the answers to them, in a few numbers each."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from itertools import chain
from typing import Annotated, Any, Literal, Self

import numpy as np

from tabmtl.base.schema import FIRST_LEVEL, MISSING, UNSEEN, Columns
from tabmtl.base.storage.stored import Stored
from tabmtl.columns.ragged import offsets_of
from tabmtl.encode.drift.readings import Reading

#: Rows of a profile at most, and their cells.
MOST_ROWS, MOST_CELLS = 5_000, 500_000
_LEAST_ROWS = 100
_BINS, _LEVELS = 10, 64
_FURTHER = 3  # cells beside the keys: missing, unseen, and one bin more
_OF_LISTS = 10  # cells that a column of lists counts as
_TOLERANCE = 1e-5  # by which a number may differ from the only one of fit

#: Rows that a part of a profile is of: those of a fit, some that a model has not learned, or has, or others.
Source = Literal["fit", "unseen", "learned", "reference"]


def sample_size(columns: Columns) -> int:
    """Return how many rows of a table are enough for a profile, within its cells."""
    lists = _OF_LISTS * (len(columns.bag_sizes) + len(columns.sequences))
    width = len(columns.numeric) + len(columns.categorical) + sum(columns.vector_widths) + lists
    return min(MOST_ROWS, max(MOST_CELLS // max(width, 1), _LEAST_ROWS))


@dataclass(frozen=True, kw_only=True, eq=False)
class Profile:
    """How rows are spread over cells, by feature of their columns and by number of their answers.

    The cells of a feature are: missing; unseen; and the bins between its keys, which are numbers or codes.

    Attributes
    ----------
    names : tuple of str, length J
        The column or task of every feature.
    features : tuple of str, length J
        Which of its features it is; empty if it is the only one.
    n_codes : tuple of int, length J
        Number of the codes that there were; 0 of numbers.
    sources : tuple of str, length J
        The rows that were counted: "fit", or "reference" for given ones; of answers "unseen", "learned" or "reference".
    n_columns : int
        Number of features of columns; those of answers come behind them.
    offsets : ndarray of int64, shape (J + 1,)
        Places of the keys of every feature.
    keys : ndarray of shape (k,)
    counts : ndarray of shape (k + 3 J,)
        Rows by cell, those of every feature behind those of the one before.
    """

    names: Annotated[tuple[str, ...], Stored(shape="readings")]
    features: Annotated[tuple[str, ...], Stored(shape="readings")]
    n_codes: Annotated[tuple[int, ...], Stored(shape="readings")]
    sources: Annotated[tuple[str, ...], Stored(shape="readings")]
    n_columns: int
    offsets: Annotated[np.ndarray, Stored("i8", "readings+1", offsets="keys")]
    keys: Annotated[np.ndarray, Stored("f8", "keys")]
    counts: Annotated[np.ndarray, Stored("f8", "cells", low=0)]

    def __post_init__(self) -> None:
        if len(self.counts) != len(self.keys) + _FURTHER * len(self.names) or not 0 <= self.n_columns <= len(self):
            raise ValueError(
                f"a profile of {len(self)} features and {len(self.keys)} keys has {len(self.counts)} cells, of which "
                f"{self.n_columns} features are of columns"
            )

    def __len__(self) -> int:
        return len(self.names)

    @classmethod
    def learn(
        cls, columns: Iterable[Reading], answers: Iterable[Reading] = (), *, of_columns: Source, of_answers: Source
    ) -> Self:
        """Choose cells for readings of some rows, and count these.

        Parameters
        ----------
        columns, answers : iterable of Reading
            Of columns, and of answers to the same rows or to others.
        of_columns, of_answers : str
            Which rows they are of.
        """
        read = [*columns]
        n_columns = len(read)
        read += answers
        keys = [_find_keys(own) for own in read]
        counts = [_count(own, found, own.n_codes) for own, found in zip(read, keys, strict=True)]
        nothing = np.empty(0)
        return cls(
            names=tuple(own.name for own in read),
            features=tuple(own.feature for own in read),
            n_codes=tuple(own.n_codes for own in read),
            sources=(of_columns,) * n_columns + (of_answers,) * (len(read) - n_columns),
            n_columns=n_columns,
            offsets=offsets_of(np.array([len(found) for found in keys], dtype=np.int64)),
            keys=np.concatenate([nothing, *keys]),
            counts=np.concatenate([nothing, *counts]),
        )

    def cells(self, j: int) -> slice:
        """Return the places of the counts of a feature."""
        return slice(int(self.offsets[j]) + _FURTHER * j, int(self.offsets[j + 1]) + _FURTHER * (j + 1))

    def count(self, columns: Iterable[Reading], answers: Iterable[Reading]) -> np.ndarray:
        """Count readings of other rows by the same cells; counts of several blocks of rows add up.

        Returns
        -------
        counts : ndarray, like ``counts``
            0 for features that are not read; readings without a place in the profile are left out.
        """
        places: dict[tuple[bool, str, str], list[int]] = {}
        for j, name in enumerate(self.names):
            places.setdefault((j >= self.n_columns, name, self.features[j]), []).append(j)
        counts = np.zeros_like(self.counts)
        for is_answer, own in chain(((False, each) for each in columns), ((True, each) for each in answers)):
            for j in places.get((is_answer, own.name, own.feature), ()):
                keys = self.keys[self.offsets[j] : self.offsets[j + 1]]
                counts[self.cells(j)] = _count(own, keys, self.n_codes[j])
        return counts

    def of_tasks(self, names: Collection[str], without: str | None = None) -> Self:
        """Return the profile without the answers for other tasks, and without a column."""
        return self._part(
            [j for j, name in enumerate(self.names) if (name in names if j >= self.n_columns else name != without)]
        )

    def with_answers(self, answers: Iterable[Reading], of_answers: Source) -> Self:
        """Return the profile with answers for further tasks, behind the others."""
        more = type(self).learn((), answers, of_columns=of_answers, of_answers=of_answers)
        joined: dict[str, Any] = {name: (*getattr(self, name), *getattr(more, name)) for name in _TUPLES}
        arrays: dict[str, Any] = {
            name: np.concatenate([getattr(self, name), getattr(more, name)]) for name in ("keys", "counts")
        }
        offsets = np.concatenate([self.offsets, self.offsets[-1] + more.offsets[1:]])
        return replace(self, **joined, **arrays, offsets=offsets)

    def _part(self, places: list[int]) -> Self:
        """Return the profile of some features."""
        keys = [self.keys[self.offsets[j] : self.offsets[j + 1]] for j in places]
        return replace(
            self,
            **{name: tuple(getattr(self, name)[j] for j in places) for name in _TUPLES},
            n_columns=sum(j < self.n_columns for j in places),
            offsets=offsets_of(np.array([len(own) for own in keys], dtype=np.int64)),
            keys=np.concatenate([np.empty(0), *keys]),
            counts=np.concatenate([np.empty(0), *(self.counts[self.cells(j)] for j in places)]),
        )


_TUPLES = ("names", "features", "n_codes", "sources")


def _find_keys(own: Reading) -> np.ndarray:
    """Return the edges of bins: of numbers quantiles, each halfway to the number below it; of codes the codes.

    Many codes share bins by quantiles too, and none is chosen because it is frequent: those that chance made frequent
    are so no more among other rows.
    """
    if own.n_codes:
        codes, place = np.unique(own.values[(own.values < MISSING) | (own.values > UNSEEN)], return_inverse=True)
        if len(codes) > _LEVELS:
            counts = np.cumsum(np.bincount(place))
            codes = codes[np.searchsorted(counts, np.arange(1, _LEVELS) * counts[-1] / _LEVELS)]
        return np.unique(np.append(codes, FIRST_LEVEL))  # below it are empty lists alone
    values = np.sort(own.values[~np.isnan(own.values)])
    if not len(values):
        return values
    if values[0] == values[-1]:
        margin = _TOLERANCE * max(1.0, abs(values[0]))
        return np.array([values[0] - margin, values[0] + margin])
    edges = np.unique(values[np.arange(1, _BINS) * len(values) // _BINS])
    second = values[np.searchsorted(values, values[0], side="right")]  # alone an edge, where nearly all are the least
    edges = edges[edges > values[0]] if edges[-1] > values[0] else np.array([second])
    # rounding moves no number over such an edge
    return np.unique(edges / 2 + values[np.searchsorted(values, edges) - 1] / 2)


def _count(own: Reading, keys: np.ndarray, n_codes: int) -> np.ndarray:
    """Count values by cell; codes that the rows of the profile did not have are unseen, also if a model knows them."""
    values = own.values
    cells = FIRST_LEVEL + np.searchsorted(keys, values, side="right")
    cells[values == MISSING if n_codes else np.isnan(values)] = MISSING
    if n_codes:
        cells[(values == UNSEEN) | (values >= n_codes)] = UNSEEN
    return np.bincount(cells, own.weight, minlength=len(keys) + _FURTHER).astype(np.float64)
