"""Messages between the processes of a group: JSON and arrays, so that nothing a stranger sends is run.

A message is a mark, the length of its JSON, the JSON, and the bytes of its arrays one after the other. It holds plain
values, lists, tuples, dicts, arrays of numpy, tensors, and frames and series of polars. The JSON has the type and the
shape of every array; all but plain values and lists are objects of one key there, which names their kind.
"""

from __future__ import annotations

import json
import math
import reprlib
from typing import Any

import numpy as np
import polars as pl

_MARK = b"tabmtl 1"
_HEAD = len(_MARK) + 8  # bytes before the JSON; the last eight are its length
_SHOWN = 200  # characters of a reason in an error
_KINDS = "biuf"  # of arrays: booleans and numbers
_PLAIN = {type(None), bool, int, float, str}
# of reading what `pack` has not written; those of polars are many
_MISTAKES = (
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    ArithmeticError,
    RuntimeError,
    pl.exceptions.PolarsError,
)
_TIMES = {"Datetime": pl.Datetime, "Duration": pl.Duration}  # types of columns that have parameters
_COLUMNS = {
    str(dtype): dtype
    for dtype in (
        *(pl.Int8(), pl.Int16(), pl.Int32(), pl.Int64(), pl.Int128()),
        *(pl.UInt8(), pl.UInt16(), pl.UInt32(), pl.UInt64(), pl.Float32(), pl.Float64()),
        *(pl.Boolean(), pl.String(), pl.Binary(), pl.Date(), pl.Time(), pl.Categorical(), pl.Null()),
    )
}


def pack(value: Any) -> np.ndarray:
    """Return a value as the bytes of a message, (n,) uint8.

    Raises
    ------
    TypeError
        If it holds what no message can; this names the type.
    """
    arrays: list[np.ndarray] = []
    described = _describe(value, arrays)
    content = {"value": described, "arrays": [[array.dtype.str, array.shape] for array in arrays]}
    text = json.dumps(content).encode()
    head = np.frombuffer(_MARK + len(text).to_bytes(8, "little") + text, dtype=np.uint8)
    return np.concatenate([head, *(array.reshape(-1).view(np.uint8) for array in arrays)])


def unpack(message: np.ndarray, source: str) -> Any:
    """Return the value of a message; ``source`` names its sender in errors.

    Raises
    ------
    ValueError
        If `pack` wrote no such message.
    """
    try:
        return _read(message)
    except _MISTAKES as error:
        begin, reason = message[:_HEAD].tobytes(), " ".join(str(error).split())
        raise ValueError(
            f"{source} sent no message of tabmtl, but {len(message)} bytes that begin with {begin!r} "
            f"({reason:.{_SHOWN}}); run one version of tabmtl in all processes, and let nobody else reach their ports"
        ) from error


def _read(message: np.ndarray) -> Any:
    begin = message[:_HEAD].tobytes()
    size = int.from_bytes(begin[len(_MARK) :], "little")
    if len(begin) < _HEAD or not begin.startswith(_MARK) or size > len(message) - _HEAD:
        raise ValueError("their beginning is another")
    content = json.loads(message[_HEAD : _HEAD + size].tobytes())
    arrays, start = [], _HEAD + size
    for name, shape in content["arrays"]:
        dtype = np.dtype(name)
        if dtype.kind not in _KINDS or any(type(n) is not int or n < 0 for n in shape):
            raise ValueError(f"they announce an array of type {reprlib.repr(name)} and shape {reprlib.repr(shape)}")
        stop = start + dtype.itemsize * math.prod(shape)
        if stop > len(message):
            raise ValueError("they end within an array")
        arrays.append(message[start:stop].copy().view(dtype).reshape(shape))
        start = stop
    if start != len(message):
        raise ValueError("they go on behind the last array")
    return _build(content["value"], arrays)


def _describe(value: Any, arrays: list[np.ndarray]) -> Any:
    """Return a value as JSON, and add its arrays to the others."""
    if type(value) in _PLAIN:
        return value
    if isinstance(value, str):
        return str(value)
    if isinstance(value, list):
        return value if _are_plain(value) else [_describe(item, arrays) for item in value]
    if isinstance(value, tuple):
        return {"tuple": _describe(list(value), arrays)}
    if isinstance(value, dict):
        return {"dict": [[_describe(key, arrays), _describe(item, arrays)] for key, item in value.items()]}
    return _describe_data(value, arrays)


def _describe_data(value: Any, arrays: list[np.ndarray]) -> dict[str, Any]:
    if isinstance(value, np.ndarray | np.generic) and value.dtype.kind in _KINDS:
        return {"array" if isinstance(value, np.ndarray) else "scalar": _add(np.asarray(value), arrays)}
    if isinstance(value, bytes):
        return {"bytes": _add(np.frombuffer(value, dtype=np.uint8), arrays)}
    if isinstance(value, pl.DataFrame):
        return {"frame": [_describe(series, arrays) for series in value.iter_columns()]}
    if isinstance(value, pl.Series):
        return {"series": _describe_series(value, arrays)}
    if hasattr(value, "detach"):  # a tensor; numpy does not know all of torch's types
        import torch

        own = value.detach().cpu().contiguous()
        content = _add(own.reshape(-1).view(torch.uint8).numpy(), arrays)
        return {"tensor": [str(own.dtype).removeprefix("torch."), list(own.shape), content]}
    kind = f"an array of type {value.dtype}" if isinstance(value, np.ndarray) else f"a {type(value).__name__}"
    raise TypeError(
        f"{kind} cannot be sent to other processes; send plain values, lists, tuples, dicts, arrays of numbers and "
        "frames of polars"
    )


def _add(array: np.ndarray, arrays: list[np.ndarray]) -> int:
    arrays.append(np.asarray(array, order="C"))
    return len(arrays) - 1


def _are_plain(values: list[Any]) -> bool:
    return set(map(type, values)) <= _PLAIN


def _describe_series(series: pl.Series, arrays: list[np.ndarray]) -> list[Any]:
    """Return name, type and values of a column."""
    dtype = series.dtype
    described: Any = str(dtype)
    if isinstance(dtype, pl.Enum):
        described = {"Enum": dtype.categories.to_list()}
    elif isinstance(dtype, pl.Datetime | pl.Duration):
        described = {type(dtype).__name__: [dtype.time_unit, getattr(dtype, "time_zone", None)]}
    elif described not in _COLUMNS:
        raise TypeError(f"column {series.name!r} of type {dtype} cannot be sent to other processes; cast it to text")
    values = series.cast(pl.String) if dtype in (pl.Categorical, pl.Enum) else series.to_physical()
    is_array = dtype.is_numeric() and dtype != pl.Int128 and not series.null_count()
    return [series.name, described, _describe(values.to_numpy() if is_array else values.to_list(), arrays)]


def _build(described: Any, arrays: list[np.ndarray]) -> Any:
    """Return the value of its JSON."""
    if isinstance(described, list):
        return described if _are_plain(described) else [_build(item, arrays) for item in described]
    if not isinstance(described, dict):
        return described
    ((kind, content),) = described.items()
    if kind == "tuple":
        return tuple(_build(content, arrays))
    if kind == "dict":
        return {_build(key, arrays): _build(item, arrays) for key, item in content}
    return _build_data(kind, content, arrays)


def _build_data(kind: str, content: Any, arrays: list[np.ndarray]) -> Any:
    if kind == "array":
        return arrays[content]
    if kind == "scalar":
        return arrays[content][()]
    if kind == "bytes":
        return arrays[content].tobytes()
    if kind == "frame":
        return pl.DataFrame([_build(series, arrays) for series in content])
    if kind == "series":
        return _build_series(content, arrays)
    if kind == "tensor":
        return _build_tensor(content, arrays)
    raise ValueError(f"they hold a {reprlib.repr(kind)}")


def _build_series(content: Any, arrays: list[np.ndarray]) -> pl.Series:
    name, described, values = content
    values = _build(values, arrays)
    dtype: pl.DataType
    if isinstance(described, str):
        dtype = _COLUMNS[described]
    else:
        ((kind, options),) = described.items()
        dtype = pl.Enum(options) if kind == "Enum" else _TIMES[kind](*(part for part in options if part is not None))
    if dtype in (pl.Categorical, pl.Enum):
        return pl.Series(name, values, dtype=pl.String).cast(dtype)
    if dtype.is_temporal():
        physical = pl.Int32 if dtype == pl.Date else pl.Int64
        return pl.Series(name, values, dtype=physical).cast(dtype)
    return pl.Series(name, values, dtype=dtype)


def _build_tensor(content: Any, arrays: list[np.ndarray]) -> Any:
    import torch

    name, shape, place = content
    dtype = getattr(torch, name)
    if not isinstance(dtype, torch.dtype):
        raise TypeError(f"torch has no type {reprlib.repr(name)}")
    array = arrays[place]
    if not array.size and math.prod(shape):
        raise ValueError(f"they announce a tensor of shape {reprlib.repr(shape)} without its values")
    return torch.from_numpy(array).view(dtype).reshape(shape) if array.size else torch.empty(shape, dtype=dtype)
