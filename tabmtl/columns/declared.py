"""What a user says of columns, by the grammar of targets: a kind by its name, perhaps with an option behind a colon.

=====================  =================  ==============================================================
text                   object             what the column holds
=====================  =================  ==============================================================
``"number"``           `Number`           numbers, or text of numbers; ``"number:,"`` has decimal commas
``"category"``         `Category`         levels; those of ``"category:S<M<L"`` have an order
``"date"``             `Date`             dates, times or durations, or text of them: ``"date:%d.%m.%Y"``
``"text"``             `Text`             free text
``"tags"``             `Tags`             lists of levels, in no order
``"vector"``           `Vector`           lists of numbers, all of one length
``"sequence"``         `Sequence`         lists in order, newest last; of ``item``: ``"sequence:item"``
``"ignore"``           `Ignore`           nothing that a model reads, such as an id
=====================  =================  ==============================================================
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import cache
from typing import Annotated, Any, ClassVar

import polars as pl

from tabmtl.base.params import near
from tabmtl.base.storage.named import own_classes
from tabmtl.columns.date_text import read_text

TEXT = (pl.String, pl.Categorical, pl.Enum)
#: Moments of which the second is of another year, and the third of another time than the first.
_MOMENTS = datetime(2024, 12, 31, 13, 45, 59), datetime(1999, 12, 31, 13, 45, 59), datetime(2024, 12, 31)


@dataclass(frozen=True)
class Declared:
    """Base of the kinds that a user may declare."""

    is_named: ClassVar[bool] = True
    name: ClassVar[str]
    #: What the column holds, for errors.
    expected: ClassVar[str]
    #: The field that a text gives behind the colon; "" for none.
    option: ClassVar[str] = ""
    #: Fields that are code, which no file keeps.
    code_fields: ClassVar[tuple[str, ...]] = ()
    #: The name of the `ColumnKind` that reads such a column.
    kind: ClassVar[str] = ""

    def __str__(self) -> str:
        value = getattr(self, self.option) if self.option else None
        value = "<".join(value) if isinstance(value, tuple) else value
        return f"{self.name}:{value}" if value not in (None, "", ".") else self.name

    def reads(self, dtype: pl.DataType) -> bool:
        """Return whether the values of a column of this type are read before its kind sees them."""
        return False

    @property
    def read_type(self) -> Any:
        """The type of what `read` gives, one of polars."""
        return pl.Float64()

    def read(self, text: pl.Expr) -> pl.Expr:
        """Return what a column of text says, null where it says nothing."""
        return text


@dataclass(frozen=True)
class Number(Declared):
    """Numbers, or text of numbers, perhaps with a sign of thousands, or of percent, which divides by 100.

    Parameters
    ----------
    decimal : {".", ","}, default="."
        Decimal sign of text. The other one, a space or an apostrophe may part thousands.

    Examples
    --------
    >>> import polars as pl
    >>> frame = pl.DataFrame({"price": ["1.234,5", "12 %", None]})
    >>> frame.select(Number(decimal=",").read(pl.col("price"))).to_series().to_list()
    [1234.5, 0.12, None]
    """

    name = "number"
    kind = "numbers"
    expected = "numbers, booleans or text of numbers"
    option = "decimal"

    decimal: str = "."

    def __post_init__(self) -> None:
        if self.decimal not in (".", ","):
            raise ValueError(f"decimal must be '.' or ',', got {self.decimal!r}")

    def reads(self, dtype: pl.DataType) -> bool:
        """Return whether it is text."""
        return dtype in TEXT

    def read(self, text: pl.Expr) -> pl.Expr:
        """Return the numbers."""
        sign = re.escape(self.decimal)
        others = "[ '\u00a0\u202f" + ("," if self.decimal == "." else ".") + "]"
        text = text.str.strip_chars()
        plain = text.str.strip_chars_end("% \u00a0\u202f")
        is_grouped = plain.str.contains(rf"^[+-]?\d{{1,3}}({others}\d{{3}})+({sign}\d*)?$")
        plain = pl.when(is_grouped).then(plain.str.replace_all(others, "")).otherwise(plain)
        is_number = plain.str.contains(rf"^[+-]?(\d+({sign}\d*)?|{sign}\d+)([eE][+-]?\d+)?$")
        found = pl.when(is_number).then(plain.str.replace(self.decimal, ".", literal=True)).cast(pl.Float64)
        return pl.when(text.str.ends_with("%")).then(found * 0.01).otherwise(found)


@dataclass(frozen=True)
class Category(Declared):
    """Levels: text, booleans or whole numbers.

    Parameters
    ----------
    order : tuple of str, or text, default=()
        All levels from the lowest on, or one text as in ``"S<M<L"``. Models then read their place as a number, and
        another level is an error; without it, each level is learned by itself.
    """

    name = "category"
    expected = "text, booleans or whole numbers"
    option = "order"

    order: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        order = self.order.split("<") if isinstance(self.order, str) else self.order
        object.__setattr__(self, "order", tuple(map(str, order)))
        if len(self.order) == 1 or len({*self.order}) < len(self.order):
            raise ValueError(f"order must have two or more levels, all different, got {self.order!r}")

    @property
    def kind(self) -> str:  # type: ignore[override]
        """Levels with an order are numbers."""
        return "numbers" if self.order else "categories"

    def reads(self, dtype: pl.DataType) -> bool:
        """Return whether the levels have an order."""
        return bool(self.order) and not (dtype.is_nested() or dtype.is_temporal())

    def read(self, text: pl.Expr) -> pl.Expr:
        """Return the place of each level."""
        return text.cast(pl.Enum(self.order), strict=False).to_physical().cast(pl.Float64)


@dataclass(frozen=True)
class Date(Declared):
    """Dates, datetimes, times or durations, or text of dates, datetimes or times.

    Parameters
    ----------
    format : str, optional
        How text is written, in the signs of ``strftime``: ``"%m/%d/%Y"``, ``"%d.%m.%Y %H:%M"`` or ``"%H:%M"``. The
        default is ISO 8601, ``2024-02-29 13:45``. With a time zone, moments are those of UTC.

    Examples
    --------
    >>> import polars as pl
    >>> pl.DataFrame({"when": ["08/27/1994"]}).select(Date(format="%m/%d/%Y").read(pl.col("when"))).item()
    datetime.date(1994, 8, 27)
    """

    name = "date"
    kind = "dates"
    expected = "dates, times, durations or text of dates"
    option = "format"

    format: str | None = None

    def __post_init__(self) -> None:
        if self.format is not None and _type_of(self.format) is None:
            raise ValueError(
                "format must tell a date or a time in the signs of strftime, such as '%m/%d/%Y' or '%d.%m.%Y %H:%M', "
                f"got {self.format!r}"
            )

    def reads(self, dtype: pl.DataType) -> bool:
        """Return whether it is text."""
        return dtype in TEXT

    @property
    def read_type(self) -> Any:
        """The type that the signs of the format tell."""
        return (None if self.format is None else _type_of(self.format)) or pl.Datetime("us")

    def read(self, text: pl.Expr) -> pl.Expr:
        """Return the dates, datetimes or times."""
        if self.format is None:
            return read_text(text, "datetimes of UTC").dt.replace_time_zone(None)
        found = text.str.strip_chars().str.strptime(self.read_type, self.format, strict=False)
        return pl.coalesce(found, read_text(text, "times")) if self.read_type == pl.Time else found


@dataclass(frozen=True)
class Text(Declared):
    """Free text, read by its words and 3-grams of letters, or by vectors that an encoder of yours makes.

    Parameters
    ----------
    encoder : callable or object with ``encode``, optional
        It gets a list of n texts, and returns an array (n, d) of finite numbers, as ``SentenceTransformer(...)`` of
        sentence-transformers does. Every `fit` encodes each distinct text once, missing ones never, and reads the
        result as a column of vectors. All columns with an encoder have the same one. `save` leaves it out, for it is
        code: a loaded model predicts after ``set_params(columns={**model.columns, "remarks": Text(encoder=...)})``.
    """

    name = "text"
    kind = "texts"
    expected = "text"
    code_fields = ("encoder",)

    encoder: Any = field(default=None, compare=False)

    def __post_init__(self) -> None:
        check_encoder(self.encoder)


@dataclass(frozen=True)
class Tags(Declared):
    """Lists of levels, in no order."""

    name = kind = "tags"
    expected = "lists of text or numbers"


@dataclass(frozen=True)
class Vector(Declared):
    """Lists of numbers, all of one length."""

    name = "vector"
    kind = "vectors"
    expected = "lists of numbers"


@dataclass(frozen=True)
class Sequence(Declared):
    """Lists in order, the newest entry last.

    Parameters
    ----------
    of : str, optional
        The column whose values the lists hold, which then share levels and embedding: networks read the history by
        attention to the item of the row. Or another sequence, beside which the list lies, of the same lengths. Without
        it, the lists have levels of their own.
    longest : int, default=50
        Entries that are read, the newest. A warning tells once how many lists are longer. The length and the counts
        that trees get are of these alone. A list beside a sequence is read as far as that one.
    """

    name = "sequence"
    kind = "sequences"
    expected = "lists of text or numbers"
    option = "of"

    of: str | None = None
    longest: int = 50

    def __post_init__(self) -> None:
        if not (self.of is None or isinstance(self.of, str)):
            raise TypeError(f"of must be the name of a column or None, got {self.of!r}")
        if isinstance(self.longest, bool) or not isinstance(self.longest, int) or self.longest < 1:
            raise ValueError(f"longest must be an integer >= 1, got {self.longest!r}")


@dataclass(frozen=True)
class Ignore(Declared):
    """A column that is no feature; X may lack it in ``predict``."""

    name = "ignore"


#: Classes by the name in a text.
DECLARED: dict[str, type[Declared]] = {
    cls.name: cls for cls in (Number, Category, Date, Text, Tags, Vector, Sequence, Ignore)
}
own_classes.update(DECLARED)


@cache
def _type_of(form: str) -> pl.DataType | None:
    """Return what text in a writing holds: dates, datetimes or times; None where it tells neither, or not all of it."""
    try:
        texts = pl.Series(_MOMENTS).dt.replace_time_zone("UTC").dt.strftime(form)
        has_day, has_clock = texts[1] != texts[0], texts[2] != texts[0]
        zone = "UTC" if re.search("%[:#]?z", form) else None
        found = (pl.Datetime("us", zone) if has_clock or zone else pl.Date()) if has_day else pl.Time()
        is_read = texts.str.strptime(found, form, strict=False).is_not_null().all()
    except (TypeError, pl.exceptions.PolarsError):
        return None
    return found if is_read and (has_day or has_clock) else None


def check_encoder(value: Any) -> None:
    """Raise a TypeError unless a value is None, a function, or an object with a method ``encode``."""
    if value is not None and (isinstance(value, str | bytes | type) or function_of(value) is None):
        raise TypeError(
            "encoder must be a function from a list of n texts to an array (n, d), such as encoder.transform, or an "
            f"object with such a method encode, such as SentenceTransformer('name'), got {value!r:.200}"
        )


def function_of(encoder: Any) -> Any:
    """Return the function of an encoder of text; None if it is none."""
    encode = getattr(encoder, "encode", None)
    if callable(encode):
        return encode
    return encoder if callable(encoder) else None


def find_declared(text: str) -> Declared:
    """Return the kind of columns that a text declares: its name, and perhaps an option behind a colon.

    Raises
    ------
    ValueError
        If there is no such kind, or it does not take the option.

    Examples
    --------
    >>> find_declared("category:S<M<L")
    Category(order=('S', 'M', 'L'))
    """
    name, colon, option = text.partition(":")
    if name not in DECLARED:
        raise ValueError(f"a column is one of {[*DECLARED]}, got {text!r}{near(name, DECLARED)}")
    cls = DECLARED[name]
    if colon and not cls.option:
        raise ValueError(f"{name!r} takes nothing behind a colon, got {text!r}")
    return cls(**{cls.option: option}) if colon else cls()


def declare(columns: Mapping[str, Any] | None) -> dict[str, Declared]:
    """Return the kinds of columns that a user declares, by name.

    Raises
    ------
    ValueError, TypeError
        If a declaration is none; the message names the column.
    """
    if columns is not None:
        _check_mapping("columns", columns)
    found = {}
    for name, said in (columns or {}).items():
        try:
            found[name] = find_declared(said) if isinstance(said, str) else said
        except ValueError as error:
            raise ValueError(f"columns[{name!r}]: {error}") from None
        if not isinstance(found[name], Declared):
            cure = f"; write {said.__name__}()" if isinstance(said, type) else ""
            raise TypeError(
                f"columns[{name!r}] must be a kind of tabmtl.columns, such as Date(format='%d.%m.%Y'), or its text, "
                f"such as 'category', got {said!r:.200}{cure}"
            )
    return found


def check_declared(name: str, value: Any) -> None:
    """Raise an error unless a value is None, or maps names of columns to kinds, all with one encoder of text."""
    if value is not None:
        _check_mapping(name, value)
        encoder_of(value)


def _check_mapping(name: str, value: Any) -> None:
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        raise TypeError(
            f"{name} must map names of columns to kinds, such as {{'zip': 'category'}}, got {value!r:.200}; columns of "
            "an array are named 'x0', 'x1' and so on"
        )


DeclaredColumns = Annotated[Mapping[str, str | Declared] | None, check_declared]


def encoder_of(columns: Mapping[str, Any] | None) -> Any:
    """Return the encoder of all texts that have one; None if none has.

    Raises
    ------
    ValueError
        If two columns have different ones.
    """
    several = {name: own.encoder for name, own in declare(columns).items() if isinstance(own, Text)}
    found = {name: own for name, own in several.items() if own is not None}
    first = next(iter(found.values()), None)
    other = [name for name, own in found.items() if own is not first]
    if other:
        raise ValueError(
            f"the columns {[next(iter(found)), other[0]]} have two encoders of text; give one object to both, or make "
            "vectors of one of them, and declare it 'vector'"
        )
    return first


def ignored(columns: Mapping[str, Any] | None) -> tuple[str, ...]:
    """Return the columns that are no features."""
    return tuple(name for name, own in declare(columns).items() if isinstance(own, Ignore))
