"""Safe files: a model is a folder of JSON, safetensors and text, verified before anything reads it."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load as load_arrays
from safetensors.numpy import save as save_arrays

from tabmtl.storage.atomic import failed_save, is_part, locked, read_file, remove_files, stamp, sync_folder, write_file
from tabmtl.storage.limits import bounded
from tabmtl.storage.stored import Saved

FORMAT = 1
_MANIFEST = "manifest.json"
_MOST_JSON = 128 * 2**20  # bytes; read, they take up to twenty times the memory
_ENTRY = ("file", "bytes", "sha256")  # entries of a file in the manifest
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
_NAMES = re.compile(r"model\.json|arrays\.safetensors|trees\d+\.txt")


class ModelFileError(ValueError):
    """Error for a folder that is not a whole, untouched tabmtl model."""


def write_folder(path: str | Path, class_name: str, saved: Saved) -> None:
    """Write a model's folder so that a reader sees the old model or the new one, never a mixture.

    New files carry their checksum in their name and stand beside the old ones; the manifest that names them is replaced
    last, and then the files of earlier models are removed, also those of a killed save. Processes that save here at
    once take turns, and the last model stays. (Windows and some network file systems have no such locks: there, let one
    process at a time write.)

    Parameters
    ----------
    path : str or Path
        Folder of the model; created if it does not exist.
    class_name : str
    saved : Saved

    Raises
    ------
    FileExistsError
        If the folder holds anything other than a model of this package.
    ValueError
        If no folder can have this name.
    OSError
        If it cannot be written, for instance because the disk is full. The folder is then unchanged.
    """
    folder = Path(path)
    check_ours(folder)
    contents = {
        "model.json": json.dumps(saved.facts, allow_nan=False, ensure_ascii=False).encode(),
        "arrays.safetensors": save_arrays({k: np.ascontiguousarray(v) for k, v in saved.arrays.items()}),
        **{f"{name}.txt": text.encode() for name, text in saved.texts.items()},
    }
    if len(contents["model.json"]) > _MOST_JSON:
        raise ValueError(f"{folder}: there are more than {_MOST_JSON} bytes of names; use whole numbers for names")
    is_new = not folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with locked(folder):
            _write_locked(folder, class_name, contents)
    except OSError as error:
        if is_new:
            with suppress(OSError):
                folder.rmdir()
        raise failed_save(error, folder, sum(map(len, contents.values()))) from error


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
    folder = _named(path)
    while True:
        before = stamp(folder / _MANIFEST)
        manifest = _read_manifest(folder)
        try:
            contents = _read_files(folder, manifest)
            break
        except ModelFileError:
            # a save that ended meanwhile has removed the files of the manifest before it
            if stamp(folder / _MANIFEST) == before:
                raise
    with _as_file_error(f"{folder} is no tabmtl model"):
        facts = _parse(contents.pop("model.json"))
        arrays = load_arrays(contents.pop("arrays.safetensors"))
        texts = {name.removesuffix(".txt"): content.decode() for name, content in contents.items()}
        return manifest["class"], Saved(facts=facts, arrays=arrays, texts=texts)


def load(path: str | Path, cls: type | None = None) -> Any:
    """Load a fitted estimator that ``save`` wrote.

    Nothing in the folder is executed: it holds JSON, safetensors and LightGBM text, verified by checksum. A checksum
    does not prove who wrote it, so harmful content is refused too: links out of the folder, trees that end or hang
    LightGBM, networks larger than their weights, indices out of range.

    Parameters
    ----------
    path : str or Path
        Folder of the model.
    cls : type, optional
        Class of the estimator if it is not one of this package.

    Returns
    -------
    estimator
        Fitted; its predictions equal those of the saved one bit for bit.

    Raises
    ------
    ModelFileError
        If the folder is missing, foreign, truncated or edited, of another class or a newer format, or holds values that
        no model of this release has.
    TypeError
        If ``cls`` is not a class of an estimator.
    """
    if cls is not None and not (isinstance(cls, type) and hasattr(cls, "_from_saved")):
        raise TypeError(f"cls must be the class of the estimator, got {cls!r}; leave it out for one of tabmtl")
    class_name, saved = read_folder(path)
    own = own_class(class_name)
    cls = own if cls is None else cls
    if not hasattr(cls, "_from_saved"):
        raise ModelFileError(
            f"{path} holds a {class_name}, which is no estimator of tabmtl; give its class: "
            f"load(path, cls={class_name})"
        )
    if cls.__name__ != class_name:
        raise ModelFileError(f"{path} holds a {class_name}, but cls is {cls.__name__}")
    what = f"{path} does not describe a {class_name} of this release: it was edited, or written by another release"
    what += "" if cls is own else " or another version of the class"
    with _as_file_error(f"{what}; save it again"), bounded(saved.arrays, is_own=cls is own):
        return cls._from_saved(saved)


def own_class(name: str) -> Any:
    """Return the class that the package exports under a name; None if there is none."""
    homes = [import_module(home) for home in ("tabmtl", "tabmtl.sessions")]
    return next((getattr(home, name) for home in homes if name in home.__all__), None)


@contextmanager
def _as_file_error(what: str) -> Iterator[None]:
    """Turn any error that a foreign file causes into one kind of error."""
    try:
        yield
    except ModelFileError:
        raise
    except Exception as error:
        # the repr of a UnicodeError holds all of the text
        raise ModelFileError(f"{what}: {type(error).__name__}({error})") from error


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
    """Read the manifest of any tabmtl release, unverified."""
    try:
        manifest = _parse(read_file(folder / _MANIFEST, _MOST_JSON))
    except OSError as error:
        raise ModelFileError(f"{folder} is no tabmtl model: it has no readable {_MANIFEST}") from error
    except (ValueError, RecursionError) as error:
        raise ModelFileError(f"{folder}: {_MANIFEST} is truncated or was edited ({error})") from error
    if not isinstance(manifest, dict) or not {"format", "tabmtl", "class", "files"} <= manifest.keys():
        raise ModelFileError(f"{folder} is no tabmtl model: its {_MANIFEST} is none of this package")
    return manifest


def _read_files(folder: Path, manifest: Mapping[str, Any]) -> dict[str, bytes]:
    """Return the verified contents of the files that a manifest names."""
    contents = {}
    with _as_file_error(f"{folder}: {_MANIFEST} was edited"):
        entries = {name: tuple(entry[key] for key in _ENTRY) for name, entry in manifest["files"].items()}
    for name, (stored, size, checksum) in entries.items():
        # a name with a path in it could lead out of the folder
        if not _NAMES.fullmatch(name) or not is_part(str(stored)) or type(size) is not int:
            raise ModelFileError(f"{folder}: {_MANIFEST} names {stored!r}, {size!r} bytes, which is no file of a model")
        with _as_file_error(f"{folder}: {stored} cannot be read, so the model is incomplete; save it again"):
            contents[name] = read_file(folder / stored, _MOST_JSON if name == "model.json" else None, size)
        if hashlib.sha256(contents[name]).hexdigest() != checksum:
            raise ModelFileError(f"{folder}: {stored} is truncated or was edited (its checksum differs)")
    return contents


def _write_locked(folder: Path, class_name: str, contents: Mapping[str, bytes]) -> None:
    """Write the files, then the manifest, then remove those of models before; or leave the folder as it was."""
    before = {file.name for file in folder.iterdir()}
    files: dict[str, dict[str, Any]] = {}
    try:
        for name, content in contents.items():
            checksum = hashlib.sha256(content).hexdigest()
            stored = f"{Path(name).stem}-{checksum[:16]}{Path(name).suffix}"
            files[name] = dict(zip(_ENTRY, (stored, len(content), checksum), strict=True))
            write_file(folder / stored, content)
        manifest = {"format": FORMAT, "tabmtl": version("tabmtl"), "class": class_name, "files": files}
        manifest["sha256"] = _checksum(manifest)
        sync_folder(folder)  # a manifest must not be there before its files
        write_file(folder / _MANIFEST, json.dumps(manifest, indent=1).encode())
    except BaseException:
        remove_files(folder, {entry["file"] for entry in files.values()} - before)
        raise
    former = {name for name in before if is_part(name)}
    remove_files(folder, former - {entry["file"] for entry in files.values()})
    sync_folder(folder)


def _parse(content: bytes) -> Any:
    """Parse JSON whose numbers are finite and whose texts can be written again."""
    text = content.decode()  # json itself lets surrogates pass
    value = json.loads(text, parse_constant=_finite, parse_float=_finite)
    if _SURROGATE.search(text):
        json.dumps(value, ensure_ascii=False).encode()  # fails at half a pair, which no frame holds and no screen shows
    return value


def _finite(text: str) -> float:
    if not math.isfinite(float(text)):
        raise ValueError(f"{text} is no finite number")
    return float(text)


def _named(path: str | Path) -> Path:
    """Return a path; raise a ModelFileError for a name that no file system takes."""
    folder = Path(path)
    try:
        folder.lstat()
    except OSError:
        pass  # opening raises the error for a missing or locked one
    except ValueError as error:
        raise ModelFileError(f"no folder can be named {str(folder)!r}: {error}; take that out of the path") from error
    return folder


def check_ours(path: str | Path) -> None:
    """Refuse to write over files that are not a model of this package."""
    folder = _named(path)
    if not folder.exists() or all(is_part(file.name) for file in folder.iterdir()):
        return
    try:
        _parse_manifest(folder)
    except ModelFileError as error:
        raise FileExistsError(
            f"{folder} is not empty and holds no tabmtl model; choose another folder ({error})"
        ) from error


def _checksum(manifest: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()
