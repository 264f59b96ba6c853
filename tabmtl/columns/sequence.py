"""Sequences: ordered lists, such as what a user has clicked so far, newest last."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar, Self

import numpy as np
import polars as pl

from tabmtl.base.schema import FIRST_LEVEL, MISSING, UNSEEN, SequenceColumn, counted, warn_about
from tabmtl.columns.category import (
    Categories,
    code_of,
    code_of_value,
    count_levels,
    has_plain_text,
    is_feature,
    text_of,
)
from tabmtl.columns.cures import by_column
from tabmtl.columns.declared import Category, Declared
from tabmtl.columns.declared import Sequence as ListInOrder
from tabmtl.columns.kind import WHOLE, Coding, ColumnKind, Form, Parts, RowError, Slices, Summary, column_of, series_by
from tabmtl.columns.number import NumericScaler
from tabmtl.columns.ragged import Entries, lengths_of, offsets_of
from tabmtl.columns.roles import Role, find_roles
from tabmtl.columns.tags import LEAST_FLAT_ROWS, check_items, inner_of, lists_by_levels, most_frequent

# of a side list of numbers, the places of those of its entries that scales are learned from
_PLACES = (0.1, 0.3, 0.5, 0.7, 0.9)


def _check_shared(roles: Sequence[Role], summary: Summary, schema: Mapping[str, pl.DataType]) -> None:
    """Raise a TypeError for text and numbers in a sequence and its items, if they have no value in common."""
    for role in roles:
        if role.item == role.name:
            continue
        items, entries = summary[role.item].drop_nulls("level"), summary[role.name].drop_nulls("level")
        of_items, of_entries = schema[role.item], _inner(schema[role.name])
        if of_items.is_numeric() == of_entries.is_numeric() or items.is_empty() or entries.is_empty():
            continue
        if entries.join(items, on="level", how="semi").is_empty():
            raise TypeError(
                f"column {role.name!r} is a sequence of values of {role.item!r}, and holds {schema[role.name]}, such "
                f"as {entries['level'][0]!r}, but {role.item!r} holds {of_items}, such as {items['level'][0]!r}: make "
                f"both of one type, or say {by_column([role.name], 'sequence')} for levels of its own"
            )


@dataclass(frozen=True, kw_only=True)
class Sequences(ColumnKind):
    """Sequences, the items that they are of, and lists beside them.

    An item and the sequences of it share levels: those that are frequent enough in all of them together, since most
    items of a history were shown to others, and what is bought often but never shown would be lost otherwise. An entry
    that is null is unseen, so that its place is kept. Numbers beside a sequence are scaled as numbers of a table are,
    and 0 where missing; text beside it has levels of its own.

    Attributes
    ----------
    sequences : tuple of str
    items : tuple of str
        The column of the items of every sequence; its own name if it has none.
    sides : tuple of tuple of str
        The lists beside every sequence.
    categories : Categories
        Levels of the items, and of text beside sequences, by the name of their column.
    numbers : tuple of str
        The lists of numbers beside sequences.
    scales : NumericScaler
        Of these.
    longest : tuple of int
        Entries of every sequence that are read, the newest.
    """

    name = "sequences"
    held = "belonged to a sequence"
    cast = "the type that it had"
    _of_missing: ClassVar[float] = 0.0  # what stands for a missing number beside an entry

    sequences: tuple[str, ...]
    items: tuple[str, ...]
    sides: tuple[tuple[str, ...], ...]
    categories: Categories
    numbers: tuple[str, ...]
    scales: NumericScaler
    longest: tuple[int, ...]

    def __post_init__(self) -> None:
        found = {*self.sequences, *self.items, *(name for own in self.sides for name in own)}
        lengths = {len(own) for own in (self.sequences, self.items, self.sides, self.longest)}
        if len(lengths) > 1 or found != set(self.names):
            raise ValueError(
                f"the sequences {self.sequences[:5]} are of {sorted(found)[:5]}, expected {self.names[:5]}"
            )
        leaves = {*self.items, *(name for own in self.sides for name in own)}
        if leaves != {*self.categories.names, *self.numbers} or not self.scales.fits(len(self.numbers)):
            raise ValueError(f"the sequences {self.sequences[:5]} lack levels or scales")
        if min(self.longest, default=1) < 1:
            raise ValueError(f"sequences have a length of at most {self.longest}, expected 1 or more")

    @classmethod
    def reads(cls, dtype: pl.DataType, declared: str | None) -> bool:
        """Return whether a column belongs to a sequence, which the user says."""
        inner = inner_of(dtype)
        return declared in ("sequences", cls.name) and is_feature(dtype if inner is None else inner)

    @classmethod
    def flat(cls) -> type[ColumnKind]:
        """Return the kind that tells of sequences in numbers and codes."""
        return FlatSequences

    @classmethod
    def survey(cls, block: pl.DataFrame, names: Sequence[str], taken: np.ndarray) -> Summary:
        """Count levels of items and entries and the lengths of lists, and take numbers from the lists of some rows."""
        found, samples = count_levels(block, [name for name in names if inner_of(block.schema[name]) is None]), []
        for name in names:
            inner = inner_of(block.schema[name])
            if inner is None:
                continue
            lists = _plain(block[name])
            found[_LENGTHS + name] = lists.list.len().alias("level").cast(pl.Int64).value_counts(name="count")
            if not inner.is_float():
                texts = _flattened(lists).alias("level").to_frame().select(text_of("level", inner)).to_series()
                found[name] = texts.value_counts(name="count")
            if inner.is_numeric():
                samples.append(_some_entries(lists[taken]))
        return {**found, _SAMPLE: np.concatenate(samples or [np.empty((0, len(taken)))])}

    @classmethod
    def learn(cls, names: tuple[str, ...], summary: Summary, coding: Coding) -> Self:
        """Learn the levels of items and of text, and the scales of numbers."""
        roles = find_roles(coding.columns)
        lists = [name for name in names if isinstance(coding.columns.get(name), ListInOrder)]
        numeric = [name for name in lists if _inner(coding.schema[name]).is_numeric()]
        numbers = tuple(name for name in numeric if any(name in role.sides for role in roles))
        _check_shared(roles, summary, coding.schema)
        _warn_of_cuts(roles, summary)
        sample = summary[_SAMPLE].reshape(len(numeric), len(_PLACES) * summary[_SAMPLE].shape[1])
        return cls(
            names=names,
            sequences=tuple(role.name for role in roles),
            items=tuple(role.item for role in roles),
            sides=tuple(role.sides for role in roles),
            categories=_levels(roles, numbers, summary, coding.min_frequency),
            numbers=numbers,
            scales=NumericScaler.fit(sample[[numeric.index(name) for name in numbers]], coding.transform),
            longest=tuple(role.longest for role in roles),
            **cls.more(roles, summary, coding),
        )

    @classmethod
    def more(cls, roles: Sequence[Role], summary: Summary, coding: Coding) -> dict[str, Any]:
        """Return further fields of the object."""
        return {}

    def extended(self, summary: Summary, min_frequency: int) -> Self:
        """Append the new levels that are frequent enough; scales stay as they are."""
        known = self.categories.extended(_counts(self._roles, self.numbers, summary), min_frequency)
        return self if known is self.categories else replace(self, categories=known)

    def facts(self) -> dict[str, tuple[Any, ...]]:
        """Return the items as categories, and what networks are told of sequences."""
        return {
            "categorical": self._shared,
            "levels": tuple(self._levels[name] for name in self._shared),
            "sequences": tuple(self._describe(role) for role in self._roles),
        }

    def origins(self) -> dict[Form, tuple[str, ...]]:
        """Return the column behind every feature; sequences are those of the sequence, with the lists beside it."""
        return {"codes": self._shared, "sequences": self.sequences}

    def values_of(self, name: str) -> str:
        """Say that items were text, as which all levels are known, and others lists of numbers, integers or text."""
        if name in self._shared:
            return "text"
        if name in self.numbers:
            return "lists of numbers"
        item = next((role.item for role in self._roles if role.name == name), name)
        return lists_by_levels(self._levels[item])

    def declared(self) -> dict[str, Declared]:
        """Return the sequences, the lists beside them, and their items, which are categories."""
        found: dict[str, Declared] = dict.fromkeys(self._shared, Category())
        for role in self._roles:
            of = None if role.item == role.name else role.item
            found[role.name] = ListInOrder(of=of, longest=role.longest)
            found |= dict.fromkeys(role.sides, ListInOrder(of=role.name))
        return found

    def together(self) -> tuple[tuple[str, ...], ...]:
        """Return every sequence with the lists beside it."""
        return tuple((role.name, *role.sides) for role in self._roles if role.sides)

    def expressions(self, schema: pl.Schema) -> list[pl.Expr]:
        """Return the codes of items, and the lists as they are."""
        for name in self.names:
            self._check_now(name, schema[name])
        items = [code_of(name, schema[name], pl.Enum(self._levels[name])) for name in self._shared]
        lists = dict.fromkeys(name for role in self._roles for name in (role.name, *role.sides))
        return [*items, *(_list_of(name, schema[name]) for name in lists)]

    def _check_now(self, name: str, dtype: pl.DataType) -> None:
        """Raise a TypeError unless a column is of a type that it may have had in fit."""
        entry = dtype if name in self._shared else inner_of(dtype)
        fits = entry is not None and is_feature(entry)
        if name in self.numbers and entry is not None:
            fits = entry.is_numeric() or entry in WHOLE
        if not (fits or dtype == pl.Null):
            held = "one text or number a row" if name in self._shared else self.values_of(name)
            raise TypeError(f"column {name!r} held {held} in fit and is now {dtype}; cast it to {held}, or fit again")
        of = next((role.item for role in self._roles if role.name == name), name)
        if of in self._levels and name not in self._shared:
            check_items(name, dtype, self._levels[of])

    def encode(self, slices: Slices, n: int) -> Parts:
        """Encode items to codes, and sequences to entries."""
        codes = np.empty((n, len(self._shared)), dtype=np.int32)
        several: list[list[Entries]] = [[] for _ in self._roles]
        for rows, columns in slices:
            for j, name in enumerate(self._shared):
                codes[rows, j] = columns[name].to_numpy()
            for role, found in zip(self._roles, several, strict=True):
                found.append(self._entries(role, columns, rows.start))
        empty = [Entries.empty(0, *self._widths(role)) for role in self._roles]
        entries = tuple(Entries.join([none, *own]) for none, own in zip(empty, several, strict=True))
        return {"codes": codes, "sequences": entries}

    def reads_rows(self, schema: pl.Schema) -> bool:
        """Return whether Python makes the same text and floats of plain items and entries."""
        held = {name: schema[name] if name in self._shared else _inner(schema[name]) for name in self.names}
        numbers = [held.pop(name) for name in self.numbers]
        are_numbers = all(own.is_float() or own.is_integer() or own in WHOLE for own in numbers)
        return are_numbers and all(map(has_plain_text, held.values()))

    def encode_rows(self, rows: Sequence[Mapping[str, Any]]) -> Parts:
        """Encode items and sequences of few rows."""
        known, shared = self.categories.codes_of_levels, self._shared
        codes = [[code_of_value(row[name], known[name]) for name in shared] for row in rows]
        return {
            "codes": np.array(codes, dtype=np.int32).reshape(len(rows), len(shared)),
            "sequences": tuple(self._plain_entries(role, rows) for role in self._roles),
        }

    def _plain_entries(self, role: Role, rows: Sequence[Mapping[str, Any]]) -> Entries:
        """Read a sequence, with the lists beside it, of few rows."""
        given = [row[role.name] for row in rows]
        lists = [own or [] for own in given]
        longest = role.longest
        lengths = np.array([min(len(own), longest) for own in lists])
        sides: dict[str, list[Any]] = {role.item: [value for own in lists for value in own[-longest:]]}
        for name in role.sides:
            sides[name] = []
            for i, (row, own) in enumerate(zip(rows, lists, strict=True)):
                side = [None] * len(own) if row[name] is None else row[name]
                if len(side) != len(own):
                    raise _of_other_length(role.name, name, i, len(side), None if given[i] is None else len(own))
                sides[name] += side[-longest:]
        numbers = [np.array(sides.pop(name), dtype=np.float64) for name in role.sides if name in self.numbers]
        for name, values in zip((name for name in role.sides if name in self.numbers), numbers, strict=True):
            _reject_infinite(name, values, lengths, 0)
        known = self.categories.codes_of_levels
        codes, *labels = (
            np.array([max(code_of_value(value, known[name]), UNSEEN) for value in values], dtype=np.int32)
            for name, values in sides.items()
        )
        return self._joined(role, lengths, np.array([own is None for own in given]), codes, numbers, labels)

    def _entries(self, role: Role, columns: pl.DataFrame, start: int) -> Entries:
        """Read a sequence, with the lists beside it, of some rows; they are counted from `start` in errors."""
        longest = role.longest
        lists = _cut(_plain(columns[role.name]), longest)
        lengths, is_missing = lengths_of(lists), lists.is_null().to_numpy()
        numbers, texts = [], []
        for name in role.sides:
            _check_lengths(role.name, name, columns, start)
            side = _side_entries(_cut(_plain(columns[name]), longest), lengths)
            if name in self.numbers:
                numbers.append(side.cast(pl.Float64).to_numpy(writable=True))
                _reject_infinite(name, numbers[-1], lengths, start)
            else:
                texts.append(self._codes_of(name, side))
        return self._joined(role, lengths, is_missing, self._codes_of(role.item, _flattened(lists)), numbers, texts)

    def _joined(
        self,
        role: Role,
        lengths: np.ndarray,
        is_missing: np.ndarray,
        codes: np.ndarray,
        numbers: Sequence[np.ndarray],
        labels: Sequence[np.ndarray],
    ) -> Entries:
        """Join codes of entries with the numbers and labels of the lists beside them."""
        # in place of a missing sequence, a missing entry
        kept = np.repeat(~is_missing, lengths + is_missing)

        def widened(values: np.ndarray, filler: float) -> np.ndarray:
            found = np.full((len(kept), *values.shape[1:]), filler, dtype=values.dtype)
            found[kept] = values
            return found

        found = {"codes": widened(codes, MISSING)}
        if numbers:
            found["numbers"] = self._scaled(role, widened(np.stack(numbers, axis=1), np.nan).T)
        if labels:
            found["labels"] = widened(np.stack(labels, axis=1), MISSING)
        return Entries(offsets=offsets_of(lengths + is_missing), **found)

    def _codes_of(self, name: str, entries: pl.Series) -> np.ndarray:
        """Encode entries by the levels of an item or a list; a null is unseen."""
        texts = series_by(entries.alias("text"), text_of("text", entries.dtype))
        return np.maximum(series_by(texts, self.categories.codes_of_texts[name]).to_numpy(), UNSEEN)

    def _scaled(self, role: Role, numbers: np.ndarray) -> np.ndarray:
        """Scale the numbers (s, m) beside a sequence to (m, s)."""
        self.scales.part(_places(role.sides, self.numbers)).apply(numbers)
        if self.scales.transform != "raw":
            numbers = np.where(np.isnan(numbers), self._of_missing, numbers)
        return numbers.T.astype(self.scales.dtype)

    def scalers(self) -> dict[Form, tuple[Any, ...]]:
        """Return the map of the numbers beside each sequence."""
        return {"sequences": tuple(self.scales.part(_places(role.sides, self.numbers)) for role in self._roles)}

    def _describe(self, role: Role) -> SequenceColumn:
        sizes = [FIRST_LEVEL + len(self._levels[name]) for name in role.sides if name not in self.numbers]
        own_size = 0 if role.item != role.name else FIRST_LEVEL + len(self._levels[role.name])
        return SequenceColumn(
            name=role.name,
            item=None if own_size else role.item,
            size=own_size,
            n_numbers=self._widths(role)[0],
            label_sizes=tuple(sizes),
            max_length=role.longest,
        )

    def _widths(self, role: Role) -> tuple[int, int]:
        """Return how many lists of numbers, and of text, lie beside a sequence."""
        n_numbers = sum(name in self.numbers for name in role.sides)
        return n_numbers, len(role.sides) - n_numbers

    @property
    def _roles(self) -> list[Role]:
        return [Role(*own) for own in zip(self.sequences, self.items, self.sides, self.longest, strict=True)]

    @property
    def _shared(self) -> tuple[str, ...]:
        """The columns of items, each once."""
        return tuple(dict.fromkeys(role.item for role in self._roles if role.item != role.name))

    @cached_property
    def _levels(self) -> dict[str, tuple[str, ...]]:
        return dict(zip(self.categories.names, self.categories.levels, strict=True))


@dataclass(frozen=True, kw_only=True)
class FlatSequences(Sequences):
    """Sequences in numbers and codes, which trees read.

    A sequence is its last entry, as a category with the levels of its items, its length, and how often it holds each
    of the most frequent entries; and if it has an item: how often it holds the row's own, and how long ago, in entries
    from the end. Numbers beside it are the last one, their mean, and the one at the newest entry that is the row's own
    item. All are NaN where a sequence is missing. Codes of an empty one are those of a missing level. Length, counts
    and means are of the entries that are read, at most ``longest``.

    Attributes
    ----------
    frequent : tuple of tuple of str
        The most frequent entries of every sequence.
    """

    name = "flat sequences"
    _of_missing = np.nan

    frequent: tuple[tuple[str, ...], ...]

    def __post_init__(self) -> None:
        super().__post_init__()
        levels, of_items = self._levels, zip(self.items, self.frequent, strict=True)
        if any(not set(own) <= set(levels[item]) for item, own in of_items):
            raise ValueError(f"frequent entries of {self.sequences[:5]} are no levels of their items")

    @classmethod
    def more(cls, roles: Sequence[Role], summary: Summary, coding: Coding) -> dict[str, Any]:
        """Return the most frequent entries."""
        least = max(coding.min_frequency, LEAST_FLAT_ROWS)
        return {"frequent": tuple(most_frequent(summary[role.name], least) for role in roles)}

    def facts(self) -> dict[str, tuple[Any, ...]]:
        """Return the items and the last entries as categories, and the numbers."""
        of_items, codes, numbers = super().facts(), self._flat_codes(), self._flat_numbers()
        return {
            "categorical": (*of_items["categorical"], *(f"{name}: last" for name, _ in codes)),
            "levels": (*of_items["levels"], *(self._levels[of] for _, of in codes)),
            "numeric": tuple(f"{name}: {part}" for name, part in numbers),
            "has_missing": (True,) * len(numbers),
            "bins": ((0.0, 1.0),) * len(numbers),
        }

    def origins(self) -> dict[Form, tuple[str, ...]]:
        """Return the column behind every feature."""
        return {
            "codes": (*self._shared, *(name for name, _ in self._flat_codes())),
            "numbers": tuple(name for name, _ in self._flat_numbers()),
        }

    def encode(self, slices: Slices, n: int) -> Parts:
        """Encode items and sequences to codes and numbers."""
        return self._in_numbers(super().encode(slices, n))

    def encode_rows(self, rows: Sequence[Mapping[str, Any]]) -> Parts:
        """Encode items and sequences of few rows."""
        return self._in_numbers(super().encode_rows(rows))

    def _in_numbers(self, parts: Parts) -> Parts:
        """Tell of encoded sequences in codes and numbers."""
        codes, numbers = [parts["codes"]], []
        for role, entries in zip(self._roles, parts["sequences"], strict=True):
            own = parts["codes"][:, self._shared.index(role.item)] if role.item != role.name else None
            of_entries, of_lists = _flat(entries, own)
            codes.append(of_entries)
            numbers += [of_lists, self._times(role, entries)]
        return {"codes": np.concatenate(codes, axis=1), "numbers": np.concatenate(numbers, axis=1)}

    def _times(self, role: Role, entries: Entries) -> np.ndarray:
        """Count the most frequent entries in every sequence, (n, L) float32; NaN where it is missing."""
        frequent, places = self._frequent[role.name], self._frequent_places[role.name]
        row, place = np.repeat(np.arange(len(entries)), entries.lengths), places[entries.codes]
        index, shape = (row * len(frequent) + place)[place >= 0], (len(entries), len(frequent))
        times = np.bincount(index, minlength=len(entries) * len(frequent)).reshape(shape).astype(np.float32)
        times[row[entries.codes == MISSING]] = np.nan
        return times

    def _flat_codes(self) -> list[tuple[str, str]]:
        """Return the columns of flat codes behind those of the items, and the columns that their levels are of."""
        return [
            pair
            for role in self._roles
            for pair in ((role.name, role.item), *((name, name) for name in role.sides if name not in self.numbers))
        ]

    def _flat_numbers(self) -> list[tuple[str, str]]:
        """Return the columns of flat numbers, and their parts."""
        found = []
        for role in self._roles:
            has_item, numbers = role.item != role.name, [name for name in role.sides if name in self.numbers]
            found += [(role.name, part) for part in (("length", "times", "ago") if has_item else ("length",))]
            found += [(name, part) for part in ("last", "mean", *["ago"] * has_item) for name in numbers]
            found += [(role.name, level) for level in self._frequent[role.name]]
        return found

    @property
    def _frequent(self) -> dict[str, tuple[str, ...]]:
        return dict(zip(self.sequences, self.frequent, strict=True))

    @cached_property
    def _frequent_places(self) -> dict[str, np.ndarray]:
        """By sequence, the place of every code among the most frequent entries; -1 of the others."""
        found = {}
        for role in self._roles:
            levels, frequent = self._levels[role.item], self._frequent[role.name]
            found[role.name] = np.full(FIRST_LEVEL + len(levels), -1)
            for k, level in enumerate(frequent):
                found[role.name][FIRST_LEVEL + levels.index(level)] = k
        return found


def _places(some: Sequence[str], names: Sequence[str]) -> list[int]:
    """Return the places of those of some names that are there."""
    return [names.index(name) for name in some if name in names]


_LENGTHS, _SAMPLE = "lengths of ", "sample"


def _inner(dtype: pl.DataType) -> pl.DataType:
    return inner_of(dtype) or pl.Null()


def _list_of(name: str, dtype: pl.DataType) -> pl.Expr:
    """Return a column as it is, or as lists that are all missing."""
    # polars casts no column of nulls to lists
    return column_of(name).cast(pl.String).str.split("") if dtype == pl.Null else column_of(name)


def _plain(lists: pl.Series) -> pl.Series:
    """Return lists or arrays as lists, under a name that is no pattern to polars."""
    return lists.alias("lists").cast(pl.List(_inner(lists.dtype)))


def _flattened(lists: pl.Series) -> pl.Series:
    # polars explodes values of pyarrow beneath a missing large list too
    return lists.drop_nulls().explode(empty_as_null=False, keep_nulls=False)


def _cut(lists: pl.Series, most: int) -> pl.Series:
    """Return the newest entries of lists."""
    longest: Any = lists.list.len().max()
    return lists if (longest or 0) <= most else lists.list.tail(most)


def _side_entries(lists: pl.Series, lengths: np.ndarray) -> pl.Series:
    """Return the entries of lists beside sequences of these lengths; nulls where a list alone is missing."""
    missing = lists.is_null().to_numpy() & (lengths > 0)
    entries = _flattened(lists)
    if not missing.any():
        return entries
    kept = np.repeat(~missing, lengths)
    places = np.cumsum(kept) - 1
    return entries.gather(pl.Series(np.where(kept, places, -1)).cast(pl.UInt32, strict=False))  # -1 is null


def _check_lengths(name: str, side: str, columns: pl.DataFrame, start: int) -> None:
    whole, own = _plain(columns[name]).list.len(), _plain(columns[side]).list.len()
    lengths = own.to_numpy()
    unequal = (np.nan_to_num(whole.to_numpy()) != lengths) & ~np.isnan(lengths)
    if unequal.any():
        row = int(unequal.argmax())
        raise _of_other_length(name, side, start + row, own[row], whole[row])


def _of_other_length(name: str, side: str, row: int, length: int, expected: int | None) -> RowError:
    return RowError(
        f"column {side!r} lies beside the sequence {name!r}, and in ",
        row,
        f", it has {length} entries where that has {'none' if expected is None else expected}: give both lists of one "
        f"length, or a null in {side!r}",
    )


def _reject_infinite(name: str, entries: np.ndarray, lengths: np.ndarray, start: int) -> None:
    infinite = np.isinf(entries)
    if infinite.any():
        row = start + int(np.searchsorted(np.cumsum(lengths), infinite.argmax(), side="right"))
        raise RowError(f"column {name!r} holds an infinite value in ", row, "; replace it by null or a finite number")


def _some_entries(lists: pl.Series) -> np.ndarray:
    """Return numbers at some places of lists, (places, rows), NaN where there is none."""
    lengths = lists.list.len().fill_null(0).cast(pl.Float64)
    frame = pl.DataFrame([lists.alias("lists"), lengths.alias("length")])
    place = [(pl.col("length") * share).floor().cast(pl.Int64) for share in _PLACES]
    some = frame.select(
        pl.col("lists").list.get(own, null_on_oob=True).cast(pl.Float64).fill_null(float("nan")).alias(str(k))
        for k, own in enumerate(place)
    )
    found = some.to_numpy().T
    return np.where(np.isfinite(found), found, np.nan)


def _counts(roles: Sequence[Role], numbers: Sequence[str], summary: Summary) -> dict[str, pl.DataFrame]:
    """Count the levels of items, those of all their sequences included, and of text beside sequences."""
    parts: dict[str, list[pl.DataFrame]] = {}
    for role in roles:
        parts.setdefault(role.item, []).append(summary[role.name])
        for name in role.sides:
            if name not in numbers:
                parts[name] = [summary[name]]
    for item in {role.item for role in roles if role.item != role.name}:
        parts[item].append(summary[item])
    return {
        name: pl.concat(own, how="vertical_relaxed").group_by("level").agg(pl.col("count").sum())
        for name, own in parts.items()
    }


def _levels(roles: Sequence[Role], numbers: Sequence[str], summary: Summary, min_frequency: int) -> Categories:
    """Learn the levels."""
    counts = _counts(roles, numbers, summary)
    none = Categories(names=tuple(counts), levels=((),) * len(counts))
    return none.extended(counts, min_frequency)


def _warn_of_cuts(roles: Sequence[Role], summary: Summary) -> None:
    """Warn of sequences that will be cut."""
    for role in roles:
        most = role.longest
        lengths = summary[_LENGTHS + role.name].drop_nulls("level")
        n_cut = int(lengths.filter(pl.col("level") > most)["count"].sum())
        if n_cut:
            warn_about(
                [role.name],
                f"{counted(n_cut, 'sequence')} of column {role.name!r} of {int(lengths['count'].sum())} have more than "
                f"{most} entries, up to {lengths['level'].max()}; the newest {most} are read: raise longest of its "
                "Sequence for more",
            )


def _flat(entries: Entries, own: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """Return codes and numbers of sequences, given the code of every row's own item (n,), if there is one."""
    lengths, ends = entries.lengths, entries.offsets[1:]
    last = np.maximum(ends - 1, 0)
    has_any, n = lengths > 0, len(entries)
    labels = entries.codes[:, None] if entries.labels is None else np.column_stack([entries.codes, entries.labels])
    codes = np.full((n, labels.shape[1]), MISSING, dtype=np.int32)
    codes[has_any] = labels[last[has_any]]
    is_missing = has_any & (codes[:, 0] == MISSING)
    numbers = np.zeros((len(entries.codes), 0), np.float32) if entries.numbers is None else entries.numbers
    found = [np.where(is_missing, np.nan, lengths)[:, None]]
    newest = np.full((n, numbers.shape[1]), np.nan)
    newest[has_any & ~is_missing] = numbers[last[has_any & ~is_missing]]
    row, is_entry = np.repeat(np.arange(n), lengths), entries.codes != MISSING
    means = [_means(row[is_entry], values[is_entry], n) for values in numbers.T]
    if own is None:
        return codes, np.column_stack([*found, newest, *means]).astype(np.float32)
    matches = np.flatnonzero((entries.codes == own[row]) & (entries.codes >= FIRST_LEVEL))
    times = np.where(is_missing, np.nan, np.bincount(row[matches], minlength=n))
    place = np.full(n, -1)
    place[row[matches]] = matches  # the newest is the last
    ago, at = np.full(n, np.nan), np.full((n, numbers.shape[1]), np.nan)
    held = place >= 0
    ago[held], at[held] = (ends - 1 - place)[held], numbers[place[held]]
    return codes, np.column_stack([*found, times, ago, newest, *means, at]).astype(np.float32)


def _means(row: np.ndarray, values: np.ndarray, n: int) -> np.ndarray:
    """Return the mean of the values of every row that are not NaN, (n,); NaN where there is none."""
    is_there = ~np.isnan(values)
    counts = np.bincount(row[is_there], minlength=n)
    with np.errstate(invalid="ignore"):
        return np.asarray(np.bincount(row[is_there], values[is_there], n) / counts)
