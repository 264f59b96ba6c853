"""Fit candidates in every fold, within a limit of time, and keep their answers to the judged rows."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from time import perf_counter
from typing import NamedTuple

import numpy as np
from joblib import Parallel, delayed
from sklearn.base import clone

from tabmtl.ensemble.folds import Folds, Table
from tabmtl.estimators.tables import MultiTaskEstimator
from tabmtl.schema import DivergenceError, TabmtlWarning, warn_user
from tabmtl.training.watch import Watch

_SEEDS = 2**32  # random_state is below


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
    folds : Folds
    seed : int
    watch : Watch
        Tells the time after which no fit begins.
    n_jobs : int
        Number of fits at the same time.
    on_fit : callable
        Called with the name of the candidate after each fit.
    """

    folds: Folds
    seed: int
    watch: Watch
    n_jobs: int
    on_fit: Callable[[str], bool]

    def run(self, candidates: Mapping[str, MultiTaskEstimator]) -> dict[str, Trial]:
        """Fit all candidates for which there is time, and the first in any case."""
        found: dict[str, Trial] = {}
        late: list[str] = []
        for name, candidate in candidates.items():
            try:
                trial = self._try(name, candidate, is_first=not found)
            except DivergenceError as error:
                if not found:
                    raise
                warn_user(f"the candidate {name!r} is left out, because its training diverged: {error}")
                continue
            except Exception as error:
                error.add_note(f"raised by the candidate {name!r}")
                raise
            if trial is None:
                late.append(name)
            else:
                found[name] = trial
        if late:
            self.watch.end(f"there was no time for the candidates {late}")
        return found

    def _try(self, name: str, candidate: MultiTaskEstimator, *, is_first: bool) -> Trial | None:
        """Fit a candidate in all folds; None where they would not end in time."""
        pairs, start = self.folds.pairs, perf_counter()
        done: list[tuple[MultiTaskEstimator, list[np.ndarray], float]] = []
        while len(done) < len(pairs):
            needed = (perf_counter() - start) / len(done) * (len(pairs) - len(done)) if done else 0.0
            if needed >= self.watch.left and not is_first:
                return None
            some = range(len(done), min(len(done) + self.n_jobs, len(pairs)))
            fits = (delayed(_fit_fold)(candidate, *self._tables(k), (self.seed + k) % _SEEDS) for k in some)
            for one in Parallel(n_jobs=self.n_jobs)(fits):
                done.append(one)
                self.on_fit(name)
        answers = [np.full((len(self.folds.judged), *each.shape[1:]), np.nan) for each in done[0][1]]
        for (_, rows), (_, found, _) in zip(pairs, done, strict=True):
            for answer, part in zip(answers, found, strict=True):
                answer[rows] = part
        return Trial([part for part, _, _ in done], answers, sum(seconds for _, _, seconds in done))

    def _tables(self, fold: int) -> tuple[Table, Table]:
        fitted, judged = self.folds.pairs[fold]
        return self.folds.table.rows(fitted), self.folds.judged.rows(judged)


def fit_candidate(candidate: MultiTaskEstimator, table: Table, seed: int) -> MultiTaskEstimator:
    """Fit a copy of a candidate; its warnings are of rows and tasks that the user did not choose."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TabmtlWarning)
        return clone(candidate).set_params(random_state=seed).fit(**table.fit_arguments())


def _fit_fold(
    candidate: MultiTaskEstimator, table: Table, judged: Table, seed: int
) -> tuple[MultiTaskEstimator, list[np.ndarray], float]:
    start = perf_counter()
    part = fit_candidate(candidate, table, seed)
    # a fold may judge nothing; no estimator answers no rows
    asked = judged if len(judged) else table.rows(np.arange(1))
    answers = [answer[: len(judged)] for answer in part._read_and_answer(asked.X)]
    return part, answers, perf_counter() - start
