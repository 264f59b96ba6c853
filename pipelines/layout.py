"""Frames as plain text, for terminals of any width and for files."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import polars as pl

_MOST_ROWS = 30


def lay_out(frame: pl.DataFrame, *, signed: Sequence[str] = ()) -> str:
    """A frame in columns that are aligned right; numbers have 4 places, and what is null is "-".

    Parameters
    ----------
    frame : polars.DataFrame
        Its first 30 rows are shown, and how many more there are.
    signed : sequence of str
        Columns whose numbers show their sign.

    Examples
    --------
    >>> print(lay_out(pl.DataFrame({"task": ["late", "delay"], "rows": [1200, 80], "score": [0.81234, None]})))
     task   rows   score
     late  1,200  0.8123
    delay     80       -
    """
    shown = frame.head(_MOST_ROWS)
    columns = [[column.name, *(_cell(value, column.name in signed) for value in column)] for column in shown]
    widths = [max(map(len, column)) for column in columns]
    lines = ["  ".join(map(str.rjust, row, widths)) for row in zip(*columns, strict=True)]
    rest = frame.height - shown.height
    return "\n".join([*lines, *([f"... and {rest} more"] if rest else [])])


def _cell(value: Any, signed: bool) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return format(value, "+.4f" if signed else ".4f")
    return format(value, ",") if isinstance(value, int) else str(value)
