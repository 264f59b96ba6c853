"""Fit candidates in every fold, within a limit of time, and keep their answers to the judged rows."""

from __future__ import annotations

import math
import multiprocessing
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any, NamedTuple

import numpy as np
from joblib import Parallel, delayed
from sklearn.base import clone

from tabmtl.base.schema import describe_error, unsaid, warn_user
from tabmtl.ensemble.folds import Folds, Table
from tabmtl.estimators.encoded import fit_encoded, together
from tabmtl.estimators.tables import MultiTaskEstimator
from tabmtl.models.independent import IndependentTasks
from tabmtl.models.independent.foreign import check_answer
from tabmtl.models.shared_trees.together import fit_in_folds
from tabmtl.training.watch import Watch

_SEEDS = 2**32  # random_state is below
#: Time left that a candidate needs to begin, in that of a candidate so far: one fold of a slow one may take as long.
_LEAST_LEFT = 0.5
#: Times its limit, and seconds, after which a fit in a process of its own is ended.
_MOST_OF_LIMIT, _MOST_BEYOND = 2.0, 60.0
#: Seconds that a fit of the first candidate has in any case.
_LEAST_SECONDS = 0.01


#: Model of a fold, its answers to the judged rows, and its seconds.
_Fitted = tuple[MultiTaskEstimator, list[np.ndarray], float]


class Trial(NamedTuple):
    """Models of a candidate by fold, their answers to the judged rows, and the seconds that they took.

    An answer is NaN where no fold judged the row.
    """

    parts: list[MultiTaskEstimator]
    answers: list[np.ndarray]
    seconds: float


@dataclass(frozen=True, eq=False)
class Trials:
    """Fits of candidates in folds.

    Parameters
    ----------
    candidates : dict of str to estimator
        In the order in which they are tried: those of single tasks first, and at least one of these.
    folds : Folds
    seed : int
    watch : Watch
        Tells the time that is left.
    n_jobs : int
        Number of fits at the same time.
    on_fit : callable
        Called with the name of the candidate after each fit.

    Attributes
    ----------
    left_out : dict of str to str
        Why candidates have no trial: their error, or the time.
    refitted : dict of str to estimator
        Candidates that `refit` has fitted.
    """

    candidates: Mapping[str, MultiTaskEstimator]
    folds: Folds
    seed: int
    watch: Watch
    n_jobs: int
    on_fit: Callable[[str], bool]
    left_out: dict[str, str] = field(default_factory=dict, init=False)
    refitted: dict[str, MultiTaskEstimator] = field(default_factory=dict, init=False)

    def run(self) -> dict[str, Trial]:
        """Fit all candidates for which there is time, and the first in any case; leave out those that raise an error.

        Raises
        ------
        Exception
            The error of the last single-task candidate, if all of these raise one.
        MemoryError
        """
        start = perf_counter()
        found: dict[str, Trial] = {}
        late: list[str] = []
        for name in self.candidates:
            spent = perf_counter() - start
            is_late = bool(found) and _LEAST_LEFT * spent / len(found) >= self.watch.left
            try:
                trial = None if is_late else self._try(name, is_first=not found)
            except MemoryError:
                raise
            except multiprocessing.TimeoutError:
                self._leave_out(name, TimeoutError("a fit hung, and was ended far beyond its time limit"))
                continue
            except Exception as error:
                self._leave_out(name, error)
                continue
            if trial is None:
                late.append(name)
            else:
                found[name] = trial
        if late:
            self.left_out.update(dict.fromkeys(late, "there was no time"))
            self.watch.end(f"there was no time for the candidates {late}")
        return found

    def refit(self, names: Collection[str]) -> dict[str, MultiTaskEstimator]:
        """Fit candidates on all rows, each once; leave out those that raise an error, with the errors of `run`."""
        new = [name for name in names if name not in self.refitted]
        fits = (delayed(_fit_or_catch)(self.candidates[name], self.folds, self.seed) for name in new)
        failed: dict[str, Exception] = {}
        for name, one in zip(new, Parallel(n_jobs=self.n_jobs, return_as="generator")(fits), strict=True):
            if isinstance(one, Exception):
                failed[name] = one
            else:
                self.refitted[name] = one
            self.on_fit(name)
        for name, error in failed.items():
            self._leave_out(name, error)
        return {name: self.refitted[name] for name in names if name in self.refitted}

    def learns_at_once(self, name: str) -> bool:
        """Return whether one fit of a candidate takes the place of those of several folds."""
        return count_fits(self.candidates[name], self.folds) < len(self.folds.pairs)

    def _leave_out(self, name: str, error: Exception) -> None:
        """Leave a candidate out for its error, with a warning; raise the error if no single-task candidate is left."""
        self.left_out[name] = describe_error(error)
        left = [each for key, each in self.candidates.items() if key not in self.left_out]
        if not any(isinstance(each, IndependentTasks) for each in left):
            error.add_note(f"raised by the candidate {name!r}, the last of single tasks; the ensemble needs one")
            raise error
        warn_user(f"the candidate {name!r} is left out, because its fit raised {self.left_out[name]}")

    def _try(self, name: str, *, is_first: bool) -> Trial | None:
        """Fit a candidate in all folds; None where they would not end in time."""
        candidate, pairs, start = self.candidates[name], self.folds.pairs, perf_counter()
        if self.learns_at_once(name):
            return self._try_unseen(name, candidate, start)
        folds = self.folds.encoded(candidate)
        # folds forward in time are of unlike sizes
        done = [] if is_first or folds.go_forward else self._fit_as_one(name, folds)
        while len(done) < len(pairs):
            needed = (perf_counter() - start) / len(done) * (len(pairs) - len(done)) if done else 0.0
            if needed >= self.watch.left and not is_first:
                return None
            some = range(len(done), min(len(done) + self.n_jobs, len(pairs)))
            # the first has models of all folds, so no fold may take the time of the next
            n_rounds = math.ceil((len(pairs) - len(done)) / self.n_jobs) if is_first else 1
            seconds = self.watch.left / n_rounds
            fits = (delayed(_fit_fold)(candidate, *folds.tables(k), (self.seed + k) % _SEEDS, seconds) for k in some)
            for one in Parallel(n_jobs=self.n_jobs, timeout=_patience(seconds) if self.n_jobs > 1 else None)(fits):
                done.append(one)
                self.on_fit(name)
        answers = [np.full((len(self.folds.judged), *each.shape[1:]), np.nan) for each in done[0][1]]
        for (_, rows), (_, found, _) in zip(pairs, done, strict=True):
            for answer, part in zip(answers, found, strict=True):
                answer[rows] = part
        return Trial([part for part, _, _ in done], answers, sum(seconds for _, _, seconds in done))

    def _fit_as_one(self, name: str, folds: Folds) -> list[_Fitted]:
        """Fit a candidate in all folds as one model; empty if it is none that can."""
        candidate, start, n = self.candidates[name], perf_counter(), len(folds.pairs)
        coder, tables = folds.table.coder, [folds.tables(k) for k in range(n)]
        if coder is None:
            return []
        parts = [_prepare(candidate, (self.seed + k) % _SEEDS, self.watch.left) for k in range(n)]
        with unsaid():
            given, held = (
                [{"batch": own.batch, **own.fit_arguments()} for own in side] for side in zip(*tables, strict=True)
            )
            if not fit_in_folds(parts, coder, given, held):
                if self.n_jobs > 1 or not hasattr(candidate, "epochs"):
                    return []
                from tabmtl.estimators.together import fit_together

                if not fit_together(parts, coder, given):
                    return []
        seconds = (perf_counter() - start) / n
        done = []
        for part, (table, judged) in zip(parts, tables, strict=True):
            done.append((part, _answered(part, table, judged), seconds))
            self.on_fit(name)
        return done

    def _try_unseen(self, name: str, candidate: MultiTaskEstimator, start: float) -> Trial:
        """Fit a candidate once, which answers rows unseen by folds of its own making."""
        fold, fine = self.folds.numbers, self.folds.fine
        # rows that all fits see are in some fold of a task alone, and judge nothing
        given = np.where(fold < 0, np.arange(len(fold)) % len(self.folds.pairs), fold) if fine is None else fine
        part = _prepare(candidate, self.seed, self.watch.left)
        with unsaid():
            answers = part.fit_unseen(**self.folds.table.fit_arguments(), fold=given)
        for answer in answers:
            answer[fold < 0] = np.nan
        self.on_fit(name)
        return Trial([part], answers, perf_counter() - start)


def count_fits(candidate: MultiTaskEstimator, folds: Folds) -> int:
    """Count the fits of a candidate: one for each fold, or a single one if it answers rows unseen by itself."""
    is_alone = isinstance(candidate, IndependentTasks) and candidate.answers_unseen
    # folds of its own making do not go forward in time
    return 1 if is_alone and folds.table.batch.time is None else len(folds.pairs)


def _patience(seconds: float) -> float | None:
    """Return the seconds after which a fit hangs that has some as its limit; joblib ends the processes then."""
    return None if math.isinf(seconds) else max(_MOST_OF_LIMIT * seconds, seconds + _MOST_BEYOND)


def _prepare(candidate: MultiTaskEstimator, seed: int, seconds: float) -> Any:
    """Return a copy of a candidate that has a seed and at most some seconds."""
    copy = clone(candidate).set_params(random_state=seed)
    if seconds < (math.inf if copy.time_limit is None else copy.time_limit):
        copy.set_params(time_limit=max(seconds, _LEAST_SECONDS))
    return copy


def _fit(candidate: MultiTaskEstimator, table: Table, seed: int, seconds: float = math.inf) -> MultiTaskEstimator:
    """Fit a copy of a candidate; its warnings are of rows and tasks that the user did not choose."""
    copy = _prepare(candidate, seed, seconds)
    with unsaid():
        if table.coder is None:
            return copy.fit(**table.fit_arguments())
        return fit_encoded(copy, table.coder, batch=table.batch, **table.fit_arguments())


def _fit_or_catch(candidate: MultiTaskEstimator, folds: Folds, seed: int) -> MultiTaskEstimator | Exception:
    """Fit a copy of a candidate to all rows, or return its error, which would end the fits beside it."""
    try:
        return _fit(candidate, folds.encoded(candidate).whole, seed)
    except MemoryError:
        raise
    except Exception as error:
        return error


def _fit_fold(candidate: MultiTaskEstimator, table: Table, judged: Table, seed: int, seconds: float) -> _Fitted:
    start = perf_counter()
    part = _fit(candidate, table, seed, seconds)
    return part, _answered(part, table, judged), perf_counter() - start


def _answered(part: MultiTaskEstimator, table: Table, judged: Table) -> list[np.ndarray]:
    """Return the answers of a model, whose class may be the user's, to judged rows; raise an error for bad ones."""
    # a fold may judge nothing; no estimator answers no rows
    asked = judged if len(judged) else table.rows(np.arange(1))
    if asked.coder is None:
        found = part.__answers__(asked.X)
    else:
        (found,) = together([part]).answers(asked.X, asked.batch.unlabelled())
    tasks = asked.tasks if asked.batch.task is None else asked.tasks[:1]
    if len(found) != len(tasks):
        raise ValueError(f"it gives {len(found)} answers, expected {len(tasks)}: one for each column of y")
    return [
        check_answer(task, answer, task.kind.answer_shape(len(asked), task.classes), "its answer")[: len(judged)]
        for task, answer in zip(tasks, found, strict=True)
    ]
