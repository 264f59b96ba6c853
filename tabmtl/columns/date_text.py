"""Dates that are text: the rule that finds them, and their reading."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any, TypeVar

import polars as pl
import polars.selectors as cs

Frame = TypeVar("Frame", pl.DataFrame, pl.LazyFrame)

#: Text that files and servers have where a value is missing.
NOTHING = ["", "None", "nan", "NaN", "NaT"]

#: Of the present values of a column, those that must be dates.
LEAST_SHARE = 0.99

_LEVELS_LOOKED_AT = 100
_DAY, _CLOCK = r"\d{4}-\d{2}-\d{2}", r"\d{2}:\d{2}(:\d{2}(\.\d+)?)?"
#: Text of a moment with a time zone.
ZONED = rf"^{_DAY}[T ]{_CLOCK}(Z|[+-]\d{{2}}(:?\d{{2}})?)$"
_PATTERNS = {
    "dates": f"^{_DAY}$",
    "datetimes": f"^{_DAY}[T ]{_CLOCK}$",
    "datetimes of UTC": ZONED,
    "times": f"^{_CLOCK}$",
}
_ALLOWED = {
    kind: ("dates", "datetimes") if kind == "datetimes" else (kind,) for kind in _PATTERNS
}  # days are midnights


def find_text_dates(*parts: pl.DataFrame | pl.LazyFrame) -> dict[str, str]:
    """Find the columns of text that are dates in the rows of all parts, and say what `read_text` makes of them.

    They are, if at least 99 % of the present values are dates, datetimes or times in ISO 8601: ``2024-02-29``,
    ``2024-02-29 13:45``, with or without seconds and a time zone, or ``13:45``. Words for a missing value, such as NaT,
    count as missing. Digits alone are no date.

    Returns
    -------
    found : dict of str to {"dates", "datetimes", "datetimes of UTC", "times"}

    Examples
    --------
    >>> import polars as pl
    >>> frame = pl.DataFrame({"day": ["2024-02-29", None], "at": ["13:45", "9 pm"], "code": ["2024", "2025"]})
    >>> find_text_dates(frame)
    {'day': 'dates'}
    """
    total: dict[str, Counter[str]] = {}
    for part in parts:
        names = [name for name, dtype in part.collect_schema().items() if dtype == pl.String]
        counts = [_counts(cs.by_name(name).as_expr(), pl.lit(1)).alias(str(j)) for j, name in enumerate(names)]
        if names:
            (row,) = part.lazy().select(counts).collect().rows()
            for name, own in zip(names, row, strict=True):
                total.setdefault(name, Counter()).update(own)
    found = {name: _kind_of(own) for name, own in total.items()}
    return {name: kind for name, kind in found.items() if kind is not None}


def with_dates(frame: Frame, found: Mapping[str, str]) -> Frame:
    """Return a frame whose columns of text are the dates that `find_text_dates` found; other text is missing."""
    return frame.with_columns(
        read_text(cs.by_name(name).as_expr(), kind).alias(name)
        for name, kind in found.items()
        if frame.collect_schema()[name] == pl.String
    )


def kind_of_levels(table: pl.DataFrame) -> str | None:
    """Return which dates the texts of a column are by that rule, given each ``level`` and its ``count``; or None."""
    levels = table["level"]
    if levels.is_empty():
        return None
    some = [levels[int(table["count"].arg_max() or 0)], *levels.head(_LEVELS_LOOKED_AT).to_list()]
    if not any(level[:1].isdigit() for level in some):  # which rules most columns out at once
        return None
    return _kind_of(table.select(_counts(pl.col("level"), pl.col("count"))).item())


def read_text(text: pl.Expr, kind: str) -> pl.Expr:
    """Read text as dates, datetimes or times, null where it is none.

    Datetimes are those of the time zone behind "of": text without one is of it, and text with another is converted to
    it. Without "of", text with a time zone is none.
    """
    text = _present(text)
    kind, _, zone = kind.partition(" of ")
    if kind == "dates":
        return text.str.slice(0, 10).str.to_date("%Y-%m-%d", strict=False)
    if kind == "times":
        times = (text.str.to_time(form, strict=False) for form in ("%H:%M:%S%.f", "%H:%M"))
        return pl.coalesce(*times)
    plain = text.str.replace("T", " ").str.replace("Z$", "+00:00")
    naive = (_datetimes(plain, f"%Y-%m-%d {clock}") for clock in ("%H:%M:%S%.f", "%H:%M"))
    days = plain.str.to_date("%Y-%m-%d", strict=False).cast(pl.Datetime("us"))
    naive_moments = pl.coalesce(*naive, days)
    if not zone:
        return naive_moments
    zoned = (_datetimes(plain, f"%Y-%m-%d {clock}%#z") for clock in ("%H:%M:%S%.f", "%H:%M"))
    local = naive_moments.dt.replace_time_zone(zone, ambiguous="earliest", non_existent="null")
    return pl.coalesce(pl.coalesce(*zoned).dt.convert_time_zone(zone), local)


def _datetimes(text: pl.Expr, form: str) -> pl.Expr:
    return text.str.to_datetime(form, strict=False, time_unit="us")


def _present(text: pl.Expr) -> pl.Expr:
    return pl.when(~text.is_in(NOTHING)).then(text)


def _counts(text: pl.Expr, weight: pl.Expr) -> pl.Expr:
    """Count present values, and those of every pattern, in a struct."""
    text = _present(text)
    counts: Any = {kind: (text.str.contains(pattern) * weight).sum() for kind, pattern in _PATTERNS.items()}
    return pl.struct(present=(text.is_not_null() * weight).sum(), **counts)


def _kind_of(counts: Mapping[str, int]) -> str | None:
    least = LEAST_SHARE * counts["present"]
    for kind, allowed in _ALLOWED.items():
        if counts["present"] and sum(counts[own] for own in allowed) >= least:
            return kind
    return None
