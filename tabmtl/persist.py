"""Safe files: a model is a folder of JSON, safetensors and text, verified before anything reads it."""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load as load_arrays
from safetensors.numpy import save as save_arrays

from tabmtl.schema import Task

FORMAT = 1
_LIGHTGBM = ("LGBMClassifier", "LGBMRegressor")
_MANIFEST = "manifest.json"
# what this module writes, half-written files included; all else in a folder belongs to somebody else
_OURS = re.compile(r"\.?[A-Za-z0-9]+-[0-9a-f]{16}\.(json|safetensors|txt)(\.\d+)?|\.manifest\.json\.\d+")


class ModelFileError(ValueError):
    """A folder that is no whole, untouched tabmtl model."""


@dataclass(frozen=True, kw_only=True)
class Saved:
    """What a model's folder holds.

    Attributes
    ----------
    facts : dict
        Plain JSON values.
    arrays : dict of str to ndarray
    texts : dict of str to str
        Foreign text formats, such as LightGBM's, by a plain name.
    """

    facts: dict[str, Any]
    arrays: dict[str, np.ndarray] = field(default_factory=dict)
    texts: dict[str, str] = field(default_factory=dict)


def write_folder(path: str | Path, class_name: str, saved: Saved) -> None:
    """Write a model's folder so that a reader sees the old model or the new one, never a mixture.

    New files carry their checksum in their name and stand beside the old ones; the manifest that names them is
    replaced last, and then all other files of this package are removed, those of a save that was killed among them.
    One process at a time may write to a folder.

    Parameters
    ----------
    path : str or Path
        Folder of the model; made where it does not exist.
    class_name : str
    saved : Saved

    Raises
    ------
    FileExistsError
        If the folder holds anything else than a model of this package.
    """
    folder = Path(path)
    _check_ours(folder)
    contents = {
        "model.json": json.dumps(saved.facts, allow_nan=False).encode(),
        "arrays.safetensors": save_arrays({k: np.ascontiguousarray(v) for k, v in saved.arrays.items()}),
        **{f"{name}.txt": text.encode() for name, text in saved.texts.items()},
    }
    folder.mkdir(parents=True, exist_ok=True)
    files = {}
    for name, content in contents.items():
        checksum = hashlib.sha256(content).hexdigest()
        stored = f"{Path(name).stem}-{checksum[:16]}{Path(name).suffix}"
        write_file(folder / stored, content)
        files[name] = {"file": stored, "sha256": checksum}
    manifest = {"format": FORMAT, "tabmtl": version("tabmtl"), "class": class_name, "files": files}
    manifest["sha256"] = _checksum(manifest)
    write_file(folder / _MANIFEST, json.dumps(manifest, indent=1).encode())
    kept = {entry["file"] for entry in files.values()}
    for file in folder.iterdir():
        if _OURS.fullmatch(file.name) and file.name not in kept:
            file.unlink(missing_ok=True)


def read_folder(path: str | Path) -> tuple[str, Saved]:
    """Read a model's folder; nothing is interpreted before its checksum is verified.

    Returns
    -------
    class_name : str
    saved : Saved

    Raises
    ------
    ModelFileError
        If the folder is missing, foreign, truncated, edited, or of a newer format.
    """
    folder = Path(path)
    manifest = _read_manifest(folder)
    try:
        contents = _read_files(folder, manifest)
    except ModelFileError:
        # a save that ended meanwhile has removed the files of the manifest before it
        newer = _read_manifest(folder)
        if newer == manifest:
            raise
        manifest, contents = newer, _read_files(folder, newer)
    with _as_file_error(f"{folder} is no tabmtl model"):
        facts = json.loads(contents.pop("model.json"))
        arrays = load_arrays(contents.pop("arrays.safetensors"))
        texts = {name.removesuffix(".txt"): content.decode() for name, content in contents.items()}
        return manifest["class"], Saved(facts=facts, arrays=arrays, texts=texts)


def join_parts(parts: Mapping[str, Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Arrays of several parts as one mapping: ``part.name``. A part's name has no dot."""
    return {f"{part}.{name}": array for part, arrays in parts.items() for name, array in arrays.items()}


def split_parts(arrays: Mapping[str, np.ndarray], parts: Iterable[str]) -> dict[str, dict[str, np.ndarray]]:
    """What `join_parts` joined; a part without arrays is empty."""
    found: dict[str, dict[str, np.ndarray]] = {part: {} for part in parts}
    for name, array in arrays.items():
        part, key = name.split(".", 1)
        found[part][key] = array
    return found


def load(path: str | Path, cls: type | None = None) -> Any:
    """Load a fitted estimator that ``save`` wrote.

    Nothing in the folder is executed: it holds JSON, safetensors and LightGBM text, verified by checksum.

    Parameters
    ----------
    path : str or Path
        Folder of the model.
    cls : type, optional
        Class of the estimator where it is not one of this package.

    Returns
    -------
    estimator
        Fitted; its predictions equal those of the saved one bit for bit.

    Raises
    ------
    ModelFileError
        If the folder is missing, foreign, truncated or edited, or of another class.
    """
    class_name, saved = read_folder(path)
    if cls is None:
        homes = [import_module(name) for name in ("tabmtl", "tabmtl.sessions")]
        cls = next((getattr(home, class_name) for home in homes if class_name in home.__all__), None)
        if not hasattr(cls, "_from_saved"):
            raise ModelFileError(
                f"{path} holds a {class_name}, which is no estimator of tabmtl; give its class: "
                f"load(path, cls={class_name})"
            )
    elif cls.__name__ != class_name:
        raise ModelFileError(f"{path} holds a {class_name}, but cls is {cls.__name__}")
    with _as_file_error(f"{path} does not describe a {class_name}"):
        return cls._from_saved(saved)  # type: ignore[union-attr]


def to_json(name: str, value: Any) -> Any:
    """A hyper-parameter as JSON; what is no plain value is tagged by its type.

    Raises
    ------
    TypeError
        If the value is neither plain, nor a Task, nor a LightGBM estimator.
    """
    if isinstance(value, np.random.RandomState):
        return None  # a loaded model draws nothing
    if isinstance(value, np.ndarray):
        return to_json(name, value.tolist())
    if isinstance(value, Task):
        return {"task": {field.name: to_json(name, getattr(value, field.name)) for field in fields(value)}}
    if type(value).__module__.startswith("lightgbm.") and type(value).__name__ in _LIGHTGBM:
        return {"lightgbm": {"class": type(value).__name__, "params": to_json(name, value.get_params())}}
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, tuple):
        return {"tuple": [to_json(name, item) for item in value]}
    if isinstance(value, list):
        return [to_json(name, item) for item in value]
    if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        return {"dict": {key: to_json(name, item) for key, item in value.items()}}
    if value is None or isinstance(value, bool | int | str) or (isinstance(value, float) and math.isfinite(value)):
        return value
    raise TypeError(
        f"the parameter {name}={value!r} cannot be saved without pickle; set it to a plain value "
        "(number, text, list, dict with text keys, or Task) before saving"
    )


def from_json(value: Any) -> Any:
    """The hyper-parameter that `to_json` described."""
    if isinstance(value, list):
        return [from_json(item) for item in value]
    if not isinstance(value, dict):
        return value
    ((tag, content),) = value.items()
    if tag == "task":
        return Task(**{key: from_json(item) for key, item in content.items()})
    if tag == "tuple":
        return tuple(from_json(item) for item in content)
    if tag == "lightgbm" and content["class"] in _LIGHTGBM:
        import lightgbm

        return getattr(lightgbm, content["class"])(**from_json(content["params"]))
    if tag == "dict":
        return {key: from_json(item) for key, item in content.items()}
    raise ModelFileError(f"a parameter is tagged {tag!r}, which this release does not know")


@contextmanager
def _as_file_error(what: str) -> Iterator[None]:
    """Whatever a foreign file leads to inside, the user gets one kind of error."""
    try:
        yield
    except ModelFileError:
        raise
    except Exception as error:
        raise ModelFileError(f"{what}: {error!r}") from error


def _read_manifest(folder: Path) -> dict[str, Any]:
    manifest = _parse_manifest(folder)
    # asked first: a newer format may count its checksum otherwise
    if manifest["format"] != FORMAT:
        raise ModelFileError(
            f"{folder} has format {manifest['format']}, written by tabmtl {manifest['tabmtl']}; this release reads "
            f"format {FORMAT}: load it with tabmtl {manifest['tabmtl']}"
        )
    claimed = manifest.pop("sha256", None)
    if claimed != _checksum(manifest):
        raise ModelFileError(f"{folder}: {_MANIFEST} was edited (its checksum differs)")
    return manifest


def _parse_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of any tabmtl release, unverified."""
    try:
        manifest = json.loads((folder / _MANIFEST).read_bytes())
    except OSError as error:
        raise ModelFileError(f"{folder} is no tabmtl model: it has no readable {_MANIFEST}") from error
    except (ValueError, RecursionError) as error:
        raise ModelFileError(f"{folder}: {_MANIFEST} is truncated or was edited") from error
    if not isinstance(manifest, dict) or not {"format", "tabmtl", "class", "files"} <= manifest.keys():
        raise ModelFileError(f"{folder} is no tabmtl model: its {_MANIFEST} is none of this package")
    return manifest


def _read_files(folder: Path, manifest: Mapping[str, Any]) -> dict[str, bytes]:
    """The verified contents of the files that a manifest names."""
    contents = {}
    with _as_file_error(f"{folder}: {_MANIFEST} was edited"):
        entries = {name: (entry["file"], entry["sha256"]) for name, entry in manifest["files"].items()}
    for name, (stored, checksum) in entries.items():
        # a name with a path in it could lead out of the folder
        if not _OURS.fullmatch(str(stored)):
            raise ModelFileError(f"{folder}: {_MANIFEST} names {stored!r}, which is no file of a model")
        with _as_file_error(f"{folder}: {stored} cannot be read, so the model is incomplete; save it again"):
            contents[name] = (folder / stored).read_bytes()
        if hashlib.sha256(contents[name]).hexdigest() != checksum:
            raise ModelFileError(f"{folder}: {stored} is truncated or was edited (its checksum differs)")
    return contents


def _check_ours(folder: Path) -> None:
    """Refuse to write where anything else than a model of this package lies."""
    if not folder.exists() or all(_OURS.fullmatch(file.name) for file in folder.iterdir()):
        return
    try:
        _parse_manifest(folder)
    except ModelFileError as error:
        raise FileExistsError(
            f"{folder} is not empty and holds no tabmtl model; choose another folder ({error})"
        ) from error


def _checksum(manifest: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()


def write_file(file: Path, content: bytes) -> None:
    """Write a file beside and rename it: a reader sees the old content or the new one."""
    beside = file.with_name(f".{file.name}.{os.getpid()}")
    with beside.open("wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())
    os.replace(beside, file)
