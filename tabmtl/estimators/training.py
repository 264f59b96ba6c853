"""Training of the network of one estimator: rows are set aside, epochs are run, and fitted attributes come of it.

A training begins with a new network, or goes on from what the estimator has learned.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import polars as pl
import torch

from tabmtl.base.params import near
from tabmtl.base.schema import Batch, DivergenceError, unsaid
from tabmtl.base.storage.stored import fingerprint
from tabmtl.encode import TableCoder
from tabmtl.estimators.drifting import asking, drawn
from tabmtl.estimators.fitted_network import FittedNetwork
from tabmtl.estimators.rows import TO_SET_ASIDE, FitRows
from tabmtl.metrics.scores import is_by_group, score_tasks
from tabmtl.nn.growth import Growth
from tabmtl.targets import Task
from tabmtl.training.balance import Balancer, weights_of
from tabmtl.training.device import find_device, on_device, seed_of, seeded, threads
from tabmtl.training.epochs import Span, Trained, run_epochs, schedule, trained_attributes, warn_if_rising
from tabmtl.training.hooks import Record, epochs_as_tasks
from tabmtl.training.losses import MultiTaskLoss
from tabmtl.training.memory import check_memory
from tabmtl.training.predict import represent_rows
from tabmtl.training.rows import Rows
from tabmtl.training.run import Run, running
from tabmtl.training.table_loop import Evaluate, TableLoop, settle_statistics, step_rows
from tabmtl.training.watch import describe_tasks

#: Factor of the learning rate in passes over new rows; see docs/lab.md.
PASS_RATE = 1 / 3
_ROWS_TO_SPLIT = 20  # fewer rows are all trained on: a validation part would hold next to nothing


@dataclass(frozen=True, kw_only=True, eq=False)
class NetworkTraining:
    """Trains the network of one estimator, from encoded rows to fitted attributes.

    Parameters
    ----------
    estimator : NetworkEstimator
        Gives the network, its loss, and the parameters of training.
    coder : TableCoder
        Of the rows.
    seed : int
    before : FittedNetwork, optional
        What the training goes on from, whose levels and classes the coder knows in their places; by default the network
        is a new one.
    """

    estimator: Any  # whose module imports this one
    coder: TableCoder
    seed: int
    before: FittedNetwork | None = None

    def fit(self, rows: FitRows, valid: FitRows | None) -> dict[str, Any]:
        """Train on rows, and return the fitted attributes."""
        estimator, coder = self.estimator, self.coder
        is_given = valid is not None
        rows, valid = self.set_aside(rows, valid)
        device = find_device(estimator.device)

        def prepare(batch: Batch) -> Batch:
            return on_device(in_training_units(batch, coder), device)

        asked = rows if valid is None else valid
        least = 0 if is_given else estimator.min_frequency
        answered = asking(drawn(coder, asked, least), estimator, are_learned=valid is None)
        read, judging = rows.to_train(prepare, self.seed), None if valid is None else valid.to_train(prepare, self.seed)
        del rows, valid, asked  # parts of a frame are copies, and the whole is needed no longer
        loss, judge = estimator._loss(coder.labels.tasks), partial(evaluate_scores, coder)
        return self.learn(read, judging, loss, judge) | {"answered": answered}

    def set_aside(self, rows: FitRows, valid: FitRows | None) -> tuple[FitRows, FitRows | None]:
        """Return the rows to learn from and those to validate on, which are set aside if none are given.

        That begins the training, so a network beyond the memory and a monitor without labels are errors here.
        """
        estimator, tasks = self.estimator, self.coder.labels.tasks
        check_monitor(estimator, tasks, valid)
        self._check_memory(len(rows))
        if valid is None and estimator.early_stopping and len(rows) >= _ROWS_TO_SPLIT:
            rows, valid = rows.split(estimator.validation_fraction, self.seed)
            if estimator.monitor != "mean":
                check_monitor(estimator, tasks, valid, were_set_aside=True)
        return rows, valid

    def _check_memory(self, n_rows: int) -> None:
        """Raise an error for a network beyond the memory, where its tokens of all columns look at each other."""
        estimator = self.estimator
        if estimator._token_width is not None:
            with seeded(0, torch.device("cpu")):
                check_memory(
                    type(estimator).__name__,
                    lambda columns: estimator._network(columns, self.coder.labels.tasks),
                    self.coder.features.columns,
                    find_device(estimator.device),
                    cure=f"{estimator._token_width} or batch_size",
                    n_rows=min(step_rows(estimator.batch_size, n_rows), n_rows),
                    precision=estimator.precision,
                    is_long=estimator.task_column is not None,
                )

    def learn(
        self,
        rows: Rows,
        valid: Rows | None,
        loss: MultiTaskLoss,
        evaluate: Evaluate,
        *,
        only_pass: Span | None = None,
    ) -> dict[str, Any]:
        """Train a network on rows with the labels that the loss takes, and return the fitted attributes.

        A pass is at a constant rate.
        """
        run, estimator, device = running(), self.estimator, find_device(self.estimator.device)
        if run.checkpoint is not None:
            run.checkpoint.agree({"the checksum of columns and tasks": fingerprint(self.coder)})
        with seeded(self.seed, device):
            network = self._network(device)
            loss.task_weight = loss.task_weight * torch.tensor(weights_of(estimator.balance, loss.tasks))
            with threads(estimator.n_jobs, network):
                loop = TableLoop(
                    estimator,
                    network,
                    loss,
                    rows,
                    valid,
                    balancer=self._balancer(network, rows),
                    evaluate=[evaluate],
                    rate=schedule if only_pass is None else lambda progress: PASS_RATE,
                )
                if run.group.rank:  # the networks are the same, the noise is not
                    torch.manual_seed(seed_of(self.seed, run.group.rank))
                own = self._run(run, loop, only_pass)
                return self.trained(network, loop.data, loop.batch_size, own)

    def _run(self, run: Run, loop: TableLoop, only_pass: Span | None) -> Trained:
        """Run the epochs, which the callbacks see."""
        estimator, describe = self.estimator, partial(describe_tasks, self.coder.labels.tasks)
        with epochs_as_tasks(run.task, estimator.on_epoch, partial(self._so_far, loop)) as hook:
            (own,) = run_epochs(
                [loop.network], loop, estimator, run=run, on_epoch=hook, describe=describe, span=only_pass
            )
        if only_pass is not None:
            _check_finite(loop.network, estimator.learning_rate)
        # fewer epochs than the default are the user's choice
        is_whole = len(own.history) == estimator.epochs >= type(estimator).epochs
        if loop.valid is not None and estimator.early_stopping and is_whole:
            warn_if_rising(own.scores, estimator.patience)
        return own

    def go_on(self, rows: FitRows) -> dict[str, Any]:
        """Train by one pass over the rows at a constant rate, and return the fitted attributes."""
        estimator, before = self.estimator, self.before
        self._check_memory(len(rows))
        fitted = self._pass(rows)
        if before is None:
            return fitted
        network = fitted["_fitted"]
        return fitted | {
            "_fitted": replace(network, batch_size=before.batch_size).holding(network.module()),
            "best_iteration_": estimator.best_iteration_ + 1,
            "history_": pl.concat([estimator.history_, fitted["history_"]], how="diagonal"),
        }

    def _pass(self, rows: FitRows) -> dict[str, Any]:
        """Train by one pass, and return the fitted attributes."""
        estimator, coder, device, training = self.estimator, self.coder, find_device(self.estimator.device), self
        last = 0 if self.before is None else len(estimator.history_)
        if last:  # no two passes draw the same order and noise
            training = replace(self, seed=seed_of(self.seed, last))
        read = rows.to_train(lambda batch: on_device(in_training_units(batch, coder), device), training.seed)
        loss, span = estimator._loss(coder.labels.tasks), Span(1, last, "pass")
        return training.learn(read, None, loss, _evaluate(coder, read), only_pass=span)

    def _balancer(self, network: torch.nn.Module, rows: Rows) -> Balancer | None:
        balance = self.estimator.balance
        if not hasattr(balance, "start"):
            return None
        if rows.group.size > 1 or running().checkpoint is not None:
            raise ValueError(
                f"balance={balance!r} needs a fit in one process without checkpoint; say balance='sum', or give weights"
            )
        return balance.start(network, self.coder.labels.tasks, is_long=self.estimator.task_column is not None)

    def _network(self, device: torch.device) -> torch.nn.Module:
        """Return a new network, or one that holds weights learned before.

        Raises
        ------
        ValueError
            If a parameter has changed since fit, on which the form of the network depends.
        """
        estimator, columns, tasks = self.estimator, self.coder.features.columns, self.coder.labels.tasks
        before = self.before
        if before is None:
            return estimator._network(columns, tasks).to(device)
        network, module = before.built(estimator, columns, tasks), before.module(device)
        shapes = _shapes_of(module)
        self._check_form(before, shapes)
        growth = Growth(module, network, before.columns, columns)
        # files hold no numbers without an axis
        known = {name: torch.tensor(array).reshape(shapes[name]) for name, array in before.weights.items()}
        network.load_state_dict(growth.carry(known))
        return network.to(device)

    def _check_form(self, before: FittedNetwork, shapes: dict[str, torch.Size]) -> None:
        """Raise a ValueError that names the parameters that have changed since fit, if the network has another form."""
        estimator = self.estimator
        changed = [name for name in estimator._changed() if name != "warm_start"]
        if changed and _shapes_of(before.built(estimator, before.columns, before.tasks)) != shapes:
            cure = "say warm_start=False to begin anew" if estimator.warm_start else "fit a new model"
            raise ValueError(
                f"{type(estimator).__name__} cannot go on: its network has another form since the parameters {changed} "
                f"have changed; set them back to those of fit, or {cure}"
            )

    def trained(self, network: torch.nn.Module, data: Batch, batch_size: int, own: Trained) -> dict[str, Any]:
        """Return the fitted attributes, from a trained network and its training rows."""
        estimator, tasks, before = self.estimator, self.coder.labels.tasks, self.before
        features = replace(data, y=None, weight=None)
        first = features.rows(torch.arange(1, device=data.x.numbers.device))
        inspected = estimator._inspect(network, features)
        fitted = FittedNetwork.of(
            network,
            maker=type(estimator)(**estimator.get_params(deep=False)),
            columns=self.coder.features.columns,
            tasks=tasks,
            is_long=self.coder.task_column is not None,
            batch_size=batch_size,
            n_features_out=represent_rows(network, first).shape[1],
            lineage=None if before is None else before.lineage_of(tasks),
            removed_units=None if before is None else before.removed_units,
        )
        told = trained_attributes(own.history, own.best.epoch)
        return inspected | told | {"_fitted": fitted}

    def _so_far(self, loop: TableLoop, history: list[Record]) -> dict[str, Any]:
        """Return the fitted attributes as if training had ended with the last epoch of the history."""
        estimator, checkpoint = self.estimator, running().checkpoint
        now, network = type(estimator)(**estimator.get_params(deep=False)), copy.deepcopy(loop.network)
        settle_statistics(network, loop.data, estimator.precision)
        # of experts, which the end of training will tell
        with unsaid():
            last = Trained(network)
            last.history = history if checkpoint is None else [*checkpoint.records, *history]
            last.offer(len(last.history) - 1, 0.0)
            now._set_fitted(self.coder, self.trained(network, loop.data, loop.batch_size, last))
        return dict(vars(now))


def _evaluate(coder: TableCoder, rows: Rows) -> Evaluate:
    """Return what scores the rows of a pass: nothing, where a metric is by groups that are not known of new rows."""
    tasks = coder.labels.tasks
    if rows.sample().group is None and any(map(is_by_group, tasks)):
        return lambda scores, batch: dict.fromkeys(task.name for task in tasks)
    return partial(evaluate_scores, coder)


def _check_finite(network: torch.nn.Module, learning_rate: float) -> None:
    """Raise a DivergenceError for weights that the last step has led astray, whose loss nobody has seen."""
    if not all(own.isfinite().all() for own in network.parameters()):
        raise DivergenceError(
            f"training diverged: a weight is not finite after the pass; lower learning_rate (now {learning_rate})"
        )


def _shapes_of(network: torch.nn.Module) -> dict[str, torch.Size]:
    return {name: own.shape for name, own in network.state_dict().items()}


def check_monitor(
    estimator: Any, tasks: Sequence[Task], valid: FitRows | None = None, *, were_set_aside: bool = False
) -> None:
    """Raise a ValueError if there is no such task to stop on, or validation rows have no label of it."""
    monitor, names = estimator.monitor, [task.name for task in tasks]
    if monitor not in ("mean", *names):
        raise ValueError(f"monitor must be 'mean' or a task, got {monitor!r}{near(monitor, names)}; tasks are {names}")
    if valid is not None and estimator.early_stopping:
        watched = [monitor in ("mean", name) for name in names]
        if valid.n_labels[watched].any():
            return
        if were_set_aside:
            raise ValueError(
                f"none of the {len(valid)} rows that were set aside has a label of {monitor!r}, the monitor; "
                f"{TO_SET_ASIDE}, or monitor='mean'"
            )
        raise ValueError(f"y_val has no label to stop on (monitor={monitor!r}); label some validation rows")


def in_training_units(batch: Batch, coder: TableCoder) -> Batch:
    """Return a batch with standardised float32 labels, and with groups where scores need them."""
    group = batch.group if any(map(is_by_group, coder.labels.tasks)) else None
    weights = {
        name: None if part is None else part.astype(np.float32)
        for name, part in (("weight", batch.weight), ("of_class", batch.of_class))
    }
    return replace(batch, y=coder.labels.standardize(batch.y), group=group, time=None, **weights)


def evaluate_scores(coder: TableCoder, scores: Sequence[torch.Tensor], batch: Batch) -> dict[str, float | None]:
    """Return scores of raw scores on training-unit labels, in own units; undefined ones are None."""
    labels, batch = coder.labels, batch.map(lambda part: part.cpu().numpy())
    outputs = labels.outputs([score.float().cpu().numpy() for score in scores])
    y = batch.y.astype(np.float64) * labels.scale + labels.center
    with unsaid():
        return score_tasks(labels.tasks, y, outputs, batch.score_weight, batch.task, batch.group)
