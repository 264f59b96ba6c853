"""Features of rows as arrays, by their form: what networks and trees read, whatever kinds of columns they come from."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any

import numpy as np

from tabmtl.base.schema import UNSEEN
from tabmtl.base.storage.stored import Stored
from tabmtl.columns.kind import FIELDS, Form, Parts
from tabmtl.columns.ragged import Bags, Entries, Ragged

#: Names of the forms of ragged rows, and their class.
_RAGGED: dict[Form, type[Ragged]] = {"bags": Bags, "sequences": Entries}


@dataclass(frozen=True, kw_only=True, eq=False)
class Features:
    """G rows of features: numpy arrays at the border, torch tensors in training.

    Attributes
    ----------
    numbers : (G, Fn) float32
        NaN = missing.
    codes : (G, Fc) int32
        0 missing, 1 unseen, then the levels; see `tabmtl.base.schema.Columns`.
    bags : tuple of Bags
        One a column of tags or text; trees read none.
    sequences : tuple of Entries
        One a column of sequences; trees read none.
    vectors : (G, V) float32, or None
        All columns of vectors side by side; NaN where missing. Trees read none.
    """

    numbers: Annotated[Any, Stored("f4", "G Fn", missing=True)]
    codes: Annotated[Any, Stored("i4", "G Fc", low=0)]
    bags: tuple[Bags, ...] = ()
    sequences: tuple[Entries, ...] = ()
    vectors: Annotated[Any, Stored("f4", "G V", missing=True)] | None = None

    @classmethod
    def beside(cls, several: Sequence[Parts]) -> Features:
        """Return the parts of several kinds of columns side by side; numbers and codes are among them."""
        own: dict[str, list[Any]] = {form: [] for form in FIELDS}
        for parts in several:
            for form, part in parts.items():
                own[form].append(part)
        return cls(
            numbers=_side_by_side(own["numbers"]),
            codes=_side_by_side(own["codes"]),
            bags=sum(own["bags"], ()),
            sequences=sum(own["sequences"], ()),
            vectors=_side_by_side(own["vectors"]) if own["vectors"] else None,
        )

    @classmethod
    def of(cls, arrays: dict[str, Any]) -> Features:
        """Take those of some arrays that are features by their names, which `arrays` gives; or offsets for lengths."""
        numbers, codes = arrays.pop("numbers"), arrays.pop("codes")
        ragged: dict[str, tuple[Ragged, ...]] = {}
        for form, kind in _RAGGED.items():
            found: dict[str, dict[str, Any]] = {}
            for name in [name for name in arrays if name.startswith(f"{form}-")]:
                _, number, part = name.split("-")
                found.setdefault(number, {})[part] = arrays.pop(name)
            ragged[form] = tuple(map(kind.of, found.values()))
        return cls(numbers=numbers, codes=codes, vectors=arrays.pop("vectors", None), **ragged)  # type: ignore[arg-type]

    def __len__(self) -> int:
        return len(self.numbers)

    def plain(self) -> dict[str, Any]:
        """Return the arrays that have an entry for every row, by name, those that are there."""
        found = {"numbers": self.numbers, "codes": self.codes}
        return found if self.vectors is None else {**found, "vectors": self.vectors}

    def ragged(self) -> dict[Form, tuple[Ragged, ...]]:
        """Return the ragged rows by form, of those forms that are there."""
        return {form: rows for form in _RAGGED if (rows := getattr(self, form))}

    def without_ragged(self) -> Features:
        """Return the rows without those features of which a row has several entries."""
        return replace(self, bags=(), sequences=())

    def arrays(self) -> dict[str, Any]:
        """Return all arrays by name, so that those of several blocks of rows add up; of ragged rows the lengths."""
        found = self.plain()
        for form, several in self.ragged().items():
            for k, rows in enumerate(several):
                found |= {f"{form}-{k}-{name}": part for name, part in rows.arrays().items()}
        return found

    def map(self, function: Callable[[Any], Any]) -> Features:
        """Apply a function to every array, such as one that makes a tensor of it."""
        return self._each(function, lambda rows: rows.map(function))

    def rows(self, index: Any) -> Features:
        """Take rows by number, by a slice, or of numpy arrays by a mask."""
        if hasattr(self.numbers, "index_select") and not isinstance(index, slice):
            return self._each(lambda part: part.index_select(0, index), lambda rows: rows.rows(index))
        return self._each(lambda part: part[index], lambda rows: rows.rows(index))

    def _each(self, function: Callable[[Any], Any], of_ragged: Callable[[Any], Any]) -> Features:
        """Apply functions to arrays with an entry for every row, and to ragged rows."""
        return Features(
            numbers=function(self.numbers),
            codes=function(self.codes),
            bags=tuple(map(of_ragged, self.bags)) if self.bags else (),
            sequences=tuple(map(of_ragged, self.sequences)) if self.sequences else (),
            vectors=None if self.vectors is None else function(self.vectors),
        )

    def without_columns(self) -> Features:
        """Return the rows without any column."""
        # a product has memory of its own; a part would hold all
        return Features(numbers=1 * self.numbers[:, :0], codes=1 * self.codes[:, :0])

    def beside_itself(self, n: int) -> Features:
        """Return rows of n times the columns, each row n times side by side, of numpy arrays."""
        plain: dict[str, Any] = {name: np.tile(part, (1, n)) for name, part in self.plain().items()}
        ragged: dict[str, Any] = {form: several * n for form, several in self.ragged().items()}
        return Features(**plain, **ragged)

    def extended(self, more: Features) -> Features:
        """Append rows, of numpy arrays."""
        parts = self.arrays(), more.arrays()
        return Features.of({name: np.concatenate([part[name] for part in parts]) for name in parts[0]})

    def with_unknown(self) -> Features:
        """Append a row of which nothing is known: unseen levels, missing numbers and vectors, and empty bags."""
        unknown = Features(
            numbers=np.full((1, self.numbers.shape[1]), np.nan, dtype=np.float32),
            codes=np.full((1, self.codes.shape[1]), UNSEEN, dtype=np.int32),
            bags=(Bags.empty(1),) * len(self.bags),
            vectors=None if self.vectors is None else np.full((1, self.vectors.shape[1]), np.nan, dtype=np.float32),
        )
        return self.extended(unknown)

    def distinct(self) -> tuple[Features, np.ndarray]:
        """Keep the first of equal rows, in their order, and give the place of every row (G,) among them."""
        first: dict[tuple[bytes, ...], int] = {}
        place = np.array([first.setdefault(key, len(first)) for key in self.keys()], dtype=np.int64)
        return self.rows(np.unique(place, return_index=True)[1]), place

    def keys(self) -> Iterator[tuple[bytes, ...]]:
        """Give the content of every row, of numpy arrays."""
        numbers = np.where(np.isnan(self.numbers), np.float32(np.nan), self.numbers)  # there are several NaN
        arrays = [numbers, self.codes] if self.vectors is None else [numbers, self.codes, self.vectors]
        plain = np.concatenate([array.view(np.int32) for array in arrays], axis=1)
        lines = (row.tobytes() for row in plain)
        return zip(lines, *(rows.keys() for own in self.ragged().values() for rows in own), strict=True)


def join_ragged(blocks: Sequence[Mapping[Form, tuple[Ragged, ...]]]) -> dict[Form, tuple[Ragged, ...]]:
    """Return the ragged rows of one or several blocks as one, of numpy arrays."""
    several = {form: zip(*(block[form] for block in blocks), strict=True) for form in blocks[0]}
    return {form: tuple(_RAGGED[form].join(own) for own in columns) for form, columns in several.items()}


def _side_by_side(parts: Sequence[np.ndarray]) -> np.ndarray:
    return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)
