"""What a user sees of a fit while it runs, and the seconds that it may take: `verbose` and `time_limit`.

One `Watch` serves a whole fit. Every loop of it, of epochs or of rounds, shows its steps by `Watch.steps`, which also
tells the loop when the time is over. In a terminal the steps are a bar; in a notebook, a pipe or a file, and without
rich, they are plain lines, which stay where the notebook is saved.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass
from itertools import chain
from time import perf_counter
from typing import Any

from tabmtl.base.ranks import ALONE, Ranks
from tabmtl.base.schema import TimeLimitWarning, warn_user
from tabmtl.targets import Task

Describe = Callable[[Any], str]
#: Called with a record after every step of a loop; tells whether the time is over, so that the loop ends.
Step = Callable[[Any], bool]

#: Rounds of trees from one plain line to the next.
SHOWN_ROUNDS = 50

#: Tasks that a line names.
SHOWN_TASKS = 8
_TOLD = 3  # loops that the warning of the time limit names


class Watch:
    """Progress and time of one fit.

    In a group of processes, rank 0 shows the progress, tells the time, which decides for all, and warns.

    Parameters
    ----------
    verbose : int or bool, default=0
        Whether to show anything.
    time_limit : float, optional
        Seconds from now.
    group : Ranks, default=ALONE
        Processes that fit together.
    name : str, default=""
        Of the estimator, in front of every line.

    Attributes
    ----------
    is_verbose : bool
        Whether lines are shown by this process.
    was_cut : bool
        Whether the time limit has ended anything of this part of the fit.
    """

    def __init__(
        self, verbose: int | bool = 0, time_limit: float | None = None, group: Ranks = ALONE, name: str = ""
    ) -> None:
        self.is_verbose = bool(verbose) and group.rank == 0
        self.name = name
        self._group = group
        self._limit = time_limit
        self._begin = perf_counter()
        self._end = math.inf if time_limit is None else self._begin + time_limit
        self._ended: list[str] = []  # of all parts
        self.was_cut = False

    @property
    def is_limited(self) -> bool:
        """Whether there is a time limit."""
        return self._limit is not None

    @property
    def left(self) -> float:
        """Seconds that are left, infinite without a limit."""
        return max(self._end - perf_counter(), 0.0)

    def cuts(self, what: str) -> bool:
        """Tell whether the time is over, and if so note for `warn` what that ends."""
        is_over = self.is_limited and self._group.gather(perf_counter() >= self._end)[0]
        if is_over:
            self.end(what)
        return is_over

    def part(self, share: float, name: str = "") -> Watch:
        """Give the watch of the next part of the fit, which may take a share of the time that is left."""
        part = copy(self)
        part.name = name or self.name
        part._end = self._end if share == 1 else perf_counter() + share * self.left
        part.was_cut = False
        return part

    def without_limit(self) -> Watch:
        """Give a watch that shows what it is told, and ends nothing."""
        own = copy(self)
        own._limit, own._end = None, math.inf
        return own

    def tell(self, text: str) -> None:
        """Print a line, if asked to show anything."""
        if self.is_verbose:
            print("  ".join(filter(None, [self.name, text])), flush=True)

    def end(self, what: str) -> None:
        """Note what the time limit has ended, or left out, for `warn`."""
        self.was_cut = True
        self._ended.append(what)

    def warn(self) -> None:
        """Warn of what the time limit has ended on any rank, if anything; all ranks call this."""
        if not self.is_limited:
            return
        ended = list(dict.fromkeys(chain.from_iterable(self._group.gather(self._ended, to=0))))
        if ended:
            more = f"; and {len(ended) - _TOLD} more" if len(ended) > _TOLD else ""
            warn_user(
                f"time_limit={self._limit:g} cut short the fit, which took {perf_counter() - self._begin:.3g} seconds: "
                f"{'; '.join(ended[:_TOLD])}{more}. Set a longer one for the rest",
                TimeLimitWarning,
            )

    @contextmanager
    def steps(
        self, total: int, unit: str, describe: Describe = str, *, every: int = 1, done: int = 0
    ) -> Iterator[Step]:
        """Show the steps of a loop, with the seconds since the fit has begun, and watch the time.

        Parameters
        ----------
        total : int
            Steps at most.
        unit : str
            Name of a step.
        describe : callable
            Turns the record of a step into text.
        every : int, default=1
            Steps from one plain line to the next.
        done : int, default=0
            Steps that were taken before.

        Yields
        ------
        callable
            To be called with the record of every step; tells whether the time is over.
        """
        named = "  ".join(filter(None, [self.name, unit]))
        with _bar(total, done) if self.is_verbose and total else _silence() as show:

            def step(record: Any) -> bool:
                nonlocal done
                done += 1
                if self.is_verbose:
                    show(Shown(named, done, total, perf_counter() - self._begin, describe(record), every))
                return done < total and self.cuts(f"{unit} {done} of {total}")

            yield step


@dataclass(frozen=True)
class Shown:
    """A step as it is shown: its unit, its number among all, the seconds of the fit so far, and its text."""

    unit: str
    done: int
    total: int
    seconds: float
    text: str
    every: int

    def __str__(self) -> str:
        count = f"{self.unit} {self.done:>{len(str(self.total))}}/{self.total}"
        return "  ".join(filter(None, [count, self.text, f"{self.seconds:.1f} s"]))


@contextmanager
def _silence() -> Iterator[Callable[[Shown], None]]:
    yield lambda step: None


def _bar(total: int, done: int) -> Any:
    """Return the context of a live bar where there is a terminal and rich, else that of plain lines."""
    try:
        from rich.console import Console
    except ImportError:
        return _lines()
    console = Console()
    # rich would draw in a notebook by ipywidgets, and warn where they are missing
    return _live(console, total, done) if console.is_interactive and not console.is_jupyter else _lines()


@contextmanager
def _live(console: Any, total: int, done: int) -> Iterator[Callable[[Shown], None]]:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    start, end = TextColumn("{task.fields[unit]}"), TextColumn("{task.description}", markup=False)
    seconds = TextColumn("{task.fields[seconds]:.1f} s")
    with Progress(start, BarColumn(bar_width=20), MofNCompleteColumn(), seconds, end, console=console) as p:
        bar = p.add_task("", total=total, completed=done, unit="", seconds=0.0)
        yield lambda step: p.update(bar, advance=1, description=step.text, unit=step.unit, seconds=step.seconds)


@contextmanager
def _lines() -> Iterator[Callable[[Shown], None]]:
    last: Shown | None = None  # if not printed

    def show(step: Shown) -> None:
        nonlocal last
        last = step
        if step.done % step.every == 0 or step.done == step.total:
            print(step, flush=True)
            last = None

    yield show
    if last is not None:
        print(last, flush=True)


def describe_loss(loss: float | None) -> str:
    """Describe the mean loss of validation rows over the tasks, as a share of it at the start, if there is one."""
    return "" if loss is None else f"mean val loss {loss:.4f} of that at the start"


def describe_score(task: Task, score: float | None, part: str = "val") -> str:
    """Describe the score of a task, by its metric."""
    return f"{task.name}  {part} {task.metric} {'-' if score is None else format(score, '.4f')}"


def describe_tasks(tasks: Sequence[Task], record: Mapping[str, float | None]) -> str:
    """Describe the mean loss and the scores of the first tasks, on validation rows if there are any."""
    part = "val" if "val/loss" in record else "train"
    texts = [f"{part} loss {record[f'{part}/loss']:.4f}"]
    for task in tasks[:SHOWN_TASKS]:
        score = record[f"{part}/{task.name}/{task.metric}"]
        texts.append(f"{task.name} {task.metric} {'-' if score is None else format(score, '.4f')}")
    if len(tasks) > SHOWN_TASKS:
        score = record[f"{part}/score"]
        texts.append(f"mean of {len(tasks)} {'-' if score is None else format(score, '.4f')}")
    return "  ".join(texts)
