"""Dates and numbers that text holds in another writing: the rule that finds them, and what to declare.

The rule looks at up to 200 distinct values of a column, evenly spaced in their order, of which 99 % must fit:

- dates by day, month and year: ``08/27/1994``, ``27.08.1994``, ``27-Aug-1994``, ``Aug 27, 1994``, with a time behind;
- five or more percentages, ``12.5%``, numbers with a decimal comma, ``12,5``, or with commas between thousands;
- whole numbers, if they are more than 20, and look like no code: a value that begins with 0, such as the zip code
  ``02139``, makes codes of all, and so does a name such as ``plot_id``, or one number of digits, three or more.
"""

from __future__ import annotations

import numpy as np
import polars as pl

from tabmtl.base.schema import in_command
from tabmtl.columns.date_text import LEAST_SHARE
from tabmtl.columns.declared import Date, Declared, Number

_LOOKED_AT, _LEAST_WRITTEN, _LEAST_WHOLE, _LEAST_DIGITS = 200, 5, 20, 3
_LOOKS_DATED = r"^\d{1,4}([/.-]|[ -]?[A-Za-z]{3,9}\.?[ -])\d{1,4}|^[A-Za-z]{3,9} \d{1,2},? \d{4}"
_DAYS = (
    *("%m/%d/%Y", "%d/%m/%Y", "%d.%m.%Y", "%d-%m-%Y", "%m-%d-%Y", "%Y/%m/%d", "%Y.%m.%d"),
    *("%d-%b-%Y", "%d %b %Y", "%d %B %Y", "%b %d, %Y", "%B %d, %Y"),
)
_CLOCKS = ("", " %H:%M", " %H:%M:%S", " %I:%M %p")
_PLAIN = r"[+-]?\d+(\.\d+)?"
#: Writings of numbers: how one looks, and what to declare.
_NUMBERS = {
    r"[+-]?\d+(\.\d+)? ?%": Number(),
    r"[+-]?\d+(,\d+)? ?%": Number(decimal=","),
    r"[+-]?\d{1,3}(,\d{3})+(\.\d+)?": Number(),
    r"[+-]?\d+,\d+": Number(decimal=","),
}


def written_as(levels: pl.Series) -> tuple[Declared, Declared | None] | None:
    """Return the kind of the sorted levels of a column in another writing, dates or numbers; None for other text.

    Where no value tells days from months, or a decimal comma from one between thousands, the other kind follows.
    """
    some = levels[np.linspace(0, len(levels) - 1, min(len(levels), _LOOKED_AT)).astype(int)]
    if not _share(some, r"\d"):
        return None
    if _share(some, _LOOKS_DATED) >= LEAST_SHARE and _share(some, r"\d{4}") >= LEAST_SHARE:
        for form in (day + clock for clock in _CLOCKS for day in _DAYS):
            other = form.translate(str.maketrans("dm", "md")) if "%m" in form else form
            kinds = [Date(format=each) for each in (form, other)]
            fits = [some.str.strptime(kind.read_type, kind.format, strict=False).count() for kind in kinds]
            if fits[0] >= LEAST_SHARE * len(some):
                is_open = other in (day + clock for clock in _CLOCKS for day in _DAYS if other != form)
                return kinds[0], kinds[1] if is_open and fits[1] >= LEAST_SHARE * len(some) else None
    if len(levels) >= _LEAST_WRITTEN:
        for pattern, kind in _NUMBERS.items():
            if _share(some, f"^({pattern}|{_PLAIN})$") >= LEAST_SHARE and _share(some, f"^{pattern}$") >= 1 / 2:
                is_thousands = ",\\d{3})+" in pattern
                if is_thousands and _share(some, r"^[+-]?0,"):  # no number of thousands begins so
                    continue
                is_open = is_thousands and not _share(some, r",.*[,.]")
                return kind, Number(decimal=",") if is_open else None
    return None


def are_whole(levels: pl.Series) -> bool:
    """Return whether levels, known to be nearly all numbers, are whole numbers and no codes."""
    digits = levels.filter(levels.str.contains(r"^[+-]?\d+(\.0)?$"))
    lengths = set(digits.str.len_chars().to_list())
    is_code = _share(digits, r"^[+-]?0\d") > 0 or (len(lengths) == 1 and max(lengths) >= _LEAST_DIGITS)
    return len(levels) > _LEAST_WHOLE and not is_code


def by_reading(name: str, kind: Declared) -> str:
    """Say how to read a target of text, given what would be declared of it in X."""
    if in_command.get():
        return "write numbers with a point alone, and dates in ISO 8601 (1994-08-27), into the file"
    numbers = ".dt.epoch('s').cast(pl.Float64)" if isinstance(kind, Date) else ""
    return (
        f"read them, in a frame of polars, by y.with_columns({kind!r}.read(pl.col({name!r})){numbers}), with "
        f"{type(kind).__name__} of tabmtl.columns"
    )


def _share(texts: pl.Series, pattern: str) -> float:
    return float(texts.str.contains(pattern).mean() or 0.0)  # type: ignore[arg-type]
