"""The time of a comparison: what its models have taken, and what those to come will take."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable
from statistics import fmean
from time import perf_counter

from sklearn.base import clone

from tabmtl.base.forks import count_threads
from tabmtl.ensemble import MultiTaskEnsemble
from tabmtl.ensemble.models import candidates
from tabmtl.estimators.tables import MultiTaskEstimator
from tabmtl.models.independent import IndependentTasks

_OF_LEFT = 0.9  # of the time that is left; an ensemble answers after its limit
_FOLDS = 5  # of an ensemble that chooses their number by itself


class Clock:
    """Time since the comparison began, and the limit.

    Parameters
    ----------
    limit : float or None
        Seconds that the comparison may take; None is no limit.
    n_fits : int
        Number of fits of every model.
    """

    def __init__(self, limit: float | None, n_fits: int) -> None:
        self.limit, self.n_fits = math.inf if limit is None else limit, n_fits
        self._end = perf_counter() + self.limit
        self._taken: dict[type, list[float]] = defaultdict(list)

    @property
    def left(self) -> float:
        """Seconds that are left, infinite without a limit."""
        return max(self._end - perf_counter(), 0.0)

    def note(self, model: MultiTaskEstimator, seconds: float) -> None:
        """Note how long all fits and answers of a model took."""
        self._taken[type(model)].append(seconds)

    def expect(self, model: MultiTaskEstimator) -> float | None:
        """Return the seconds that a model will take, None before the first one is done.

        It is the mean time of the models that share most base classes with it. An ensemble takes that of its
        candidates, once for each fold. No fit takes longer than its own limit.
        """
        if type(model) not in self._taken and isinstance(model, MultiTaskEnsemble):
            expected = self._of_candidates(model)
        else:
            bases = {*type(model).__mro__}
            nearest = max(self._taken, key=lambda cls: len(bases & {*cls.__mro__}), default=None)
            expected = None if nearest is None else fmean(self._taken[nearest])
        if expected is None or model.time_limit is None:
            return expected
        return min(expected, self.n_fits * model.time_limit)

    def in_time(self, model: MultiTaskEstimator, to_come: Iterable[MultiTaskEstimator]) -> MultiTaskEstimator:
        """Return a model as it is to be fitted: an ensemble gets the time that is left, or less if it has a limit.

        Its limit is the time that the models to come will not need. Where that is too short for the first candidate,
        the ensemble stays as it is. Other models are never shortened.
        """
        if not isinstance(model, MultiTaskEnsemble) or math.isinf(self.limit):
            return model
        seconds = _OF_LEFT * (self.left - (self.expect_all(to_come) or 0.0)) / (self.n_fits * (1 + model.refit))
        first = self.expect(next(iter(candidates(model.models).values())))
        if seconds <= (first or 0.0) / self.n_fits:
            return model
        return clone(model).set_params(time_limit=min(seconds, model.time_limit or math.inf))

    def _of_candidates(self, model: MultiTaskEnsemble) -> float | None:
        """Return the seconds of the candidates of an ensemble in all its folds."""
        n_fits = (_FOLDS if model.n_folds == "auto" else model.n_folds) + model.refit
        total = 0.0
        for candidate in candidates(model.models).values():
            expected = self.expect(candidate)
            if expected is None:
                return None
            is_once = isinstance(candidate, IndependentTasks) and candidate.answers_unseen
            total += expected if is_once else n_fits * expected
        return total / count_threads(model.n_processes)

    def too_late(self, model: MultiTaskEstimator) -> str | None:
        """Say why there is no time left for a model, None if there is."""
        expected = self.expect(model) or 0.0
        if expected < self.left:
            return None
        return (
            f"left out: about {duration(expected)} expected, and {duration(self.left)} of {duration(self.limit)} left"
        )

    def expect_all(self, models: Iterable[MultiTaskEstimator]) -> float | None:
        """Return the seconds that models will take, without those for which there will be no time."""
        total = 0.0
        for model in models:
            expected = self.expect(model)
            if expected is None:
                return None
            total += expected if total + expected < self.left else 0
        return total


def duration(seconds: float) -> str:
    """Write a duration in seconds, minutes or hours.

    Examples
    --------
    >>> duration(7.4), duration(600), duration(9000)
    ('7 s', '10 min', '2.5 h')
    """
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5_400 else f"{seconds / 3_600:.1f} h"
