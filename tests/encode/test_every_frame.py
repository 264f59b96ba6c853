"""Frames of every kind: whatever types their columns have, a fit reads them, or one error names the column.

Each seed makes a table of one library, with columns of types drawn from all that the library has, and fits one of four
estimators on it. What can be read has to be read, by the values; what cannot, has to be refused by name. Predictions
come back in the container and the types of the targets.

Odd frames go further: no or few rows, no columns, strange and equal names, values at the limits of their types. A fit
and its predictions work on them, or one error in our words says what is wrong.
"""

from __future__ import annotations

import datetime
import re
import traceback
import warnings
from collections.abc import Callable
from decimal import Decimal
from typing import Any, NamedTuple
from uuid import UUID

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from cases import later
from lightgbm import LGBMClassifier, LGBMRegressor
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor

from tabmtl import RMTGB, IndependentTasks, SharedBottom, SharedTrees
from tabmtl.base.schema import TabmtlWarning
from tabmtl.encode.columns import is_missing
from tabmtl.encode.read import read_features

QUICK, ALL = 240, 5_000
NAMES = ("x", "^a$", "*", "a", "", "b c", "ü", "$", "1", ".*", "col('a')", "^.*$")
_FEW = {"verbosity": -1, "n_estimators": 2, "min_child_samples": 1, "n_jobs": 1}
ESTIMATORS: dict[str, Callable[[], Any]] = {
    "SharedBottom": lambda: SharedBottom(
        hidden=(4,), head_hidden=0, epochs=1, early_stopping=False, device="cpu", n_jobs=1, random_state=0
    ),
    "IndependentTasks": lambda: IndependentTasks(
        classifier=LGBMClassifier(**_FEW), regressor=LGBMRegressor(**_FEW), early_stopping=False, random_state=0
    ),
    "SharedTrees": lambda: SharedTrees(n_estimators=1, n_estimators_task=1, n_jobs=1, random_state=0),
    "RMTGB": lambda: RMTGB(
        n_estimators_shared=1, n_estimators_outlier=1, n_estimators_task=1, n_jobs=1, random_state=0
    ),
}

Values = list[Any]


class Kind(NamedTuple):
    """A type of columns: its values, how a library holds them, and whether features and targets may have it."""

    draw: Callable[[np.random.Generator, int], Values]
    make: Callable[[Values], Any]
    is_feature: bool = True
    is_target: bool = True


def whole(rng: np.random.Generator, n: int) -> Values:
    return [*([1, 2, 3] * n)[:n]] if rng.random() < 0.5 else [*([0, 1] * n)[:n]]


def floats(rng: np.random.Generator, n: int) -> Values:
    return (np.arange(n) / 4 + rng.integers(3, size=n)).tolist()


def texts(rng: np.random.Generator, n: int) -> Values:
    return [*(["b", "a", "", "1", "ü"][: rng.integers(2, 6)] * n)[:n]]


def flags(rng: np.random.Generator, n: int) -> Values:
    return [*([True, False] * n)[:n]]


def with_holes(draw: Callable[[np.random.Generator, int], Values]) -> Callable[[np.random.Generator, int], Values]:
    def holes(rng: np.random.Generator, n: int) -> Values:
        # the first rows have every class
        return [value if i < 5 or rng.random() < 0.8 else None for i, value in enumerate(draw(rng, n))]

    return holes


def always(*values: Any) -> Callable[[np.random.Generator, int], Values]:
    return lambda rng, n: [*(values * n)[:n]]


huge, tiny = always(1e308, -1e308, 0.5), always(5e-324, 0.0, 1e-320)
days, spans = always(datetime.date(2020, 1, 1), None), always(datetime.timedelta(1), None)
bad_text, bytes_, lists = always("a\ud800", "b"), always(b"a", b"b"), always([[1]], [[2]])


def dated(draw: Callable[[np.random.Generator, int], Values], make: Callable[[Values], Any]) -> Kind:
    return Kind(draw, make, is_target=False)


def refused(draw: Callable[[np.random.Generator, int], Values], make: Callable[[Values], Any]) -> Kind:
    return Kind(draw, make, is_feature=False, is_target=False)


# polars


def _polars(draw: Callable[..., Values], dtype: Any, **allowed: bool) -> Kind:
    return Kind(draw, lambda values: pl.Series(values, dtype=dtype, strict=False), **allowed)


_INTEGERS = [pl.Int8, pl.Int16, pl.Int32, pl.Int64, pl.Int128, pl.UInt8, pl.UInt16, pl.UInt32, pl.UInt64, pl.UInt128]
POLARS = [
    *[_polars(with_holes(whole), dtype) for dtype in _INTEGERS],
    *[_polars(with_holes(floats), dtype) for dtype in (pl.Float16, pl.Float32, pl.Float64, pl.Decimal(20, 2))],
    *[
        _polars(with_holes(texts), dtype)
        for dtype in (pl.String, pl.Categorical, pl.Enum(["z", "ü", "1", "", "a", "b"]))
    ],
    _polars(with_holes(flags), pl.Boolean),
    _polars(always(None), pl.Null, is_target=False),
    _polars(huge, pl.Float64, is_target=False),
    _polars(tiny, pl.Float64),
    _polars(always(1.0, float("inf")), pl.Float64, is_feature=False, is_target=False),
    *[dated(days, lambda v, d=dtype: pl.Series(v).cast(d)) for dtype in (pl.Date, pl.Datetime("ns", "UTC"))],
    dated(spans, lambda v: pl.Series(v, dtype=pl.Duration)),
    dated(always(datetime.time(1), None), lambda v: pl.Series(v, dtype=pl.Time)),
    refused(bytes_, lambda v: pl.Series(v, dtype=pl.Binary)),
    refused(lists, lambda v: pl.Series(v, dtype=pl.List(pl.List(pl.Int8)))),
    refused(lists, lambda v: pl.Series(v, dtype=pl.Array(pl.Int8, (1, 1)))),
    refused(always({"a": 1}), pl.Series),
    refused(always({1}, None), lambda v: pl.Series(v, dtype=pl.Object)),
]

# pyarrow


def _chunks(values: Values, dtype: Any) -> pa.ChunkedArray:
    """Two chunks, each with a dictionary of its own."""
    parts = [values[:6], values[6:]]
    if not pa.types.is_dictionary(dtype):
        return pa.chunked_array([pa.array(part).cast(dtype) for part in parts], dtype)
    encoded = [pa.array(part).cast(dtype.value_type).dictionary_encode().cast(dtype) for part in parts]
    return pa.chunked_array(encoded, dtype)


def _arrow(draw: Callable[..., Values], dtype: Any, **allowed: bool) -> Kind:
    return Kind(draw, lambda values: _chunks(values, dtype), **allowed)


_DECIMALS = [pa.decimal32(6, 2), pa.decimal64(9, 2), pa.decimal128(20, 2), pa.decimal256(50, 2)]
_WHOLE = [getattr(pa, f"{sign}int{bits}")() for sign in ("", "u") for bits in (8, 16, 32, 64)]
_TEXTS = [pa.string(), pa.large_string(), pa.string_view()]
ARROW = [
    *[_arrow(with_holes(whole), dtype) for dtype in _WHOLE],
    *[_arrow(with_holes(floats), dtype) for dtype in (pa.float16(), pa.float32(), pa.float64(), *_DECIMALS)],
    *[_arrow(with_holes(texts), dtype) for dtype in _TEXTS],
    *[
        _arrow(with_holes(texts), pa.dictionary(pa.int8(), dtype, ordered))
        for dtype in _TEXTS[:2]
        for ordered in (0, 1)
    ],
    *[_arrow(with_holes(whole), pa.dictionary(index, pa.int64())) for index in (pa.int8(), pa.uint16(), pa.int64())],
    _arrow(with_holes(flags), pa.bool_()),
    _arrow(with_holes(floats), pa.dictionary(pa.int32(), pa.float64())),
    _arrow(always(None), pa.null(), is_target=False),
    _arrow(huge, pa.float64(), is_target=False),
    _arrow(tiny, pa.float64()),
    *[
        dated(days, lambda v, d=dtype: pa.chunked_array([pa.array(v).cast(d)]))
        for dtype in (pa.date32(), pa.date64(), pa.timestamp("ns"), pa.timestamp("s", "UTC"))
    ],
    dated(spans, lambda v: pa.chunked_array([pa.array(v)])),
    dated(always(datetime.time(1)), lambda v: pa.chunked_array([pa.array(v)])),
    refused(always(None), lambda v: pa.chunked_array([pa.nulls(len(v), pa.month_day_nano_interval())])),
    *[
        refused(bytes_, lambda v, d=dtype: pa.chunked_array([pa.array(v, d)]))
        for dtype in (pa.binary(), pa.large_binary(), pa.binary_view(), pa.binary(1))
    ],
    *[
        refused(lists, lambda v, d=dtype: pa.chunked_array([pa.array(v, d)]))
        for dtype in [
            nested(pa.list_(pa.int8()))
            for nested in (pa.list_, pa.large_list, lambda kind: pa.list_(kind, 1), pa.list_view)
        ]
    ],
    refused(always({"a": 1}), lambda v: pa.chunked_array([pa.array(v)])),
    refused(always([("a", 1)]), lambda v: pa.chunked_array([pa.array(v, pa.map_(pa.string(), pa.int8()))])),
    refused(
        whole,
        lambda v: pa.chunked_array([pa.RunEndEncodedArray.from_arrays(pa.array(range(1, len(v) + 1), pa.int32()), v)]),
    ),
    refused(always(UUID(int=1).bytes), lambda v: pa.chunked_array([pa.array(v, pa.uuid())])),
]

# pandas


def _pandas(draw: Callable[..., Values], dtype: Any, **allowed: bool) -> Kind:
    return Kind(draw, lambda values: pd.Series(values, dtype=dtype), **allowed)


def _objects(draw: Callable[..., Values], **allowed: bool) -> Kind:
    return _pandas(draw, object, **allowed)


_NUMPY = [f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)]
PANDAS = [
    *[_pandas(whole, dtype) for dtype in _NUMPY],
    *[_pandas(with_holes(whole), dtype.replace("i", "I").replace("uI", "UI")) for dtype in _NUMPY],
    *[_pandas(with_holes(floats), d) for d in ("float16", "float32", "float64", np.longdouble, "Float32", "Float64")],
    *[_pandas(with_holes(texts), dtype) for dtype in ("str", "string[python]", "string[pyarrow]", "category", object)],
    _pandas(with_holes(whole), "category"),
    _pandas(flags, "bool"),
    _pandas(with_holes(flags), "boolean"),
    _pandas(floats, pd.SparseDtype("float64", 0.0)),
    *[_objects(with_holes(draw)) for draw in (whole, floats, flags)],
    _objects(always(Decimal(1), Decimal("NaN"), Decimal(2))),
    _objects(always(None), is_target=False),
    _objects(always(10**400, 1), is_feature=False, is_target=False),
    _pandas(huge, "float64", is_target=False),
    _pandas(tiny, "float64"),
    *[
        Kind(kind.draw, lambda v, make=kind.make: pd.Series(pd.arrays.ArrowExtensionArray(make(v))), *kind[2:])
        for kind in ARROW
    ],
    *[_objects(values, is_feature=False, is_target=False) for values in (bad_text, bytes_, lists)],
    *[_objects(values, is_target=False) for values in (days, spans)],
    *[
        _objects(values, is_feature=False, is_target=False)
        for values in (always(Decimal("sNaN")), always("a", 1), always(1j), always(pd.Period("2020"), None))
    ],
    dated(days, lambda v: pd.Series(v, dtype="datetime64[ns]")),
    dated(spans, lambda v: pd.Series(v, dtype="timedelta64[s]")),
    dated(days, lambda v: pd.Series(pd.PeriodIndex(v, freq="D"))),
    refused(always(1), lambda v: pd.Series(pd.arrays.IntervalArray.from_tuples([(0, 1)] * len(v)))),
    refused(bad_text, lambda v: pd.Series(pd.Categorical(pd.Series(v, dtype=object)))),
    refused(always(1j), pd.Series),
]

# numpy: all columns of an array have one type


def _numpy(draw: Callable[..., Values], dtype: Any, **allowed: bool) -> Kind:
    return Kind(draw, lambda values: np.array(values, dtype=dtype), **allowed)


ARRAYS = [
    *[_numpy(whole, dtype) for dtype in (*_NUMPY, ">i4")],
    *[_numpy(with_holes(floats), dtype) for dtype in ("float16", "float32", "float64", np.longdouble, ">f8")],
    *[_numpy(texts, dtype) for dtype in ("U3", object, np.dtypes.StringDType())],
    _numpy(flags, "bool"),
    *[_numpy(with_holes(draw), object) for draw in (whole, texts, flags)],
    _numpy(huge, "float64", is_target=False),
    _numpy(tiny, "float64"),
    *[refused(values, lambda v: np.array(v, dtype=object)) for values in (bad_text, bytes_, always("a", 1))],
    refused(bad_text, np.array),
    refused(bytes_, lambda v: np.array(v, dtype="S1")),
    dated(days, lambda v: np.array(v, dtype="datetime64[D]")),
    dated(spans, lambda v: np.array(v, dtype="timedelta64[D]")),
    refused(always(1j), lambda v: np.array(v, dtype=complex)),
]

LIBRARIES = {"polars": POLARS, "pyarrow": ARROW, "pandas": PANDAS, "numpy": ARRAYS}


class Case(NamedTuple):
    """A table, and what has to come of it."""

    X: Any
    y: Any
    features: dict[str, Values] | None  # None where a column has to be refused
    targets: dict[str, Any] | None
    refused: list[str]


def make_case(library: str, rng: np.random.Generator) -> Case:
    """Draw a table of one library: mostly of columns that can be read."""
    n = int(rng.integers(9, 14))
    names = [str(name) for name in rng.permutation(NAMES)]
    picked: list[list[tuple[str, Values, Any]]] = []
    unreadable = []
    for role, count in (("is_feature", rng.integers(1, 4)), ("is_target", rng.integers(1, 3))):
        columns = []
        kinds = LIBRARIES[library]
        kind = kinds[rng.integers(len(kinds))]
        for j in range(count):
            if library != "numpy" and (j == 0 or rng.random() < 0.9):
                able = [each for each in kinds if getattr(each, role)] if rng.random() < 0.7 else kinds
                kind = able[rng.integers(len(able))]
            name = names.pop() if library != "numpy" else f"{'x' if role == 'is_feature' else 'y'}{j}"
            if not getattr(kind, role):
                unreadable.append(name)
            values = kind.draw(rng, n)
            columns.append((name, values, kind.make(values)))
        picked.append(columns)
    X, y = ({name: made for name, _, made in columns} for columns in picked)
    flat = len(y) == 1 and bool(rng.random() < 0.5)
    if unreadable and flat and library == "numpy":
        unreadable = [name.replace("y0", "y") for name in unreadable]
    return Case(
        _join(library, X, flat=False),
        _join(library, y, flat=flat),
        {name: values for name, values, _ in picked[0]},
        y,
        unreadable,
    )


def _join(library: str, columns: dict[str, Any], *, flat: bool) -> Any:
    if flat:
        ((name, column),) = columns.items()
        if library == "polars":
            return column.alias(name)
        return column.rename(name) if library == "pandas" else column
    if library == "polars":
        return pl.DataFrame(columns)
    if library == "pyarrow":
        return pa.table(columns)
    if library == "pandas":
        return pd.DataFrame(columns)
    return np.stack([*columns.values()], axis=1)


def check_case(estimator: Any, case: Case) -> None:
    """Fit and predict, and check what comes back."""
    try:
        estimator.fit(case.X, case.y)
    except (ValueError, TypeError) as error:
        place = traceback.extract_tb(error.__traceback__)[-1].filename
        assert type(error) in (ValueError, TypeError), repr(error)
        assert case.refused, f"a readable table is refused: {error!r}"
        is_named = any(repr(name) in str(error) for name in case.refused) or "'y'" in str(error)
        assert is_named or "Complex data" in str(error), f"{case.refused} are not named: {error!r}"
        assert "tabmtl" in place or "Complex data" in str(error), f"raised in {place}: {error!r}"
        return
    assert not case.refused, f"{case.refused} were read"
    check_features(case)
    check_targets(estimator.predict(case.X), case)


def check_features(case: Case) -> None:
    frame, _ = read_features(case.X)
    assert frame.columns == [*case.features]
    for name, values in case.features.items():
        series = pl.DataFrame({"x": frame[name]})["x"]
        found = [value.lower() if isinstance(value, str) else value for value in map(_plain, series.to_list())]
        # a category is read as the text of its value
        expected = [str(v) if _is_category(case.X, name) and v is not None else _plain(v) for v in values]
        is_text = series.dtype in (pl.String, pl.Categorical, pl.Enum)
        has_text = any(isinstance(value, str) for value in expected)
        assert is_text == has_text, f"{name!r} was read as {series.dtype}"
        assert [*map(_as_text, found)] == [*map(_as_text, expected)], f"{name!r}: {values} was read as {found}"


def _is_category(X: Any, name: str) -> bool:
    return isinstance(X, pd.DataFrame) and str(X[name].dtype) == "category"


def _plain(value: Any) -> Any:
    if isinstance(value, Decimal):
        value = float(value)
    return None if isinstance(value, float) and value != value else value


def _as_text(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, datetime.date):
        return str(value)[:10]  # a day is read as its midnight where a library has no days
    return str(value) if isinstance(value, datetime.time | datetime.timedelta) else str(float(value))


def check_targets(answer: Any, case: Case) -> None:
    assert type(answer) is type(case.y)
    if isinstance(case.y, np.ndarray):
        assert answer.shape == case.y.shape
        given, answers = {"y": case.y}, {"y": answer}
    elif len(case.targets) == 1 and not hasattr(case.y, "columns"):
        assert (getattr(answer, "name", None) or None) == (getattr(case.y, "name", None) or None)
        given, answers = {"y": case.y}, {"y": answer}
    else:
        names = case.y.column_names if isinstance(case.y, pa.Table) else [*case.y.columns]
        assert (answer.column_names if isinstance(answer, pa.Table) else [*answer.columns]) == names
        given, answers = {name: case.y[name] for name in names}, {name: answer[name] for name in names}
    for name, column in answers.items():
        labels, dtype = _values(given[name]), _dtype(column)
        if _dtype(given[name]) == dtype:
            is_number = all(isinstance(value, float | np.floating) for value in labels if not is_missing(value))
            assert is_number or set(_values(column)) <= set(labels), (name, dtype)
        else:  # numbers of any type are answered as floats
            assert "float" in dtype.lower() or "double" in dtype, (
                f"{name!r}: {_dtype(given[name])} came back as {dtype}"
            )
            assert not any(isinstance(value, str | bool) for value in labels), name
        assert all(value == value for value in _values(column)), f"{name!r}: NaN is predicted"


def _types(table: Any) -> str:
    if isinstance(table, pl.DataFrame | pa.Table):
        return str(table.schema)
    return str(dict(table.dtypes.items())) if isinstance(table, pd.DataFrame) else _dtype(table)


def _values(column: Any) -> Values:
    if isinstance(column, pa.ChunkedArray):
        return column.to_pylist()
    return column.ravel().tolist() if isinstance(column, np.ndarray) else column.to_list()


def _dtype(column: Any) -> str:
    return str(column.type if isinstance(column, pa.ChunkedArray) else column.dtype)


def check_seeds(name: str, seeds: range) -> None:
    """Run the cases of one estimator, and tell all that fail."""
    failures = []
    for seed in seeds:
        library = [*LIBRARIES][seed % len(LIBRARIES)]
        case = make_case(library, np.random.default_rng(seed))
        try:
            with warnings.catch_warnings(action="ignore", category=TabmtlWarning):
                check_case(ESTIMATORS[name](), case)
        except BaseException as error:  # a panic of Rust is no Exception
            if isinstance(error, KeyboardInterrupt):
                raise
            failures.append(
                f"seed {seed}, {library}: {type(error).__name__}: {error}\n{_types(case.X)} -> {_types(case.y)}"
            )
    assert not failures, f"{len(failures)} of {len(seeds)} fail\n" + "\n\n".join(failures[:5])


def seeds_of(name: str, first: int, last: int) -> range:
    """Deal seeds to the estimators, each of which meets all libraries."""
    share, place = (last - first) // len(ESTIMATORS), [*ESTIMATORS].index(name)
    return range(first + place * share, first + (place + 1) * share)


@pytest.mark.parametrize("seeds", later([(0, QUICK), (QUICK, ALL)], (QUICK, ALL)), ids=str)
@pytest.mark.parametrize("name", later(ESTIMATORS, "SharedTrees", "RMTGB", "IndependentTasks"))
def test_frames_of_every_kind(name, seeds):
    check_seeds(name, seeds_of(name, *seeds))


# odd frames

QUICK_ODD, ALL_ODD = 60, 7_000
ODD_ESTIMATORS = {
    **{name: ESTIMATORS[name] for name in ("SharedBottom", "IndependentTasks", "SharedTrees")},
    "DecisionTree": lambda: IndependentTasks(
        classifier=DecisionTreeClassifier(max_depth=1), regressor=DecisionTreeRegressor(max_depth=1), random_state=0
    ),
}
ODD_NAMES = (*NAMES, "a\0", "x" * 300, "x0", "y", "prediction", "count", "level", "len", "literal", "index")
PANDAS_NAMES = (*ODD_NAMES, "a\ud800", 1, 0, True, None, 1.5, float("nan"), ("a", 1), datetime.date(2020, 1, 1), b"a")

full, blank, one = always(1e308, -1e308, 2.5), always(None), always(1)
whole_huge, digits = always(2**100, 1, -(2**100)), always(*map(str, range(40)), "?")
unbounded, ends = always(1.5, float("inf"), float("nan"), -float("inf")), always(-(2**63), 2**63 - 1)
long_text, zeros = always("a\0", "a", "", " ", "x" * 3000, "nan", "None"), always(0.0, -0.0)

ODD: dict[str, list[Kind]] = {
    "polars": [
        *[_polars(draw, pl.Float64) for draw in (full, unbounded, zeros, blank)],
        *[_polars(draw, pl.Int128) for draw in (whole_huge, ends, one)],
        *[_polars(always(2**64 - 1, 0), dtype) for dtype in (pl.UInt64, pl.UInt128)],
        *[_polars(draw, pl.Decimal(38, 0)) for draw in (always(10**37, 1), one, blank)],
        *[_polars(draw, pl.String) for draw in (long_text, digits, blank, always("a"))],
        *[_polars(draw, pl.Categorical) for draw in (long_text, blank)],
        *[_polars(blank, dtype) for dtype in (pl.Boolean, pl.Enum(["a"]), pl.Enum([]), pl.Object, pl.Binary, pl.Time)],
        *[_polars(blank, dtype) for dtype in (pl.List(pl.String), pl.Struct({"a": pl.Int8}), pl.Duration, pl.Date)],
        _polars(always([{"a": [1]}]), pl.List(pl.Struct({"a": pl.List(pl.Int8)}))),
        _polars(always(object()), pl.Object),
        _polars(unbounded, pl.Float32),
        _polars(always(6e4, 1e-8), pl.Float16),
    ],
    "pyarrow": [
        *[_arrow(draw, pa.float64()) for draw in (full, unbounded, zeros, blank)],
        *[_arrow(draw, pa.int64()) for draw in (ends, one, blank)],
        *[_arrow(draw, pa.string()) for draw in (long_text, digits, blank)],
        *[_arrow(draw, pa.dictionary(pa.int8(), pa.string(), ordered=True)) for draw in (blank, always("b", "a"))],
        Kind(always(2**64 - 1, 0), lambda v: pa.chunked_array([pa.array(v, pa.uint64())])),
        _arrow(blank, pa.bool_()),
        _arrow(blank, pa.decimal128(38, 0)),
    ],
    "pandas": [
        *[_pandas(draw, "float64") for draw in (full, unbounded, zeros, blank)],
        *[_pandas(draw, dtype) for draw in (one, blank) for dtype in ("Int8", "Float32", "boolean", "category", "str")],
        *[_pandas(ends, dtype) for dtype in ("int64", "Int64")],
        *[_pandas(draw, "str") for draw in (long_text, digits)],
        *[_objects(draw) for draw in (whole_huge, digits, always(Decimal("Infinity"), 1), always(pd.NA, pd.NaT, None))],
        *[_objects(draw) for draw in (always((1,), {1}), always(1, True), always(b"", None), always({}, None))],
        *[_objects(draw) for draw in (always(np.float32(1), np.int8(2)), always(np.array([1]), None), always(print))],
        *[_pandas(draw, pd.CategoricalDtype(["b", "a", ""], ordered=True)) for draw in (always("a", "b", None), blank)],
        *[_pandas(always(0, 1), pd.SparseDtype(dtype)) for dtype in ("int8", "bool")],
        Kind(one, lambda v: pd.Series(pd.Categorical(pd.IntervalIndex.from_breaks(range(len(v) + 1))))),
        Kind(one, lambda v: pd.Series(pd.Categorical(pd.period_range("2020", periods=len(v))))),
        Kind(one, lambda v: pd.Series(pd.Categorical(pd.date_range("2020", periods=len(v), tz="UTC")))),
        Kind(one, lambda v: pd.Series(pd.date_range("2020", periods=len(v), tz="UTC"))),
        Kind(one, lambda v: pd.Series(pd.interval_range(0, periods=len(v)))),
        Kind(one, lambda v: pd.Series(pd.period_range("2020", periods=len(v)))),
        Kind(bad_text, lambda v: pd.Series(pd.Categorical(pd.Series(v, dtype=object), ordered=True))),
    ],
    "numpy": [
        *[_numpy(draw, "float64") for draw in (full, unbounded, zeros)],
        *[_numpy(draw, object) for draw in (whole_huge, blank, long_text, digits, always(1, True), always({}, None))],
        *[_numpy(draw, "U") for draw in (long_text, digits)],
        _numpy(ends, "int64"),
        _numpy(always(2**64 - 1, 0), "uint64"),
        _numpy(unbounded, "float16"),
        _numpy(always("NaT"), "datetime64[s]"),
        _numpy(always((1, 2.0)), [("a", "i4"), ("b", "f4")]),
        _numpy(always(b"ab"), "V2"),
        Kind(floats, lambda v: np.ma.masked_greater(np.array(v, dtype=float), 1)),
    ],
}


def odd_columns(library: str, rng: np.random.Generator, n: int, role: str) -> Any:
    """Draw a table of a library with n rows, a fourth of its columns of the odd kinds, in one table or flat."""
    count = int(rng.choice(4, p=[0.02, 0.48, 0.3, 0.2]))
    sound = [kind for kind in LIBRARIES[library] if getattr(kind, role)]
    columns = []
    for _ in range(count):
        draw = rng.random()
        pool = ODD[library] if draw < 0.25 else LIBRARIES[library] if draw < 0.3 else sound
        kind = pool[rng.integers(len(pool))]
        columns.append(kind.make(kind.draw(rng, n)))
    if library == "numpy":
        return _odd_array(columns, rng, n)
    names = [*(ODD_NAMES if library == "polars" else PANDAS_NAMES if library == "pandas" else ODD_NAMES)]
    chosen = [names[k] for k in rng.choice(len(names), count, replace=library != "polars" and rng.random() < 0.1)]
    if library == "pandas":
        frame = pd.concat(columns, axis=1) if columns else pd.DataFrame(index=range(n))
        frame.columns = pd.Index(chosen, dtype=object, tupleize_cols=False)
        return frame.iloc[:, 0] if role == "is_target" and count == 1 else frame
    if library == "pyarrow":
        return pa.Table.from_arrays(columns, names=chosen)
    frame = pl.DataFrame(dict(zip(chosen, columns, strict=True)))
    if role == "is_target" and count == 1:
        return frame.to_series()
    return frame.lazy() if rng.random() < 0.1 else frame


def _odd_array(columns: list[Any], rng: np.random.Generator, n: int) -> Any:
    if not columns:
        return np.empty((n, 0))
    array = np.stack([columns[0]] * int(rng.integers(1, 3)), axis=1)
    shape = rng.choice(["flat", "matrix", "list", "cube"], p=[0.1, 0.75, 0.12, 0.03])
    return {"flat": columns[0], "matrix": array, "list": array.tolist(), "cube": array[..., None]}[shape]


def check_odd(estimator: Any, seed: int) -> bool:
    """Fit and predict a drawn table; return whether it worked, or said in our words what is wrong."""
    rng = np.random.default_rng(seed)
    libraries = [*LIBRARIES]
    first = libraries[rng.integers(4)]
    n = int(rng.choice([0, 1, 2, 3, 9, 30], p=[0.02, 0.04, 0.04, 0.05, 0.5, 0.35]))
    X = odd_columns(first, rng, n, "is_feature")
    y = odd_columns(first if rng.random() < 0.8 else libraries[rng.integers(4)], rng, n, "is_target")
    try:
        answer = estimator.fit(X, y).predict(X)
        assert _count(answer) == n, f"{_count(answer)} answers for {n} rows"
        other, rows = libraries[rng.integers(4)], int(rng.integers(1, 5))
        X = odd_columns(other, rng, rows, "is_feature") if rng.random() < 0.5 else _head(X, 1)
        rows = rows if _count(X) == rows else 1
        assert _count(estimator.predict(X)) == rows
    except (ValueError, TypeError) as error:
        check_words(error)
        return False
    return True


def check_words(error: Exception) -> None:
    """Check that an error was raised by us, and names a column, a task or the table."""
    place, said = traceback.extract_tb(error.__traceback__)[-1].filename, str(error)
    assert type(error) in (ValueError, TypeError) or type(error).__module__.startswith("tabmtl"), repr(error)
    # the words that its own checks look for
    by_sklearn = re.search("Complex data|Expected 2D|Found array with|Feature names|features?, but", said)
    assert by_sklearn or "/tabmtl/" in place, f"raised in {place}: {error!r}"
    assert by_sklearn or re.search(r"column|task|\b[Xy]\b|row", said), f"nothing is named: {error!r}"


def _count(table: Any) -> int:
    if isinstance(table, pl.LazyFrame):
        table = table.collect()
    return table.num_rows if isinstance(table, pa.Table) else len(table)


def _head(table: Any, n: int) -> Any:
    if isinstance(table, pa.Table):
        return table.slice(0, n)
    return table.head(n) if hasattr(table, "head") else table[:n]


def check_odd_seeds(name: str, seeds: range) -> None:
    """Run odd frames by one estimator, and tell all that fail; some have to be fitted."""
    failures, worked = [], 0
    for seed in seeds:
        try:
            with warnings.catch_warnings(action="ignore", category=TabmtlWarning):
                worked += check_odd(ODD_ESTIMATORS[name](), seed)
        except BaseException as error:  # a panic of Rust is no Exception
            if isinstance(error, KeyboardInterrupt):
                raise
            failures.append(f"seed {seed}: {type(error).__name__}: {error}")
    assert not failures, f"{len(failures)} of {len(seeds)} fail\n" + "\n\n".join(failures[:20])
    assert worked > len(seeds) / 10, f"only {worked} of {len(seeds)} frames were fitted"


@pytest.mark.parametrize("seeds", later([range(QUICK_ODD), range(QUICK_ODD, ALL_ODD)], range(QUICK_ODD, ALL_ODD)))
@pytest.mark.parametrize("name", ODD_ESTIMATORS)
def test_odd_frames_work_or_are_refused_in_our_words(name, seeds):
    check_odd_seeds(name, seeds[[*ODD_ESTIMATORS].index(name) :: len(ODD_ESTIMATORS)])
