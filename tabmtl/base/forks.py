"""Forked processes: they hold the memory of their parent, but only one of its threads.

A library that has started threads in the parent waits for them in the child for ever: polars for its pool, OpenMP (of
torch and LightGBM) for its team. Without its pool, polars can do little, so calls that need it are refused; OpenMP
needs no team for one thread, so forked processes compute on one.
"""

from __future__ import annotations

import os
from contextlib import suppress
from glob import iglob
from pathlib import Path


class _Process:
    forked = False
    had_pool = False  # before its last fork
    lost_pool = False


def is_forked() -> bool:
    """Return whether this process, or one of its ancestors, was forked with this package loaded."""
    return _Process.forked


def has_pool() -> bool:
    """Return whether polars can use its threads."""
    return not _Process.lost_pool


def check_pool() -> None:
    """Raise a RuntimeError in a forked process where polars would wait for threads of the parent."""
    if not has_pool():
        raise RuntimeError(
            "this process was forked after polars had started its threads, which do not live on here, so polars would "
            "wait for ever: start processes by 'spawn' or 'forkserver', as multiprocessing.get_context('spawn') and "
            "joblib's loky do, or fork before polars is used"
        )


def count_threads(n_jobs: int | None) -> int:
    """Count the threads to compute on, as scikit-learn counts ``n_jobs``; one in a forked process."""
    from joblib import effective_n_jobs  # `import tabmtl` imports this module

    return 1 if is_forked() else effective_n_jobs(n_jobs)


def _before_a_fork() -> None:
    _Process.had_pool = any(_name_of(thread).startswith("polars-0") for thread in iglob("/proc/self/task/*/comm"))


def _name_of(thread: str) -> str:
    with suppress(OSError):  # it has ended
        return Path(thread).read_text()
    return ""


def _after_a_fork() -> None:
    _Process.forked = True
    _Process.lost_pool |= _Process.had_pool


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_a_fork, after_in_child=_after_a_fork)
