"""Safe files: a model is a folder of JSON, safetensors and text, verified before anything reads it."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load as load_arrays
from safetensors.numpy import save as save_arrays

FORMAT = 1
_MANIFEST = "manifest.json"


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
    replaced last, and then files only the old manifest named are removed.

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
    old = _old_files(folder)
    folder.mkdir(parents=True, exist_ok=True)
    contents = {
        "model.json": json.dumps(saved.facts, allow_nan=False).encode(),
        "arrays.safetensors": save_arrays({k: np.ascontiguousarray(v) for k, v in saved.arrays.items()}),
        **{f"{name}.txt": text.encode() for name, text in saved.texts.items()},
    }
    files = {}
    for name, content in contents.items():
        checksum = hashlib.sha256(content).hexdigest()
        stored = f"{Path(name).stem}-{checksum[:16]}{Path(name).suffix}"
        _write_file(folder / stored, content)
        files[name] = {"file": stored, "sha256": checksum}
    manifest = {"format": FORMAT, "tabmtl": version("tabmtl"), "class": class_name, "files": files}
    manifest["sha256"] = _checksum(manifest)
    _write_file(folder / _MANIFEST, json.dumps(manifest, indent=1).encode())
    for name in old - {entry["file"] for entry in files.values()}:
        (folder / name).unlink(missing_ok=True)


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
    contents = {}
    for name, entry in manifest["files"].items():
        file = folder / Path(entry["file"]).name
        if not file.is_file():
            raise ModelFileError(
                f"{folder}: the file {file.name} is missing; the model is incomplete, save it again"
            )
        contents[name] = file.read_bytes()
        if hashlib.sha256(contents[name]).hexdigest() != entry["sha256"]:
            raise ModelFileError(f"{folder}: {file.name} is truncated or was edited (its checksum differs)")
    try:
        facts = json.loads(contents.pop("model.json"))
        arrays = load_arrays(contents.pop("arrays.safetensors"))
        texts = {name.removesuffix(".txt"): content.decode() for name, content in contents.items()}
    except (KeyError, ValueError, SafetensorError) as error:
        raise ModelFileError(f"{folder} is no tabmtl model: {error}") from error
    return manifest["class"], Saved(facts=facts, arrays=arrays, texts=texts)


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
        import tabmtl

        cls = getattr(tabmtl, class_name) if class_name in tabmtl.__all__ else None
        if not hasattr(cls, "_from_saved"):
            raise ModelFileError(
                f"{path} holds a {class_name}, which is no estimator of tabmtl; give its class: "
                f"load(path, cls={class_name})"
            )
    elif cls.__name__ != class_name:
        raise ModelFileError(f"{path} holds a {class_name}, but cls is {cls.__name__}")
    try:
        return cls._from_saved(saved)  # type: ignore[union-attr]
    except (KeyError, IndexError, TypeError, ValueError, RuntimeError) as error:
        raise ModelFileError(f"{path} does not describe a {class_name}: {error!r}") from error


def _read_manifest(folder: Path) -> dict[str, Any]:
    try:
        manifest = json.loads((folder / _MANIFEST).read_bytes())
    except OSError as error:
        raise ModelFileError(f"{folder} is no tabmtl model: it has no readable {_MANIFEST}") from error
    except ValueError as error:
        raise ModelFileError(f"{folder}: {_MANIFEST} is truncated or was edited") from error
    if not isinstance(manifest, Mapping) or "format" not in manifest:
        raise ModelFileError(f"{folder} is no tabmtl model: {_MANIFEST} has no format number")
    claimed = manifest.pop("sha256", None)
    if claimed != _checksum(manifest):
        raise ModelFileError(f"{folder}: {_MANIFEST} was edited (its checksum differs)")
    if manifest["format"] != FORMAT:
        raise ModelFileError(
            f"{folder} has format {manifest['format']}, written by tabmtl {manifest['tabmtl']}; this release reads "
            f"format {FORMAT}: load it with tabmtl {manifest['tabmtl']}"
        )
    return dict(manifest)


def _old_files(folder: Path) -> set[str]:
    """Files of the model that a save will replace."""
    if not folder.exists() or not any(folder.iterdir()):
        return set()
    if not (folder / _MANIFEST).exists():
        raise FileExistsError(f"{folder} is not empty and holds no tabmtl model; choose another folder")
    try:
        return {Path(entry["file"]).name for entry in _read_manifest(folder)["files"].values()}
    except ModelFileError:
        return set()


def _checksum(manifest: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()


def _write_file(file: Path, content: bytes) -> None:
    beside = file.with_name(f".{file.name}.{os.getpid()}")
    with beside.open("wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())
    os.replace(beside, file)
