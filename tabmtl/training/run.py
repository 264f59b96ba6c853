"""A run: a fit while it goes on, with its processes, its watch, its checkpoint and its callbacks.

`tabmtl.scale.joined` enters the run of a job, every fit inside begins one of its own by `Run.fit`, and a model that
trains others inside of its fit enters `Run.part`. The run of a thread is in one context variable, so that threads may
fit one estimator at a time.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tabmtl.base.params import Positive
from tabmtl.base.ranks import ALONE, Ranks
from tabmtl.training.checkpoint import Checkpoint, Job
from tabmtl.training.hooks import FitTask, fit_as_task
from tabmtl.training.watch import Watch


@dataclass(frozen=True, kw_only=True, eq=False)
class Run:
    """A fit while it goes on, or the job around fits; without arguments, one process with nobody to tell.

    Parameters
    ----------
    group : Ranks
        Processes that fit together.
    job : Job, optional
        Keeps checkpoints of the fits that begin inside.
    watch : Watch
        Shows the progress, and tells the time.
    checkpoint : Checkpoint, optional
        Of this fit.
    task : FitTask, optional
        The fit as scikit-learn's callbacks see it.
    """

    group: Ranks = ALONE
    job: Job | None = None
    watch: Watch = field(default_factory=Watch)
    checkpoint: Checkpoint | None = None
    task: FitTask | None = None

    @contextmanager
    def entered(self) -> Iterator[Run]:
        """Make this the run of all that happens inside."""
        token = _running.set(self)
        try:
            yield self
        finally:
            _running.reset(token)

    @contextmanager
    def fit(self, estimator: Any, **rows: Any) -> Iterator[Run]:
        """Begin the fit of an estimator inside of this run; at its end, warn of what the time limit cut short.

        Fits inside of it, which are its parts, have no checkpoint. The ``rows`` are those that callbacks see: X, y and
        sample_weight.
        """
        watch = Watch(estimator.verbose, estimator.time_limit, self.group, type(estimator).__name__)
        checkpoint = None if self.job is None else self.job.checkpoint(estimator, self.group)
        with fit_as_task(estimator, rows) as task:
            with Run(group=self.group, watch=watch, checkpoint=checkpoint, task=task).entered() as run:
                yield run
            watch.warn()

    def part(self, watch: Watch) -> Any:
        """Enter a part of this fit that has a watch, and neither a checkpoint nor callbacks."""
        return replace(self, watch=watch, checkpoint=None, task=None).entered()


_NOBODY = Run()
_running: ContextVar[Run] = ContextVar("run", default=_NOBODY)


def running() -> Run:
    """Return the run that this thread is in."""
    return _running.get()


def current() -> Ranks:
    """Return the group of processes that a fit belongs to."""
    return _running.get().group


def check_alone(what: str, cure: str) -> None:
    """Raise a ValueError in a group of several processes, of what one process does by itself; it names the cure."""
    if current().size > 1:
        raise ValueError(f"{what} is for one process, and this group has {current().size}; {cure}")


@contextmanager
def entered(group: Ranks, checkpoints: Path | None = None) -> Iterator[None]:
    """Let fits inside belong to a group, and keep their checkpoints in a folder until all inside has succeeded."""
    job = None if checkpoints is None else Job(checkpoints, group)
    with Run(group=group, job=job).entered():
        yield
    if job is not None:
        job.end()


@dataclass(kw_only=True, eq=False, repr=False)
class Watched:
    """Parameters of every fit that `Watch` reads.

    Parameters
    ----------
    verbose : int, default=0
        1 shows progress with the current scores, and the seconds since fit was called: a bar in a terminal, and plain
        lines in notebooks, pipes and files.
    time_limit : float, optional
        Seconds that fit may take, by the clock and roughly: training ends after the epoch or the round in which they
        are over, with a `TimeLimitWarning`, and the model is the best so far. What must be done before and after takes
        its time. The result then depends on the machine.
    """

    verbose: int | bool = 0
    time_limit: Positive | None = None

    @property
    def _watch(self) -> Watch:
        """The watch of the fit that is running."""
        return _running.get().watch
