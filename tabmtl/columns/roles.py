"""Roles of columns in sequences: what is declared of them, and whether that can be."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import NamedTuple

import polars as pl

from tabmtl.base.params import near
from tabmtl.columns.category import is_feature
from tabmtl.columns.cures import by_column
from tabmtl.columns.declared import Category, Declared, Ignore, Sequence
from tabmtl.columns.tags import inner_of


class Role(NamedTuple):
    """What a sequence is made of: the column of its items, which is its own name if it has none, and its side lists.

    Its newest entries are read, as many as ``longest``.
    """

    name: str
    item: str
    sides: tuple[str, ...]
    longest: int


def find_roles(columns: Mapping[str, Declared]) -> list[Role]:
    """Return the declared sequences, with their side lists.

    Raises
    ------
    ValueError
        If a list is beside itself, or beside a list that is beside another one.
    """
    declared = _lists_of(columns)
    sides: dict[str, list[str]] = {name: [] for name, of in declared.items() if of not in declared}
    for name, of in declared.items():
        if of in sides:
            sides[of].append(name)
        elif of is not None and of in declared:
            whole = declared[of]
            cure = by_column([name], "sequence" if of == name or whole is None else f"sequence:{whole}")
            raise ValueError(f"{name!r} is declared to lie beside {of!r}, which is no sequence of items; say {cure}")
    return [
        Role(name, declared[name] or name, tuple(own), columns[name].longest)  # type: ignore[attr-defined]
        for name, own in sides.items()
    ]


def leave_out(columns: Mapping[str, Declared], dropped: Collection[str]) -> dict[str, Declared]:
    """Return what is declared of columns if some are ignored, and the lists beside a sequence with it.

    A sequence without the column of its items has levels of its own.
    """
    gone = {*dropped, *(side for role in find_roles(columns) if role.name in dropped for side in role.sides)}
    left = {name: own for name, own in columns.items() if name not in gone}
    alone = {name: replace(own, of=None) for name, own in left.items() if isinstance(own, Sequence) and own.of in gone}
    return left | alone | dict.fromkeys(sorted(gone), Ignore())


def sequence_columns(columns: Mapping[str, Declared]) -> list[str]:
    """Return the columns that are sequences, or their items."""
    return [*dict.fromkeys(name for pair in _lists_of(columns).items() for name in pair if name is not None)]


def check_sequences(columns: Mapping[str, Declared], schema: Mapping[str, pl.DataType]) -> None:
    """Raise an error unless the columns of sequences are there, and are lists, and items are none."""
    declared = _lists_of(columns)
    for name, of in declared.items():
        alone = f"say {by_column([name], 'sequence')} for levels of its own"
        if of is not None and of not in schema:
            raise ValueError(
                f"column {name!r} is declared a sequence of the column {of!r}, which X lacks{near(of, schema)}; name a "
                f"column of X, or {alone}"
            )
        inner = inner_of(schema[name])
        if inner is None or not is_feature(inner):
            raise TypeError(
                f"column {name!r} is declared a sequence and holds {schema[name]}; expected lists of text or numbers: "
                "declare another kind, or make lists of it"
            )
        if of in declared:
            continue
        if inner.is_float():
            raise TypeError(
                f"column {name!r} is a sequence of items and holds {schema[name]}; expected lists of text or whole "
                "numbers: cast its entries, or say which sequence these numbers lie beside"
            )
        if of is not None and not (is_feature(schema[of]) and columns.get(of, Category()) == Category()):
            kind = f", declared {str(columns[of])!r}" if of in columns else ""
            raise TypeError(
                f"column {of!r} holds the items of the sequence {name!r}, and is of type {schema[of]}{kind}; expected "
                f"one text or number a row, a category: {alone}"
            )


def _lists_of(columns: Mapping[str, Declared]) -> dict[str, str | None]:
    """Return the declared lists, and what they are of."""
    return {name: own.of for name, own in columns.items() if isinstance(own, Sequence)}
