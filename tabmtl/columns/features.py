"""Features of rows as arrays, by their form: what networks and trees read, whatever kinds of columns they come from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True, eq=False)
class Features:
    """B rows of features: numpy arrays at the border, torch tensors in training.

    Attributes
    ----------
    numbers : (B, Fn) float32
        NaN = missing.
    codes : (B, Fc) int32
        0 missing, 1 unseen, then the levels; see `tabmtl.schema.Columns`.
    """

    numbers: Any
    codes: Any

    def __len__(self) -> int:
        return len(self.numbers)

    def map(self, function: Callable[[Any], Any]) -> Features:
        """Apply a function to every array, such as one that makes a tensor of it."""
        return Features(numbers=function(self.numbers), codes=function(self.codes))

    @classmethod
    def of(cls, arrays: dict[str, Any]) -> Features:
        """Take those of some arrays that are features by their names."""
        return cls(**{name: arrays.pop(name) for name in cls.__dataclass_fields__})

    def without_columns(self) -> Features:
        """Return the rows without any column."""
        return self.map(lambda part: 1 * part[:, :0])  # a product has memory of its own; a part would hold all
