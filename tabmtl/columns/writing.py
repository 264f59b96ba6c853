"""Dates and numbers that text holds in another writing: the rule that finds them, and the lines that read them.

The rule looks at up to 200 distinct values of a column, evenly spaced in their order, of which 99 % must fit:

- dates by day, month and year: ``08/27/1994``, ``27.08.1994``, ``27-Aug-1994``, ``Aug 27, 1994``, with a time behind;
- five or more percentages, ``12.5%``, numbers with a decimal comma, ``12,5``, or with commas between thousands;
- whole numbers, if they are more than 20, and look like no code: a value that begins with 0, such as the zip code
  ``02139``, makes codes of all, and so does a name such as ``plot_id``, or one number of digits, three or more.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import polars as pl

from tabmtl.columns.cures import Library
from tabmtl.columns.date_text import LEAST_SHARE

_LOOKED_AT, _LEAST_WRITTEN, _LEAST_WHOLE, _LEAST_DIGITS = 200, 5, 20, 3
_LOOKS_DATED = r"^\d{1,4}([/.-]|[ -]?[A-Za-z]{3,9}\.?[ -])\d{1,4}|^[A-Za-z]{3,9} \d{1,2},? \d{4}"
_DAYS = (
    *("%m/%d/%Y", "%d/%m/%Y", "%d.%m.%Y", "%d-%m-%Y", "%m-%d-%Y", "%Y/%m/%d", "%Y.%m.%d"),
    *("%d-%b-%Y", "%d %b %Y", "%d %B %Y", "%b %d, %Y", "%B %d, %Y"),
)
_CLOCKS = ("", " %H:%M", " %H:%M:%S", " %I:%M %p")
_PLAIN = r"[+-]?\d+(\.\d+)?"
_THOUSANDS = ".str.replace_all(',', '').cast(pl.Float64, strict=False)"
_DECIMAL = ".str.replace(',', '.').cast(pl.Float64, strict=False)"
#: Writings of numbers: how one looks, and the methods that make numbers of a column of text.
_NUMBERS = {
    r"[+-]?\d+([.,]\d+)? ?%": ".str.strip_chars(' %').str.replace(',', '.').cast(pl.Float64, strict=False)",
    r"[+-]?\d{1,3}(,\d{3})+(\.\d+)?": _THOUSANDS,
    r"[+-]?\d+,\d+": _DECIMAL,
}


def line_of(levels: pl.Series) -> tuple[str, str] | None:
    """Return the methods of polars that make dates or numbers of the sorted levels of a column; None for other text.

    Where no value tells days from months, or a decimal comma from one between thousands, a remark names the other.
    """
    some = levels[np.linspace(0, len(levels) - 1, min(len(levels), _LOOKED_AT)).astype(int)]
    if not _share(some, r"\d"):
        return None
    if _share(some, _LOOKS_DATED) >= LEAST_SHARE and _share(some, r"\d{4}") >= LEAST_SHARE:
        for form in (day + clock for clock in _CLOCKS for day in _DAYS):
            call = "to_datetime" if ":" in form else "to_date"
            other = form.translate(str.maketrans("dm", "md")) if "%m" in form else form
            fits = [getattr(some.str, call)(each, strict=False).count() for each in (form, other)]
            if fits[0] >= LEAST_SHARE * len(some):
                is_open = other in (day + clock for clock in _CLOCKS for day in _DAYS if other != form)
                first = "day" if form.startswith("%m") else "month"
                doubt = f"{other!r} if the {first} is first" if is_open and fits[1] >= LEAST_SHARE * len(some) else ""
                return f".str.{call}({form!r}, strict=False)", doubt
    if len(levels) >= _LEAST_WRITTEN:
        for pattern, line in _NUMBERS.items():
            if _share(some, f"^({pattern}|{_PLAIN})$") >= LEAST_SHARE and _share(some, f"^{pattern}$") >= 1 / 2:
                is_thousands = line == _THOUSANDS
                if is_thousands and _share(some, r"^[+-]?0,"):  # no number of thousands begins so
                    continue
                is_open = is_thousands and not _share(some, r",.*[,.]")
                return line, f"{_DECIMAL} if a comma is the decimal one" if is_open else ""
    return None


def are_whole(levels: pl.Series) -> bool:
    """Return whether levels, known to be nearly all numbers, are whole numbers and no codes."""
    digits = levels.filter(levels.str.contains(r"^[+-]?\d+(\.0)?$"))
    lengths = set(digits.str.len_chars().to_list())
    is_code = _share(digits, r"^[+-]?0\d") > 0 or (len(lengths) == 1 and max(lengths) >= _LEAST_DIGITS)
    return len(levels) > _LEAST_WHOLE and not is_code


def by_lines(library: Library, lines: Mapping[str, tuple[str, str]], table: str = "X") -> str:
    """Say how to read columns of text, given for each the methods of polars, and others if in doubt; see `line_of`."""
    if library == "file":
        return "write numbers with a point alone, and dates in ISO 8601 (1994-08-27), into the file"
    frame = {"polars": table, "pandas": f"polars.from_pandas({table})", "pyarrow": f"polars.from_arrow({table})"}
    of = ", ".join(f"pl.col({name!r}){line}" for name, (line, _) in lines.items())
    doubts = "".join(f"; for {name!r}, or {doubt}" for name, (_, doubt) in lines.items() if doubt)
    return f"read them by {frame.get(library, f'a polars frame of {table}')}.with_columns({of}){doubts}"


def _share(texts: pl.Series, pattern: str) -> float:
    return float(texts.str.contains(pattern).mean() or 0.0)  # type: ignore[arg-type]
