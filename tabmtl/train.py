"""The only gradient loop of the project."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from tabmtl.losses import MultiTaskLoss
from tabmtl.schema import Batch, Task

Record = dict[str, float | None]
OnEpoch = Callable[[Mapping[str, float | None]], bool | None]
Evaluate = Callable[[Sequence[Tensor], Batch], dict[str, float | None]]

_CACHED_BYTES = 28_000_000  # activations that stay near a CPU's core; more rows a step only accumulate
_PREDICT_ROWS = 1_024
_ROW_MULTIPLE = 8
_SCORED_TRAIN_ROWS = 50_000


class Network(Protocol):
    """What every network of the package is, besides a ``torch.nn.Module``.

    ``network(x_num, x_cat, task)`` gives raw scores: a list of T tensors (B, width_t) in task order, or, where
    ``task`` (B,) names the own task of every row (long layout), a list of one tensor (B, width).
    ``represent`` gives the shared representation (B, r). ``batch_dependent`` says whether a row's scores depend on
    the other rows, which forbids micro-batches.
    """

    batch_dependent: bool

    def __call__(self, x_num: Tensor, x_cat: Tensor, task: Tensor | None = None) -> list[Tensor]: ...

    def represent(self, x_num: Tensor, x_cat: Tensor, task: Tensor | None = None) -> Tensor: ...


@dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """How to train: the fields of :class:`tabmtl.network.NetworkEstimator` that the loop reads.

    ``patience`` None trains all epochs and keeps the last weights; else the best weights on the validation rows are
    kept.
    """

    epochs: int
    batch_size: int
    learning_rate: float
    weight_decay: float
    average_decay: float
    patience: int | None
    monitor: str
    precision: str


def train(
    network: torch.nn.Module,
    tasks: Sequence[Task],
    data: Batch,
    valid: Batch | None,
    options: TrainOptions,
    *,
    evaluate: Evaluate,
    on_epoch: OnEpoch | None = None,
) -> tuple[list[Record], int]:
    """Train a network by AdamW; the kept weights are left in it.

    A step sums every task's weighted losses over the batch, divides by the batch size, and adds them up. The
    learning rate follows half a cosine from its start to zero over all epochs. What is validated and kept is an
    exponential moving average of the weights, w <- d w + (1 - d) w_t with d = min(``average_decay``,
    (1 + t) / (10 + t)) after step t. Randomness comes from torch's global generator: the caller forks and seeds it.

    Parameters
    ----------
    network : torch.nn.Module
        A `Network`, on the device of the data.
    tasks : sequence of Task
    data, valid : Batch
        Tensors: standardised targets with NaN = unlabelled.
    options : TrainOptions
    evaluate : callable
        ``evaluate(scores, batch)`` -> score per task (None = undefined).
    on_epoch : callable, optional
        Called with the epoch's record; a true answer stops training.

    Returns
    -------
    history : list of dict
        One record an epoch: ``epoch``, ``train/loss``, ``train/<task>/loss``, ``train/<task>/<metric>`` (running
        scores, on the first 50 000 rows of the epoch), the same under ``val/``, and ``val/score``, their mean.
    best : int
        Index of the epoch whose weights were kept.

    Raises
    ------
    ValueError
        If a loss is not finite.
    """
    loop = _Loop(network, tasks, options, evaluate)
    watched = valid is not None and options.patience is not None
    history: list[Record] = []
    best, best_score, best_weights = 0, -float("inf"), network.state_dict()
    for epoch in range(options.epochs):
        record: Record = {"epoch": float(epoch), **loop.run_epoch(data, epoch)}
        with loop.averaged_weights():
            if valid is not None:
                record |= loop.validate(valid)
            score = _monitored(record, options.monitor, tasks) if watched else float(epoch)
            if score > best_score:
                best, best_score = epoch, score
                best_weights = {k: v.clone() for k, v in network.state_dict().items()}
        history.append(record)
        if on_epoch is not None and on_epoch(record):
            break
        if options.patience is not None and epoch - best >= options.patience:
            break
    network.load_state_dict(best_weights)
    return history, best


def predict_scores(network: torch.nn.Module, data: Batch, precision: str = "float32") -> list[Tensor]:
    """Raw scores of all rows, one tensor a task (long layout: one tensor), computed in slices."""
    parts = _in_slices(network, network, data, precision)
    return [torch.cat(columns).float() for columns in zip(*parts, strict=True)]


def represent_rows(network: torch.nn.Module, data: Batch, precision: str = "float32") -> Tensor:
    """Shared representation (n, r) of all rows, computed in slices."""
    represent: Any = network.represent
    parts = _in_slices(network, lambda *inputs: [represent(*inputs)], data, precision)
    return torch.cat([part for (part,) in parts]).float()


def _in_slices(
    network: torch.nn.Module, function: Callable[..., list[Tensor]], data: Batch, precision: str
) -> list[list[Tensor]]:
    """What a function of the network gives for all rows, a few at a time.

    Every slice is filled up to a multiple of 8 rows: matrix products of fewer rows take other kernels, which round
    otherwise, and a row's answer would depend, by some 1e-6 of the scale, on how many rows are asked with it.
    """
    if network.training:
        network.eval()
    size, multiple = (len(data), 1) if network.batch_dependent else (_PREDICT_ROWS, _ROW_MULTIPLE)
    parts = []
    with torch.inference_mode(), _autocast(data, precision):
        for start in range(0, len(data), size):
            rows = torch.arange(start, min(start + size, len(data)), device=data.x_num.device)
            filled = torch.cat([rows, rows[-1:].expand(-len(rows) % multiple)])
            inputs = (None if x is None else x.index_select(0, filled) for x in (data.x_num, data.x_cat, data.task))
            parts.append([answer[: len(rows)] for answer in function(*inputs)])
    return parts


class _Loop:
    """Network, optimiser and loss of one training run."""

    def __init__(
        self, network: torch.nn.Module, tasks: Sequence[Task], options: TrainOptions, evaluate: Evaluate
    ) -> None:
        self.network, self.tasks, self.options, self.evaluate = network, tasks, options, evaluate
        self.loss = MultiTaskLoss(tasks)
        self._micro: int | None = None
        parameters = [p for p in network.parameters() if p.requires_grad]
        self._weights = [p.detach() for p in parameters]
        self._average = [weight.clone() for weight in self._weights]
        self._steps = 0
        rate, decay = options.learning_rate, options.weight_decay
        self.optimizer = torch.optim.AdamW(parameters, lr=rate, weight_decay=decay, fused=True)

    def run_epoch(self, data: Batch, epoch: int) -> Record:
        """One pass over the shuffled rows; returns the train part of the epoch's record."""
        self.network.train()
        if self._micro is None:
            self._micro = _micro_batch_rows(self.network, data)
        order = torch.randperm(len(data), device=data.x_num.device)
        totals, kept = [], []
        n_kept, size = 0, self.options.batch_size
        n_steps = -(-len(data) // size)
        for step, start in enumerate(range(0, len(data), size)):
            progress = (epoch + step / n_steps) / self.options.epochs
            for group in self.optimizer.param_groups:
                group["lr"] = self.options.learning_rate * _schedule(progress)
            losses, scores = self.step(data, order[start : start + size])
            totals.append(losses)
            if n_kept < _SCORED_TRAIN_ROWS:
                kept.append(scores)
                n_kept += len(scores[0])
        scores = [torch.cat(columns) for columns in zip(*kept, strict=True)]
        return self._record("train", torch.stack(totals).sum(dim=0), data, scores, data.rows(order[:n_kept]))

    def step(self, data: Batch, index: Tensor) -> tuple[Tensor, list[Tensor]]:
        """One optimiser step on some rows, in micro-batches; returns loss sums (T,) and raw scores."""
        nominal = min(self.options.batch_size, len(data))
        totals, parts = [], []
        for rows in index.split(self._micro or len(index)):
            batch = data.rows(rows)
            with _autocast(batch, self.options.precision):
                scores = self.network(batch.x_num, batch.x_cat, batch.task)
            losses = self.loss(scores, batch.y, batch.weight, batch.task)
            ((losses * self.loss.task_weight.to(losses.device)).sum() / nominal).backward()
            totals.append(losses.detach())
            parts.append([score.detach() for score in scores])
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self._steps += 1
        decay = min(self.options.average_decay, (1 + self._steps) / (10 + self._steps))
        torch._foreach_lerp_(self._average, self._weights, 1 - decay)
        return torch.stack(totals).sum(dim=0), [torch.cat(columns) for columns in zip(*parts, strict=True)]

    @contextmanager
    def averaged_weights(self) -> Iterator[None]:
        """The network has the averaged weights inside, and its own again outside."""
        own = [weight.clone() for weight in self._weights]
        torch._foreach_copy_(self._weights, self._average)
        try:
            yield
        finally:
            torch._foreach_copy_(self._weights, own)

    def validate(self, valid: Batch) -> Record:
        """The validation part of the epoch's record."""
        scores = predict_scores(self.network, valid, self.options.precision)
        losses = self.loss(scores, valid.y, valid.weight, valid.task)
        return self._record("val", losses, valid, scores, valid)

    def _record(self, part: str, losses: Tensor, data: Batch, scores: list[Tensor], scored: Batch) -> Record:
        """Mean losses over the labelled weight of `data`, and the scores of the rows `scored`."""
        means = (losses / self._labelled_weight(data)).tolist()
        bad = [task.name for task, loss in zip(self.tasks, losses.tolist(), strict=True) if not math.isfinite(loss)]
        if bad:
            raise ValueError(
                f"training diverged: the {part} loss of task {bad[0]!r} is not finite; lower learning_rate "
                f"(now {self.options.learning_rate})"
            )
        values = self.evaluate(scores, scored)
        record: Record = {}
        for task, mean in zip(self.tasks, means, strict=True):
            record[f"{part}/{task.name}/loss"] = mean if mean == mean else None
            record[f"{part}/{task.name}/{task.metric}"] = values[task.name]
        losses_defined = [mean for mean in means if mean == mean]
        record[f"{part}/loss"] = sum(losses_defined) / max(len(losses_defined), 1)
        scores_defined = [value for value in values.values() if value is not None]
        record[f"{part}/score"] = sum(scores_defined) / len(scores_defined) if scores_defined else None
        return record

    def _labelled_weight(self, data: Batch) -> Tensor:
        labelled = (~data.y.isnan()).float()
        if data.weight is not None:
            labelled = labelled * data.weight
        if data.task is None:
            return labelled.sum(dim=0)
        return labelled.new_zeros(len(self.tasks)).index_add(0, data.task, labelled[:, 0])


def _micro_batch_rows(network: torch.nn.Module, data: Batch) -> int:
    """Rows of a micro-batch: all, but on a CPU the power of two from 64 to 1024 that keeps activations in cache."""
    if network.batch_dependent or data.x_num.device.type != "cpu":
        return len(data)
    probe = data.rows(torch.arange(min(32, len(data))))
    parameters = {parameter.data_ptr() for parameter in network.parameters()}
    saved: dict[int, int] = {}

    def count(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameters:
            saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.random.fork_rng(devices=[]), saved_tensors_hooks(count, lambda tensor: tensor):
        scores = network(probe.x_num, probe.x_cat, probe.task)
    del scores  # only now: a freed activation's address would be counted again
    rows = _CACHED_BYTES * len(probe) / max(sum(saved.values()), 1)
    return 2 ** min(max(int(math.log2(rows)), 6), 10)


def _schedule(progress: float) -> float:
    """Factor of the learning rate: a short linear warm-up, then half a cosine."""
    return min(1.0, progress / 0.02 + 0.1) * 0.5 * (1 + torch.cos(torch.tensor(progress * torch.pi)).item())


def _monitored(record: Record, monitor: str, tasks: Sequence[Task]) -> float:
    """The number that early stopping maximises: a score, or minus the loss where no score is defined."""
    score, loss = record["val/score"], record["val/loss"]
    for task in tasks:
        if task.name == monitor != "mean":
            score, loss = record[f"val/{monitor}/{task.metric}"], record[f"val/{monitor}/loss"]
    return -(loss or 0.0) if score is None else score


@contextmanager
def _autocast(batch: Batch, precision: str) -> Iterator[None]:
    with torch.autocast(batch.x_num.device.type, dtype=torch.bfloat16, enabled=precision == "bf16"):
        yield
