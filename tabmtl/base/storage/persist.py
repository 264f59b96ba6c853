"""Safe files: a model is a folder of JSON, safetensors and text, verified before anything reads it."""

from __future__ import annotations

import gzip
import hashlib
import json
import math
import re
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from importlib.metadata import version
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from safetensors.numpy import load as load_arrays
from safetensors.numpy import save as save_arrays

from tabmtl.base.lazy import exported
from tabmtl.base.storage.atomic import (
    MANIFEST,
    MOST_DEPTH,
    failed_save,
    is_part_folder,
    is_real_folder,
    is_stored_file,
    locked,
    make_folders,
    most_bytes,
    read_file,
    remove_files,
    stamp,
    sync_folder,
    walk,
    write_file,
)
from tabmtl.base.storage.limits import bounded
from tabmtl.base.storage.named import ModelFileError, kinds_by_name
from tabmtl.base.storage.stored import Saved, own_metrics

FORMAT = 2
_MOST_JSON = 128 * 2**20  # bytes
_JSON_TIMES = 5  # as much memory as arrays and trees of its size; read, it takes up to twenty times its size
_ENTRY = ("file", "bytes", "sha256")  # of a file in the manifest
_PART_ENTRY = ("folder", "sha256")  # of a part; the checksum is that of its manifest
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
_NAMES = re.compile(r"model\.json|arrays\.safetensors|trees\d+\.txt(\.gz)?")
_GZIP, _SIZE_BYTES = b"\x1f\x8b", 4  # a file of gzip begins with these bytes, and ends with the size of its content
_LONG_TEXT = 2**20  # bytes; longer ones are compressed, to a third or less


def write_folder(path: str | Path, class_name: str, saved: Saved) -> None:
    """Write a model's folder so that a reader sees the old model or the new one, never a mixture.

    New files carry their checksum in their name and stand beside the old ones; the manifest that names them is replaced
    last, and then the files of earlier models are removed, also those of a killed save. An estimator that is a part of
    the model has a whole folder of its own in this one, which `load` reads by itself too. Processes that save here at
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
    files = _lay_out(class_name, saved)
    is_new = not folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with locked(folder):
            _write_locked(folder, files)
    except OSError as error:
        if is_new:
            with suppress(OSError):
                folder.rmdir()
        raise failed_save(error, folder, sum(map(len, files.values()))) from error


def read_folder(path: str | Path, kinds: Mapping[str, type] = MappingProxyType({})) -> tuple[str, Saved]:
    """Read a model's folder; nothing is interpreted before its checksum is verified.

    Parameters
    ----------
    path : str or Path
    kinds : mapping of str to type, optional
        Kinds of targets outside of the package that the model may have, by name.

    Returns
    -------
    class_name : str
    saved : Saved

    Raises
    ------
    ModelFileError
        If the folder is missing, foreign, truncated, edited, or of another format.
    """
    folder = _named(path)
    while True:
        before = stamp(folder / MANIFEST)
        try:
            manifest = _read_manifest(folder)
            return _Reading(kinds).read(folder, manifest)
        except ModelFileError:
            # a save that ended meanwhile has removed the files of the manifest before it
            if stamp(folder / MANIFEST) == before:
                raise


def load(path: str | Path, cls: type | None = None, *, kinds: Sequence[Any] = (), metrics: Sequence[Any] = ()) -> Any:
    """Load a fitted estimator that ``save`` wrote.

    Nothing in the folder is executed: it holds JSON, safetensors, LightGBM text (compressed from a megabyte on), and a
    preprocessor as skops writes it, of types that are known to be safe, verified by checksum. A checksum does not prove
    who wrote it, so harmful content is refused too: links out of the folder, trees that end or hang LightGBM, networks
    larger than their weights, indices out of range.

    Parameters
    ----------
    path : str or Path
        Folder of the model.
    cls : type, optional
        Class of the estimator if it is not one of this package.
    kinds : sequence of type, default=()
        Classes of the kinds of targets that are not of this package. The folder names a kind, and no code.
    metrics : sequence, default=()
        Metrics of tasks that `make_task_metric` has made. The folder names them; a task whose metric is missing is
        judged by the default of its kind, with a warning.

    Returns
    -------
    estimator
        Fitted; its predictions equal those of the saved one bit for bit.

    Raises
    ------
    ModelFileError
        If the folder is missing, foreign, truncated or edited, of another class or format, or holds values that
        no model of this release has.
    TypeError
        If ``cls`` is not a class of an estimator, ``kinds`` are no classes of kinds, or ``metrics`` no metrics.
    """
    if not all(isinstance(each, str) and hasattr(each, "response_method") for each in metrics):
        raise TypeError(f"metrics must be a list of what make_task_metric gives, got {metrics!r}")
    if cls is not None and not (isinstance(cls, type) and hasattr(cls, "__from_saved__")):
        raise TypeError(f"cls must be the class of the estimator, got {cls!r}; leave it out for one of tabmtl")
    class_name, saved = read_folder(path, kinds_by_name(kinds))
    own = exported(class_name)
    cls = own if cls is None else cls
    if not hasattr(cls, "__from_saved__"):
        raise ModelFileError(
            f"{path} holds a {class_name}, which is no estimator of tabmtl; give its class: "
            f"load(path, cls={class_name})"
        )
    if cls.__name__ != class_name:
        raise ModelFileError(f"{path} holds a {class_name}, but cls is {cls.__name__}")
    what = f"{path} does not describe a {class_name} of this release: it was edited, or written by another release"
    what += "" if cls is own else " or another version of the class"
    token = own_metrics.set({str(each): each for each in metrics})
    try:
        with _as_file_error(f"{what}; save it again"), bounded(saved.all_arrays(), is_own=cls is own):
            return cls.__from_saved__(saved)
    finally:
        own_metrics.reset(token)


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


def _lay_out(class_name: str, saved: Saved, depth: int = MOST_DEPTH) -> dict[str, bytes]:
    """Return the files of a model by their paths in its folder, those of its parts first and its manifest last."""
    if depth < 0:
        raise ValueError(f"more than {MOST_DEPTH} models lie inside each other, which tabmtl.load refuses")
    laid_out: dict[str, bytes] = {}
    files, parts = {}, {}
    for name, (own, part) in saved.parts.items():
        inner = _lay_out(own, part, depth - 1)
        checksum = json.loads(inner[MANIFEST])["sha256"]
        folder = f"{name}-{checksum[:16]}"
        parts[name] = dict(zip(_PART_ENTRY, (folder, checksum), strict=True))
        laid_out |= {f"{folder}/{file}": content for file, content in inner.items()}
    for name, content in _contents_of(saved).items():
        checksum = hashlib.sha256(content).hexdigest()
        stem, _, suffix = name.partition(".")
        stored = f"{stem}-{checksum[:16]}.{suffix}"
        files[name] = dict(zip(_ENTRY, (stored, len(content), checksum), strict=True))
        laid_out[stored] = content
    manifest = {"format": FORMAT, "tabmtl": version("tabmtl"), "class": class_name, "files": files}
    manifest |= {"parts": parts} if parts else {}
    manifest["sha256"] = json_checksum(manifest)
    return laid_out | {MANIFEST: json.dumps(manifest, indent=1).encode()}


def _contents_of(saved: Saved) -> dict[str, bytes]:
    """Return what a model itself writes, by the names that its manifest has for it."""
    facts = json.dumps(saved.facts, allow_nan=False, ensure_ascii=False).encode()
    if len(facts) > _MOST_JSON:
        raise ValueError(f"there are more than {_MOST_JSON} bytes of names; use whole numbers for names")
    return {
        "model.json": facts,
        "arrays.safetensors": save_arrays({k: np.ascontiguousarray(v) for k, v in saved.arrays.items()}),
        **dict(_write_text(name, text.encode()) for name, text in saved.texts.items()),
    }


def _write_text(name: str, text: bytes) -> tuple[str, bytes]:
    """Return the name and the content of the file of a text."""
    if not _LONG_TEXT <= len(text) < 2 ** (8 * _SIZE_BYTES):  # gzip cannot declare more
        return f"{name}.txt", text
    return f"{name}.txt.gz", gzip.compress(text, compresslevel=6, mtime=0)


class _Reading:
    """One reading of a model and its parts, which together fit the memory."""

    def __init__(self, kinds: Mapping[str, type]) -> None:
        self.bytes_left, self.kinds = most_bytes(), dict(kinds)

    def read(self, folder: Path, manifest: Mapping[str, Any], depth: int = MOST_DEPTH) -> tuple[str, Saved]:
        """Return the class and the content of a model, by its manifest."""
        contents = self._read_files(folder, manifest)
        parts = {
            name: self.read(folder / stored, inner, depth - 1)
            for name, stored, inner in _read_part_manifests(folder, manifest, depth)
        }
        with _as_file_error(f"{folder} is no tabmtl model"):
            facts = _parse(contents.pop("model.json"))
            arrays = load_arrays(contents.pop("arrays.safetensors"))
            texts = {name.partition(".")[0]: self._read_text(name, content) for name, content in contents.items()}
            return manifest["class"], Saved(facts=facts, arrays=arrays, texts=texts, parts=parts, kinds=self.kinds)

    def _read_text(self, name: str, content: bytes) -> str:
        """Return the text of a file; of a compressed one, no more than it declares, which the memory must hold."""
        if not name.endswith(".gz"):
            return content.decode()
        declared = int.from_bytes(content[-_SIZE_BYTES:], "little")
        is_gzip = content.startswith(_GZIP)
        if is_gzip and declared > self.bytes_left:
            raise ValueError(f"{name} holds more than the {self.bytes_left} bytes that can be read")
        reader = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)  # of gzip's format
        text = reader.decompress(content, declared + 1) if is_gzip else b""
        if not reader.eof or reader.unused_data or len(text) != declared:
            raise ValueError(f"{name} is no file of gzip, or holds another number of bytes than it declares")
        self.bytes_left -= len(text)
        return text.decode()

    def _read_files(self, folder: Path, manifest: Mapping[str, Any]) -> dict[str, bytes]:
        """Return the verified contents of the files that a manifest names."""
        contents = {}
        with _as_file_error(f"{folder}: {MANIFEST} was edited"):
            entries = {name: tuple(entry[key] for key in _ENTRY) for name, entry in manifest["files"].items()}
        for name, (stored, size, checksum) in entries.items():
            # a name with a path in it could lead out of the folder
            if not _NAMES.fullmatch(name) or not is_stored_file(str(stored)) or type(size) is not int:
                raise ModelFileError(
                    f"{folder}: {MANIFEST} names {stored!r}, {size!r} bytes, which is no file of a model"
                )
            is_json = name == "model.json"
            times = _JSON_TIMES if is_json else 1
            most = min(self.bytes_left // times, _MOST_JSON if is_json else self.bytes_left)
            with _as_file_error(f"{folder}: {stored} cannot be read, so the model is incomplete; save it again"):
                contents[name] = read_file(folder / stored, most, size)
            self.bytes_left -= times * size
            if hashlib.sha256(contents[name]).hexdigest() != checksum:
                raise ModelFileError(f"{folder}: {stored} is truncated or was edited (its checksum differs)")
        return contents


def _read_part_manifests(
    folder: Path, manifest: Mapping[str, Any], depth: int
) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Yield name, folder and manifest of the models that a manifest names as its parts."""
    with _as_file_error(f"{folder}: {MANIFEST} was edited"):
        entries = {name: tuple(entry[key] for key in _PART_ENTRY) for name, entry in manifest.get("parts", {}).items()}
    if entries and not depth:
        raise ModelFileError(f"{folder}: more than {MOST_DEPTH} models lie inside each other, which no save writes")
    for name, (stored, checksum) in entries.items():
        # a folder under two names would be read twice, so that a small model could fill the memory
        if not is_part_folder(str(stored)) or stored.partition("-")[0] != name:
            raise ModelFileError(f"{folder}: {MANIFEST} names {stored!r} as {name!r}, which is no part of a model")
        if not is_real_folder(folder / stored):
            raise ModelFileError(
                f"{folder}: {stored} is missing, or is a link, which could lead anywhere; put a copy in its place"
            )
        inner = _read_manifest(folder / stored)
        if inner["sha256"] != checksum:
            raise ModelFileError(f"{folder}: {stored} was edited (the checksum of its {MANIFEST} differs)")
        yield name, stored, inner


def _read_manifest(folder: Path) -> dict[str, Any]:
    manifest = _parse_manifest(folder)
    # asked first: another format may count its checksum otherwise
    if manifest["format"] != FORMAT:
        raise ModelFileError(
            f"{folder} has format {manifest['format']}, written by tabmtl {manifest['tabmtl']}; this release, "
            f"{version('tabmtl')}, reads format {FORMAT}: load it with tabmtl {manifest['tabmtl']}, or fit the model "
            "again and save it"
        )
    content = {name: value for name, value in manifest.items() if name != "sha256"}
    if manifest.get("sha256") != json_checksum(content):
        raise ModelFileError(f"{folder}: {MANIFEST} was edited (its checksum differs)")
    return manifest


def _parse_manifest(folder: Path) -> dict[str, Any]:
    """Read the manifest of any tabmtl release, unverified."""
    try:
        manifest = _parse(read_file(folder / MANIFEST, _MOST_JSON))
    except OSError as error:
        if not folder.exists():
            raise ModelFileError(f"there is no folder {folder}, seen from the folder {Path.cwd()}") from error
        raise ModelFileError(f"{folder} is no tabmtl model: it has no readable {MANIFEST}") from error
    except (ValueError, RecursionError) as error:
        raise ModelFileError(f"{folder}: {MANIFEST} is truncated or was edited ({error})") from error
    if not isinstance(manifest, dict) or not {"format", "tabmtl", "class", "files"} <= manifest.keys():
        raise ModelFileError(f"{folder} is no tabmtl model: its {MANIFEST} is none of this package")
    return manifest


def _write_locked(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write files, then the manifest, then remove those of models before; or leave the folder as it was."""
    before = {name for name, is_ours in walk(folder) if is_ours}
    written: set[str] = set()
    try:
        for name in [name for name in files if name != MANIFEST]:
            make_folders(folder, name)
            written.add(name)
            write_file(folder / name, files[name])
        for place in {Path(name).parent for name in written}:
            sync_folder(folder / place)  # a manifest must not be there before its files
        write_file(folder / MANIFEST, files[MANIFEST])
    except BaseException:
        remove_files(folder, written - before)
        raise
    remove_files(folder, before - written)
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
    if not folder.exists():
        return
    try:
        _parse_manifest(folder)
    except ModelFileError as error:
        if not all(is_ours for _, is_ours in walk(folder)):
            raise FileExistsError(
                f"{folder} is not empty and holds no tabmtl model; choose another folder ({error})"
            ) from error


def json_checksum(manifest: Mapping[str, Any]) -> str:
    """Return a checksum of a manifest, whatever the order of its entries."""
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()
