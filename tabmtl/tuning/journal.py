"""The journal of studies: a file of one line a change, which neither a kill nor a full disk spoils."""

from __future__ import annotations

import json
import os
from io import FileIO
from pathlib import Path
from typing import Any

from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from tabmtl.tuning.locks import FileLock

_BLOCK = 4096  # bytes


class Journal(JournalStorage):
    """A journal that knows its file, and the folder beside it of what its workers hold.

    Optuna's own lock of the file outlives a worker that is killed while it writes, and holds all others up for half a
    minute; this one does not.

    Parameters
    ----------
    path : Path
    """

    def __init__(self, path: Path) -> None:
        self.folder = path.with_name(f"{path.name}.workers")
        self.folder.mkdir(parents=True, exist_ok=True)
        super().__init__(_WholeLines(path, FileLock(self.folder / "write")))


class _WholeLines(JournalFileBackend):
    """The file, to which lines are added in whole or not at all.

    Optuna's own adds to whatever is there: the line after one that was cut off, by a kill or a full disk, is glued to
    it, and no line from there on can be read again.
    """

    def __init__(self, path: Path, lock: FileLock) -> None:
        super().__init__(str(path), lock)  # type: ignore[arg-type]
        self._path, self._write_lock = path, lock

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        lines = "".join(json.dumps(log, separators=(",", ":")) + "\n" for log in logs).encode()
        self._write_lock.acquire()
        try:
            with self._path.open("ab+", buffering=0) as file:  # a buffer would be written again when it closes
                _append(file, lines)
        finally:
            self._write_lock.release()


def _append(file: FileIO, lines: bytes) -> None:
    size, end = file.seek(0, os.SEEK_END), _end_of_lines(file)
    if end < size:
        file.truncate(end)
    try:
        while lines:
            lines = lines[file.write(lines) :]
        os.fsync(file.fileno())
    except OSError as error:
        file.truncate(end)
        raise OSError(
            error.errno,
            f"{error.strerror}: the journal {file.name} takes no more lines, and keeps those that it has; make room on "
            "its disk, and go on",
        ) from error


def _end_of_lines(file: FileIO) -> int:
    """Where the last whole line ends."""
    end = file.seek(0, os.SEEK_END)
    while end:
        start = max(0, end - _BLOCK)
        file.seek(start)
        newline = file.read(end - start).rfind(b"\n")
        if newline >= 0:
            return start + newline + 1
        end = start
    return 0
