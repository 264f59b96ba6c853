"""Words for the cure of a column that cannot be read, where the user is: in Python, or in a shell.

A command says its options: inside of `tabmtl.base.schema.for_commands`.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import Any

import polars as pl

from tabmtl.base.schema import in_command


def by_column(names: Sequence[str], *kinds: str) -> str:
    """Return the argument, or the options, that declare one kind of all columns, or one of each."""
    declared = dict(zip(names, kinds if len(kinds) == len(names) else kinds * len(names), strict=True))
    if in_command.get():
        return shlex.join(word for name, kind in declared.items() for word in ("--column", f"{name}={kind}"))
    return f"columns={declared}"


def by_time(name: str) -> str:
    """Return the argument, or the option, that splits rows by a column of times."""
    return shlex.join(["--time-column", name]) if in_command.get() else f"time={name!r}"


def by_kind(name: str, kind: str) -> str:
    """Return the argument, or the option, that declares the kind of a target."""
    return f"--target {shlex.quote(f'{name}={kind}')}" if in_command.get() else f"tasks={{{name!r}: {kind!r}}}"


#: How to take the columns of fit from a frame.
BY_COLUMNS = "Take the columns of fit: list(model.feature_names_in_)."


def by_cast(dtype: pl.DataType | type[pl.DataType]) -> str:
    """Say how to make numbers or text of a column, given the type that polars would give it."""
    how: dict[Any, str] = {
        pl.List: "derive numbers or text from it, such as the length, or put the items of inner lists in their place",
        pl.Array: "make a column of each number",
        pl.Struct: "make a column of each field",
        pl.Binary: "make text of it, such as by value.decode()",
    }
    return how.get(dtype.base_type(), "cast it to numbers or text")
