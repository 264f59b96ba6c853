"""Heads of tasks that come later: they read what a fitted network computes, which stays as it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
import torch

from tabmtl.encode import TableCoder
from tabmtl.estimators.added import Method
from tabmtl.estimators.fitted_network import FittedNetwork, Machine
from tabmtl.estimators.lineage import Lineage
from tabmtl.model_selection.stratify import Strata, deal_groups
from tabmtl.nn.grown import NewHead, Reading, ScaledHead, read_network, sources_of
from tabmtl.schema import Batch
from tabmtl.targets import Task
from tabmtl.training.device import find_device, on_device, threads
from tabmtl.training.penalised import Labels, Linear, Scaled, learn_by_folds
from tabmtl.training.predict import apply_rows

_FOLDS = 5
_MOST_ROWS = 20_000  # of a new task that its head learns from


def with_new_heads(
    fitted: FittedNetwork, coder: TableCoder, batch: Batch, method: Method, seed: int, machine: Machine
) -> FittedNetwork:
    """Return a network with heads of the tasks of a coder behind its own, learned from labelled rows in own units."""
    network = fitted.grown(find_device(machine.device))
    tasks = coder.labels.tasks
    with threads(machine.n_jobs, network):
        new = range(len(fitted.tasks), len(tasks))
        learner = _HeadLearner(fitted, network.base, coder, batch, machine)
        heads = [learner.learn(t, method, seed) for t in new]
    return fitted.with_tasks(heads, tasks, method, find_device(machine.device))


def task_transfer(fitted: FittedNetwork, tasks: Sequence[Task]) -> pl.DataFrame:
    """Return what the tasks of the fit lend those added by ScaLearn, in the columns of ``task_transfer_``.

    Raises
    ------
    AttributeError
        If no task was added so.
    """
    lineage = fitted.lineage or Lineage.of(fitted.tasks)
    found = [own for own in lineage.added if own[2] != "head"]
    if not found:
        raise AttributeError("task_transfer_ is of tasks added by add_task(X, y, method='scalearn'), and none was")
    names = [lineage.base[t].name for t in sources_of(len(lineage.base), is_long=fitted.is_long)]
    frames = []
    for number, place, _ in found:
        scale = fitted.weights[f"added.{number}.scale"].astype(np.float64)
        size = np.abs(scale).mean(axis=1)
        own = {"source": names, "scale": scale.mean(axis=1), "share": size / max(size.sum(), 1e-300)}
        frames.append(pl.DataFrame({"task": [tasks[place].name] * len(names)} | own))
    return pl.concat(frames)


@dataclass(frozen=True, eq=False)
class _HeadLearner:
    """Learns heads that read the base of a fitted network."""

    fitted: FittedNetwork
    base: Any
    coder: TableCoder
    batch: Batch
    machine: Machine

    def learn(self, t: int, method: Method, seed: int) -> torch.nn.Module:
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
        read = self._read(own)
        if method == "head":
            head: torch.nn.Module = _fitted_head(read, labels, fold)
        else:
            head = _fitted_scales(read, labels, fold, is_uniform=method == "scalearn_uniform")
        return head.to(next(self.base.parameters()).device)

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


def _fitted_head(read: Reading, labels: Labels, fold: np.ndarray) -> NewHead:
    """Learn a linear layer on all blocks, each of which counts alike whatever its width."""
    features = torch.cat(read.blocks, dim=1)
    head = NewHead(features.shape[1], labels.task.width)
    head.standardised.learn(features)
    varies = (head.standardised.rate > 0).split([block.shape[1] for block in read.blocks])
    factors = np.concatenate([np.full(len(own), max(int(own.sum()), 1) ** -0.5) for own in varies])
    standardised = head.standardised(features).cpu().numpy().astype(np.float64)
    found = learn_by_folds(Linear(), standardised * factors, labels, fold)
    _set(head.linear, found.linear * factors[:, None], found.bias)
    return head


def _fitted_scales(read: Reading, labels: Labels, fold: np.ndarray, *, is_uniform: bool) -> ScaledHead:
    """Learn the scales of the sources, and a linear layer on the sum."""
    (_, n_sources, d_in), width = read.lent.shape, labels.task.width
    head = ScaledHead(n_sources, d_in, width, is_uniform=is_uniform)
    head.standardised.learn(read.lent)
    standardised = head.standardised(read.lent).cpu().numpy().astype(np.float64)
    found = learn_by_folds(Scaled(is_uniform), standardised / d_in**0.5, labels, fold)
    _set(head.linear, found.linear / d_in**0.5, found.bias)
    if found.scale is not None:
        head.scale.data = torch.from_numpy(found.scale.astype(np.float32))
    return head


def _set(layer: Any, weight: np.ndarray, bias: np.ndarray) -> None:
    """Set the first inputs of the one layer of a stack; the others are padding, and count nothing."""
    layer.weight.data.zero_()
    layer.weight.data[0, : len(weight)] = torch.from_numpy(weight)
    layer.bias.data[0] = torch.from_numpy(bias)
