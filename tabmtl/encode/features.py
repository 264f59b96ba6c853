"""Features of a frame to numbers, NaN where missing, and codes of categories."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Annotated, Any, Literal

import numpy as np
import polars as pl
import polars.selectors as cs

from tabmtl.columns import Features
from tabmtl.encode.cures import Library, by_cast, by_dates, by_drop, by_numbers
from tabmtl.encode.files import count_rows, read_blocks
from tabmtl.encode.numeric import (
    LeanPickle,
    NumericScaler,
    NumericTransform,
    bin_edges,
    describe_numbers,
    number_of,
)
from tabmtl.params import near
from tabmtl.processes.forks import has_pool
from tabmtl.schema import FIRST_LEVEL, MISSING, UNSEEN, Columns, IdColumnWarning, warn_user
from tabmtl.storage.stored import Stored

MOST_ROWS = 4

TEXT = (pl.String, pl.Categorical, pl.Enum)


class SingleRows:
    """The values of some rows as `FeatureCoder` reads them, bit for bit.

    Parameters
    ----------
    columns : Columns
        Numbers and categories of types that `of` accepts.
    """

    def __init__(self, columns: Columns) -> None:
        self._numeric = columns.numeric
        self._codes: dict[str, dict[str, int]] = {}
        for name, levels in zip(columns.categorical, columns.levels, strict=True):
            self._codes[name] = {level: code for code, level in enumerate(levels, start=FIRST_LEVEL)}

    @classmethod
    def of(cls, columns: Columns, schema: pl.Schema) -> SingleRows | None:
        """Return a reader of rows with a schema; None where only polars itself makes numbers or text of some type."""
        numbers = all(schema[name].is_float() or _is_whole(schema[name]) for name in columns.numeric)
        levels = all(schema[name] in TEXT or _is_whole(schema[name]) for name in columns.categorical)
        return cls(columns) if numbers and levels else None

    def read(self, frame: pl.DataFrame) -> tuple[np.ndarray, np.ndarray]:
        """Read numbers (n, Fn) as float64, NaN for missing, and codes (n, Fc) as int32."""
        rows = frame.rows(named=True)
        numbers = np.array([[row[name] for name in self._numeric] for row in rows], dtype=np.float64)  # None is NaN
        codes = [[_code(row[name], known) for name, known in self._codes.items()] for row in rows]
        return (
            numbers.reshape(len(rows), len(self._numeric)),
            np.array(codes, dtype=np.int32).reshape(len(rows), len(self._codes)),
        )


def _code(value: Any, known: dict[str, int]) -> int:
    if value is None:
        return MISSING
    # polars writes True and False in lower case
    return known.get(value if isinstance(value, str) else str(value).lower(), UNSEEN)


def _is_whole(dtype: pl.DataType) -> bool:
    return dtype.is_integer() or dtype in (pl.Boolean, pl.Null)


#: The rows from which quantiles are learned, at most.
SAMPLE_ROWS = 200_000
NO_ROWS = "Found array with 0 sample(s): X has no row, and a minimum of 1 is required"  # scikit-learn's words

_SLICE_ROWS = 65_536  # rows read at a time: bounds the memory beside the result
_CHUNK_ROWS = 2_048  # rows scaled at a time: the block stays in the processor's cache

# text is an id, if its values are more than this share of its rows, of which there are enough
_MOST_IDS, _LEAST_IDS = 0.95, 50

# whole numbers are an id, if so many equal pairs are expected and none is found, or if the name says so
_EXPECTED_PAIRS = 10
_NAME_OF_ID = re.compile(r"(?i:(^|[\W_\d])(id|uuid|guid|index|idx)([\W_\d]|$))|[a-z](Id|ID)$")
_HEAD_ROWS = 2_000  # which rule most columns out

Reading = tuple[list[pl.Expr], list[pl.Expr], SingleRows | None]


@dataclass(frozen=True, kw_only=True)
class FeatureCoder(LeanPickle):
    """Fitted encoding of the features, as plain arrays and lists.

    Numeric columns are mapped by a `NumericScaler`, whose quantiles come from at most 200 000 rows drawn with a
    fixed seed. A missing value is NaN in the result. Categorical columns are coded by their level: 0 missing, 1
    unseen or rarer than ``min_frequency``, then the levels in sorted order. Whole numbers are levels under their
    decimal text, so 3, 3.0 and "3" are one level.

    Attributes
    ----------
    names : tuple of str
        All features in the order of the frame.
    columns : Columns
        The numeric and the categorical ones, their levels, and the bins of the encoded values.
    scaler : NumericScaler

    Examples
    --------
    >>> import polars as pl
    >>> frame = pl.DataFrame({"size": [1.0, 2.0, None], "town": ["Ulm", None, "Bonn"]})
    >>> coder = FeatureCoder.fit(frame)
    >>> coder.encode(frame).codes.ravel().tolist()
    [3, 0, 2]
    >>> coder.encode(pl.DataFrame({"size": [1.5], "town": ["Oslo"]}))
    Features(numbers=array([[0.]], dtype=float32), codes=array([[1]], dtype=int32))
    """

    names: Annotated[tuple[str, ...], Stored(distinct=True)]
    columns: Columns
    scaler: NumericScaler

    def __post_init__(self) -> None:
        columns = self.columns
        sizes = {len(own) for own in (columns.has_missing, columns.bins, self.scaler.center)}
        if sizes != {len(columns.numeric)} or len(columns.levels) != len(columns.categorical):
            raise ValueError("a numeric column lacks a flag, bins or a scale, or a categorical one its levels")
        if not self.names or sorted(self.names) != sorted(columns.numeric + columns.categorical):
            raise ValueError(f"the features are {self.names[:5]}, expected the numeric and the categorical ones")
        for name, levels in zip(columns.categorical, columns.levels, strict=True):
            if len(set(levels)) < len(levels):
                raise ValueError(f"the levels of {name!r} are not distinct")
        for name, edges in zip(columns.numeric, columns.bins, strict=True):
            if len(edges) < 2 or not all(a < b < math.inf for a, b in pairwise(edges)):
                raise ValueError(f"the bins of {name!r} do not rise")

    @classmethod
    def fit(
        cls,
        frame: pl.DataFrame | pl.LazyFrame,
        *,
        categorical: Literal["from_dtype"] | Sequence[str] = "from_dtype",
        transform: NumericTransform = "standardize",
        min_frequency: int = 1,
        library: Library = "polars",
    ) -> FeatureCoder:
        """Learn the encoding of a frame.

        Parameters
        ----------
        frame : polars DataFrame or LazyFrame
            A LazyFrame is read several times, some rows at a time, so it need not fit in memory. Collect it first
            where the query is costly, or where the order of its rows may change.
        categorical : "from_dtype" or sequence of str
            Names of the categorical columns; by default those that hold text, categories or booleans.
        transform : {"standardize", "quantile", "none"}
        min_frequency : int, default=1
            Levels seen less often share code 1 with the unseen ones.
        library : {"polars", "pandas", "pyarrow", "numpy"}
            Library that the frame came from; errors and warnings name a cure in it.

        Raises
        ------
        TypeError
            If a column has a type that is neither numeric nor categorical, such as a date; the message names the cure.
        ValueError
            If there is no row or no column, a named column does not exist, or a numeric column holds an infinite
            value.
        """
        schema = frame.collect_schema()
        numeric, categories = find_roles(schema, categorical, library)
        if _count_rows(frame) == 0:
            raise ValueError(NO_ROWS)
        sample, has_missing = _survey(frame, [number_of(name, schema[name]) for name in numeric], numeric)
        counts = count_levels(frame.lazy(), schema, categories)
        return cls.learn(
            schema,
            sample,
            has_missing,
            counts,
            categorical=categorical,
            transform=transform,
            min_frequency=min_frequency,
            library=library,
        )

    @classmethod
    def learn(
        cls,
        schema: pl.Schema,
        sample: np.ndarray,
        has_missing: tuple[bool, ...],
        counts: Mapping[str, pl.DataFrame],
        *,
        categorical: Literal["from_dtype"] | Sequence[str],
        transform: NumericTransform,
        min_frequency: int,
        library: Library = "polars",
    ) -> FeatureCoder:
        """Learn the encoding of a table from its summaries.

        Parameters
        ----------
        schema : polars Schema
            Of the features.
        sample : ndarray of shape (n_numeric, m)
            Raw numbers of some rows, which are overwritten.
        has_missing : tuple of bool
            Per numeric column, whether any row lacks a value.
        counts : mapping of str to DataFrame
            Per categorical column all ``level``s, with the ``count`` of their rows.
        categorical, transform, min_frequency, library
            As in `fit`.
        """
        numeric, categories = find_roles(schema, categorical, library)
        if categorical == "from_dtype":  # who names columns knows them
            _warn_of_text({name: counts[name] for name in categories if schema[name] == pl.String}, library)
            _warn_of_ids(dict(zip(numeric, sample, strict=True)))
        scaler = NumericScaler.fit(sample, transform)
        scaler.apply(sample)
        columns = Columns(
            numeric=numeric,
            categorical=categories,
            levels=tuple(
                tuple(table.filter(pl.col("count") >= min_frequency)["level"].drop_nulls().sort().to_list())
                for table in (counts[name] for name in categories)
            ),
            has_missing=has_missing,
            bins=bin_edges(sample),
        )
        return cls(names=tuple(schema.names()), columns=columns, scaler=scaler)

    def encode(self, frame: pl.DataFrame | pl.LazyFrame) -> Features:
        """Encode a frame with the columns of fit.

        Returns
        -------
        features : Features
            Numbers are float64 where the scaler leaves raw values.

        Raises
        ------
        TypeError, ValueError
            If a column now holds another kind of value, or an infinite one.
        """
        numbers, codes, few = self._expressions(frame)
        n = _count_rows(frame)
        x = Features(
            numbers=np.empty((n, len(numbers)), dtype=self.scaler.dtype),
            codes=np.empty((n, len(codes)), dtype=np.int32),
        )
        if few is not None and n <= MOST_ROWS and isinstance(frame, pl.DataFrame):
            values, x.codes[:] = few.read(frame)
            self._scale_block(values.T, x.numbers)
            return x
        # one reading each, because a running query takes memory for each of its columns
        for rows, columns in _slices(frame, n, self.columns.categorical, codes):
            for j, column in enumerate(columns):
                x.codes[rows, j] = column
        for rows, columns in _slices(frame, n, self.columns.numeric, numbers):
            self._scale(columns, x.numbers[rows])
        return x

    def _expressions(self, frame: pl.DataFrame | pl.LazyFrame) -> Reading:
        """Return expressions of numbers and of codes, and a reader of few rows.

        They depend on the fit and the types only, so the last ones are kept: for one row, building them takes longer
        than running them.
        """
        # the schema of a DataFrame is built anew each time, which takes longer than the types alone
        dtypes = frame.dtypes if isinstance(frame, pl.DataFrame) else frame.collect_schema().dtypes()
        types = tuple(map(type, dtypes))
        kept = self._kept.get(types)
        if kept is None:
            schema = frame.collect_schema()
            self._check_types(schema)
            levels = zip(self.columns.categorical, self.columns.levels, strict=True)
            kept = (
                [number_of(name, schema[name]) for name in self.columns.numeric],
                [code_of(name, schema[name], pl.Enum(known)) for name, known in levels],
                SingleRows.of(self.columns, schema),
            )
            self._kept.clear()
            self._kept[types] = kept
        return kept

    @cached_property
    def _kept(self) -> dict[tuple[type, ...], Reading]:
        return {}

    def _check_types(self, schema: pl.Schema) -> None:
        kinds = dict.fromkeys(self.columns.numeric, ("numeric", "numbers"))
        kinds |= dict.fromkeys(self.columns.categorical, ("categorical", "text"))
        for name, (kind, cure) in kinds.items():
            if not is_feature(schema[name]) or (kind == "numeric" and schema[name] in TEXT):
                raise TypeError(
                    f"column {name!r} was {kind} in fit and is now {schema[name]}; cast it to {cure}, or fit again"
                )

    def _scale(self, columns: Sequence[np.ndarray], out: np.ndarray) -> None:
        """Map raw columns (rows,) into out (rows, n_numeric), in blocks."""
        buffer = np.empty((len(columns), min(len(out), _CHUNK_ROWS)))
        for start in range(0, len(out), _CHUNK_ROWS):
            rows = slice(start, start + _CHUNK_ROWS)
            block = buffer[:, : len(out[rows])]
            for j, column in enumerate(columns):
                block[j] = column[rows]
            self._scale_block(block, out[rows])

    def _scale_block(self, block: np.ndarray, out: np.ndarray) -> None:
        """Map raw values (n_numeric, rows), which are overwritten, into out (rows, n_numeric)."""
        reject_infinite(block, self.columns.numeric)
        self.scaler.apply(block)
        out[:] = block.T


def is_feature(dtype: pl.DataType) -> bool:
    """Return whether a column of this type can be read: numbers, text, booleans or categories."""
    return dtype in (*TEXT, pl.Boolean) or dtype.is_numeric() or dtype == pl.Null


def find_roles(
    schema: pl.Schema, categorical: Literal["from_dtype"] | Sequence[str], library: Library
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the numeric and the categorical columns of a table; see `FeatureCoder.fit` for the errors."""
    if not schema:
        raise ValueError("Found array with 0 feature(s): X has no feature column, and a minimum of 1 is required")
    if categorical != "from_dtype":
        unknown = [name for name in categorical if name not in schema]
        if unknown:
            raise ValueError(
                f"categorical_features names columns that X does not have: {unknown}{near(unknown[0], schema)}; X has "
                f"{schema.names()}"
            )
    numeric: list[str] = []
    categories: list[str] = []
    for name, dtype in schema.items():
        if dtype.is_temporal():
            raise TypeError(
                f"column {name!r} holds dates or times ({dtype}); {by_dates(library, name, dtype)}, or leave it out "
                f"by {by_drop([name])}"
            )
        if not is_feature(dtype):
            raise TypeError(
                f"column {name!r} has type {dtype}; expected numbers, text, booleans or categories: "
                f"{by_cast(library, name)}, or leave it out by {by_drop([name])}"
            )
        is_text = dtype in (*TEXT, pl.Boolean)
        chosen = is_text if categorical == "from_dtype" else name in categorical
        if is_text and not chosen and dtype != pl.Boolean:
            raise TypeError(
                f"column {name!r} holds {dtype} and is not in categorical_features; name it there, "
                f"or {by_numbers(library, name)}"
            )
        (categories if chosen else numeric).append(name)
    return tuple(numeric), tuple(categories)


def _count_rows(frame: pl.DataFrame | pl.LazyFrame) -> int:
    return frame.height if isinstance(frame, pl.DataFrame) else count_rows(frame)


def _slices(
    frame: pl.DataFrame | pl.LazyFrame, n: int, names: Sequence[str], expressions: Sequence[pl.Expr]
) -> Iterator[tuple[slice, list[np.ndarray]]]:
    """Collect expressions over the named columns of n rows, some rows at a time, in order."""
    if not expressions:
        return
    if isinstance(frame, pl.DataFrame):
        parts = frame.iter_slices(_SLICE_ROWS)
    else:
        # only the reading is left to the query: it would run ahead with the results of expressions, and hold them all
        columns = frame.select(cs.by_name(*names))
        parts = read_blocks(columns, None, _SLICE_ROWS, promised=n)
    start = 0
    for part in parts:
        stop = start + part.height
        # for few rows, waking other threads takes longer than the work
        select = part.select if part.height > _CHUNK_ROWS and has_pool() else part.select_seq
        yield slice(start, stop), [column.to_numpy() for column in select(expressions).iter_columns()]
        start = stop


def _survey(
    frame: pl.DataFrame | pl.LazyFrame, numbers: Sequence[pl.Expr], names: Sequence[str]
) -> tuple[np.ndarray, tuple[bool, ...]]:
    """Sample at most `SAMPLE_ROWS` rows of all numbers (n_numeric, m), and find the columns with missing values."""
    rows = _count_rows(frame)
    chosen = np.arange(rows)
    if rows > SAMPLE_ROWS:
        chosen = np.sort(np.random.default_rng(0).choice(rows, SAMPLE_ROWS, replace=False))
    sample = np.empty((len(names), len(chosen)))
    missing = np.zeros(len(names), dtype=bool)
    for part, columns in _slices(frame, rows, names, numbers):
        first, last = np.searchsorted(chosen, [part.start, part.stop])
        for j, values in enumerate(columns):
            reject_infinite(values[None], names[j : j + 1])
            missing[j] |= np.isnan(values).any()
            sample[j, first:last] = values[chosen[first:last] - part.start]
    return sample, tuple(missing.tolist())


def reject_infinite(block: np.ndarray, names: Sequence[str]) -> None:
    """Raise a ValueError that names a column (n_numeric, rows) with an infinite value."""
    infinite = np.isinf(block)
    if infinite.any():
        name = names[int(infinite.any(axis=1).argmax())]
        raise ValueError(f"column {name!r} holds an infinite value; replace it by null or a finite number")


def text_of(name: str, dtype: pl.DataType) -> pl.Expr:
    """Return a categorical column as text; whole numbers without decimals, NaN as null."""
    # a selector, because pl.col takes a name like "*" or "^a$" for a pattern
    column = cs.by_name(name).as_expr()
    if not dtype.is_float():
        return column.cast(pl.String)
    whole = (column == column.round()) & column.is_finite() & (column.abs() < 2**53)
    digits = column.cast(pl.Int64, strict=False).cast(pl.String)
    return pl.when(column.is_nan()).then(None).when(whole).then(digits).otherwise(column.cast(pl.String)).alias(name)


def count_levels(lazy: pl.LazyFrame, schema: pl.Schema, names: Sequence[str]) -> dict[str, pl.DataFrame]:
    """Count the rows of every level of some columns: a table with ``level`` and ``count`` for each."""
    # one small aggregation per column streams; counting all columns in one select would hold them in memory
    tables = pl.collect_all(
        [
            lazy.select(text_of(name, schema[name]).alias("level")).group_by("level").agg(pl.len().alias("count"))
            for name in names
        ]
    )
    return dict(zip(names, tables, strict=True))


def _warn_of_text(counts: Mapping[str, pl.DataFrame], library: Library) -> None:
    """Warn of columns of text whose levels are nearly all numbers, some of them fractions, or names of the rows."""
    for name, table in counts.items():
        present = table.drop_nulls("level")
        levels, rows = present["level"].sort(), int(present["count"].sum())
        found, numbers = describe_numbers(levels), levels.cast(pl.Float64, strict=False)
        if found is not None and not (numbers == numbers.round()).all():
            categories = "" if library == "file" else ", or list it in categorical_features"
            warn_user(
                f"column {name!r} is text, so each of its {len(levels)} values is a category, yet they are "
                f"{found}; {by_numbers(library, name)}{categories}"
            )
        elif len(levels) > _MOST_IDS * rows >= _LEAST_IDS:
            warn_user(
                f"column {name!r} is text with {len(levels)} values in {rows} rows, so it is a name of the rows, from "
                f"which nothing can be learned for others; say {by_drop([name])}, or derive features from it",
                IdColumnWarning,
            )


def _warn_of_ids(numbers: Mapping[str, np.ndarray]) -> None:
    """Warn of columns of whole numbers that name or count the rows, given the values of some rows."""
    for name, values in numbers.items():
        head = values[:_HEAD_ROWS]
        if not (_names_rows(name, head[~np.isnan(head)]) and _names_rows(name, values[~np.isnan(values)])):
            continue
        warn_user(
            f"column {name!r} holds whole numbers, hardly one of them twice, so it is a name or a count of the rows, "
            f"from which nothing can be learned for others; say {by_drop([name])}, unless it is a time",
            IdColumnWarning,
        )


def _names_rows(name: str, values: np.ndarray) -> bool:
    """Return whether values are whole, and hardly one comes twice, where chance or the name lets expect otherwise.

    n numbers from a range of r make n² / 2r equal pairs by chance, or more: fewest if all are equally probable.
    """
    n = len(values)
    if n < _LEAST_IDS or not (values == np.round(values)).all():
        return False
    n_distinct = len(np.unique(values))
    is_dense = n_distinct == n and n**2 >= 2 * _EXPECTED_PAIRS * (np.ptp(values) + 1)
    return is_dense or (n_distinct > _MOST_IDS * n and _NAME_OF_ID.search(name) is not None)


def code_of(name: str, dtype: pl.DataType, levels: pl.Enum) -> pl.Expr:
    """Return the codes of a categorical column, int32: 0 missing, 1 unseen, then the levels."""
    text = text_of(name, dtype)
    known = text.cast(levels, strict=False).to_physical().cast(pl.Int32) + FIRST_LEVEL
    # MISSING and UNSEEN are 0 and 1: whether there is a value
    return pl.coalesce(known, text.is_not_null().cast(pl.Int32)).alias(name)
