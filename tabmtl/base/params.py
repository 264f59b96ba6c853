"""Hyper-parameters: the rules of their fields, and their values as JSON.

A field of an estimator states its rule as its type, and `check_fields` holds all fields against their types:

>>> from dataclasses import dataclass
>>> from typing import Literal
>>> @dataclass
... class Model:
...     epochs: Count = 30
...     precision: Literal["float32", "bf16"] = "float32"
>>> check_fields(Model())
>>> check_fields(Model(epochs=0))
Traceback (most recent call last):
ValueError: epochs must be at least 1, got 0
>>> check_fields(Model(precision="bf15"))
Traceback (most recent call last):
ValueError: precision must be one of ['float32', 'bf16'], got 'bf15'; near is 'bf16'
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import fields
from difflib import get_close_matches
from functools import cache, partial
from numbers import Integral, Real
from types import MappingProxyType, NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import numpy as np

from tabmtl.base.lazy import exported
from tabmtl.base.storage.named import describe_kind, is_named, kind_class

Rule = Callable[[str, Any], None]

MOST_JOBS = 1_024  # threads that a file may ask for: where the system refuses one, OpenMP ends the process

_LIGHTGBM = ("LGBMClassifier", "LGBMRegressor")
# LightGBM's parameters, under all their names, that open files or connections when an estimator is fitted
_OPENING = (
    *("data", "data_filename", "train", "train_data", "train_data_file", "valid", "valid_data", "valid_data_file"),
    *("valid_filenames", "test", "test_data", "test_data_file", "config", "config_file", "task", "task_type"),
    *("input_model", "model_input", "model_in", "output_model", "model_output", "model_out", "snapshot_freq"),
    *("save_period", "save_binary", "is_save_binary", "is_save_binary_file", "output_result", "predict_result"),
    *("prediction_result", "predict_name", "prediction_name", "pred_name", "name_pred", "convert_model"),
    *("convert_model_file", "convert_model_language", "forcedsplits_filename", "forced_splits_filename"),
    *("forced_splits_file", "forced_splits", "fs", "forcedbins_filename", "parser_config_file", "machines", "workers"),
    *("nodes", "machine_list_filename", "machine_list_file", "machine_list", "mlist", "num_machines", "num_machine"),
    *("local_listen_port", "local_port", "port", "time_out"),
)
_JOBS = ("n_jobs", "num_threads", "num_thread", "nthread", "nthreads")
# LightGBM gets all its parameters as one line of key=value, which a blank in a value would add to
_WORD = re.compile(r"[\w.,:+\[\]-]*")
_SURROGATE = re.compile("[\ud800-\udfff]")

_LARGEST = 2**63 - 1  # of numpy's whole numbers


def is_number(value: Any) -> bool:
    """Return whether a value is a real number of Python or numpy; a boolean is not."""
    return isinstance(value, Real) and not isinstance(value, bool)


def check_count(name: str, value: int, low: int = 1, high: int = _LARGEST) -> None:
    """Raise a ValueError unless a value is a whole number from ``low`` to ``high``."""
    if not isinstance(value, Integral) or isinstance(value, bool):
        raise ValueError(f"{name} must be a whole number, got {value!r}")
    check_at_least(name, value, low)
    if value > high:
        raise ValueError(f"{name} must be at most {high}, got {value!r}")


def check_count_or_auto(name: str, value: int | str, low: int = 1) -> None:
    """Raise a ValueError unless a value is a whole number of at least ``low``, or "auto"."""
    if isinstance(value, str) and value != "auto":
        raise ValueError(f"{name} must be a whole number or 'auto', got {value!r}{near(value, ['auto'])}")
    if not isinstance(value, str):
        check_count(name, value, low)


def check_at_least(name: str, value: float, low: float) -> None:
    """Raise a ValueError unless a value is a number of at least ``low``."""
    _check_real(name, value, f"at least {low}", lambda number: number >= low)


def check_nonnegative(name: str, value: float) -> None:
    """Raise a ValueError unless a value is a finite number of at least 0."""
    check_at_least(name, value, low=0)
    if value == math.inf:
        raise ValueError(f"{name} must be finite, got {value!r}")


def check_share(name: str, value: float, *, whole: bool = False) -> None:
    """Raise a ValueError unless a value is a number between 0 and 1; with ``whole``, 1 is allowed."""
    expected = "above 0 and at most 1" if whole else "between 0 and 1"
    _check_real(name, value, expected, lambda number: 0 < number < 1 or (whole and number == 1))


def check_any_share(name: str, value: float) -> None:
    """Raise a ValueError unless a value is a number from 0 to 1."""
    _check_real(name, value, "from 0 to 1", lambda number: 0 <= number <= 1)


def check_rate(name: str, value: float) -> None:
    """Raise a ValueError unless a value is a number of at least 0 and below 1."""
    _check_real(name, value, "at least 0 and below 1", lambda number: 0 <= number < 1)


def check_positive(name: str, value: float) -> None:
    """Raise a ValueError unless a value is a finite number above 0."""
    if not is_number(value) or not 0 < value < math.inf:
        raise ValueError(f"{name} must be a finite number above 0, got {value!r}")


def check_choice(name: str, value: str, choices: Sequence[str]) -> None:
    """Raise a ValueError unless a value is one of the choices."""
    if not isinstance(value, str) or value not in choices:
        raise ValueError(f"{name} must be one of {list(choices)}, got {value!r}{near(value, choices)}")


def check_widths(name: str, value: Sequence[int], low: int = 1) -> None:
    """Raise a ValueError unless a value is a sequence of at least ``low`` layer widths."""
    if not isinstance(value, Sequence) or isinstance(value, str) or len(value) < low:
        raise ValueError(f"{name} must be a sequence of widths such as (128, 64), got {value!r}")
    for width in value:
        check_count(f"a width of {name}", width)


def check_names(name: str, value: Sequence[str]) -> None:
    """Raise a TypeError unless a value is a sequence of names of columns; a single name is not."""
    if isinstance(value, str):
        raise TypeError(f"{name} must be a sequence of columns, got {value!r}: put it in a list")
    if not hasattr(value, "__getitem__") or isinstance(value, bytes | Mapping):
        raise TypeError(f"{name} must be a sequence of columns, got {value!r}: give a list; [] names none")
    for column in value:
        if not isinstance(column, str):
            raise TypeError(f"{name} must name columns by text, got {column!r}")


def _check_real(name: str, value: Any, expected: str, holds: Callable[[Any], bool]) -> None:
    if not is_number(value):
        of = "of " if expected.startswith("at") else ""
        raise ValueError(f"{name} must be a number {of}{expected}, got {value!r}")
    if not holds(value):
        raise ValueError(f"{name} must be {expected}, got {value!r}")


def check_random_state(name: str, value: Any) -> None:
    """Raise a ValueError unless a value is a seed, a RandomState or None."""
    is_seed = isinstance(value, int | np.integer) and not isinstance(value, bool) and 0 <= value < 2**32
    if not is_seed and value is not None and not isinstance(value, np.random.RandomState):
        raise ValueError(f"{name} must be a whole number from 0 to 2**32 - 1, a RandomState or None, got {value!r}")


def check_jobs(name: str, value: Any) -> None:
    """Raise a ValueError for a number of threads that scikit-learn does not take."""
    if value is not None and (not isinstance(value, Integral) or isinstance(value, bool) or value == 0):
        raise ValueError(f"{name} must be None or a whole number other than 0, such as -1 for all, got {value!r}")


def check_callback(name: str, value: Any) -> None:
    """Raise a TypeError for a hook that cannot be called after an epoch."""
    if value is not None and not callable(value):
        raise TypeError(f"{name} must be a function of the record of an epoch, or None, got {value!r}")


def near(name: Any, known: Iterable[str]) -> str:
    """Suggest the known name nearest to an unknown one; empty if none is near."""
    found = get_close_matches(name, list(known), n=1) if isinstance(name, str) else []
    return f"; near is {found[0]!r}" if found else ""


def check_known(what: str, names: Iterable[str], known: Iterable[str], owner: str) -> None:
    """Raise a ValueError for names that are not among the known ones of an owner, such as those of the columns of X."""
    known = list(known)
    unknown = [name for name in names if name not in known]
    if unknown:
        hint = near(unknown[0], known)
        raise ValueError(f"{what} that {owner} does not have: {unknown}{hint}; {owner} has {known}")


def listed_names(what: str, value: Any) -> list[str]:
    """Return one name, or several, as a list; raise a TypeError that says what one is for anything else."""
    names = [value] if isinstance(value, str) or not isinstance(value, Iterable) else list(value)
    if not all(isinstance(name, str) for name in names):
        raise TypeError(f"{what} or a sequence of names, got {value!r}")
    return names


# Types of fields that carry a rule.
Count = Annotated[int, check_count]
BatchSize = Annotated[int | Literal["auto"], check_count_or_auto]
CountOrZero = Annotated[int, partial(check_count, low=0)]
NonNegative = Annotated[float, check_nonnegative]
Positive = Annotated[float, check_positive]
Share = Annotated[float, check_share]
WholeShare = Annotated[float, partial(check_share, whole=True)]
AnyShare = Annotated[float, check_any_share]
Rate = Annotated[float, check_rate]
Widths = Annotated[Sequence[int], check_widths]
Names = Annotated[Sequence[str], check_names]
Jobs = Annotated[int | None, check_jobs]
RandomState = Annotated[int | np.random.RandomState | None, check_random_state]


def check_fields(owner: Any) -> None:
    """Raise an error for the first field of a dataclass that its annotation does not allow; defaults are allowed.

    An annotation is a plain type, a class, ``Literal``, ``Sequence``, ``Mapping``, ``tuple``, ``Callable``, a union of
    these, or ``Annotated[type, rule]`` with a function of name and value that raises the error itself.

    Raises
    ------
    ValueError, TypeError
        The message names the field, the expected values and the value found.
    """
    for field in fields(owner):
        value = getattr(owner, field.name)
        # defaults of the package are held against their rules by its tests
        if value is not field.default or not type(owner).__module__.startswith("tabmtl."):
            _rule_of(_hints_of(type(owner))[field.name])(field.name, value)  # type: ignore[arg-type]


@cache
def _hints_of(cls: type) -> dict[str, Any]:
    return get_type_hints(cls, include_extras=True)


def _rule_of(hint: Any) -> Rule:
    origin, args = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return hint.__metadata__[0]
    if origin is Literal:
        return partial(check_choice, choices=args)
    some = [part for part in args if part is not NoneType]
    if origin in _UNIONS and len(some) == 1:
        rule = _rule_of(some[0])
        return lambda name, value: None if value is None else rule(name, value)
    return partial(_check_type, hint=hint)


def _check_type(name: str, value: Any, hint: Any) -> None:
    if not _accepts(hint, value):
        choices = [choice for part in get_args(hint) if get_origin(part) is Literal for choice in get_args(part)]
        raise ValueError(f"{name} must be {_expected(hint)}, got {value!r}{near(value, choices)}")


def _accepts(hint: Any, value: Any) -> bool:
    origin, args = get_origin(hint), get_args(hint)
    if origin in _UNIONS:
        return any(_accepts(part, value) for part in args)
    if origin is Literal:
        return isinstance(value, str) and value in args
    if origin is Sequence:
        is_sequence = isinstance(value, Sequence | np.ndarray) and not isinstance(value, str | bytes)
        return is_sequence and all(_accepts(args[0], item) for item in value)
    if origin is Mapping:
        return isinstance(value, Mapping) and all(
            _accepts(args[0], key) and _accepts(args[1], item) for key, item in value.items()
        )
    return _PLAIN[hint][0](value) if hint in _PLAIN else isinstance(value, origin or hint)


def _expected(hint: Any) -> str:
    """Name the values that an annotation allows."""
    origin, args = get_origin(hint), get_args(hint)
    if origin in _UNIONS:
        return " or ".join(_expected(part) for part in args)
    if origin is Literal:
        return f"one of {list(args)}" if len(args) > 1 else repr(args[0])
    if origin is Sequence:
        return f"a list, each item {_expected(args[0])}"
    if origin is Mapping:
        return f"a mapping from {_expected(args[0])} to {_expected(args[1])}"
    return _PLAIN[hint][1] if hint in _PLAIN else f"a {(origin or hint).__name__}"


_UNIONS = (Union, UnionType)
_PLAIN: dict[Any, tuple[Callable[[Any], bool], str]] = {
    bool: (lambda value: isinstance(value, bool | np.bool_), "True or False"),
    int: (lambda value: isinstance(value, Integral) and not isinstance(value, bool), "a whole number"),
    float: (lambda value: is_number(value) and math.isfinite(value), "a finite number"),
    str: (lambda value: isinstance(value, str), "text"),
    NoneType: (lambda value: value is None, "None"),
}


def to_json(name: str, value: Any) -> Any:
    """Return a hyper-parameter as JSON; a value that is not plain is tagged by its type.

    Parameters of a LightGBM estimator that would open a file or a connection are left out.

    Raises
    ------
    TypeError
        If the value is neither plain, nor a Task, nor an estimator of this package or of LightGBM.
    ValueError
        If a parameter of a LightGBM estimator holds more than one word or too many threads, or a text holds half a
        surrogate pair.
    """
    if isinstance(value, str) and _SURROGATE.search(value):
        raise ValueError(f"the parameter {name}={value!r} holds half a surrogate pair, which no file can; take it out")
    if isinstance(value, np.random.RandomState):
        return None  # a loaded model draws nothing
    if isinstance(value, np.ndarray | np.generic):
        return to_json(name, value.tolist())
    if is_named(value) or type(value) is exported("Task"):
        return _describe_target(name, value)
    if hasattr(type(value), "__from_saved__") or _is_lightgbm(value):
        return _describe_estimator(name, value)
    if isinstance(value, tuple):
        return {"tuple": [to_json(name, item) for item in value]}
    if isinstance(value, list):
        return [to_json(name, item) for item in value]
    if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        return {"dict": {to_json(name, key): to_json(f"{name}[{key!r}]", item) for key, item in value.items()}}
    if value is None or isinstance(value, bool | int | str) or (isinstance(value, float) and math.isfinite(value)):
        return value
    raise TypeError(
        f"the parameter {name}={value!r} cannot be saved without pickle; set it to a plain value "
        "(number, text, list, dict with text keys, or Task) before saving"
    )


def _describe_target(name: str, value: Any) -> dict[str, Any]:
    """Return a Task, or the kind of one, as JSON."""
    if is_named(value):
        return {"kind": to_json(name, describe_kind(value, {}))}
    return {"task": {field.name: to_json(name, getattr(value, field.name)) for field in fields(value)}}


def _describe_estimator(name: str, estimator: Any) -> dict[str, Any]:
    cls = type(estimator)
    if _is_lightgbm(estimator):
        plain = {key: item for key, item in estimator.get_params().items() if key not in _OPENING}
        _check_lightgbm(plain, name)
        return {"lightgbm": {"class": cls.__name__, "params": to_json(name, plain)}}
    if exported(cls.__name__) is not cls:
        raise TypeError(
            f"the parameter {name} is a {cls.__name__}, which is no class of tabmtl, so tabmtl.load could not rebuild "
            "it; leave it out"
        )
    params = describe_params(estimator.get_params(deep=False), estimator.__training_code__, f"{name}.")
    return {"estimator": {"class": cls.__name__, "params": params}}


def _is_lightgbm(value: Any) -> bool:
    return type(value).__module__.startswith("lightgbm.") and type(value).__name__ in _LIGHTGBM


def from_json(value: Any, kinds: Mapping[str, type] = MappingProxyType({})) -> Any:
    """Return the hyper-parameter that `to_json` described; ``kinds`` are those of targets outside of the package.

    Raises
    ------
    ValueError
        If `to_json` never described it.
    """
    if isinstance(value, list):
        return [from_json(item, kinds) for item in value]
    if not isinstance(value, dict):
        return value
    ((tag, content),) = value.items()
    if tag == "task":
        return exported("Task").of_file(**{key: from_json(item, kinds) for key, item in content.items()})
    if tag == "kind":
        facts = from_json(content, kinds) if isinstance(content, dict) else {"kind": content}
        return kind_class(facts.pop("kind"), kinds)(**facts)
    if tag == "tuple":
        return tuple(from_json(item, kinds) for item in content)
    if tag == "lightgbm" and content["class"] in _LIGHTGBM:
        import lightgbm

        params = from_json(content["params"], kinds)
        _check_lightgbm(params, "lightgbm")
        return getattr(lightgbm, content["class"])(**params)
    if tag == "estimator":
        cls = exported(content["class"])
        if not hasattr(cls, "__from_saved__"):
            raise ValueError(f"a parameter is a {content['class']!r}, which is no estimator of tabmtl")
        return read_estimator(cls, content["params"], kinds)
    if tag == "dict":
        return {key: from_json(item, kinds) for key, item in content.items()}
    raise ValueError(f"a parameter is tagged {tag!r}, which this release does not know")


def describe_params(params: Mapping[str, Any], training_code: Collection[str] = (), prefix: str = "") -> dict[str, Any]:
    """Return the hyper-parameters of an estimator as JSON, one by one, without code that only training calls.

    Parameters
    ----------
    params : mapping of str to object
    training_code : collection of str, default=()
        Names of parameters that may hold such code: a function, or a way to balance tasks.
    prefix : str, default=""
        Stands before the names in errors.

    Raises
    ------
    TypeError, ValueError
        As `to_json` does.
    """
    code = {k for k in training_code if callable(params.get(k)) or hasattr(params.get(k), "start")}
    kept = {k: v for k, v in params.items() if k not in code}
    _check_jobs(kept)
    return {name: to_json(f"{prefix}{name}", value) for name, value in kept.items()}


def read_estimator(cls: Any, described: Mapping[str, Any], kinds: Mapping[str, type]) -> Any:
    """Return an unfitted estimator of a class, with the hyper-parameters that `describe_params` described."""
    gone = getattr(cls, "__gone_params__", {})
    params = {k: from_json(value, kinds) for k, value in described.items() if k not in gone or value != gone[k]}
    _check_jobs(params)
    found = cls(**params)
    check_params(found)
    return found


def check_params(estimator: Any, name: str = "") -> None:
    """Raise an error for a bad parameter, as ``fit`` does; it begins with the name of the estimator, if it has one.

    Raises
    ------
    TypeError, ValueError
    """
    try:
        estimator.__check_params__()
    except (TypeError, ValueError) as error:
        if not name:
            raise
        kind = TypeError if isinstance(error, TypeError) else ValueError
        raise kind(f"{name}: {error}") from error


def _check_jobs(params: Mapping[str, Any]) -> None:
    for name in _JOBS:
        jobs = params.get(name)
        if jobs is not None and not (isinstance(jobs, int | np.integer) and 0 < abs(int(jobs)) <= MOST_JOBS):
            raise ValueError(f"{name} must be a whole number from 1 to {MOST_JOBS}, or negative, got {jobs!r}")


def _check_lightgbm(params: Any, where: str) -> None:
    """Refuse parameters of a LightGBM estimator that hold or would open anything but plain settings."""
    for name, value in params.items():
        if name in _OPENING or not name.isidentifier():
            raise ValueError(f"{where}: LightGBM's {name} opens files or connections, which a saved model must not")
        if not all(_WORD.fullmatch(word) for word in _words(value)):
            raise ValueError(f"{where}: LightGBM's {name} must be a number, a word or a list of them, got {value!r}")
    _check_jobs(params)


def _words(value: Any) -> Iterator[str]:
    """Collect all texts in a value, however deep."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping | list | tuple):
        for item in value.values() if isinstance(value, Mapping) else value:
            yield from _words(item)
