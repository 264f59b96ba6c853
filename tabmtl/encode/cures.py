"""Words for the cure of a column or a frame that cannot be read, in the library that the frame is of."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import polars as pl

#: Libraries of frames. An array of numpy, and anything that becomes one, is "numpy".
Library = Literal["polars", "pandas", "pyarrow", "numpy"]


def library_of(frame: Any) -> Library:
    """Return the library of a frame or series."""
    root = type(frame).__module__.partition(".")[0]
    return root if root in ("polars", "pandas", "pyarrow") else "numpy"  # type: ignore[return-value]


def by_cast(library: Library, name: str) -> str:
    """Say how to cast a column to numbers or to text."""
    return {
        "polars": f"cast the column by pl.col({name!r}).cast(pl.Float64) or (pl.String)",
        "pandas": "cast the column by .astype('Float64') or ('str')",
        "pyarrow": "cast the column by .cast('float64') or ('string')",
        "numpy": "cast the column by .astype(float) or (str)",
    }[library]


def by_numbers(library: Library, name: str) -> str:
    """Say how to make numbers of a column of text, some of which are none."""
    return {
        "polars": f"cast it: pl.col({name!r}).cast(pl.Float64, strict=False)",
        "pandas": f"cast it: pandas.to_numeric(X[{name!r}], errors='coerce')",
        "pyarrow": f"replace what is no number by null, and cast it: X[{name!r}].cast('float64')",
        "numpy": "make X a frame, and cast the column",
    }[library]


def by_dates(library: Library, name: str, dtype: pl.DataType) -> str:
    """Say how to derive numbers from a column of dates, times or durations."""
    part = "duration" if dtype == pl.Duration else "time" if dtype == pl.Time else "date"
    column = f"pl.col({name!r})" if library == "polars" else f"X[{name!r}]"
    return {
        ("polars", "date"): f"{column}.dt.weekday() or .dt.epoch('d')",
        ("polars", "time"): f"{column}.dt.hour()",
        ("polars", "duration"): f"{column}.dt.total_seconds()",
        ("pandas", "date"): f"{column}.dt.weekday or .dt.year",
        ("pandas", "time"): f"{column}.dt.hour",
        ("pandas", "duration"): f"{column}.dt.total_seconds()",
        ("pyarrow", "date"): f"pyarrow.compute.day_of_week({column}) or .year({column})",
        ("pyarrow", "time"): f"pyarrow.compute.hour({column})",
        ("pyarrow", "duration"): f"{column}.cast('int64')",
    }.get((library, part), "X.astype('int64')")


def by_valid_text(library: Library) -> str:
    """Say how to mend text with half of a surrogate pair, which no file in UTF-8 holds."""
    of_series = ".str" if library == "pandas" else ""
    return f"replace it by {of_series}.encode('utf-8', 'replace'){of_series}.decode('utf-8')"


def by_columns(frame: Any) -> str:
    """Say how to take the columns of fit from a frame."""
    names = "list(model.feature_names_in_)"
    is_subscripted = library_of(frame) == "pandas" or isinstance(frame, pl.DataFrame)
    return f"Take the columns of fit: X[{names}]." if is_subscripted else f"Take the columns of fit: X.select({names})."


def by_targets(library: Library, names: Sequence[str]) -> str:
    """Say how to part targets from features, given their names."""
    return {
        "pandas": f"say fit(X.drop(columns={names}), X[{names}])",
        "pyarrow": f"say fit(X.drop_columns({names}), X.select({names}))",
    }.get(library, f"say fit(X.drop({names}), X.select({names}))")


def by_frame(library: Library, name: str) -> str:
    """Say how to make a frame of records."""
    made = {"pandas": "pandas.DataFrame", "pyarrow": "pyarrow.table"}.get(library, "polars.DataFrame")
    return f"make it a frame, such as {made}({name})"
