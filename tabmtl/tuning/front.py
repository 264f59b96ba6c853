"""The Pareto front of a study as a frame, and the choice of one of its points."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import optuna
import polars as pl
from optuna.trial import TrialState

from tabmtl.metrics.gain import SMALLEST_REFERENCE
from tabmtl.tuning.spaces import PARAM, SCORE


class NoPointError(ValueError):
    """No point of a front has every task at its reference or above."""


def pareto_front(study: optuna.Study, *, dominated: bool = False) -> pl.DataFrame:
    """The trials that no other trial beats: none is as good in all numbers, and better in one.

    Parameters
    ----------
    study : optuna.Study
        As `open_study` gives it. With one number only, its best trials.
    dominated : bool, default=False
        Give all complete trials, with a column ``dominated``, which `tabmtl.plots.ParetoDisplay` knows.

    Returns
    -------
    front : polars.DataFrame
        One row a trial, in order: ``trial``, its number; ``score/<name>`` for every number, as `Objective` names them;
        ``param/<name>`` for every parameter, sequences as JSON text. Without a complete trial it has no row.
    """
    names = study.metric_names or [str(i) for i in range(len(study.directions))]
    trials = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    best = {trial.number for trial in study.best_trials} if trials else set()
    kept = [trial for trial in trials if dominated or trial.number in best]
    columns = {"trial": pl.Series([trial.number for trial in kept], dtype=pl.Int64)}
    if dominated:
        columns["dominated"] = pl.Series([trial.number not in best for trial in kept], dtype=pl.Boolean)
    for i, name in enumerate(names):
        columns[SCORE + name] = pl.Series([trial.values[i] for trial in kept], dtype=pl.Float64)
    for name in dict.fromkeys(name for trial in kept for name in trial.params):
        columns[PARAM + name] = pl.Series([trial.params.get(name) for trial in kept], strict=False)
    return pl.DataFrame(columns)


def choose_point(
    front: pl.DataFrame,
    *,
    weights: Mapping[str, float] | None = None,
    reference: Mapping[str, float | None] | None = None,
) -> pl.DataFrame:
    """Choose a point of a front: by weights of the tasks, or so that no task is below a reference.

    Parameters
    ----------
    front : polars.DataFrame
        As `pareto_front` gives it.
    weights : mapping of str to float, optional
        Of the tasks; tasks that are left out have none. The point with the largest weighted mean of the scores is
        chosen, as they are: make sure that they have comparable units.
    reference : mapping of str to float or None, optional
        The score of every task that is to be kept at least, such as that of a model which learned it alone, tuned with
        equal care on the same rows. Of the points with no task below, the one with the largest mean gain is chosen, in
        per cent of the reference as in `tabmtl.multitask_gain`: tasks whose reference is near 0 have no say in it, and
        those whose reference is None have none at all.

    Returns
    -------
    point : polars.DataFrame
        One row of the front; the earliest of equal ones. `with_params` makes an estimator of it.

    Raises
    ------
    ValueError
        If not one of the two is given, the front has no point, or the names are not those of its tasks.
    NoPointError
        If every point has a task below the reference; the message says which tasks, and which trial is nearest. It is a
        ValueError.

    Examples
    --------
    >>> import polars as pl
    >>> from tabmtl.tuning import choose_point
    >>> front = pl.DataFrame({"trial": [3, 8], "score/late": [0.80, 0.70], "score/delay": [0.20, 0.40]})
    >>> choose_point(front, weights={"late": 3, "delay": 1})["trial"].item()
    3
    >>> choose_point(front, reference={"late": 0.65, "delay": 0.30})["trial"].item()
    8
    """
    if (weights is None) == (reference is None):
        raise ValueError("choose_point takes weights or a reference: give one of them")
    tasks = [name.removeprefix(SCORE) for name in front.columns if name.startswith(SCORE)]
    if not tasks or front.is_empty():
        raise ValueError("the front has no point to choose: no trial is complete, or this is no frame of pareto_front")
    given: Mapping[str, float | None] = weights or reference or {}
    unknown = [task for task in given if task not in tasks]
    missing = [] if reference is None else [task for task in tasks if task not in reference]
    if unknown or missing or not given:
        raise ValueError(f"expected numbers of the tasks {tasks}, got {dict(given)}")
    scores = front.select(SCORE + task for task in tasks).to_numpy()
    if weights is not None:
        numbers = np.array([weights.get(task, 0.0) for task in tasks])
        if not (np.isfinite(numbers).all() and (numbers >= 0).all() and numbers.any()):
            raise ValueError(f"weights must be at least 0, and one above it, got {dict(weights)}")
        return front[int((scores @ numbers).argmax())]
    bound = [task for task in tasks if given[task] is not None]
    floors = np.array([given[task] for task in bound], dtype=np.float64)
    if not (bound and np.isfinite(floors).all()):
        raise ValueError(f"reference must hold finite numbers, got {dict(given)}: None stands for a task without one")
    return front[_best_above(scores[:, [task in bound for task in tasks]], floors, bound, front["trial"].to_list())]


def _best_above(scores: np.ndarray, reference: np.ndarray, tasks: list[str], trials: list[int]) -> int:
    """Row with the largest mean gain among those with no task below its reference."""
    gains = scores - reference
    fine = np.flatnonzero((gains >= 0).all(axis=1))
    if not len(fine):
        nearest = int(np.maximum(-gains, 0).sum(axis=1).argmin())
        below = [f"{tasks[t]} by {-gains[nearest, t]:.4f}" for t in np.flatnonzero(gains[nearest] < 0)]
        always = [tasks[t] for t in np.flatnonzero((gains < 0).all(axis=0))]
        everywhere = f"; {', '.join(always)} is below in all" if always else ""
        raise NoPointError(
            f"of {len(trials)} points, none has every task at its reference or above{everywhere}. Nearest is trial "
            f"{trials[nearest]}, below in {', '.join(below)}: search on, or choose by weights"
        )
    says = np.abs(reference) >= SMALLEST_REFERENCE
    parts = gains[:, says] / np.abs(reference[says]) if says.any() else gains
    return int(fine[parts[fine].mean(axis=1).argmax()])
