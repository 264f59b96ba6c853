"""What a command says on the terminal when something is wrong: one line for a mistake, a traceback for a bug."""

from __future__ import annotations

import dis
import re
import signal
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any, TextIO

#: Exit codes: after a mistake of the user, and after Ctrl-C.
MISTAKE, INTERRUPTED = 2, 130

#: Packages whose errors are about files, servers and databases that the user has named.
_OUTSIDE = ("mlflow", "sqlalchemy", "optuna", "polars", "psycopg", "psycopg2")

# a password may hold an @ itself
_BEFORE_HOST = re.compile(r"(://[^/:?\s]*):\S*@")
_DECLARED = re.compile(r"tasks=\{['\"](.+?)['\"]: '(\w+)'\}")  # a kind, as the functions take it
_IN_QUERY = re.compile(r"([?&][^=&\s]*(?:pass|pwd|secret|token)[^=&\s]*=)[^&#\s]*", re.IGNORECASE)


def is_mistake(error: BaseException) -> bool:
    """Whether an error is about what the user has given, so that its message is all there is to say.

    That are errors of files and of polars, of databases and servers, and those that a ``raise`` of this package made to
    say what is wrong. What numpy, torch or Python itself raise in the middle of our work is a bug.
    """
    if isinstance(error, OSError) or type(error).__module__.partition(".")[0] in _OUTSIDE:
        return True
    return isinstance(error, ValueError | TypeError | ImportError) and _is_said_by_us(error)


def one_line(said: Warning | BaseException | str) -> str:
    """A message without line breaks and passwords."""
    return without_password(" ".join(str(said).split())) or type(said).__name__


def without_password(uri: str) -> str:
    """A URI, or a text that holds one, as it may be shown and kept.

    Examples
    --------
    >>> without_password("postgresql://me:s@cret@host/runs")
    'postgresql://me:***@host/runs'
    >>> without_password("postgresql://host/runs?user=me&password=secret")
    'postgresql://host/runs?user=me&password=***'
    """
    return _IN_QUERY.sub(r"\1***", _BEFORE_HOST.sub(r"\1:***@", uri))


@contextmanager
def in_order() -> Iterator[None]:
    """Say every warning inside once and in one line, and end in order.

    SIGTERM, and the SIGHUP of a terminal that is closed, are taken for Ctrl-C, so that runs, trials and servers are
    ended; a SIGHUP that is ignored, as under nohup, is left so.
    """
    said: set[str] = set()

    def show(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        text = _DECLARED.sub(r"--target \1=\2", one_line(message))
        if text not in said:
            said.add(text)
            print(f"warning: {text}", file=file or sys.stderr, flush=True)

    is_main = threading.current_thread() is threading.main_thread()
    ends = [signal.SIGTERM, *([signal.SIGHUP] if hasattr(signal, "SIGHUP") else [])] if is_main else []
    handlers = {end: signal.getsignal(end) for end in ends if signal.getsignal(end) != signal.SIG_IGN}
    before, warnings.showwarning = warnings.showwarning, show
    try:
        for end in handlers:
            signal.signal(end, _interrupt)
        yield
    finally:
        warnings.showwarning = before
        for end, handler in handlers.items():
            signal.signal(end, handler)


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
