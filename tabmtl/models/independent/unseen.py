"""Answers of models of each task alone to rows of their fit whose labels they have not learned."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from tabmtl.base.schema import Batch
from tabmtl.encode.drift.readings import Answers
from tabmtl.estimators.rows import draw
from tabmtl.models.independent.mixture import Mixed


def without_labels(learned: Answers, some: Batch, places: np.ndarray, found: Mapping[int, Mixed]) -> Answers:
    """Return answers to some rows of fit by models that have not learned their labels; NaN for those that none has.

    Rows without a label of a task are taken in the share in which those with one were judged.

    Parameters
    ----------
    learned : Answers
        Of the fitted models.
    some : Batch
        The rows, with their labels.
    places : ndarray
        Their numbers among all.
    found : mapping of int to Mixed
        By task, with answers.
    """
    outputs = [own.copy() for own in learned.outputs]
    for t, mixed in found.items():
        own = np.arange(len(some)) if some.task is None else np.flatnonzero(some.task == t)
        column = 0 if some.task is not None else t
        is_labelled = ~np.isnan(some.y[own, column])
        outputs[column][own] = _of_task(outputs[column][own], is_labelled, places[own], mixed)
    return Answers(outputs, some.task)


def _of_task(answers: np.ndarray, is_labelled: np.ndarray, places: np.ndarray, mixed: Mixed) -> np.ndarray:
    """Return answers to rows, of labelled ones those of models that have not learned the row; NaN for those unasked."""
    assert mixed.numbers is not None and mixed.answers is not None
    order = np.argsort(mixed.numbers)
    numbers, judged = mixed.numbers[order], mixed.answers[order]
    row = np.minimum(np.searchsorted(numbers, places), len(numbers) - 1)
    is_judged = numbers[row] == places
    found = np.full_like(answers, np.nan)
    found[is_judged] = judged[row[is_judged]]
    others = np.flatnonzero(~is_labelled)
    others = others[draw(len(others), round(len(others) * is_judged.sum() / max(is_labelled.sum(), 1)))]
    found[others] = answers[others]
    return found
