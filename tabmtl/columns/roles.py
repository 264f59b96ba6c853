"""Roles of columns in sequences: what ``sequence_features`` says of them, and whether that can be."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import NamedTuple

import polars as pl

from tabmtl.base.params import near
from tabmtl.columns.category import is_feature
from tabmtl.columns.tags import inner_of


class Role(NamedTuple):
    """What a sequence is made of: the column of its items, which is its own name if it has none, and its side lists."""

    name: str
    item: str
    sides: tuple[str, ...]


def find_roles(declared: Mapping[str, str | None]) -> list[Role]:
    """Return the sequences that ``sequence_features`` declares, with their side lists.

    Raises
    ------
    ValueError
        If a list is beside itself, or beside a list that is beside another one.
    """
    sides: dict[str, list[str]] = {name: [] for name, of in declared.items() if of not in declared}
    for name, of in declared.items():
        if of in sides:
            sides[of].append(name)
        elif of is not None and of in declared:
            whole = declared[of]
            cure = f"say {{{name!r}: None}}" if of == name else f"say {{{name!r}: {whole!r}}}"
            raise ValueError(
                f"sequence_features says that {name!r} lies beside {of!r}, which is no sequence of items itself; {cure}"
            )
    return [Role(name, declared[name] or name, tuple(own)) for name, own in sides.items()]


def leave_out(
    declared: Mapping[str, str | None], dropped: Collection[str]
) -> tuple[dict[str, str | None], list[str], list[str]]:
    """Return what ``sequence_features`` declares without some columns.

    A sequence without the column of its items has levels of its own, and lists beside a sequence go with it.

    Returns
    -------
    declared : dict of str to str or None
    items : list of str
        Columns whose values no sequence holds any more, which are categories of their own.
    gone : list of str
        Lists that lay beside sequences that were dropped.
    """
    roles = find_roles(declared)
    gone = [side for role in roles if role.name in dropped for side in role.sides]
    left = {name: of for name, of in declared.items() if name not in dropped and name not in gone}
    left = {name: None if of in dropped else of for name, of in left.items()}
    items = dict.fromkeys(role.item for role in roles if role.item != role.name)
    return left, [item for item in items if item not in dropped and item not in left.values()], gone


def sequence_columns(declared: Mapping[str, str | None]) -> list[str]:
    """Return the columns that ``sequence_features`` names."""
    return [*dict.fromkeys(name for pair in declared.items() for name in pair if name is not None)]


def check_columns(declared: Mapping[str, str | None], schema: Mapping[str, pl.DataType]) -> None:
    """Raise an error unless the columns of ``sequence_features`` are there, and are lists, and items are none."""
    for name, of in declared.items():
        for each in (name, of):
            if each is not None and each not in schema:
                raise ValueError(
                    f"sequence_features names the column {each!r}, which X lacks{near(each, schema)}; name a column of "
                    f"X{'' if each == name else f', or say {{{name!r}: None}} for levels of its own'}"
                )
        _check_list(name, schema[name])
        if of in declared:
            continue
        if (inner_of(schema[name]) or pl.Null()).is_float():
            raise TypeError(
                f"column {name!r} is a sequence of items and holds {schema[name]}; expected lists of text or whole "
                "numbers: cast its entries, or say which sequence these numbers lie beside"
            )
        if of is not None:
            _check_item(of, name, schema[of])


def _check_list(name: str, dtype: pl.DataType) -> None:
    inner = inner_of(dtype)
    if inner is None or not is_feature(inner):
        raise TypeError(
            f"column {name!r} is a sequence and holds {dtype}; expected lists of text or numbers: take it out of "
            "sequence_features, or make lists of it"
        )


def _check_item(item: str, name: str, dtype: pl.DataType) -> None:
    if not is_feature(dtype):
        raise TypeError(
            f"column {item!r} holds the items of the sequence {name!r} and has type {dtype}; expected one text or "
            f"number a row: say {{{name!r}: None}} in sequence_features for levels of its own"
        )
