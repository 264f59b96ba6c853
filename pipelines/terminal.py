"""What a command says on the terminal when something is wrong: one line for a mistake, a traceback for a bug."""

from __future__ import annotations

import dis
import signal
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any, TextIO

#: Packages whose errors are about servers and databases that the user has named.
_OUTSIDE = ("mlflow", "sqlalchemy", "optuna", "psycopg", "psycopg2")


def is_mistake(error: BaseException) -> bool:
    """Whether an error is about what the user has given, so that its message is all there is to say.

    That are errors of files, of databases and servers, and those that a ``raise`` of this package made to say what is
    wrong. What numpy, torch or Python itself raise in the middle of our work is a bug.
    """
    if isinstance(error, OSError) or type(error).__module__.partition(".")[0] in _OUTSIDE:
        return True
    return isinstance(error, ValueError | TypeError | ImportError) and _is_said_by_us(error)


def one_line(error: BaseException) -> str:
    """The message of an error without line breaks."""
    return " ".join(str(error).split()) or type(error).__name__


@contextmanager
def in_order() -> Iterator[None]:
    """Say every warning inside once and in one line, and take SIGTERM for Ctrl-C, so that runs and trials are ended."""
    said: set[str] = set()

    def show(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        text = " ".join(str(message).split())
        if text not in said:
            said.add(text)
            print(f"warning: {text}", file=file or sys.stderr, flush=True)

    is_main = threading.current_thread() is threading.main_thread()
    before = warnings.showwarning, signal.signal(signal.SIGTERM, _interrupt) if is_main else None
    warnings.showwarning = show
    try:
        yield
    finally:
        warnings.showwarning = before[0]
        if is_main:
            signal.signal(signal.SIGTERM, before[1])


def _interrupt(*_: Any) -> None:
    raise KeyboardInterrupt


def _is_said_by_us(error: BaseException) -> bool:
    """Whether a ``raise`` statement of the package made the error."""
    last: TracebackType | None = error.__traceback__
    while last is not None and last.tb_next is not None:
        last = last.tb_next
    if last is None:
        return False
    frame = last.tb_frame
    raised = frame.f_code.co_code[last.tb_lasti] == dis.opmap["RAISE_VARARGS"]
    return raised and str(frame.f_globals.get("__name__", "")).partition(".")[0] == "tabmtl"
