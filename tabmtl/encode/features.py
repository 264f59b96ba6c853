"""Features of a frame to arrays, by the kinds of their columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from types import MappingProxyType
from typing import Annotated, Any, ClassVar

import numpy as np
import polars as pl
import polars.selectors as cs

from tabmtl.base.params import check_known, near
from tabmtl.base.schema import Columns
from tabmtl.base.storage.stored import Stored
from tabmtl.columns import KINDS, ColumnKind, Features
from tabmtl.columns.category import Categories
from tabmtl.columns.cures import by_cast, by_column
from tabmtl.columns.declared import Declared
from tabmtl.columns.kind import (
    FIELDS,
    MOST_ROWS,
    SLICE_ROWS,
    Coding,
    Form,
    LeanPickle,
    Slices,
    Summary,
    in_slices,
    merge,
    of_parts,
)
from tabmtl.columns.number import Numbers, NumericScaler, NumericTransform
from tabmtl.columns.reading import find_readings, read_declared
from tabmtl.columns.roles import check_sequences, sequence_columns
from tabmtl.columns.text import Texts, find_texts
from tabmtl.columns.values import type_of
from tabmtl.encode.read import count_rows, read_lazy

#: Types of columns that have units, time zones or items, which a type alone does not tell.
_PARAMETRIC = {pl.Datetime, pl.Duration, pl.List, pl.Array}

#: The rows from which quantiles are learned, at most.
SAMPLE_ROWS = 200_000
#: Summaries of blocks that are merged at a time: after every block, the levels so far would be counted anew.
WAITING = 32
NO_ROWS = "Found array with 0 sample(s): X has no row, and a minimum of 1 is required"  # scikit-learn's words

NONE: Mapping[str, Declared] = MappingProxyType({})
#: Names of the columns of every kind.
ByKind = Mapping[type[ColumnKind], tuple[str, ...]]


@dataclass(frozen=True, kw_only=True)
class FeatureCoder(LeanPickle):
    """Fitted encoding of the features, as plain arrays and lists; see the kinds of columns in `tabmtl.columns`.

    Quantiles of numbers come from at most 200 000 rows drawn with a fixed seed.

    Attributes
    ----------
    names : tuple of str
        All features in the order of the frame.
    coders : dict of str to ColumnKind
        The kinds by name, and what they have learned of their columns.
    readings : dict of str to Declared
        Columns of text that are read before, as they are declared.

    Examples
    --------
    >>> import polars as pl
    >>> frame = pl.DataFrame({"size": [1.0, 2.0, None], "town": ["Ulm", None, "Bonn"]})
    >>> coder = FeatureCoder.fit(frame)
    >>> coder.encode(frame).codes.ravel().tolist()
    [3, 0, 2]
    >>> features = coder.encode(pl.DataFrame({"size": [1.5], "town": ["Oslo"]}))
    >>> features.numbers, features.codes
    (array([[0.]], dtype=float32), array([[1]], dtype=int32))
    """

    names: Annotated[tuple[str, ...], Stored(distinct=True)]
    coders: dict[str, ColumnKind]
    readings: dict[str, Declared] = field(default_factory=dict)

    later_fields: ClassVar[tuple[str, ...]] = ("readings",)

    def __post_init__(self) -> None:
        found = [name for coder in self.coders.values() for name in coder.names]
        if not self.names or sorted(self.names) != sorted(found):
            raise ValueError(f"the features are {self.names[:5]}, expected those of all kinds, {found[:5]}")

    @classmethod
    def fit(
        cls,
        frame: pl.DataFrame | pl.LazyFrame,
        *,
        columns: Mapping[str, Declared] = NONE,
        finds_text: bool = False,
        transform: NumericTransform = "standardize",
        min_frequency: int = 1,
        flat: bool = False,
        kinds: Sequence[type[ColumnKind]] = KINDS,
    ) -> FeatureCoder:
        """Learn the encoding of a frame.

        Parameters
        ----------
        frame : polars DataFrame or LazyFrame
            A LazyFrame is read several times, some rows at a time, so it need not fit in memory. Collect it first
            where the query is costly, or where the order of its rows may change.
        columns : mapping of str to Declared, default={}
            Columns whose kind is known; that of the others follows from their type.
        finds_text : bool, default=False
            Whether `find_texts` finds columns of free text among those of text.
        transform : {"standardize", "quantile", "none"}
        min_frequency : int, default=1
            Levels seen less often share code 1 with the unseen ones.
        flat : bool, default=False
            Whether all columns must become numbers and codes, as trees read them.
        kinds : sequence of type, default=KINDS
            Kinds of columns, of which the first that reads a column has it.

        Raises
        ------
        TypeError
            If a column has a type that no kind reads, such as a list; the message names the cure.
        ValueError
            If there is no row or no column, a declared column does not exist, its text cannot be read as it says, or a
            numeric column holds an infinite value.
        """
        readings, known = dict[str, Declared](), set[str]()
        if columns:
            readings = find_readings(columns, frame.collect_schema())
            frame = read_declared(frame, readings)
            known = {*columns, *sequence_columns(columns)}
        schema = frame.collect_schema()
        if finds_text:
            columns = {**columns, **dict.fromkeys(find_texts(frame, known), Texts.declaration)}
        roles = find_kinds(schema, columns, kinds, flat=flat)
        n = _count_rows(frame)
        if n == 0:
            raise ValueError(NO_ROWS)
        chosen = np.arange(n)
        if n > SAMPLE_ROWS:
            chosen = np.sort(np.random.default_rng(0).choice(n, SAMPLE_ROWS, replace=False))
        coding = Coding(schema=schema, transform=transform, min_frequency=min_frequency, columns=columns)
        return cls.learn(roles, _survey(frame, n, roles, chosen), coding, readings)

    def extended(self, frame: pl.DataFrame | pl.LazyFrame, *, min_frequency: int = 1) -> FeatureCoder:
        """Return a coder that knows the levels of new rows too; see `tabmtl.columns.ColumnKind.extended`.

        The encoding of a row stays the same, except for levels that were unseen or rare and are known now.

        Parameters
        ----------
        frame : polars DataFrame or LazyFrame
            New rows, with the columns of fit.
        min_frequency : int, default=1
            Levels that fewer of the new rows have stay unseen.

        Returns
        -------
        coder : FeatureCoder
            This one, if nothing is new.

        Raises
        ------
        TypeError, ValueError
            As `encode` does.

        Examples
        --------
        >>> import polars as pl
        >>> coder = FeatureCoder.fit(pl.DataFrame({"town": ["Ulm", "Bonn"]}))
        >>> coder.extended(pl.DataFrame({"town": ["Aachen", "Ulm"]})).columns.levels
        (('Bonn', 'Ulm', 'Aachen'),)
        """
        frame = read_declared(frame, self.readings)
        try:
            self._expressions(frame.collect_schema())
        except TypeError:
            untyped = _untyped(frame)
            if untyped is frame:
                raise
            return self.extended(untyped, min_frequency=min_frequency)
        n, roles = _count_rows(frame), {type(coder): coder.names for coder in self.coders.values()}
        if n == 0:
            return self
        summaries = _survey(frame, n, roles, np.arange(0))
        coders = {kind: coder.extended(summaries[kind], min_frequency) for kind, coder in self.coders.items()}
        return replace(self, coders=coders) if any(coders[kind] is not self.coders[kind] for kind in coders) else self

    def check_kinds(self, kinds: Sequence[type[ColumnKind]]) -> None:
        """Raise a ValueError unless all coders are of these kinds, numbers and categories among them."""
        expected = dict.fromkeys(each.name for kind in kinds for each in (kind, kind.flat()))
        if [*self.coders] != [name for name in expected if name in {"numbers", "categories", *self.coders}]:
            raise ValueError(f"the features are of the kinds {[*self.coders]}, expected some of {[*expected]}")

    @classmethod
    def learn(
        cls, roles: ByKind, summaries: Mapping[str, Summary], coding: Coding, readings: dict[str, Declared]
    ) -> FeatureCoder:
        """Learn the encoding of a table from the summaries of its kinds of columns, which are used up."""
        coders = {kind.name: kind.learn(names, summaries[kind.name], coding) for kind, names in roles.items()}
        return cls(names=tuple(coding.schema), coders=coders, readings=readings)

    @cached_property
    def columns(self) -> Columns:
        """Facts about the features, from which networks and trees are built."""
        facts = [coder.facts() for coder in self.coders.values()]
        found = {field: sum((own.get(field, ()) for own in facts), ()) for field in Columns.__dataclass_fields__}
        taken = set(self.names)
        for form in ("numbers", "codes"):
            pairs = zip(found[FIELDS[form]], self.origins_by_form[form], strict=True)
            found[FIELDS[form]] = tuple(name if name == origin else _named_apart(name, taken) for name, origin in pairs)
        return Columns(**found)

    @cached_property
    def origins_by_form(self) -> dict[Form, tuple[str, ...]]:
        """Names of the columns of the frame behind all features of `columns`, by the form of these."""
        several = [coder.origins() for coder in self.coders.values()]
        return {form: sum((own.get(form, ()) for own in several), ()) for form in FIELDS}

    @property
    def origins(self) -> tuple[str, ...]:
        """Names of the columns of the frame behind the numbers, then behind the codes, of `columns`."""
        return self.origins_by_form["numbers"] + self.origins_by_form["codes"]

    @property
    def declared(self) -> dict[str, Declared]:
        """What makes the columns of another coder be of the same kinds."""
        several = [coder.declared() for coder in self.coders.values()]
        return {name: own for declared in several for name, own in declared.items()} | self.readings

    @cached_property
    def values(self) -> dict[str, str]:
        """Name what every column of the frame held in fit, in words of `tabmtl.columns.values`."""
        found = {name: coder.values_of(name) for coder in self.coders.values() for name in coder.names}
        return found | dict.fromkeys(self.readings, "text")

    @property
    def dates(self) -> tuple[str, ...]:
        """Names of the columns of the frame that are dates, times or durations."""
        pairs = ((name, coder.values_of(name)) for coder in self.coders.values() for name in coder.names)
        return tuple(name for name, own in pairs if type_of(own).is_temporal())

    @property
    def moving_together(self) -> dict[str, tuple[str, ...]]:
        """Of every column, those that must come from one row with it, itself among them."""
        several = (own for coder in self.coders.values() for own in coder.together())
        return {name: (name,) for name in self.names} | {name: own for own in several for name in own}

    def raw(self) -> FeatureCoder:
        """Return the coder that leaves numbers as they are."""
        return replace(self, coders={kind: coder.raw() for kind, coder in self.coders.items()})

    @property
    def scalers(self) -> dict[Form, tuple[NumericScaler, ...]]:
        """Maps of all numbers and of all vectors, in the order of `columns`, and of the numbers of each sequence."""
        several = [coder.scalers() for coder in self.coders.values()]
        found: dict[Form, tuple[Any, ...]] = {form: sum((own.get(form, ()) for own in several), ()) for form in FIELDS}
        sequences = found.pop("sequences")
        beside: dict[Form, tuple[NumericScaler, ...]]
        beside = {form: (NumericScaler.beside(own),) for form, own in found.items() if own}
        return beside | {"sequences": sequences}

    def kind_of(self, name: str) -> str:
        """Return the name of the kind of a column."""
        return next(kind for kind, coder in self.coders.items() if name in coder.names)

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
        if self.readings:
            frame = read_declared(frame, self.readings)
        try:
            expressions, few = self._expressed(frame)
        except (TypeError, ValueError):
            untyped = _untyped(frame)
            if untyped is frame:
                raise
            return self.encode(untyped)
        n, coders = _count_rows(frame), self.coders.values()
        rows = _plain_rows(frame) if few and 0 < n <= MOST_ROWS and isinstance(frame, pl.DataFrame) else None
        if rows is not None:
            return Features.beside([coder.encode_rows(rows) for coder in coders])
        # one reading each, because a running query takes memory for each of its columns
        pairs = zip(coders, expressions, strict=True)
        return Features.beside([coder.encode(_slices(frame, n, coder.names, own), n) for coder, own in pairs])

    def _expressed(self, frame: pl.DataFrame | pl.LazyFrame) -> tuple[list[list[pl.Expr]], bool]:
        """Return what polars makes of the columns by kind, and whether few rows can be read without polars.

        They depend on the fit and the types only, so the last ones are kept: for one row, building them takes longer
        than running them.
        """
        # the schema of a DataFrame is built anew each time, which takes longer than the types alone
        dtypes = frame.dtypes if isinstance(frame, pl.DataFrame) else frame.collect_schema().dtypes()
        types: tuple[Any, ...] = tuple(map(type, dtypes))
        if not _PARAMETRIC.isdisjoint(types):
            types = tuple(dtypes)
        kept = self._kept.get(types)
        if kept is None:
            schema = frame.collect_schema()
            kept = self._expressions(schema), all(coder.reads_rows(schema) for coder in self.coders.values())
            self._kept.clear()
            self._kept[types] = kept
        return kept

    @cached_property
    def _kept(self) -> dict[tuple[Any, ...], tuple[list[list[pl.Expr]], bool]]:
        return {}

    def _expressions(self, schema: pl.Schema) -> list[list[pl.Expr]]:
        """Return what polars makes of the columns by kind, whose types are checked."""
        for coder in self.coders.values():
            for name in coder.names:
                if name not in schema:
                    raise ValueError(f"there is no column {name!r}, which fit had{near(name, schema)}; add it")
                if not (coder.reads(schema[name], coder.name) or schema[name] == pl.Null):
                    raise TypeError(
                        f"column {name!r} {coder.held} in fit and is now {schema[name]}; cast it to {coder.cast}, or "
                        "fit again"
                    )
        return [coder.expressions(schema) for coder in self.coders.values()]


def _plain_rows(frame: pl.DataFrame) -> list[dict[str, Any]] | None:
    """Return rows as values of Python; None if it has no such values, as of dates beyond the year 9999."""
    try:
        return frame.rows(named=True)
    except (OverflowError, ValueError):
        return None


def _named_apart(name: str, taken: set[str]) -> str:
    """Return a name of a derived feature that no other has, and add it to these."""
    while name in taken:
        name += "'"
    taken.add(name)
    return name


def find_kinds(
    schema: Mapping[str, pl.DataType],
    columns: Mapping[str, Declared],
    kinds: Sequence[type[ColumnKind]] = KINDS,
    *,
    flat: bool = False,
) -> ByKind:
    """Return the names of the columns of every kind that has some, and of numbers and categories.

    The kinds are those of networks, or, with ``flat``, those that trees read of the same columns. See
    `FeatureCoder.fit` for the errors.
    """
    if not schema:
        raise ValueError("Found array with 0 feature(s): X has no feature column, and a minimum of 1 is required")
    check_known("columns declares columns", columns, schema, "X")
    declared = {name: own.kind for name, own in columns.items()}
    if columns:
        check_sequences(columns, schema)
        declared |= dict.fromkeys(sequence_columns(columns), "sequences")
    left = dict(schema)
    roles: dict[type[ColumnKind], tuple[str, ...]] = {}
    for k, kind in enumerate(kinds):
        if any(kind.name == other.name for other in kinds[:k]):
            raise ValueError(f"two kinds of columns are named {kind.name!r}; a file tells them apart by their names")
        own = {name: dtype for name, dtype in left.items() if kind.reads(dtype, declared.get(name))}
        if own or kind in (Numbers, Categories):  # all rows have both, be they of no column
            roles[kind.flat() if flat else kind], left = (
                tuple(own),
                {name: dtype for name, dtype in left.items() if name not in own},
            )
    for name, dtype in left.items():
        raise _refusal(name, dtype, columns.get(name))
    return roles


def _refusal(name: str, dtype: pl.DataType, declared: Declared | None) -> TypeError:
    """Return the error for a column that no kind reads."""
    leave_out = f"say {by_column([name], 'ignore')}"
    if declared is not None:
        return TypeError(
            f"column {name!r} has type {dtype} and is declared {str(declared)!r}, which expects {declared.expected}; "
            f"declare another kind, or {leave_out}"
        )
    return TypeError(
        f"column {name!r} has type {dtype}; expected numbers, text, booleans, categories, or lists of these: "
        f"{by_cast(dtype)}, or {leave_out}"
    )


def survey_columns(block: pl.DataFrame, roles: ByKind, taken: np.ndarray) -> dict[str, Summary]:
    """Summarise the columns of a block by kind, and some rows (m,) of it, which belong to a sample."""
    return {kind.name: kind.survey(block, names, taken) for kind, names in roles.items()}


def _survey(frame: pl.DataFrame | pl.LazyFrame, n: int, roles: ByKind, chosen: np.ndarray) -> dict[str, Summary]:
    """Summarise the columns of n rows by kind, some rows at a time, of which some, by their numbers, are a sample."""
    found: list[dict[str, Summary]] = []
    start = 0
    for block in [frame] if isinstance(frame, pl.DataFrame) else read_lazy(frame, SLICE_ROWS, n):
        first, last = np.searchsorted(chosen, [start, start + block.height])
        found.append(survey_columns(block, roles, chosen[first:last] - start))
        if len(found) == WAITING:
            found = [merge(found, slice(None))]
        start += block.height
    return merge(found, slice(None)) if len(found) > 1 else found[0]


def _untyped(frame: pl.DataFrame | pl.LazyFrame) -> pl.DataFrame | pl.LazyFrame:
    """Return a frame without the types of columns that hold nothing, which its library has only guessed."""
    if isinstance(frame, pl.LazyFrame):
        return frame
    names = [
        own.name
        for own in frame.iter_columns()
        if own.dtype != pl.Null
        and (own.null_count() == frame.height or (own.dtype.is_float() and own.alias("").is_nan().all()))
    ]
    return (
        frame.with_columns(pl.Series(name, [None] * frame.height, dtype=pl.Null) for name in names) if names else frame
    )


def _count_rows(frame: pl.DataFrame | pl.LazyFrame) -> int:
    return frame.height if isinstance(frame, pl.DataFrame) else count_rows(frame)


def _slices(frame: pl.DataFrame | pl.LazyFrame, n: int, names: Sequence[str], expressions: Sequence[pl.Expr]) -> Slices:
    """Collect expressions over the named columns of n rows, some rows at a time, in order."""
    if isinstance(frame, pl.DataFrame):
        return in_slices(frame, expressions)
    # only the reading is left to the query: it would run ahead with the results of expressions, and hold them all
    columns = frame.select(cs.by_name(*names)) if expressions else frame
    return of_parts(read_lazy(columns, SLICE_ROWS, n), expressions)
