"""The rows that stage 3 grows on. In a group, those of a task move to one rank, which grows its trees by itself.

Across LightGBM's network, ranks meet for every leaf of every tree. The trees of a task need no other rank, so dealt
tasks grow as they do in one process, and ranks meet once a round, for the losses that stop them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import lightgbm as lgb
import numpy as np

from tabmtl.estimators.boosted.border import subset
from tabmtl.models.rmtgb.targets import BinnedRows, LongTargets
from tabmtl.processes.ranks import ALONE, Ranks
from tabmtl.schema import Batch
from tabmtl.targets import Kind

_MOST_BYTES = 500_000_000  # that a rank receives at once; moving takes three times as many
_MOST_LOAD = 1.3  # work of the rank with the most, over the mean; the network takes 1.3 times the share of a rank


@dataclass(frozen=True, kw_only=True, eq=False)
class OwnRows:
    """The tasks whose stage 3 this process grows, and their rows.

    Attributes
    ----------
    tasks : list of int
        Tasks of this rank, those with most work first; all tasks, in order, where they are not dealt.
    own_start, shrunk_start : ndarray of shape (T, K)
        The constant before the trees of every task of all ranks: where it goes alone, and where it takes the shared
        part.
    take : callable
        Takes the rows of a task, given whether it goes alone, with a constant (K,) added to their scores.
    group : Ranks
        The ranks to which the tasks are dealt; a group of one where they are not.
    """

    tasks: list[int]
    own_start: np.ndarray
    shrunk_start: np.ndarray
    take: Callable[[int, bool, np.ndarray], BinnedRows]
    group: Ranks

    @classmethod
    def of(cls, before: BinnedRows, after: BinnedRows, constants: np.ndarray, rounds: np.ndarray) -> OwnRows:
        """Take all tasks, or those that are dealt to this rank.

        Parameters
        ----------
        before, after : BinnedRows
            With the scores before stage 1 and after stage 2.
        constants : ndarray of shape (T, K)
            The scores before stage 1.
        rounds : ndarray of int, shape (T,)
            The most rounds of every task.
        """
        starts = {"own_start": before.targets.own_start(), "shrunk_start": after.shrunk_start()}
        work = after.targets.n_labels * (rounds + 1)
        owner = _deal_tasks(after, work) if rounds.any() else None
        if owner is None:

            def take(t: int, goes_alone: bool, start: np.ndarray) -> BinnedRows:
                return (before if goes_alone else after).of_task(t, start)

            return cls(tasks=list(range(after.targets.n_tasks)), take=take, group=ALONE, **starts)
        moved, group = _move(after, owner), after.targets.group
        assert moved is not None  # every task has a label to learn

        def take_moved(t: int, goes_alone: bool, start: np.ndarray) -> BinnedRows:
            rows = moved.of_task(t, start, constants[t] if goes_alone else None)
            assert rows is not None
            return rows

        order = np.argsort(-work, kind="stable")  # so that the k-th tasks of all ranks are alike
        return cls(tasks=order[owner[order] == group.rank].tolist(), take=take_moved, group=group, **starts)

    @property
    def n_tasks(self) -> int:
        """T: tasks of all ranks."""
        return len(self.own_start)

    def starts(self, goes_alone: np.ndarray) -> np.ndarray:
        """Return the constants (T, K) before the trees of every task, given which ones go alone."""
        return np.where(goes_alone[:, None], self.own_start, self.shrunk_start)


class _Labels(NamedTuple):
    """The labels of one task, (m,) each, with the rows that have them and the scores (m, K) there."""

    rows: np.ndarray
    y: np.ndarray
    weight: np.ndarray
    scores: np.ndarray

    @classmethod
    def of(cls, rows: BinnedRows, t: int) -> _Labels:
        """Take the labels of task t that this rank has."""
        targets = rows.targets
        kept = np.flatnonzero(targets.weights_of(t) > 0)
        y, weight, scores = (targets.cells_of(t, each)[..., kept] for each in (targets.y, targets.weight, rows.scores))
        return cls(targets.rows_of(t)[kept], y, weight, scores.T)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Moved:
    """Binned rows of all ranks with a label of the tasks of one rank, and these labels by task."""

    data: lgb.Dataset
    labels: dict[int, _Labels]
    kind: Kind
    width: int
    valid: _Moved | None

    def of_task(self, t: int, start: np.ndarray, constant: np.ndarray | None) -> BinnedRows | None:
        """Take the rows of task t, None without any.

        ``start`` (K,) is added to their scores, or to a constant (K,) in place of these.
        """
        rows, y, weight, scores = self.labels[t]
        if not len(rows):
            return None
        data = subset(self.data, rows)
        before = scores if constant is None else np.broadcast_to(constant, scores.shape)
        return BinnedRows(
            data=data,
            targets=LongTargets(kind=self.kind, width=self.width, y=y, weight=weight, counts=np.array([len(y)])),
            scores=np.ascontiguousarray(before.T) + start[:, None],
            valid=None if self.valid is None else self.valid.of_task(t, start, constant),
            is_shared=data is self.data and len(self.labels) > 1,
        )


def _deal_tasks(rows: BinnedRows, work: np.ndarray) -> np.ndarray | None:
    """Deal the tasks to the ranks by their work (T,): (T,) ranks; None where all ranks grow every task together.

    That is so for one process, where a rank would have no task or far more work than the others, and where it would
    receive too many bytes.
    """
    group = rows.targets.group
    if len(work) < group.size or group.size == 1:
        return None
    owner = group.deal(work)
    loads = np.bincount(owner, work, minlength=group.size)
    # a message from every rank is as long as the longest one
    received = group.size * np.max(group.gather(_bytes_to_move(rows, owner)))
    return owner if loads.max() <= _MOST_LOAD * loads.mean() and received <= _MOST_BYTES else None


def _bytes_to_move(rows: BinnedRows, owner: np.ndarray) -> np.ndarray:
    """Return about how many bytes of this rank's rows, with those to stop on, would move to each rank."""
    targets = rows.targets
    own = [np.count_nonzero(targets.weights_of(t)) for t in range(targets.n_tasks)]
    labels = np.bincount(owner, own, minlength=targets.group.size)
    features = np.minimum(labels, rows.data.num_data()) * rows.data.num_feature()
    moved = 4 * features + 8 * (3 + targets.width) * labels
    return moved if rows.valid is None else moved + _bytes_to_move(rows.valid, owner)


def _move(rows: BinnedRows, owner: np.ndarray) -> _Moved | None:
    """Move the labels of every task, with the features of their rows, to the rank that owns it; None without any.

    All ranks call this, with the same ranks ``owner`` (T,) of the tasks.
    """
    group, source = rows.targets.group, rows.source
    assert source is not None
    batches: list[Batch] = []
    parts: list[dict[int, _Labels]] = []
    for rank in range(group.size):
        labels = {t: _Labels.of(rows, t) for t in np.flatnonzero(owner == rank).tolist()}
        index = np.unique(np.concatenate([own.rows for own in labels.values()]))
        labels = {t: own._replace(rows=np.searchsorted(index, own.rows)) for t, own in labels.items()}
        batches = source.read(index).gathered(group, rank) or batches
        parts = group.gather(labels, rank) or parts
    valid = None if rows.valid is None else _move(rows.valid, owner)
    firsts = np.cumsum([0] + [len(features) for features in batches])
    if not firsts[-1]:
        return None
    found = {t: _join([(_Labels(*own[t]), first) for own, first in zip(parts, firsts, strict=False)]) for t in parts[0]}
    data = source.bin(Batch.join(batches))
    return _Moved(data=data, labels=found, kind=rows.targets.kind, width=rows.targets.width, valid=valid)


def _join(parts: Sequence[tuple[_Labels, int]]) -> _Labels:
    """Join labels of one task, given the number of the first row of every part."""
    numbered = [own._replace(rows=own.rows + first) for own, first in parts]
    return _Labels(*map(np.concatenate, zip(*numbered, strict=True)))
