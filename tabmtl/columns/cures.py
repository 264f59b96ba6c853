"""Words for the cure of a column or a frame that cannot be read, where the user is: in a library of frames, or a shell.

A command reads its file by polars, and says its options: inside of `tabmtl.base.schema.for_commands`.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from typing import Any, Literal

import polars as pl

from tabmtl.base.schema import in_command

#: Libraries of frames. An array of numpy, and anything that becomes one, is "numpy"; the frame of a command is "file".
Library = Literal["polars", "pandas", "pyarrow", "numpy", "file"]


def library_of(frame: Any) -> Library:
    """Return the library of a frame or series."""
    root = type(frame).__module__.partition(".")[0]
    if root == "polars" and in_command.get():
        return "file"
    return root if root in ("polars", "pandas", "pyarrow") else "numpy"  # type: ignore[return-value]


def by_drop(names: Sequence[str]) -> str:
    """Return the argument, or the options, that leave columns out of the features."""
    return shlex.join(word for name in names for word in ("--drop", name)) if in_command.get() else f"drop={[*names]}"


def by_time(name: str) -> str:
    """Return the argument, or the option, that splits rows by a column of times."""
    return shlex.join(["--time-column", name]) if in_command.get() else f"time={name!r}"


def by_kind(name: str, kind: str) -> str:
    """Return the argument, or the option, that declares the kind of a target."""
    return f"--target {shlex.quote(f'{name}={kind}')}" if in_command.get() else f"tasks={{{name!r}: {kind!r}}}"


def by_cast(library: Library, name: str, dtype: pl.DataType | type[pl.DataType]) -> str:
    """Say how to make numbers or text of a column, given the type that polars would give it."""
    kind, column = dtype.base_type(), f"pl.col({name!r})"
    flattened = "[item for own in each for item in own]"
    as_columns = f".with_columns({column}.arr.to_struct()).unnest({name!r})"
    how = {
        ("polars", pl.List): f"derive numbers from it, such as {column}.list.len(), or make one list of lists of lists "
        f"by {column}.list.eval(pl.element().explode())",
        ("polars", pl.Array): f"make a column of each number by {as_columns}",
        ("polars", pl.Struct): f"make a column of each field by .unnest({name!r})",
        ("polars", pl.Object): f"make text of it by pl.Series({name!r}, [str(each) for each in X[{name!r}]])",
        ("pandas", pl.List): "derive numbers or text from it, such as by .map(len, na_action='ignore'), or make one "
        f"list of lists of lists by .map(lambda each: {flattened}, na_action='ignore')",
        ("pandas", pl.Struct): "take values out of it by .map(lambda each: dict(each).get(key), na_action='ignore')",
        ("pandas", pl.Binary): "make text of it by .map(bytes.decode, na_action='ignore')",
        ("pyarrow", pl.List): "derive numbers or text from it, such as pyarrow.compute.list_value_length(column), or "
        f"make one list of lists of lists by [each and {flattened} for each in column.to_pylist()]",
        ("pyarrow", pl.Struct): "take values out of it by [dict(each or {}).get(key) for each in column.to_pylist()]",
        ("numpy", pl.List): "derive numbers or text from it, such as [len(each) for each in column]",
        ("numpy", pl.Struct): "take values out of it by [dict(each or {}).get(key) for each in column]",
        ("numpy", pl.Binary): "make text of it by numpy.char.decode(column.astype(bytes), 'utf-8')",
        ("file", pl.List): "write numbers or text that follow from the lists into the file, such as their length",
        ("file", pl.Struct): "write a column of each field into the file",
    }
    of_others = {
        "polars": f"cast the column by {column}.cast(pl.Float64) or (pl.String)",
        "pandas": "cast the column by .astype('string'), or pandas.to_numeric(column, errors='coerce')",
        "pyarrow": "cast the column by .cast('float64') or ('string')",
        "numpy": "cast the column by .astype(float) or (str)",
        "file": "write numbers or text into the file",
    }
    return how.get((library, kind), of_others[library])


def by_words(library: Library, name: str) -> str:
    """Return the argument, or the option, that makes a column free text."""
    return f"--text {shlex.quote(name)}" if library == "file" else f"text_features=[{name!r}]"


def by_texts(library: Library, names: Sequence[str]) -> str:
    """Say how to confirm that columns are free text, and how to read them as categories."""
    if library == "file":
        options = shlex.join(word for name in names for word in ("--text", name))
        return f"say {options} to confirm it, or --text none to make each value a category"
    return f"say text_features={[*names]} to confirm it, or text_features=[] to make each value a category"


def by_items(library: Library, name: str) -> str:
    """Say how to make text of all items of the lists of a column."""
    if library == "file":
        return "write lists of text, or lists of numbers, into the file"
    texts = "[str(item) for item in each]"
    if library == "pandas":
        return f"make text of them by .map(lambda each: {texts}, na_action='ignore')"
    return f"make text of them by [each and {texts} for each in column]"


def by_lists(library: Library) -> str:
    """Say how to make lists of the values of a column that are none."""
    each = "each if isinstance(each, list) else [each]"
    if library == "pandas":
        return f"make lists of them by .map(lambda each: {each}, na_action='ignore')"
    return f"make lists of them by [{each} for each in column]"


def by_sequence(name: str, of: str) -> tuple[str, str]:
    """Return the argument, or the option, that makes a history of another column of lists, and what keeps them tags."""
    if in_command.get():
        option = shlex.join(["--set", f"sequence_features={json.dumps({name: of})}"])
        return option, "--set 'sequence_features={}'"
    return f"sequence_features={ {name: of} }", "sequence_features={}"


def by_length(library: Library, name: str, width: int) -> str:
    """Say how to find the rows whose lists have another length, and that lists beside a history may have any."""
    beside = f'{{"{name}": "NAME OF THE HISTORY"}}'
    if library == "file":
        words = shlex.join(["--set", f"sequence_features={beside}"])
        return (
            f"write lists of {width} numbers, and leave a cell empty where there is none; or, beside a history, {words}"
        )
    found = {
        "polars": f"X.filter(pl.col({name!r}).list.len() != {width})",
        "pandas": f"X[X[{name!r}].map(len, na_action='ignore') != {width}]",
    }.get(library, f"[row for row, each in enumerate(column) if len(each) != {width}]")
    return f"mend those of {found}, or make them missing; or, beside a history, say sequence_features={beside}"


def by_numbers(library: Library, name: str, frame: str = "X", *, is_flat: bool = False) -> str:
    """Say how to make numbers of a column of text, some of which are none; a flat frame is the column itself."""
    if library == "file":
        return "if they are quantities, write numbers throughout, and leave a cell empty where there is none"
    column = frame if is_flat else f"{frame}[{name!r}]"
    return {
        "polars": f"cast it: {frame if is_flat else f'pl.col({name!r})'}.cast(pl.Float64, strict=False)",
        "pandas": f"cast it: pandas.to_numeric({column}, errors='coerce')",
        "pyarrow": f"replace what is no number by null, and cast it: {column}.cast('float64')",
        "numpy": f"make {frame} a frame, and cast the column",
    }[library]


def by_dates(library: Library, name: str, kind: str) -> str:
    """Say how to make dates, datetimes (perhaps "of UTC") or times of a column of text in ISO 8601, of no "file"."""
    series, cell = f"X[{name!r}]", "datetime.time.fromisoformat"
    utc, zone, time_zone = (", utc=True", ", 'UTC'", "time_zone='UTC'") if kind.endswith("UTC") else ("", "", "")
    arrow = "'date32'" if kind == "dates" else f"pyarrow.timestamp('us'{zone})"
    how = {
        ("polars", "dates"): f"pl.col({name!r}).str.to_date()",
        ("polars", "times"): f"pl.col({name!r}).str.to_time()",
        ("pandas", "times"): f"{series}.map({cell}, na_action='ignore')",
        ("pyarrow", "times"): f"pyarrow.array([each and {cell}(each) for each in {series}.to_pylist()])",
    }
    of_others = {
        "polars": f"pl.col({name!r}).str.to_datetime({time_zone})",
        "pandas": f"pandas.to_datetime({series}, format='ISO8601'{utc})",
        "pyarrow": f"{series}.cast({arrow})",
        "numpy": "make X a frame, such as pandas.DataFrame(X), and cast its column",
    }
    does = "write the column as such into the files" if in_command.get() else "read the column as such"
    return f"{does}: {how.get((library, kind), of_others[library])}"


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
    features, targets = {
        "pandas": (f"X.drop(columns={names})", f"X[{names}]"),
        "pyarrow": (f"X.drop_columns({names})", f"X.select({names})"),
    }.get(library, (f"X.drop({names})", f"X.select({names})"))
    return f"give {features} as X, and {targets} as y"


def by_frame(library: Library, name: str) -> str:
    """Say how to make a frame of records."""
    made = {"pandas": "pandas.DataFrame", "pyarrow": "pyarrow.table"}.get(library, "polars.DataFrame")
    return f"make it a frame, such as {made}({name})"
