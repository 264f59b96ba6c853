"""An additive model of one task: ridge, logistic or cumulative regression on pieces, kept as curves."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Annotated

import numpy as np
from sklearn import config_context
from sklearn.linear_model import LogisticRegression, Ridge

from tabmtl.base.storage.stored import Stored
from tabmtl.targets import Task
from tabmtl.targets.cumulative import CumulativeRegression

#: Pieces of the curve of a number that are tried; one is a straight line between the least and the largest value.
PIECES = (1, 6)
#: The strongest first.
PENALTIES = tuple(np.logspace(4.5, -1, 9).tolist())
_MOST_LEVELS = 12  # of a column, the most frequent
_FLAT = 1e-9  # standard deviation of a column that is constant
_TOLERANCE, _MOST_STEPS = 1e-3, 300  # of a logistic regression
_BLOCK = 2**20  # values of an array that answers rows together
#: Of the columns of pieces: their values, three times as many of which are in memory at once, and the products that a
#: ridge regression solves, a minute for all folds.
_MOST_VALUES, _MOST_PRODUCTS = 2**24, 2**35


@dataclass(frozen=True, kw_only=True, eq=False)
class Additive:
    """A sum of curves of the numbers and values of the levels, for every score of a task.

    A curve goes straight from knot to knot, and stays where it is beyond the last. So an answer stays within what the
    training rows have shown.

    Attributes
    ----------
    knots : ndarray of shape (Fn, K)
        Rising values of every number.
    heights : ndarray of shape (Fn, K, W)
        The curves at the knots; a curve of fewer knots ends with equal heights.
    missing : ndarray of shape (Fn, W)
        What a missing number adds.
    codes : ndarray of shape (Fc, L)
        Levels of every column, as `tree_matrix` has them, then NaN; others add nothing.
    steps : ndarray of shape (Fc, L, W)
        What a level adds.
    intercept : ndarray of shape (W,)
    variances : ndarray of shape (Fn + Fc,)
        Of what each column adds, over the rows that were learned, summed over the scores.
    """

    knots: Annotated[np.ndarray, Stored("f8", "numbers knots")]
    heights: Annotated[np.ndarray, Stored("f8", "numbers knots width")]
    missing: Annotated[np.ndarray, Stored("f8", "numbers width")]
    codes: Annotated[np.ndarray, Stored("f4", "columns levels", missing=True)]
    steps: Annotated[np.ndarray, Stored("f8", "columns levels width")]
    intercept: Annotated[np.ndarray, Stored("f8", "width")]
    variances: Annotated[np.ndarray, Stored("f8", "features", low=0)]

    def __post_init__(self) -> None:
        if self.knots.shape[1] < 2 or not self.codes.shape[1] or (np.diff(self.knots) <= 0).any():
            raise ValueError("curves need at least two knots, which rise, and columns of levels at least one level")
        if len(self.variances) != len(self.knots) + len(self.codes):
            raise ValueError(f"there are {len(self.variances)} variances of columns, expected one for each")

    @property
    def shape(self) -> tuple[int, int, int]:
        """Numbers of columns of numbers, of columns of levels, and of outputs."""
        return len(self.knots), len(self.codes), len(self.intercept)

    def scores(self, x: np.ndarray) -> np.ndarray:
        """Return the scores (n, W) of rows of `tree_matrix`, each row by itself."""
        return self._curves.scores(x)

    @cached_property
    def _curves(self) -> Curves:
        return Curves([self])


class Curves:
    """Additive models over the same columns, which answer together.

    Parameters
    ----------
    models : sequence of Additive
        A models, whose O scores follow each other.
    """

    def __init__(self, models: Sequence[Additive]) -> None:
        sizes = np.max([(model.knots.shape[1], model.codes.shape[1]) for model in models], axis=0)
        self._model = np.repeat(np.arange(len(models)), [len(model.intercept) for model in models])  # of every score
        self._knots = np.stack([_widened(model.knots, sizes[0]) for model in models])  # (A, Fn, K), NaN after the last
        inner = np.stack([_widened(model.knots[:, 1:-1], sizes[0] - 2) for model in models])
        self._inner = np.moveaxis(inner, 2, 0)[:, None].copy()  # (K - 2, 1, A, Fn)
        self._codes = np.stack([_widened(model.codes, sizes[1]) for model in models])  # (A, Fc, L)
        self._heights = np.concatenate([_widened(model.heights.transpose(2, 0, 1), sizes[0]) for model in models])
        steps = np.concatenate([_widened(model.steps.transpose(2, 0, 1), sizes[1]) for model in models])
        self._steps = np.concatenate([np.zeros((*steps.shape[:2], 1)), steps], axis=2)  # no level adds nothing
        self._missing = np.concatenate([model.missing.T for model in models])
        self._intercept = np.concatenate([model.intercept for model in models])

    def scores(self, x: np.ndarray) -> np.ndarray:
        """Return the scores (n, O) of rows of `tree_matrix`, each row by itself."""
        widest = max(len(self._intercept), len(self._knots) * max(self._knots.shape[2], self._codes.shape[2]))
        n_rows = max(1, _BLOCK // (widest * x.shape[1]))
        return np.concatenate([self._scores(x[start : start + n_rows]) for start in range(0, len(x), n_rows)])

    def _scores(self, x: np.ndarray) -> np.ndarray:
        numbers, levels = np.split(x[:, None], [self._knots.shape[1]], axis=2)
        start = np.broadcast_to(self._intercept[:, None], (len(x), len(self._intercept), 1))
        added = np.concatenate([start, self._of_numbers(numbers), self._of_levels(levels)], axis=2)
        return added.cumsum(axis=2)[:, :, -1]  # numpy's sum takes the columns in an order that depends on the rows

    def _of_numbers(self, x: np.ndarray) -> np.ndarray:
        """Return what numbers (n, 1, Fn) add: (n, O, Fn)."""
        x = x.astype(np.float64)
        piece = (x >= self._inner).sum(axis=0)  # (n, A, Fn)
        low, high = _pairs(self._knots, piece)
        share = ((x - low) / (high - low)).clip(0, 1)[:, self._model]
        first, last = _pairs(self._heights, piece[:, self._model])
        return np.where(np.isnan(x), self._missing, first + share * (last - first))

    def _of_levels(self, x: np.ndarray) -> np.ndarray:
        """Return what levels (n, 1, Fc) add: (n, O, Fc)."""
        is_level = x[..., None] == self._codes
        level = np.where(is_level.any(axis=3), is_level.argmax(axis=3) + 1, 0)  # (n, A, Fc)
        return _at(self._steps, level[:, self._model])


def _widened(values: np.ndarray, n: int) -> np.ndarray:
    """Fill the last axis up to n values by NaN."""
    return np.concatenate([values, np.full((*values.shape[:-1], n - values.shape[-1]), np.nan, values.dtype)], axis=-1)


def _at(values: np.ndarray, place: np.ndarray) -> np.ndarray:
    """Return values (M, F, K) at places (n, M, F) of the last axis."""
    return values.ravel().take(place + np.arange(0, values.size, values.shape[2]).reshape(values.shape[:2]))


def _pairs(values: np.ndarray, place: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return values at places, and at the next ones."""
    return _at(values, place), _at(values, place + 1)


class Pieces:
    """Columns of a linear model, standardised: a number has one for each piece of its curve, and one if it has gaps.

    A column of a piece is 0 below, 1 above, and a line between. A missing number has its mean in them, and 1 in that of
    gaps. A level is a column, of the most frequent ones.

    Parameters
    ----------
    x : ndarray of shape (n, Fn + Fc)
        Rows of `tree_matrix`.
    n_pieces : sequence of int
        Of every number; one of 0 pieces is not read.
    """

    def __init__(self, x: np.ndarray, n_pieces: Sequence[int]) -> None:
        n_numbers, self._x = len(n_pieces), x
        self._knots = [*map(_quantiles, x.T, n_pieces)]
        self._has_gaps = (np.isnan(x[:, :n_numbers]).any(axis=0) & (np.array(n_pieces) > 0)).tolist()
        self._codes = [_frequent(column) for column in x[:, n_numbers:].T]
        sizes = [len(own) - 1 + gaps for own, gaps in zip(self._knots, self._has_gaps, strict=True)]
        ends = np.cumsum([0, *sizes, *map(len, self._codes)]).tolist()
        self._of_column, self._width = [slice(*pair) for pair in pairwise(ends)], ends[-1]
        self._center, self._scale = np.zeros(self._width), np.ones(self._width)

    def suit(self, task: Task) -> bool:
        """Return whether a linear model of a task takes seconds rather than hours, and fits the memory."""
        n_values = len(self._x) * self._width * task.width
        is_solved = not task.is_classification
        n_products = n_values * min(len(self._x), self._width) if is_solved else 0
        return n_values <= _MOST_VALUES and n_products <= _MOST_PRODUCTS

    @cached_property
    def columns(self) -> np.ndarray:
        """All columns (n, d)."""
        found, at = np.empty((len(self._x), self._width)), 0
        for own in self._columns():
            known = ~np.isnan(own)
            center = np.where(known, own, 0.0).sum(axis=0) / known.sum(axis=0).clip(min=1)
            own = np.where(known, own, center) - center
            scale = own.std(axis=0)
            part = slice(at, at := at + own.shape[1])
            self._center[part], self._scale[part] = center, np.where(scale > _FLAT, scale, 1.0)
            found[:, part] = own / self._scale[part]
        return found

    def _columns(self) -> Iterator[np.ndarray]:
        """Yield the columns of every number, its gaps, and every column of levels."""
        numbers, levels = np.split(self._x.T, [len(self._knots)])
        for knots, has_gaps, column in zip(self._knots, self._has_gaps, numbers, strict=True):
            yield _shares(column.astype(np.float64), knots)
            if has_gaps:
                yield np.isnan(column)[:, None].astype(np.float64)
        for codes, column in zip(self._codes, levels, strict=True):
            yield (column[:, None] == codes).astype(np.float64)

    def additive(self, slope: np.ndarray, intercept: np.ndarray) -> Additive:
        """Return the model of slopes (d, W) and intercepts (W,) of the columns."""
        variances = [(self.columns[:, own] @ slope[own]).var(axis=0).sum() for own in self._of_column]
        slope, width, at = slope / self._scale[:, None], len(intercept), 0
        knots = np.zeros((len(self._knots), max([2, *map(len, self._knots)])))
        codes = np.full((len(self._codes), max([1, *map(len, self._codes)])), np.nan, dtype=np.float32)
        heights, steps = np.zeros((*knots.shape, width)), np.zeros((*codes.shape, width))
        missing = np.zeros((len(knots), width))
        for j, own in enumerate(self._knots):
            pieces = slice(at, at := at + len(own) - 1)
            more = np.arange(1, knots.shape[1] - len(own) + 1)
            knots[j] = np.append(own, own[-1] + ((own[-1] - own[0]) or 1.0) * more)
            heights[j] = _shares(knots[j], own) @ slope[pieces]
            missing[j] = self._center[pieces] @ slope[pieces]
            if self._has_gaps[j]:
                missing[j] += slope[at]
                at += 1
        for j, own in enumerate(self._codes):
            codes[j, : len(own)], steps[j, : len(own)] = own, slope[at : at + len(own)]
            at += len(own)
        return Additive(
            knots=knots,
            heights=heights,
            missing=missing,
            codes=codes,
            steps=steps,
            intercept=intercept - self._center @ slope,
            variances=np.array(variances),
        )


def _shares(values: np.ndarray, knots: np.ndarray) -> np.ndarray:
    """Return how much of every piece between knots lies below values (n,): (n, pieces)."""
    return ((values[:, None] - knots[:-1]) / np.diff(knots)).clip(0, 1)


def _quantiles(column: np.ndarray, n_pieces: int) -> np.ndarray:
    """Return rising knots of a number, at least two, or one of a number without pieces."""
    if not n_pieces:
        return np.zeros(1)
    known = column[~np.isnan(column)].astype(np.float64)
    knots = np.unique(np.quantile(known, np.linspace(0, 1, n_pieces + 1))) if len(known) else np.zeros(1)
    return knots if len(knots) > 1 else np.array([knots[0], knots[0] + max(1.0, abs(knots[0]))])


def _frequent(column: np.ndarray) -> np.ndarray:
    """Return the codes of the most frequent levels, in their order."""
    codes, counts = np.unique(column[~np.isnan(column)], return_counts=True)
    return np.sort(codes[np.argsort(-counts, kind="stable")[:_MOST_LEVELS]])


def fit_linear(
    task: Task, columns: np.ndarray, y: np.ndarray, weight: np.ndarray | None, penalties: Sequence[float]
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Fit a linear model of squares or classes for every penalty.

    Yields
    ------
    slopes, intercepts : ndarray of shape (d, W), ndarray of shape (W,)
        Of the scores of the task's kind.
    """
    means = task.kind.means(y, task.width)
    if task.is_classification:
        yield from (_fit_logistic(task, columns, y, means, weight, penalty) for penalty in penalties)
        return
    # as labels of their own, all penalties share the products of the columns
    alpha = np.repeat(penalties, means.shape[1])
    ridge = Ridge(alpha=alpha).fit(columns, np.tile(means, len(penalties)), sample_weight=weight)
    slopes = np.atleast_2d(ridge.coef_).reshape(len(penalties), means.shape[1], -1)
    intercepts = np.broadcast_to(ridge.intercept_, len(alpha)).reshape(len(penalties), -1)
    yield from ((slope.T, intercept) for slope, intercept in zip(slopes, intercepts, strict=True))


def _fit_logistic(
    task: Task, columns: np.ndarray, y: np.ndarray, means: np.ndarray, weight: np.ndarray | None, penalty: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return slopes (d, W) and intercepts (W,) of a logistic regression."""
    if task.kind.has_one_slope:
        ordered = CumulativeRegression(kind=task.kind, width=task.width, C=1 / penalty)
        ordered.fit(columns, y, sample_weight=weight)
        return ordered.coef_.T, ordered.intercept_
    slope, intercept = np.zeros((columns.shape[1], task.width)), task.kind.start(np.average(means, 0, weight))
    present = np.unique(y).astype(np.intp)
    if len(present) > 1:
        model = LogisticRegression(C=1 / penalty, tol=_TOLERANCE, max_iter=_MOST_STEPS)
        with config_context(assume_finite=True, skip_parameter_validation=True):
            model.fit(columns, y.astype(np.intp), sample_weight=weight)
        scored: slice | np.ndarray = slice(None) if task.is_binary else present
        if len(present) == 2 and not task.is_binary:
            # scikit-learn gives the log odds of the second class, and the first has the score 0
            intercept[present[0]], scored = 0.0, present[1:]
        slope[:, scored], intercept[scored] = model.coef_.T, model.intercept_
    return slope, intercept
