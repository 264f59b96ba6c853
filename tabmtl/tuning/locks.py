"""Locks between workers, which end with the process that holds them, however it ends."""

from __future__ import annotations

import fcntl
import hashlib
import os
from pathlib import Path
from typing import Any


class FileLock:
    """Of processes and threads of one machine.

    Parameters
    ----------
    path : Path
        A file, made where it does not exist; its folder must.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: int | None = None

    def acquire(self, *, wait: bool = True) -> bool:
        """Take the lock; whether it was free, where one does not wait."""
        file = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(file)
            return False
        self._file = file
        return True

    def release(self) -> None:
        """Give the lock back, if it is held."""
        if self._file is not None:
            os.close(self._file)
            self._file = None


class PostgresLock:
    """Of the clients of a PostgreSQL database: part of a transaction, with which it ends.

    Parameters
    ----------
    engine : sqlalchemy.Engine
    name : str
        Of what is locked.
    """

    def __init__(self, engine: Any, name: str) -> None:
        self._engine = engine
        self._connection: Any = None
        self._key = int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "big", signed=True)

    def acquire(self) -> bool:
        """Take the lock, when it is free."""
        from sqlalchemy import text

        self._connection = self._engine.connect()
        self._connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": self._key})
        return True

    def release(self) -> None:
        """Give the lock back, if it is held."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None


class NoLock:
    """Where there is nothing to lock by, or nobody to lock out."""

    def acquire(self) -> bool:
        """Do nothing."""
        return True

    def release(self) -> None:
        """Do nothing."""


Lock = FileLock | PostgresLock | NoLock
