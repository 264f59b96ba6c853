"""The rows that stage 3 grows on. In a group, those of a task move to one rank, which grows its trees by itself.

Across LightGBM's network, ranks meet for every leaf of every tree. The trees of a task need no other rank, so dealt
tasks grow as they do in one process, and ranks meet once a round, for the losses that stop them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from tabmtl.models.rmtgb.targets import BinnedRows, LongTargets, Targets
from tabmtl.processes.group import ALONE, Group
from tabmtl.schema import Batch

_MOST_VALUES = 50_000_000  # features of the rows that move to one rank: 200 MB, three times that while they move


@dataclass(frozen=True, kw_only=True, eq=False)
class OwnRows:
    """The rows of the tasks whose stage 3 this process grows.

    Attributes
    ----------
    tasks : list of int
        Numbers of the tasks, ascending; without a group that is dealt to, all.
    before, after : BinnedRows
        Their rows, with the scores before stage 1 and after stage 2.
    own_start, shrunk_start : ndarray of shape (T, K)
        Constants before the trees of every task, of any rank, if it goes alone, and if it does not.
    group : Group
        The ranks to which the tasks are dealt; a group of one where all ranks grow every task together.
    """

    tasks: list[int]
    before: BinnedRows
    after: BinnedRows
    own_start: np.ndarray
    shrunk_start: np.ndarray
    group: Group

    @classmethod
    def of(cls, before: BinnedRows, after: BinnedRows, start: np.ndarray, *, is_dealt: bool) -> OwnRows:
        """Take all tasks, or those that are dealt to this rank; ``start`` (T, K) are the scores before stage 1."""
        constants = {"own_start": before.targets.own_start(), "shrunk_start": after.shrunk_start()}
        owner = _deal_tasks(after) if is_dealt else None
        if owner is None:
            every = list(range(after.targets.n_tasks))
            return cls(tasks=every, before=before, after=after, group=ALONE, **constants)
        group, moved = after.targets.group, _move_rows(after, owner)
        assert moved is not None  # every task has a label to learn
        own = np.flatnonzero(owner == group.rank)
        before = moved.with_constants(start[own])
        return cls(tasks=own.tolist(), before=before, after=moved, group=group, **constants)

    @property
    def n_tasks(self) -> int:
        """T: tasks of all ranks."""
        return len(self.own_start)

    def starts(self, goes_alone: np.ndarray) -> np.ndarray:
        """Return the constants (T, K) before the trees of every task, given which ones go alone."""
        return np.where(goes_alone[:, None], self.own_start, self.shrunk_start)

    def of_task(self, t: int, start: np.ndarray, goes_alone: bool) -> BinnedRows:
        """Take the rows of a task of this process, with a constant (K,) added to their scores."""
        return (self.before if goes_alone else self.after).of_task(self.tasks.index(t), start)


def _deal_tasks(rows: BinnedRows) -> np.ndarray | None:
    """Deal the tasks to the ranks: (T,) ranks; None where all ranks grow every task together.

    That is so for one process, where a rank would have no task, and where the rows of its tasks are too many for one.
    """
    targets, group = rows.targets, rows.targets.group
    if group.size == 1 or targets.n_tasks < group.size:
        return None
    owner = group.deal(targets.n_labels)
    moved = group.total(np.array([len(targets.labelled(tasks)) for tasks in _tasks_by_rank(owner, group.size)]))
    return owner if moved.max() * rows.data.num_feature() <= _MOST_VALUES else None


def _move_rows(rows: BinnedRows, owner: np.ndarray) -> BinnedRows | None:
    """Move the rows with a label of a task to its rank; return those of this rank's tasks, in order, None without any.

    All ranks call this, with the same ranks ``owner`` (T,) of the tasks.
    """
    group = rows.targets.group
    found: list[tuple[Batch, np.ndarray]] = []
    for rank, tasks in enumerate(_tasks_by_rank(owner, group.size)):
        parts = group.gather(_rows_to_move(rows, tasks), to=rank)
        found = parts if rank == group.rank else found
    valid = None if rows.valid is None else _move_rows(rows.valid, owner)
    batch, scores = Batch.join([part for part, _ in found]), np.concatenate([part for _, part in found])
    if not len(batch):
        return None
    if batch.task is not None:
        order = np.argsort(batch.task, kind="stable")
        batch, scores = batch.rows(order), scores[order]
    assert rows.source is not None
    return BinnedRows(
        data=rows.source.bin(batch),
        targets=_targets_of(batch, rows.targets, int((owner == group.rank).sum())),
        scores=np.ascontiguousarray(np.moveaxis(scores, 0, -1)),
        valid=valid,
    )


def _tasks_by_rank(owner: np.ndarray, n_ranks: int) -> list[np.ndarray]:
    return [np.flatnonzero(owner == rank) for rank in range(n_ranks)]


def _rows_to_move(rows: BinnedRows, tasks: np.ndarray) -> tuple[Batch, np.ndarray]:
    """Return this rank's rows with a label of some tasks, whose numbers count from 0, and the scores of their cells."""
    assert rows.source is not None
    targets = rows.targets
    index = targets.labelled(tasks)
    features = rows.source.read(index)
    y, weight, scores = (
        np.moveaxis(targets.cells_at(tasks, index, cells), -1, 0) for cells in (targets.y, targets.weight, rows.scores)
    )
    task = np.searchsorted(tasks, targets.task[index]) if isinstance(targets, LongTargets) else None
    return replace(features, y=y, weight=weight, task=task), scores


def _targets_of(batch: Batch, targets: Targets, n_tasks: int) -> Targets:
    """Return the moved labels of one rank's tasks."""
    y, weight = np.ascontiguousarray(batch.y.T), np.ascontiguousarray(batch.weight.T)
    if batch.task is None:
        return Targets(kind=targets.kind, width=targets.width, y=y, weight=weight)
    counts = np.bincount(batch.task, minlength=n_tasks)
    return LongTargets(kind=targets.kind, width=targets.width, y=y, weight=weight, counts=counts)
