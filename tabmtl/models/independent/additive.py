"""An additive model of one task: ridge or logistic regression on pieces of the columns, kept as curves."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from sklearn.linear_model import LogisticRegression, Ridge

from tabmtl.storage.stored import Stored
from tabmtl.targets import Task

#: Pieces of the curve of a number that are tried; one is a straight line between the least and the largest value.
PIECES = (1, 6)
#: The strongest first.
PENALTIES = tuple(np.logspace(4.5, -1, 9).tolist())
_MOST_LEVELS = 12  # of a column, the most frequent
_FLAT = 1e-9  # standard deviation of a column that is constant
_TOLERANCE, _MOST_STEPS = 1e-3, 300  # of a logistic regression


@dataclass(frozen=True, kw_only=True, eq=False)
class Additive:
    """A sum of curves of the numbers and values of the levels, for every score of a task.

    A curve goes straight from knot to knot, and stays where it is beyond the last. So an answer stays within what the
    training rows have shown.

    Attributes
    ----------
    knots : ndarray of shape (k,)
        Values of the numbers, one number after the other.
    heights : ndarray of shape (k, W)
        The curves at the knots.
    ends : ndarray of shape (Fn + 1,)
        Where the knots of a number begin and end.
    missing : ndarray of shape (Fn, W)
        What a missing number adds.
    codes : ndarray of shape (l,)
        Levels, as `tree_matrix` has them, one column after the other; others add nothing.
    steps : ndarray of shape (l, W)
        What a level adds.
    level_ends : ndarray of shape (Fc + 1,)
    intercept : ndarray of shape (W,)
    """

    knots: Annotated[np.ndarray, Stored("f8", "k")]
    heights: Annotated[np.ndarray, Stored("f8", "k W")]
    ends: Annotated[np.ndarray, Stored("i4", "Fn+1", offsets="k")]
    missing: Annotated[np.ndarray, Stored("f8", "Fn W")]
    codes: Annotated[np.ndarray, Stored("f4", "l")]
    steps: Annotated[np.ndarray, Stored("f8", "l W")]
    level_ends: Annotated[np.ndarray, Stored("i4", "Fc+1", offsets="l")]
    intercept: Annotated[np.ndarray, Stored("f8", "W")]

    @property
    def shape(self) -> tuple[int, int]:
        """Numbers of columns and of outputs."""
        return len(self.missing) + len(self.level_ends) - 1, len(self.intercept)

    def scores(self, x: np.ndarray) -> np.ndarray:
        """Return the scores (n, W) of rows of `tree_matrix`, each row by itself."""
        scores = np.repeat(self.intercept[None], len(x), axis=0)
        n_numbers = len(self.missing)
        for j, (start, end) in enumerate(zip(self.ends[:-1].tolist(), self.ends[1:].tolist(), strict=True)):
            column = x[:, j].astype(np.float64)
            is_missing = np.isnan(column)
            for w, heights in enumerate(self.heights[start:end].T):
                added = np.interp(column, self.knots[start:end], heights)
                scores[:, w] += np.where(is_missing, self.missing[j, w], added)
        for j, (start, end) in enumerate(zip(self.level_ends[:-1].tolist(), self.level_ends[1:].tolist(), strict=True)):
            codes, column = self.codes[start:end], x[:, n_numbers + j]
            place = np.searchsorted(codes, column).clip(max=max(end - start - 1, 0))
            if end > start:
                scores += np.where((codes[place] == column)[:, None], self.steps[start:end][place], 0.0)
        return scores


class Pieces:
    """Columns of a linear model, standardised: a number has one for each piece of its curve, and one if it is missing.

    A column of a piece is 0 below, 1 above, and a line between. A missing number has its mean in them. A level is a
    column, of the most frequent ones.

    Parameters
    ----------
    x : ndarray of shape (n, Fn + Fc)
        Rows of `tree_matrix`.
    n_numbers : int
    n_pieces : int
    """

    def __init__(self, x: np.ndarray, n_numbers: int, n_pieces: int) -> None:
        shares = np.linspace(0, 1, n_pieces + 1)
        self._knots = [_quantiles(column, shares) for column in x[:, :n_numbers].T]
        self._codes = [_frequent(column) for column in x[:, n_numbers:].T]
        found = np.concatenate([*self._columns(x)], axis=1)
        self._center = np.nanmean(found, axis=0) if len(found) else np.zeros(found.shape[1])
        found = np.where(np.isnan(found), self._center, found)
        self._scale = np.where(found.std(axis=0) > _FLAT, found.std(axis=0), 1.0)
        self.columns = (found - self._center) / self._scale

    def _columns(self, x: np.ndarray) -> Iterator[np.ndarray]:
        yield np.zeros((len(x), 0))
        for knots, column in zip(self._knots, x.T, strict=False):
            values = column.astype(np.float64)[:, None]
            yield ((values - knots[:-1]) / np.diff(knots)).clip(0, 1)
            yield np.isnan(values).astype(np.float64)
        for codes, column in zip(self._codes, x.T[len(self._knots) :], strict=True):
            yield (column[:, None] == codes).astype(np.float64)

    def additive(self, slope: np.ndarray, intercept: np.ndarray) -> Additive:
        """Return the model of slopes (d, W) and intercepts (W,) of the columns."""
        slope = slope / self._scale[:, None]
        rest, heights, missing = iter(np.split(slope, self._cuts())), [], []
        center = iter(np.split(self._center, self._cuts()))
        for _ in self._knots:
            pieces, (flag,), means, _ = next(rest), next(rest), next(center), next(center)
            heights.append(np.vstack([np.zeros(slope.shape[1]), np.cumsum(pieces, axis=0)]))
            missing.append(means @ pieces + flag)
        steps = [next(rest) for _ in self._codes]
        none = np.zeros((0, slope.shape[1]))
        return Additive(
            knots=np.concatenate([np.zeros(0), *self._knots]),
            heights=np.concatenate([none, *heights]),
            ends=np.cumsum([0, *map(len, self._knots)], dtype=np.int32),
            missing=np.array(missing).reshape(len(missing), slope.shape[1]),
            codes=np.concatenate([np.zeros(0, dtype=np.float32), *self._codes]),
            steps=np.concatenate([none, *steps]),
            level_ends=np.cumsum([0, *map(len, self._codes)], dtype=np.int32),
            intercept=intercept - self._center @ slope,
        )

    def _cuts(self) -> np.ndarray:
        """Return where the columns of a piece, of a flag and of levels end, but for the last."""
        sizes = [size for knots in self._knots for size in (len(knots) - 1, 1)] + [*map(len, self._codes)]
        return np.cumsum(sizes)[:-1]


def _quantiles(column: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """Return at least two rising knots of a number."""
    known = column[~np.isnan(column)].astype(np.float64)
    knots = np.unique(np.quantile(known, shares)) if len(known) else np.zeros(1)
    return knots if len(knots) > 1 else np.array([knots[0], knots[0] + 1])


def _frequent(column: np.ndarray) -> np.ndarray:
    """Return the codes of the most frequent levels, in their order."""
    codes, counts = np.unique(column[~np.isnan(column)], return_counts=True)
    return np.sort(codes[np.argsort(-counts, kind="stable")[:_MOST_LEVELS]])


def fit_linear(
    task: Task, columns: np.ndarray, y: np.ndarray, weight: np.ndarray | None, penalty: float
) -> tuple[np.ndarray, np.ndarray]:
    """Fit a linear model of squares or classes; return slopes (d, W) and intercepts (W,) of the scores of its kind."""
    if not task.is_classification:
        ridge = Ridge(alpha=penalty).fit(columns, y, sample_weight=weight)
        return ridge.coef_[:, None], np.array([ridge.intercept_])
    means = task.kind.means(y, task.width)
    slope, intercept = np.zeros((columns.shape[1], task.width)), task.kind.start(np.average(means, 0, weight))
    present = np.unique(y).astype(np.intp)
    if len(present) > 1:
        model = LogisticRegression(C=1 / penalty, tol=_TOLERANCE, max_iter=_MOST_STEPS)
        model.fit(columns, y.astype(np.intp), sample_weight=weight)
        # with two classes, scikit-learn gives the log odds of the second
        scored = slice(None) if task.is_binary else present[1:] if len(present) == 2 else present
        slope[:, scored], intercept[scored] = model.coef_.T, model.intercept_
    return slope, intercept
