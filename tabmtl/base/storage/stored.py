"""Saved state, declared once: the fields of a dataclass define what is written, read and allowed in a file.

A stored dataclass is made of plain values, tuples and dicts of them, other stored dataclasses, polars frames, series
and types, `TreeText`, a `Transformer` of scikit-learn, fitted estimators of this package, and arrays, whose annotation
names type, sizes and range::

    theta: Annotated[np.ndarray, Stored("f8", "T")]

A checksum proves that a folder is whole, not who wrote it. Indices out of range read foreign memory in compiled code,
and wrong sizes fill the memory; so nothing is built before all of it fits the declaration. A dataclass checks other
rules between its fields in its ``__post_init__``.
"""

from __future__ import annotations

import hashlib
import json
import math
import reprlib
from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from dataclasses import KW_ONLY, dataclass, field, fields, is_dataclass, replace
from functools import cache
from types import UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import numpy as np
import polars as pl

from tabmtl.base.lazy import exported
from tabmtl.base.storage.lightgbm_text import TreeText
from tabmtl.base.storage.limits import bounded
from tabmtl.base.storage.named import describe_kind, is_named, kind_class
from tabmtl.base.storage.transformers import Transformer

T = TypeVar("T")

#: While a model is loaded: metrics of one's own that were given, by name, and None for one that files alone name.
own_metrics: ContextVar[dict[str, Any] | None] = ContextVar("own_metrics", default=None)
POSITIVE = math.ulp(0.0)  #: the least number above 0
_KINDS = {"": "values", "b": "booleans", "i": "whole numbers", "u": "whole numbers", "f": "numbers"}
_PLAIN = {bool: (bool,), int: (int,), float: (int, float), str: (str,), Any: (bool, int, float, str)}
_ARRAY = object()  # stands in the facts for an array


@dataclass(frozen=True, kw_only=True)
class Saved:
    """Content of a model's folder.

    Attributes
    ----------
    facts : dict
        Plain JSON values.
    arrays : dict of str to ndarray
    texts : dict of str to str
        LightGBM's text, by a plain name.
    parts : dict of str to (str, Saved)
        Fitted estimators that the model is made of, by a plain name: their class and their own content.
    kinds : dict of str to type
        Kinds of targets that the package does not have itself, by name: a file names them, and never code.
    """

    facts: dict[str, Any]
    arrays: dict[str, np.ndarray] = field(default_factory=dict)
    texts: dict[str, str] = field(default_factory=dict)
    parts: dict[str, tuple[str, Saved]] = field(default_factory=dict)
    kinds: dict[str, type] = field(default_factory=dict)

    def all_arrays(self) -> list[dict[str, np.ndarray]]:
        """Return the arrays of this model, and those of every part in it, however deep."""
        return [self.arrays, *(arrays for _, part in self.parts.values() for arrays in part.all_arrays())]


@dataclass(frozen=True)
class Stored:
    """Values that an array may hold, and the size of a tuple, a series or trees.

    Parameters
    ----------
    dtype : str, default=""
        Beginning of numpy's name of the type: "f8", or "f" for floats of all sizes; "" for any type.
    shape : str, optional
        Sizes with spaces between: numbers, and names such as "T" or "T+1", which have one value in the whole model. A
        new name in an item of a tuple or dict belongs to that item. Trees have columns, outputs, iterations and
        parameters.
    low : float, optional
        The least value. Infinity is never one.
    below : str, optional
        A size above all values.
    missing : bool, default=False
        Whether NaN is a value too.
    offsets : str, optional
        A size: values rise from 0 to it, and so give that many others to ranges.
    distinct : bool, default=False
        Whether no value of a tuple or series comes twice.
    """

    dtype: str = ""
    shape: str | None = None
    _: KW_ONLY
    low: float = -math.inf
    below: str | None = None
    missing: bool = False
    offsets: str | None = None
    distinct: bool = False


def take_apart(value: Any) -> Saved:
    """Return facts, arrays, texts and parts of a stored dataclass, by its fields' names without outer underscores.

    Raises
    ------
    TypeError, ValueError
        If an estimator in it is of a class that this package does not export, or cannot be saved by itself. The message
        names its place.
    """
    saved = Saved(facts={})
    return replace(saved, facts=_describe(value, "", saved))


def fingerprint(value: Any) -> str:
    """Return a checksum of all that a stored dataclass holds."""
    saved = take_apart(value)
    digest = hashlib.sha256(json.dumps(saved.facts, sort_keys=True).encode())
    for name, array in sorted(saved.arrays.items()):
        digest.update(f"{name} {array.dtype} {array.shape}".encode() + array.tobytes())
    return digest.hexdigest()


def put_together(cls: type[T], saved: Saved) -> T:
    """Build the stored dataclass that `take_apart` described.

    Raises
    ------
    ValueError, TypeError, LookupError, PolarsError
        If the contents differ from the declaration of its fields, or hold more.
    """
    reader = _Reader(saved)
    found = reader.read(cls, saved.facts, "", {})
    left = [*reader.arrays, *reader.texts, *reader.parts]
    if left:
        raise ValueError(f"the model declares no {left[0]}")
    return found


def _describe(value: Any, path: str, saved: Saved) -> Any:
    """Return a value as JSON; add its arrays, texts and parts to the saved ones."""
    if type(value) in _PLAIN:
        return value
    if isinstance(value, TreeText):
        saved.texts[f"trees{len(saved.texts)}"] = value
        return f"trees{len(saved.texts) - 1}"
    if hasattr(value, "__from_saved__"):
        name = f"part{len(saved.parts)}"
        saved.parts[name] = _save_part(value, path)
        return name
    if is_dataclass(value):
        value = _facts_of(value, saved)
    if isinstance(value, Mapping):
        found = {name: _describe(item, _join(path, name), saved) for name, item in value.items()}
        return {name: item for name, item in found.items() if item is not _ARRAY}
    if isinstance(value, tuple | list | pl.DataFrame):  # a frame, by its columns
        items = enumerate(value)
        return [item if type(item) in _PLAIN else _describe(item, f"{path}.{i}", saved) for i, item in items]
    if isinstance(value, np.ndarray):
        saved.arrays[path] = value
        return _ARRAY
    if isinstance(value, pl.Series):
        plain = not value.dtype.is_numeric() or value.null_count()
        values = value.to_list() if plain else value.to_numpy()
        return _describe({"name": value.name, "dtype": value.dtype, "values": values}, path, saved)
    if isinstance(value, pl.DataType):
        return [type(value).__name__, value.categories.to_list() if isinstance(value, pl.Enum) else None]
    return value


def _facts_of(value: Any, saved: Saved) -> str | dict[str, Any] | np.ndarray:
    """Return the fields of a stored dataclass by name, a kind of targets as JSON, or a transformer as bytes."""
    if isinstance(value, Transformer):
        return value.to_array()
    if is_named(value):
        return describe_kind(value, saved.kinds)
    own = {name.strip("_"): getattr(value, name) for name in _hints(value.__class__)}
    rare = getattr(value.__class__, "rare_fields", ())
    return {name: item for name, item in own.items() if name not in rare or item}


def _save_part(estimator: Any, path: str) -> tuple[str, Saved]:
    """Return the class and the content of an estimator in a model; its errors name its place."""
    name = type(estimator).__name__
    if exported(name) is not type(estimator):
        raise TypeError(
            f"{path} is a {name}, which is no class of tabmtl, so tabmtl.load could not rebuild it; save it by itself, "
            "or leave it out of the models"
        )
    try:
        return name, estimator.__saved__()
    except (TypeError, ValueError) as error:
        kind = TypeError if isinstance(error, TypeError) else ValueError
        raise kind(f"{path}: {error}") from error


class _Reader:
    """Contents of a model: the arrays, texts and parts that nobody has read yet."""

    def __init__(self, saved: Saved) -> None:
        self.arrays, self.texts, self.parts = dict(saved.arrays), dict(saved.texts), dict(saved.parts)
        self.kinds = saved.kinds

    def read(self, hint: Any, fact: Any, path: str, sizes: dict[str, int]) -> Any:
        """Read the value of an annotation, from its fact or from the arrays at its path; add new sizes."""
        kind, args, rule = _split(hint)
        if kind in (Union, UnionType):
            is_other = args[0] is str and args[1] is not type(None) and not isinstance(fact, str)
            return None if fact is None else self.read(args[is_other], fact, path, sizes)
        if kind is np.ndarray or (kind is Any and rule.dtype):
            _need(fact is _ARRAY, path, fact, "an array")
            return self._array(path, rule, sizes)
        if kind is dict and args[1] is np.ndarray:
            _need(fact == {}, path, fact, "arrays")
            names = [name for name in self.arrays if name.startswith(f"{path}.")]
            return {name.removeprefix(f"{path}."): self._array(name, rule, sizes) for name in names}
        if kind is Transformer:
            return Transformer.from_array(self._array(path, Stored("u1", "n"), {}))
        if is_named(kind):
            facts = dict(fact) if isinstance(fact, dict) else {"kind": fact}
            found = kind_class(facts.pop("kind", None), self.kinds)
            _need(issubclass(found, kind), path, fact, f"a {kind.__name__}")
            return self._dataclass(found, facts, path, sizes)
        value = self._value(kind, args, fact, path, sizes)
        if rule.shape is not None or rule.distinct:
            _check_group(value, rule, path, sizes)
        return value

    def _array(self, path: str, rule: Stored, sizes: dict[str, int]) -> np.ndarray:
        if path not in self.arrays:
            raise ValueError(f"the array {path} is missing")
        _check_array(self.arrays[path], rule, path, sizes)
        return self.arrays.pop(path)

    def _value(self, kind: Any, args: tuple[Any, ...], fact: Any, path: str, sizes: dict[str, int]) -> Any:
        if kind is Literal:
            kind = type(args[0])
            _need(fact in args, path, fact, f"one of {args}")
        if kind in _PLAIN:
            _need(_are_plain([fact], kind), path, fact, f"a value of {kind}")
            return fact
        if kind is TreeText:
            _need(fact in self.texts, path, fact, "the name of a text")
            return _trees_of(self.texts.pop(fact), path)
        if hasattr(kind, "__from_saved__"):
            _need(fact in self.parts, path, fact, "the name of a part")
            return _rebuild(kind, *self.parts.pop(fact), path)
        if kind is pl.DataType:
            return _type_of(*fact)
        if kind in (tuple, pl.DataFrame):
            _need(isinstance(fact, list | tuple), path, fact, "a list")
            if kind is tuple:
                return self._tuple(args[0] if args else Any, fact, path, sizes)
            return pl.DataFrame(self._tuple(pl.Series, fact, path, sizes))
        _need(isinstance(fact, dict), path, fact, "an object")
        if kind is pl.Series:
            return self._series(fact, path)
        if kind is dict:
            of_name = getattr(args[1], "of_name", lambda _: args[1])  # kinds of columns by their names
            items = fact.items()
            return {name: self.read(of_name(name), item, f"{path}.{name}", dict(sizes)) for name, item in items}
        return self._dataclass(kind, dict(fact), path, sizes)

    def _dataclass(self, cls: Any, facts: dict[str, Any], path: str, sizes: dict[str, int]) -> Any:
        values, facts = {}, getattr(cls, "of_before", dict)(facts)
        for attribute, hint in _hints(cls).items():
            name = attribute.strip("_")
            if name not in facts and name in getattr(cls, "later_fields", ()):
                continue
            values[attribute] = self.read(hint, facts.pop(name, _ARRAY), _join(path, name), sizes)
        for name in getattr(cls, "gone_fields", ()):
            if not facts.get(name):
                facts.pop(name, None)
            if not self.arrays.get(_join(path, name), np.ones(1)).size:
                del self.arrays[_join(path, name)]
        for name in getattr(cls, "idle_fields", ()):
            facts.pop(name, None)
            self.arrays.pop(_join(path, name), None)
        _need(not facts, path, facts, f"nothing but {[*values]}")
        return getattr(cls, "of_file", cls)(**values)

    def _tuple(self, item: Any, facts: Sequence[Any], path: str, sizes: dict[str, int]) -> tuple[Any, ...]:
        if item in _PLAIN:
            _need(_are_plain(facts, item), path, facts, f"a list of {item}")
            return tuple(facts)
        return tuple(self.read(item, fact, f"{path}.{i}", dict(sizes)) for i, fact in enumerate(facts))

    def _series(self, facts: dict[str, Any], path: str) -> pl.Series:
        dtype = _type_of(*facts["dtype"])
        if "values" in facts:
            _need(isinstance(facts["values"], list | tuple), path, facts["values"], "a list")
            return pl.Series(facts["name"], facts["values"], dtype=dtype)
        series = pl.Series(facts["name"], self._array(f"{path}.values", Stored(shape="n"), {}))
        _need(series.dtype == dtype, path, series.dtype, str(dtype))
        return series


@cache
def _hints(cls: type) -> dict[str, Any]:
    hints = get_type_hints(cls, include_extras=True)
    return {item.name: hints[item.name] for item in fields(cls)}


@cache
def _split(hint: Any) -> tuple[Any, tuple[Any, ...], Stored]:
    """Return the type of an annotation, the types in its brackets, and its declaration."""
    hint, rule = get_args(hint) if get_origin(hint) is Annotated else (hint, Stored())
    return get_origin(hint) or hint, get_args(hint), rule


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _need(fits: bool, path: str, found: Any, expected: str) -> None:
    if not fits:
        came = "nothing" if found is _ARRAY else reprlib.repr(found)
        raise ValueError(f"{path or 'the model'} holds {came}, expected {expected}")


def _are_plain(values: Sequence[Any], kind: Any) -> bool:
    """Return whether all values are of a plain type; a boolean does not count as a number."""
    allowed = _PLAIN[kind]
    return all(bool in allowed if cls is bool else issubclass(cls, allowed) for cls in set(map(type, values)))


def _type_of(name: str, categories: list[str] | None) -> pl.DataType:
    """Return the type of a column of numbers, text, booleans or categories."""
    if categories is not None:
        return pl.Enum(categories)
    cls = getattr(pl, name, None)
    if not (isinstance(cls, type) and issubclass(cls, pl.DataType)):
        raise ValueError(f"polars has no type {name!r}")
    if not (cls.is_integer() or cls.is_float() or cls in (pl.Boolean, pl.Categorical, pl.String)):
        raise ValueError(f"a column cannot be of type {name}")
    return cls()


def _rebuild(kind: Any, name: str, saved: Saved, path: str) -> Any:
    """Return the estimator of a part, by the class of this package that it names."""
    cls = exported(name)
    _need(isinstance(cls, type) and issubclass(cls, kind), path, name, f"a {kind.__name__} of tabmtl")
    with bounded(saved.all_arrays(), is_own=True):
        return cls.__from_saved__(saved)


def _trees_of(text: str, path: str) -> TreeText:
    trees = text if isinstance(text, TreeText) else TreeText(text)
    try:
        _ = trees.shape
    except ValueError as error:
        raise ValueError(f"{path} is no model of LightGBM: {error}") from error
    return trees


def _check_array(array: np.ndarray, rule: Stored, path: str, sizes: dict[str, int]) -> None:
    """Raise a ValueError for an array that its declaration does not allow."""
    if not (_fits(array.shape, rule, sizes) and array.dtype.str[1:].startswith(rule.dtype)):
        bits = f"{8 * int(rule.dtype[1:])}-bit " if rule.dtype[1:] else ""
        expected = f"{bits}{_KINDS[rule.dtype[:1]]} of shape {_named(rule, sizes)}"
        raise ValueError(f"the array {path} has type {array.dtype} and shape {array.shape}, expected {expected}")
    high = math.inf if rule.below is None else _size_of(rule.below, sizes, 0) - 1
    present = array[~np.isnan(array)] if rule.missing else array
    if present.size and not (rule.low <= present.min() and present.max() <= high and np.isfinite(present).all()):
        raise ValueError(f"the array {path} has a value that is not finite, or not in {rule.low} to {high}")
    if rule.offsets is not None:
        total = sizes.setdefault(rule.offsets, int(array[-1]))
        if array[0] != 0 or array[-1] != total or (np.diff(array) < 0).any():
            raise ValueError(f"the array {path} does not divide {total} values")


def _check_group(value: Any, rule: Stored, path: str, sizes: dict[str, int]) -> None:
    """Raise a ValueError for a tuple, a series or trees that their declaration does not allow."""
    shape = (len(value),) if isinstance(value, tuple) else tuple(value.shape)
    if not _fits(shape, rule, sizes):
        what = "columns, outputs, iterations and parameters" if isinstance(value, TreeText) else "size"
        raise ValueError(f"{path} has {what} {shape}, expected {_named(rule, sizes)}")
    if rule.distinct:
        n_distinct = value.drop_nulls().n_unique() if isinstance(value, pl.Series) else len(set(value))
        _need(n_distinct == len(value), path, value, "nothing twice")


def _fits(shape: Sequence[int], rule: Stored, sizes: dict[str, int]) -> bool:
    """Return whether a shape is the declared one; new names get their sizes from it."""
    if rule.shape is None:
        return True
    names = rule.shape.split()
    pairs = zip(names, shape, strict=False)
    return len(names) == len(shape) and all(size == _size_of(name, sizes, size) for name, size in pairs)


def _size_of(name: str, sizes: dict[str, int], found: int) -> int:
    """Return the size of a name; a new name gets the size found."""
    base, _, more = name.partition("+")
    return int(base) if base.isdigit() else sizes.setdefault(base, found - int(more or 0)) + int(more or 0)


def _named(rule: Stored, sizes: dict[str, int]) -> str:
    """Return a declared shape, with the known sizes filled in."""
    return f"({', '.join(str(sizes.get(name, name)) for name in (rule.shape or 'any').split())})"
