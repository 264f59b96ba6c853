"""Commands on the terminal: tables as text, warnings and errors in one line, exit codes and signals."""

from __future__ import annotations

import os
import re
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from difflib import get_close_matches
from io import TextIOWrapper
from typing import TYPE_CHECKING, Any

from tabmtl.base.schema import for_commands, text_table

if TYPE_CHECKING:
    import polars as pl

#: Exit codes: after a mistake of the user, and after Ctrl-C.
MISTAKE, INTERRUPTED = 2, 130

#: What a command shows: 0 its result and errors; 1 warnings too, and a line for every model and step; 2 the fits too.
verbosity: ContextVar[int] = ContextVar("verbosity", default=1)

_MISTAKES = (ValueError, TypeError, OSError, ImportError)

#: Packages whose errors are about the command line, and about files, servers and databases that the user has named.
_OUTSIDE = ("cyclopts", "mlflow", "sqlalchemy", "optuna", "polars", "psycopg", "psycopg2")

# a password may hold an @ itself
_BEFORE_HOST = re.compile(r"(://[^/:?\s]*):\S*@")
_IN_QUERY = re.compile(r"([?&][^=&\s]*(?:pass|pwd|secret|token)[^=&\s]*=)[^&#\s]*", re.IGNORECASE)

_MOST_ROWS = 30
_LONGEST_LINE = 3_000  # characters: an error may hold a whole file, of which a quote was not closed


def exit_code(run: Callable[[], Any], prog: str, *, traceback: bool = False) -> int:
    """Run a command, and report a mistake of the user in one line.

    Mistakes are errors of the types ValueError, TypeError, OSError and ImportError, and those of databases and servers.
    Other errors are bugs, and are raised.

    Parameters
    ----------
    run : callable
        Returns the exit code, or an object with an ``exit_code``; any other result counts as success.
    prog : str
        The command, as it begins the line.
    traceback : bool, default=False
        Raise mistakes too.

    Returns
    -------
    int
        0, `MISTAKE`, `INTERRUPTED`, or the code of the result.
    """
    _prepare_streams()
    try:
        with in_order():
            result = run()
            sys.stdout.flush()
    except KeyboardInterrupt:
        return INTERRUPTED
    except Exception as error:
        is_mistake = isinstance(error, _MISTAKES) or type(error).__module__.partition(".")[0] in _OUTSIDE
        if traceback or not is_mistake:
            raise
        print(f"{prog}: error: {one_line(error)}", file=sys.stderr)
        return MISTAKE
    return result if isinstance(result, int) else getattr(result, "exit_code", 0)


def tell(text: str) -> None:
    """Print a line of progress, unless the command is quiet."""
    if verbosity.get():
        print(text, flush=True)


def _prepare_streams() -> None:
    """Let printing never fail: closed streams take all, and characters that have no code are escaped."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed in the shell, by >&-
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_WRONLY), "w"))
        if isinstance(stream := getattr(sys, name), TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def one_line(message: Warning | BaseException | str) -> str:
    """Return a message, with the notes of an error, without line breaks, passwords and a middle that is too long."""
    notes = [f"({note})" for note in getattr(message, "__notes__", ())]
    text = without_password(" ".join(" ".join([str(message), *notes]).split())) or type(message).__name__
    if len(text) > _LONGEST_LINE:
        half = _LONGEST_LINE // 2
        text = f"{text[:half]} [... {len(text) - 2 * half:,} characters ...] {text[-half:]}"
    return text


def without_password(uri: str) -> str:
    """Return a URI, or a text with one, without its password.

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
    """Print every warning inside once and in one line, with the options of a command as cures, and end in order.

    SIGTERM, and the SIGHUP of a terminal that is closed, are taken for Ctrl-C, so that runs, trials and servers are
    ended; a SIGHUP that is ignored, as under nohup, is left so.
    """
    shown: set[str] = set()

    def show(message: Warning | str, *_: Any, **__: Any) -> None:
        text = one_line(message)
        if text not in shown and verbosity.get():
            shown.add(text)
            print(f"warning: {text}", file=sys.stderr, flush=True)

    is_main = threading.current_thread() is threading.main_thread()
    ends = [signal.SIGTERM, *([signal.SIGHUP] if hasattr(signal, "SIGHUP") else [])] if is_main else []
    handlers = {end: signal.getsignal(end) for end in ends if signal.getsignal(end) != signal.SIG_IGN}
    before, warnings.showwarning = warnings.showwarning, show
    try:
        for end in handlers:
            signal.signal(end, signal.default_int_handler)
        with for_commands():
            yield
    finally:
        warnings.showwarning = before
        for end, handler in handlers.items():
            signal.signal(end, handler)


def near(name: str, known: Sequence[str]) -> str:
    """Return known names like the given one, for an error message; all of them if none is like it."""
    found = get_close_matches(name, known, cutoff=0.5)
    return f"near is {' or '.join(found)}" if found else f"known are {', '.join(known)}"


def pairs(texts: Sequence[str], flag: str) -> dict[str, str]:
    """Return names and values of options that are written ``name=value``.

    Raises
    ------
    ValueError
        If one has no "=" or no name, or a name comes twice.
    """
    found: dict[str, str] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not (name and equals):
            raise ValueError(f"{flag} takes name=value, got {text!r}")
        if name in found:
            raise ValueError(f"{flag} names {name!r} twice")
        found[name] = value
    return found


def without_classes(scores: pl.DataFrame) -> pl.DataFrame:
    """Return scores without the column of positive classes where none of them depends on one."""
    is_empty = scores["positive_class"].null_count() == scores.height
    return scores.drop("positive_class") if is_empty else scores


def lay_out(frame: pl.DataFrame, *, signed: Sequence[str] = ()) -> str:
    """Lay out a frame as text, with columns aligned right; numbers have 4 places, truths are yes or no, a null is "-".

    Parameters
    ----------
    frame : polars.DataFrame
        Its first 30 rows are shown, and how many more there are.
    signed : sequence of str
        Columns whose numbers show their sign.

    Examples
    --------
    >>> import polars as pl
    >>> print(lay_out(pl.DataFrame({"task": ["late", "delay"], "rows": [1200, 80], "score": [0.81234, None]})))
     task   rows   score
     late  1,200  0.8123
    delay     80       -
    """
    shown = frame.head(_MOST_ROWS)
    columns = [[_cell(value, column.name in signed) for value in column] for column in shown]
    rest = frame.height - shown.height
    more = f"\n... and {rest} more" if rest else ""
    return text_table(shown.columns, zip(*columns, strict=True)) + more


def _cell(value: Any, signed: bool) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return format(value, "+.4f" if signed else ".4f")
    return format(value, ",") if isinstance(value, int) else str(value)
