"""The Pareto front of a study as a frame, and the choice of one of its points."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import optuna
import polars as pl
from optuna.trial import TrialState

from tabmtl.metrics.gain import SMALLEST_REFERENCE
from tabmtl.tuning.spaces import PARAM, SCORE
from tabmtl.tuning.studies import check_whole


class NoPointError(ValueError):
    """Error for a front without a point that has every task at its reference or above."""


def pareto_front(study: optuna.Study, *, dominated: bool = False) -> pl.DataFrame:
    """Return the trials of the Pareto front: no other trial is as good in all numbers and better in one.

    Parameters
    ----------
    study : optuna.Study
        From `open_study`. A study of one number has its best trials as its front.
    dominated : bool, default=False
        Return all complete trials, with a column ``dominated``, which `tabmtl.tuning.ParetoDisplay` reads.

    Returns
    -------
    front : polars.DataFrame
        One row per trial, in order: its number ``trial``; ``score/<name>`` for each of ``Objective.names``; and
        ``param/<name>`` for every parameter. Sequences become text, as JSON, and so do numbers among texts. Without a
        complete trial there is no row.

    Raises
    ------
    ValueError
        If the study holds something else than was written to it.
    """
    check_whole(study)
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
    """Choose a point of a front, by weights of the tasks or above a reference for each.

    Parameters
    ----------
    front : polars.DataFrame
        From `pareto_front`.
    weights : mapping of str to float, optional
        Weights of the tasks; a task that is left out weighs 0. The point with the largest weighted mean of the scores
        is chosen. Scores are not rescaled: weigh tasks whose units can be compared.
    reference : mapping of str to float or None, optional
        Lowest accepted score of each task, such as the score of a single-task model, tuned with equal care on the same
        rows. Among the points that have no task below its reference, the one with the largest mean gain is chosen, in
        per cent of the reference as in `tabmtl.multitask_gain`. A reference near 0 is a bound, but does not enter the
        mean gain. A task whose reference is None has no bound and does not enter it either.

    Returns
    -------
    point : polars.DataFrame
        One row of the front, the first of equal ones. `with_params` makes an estimator of it.

    Raises
    ------
    ValueError
        If both or neither of the two are given, the front has no point, or a name is not one of its tasks.
    NoPointError
        If every point has a task below the reference; the message names the tasks and the nearest trial. It is a
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
    """Find the row with the largest mean gain among those with no task below its reference."""
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
