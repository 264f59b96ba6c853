"""Checkpoints of a job: what a training needs to go on after an epoch, in one file that replaces the one before.

`tabmtl.scale.joined` names a folder. Inside it every fit has a number, by its order, and the network of fit 1 leaves
``fit-1.safetensors`` there: JSON in the metadata of the file, and arrays; no code. A job that is started again makes
the same fits, finds their files, and goes on after the last epoch that each holds.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Container, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from tabmtl.base.params import to_json
from tabmtl.base.ranks import Ranks, check_same
from tabmtl.base.storage.atomic import replaced, sync_folder

if TYPE_CHECKING:
    from torch import Tensor

#: Errors of what reads a file that this package has not written.
MISFITS = (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RuntimeError)

#: Numbers, texts, tensors and arrays, in dicts with text keys and in lists.
State = dict[str, Any]

_KEY = "checkpoint"  # of the JSON among the metadata
_ARRAY = "@array"  # stands for an array in the JSON
# parameters that change what is shown, how long a training takes, and where
_FREE = ("verbose", "time_limit", "n_jobs", "device", "on_epoch")
_FREE_IN_GROUPS = ("verbose", "n_jobs", "device", "on_epoch", "random_state")
_SHOWN = 60  # characters of a value in an error
_CURE = "remove it to begin anew, or put a whole copy in its place"
_LONGEST = 300  # characters of a reason in an error
_MOST = 2**53  # of a count; floats tell whole numbers apart up to it


class Checkpoint:
    """File of one fit, and what it held when the fit began.

    In a group of processes rank 0 reads and writes it, and tells the others.

    Parameters
    ----------
    file : Path
    estimator : estimator
        In its fit.
    group : Ranks
        Processes that fit together.

    Attributes
    ----------
    records : list of dict
        Records of the epochs that the fit goes on from; none if it begins.

    Raises
    ------
    ValueError
        If the file is of a fit with other parameters or by another version, or cannot be read.
    """

    def __init__(self, file: Path, estimator: Any, group: Ranks) -> None:
        self.file, self.group = file, group
        found, error = None, None
        if group.rank == 0:
            try:
                found = _read(file)
            except ValueError as caught:
                error = str(caught)
        found, error = group.gather((found, error))[0]
        if error is not None:
            raise ValueError(error)
        self._before: dict[str, Any] | None = None
        self._state: State | None = None
        if found is not None:
            self._before, self._state = found["facts"], found["state"]
        self.records = [] if self._state is None else list(self._state["history"])
        self._facts: dict[str, Any] = {}
        self.agree({"tabmtl": version("tabmtl"), **describe_params_of(estimator, _FREE)})

    def seed(self, drawn: int) -> int:
        """Return the seed that the fit began with, given one that was drawn for it now."""
        seed = drawn if self._before is None else self._before["seed"]
        self._facts["seed"] = seed
        return seed

    def agree(self, facts: Mapping[str, Any]) -> None:
        """Note facts that this fit depends on, as JSON.

        Raises
        ------
        ValueError
            If the checkpoint has others; the message names all that differ.
        """
        self._facts |= json.loads(json.dumps(dict(facts)))
        before = self._before
        if before is None:
            return
        differ = [name for name in facts if before.get(name) != self._facts[name]]
        if differ:
            told = ", ".join(
                f"{name} was {_shown(before[name])} and is {_shown(self._facts[name])}"
                if name in before
                else f"{name} is new"
                for name in differ
            )
            raise ValueError(
                f"the checkpoint {self.file} is of another training: {told}; to go on, make the same fits of the same "
                "rows in the same order; to begin anew, remove the file or name another folder"
            )

    def take(self) -> State | None:
        """Hand over the state that the fit goes on from; None if it begins."""
        state, self._state = self._state, None
        return state

    def misfit(self, error: Exception) -> ValueError:
        """Return an error for a state that does not fit the training, in spite of equal facts."""
        reason = str(error) if isinstance(error, ValueError) else f"{type(error).__name__}({error})"
        reason = " ".join(reason.split())
        return ValueError(f"the checkpoint {self.file} does not fit: {reason:.{_LONGEST}}; {_CURE}")

    def save(self, state: State) -> None:
        """Write the state of a training after an epoch, on rank 0; all of the file before it, or all of this one."""
        if self.group.rank:
            return
        arrays: dict[str, np.ndarray] = {}
        content = {"facts": self._facts, "state": _without_arrays(state, "", arrays)}
        try:
            with replaced(self.file) as beside:
                save_file(arrays, beside, metadata={_KEY: json.dumps(content)})
                with beside.open("rb") as stream:
                    os.fsync(stream.fileno())
            sync_folder(self.file.parent)
        except (OSError, SafetensorError) as error:
            error.add_note(f"in writing the checkpoint {self.file}; the one of the epoch before is whole")
            raise


class Job:
    """Folder of a job that keeps the checkpoints of its fits, and the number of its last fit."""

    def __init__(self, folder: Path, group: Ranks) -> None:
        self._folder, self._group, self._n_fits = folder, group, 0
        if group.rank == 0:
            try:
                folder.mkdir(parents=True, exist_ok=True)
            except (FileExistsError, NotADirectoryError) as error:
                raise NotADirectoryError(
                    f"checkpoint={str(folder)!r} is no folder, but a file: name a folder"
                ) from error
            for left in folder.glob(".fit-*.safetensors.*"):  # of a writer that was killed
                left.unlink(missing_ok=True)

    def checkpoint(self, estimator: Any, group: Ranks) -> Checkpoint | None:
        """Begin the next fit: return its checkpoint, or None if every process of the job makes the fit by itself."""
        self._n_fits += 1
        if group.size != self._group.size:
            return None
        return Checkpoint(self._folder / f"fit-{self._n_fits}.safetensors", estimator, group)

    def end(self) -> None:
        """Remove the files, when rank 0 is through; others do not wait for what it does last."""
        if self._group.rank == 0:
            for number in range(1, self._n_fits + 1):
                (self._folder / f"fit-{number}.safetensors").unlink(missing_ok=True)


def checksum(arrays: Sequence[np.ndarray | Tensor | None]) -> int:
    """Return a checksum of the values of some arrays."""
    total = 0
    for array in arrays:
        if array is not None:
            total = zlib.crc32(_as_array(array).data, total)
    return total


def check_like(found: Any, own: Any, path: str) -> None:
    """Check a part of a state, in which arrays are of numpy, by the same part of a training.

    Dicts have the same keys, lists the same lengths, arrays the same shapes and kinds of numbers, and other values the
    same types; whole numbers are counts.

    Raises
    ------
    ValueError
        If they differ; the message names the place, from `path` on.
    """
    if isinstance(own, Mapping):
        _need(isinstance(found, dict), path, found, "an object")
        _need(found.keys() == own.keys(), path, [*found], f"the keys {[*own]}")
        for key, item in own.items():
            check_like(found[key], item, f"{path}/{key}")
    elif isinstance(own, list | tuple):
        _need(isinstance(found, list) and len(found) == len(own), path, found, f"a list of {len(own)} values")
        for i, item in enumerate(own):
            check_like(found[i], item, f"{path}/{i}")
    elif isinstance(own, np.ndarray) or hasattr(own, "detach"):
        array = _as_array(own)
        fits = isinstance(found, np.ndarray) and (found.shape, found.dtype.kind) == (array.shape, array.dtype.kind)
        _need(fits, path, _kind_of(found), _kind_of(array))
    elif isinstance(own, bool) or own is None:
        _need(type(found) is type(own), path, found, "a boolean" if isinstance(own, bool) else "nothing")
    else:
        is_count = type(found) is int and 0 <= found <= _MOST
        _need(
            is_count or type(found) is type(own) is float,
            path,
            found,
            "a number" if isinstance(own, float) else "a count",
        )


def _need(fits: bool, path: str, found: Any, expected: str) -> None:
    if not fits:
        raise ValueError(f"{path} is {_shown(found)}, expected {expected}")


def _kind_of(value: Any) -> Any:
    return f"an array of type {value.dtype} and shape {value.shape}" if isinstance(value, np.ndarray) else value


def check_params(estimator: Any, group: Ranks) -> None:
    """Raise a ValueError if ranks of a group have other parameters, except those that one rank decides for all."""
    if group.size > 1:
        check_same(group, describe_params_of(estimator, _FREE_IN_GROUPS))


def describe_params_of(estimator: Any, free: Container[str]) -> dict[str, Any]:
    """Return the class of an estimator, and its parameters but some; of code, its name."""
    described: dict[str, Any] = {"estimator": type(estimator).__name__}
    for name, value in estimator.get_params(deep=False).items():
        if name not in free:
            try:
                described[f"the parameter {name}"] = to_json(name, value)
            except (TypeError, ValueError):
                described[f"the parameter {name}"] = getattr(value, "__qualname__", type(value).__qualname__)
    return described


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def _as_array(value: Any) -> np.ndarray:
    """Return an array, or a tensor of any device, as one block of memory."""
    return np.asarray(value.detach().cpu() if hasattr(value, "detach") else value, order="C")


def _without_arrays(value: Any, path: str, arrays: dict[str, np.ndarray]) -> Any:
    """Return a state as JSON; its arrays are put into `arrays`, and their names stand for them."""
    if isinstance(value, np.ndarray) or hasattr(value, "detach"):
        arrays[path] = _as_array(value)
        return {_ARRAY: path}
    if isinstance(value, Mapping):
        return {key: _without_arrays(item, f"{path}/{key}", arrays) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_arrays(item, f"{path}/{i}", arrays) for i, item in enumerate(value)]
    return value


def _with_arrays(value: Any, arrays: Mapping[str, np.ndarray]) -> Any:
    if isinstance(value, dict):
        if value.keys() == {_ARRAY}:
            return arrays[value[_ARRAY]]
        return {key: _with_arrays(item, arrays) for key, item in value.items()}
    return [_with_arrays(item, arrays) for item in value] if isinstance(value, list) else value


def _read(file: Path) -> State | None:
    """Read a file; None if there is none."""
    try:
        with safe_open(file, framework="numpy") as opened:
            content = json.loads(opened.metadata()[_KEY])
            names = opened.keys()
            arrays = {name: opened.get_tensor(name) for name in names}
        state = _with_arrays(content["state"], arrays)
        check_like(content["facts"]["seed"], 0, "its seed")
        _check_history(state["history"])
        return {"facts": content["facts"], "state": state}
    except FileNotFoundError:
        return None
    except (OSError, SafetensorError, *MISFITS) as error:
        reason = " ".join(f"{type(error).__name__}({error})".split())
        raise ValueError(f"the checkpoint {file} cannot be read: {reason:.{_LONGEST}}; {_CURE}") from error


def _check_history(records: Any) -> None:
    """Raise a ValueError if the records are not those of the first epochs."""
    _need(isinstance(records, list) and len(records) > 0, "its history", records, "a record of every epoch")
    for epoch, record in enumerate(records):
        where = f"its history/{epoch}"
        _need(isinstance(record, dict) and record.get("epoch") == epoch, where, record, f"the record of epoch {epoch}")
        _need(record.keys() == records[0].keys(), where, [*record], f"the keys {[*records[0]]}")
        for name, value in record.items():
            if value is not None:
                check_like(value, 0.5, f"{where}/{name}")
