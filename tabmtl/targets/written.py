"""How a kind of targets is written: its name, and its parameters behind a colon."""

from __future__ import annotations

import math
from dataclasses import fields
from typing import ClassVar, Self


class Written:
    """A frozen dataclass with a name, as a text that tells it: "tweedie:1.7"."""

    name: ClassVar[str]

    def __str__(self) -> str:
        taken = sorted(fields(self), key=lambda item: bool(item.kw_only))  # type: ignore[arg-type]
        values = [value for item in taken if (value := getattr(self, item.name)) is not None]
        parts = [part for value in values for part in (value if isinstance(value, tuple) else (value,))]
        return ":".join([self.name, *map(str, parts)])

    @classmethod
    def from_text(cls, text: str) -> Self:
        """Return the kind whose parameters stand behind its name and a colon: numbers, with colons between them.

        Raises
        ------
        ValueError
            If it does not take them.
        """
        taken = [field.name for field in fields(cls)]  # type: ignore[arg-type]
        try:
            values = [float(part) for part in text.split(":")]
        except ValueError:
            values = []
        has_many = any(isinstance(getattr(cls, name), tuple) for name in taken)
        if not 0 < len(values) <= (math.inf if has_many else len(taken)):
            form = str(cls()) if has_many else ":".join([cls.name, *taken])
            takes = f"{form}, numbers all" if taken else f"{cls.name!r}, without parameters"
            raise ValueError(f"kind must be {takes}, got '{cls.name}:{text}'")
        return cls(*([tuple(values)] if has_many else values))

    def fitted(self) -> Self:
        """Return the kind of a fitted task, whose classes say what the declared kind names of them."""
        return self
