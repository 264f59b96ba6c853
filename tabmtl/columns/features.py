"""Features of rows as arrays, by their form: what networks and trees read, whatever kinds of columns they come from."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np

from tabmtl.columns.kind import Form, Parts
from tabmtl.schema import UNSEEN
from tabmtl.storage.stored import Stored

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True, eq=False)
class Bags:
    """A bag of weighted codes per row.

    Attributes
    ----------
    offsets : (G + 1,) int64
    codes : (m,) int32
        Sorted inside a row.
    weights : (m,) float32
        They add up to 1 in every row that holds anything: the embedding of a bag is a mean.
    """

    offsets: Annotated[Any, Stored("i8", "G+1", offsets="m")]
    codes: Annotated[Any, Stored("i4", "m", low=0)]
    weights: Annotated[Any, Stored("f4", "m", low=0)]

    def map(self, function: Callable[[Any], Any]) -> Bags:
        """Apply a function to every array."""
        return Bags(**{name: function(part) for name, part in vars(self).items()})

    def take(self, rows: Tensor) -> Bags:
        """Take rows by number, of tensors."""
        import torch

        starts = self.offsets[rows]
        lengths = self.offsets[rows + 1] - starts
        offsets = torch.nn.functional.pad(lengths.cumsum(0), (1, 0))
        index = torch.arange(int(offsets[-1]), device=rows.device)
        index += (starts - offsets[:-1]).repeat_interleave(lengths)
        return Bags(offsets=offsets, codes=self.codes[index], weights=self.weights[index])

    @classmethod
    def join(cls, several: Sequence[Bags]) -> Bags:
        """Return the rows of several bags as one, of numpy arrays."""
        lengths = [np.diff(bags.offsets) for bags in several]
        return cls(
            offsets=np.cumsum(np.concatenate([np.zeros(1, np.int64), *lengths])),
            codes=np.concatenate([np.zeros(0, np.int32), *(bags.codes for bags in several)]),
            weights=np.concatenate([np.zeros(0, np.float32), *(bags.weights for bags in several)]),
        )

    def keys(self) -> Iterator[bytes]:
        """Give the content of every row, of numpy arrays."""
        pairs = np.stack([self.codes, self.weights.view(np.int32)], axis=1).tobytes()
        ends = (8 * self.offsets).tolist()
        return (pairs[start:end] for start, end in pairwise(ends))


@dataclass(frozen=True, kw_only=True, eq=False)
class Features:
    """G rows of features: numpy arrays at the border, torch tensors in training.

    Attributes
    ----------
    numbers : (G, Fn) float32
        NaN = missing.
    codes : (G, Fc) int32
        0 missing, 1 unseen, then the levels; see `tabmtl.schema.Columns`.
    bags : tuple of Bags
        One a column of tags or text; tables have none.
    vectors : (G, V) float32, or None
        All columns of vectors side by side; 0 where missing. Tables have none.
    """

    numbers: Annotated[Any, Stored("f4", "G Fn", missing=True)]
    codes: Annotated[Any, Stored("i4", "G Fc", low=0)]
    bags: tuple[Bags, ...] = ()
    vectors: Annotated[Any, Stored("f4", "G V")] | None = None

    @classmethod
    def beside(cls, several: Sequence[Parts]) -> Features:
        """Return the parts of several kinds of columns side by side; numbers and codes are among them."""
        own: dict[str, list[Any]] = {"numbers": [], "codes": [], "bags": [], "vectors": []}
        for parts in several:
            for form, part in parts.items():
                own[form].append(part)
        return cls(
            numbers=_beside(own["numbers"]),
            codes=_beside(own["codes"]),
            bags=sum(own["bags"], ()),
            vectors=_beside(own["vectors"]) if own["vectors"] else None,
        )

    @classmethod
    def of(cls, arrays: dict[str, Any]) -> Features:
        """Take those of some arrays that are features of a table by their names."""
        return cls(numbers=arrays.pop("numbers"), codes=arrays.pop("codes"))

    def __len__(self) -> int:
        return len(self.numbers)

    def arrays(self) -> dict[str, Any]:
        """Return the arrays of a table by name."""
        return {"numbers": self.numbers, "codes": self.codes}

    def map(self, function: Callable[[Any], Any]) -> Features:
        """Apply a function to every array, such as one that makes a tensor of it."""
        return Features(
            numbers=function(self.numbers),
            codes=function(self.codes),
            bags=tuple(bags.map(function) for bags in self.bags),
            vectors=None if self.vectors is None else function(self.vectors),
        )

    def take(self, rows: Tensor) -> Features:
        """Take rows by number, of tensors."""
        plain = replace(self, bags=()).map(lambda part: part[rows])
        return replace(plain, bags=tuple(bags.take(rows) for bags in self.bags))

    def shuffled(self, name: str, origins: Mapping[Form, Sequence[str]], order: np.ndarray) -> Features:
        """Give every row the features of a column that another row has, of numpy arrays.

        Parameters
        ----------
        name : str
        origins : mapping of str to sequence of str
            The columns behind the features of every form.
        order : (G,) int64
            The row that each row takes them of.
        """
        changed: dict[str, Any] = {}
        for form in ("numbers", "codes"):
            places = np.flatnonzero(np.array(origins[form], dtype=object) == name)
            if len(places):
                changed[form] = getattr(self, form).copy()
                changed[form][:, places] = changed[form][np.ix_(order, places)]
        return replace(self, **changed)

    def without_columns(self) -> Features:
        """Return the rows of a table without any column."""
        return self.map(lambda part: 1 * part[:, :0])  # a product has memory of its own; a part would hold all

    def extended(self, more: Features) -> Features:
        """Append rows, of numpy arrays."""
        both = self, more
        return Features(
            numbers=np.concatenate([one.numbers for one in both]),
            codes=np.concatenate([one.codes for one in both]),
            bags=tuple(Bags.join(own) for own in zip(self.bags, more.bags, strict=True)),
            vectors=None if self.vectors is None else np.concatenate([one.vectors for one in both]),
        )

    def with_unknown(self) -> Features:
        """Append a row of which nothing is known: unseen levels, missing numbers and empty bags."""
        empty = Bags(offsets=np.zeros(2, np.int64), codes=np.zeros(0, np.int32), weights=np.zeros(0, np.float32))
        unknown = Features(
            numbers=np.full((1, self.numbers.shape[1]), np.nan, dtype=np.float32),
            codes=np.full((1, self.codes.shape[1]), UNSEEN, dtype=np.int32),
            bags=(empty,) * len(self.bags),
            vectors=None if self.vectors is None else np.zeros((1, self.vectors.shape[1]), dtype=np.float32),
        )
        return self.extended(unknown)

    def distinct(self) -> tuple[Features, np.ndarray]:
        """Keep the first of equal rows, in their order, and give the place of every row (G,) among them."""
        import torch

        first: dict[tuple[bytes, ...], int] = {}
        place = np.array([first.setdefault(key, len(first)) for key in self.keys()], dtype=np.int64)
        kept = torch.from_numpy(np.unique(place, return_index=True)[1])
        return self.map(torch.from_numpy).take(kept).map(torch.Tensor.numpy), place

    def keys(self) -> Iterator[tuple[bytes, ...]]:
        """Give the content of every row, of numpy arrays."""
        numbers = np.where(np.isnan(self.numbers), np.float32(np.nan), self.numbers)  # there are several NaN
        arrays = [numbers, self.codes] if self.vectors is None else [numbers, self.codes, self.vectors]
        plain = np.concatenate([array.view(np.int32) for array in arrays], axis=1)
        lines = (row.tobytes() for row in plain)
        return zip(lines, *(bags.keys() for bags in self.bags), strict=True)


def _beside(parts: Sequence[np.ndarray]) -> np.ndarray:
    return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)
