"""Heads of tasks that come later: they read what a fitted network computes, which stays as it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from tabmtl.base.schema import Batch
from tabmtl.encode import TableCoder
from tabmtl.estimators.added import Head
from tabmtl.estimators.fitted_network import FittedNetwork, Machine
from tabmtl.model_selection.stratify import Strata, deal_groups
from tabmtl.nn.grown import NewHead, Reading, read_network
from tabmtl.training.device import find_device, on_device, threads
from tabmtl.training.penalised import Labels, Linear, learn_by_folds
from tabmtl.training.predict import apply_rows

_FOLDS = 5
_MOST_ROWS = 20_000  # of a new task that its head learns from


def with_new_heads(
    fitted: FittedNetwork, coder: TableCoder, batch: Batch, head: Head | None, seed: int, machine: Machine
) -> FittedNetwork:
    """Return a network with heads of the tasks of a coder behind its own, learned from labelled rows in own units."""
    network = fitted.grown(find_device(machine.device))
    tasks = coder.labels.tasks
    with threads(machine.n_jobs, network):
        new = range(len(fitted.tasks), len(tasks))
        learner = _HeadLearner(fitted, network.base, coder, batch, machine)
        heads = [learner.learn(t, head or LinearHead(), seed) for t in new]
    return fitted.with_tasks(heads, tasks, find_device(machine.device))


@dataclass(frozen=True, eq=False)
class _HeadLearner:
    """Learns heads that read the base of a fitted network."""

    fitted: FittedNetwork
    base: Any
    coder: TableCoder
    batch: Batch
    machine: Machine

    def learn(self, t: int, way: Head, seed: int) -> torch.nn.Module:
        """Learn the head of a new task from the rows with a label."""
        coder, batch = self.coder, self.batch
        column = 0 if batch.task is not None else t
        is_labelled = ~np.isnan(batch.y[:, column]) & (True if batch.task is None else batch.task == t)
        rows = np.flatnonzero(is_labelled)
        rng = np.random.default_rng([seed, t])
        if len(rows) > _MOST_ROWS:
            rows = np.sort(rng.choice(rows, _MOST_ROWS, replace=False))
        own, task = batch.rows(rows), coder.labels.tasks[t]
        y = coder.labels.standardize(own.y)[:, column].astype(np.float64)
        weight = np.ones(len(rows)) if own.weight is None else own.weight[:, column].astype(np.float64)
        labels = Labels(task=task, y=y, weight=weight)
        group = np.arange(len(rows)) if own.group is None else np.unique(own.group, return_inverse=True)[1]
        n_folds = min(_FOLDS, group.max() + 1)
        strata = Strata.of(own.y[:, [column]], [task])
        fold = deal_groups(strata, group, np.full(n_folds, 1 / n_folds), rng)
        return _fitted_head(self._read(own), way, labels, fold).to(next(self.base.parameters()).device)

    def _read(self, batch: Batch) -> Reading:
        """Return what new tasks read of the base, for all rows of a batch."""
        is_long = batch.task is not None

        def read(x: Any, task: Any) -> list[torch.Tensor]:
            found = read_network(self.base, x, is_long=is_long)
            return [*found.blocks, found.lent]

        device = next(self.base.parameters()).device
        some_task = None if batch.task is None else np.zeros_like(batch.task)
        rows = on_device(Batch(x=batch.x, task=some_task), device)
        found = apply_rows(self.base, read, rows, self.machine.precision, batch_size=self.fitted.batch_size)
        *blocks, lent = (part.cpu() for part in found)
        return Reading(blocks, lent, [])


class LinearHead:
    """A linear layer on all blocks, each of which counts alike whatever its width."""

    def learn(self, blocks: Sequence[np.ndarray], labels: Labels, fold: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return weights and constants; see `tabmtl.estimators.added.Head`."""
        flat = [block.reshape(len(block), -1) for block in blocks]
        counts = [max(int((block != 0).any(axis=0).sum()), 1) for block in flat]  # of features that vary
        factors = np.concatenate([np.full(block.shape[1], n**-0.5) for block, n in zip(flat, counts, strict=True)])
        found = learn_by_folds(Linear(), np.concatenate(flat, axis=1) * factors, labels, fold)
        return found.linear * factors[:, None], found.bias


def _fitted_head(read: Reading, way: Head, labels: Labels, fold: np.ndarray) -> NewHead:
    """Learn the head of a task."""
    features = torch.cat(read.blocks, dim=1)
    head = NewHead(features.shape[1], labels.task.width)
    head.standardised.learn(features)
    standardised = head.standardised(features).cpu().numpy().astype(np.float64)
    ends = np.cumsum([block.shape[1] for block in read.blocks])[:-1]
    of_heads, lent, vectors = np.split(standardised, ends, axis=1)
    _set(head.linear, *way.learn([of_heads, lent.reshape(read.lent.shape), vectors], labels, fold))
    return head


def _set(layer: Any, weight: np.ndarray, bias: np.ndarray) -> None:
    """Set the first inputs of the one layer of a stack; the others are padding, and count nothing."""
    layer.weight.data.zero_()
    layer.weight.data[0, : len(weight)] = torch.from_numpy(weight)
    layer.bias.data[0] = torch.from_numpy(bias)
