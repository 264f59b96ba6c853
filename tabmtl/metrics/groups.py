"""Metrics by group: how well answers order the rows of a user, a query or a session, as means over the groups.

A ranker is judged inside of each group, since nobody sees the rows of two users in one list. Labels have two classes,
or ordered ones, whose number, from 0, is their grade; rows are ranked by the probability of the second class, or by the
expected grade. A row above the lowest grade is relevant.

=============  ======================================================================================
gauc           the share of the pairs of rows of other grades that are in order, which is ROC AUC of two classes; each
               group counts by its size, its number of rows, as in the papers that report GAUC (Zhu et al., KDD 2017)
ndcg@k         the discounted gain of the first k rows over the best possible one; a row gains its grade
               (Järvelin and Kekäläinen, ACM TOIS 20, 2002)
mrr, mrr@k     one over the rank of the first relevant row, 0 where that is beyond k
hit_rate@k     whether a relevant row is among the first k
=============  ======================================================================================

In all but GAUC each group counts alike. A group whose labels are all alike tells nothing of the order, and is left out
by all four. Rows with equal answers count as the mean over all orders of them: a pair counts half, and NDCG is that of
scikit-learn's ``ndcg_score``. With weights of rows, a group counts by their mean, and in GAUC by their sum; pairs in it
count by the products of both.

Influences are those of groups, dealt equally to their rows: intervals are over draws of groups.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
from scipy.special import gammaln

from tabmtl.metrics.metric import Metric, of_mean

#: Rows that rank metrics look at, where a name says no other number.
DEPTH = 10


@dataclass(frozen=True, eq=False)
class _Ranked:
    """Rows sorted by their group, and inside of it from the highest answer; those with one answer are a level.

    Attributes
    ----------
    order : ndarray of int, shape (n,)
        Numbers of the rows.
    grade : ndarray of int, shape (n,)
    weight : ndarray of shape (n,)
    levels : ndarray of int, shape (L,)
        First row of each level.
    groups : ndarray of int, shape (G,)
        First row of each group.
    """

    order: np.ndarray
    grade: np.ndarray
    weight: np.ndarray
    levels: np.ndarray
    groups: np.ndarray

    @classmethod
    def of(cls, y: np.ndarray, p: np.ndarray, weight: np.ndarray, group: np.ndarray) -> _Ranked:
        """Rank rows by their expected grades."""
        answer = -(p * np.arange(p.shape[1])).sum(axis=1)  # a product of matrices would round equal rows apart
        order = np.lexsort((answer, group))
        group, answer = group[order], answer[order]
        begins_group = np.append(True, group[1:] != group[:-1])
        begins_level = begins_group | np.append(True, answer[1:] != answer[:-1])
        levels, groups = np.flatnonzero(begins_level), np.flatnonzero(begins_group)
        return cls(order, y[order], weight[order], levels, groups)

    @property
    def sizes(self) -> np.ndarray:
        """Number of rows of each group, (G,)."""
        return np.diff(self.groups, append=len(self.order))

    @property
    def first_levels(self) -> np.ndarray:
        """Number of the first level of each group, (G,)."""
        return np.searchsorted(self.levels, self.groups)

    @property
    def group_of_level(self) -> np.ndarray:
        """Number of the group of each level, (L,)."""
        return np.repeat(np.arange(len(self.groups)), np.diff(self.first_levels, append=len(self.levels)))


def _auc(ranked: _Ranked) -> np.ndarray:
    """Return the shares (G,) of the weight of pairs of other grades that are in order, ties by half."""
    first = ranked.first_levels
    in_order, pairs = np.zeros((2, len(first)))
    for grade in range(1, int(ranked.grade.max()) + 1):
        own, lower = (
            np.add.reduceat(ranked.weight * side, ranked.levels)
            for side in (ranked.grade == grade, ranked.grade < grade)
        )
        of_group = np.add.reduceat(lower, first)
        until = np.cumsum(lower)
        until -= np.repeat(until[first] - lower[first], np.diff(first, append=len(lower)))
        below = of_group[ranked.group_of_level] - until
        in_order += np.add.reduceat(own * (below + lower / 2), first)
        pairs += np.add.reduceat(own, first) * of_group
    return in_order / pairs


def _ndcg(ranked: _Ranked, depth: int) -> np.ndarray:
    """Return the discounted gains (G,) over the best possible ones."""
    sizes, first = ranked.sizes, ranked.first_levels
    discount = 1 / np.log2(np.arange(2, sizes.max() + 2))
    discount[depth:] = 0
    rank = np.arange(len(ranked.order)) - np.repeat(ranked.groups, sizes)
    n_level = np.diff(ranked.levels, append=len(rank))
    discounts, gains = (np.add.reduceat(part, ranked.levels) for part in (discount[rank], ranked.grade))
    found = np.add.reduceat(gains * discounts / n_level, first)
    best, most = np.zeros(len(first)), np.append(0.0, np.cumsum(discount))
    for grade in range(1, int(ranked.grade.max()) + 1):  # each row of a grade gains one for it and for each below
        best += most[np.add.reduceat((ranked.grade >= grade).astype(np.intp), ranked.groups)]
    return found / best


def _first_relevant(ranked: _Ranked, depth: float, value: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Return the mean value (G,) of the rank of the first relevant row over the orders of tied rows, 0 beyond a depth.

    Of m tied rows with j relevant ones, the first of these is at place t with the probability
    C(m - t, j - 1) / C(m, j).
    """
    relevant = np.add.reduceat((ranked.grade > 0).astype(np.intp), ranked.levels)
    holding = np.flatnonzero(relevant)
    group, place = np.unique(ranked.group_of_level[holding], return_index=True)
    level = holding[place]
    m, j = np.diff(ranked.levels, append=len(ranked.order))[level], relevant[level]
    above = ranked.levels[level] - ranked.groups[group]
    spans = m - j + 1  # places where the first can be
    starts = np.cumsum(spans) - spans
    t = 1 + np.arange(spans.sum()) - np.repeat(starts, spans)
    log_factorial = gammaln(np.arange(m.max() + 1) + 1)
    rest, others = np.repeat(m, spans) - t, np.repeat(j, spans) - 1
    log_p = log_factorial[rest] - log_factorial[others] - log_factorial[rest - others]
    log_p -= np.repeat(log_factorial[m] - log_factorial[j] - log_factorial[m - j], spans)
    rank = np.repeat(above, spans) + t
    return np.add.reduceat(np.exp(log_p) * np.where(rank <= depth, value(rank), 0.0), starts)


def _by_group(
    values_of: Callable[[_Ranked], np.ndarray],
    *,
    by_size: bool = False,
    of_positive: bool = True,
    at_depth: Callable[[int], Metric] | None = None,
) -> Metric:
    """Return the metric of a mean over groups, by their size or each alike."""

    def weighed(ranked: _Ranked) -> np.ndarray:
        total = np.add.reduceat(ranked.weight, ranked.groups)
        return total if by_size else total / ranked.sizes

    def score(y: np.ndarray, p: np.ndarray, *, sample_weight: np.ndarray | None, group: np.ndarray) -> float:
        ranked = _Ranked.of(y, p, np.ones(len(y)) if sample_weight is None else sample_weight, group)
        return float(np.average(values_of(ranked), weights=weighed(ranked)))

    def influence(y: np.ndarray, p: np.ndarray, weight: np.ndarray, group: np.ndarray) -> np.ndarray:
        ranked = _Ranked.of(y, p, weight, group)
        found = np.empty(len(y))
        found[ranked.order] = np.repeat(of_mean(values_of(ranked), weighed(ranked)) / ranked.sizes, ranked.sizes)
        return found

    return Metric(score=score, influence=influence, compares="groups", at_depth=at_depth, of_positive=of_positive)


def _ndcg_at(depth: int) -> Metric:
    return _by_group(partial(_ndcg, depth=depth), at_depth=_ndcg_at)


def _mrr_at(depth: float) -> Metric:
    return _by_group(partial(_first_relevant, depth=depth, value=lambda rank: 1 / rank), at_depth=_mrr_at)


def _hit_rate_at(depth: int) -> Metric:
    return _by_group(partial(_first_relevant, depth=depth, value=np.ones_like), at_depth=_hit_rate_at)


#: By name.
BY_GROUP = {
    "gauc": _by_group(_auc, by_size=True, of_positive=False),
    f"ndcg@{DEPTH}": _ndcg_at(DEPTH),
    "mrr": _mrr_at(np.inf),
    f"hit_rate@{DEPTH}": _hit_rate_at(DEPTH),
}
