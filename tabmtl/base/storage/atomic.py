"""Whole files or none: written beside and renamed, read only inside their folder, by one writer at a time."""

from __future__ import annotations

import logging
import os
import re
import secrets
import stat
import sys
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from errno import EDQUOT, EEXIST, ENOSPC
from pathlib import Path, PurePosixPath

if sys.platform != "win32":
    import fcntl

logger = logging.getLogger(__name__)

MANIFEST = "manifest.json"
MOST_DEPTH = 4  #: of parts inside parts

# a file of a model with its checksum, and the manifest, while `write_file` writes them too
_SUM = r"[0-9a-f]{16}"
_STORED = re.compile(
    rf"\.?(model-{_SUM}\.json|arrays-{_SUM}\.safetensors|trees\d+-{_SUM}\.txt(\.gz)?)(\.\d+)?|\.manifest\.json\.\d+"
)
_PART = re.compile(rf"part\d+-{_SUM}")
_BESIDE = re.compile(r"\.(?P<name>.+)\.\d{14,19}")  # a file while `replaced` writes it


def write_file(file: Path, content: bytes) -> None:
    """Write a file beside and rename it: a reader sees the old content or the new one, and no part stays behind."""
    with replaced(file) as beside, beside.open("xb") as stream:  # "x" follows no link that somebody has put there
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())


@contextmanager
def replaced(file: Path) -> Iterator[Path]:
    """Give a path beside a file, to write to: it takes the place of the file, unless an error removes it."""
    beside = file.with_name(f".{file.name}.{secrets.randbits(60)}")
    try:
        yield beside
        os.replace(beside, file)
    except BaseException:
        with suppress(OSError):
            beside.unlink(missing_ok=True)
        raise


def remove_left(folder: Path, names: Collection[str]) -> None:
    """Remove what killed processes have left beside files of these names; nobody may be writing them now."""
    found = [(entry, _BESIDE.fullmatch(entry.name)) for entry in os.scandir(folder)]
    left = [entry for entry, match in found if match is not None and match["name"] in names]
    for entry in left:
        with suppress(OSError):
            os.unlink(entry)
    if left:
        logger.warning("removed what a killed process has left in %s: %s", folder, [entry.name for entry in left[:10]])


def read_file(file: Path, most: int | None = None, size: int | None = None) -> bytes:
    """Read a file, and refuse one that lies elsewhere.

    Parameters
    ----------
    file : Path
    most : int, optional
        Bytes that it may have; by default `most_bytes`.
    size : int, optional
        Bytes that it must have.

    Raises
    ------
    ValueError
        If it is a link, a folder or a device, or of another size. Nothing is read then.
    OSError
    """
    status = file.lstat()
    if not stat.S_ISREG(status.st_mode):
        raise ValueError(f"{file.name} is a link or no file at all, and could lead anywhere; put a copy in its place")
    most = most_bytes() if most is None else most
    if status.st_size > most:
        raise ValueError(f"{file.name} has {status.st_size} bytes, which is more than the {most} that can be read")
    if size is not None and status.st_size != size:
        raise ValueError(f"{file.name} has {status.st_size} bytes, expected {size}: it is truncated or was edited")
    return file.read_bytes()


def most_bytes() -> int:
    """Return a quarter of the machine's memory: arrays and trees take four times their size while they are read."""
    return _memory() // 4


def is_stored_file(file: str) -> bool:
    """Return whether a save gives a file this name.

    Examples
    --------
    >>> is_stored_file("trees0-0123456789abcdef.txt"), is_stored_file("model.json")
    (True, False)
    """
    return _STORED.fullmatch(file) is not None


def is_part_folder(folder: str) -> bool:
    """Return whether a save gives the folder of a part, which is a model in a model, this name."""
    return _PART.fullmatch(folder) is not None


def is_real_folder(path: Path) -> bool:
    """Return whether a folder is there, and no link to one."""
    return path.is_dir() and not path.is_symlink()


def walk(folder: Path, depth: int = MOST_DEPTH, prefix: str = "") -> Iterator[tuple[str, bool]]:
    """Yield what lies in the folder of a model and in those of its parts, which come after their files.

    Yields
    ------
    name : str
        Path in the folder, with slashes.
    is_ours : bool
        Whether a save gives a file or folder there this name; the manifest of the outer folder is left to the caller.
    """
    try:
        entries = list(folder.iterdir())
    except FileNotFoundError:  # another process has removed it
        return
    for entry in entries:
        name = prefix + entry.name
        if depth and is_part_folder(entry.name) and is_real_folder(entry):
            yield from walk(entry, depth - 1, f"{name}/")
            yield name, True
        else:
            yield name, is_stored_file(entry.name) or (prefix != "" and entry.name == MANIFEST)


def make_folders(folder: Path, file: str) -> None:
    """Make the folders around a file of a folder.

    Raises
    ------
    OSError
        If a link or a file lies in wait there.
    """
    for name in reversed(PurePosixPath(file).parents[:-1]):
        place = folder / name
        place.mkdir(exist_ok=True)
        if place.is_symlink():
            raise OSError(EEXIST, f"{name} is a link", str(place))


def remove_files(folder: Path, names: Collection[str]) -> None:
    """Remove files of a folder, and folders in it that are empty then; missing ones are skipped."""
    inner = {str(place) for name in names for place in PurePosixPath(name).parents[:-1]}
    for name in sorted({*names, *inner}, reverse=True):  # a folder comes after its files
        with suppress(OSError):  # a reader may hold it; the next save removes it
            place = folder / name
            place.rmdir() if is_real_folder(place) else place.unlink(missing_ok=True)


def stamp(file: Path) -> tuple[int, ...] | None:
    """Return a value that changes whenever a file is replaced; None without a file."""
    try:
        status = file.lstat()
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns, status.st_ctime_ns


def failed_save(error: OSError, folder: Path, size: int) -> OSError:
    """Return an OSError for a failed save: nothing changed on disk, and how to fix it."""
    cure = "give permission to write, or save to another folder"
    if error.errno in (ENOSPC, EDQUOT):
        cure = f"make room for {size:_} bytes, or save to another folder"
    what = f"the model was not saved, and the folder is unchanged: {error.strerror}; {cure}"
    return OSError(error.errno, what, str(folder))


def sync_file(file: Path) -> None:
    """Flush what others have written to a file to the disk."""
    with file.open("r+b") as stream:
        os.fsync(stream.fileno())


def sync_folder(folder: Path) -> None:
    """Flush renames in a folder to the disk, where the system can."""
    if sys.platform != "win32":
        with suppress(OSError), _opened(folder) as descriptor:
            os.fsync(descriptor)


@contextmanager
def locked(folder: Path, *, shared: bool = False, wait: bool = True) -> Iterator[bool]:
    """Keep out other processes and threads that lock this folder; the lock ends with the process that holds it.

    The folder itself is locked, so nothing stays behind. Windows, and network file systems that lock no folders, keep
    nobody out. Those who share the lock keep out only the others. Yields whether the folder is locked: without
    ``wait``, it is only if nobody else locks it.
    """
    if sys.platform == "win32":
        yield False
        return
    how = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    with _opened(folder) as descriptor:
        is_locked = False
        with suppress(OSError):
            fcntl.flock(descriptor, how if wait else how | fcntl.LOCK_NB)
            is_locked = True
        yield is_locked


@contextmanager
def _opened(folder: Path) -> Iterator[int]:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _memory() -> int:
    """Return the bytes of the machine's memory, or a terabyte if unknown."""
    try:
        found = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        found = 0
    return found if found > 0 else 2**40
