"""Assign rows, or whole groups of rows, to folds so that each fold holds its share of every task and class.

Iterative stratification of multi-label data (Sechidis et al., "On the Stratification of Multi-Label Data", 2011),
stratum by stratum instead of row by row. A stratum is the labelled rows of a regression task, or one class of a
classification task. From the rarest stratum to the most frequent, its rows without a fold go to the folds that need
them most; the stratum of all rows comes last and evens out the sizes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy import sparse

from tabmtl.targets import Task

#: Tables of few rows and many classes may take several shuffles until every fold holds every class.
ATTEMPTS = 10

_MOST_BUNDLES = 4_096  # of groups, assigned one by one


@dataclass(frozen=True, eq=False)
class Strata:
    """Strata of every row: at most one per task, and the stratum of all rows, which is the last.

    Parameters
    ----------
    codes : ndarray of int, shape (C + 1, n)
        Number of the row's stratum, 0..S-1, by column of y; the last line is the stratum of all rows. S stands
        for an unlabelled cell.
    task : ndarray of int, shape (S,)
        Index of the task of each stratum; T, the number of tasks, for the one of all rows.
    classes : tuple
        Class label of each of the S strata, None for a regression task.
    """

    codes: np.ndarray
    task: np.ndarray
    classes: tuple[Any, ...]

    @classmethod
    def of(cls, y: np.ndarray, tasks: Sequence[Task], task: np.ndarray | None = None) -> Strata:
        """Number the strata of labels.

        Parameters
        ----------
        y : ndarray of shape (n, T)
            NaN = unlabelled, class indices of ``task.classes``. In the long layout (n, 1).
        tasks : sequence of Task
            The T tasks; those of classification have classes.
        task : ndarray of int, shape (n,), optional
            Long layout: the index of every row's own task.
        """
        sizes = [len(each.classes or (None,)) for each in tasks]
        first = np.cumsum([0, *sizes])  # (T + 1,), the last one is the stratum of all rows
        unlabelled = first[-1] + 1
        codes = np.full((y.shape[1] + 1, len(y)), first[-1], dtype=np.min_scalar_type(unlabelled))
        for column, labels in enumerate(y.T):
            start = first[column] if task is None else first[task]
            missing = np.isnan(labels)
            index = tasks[column].kind.strata(np.where(missing, 0, labels))
            codes[column] = np.where(missing, unlabelled, start + index)
        classes = [label for each in tasks for label in each.classes or (None,)]
        return cls(codes, np.repeat(np.arange(len(sizes) + 1), [*sizes, 1]), (*classes, None))

    def count(self, fold: np.ndarray, n_folds: int) -> np.ndarray:
        """Count the rows of each stratum in each fold, (n_folds, S), given the fold (n,) of each row."""
        width = len(self.task) + 1
        counts = sum(np.bincount(fold * width + code, minlength=n_folds * width) for code in self.codes)
        return np.reshape(counts, (n_folds, width))[:, :-1]

    def take(self, rows: np.ndarray) -> Strata:
        """Return the strata of some rows, in their order."""
        return replace(self, codes=self.codes[:, rows])

    def spread(self, group: np.ndarray | None) -> np.ndarray:
        """Count the rows, or groups, of each stratum, (S,): a stratum can be in that many folds at most."""
        if group is None:
            return self.count(np.zeros(self.codes.shape[1], dtype=np.intp), 1)[0]
        return np.diff(_count_groups(self, group).tocsc().indptr)


def deal_rows(strata: Strata, shares: np.ndarray, rng: np.random.Generator | None) -> np.ndarray:
    """Assign every row to a fold.

    Parameters
    ----------
    strata : Strata
        Of n rows.
    shares : ndarray of shape (F,)
        Share of the rows for each fold; they sum to 1.
    rng : Generator or None
        Chooses among rows with the same labels; None takes them in their order.

    Returns
    -------
    ndarray of int, shape (n,)
        Fold of each row.
    """
    # Neighbours in this order have the same labels, so dealing in turns evens out their other strata as well.
    order = _by_signature(strata, rng)
    ordered = strata.take(order)
    # A table in the long layout has one line of labels for all tasks.
    line = np.append(np.minimum(strata.task[:-1], len(strata.codes) - 2), -1)
    left = strata.spread(None)
    target = np.outer(shares, left)  # (F, S)
    held = np.zeros_like(target)
    fold = np.full(len(order), -1)
    while left.any():
        rarest = _rarest(left)
        rows = np.flatnonzero((ordered.codes[line[rarest]] == rarest) & (fold < 0))
        need = target - held
        fold[rows] = _in_turns(_quotas(len(rows), need[:, rarest], held[:, rarest], need[:, -1]), rng)
        added = ordered.take(rows).count(fold[rows], len(shares))
        held += added
        left -= added.sum(axis=0)
    dealt = np.empty_like(fold)
    dealt[order] = fold
    return dealt


def deal_groups(strata: Strata, group: np.ndarray, shares: np.ndarray, rng: np.random.Generator | None) -> np.ndarray:
    """Assign every group of rows to a fold.

    Groups of the rarest stratum come first, those with most of its rows before the others; each goes to a fold
    that lacks this stratum, and among those to the fold that then has the fewest rows of the strata in the group,
    for its share. Where shares differ, a fold without the stratum has to wait until only the last groups can fill
    it: the largest group would fill a small fold.

    Parameters
    ----------
    strata : Strata
        Of n rows.
    group : ndarray of int, shape (n,)
        Group of each row, 0..G-1.
    shares : ndarray of shape (F,)
        Share of the rows for each of at most G folds; they sum to 1.
    rng : Generator or None
        Chooses among groups of the same size; None takes them in their order.

    Returns
    -------
    ndarray of int, shape (n,)
        Fold of each row.
    """
    counts = _count_groups(strata, group)  # (G, S)
    by_stratum = counts.tocsc()
    total = counts.sum(axis=0)
    left = np.diff(by_stratum.indptr)
    held = np.zeros((len(shares), len(total)))
    fold = np.full(counts.shape[0], -1)
    scale = shares.max() / shares
    alike = bool((scale == 1).all())
    while left.any():
        rarest = _rarest(left)
        span = slice(*by_stratum.indptr[rarest : rarest + 2])
        for g in _largest_first(by_stratum.indices[span], by_stratum.data[span], rng):
            if fold[g] >= 0:
                continue
            span = slice(*counts.indptr[g : g + 2])
            present, rows = counts.indices[span], counts.data[span]
            weight = rows / total[present] ** 2
            crowding = scale * (held[:, present] @ weight) + (scale - 1) * (rows @ weight)
            lacking = held[:, rarest] == 0
            if lacking.any() and (alike or left[rarest] <= lacking.sum()):
                crowding[~lacking] = np.inf
            fold[g] = crowding.argmin()
            held[fold[g], present] += rows
            left[present] -= 1
    return fold[group]


def train_valid_split(
    y: np.ndarray,
    tasks: Sequence[Task],
    fraction: float,
    rng: np.random.Generator,
    task: np.ndarray | None = None,
    group: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Split rows in two parts that each hold labels of every task and class with at least two rows.

    With groups, the parts hold those of every task and class in at least two groups, unless the groups are so
    entangled that several shuffles fail; the part to validate on is then about as large as the fraction.

    Parameters
    ----------
    y : ndarray of shape (n, T)
        Encoded labels: NaN = unlabelled, class indices for classification. In the long layout (n, 1).
    tasks : sequence of Task
        The T tasks, with the classes that fit learned.
    fraction : float
        Part of the rows to validate on, between 0 and 1 exclusive. At least one row goes to each side.
    rng : Generator
        Chooses the rows.
    task : ndarray of int, shape (n,), optional
        Long layout: the index of every row's own task.
    group : ndarray of int, shape (n,), optional
        Number of every row's group, any whole numbers; rows of one group stay together.

    Returns
    -------
    train, valid : ndarray of int
        Sorted row numbers.

    Raises
    ------
    ValueError
        If there is only one row or one group, no task or class has labels in two groups, or the fraction is not
        between 0 and 1.

    Examples
    --------
    >>> import numpy as np
    >>> late = Task(name="late", kind="binary", classes=("no", "yes"))
    >>> y = np.array([[0, 1, 0, 1, 0, 0, 0, 0]]).T
    >>> train, valid = train_valid_split(y, [late], 0.25, np.random.default_rng(0))
    >>> len(train), len(valid), int(y[valid].sum())
    (6, 2, 1)
    """
    if not 0 < fraction < 1:
        raise ValueError(f"the fraction of rows to validate on must be between 0 and 1, got {fraction!r}")
    if len(y) < 2:
        raise ValueError(f"expected at least two rows to split into training and validation, got {len(y)}")
    strata = Strata.of(y, tasks, task)
    shares = np.array([1 - fraction, fraction])
    if group is None:
        unit = np.arange(len(y))
        part = deal_rows(strata, shares, rng)
    else:
        unit = number_units(group, tasks)
        part = _deal_bundles(strata, unit, shares, rng)
    absent = np.append(strata.count(part, 2)[0] == 0, False)  # the last is unlabelled
    # a stratum that fits on one side only goes to training
    rare = np.isin(unit, unit[absent[strata.codes].any(axis=0)])
    if ((part == 1) & ~rare).any():
        part[rare] = 0
    for side in (0, 1):
        if not (part == side).any():
            part[unit == unit[rng.integers(len(part))]] = side
    return np.flatnonzero(part == 0), np.flatnonzero(part == 1)


def number_units(group: np.ndarray, tasks: Sequence[Task]) -> np.ndarray:
    """Number the groups (n,) of labelled rows from 0, and raise a ValueError where there is but one to split."""
    unit = np.unique(group, return_inverse=True)[1]
    if not unit.any():
        whose = f" of task {tasks[0].name!r}" if len(tasks) == 1 else ""
        raise ValueError(
            f"the labelled rows{whose} are all in one group, so none can be set aside for early stopping; give smaller "
            "groups, or X_val and y_val, or set early_stopping=False"
        )
    return unit


def _deal_bundles(strata: Strata, group: np.ndarray, shares: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Assign many groups as bundles: of a few attempts the first without a gap that can be filled, or the last.

    A bundle takes its groups evenly from all of them in the order of their strata, so it resembles the table.
    """
    attainable = strata.spread(group) >= len(shares)
    if not attainable[:-1].any() and (strata.spread(None)[:-1] > 1).any():
        raise ValueError(
            "no task or class has labels in two groups, so no rows set aside for early stopping could judge what is "
            "learned; give smaller groups, or X_val and y_val, or set early_stopping=False"
        )
    counts = _count_groups(strata, group)
    keys = np.random.default_rng(0).integers(2**63, size=counts.shape[1])  # hash keys, not choices
    for _ in range(ATTEMPTS):
        bundle = group
        if counts.shape[0] > _MOST_BUNDLES:
            order = rng.permutation(counts.shape[0])
            order = order[np.argsort((counts @ keys)[order], kind="stable")]
            bundle = np.empty_like(order)
            bundle[order] = np.arange(len(order)) % _MOST_BUNDLES
            bundle = bundle[group]
        fold = deal_groups(strata, bundle, shares, rng)
        if strata.count(fold, len(shares))[:, attainable].all():
            break
    return fold


def _rarest(left: np.ndarray) -> int:
    """Return the stratum with the fewest rows left, at least one; of equals the first, so that all rows come last."""
    return int(np.where(left > 0, left, np.inf).argmin())


def _count_groups(strata: Strata, group: np.ndarray) -> sparse.csr_array:
    """Count the rows of each stratum in each group, (G, S)."""
    ones = np.ones(strata.codes.size, dtype=np.int64)
    index = (np.tile(group, len(strata.codes)), strata.codes.ravel())
    return sparse.coo_array((ones, index), shape=(group.max() + 1, len(strata.task) + 1)).tocsr()[:, :-1]


def _by_signature(strata: Strata, rng: np.random.Generator | None) -> np.ndarray:
    """Order the rows so that those in the same strata stand side by side, shuffled among themselves."""
    n = strata.codes.shape[1]
    order = np.arange(n) if rng is None else rng.permutation(n)
    # A fixed seed: these are hash keys, not choices.
    keys = np.random.default_rng(0).integers(2**64, size=len(strata.task) + 1, dtype=np.uint64)
    signature = np.zeros(n, dtype=np.uint64)
    for code in strata.codes:
        signature ^= keys[code]
    return order[np.argsort(signature[order], kind="stable")]


def _quotas(count: int, need: np.ndarray, held: np.ndarray, room: np.ndarray) -> np.ndarray:
    """Divide ``count`` rows: one to each fold that holds none, then by need, rounded in favour of room.

    Parameters
    ----------
    count : int
        Sum of the quotas and of the needs.
    need, held : ndarray of shape (F,)
        Rows of the stratum that each fold still needs and already holds.
    room : ndarray of shape (F,)
        Rows of any stratum that each fold still needs.
    """
    quota = np.zeros(len(need), dtype=np.intp)
    empty = np.flatnonzero(held == 0)
    quota[empty[np.lexsort((-room[empty], -need[empty]))][:count]] = 1
    open_need = np.clip(need - quota, 0, None)
    if open_need.any():
        exact = open_need * ((count - quota.sum()) / open_need.sum())
        # Rounded, because equal needs differ in their last bits.
        whole = np.floor(np.round(exact, 9))
        quota += whole.astype(np.intp)
        rounded_up = np.lexsort((-room, -np.round(exact - whole, 9)))[: count - quota.sum()]
        quota[rounded_up] += 1
    return quota


def _in_turns(quotas: np.ndarray, rng: np.random.Generator | None) -> np.ndarray:
    """Return a sequence in which fold f occurs ``quotas[f]`` times, spread evenly."""
    n_folds = len(quotas)
    rank = np.arange(n_folds) if rng is None else rng.permutation(n_folds)
    fold = np.repeat(np.arange(n_folds), quotas)
    turn = np.arange(len(fold)) - np.repeat(np.cumsum(quotas) - quotas, quotas)
    return fold[np.argsort((turn + (rank[fold] + 0.5) / n_folds) / quotas[fold], kind="stable")]


def _largest_first(groups: np.ndarray, rows: np.ndarray, rng: np.random.Generator | None) -> np.ndarray:
    """Order groups by falling number of rows, shuffled among those of the same number."""
    order = np.arange(len(groups)) if rng is None else rng.permutation(len(groups))
    return groups[order[np.argsort(-rows[order], kind="stable")]]


def deal(
    y: np.ndarray,
    tasks: Sequence[Task],
    task: np.ndarray | None,
    group: np.ndarray | None,
    n_folds: int,
    seed: int,
) -> np.ndarray:
    """Deal rows, or their groups, to folds (n,), so that every fold has its share of the labels of every task."""
    strata, rng = Strata.of(y, tasks, task), np.random.default_rng(seed)
    unit = np.arange(len(y)) if group is None else number_units(group, tasks)
    n_folds = min(int(unit.max()) + 1, n_folds)
    shares = np.full(n_folds, 1 / n_folds)
    return deal_rows(strata, shares, rng) if group is None else deal_groups(strata, unit, shares, rng)
