"""Gradient loop of tables; its epochs are those of all training, see `tabmtl.training.epochs`."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from functools import partial
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from tabmtl.base.ranks import ALONE, Ranks, answer
from tabmtl.base.schema import Batch, DivergenceError
from tabmtl.columns import Features
from tabmtl.nn.experts import BatchNorm, statistics_of
from tabmtl.targets import Task
from tabmtl.training.balance import Balancer
from tabmtl.training.checkpoint import checksum
from tabmtl.training.device import give_way
from tabmtl.training.epochs import Judged, Loop, TrainingOptions, schedule
from tabmtl.training.hooks import Record
from tabmtl.training.joint import Joint
from tabmtl.training.losses import MultiTaskLoss
from tabmtl.training.memory import LEAST_MICRO, batch_norms, saved_bytes, steps_whole
from tabmtl.training.optimizer import Optimizer
from tabmtl.training.predict import autocast, predict_scores, rows_at_once
from tabmtl.training.rows import Rows

Evaluate = Callable[[Sequence[Tensor], Batch], dict[str, float | None]]
#: Sums (T,) over some rows that a step learns, their loss sums (T,), and their raw scores.
Forward = Callable[[Batch], tuple[Tensor, Tensor, list[Tensor]]]

_CACHED_BYTES = 28_000_000  # activations that stay near a CPU's core; more rows a step only accumulate
_SCORED_TRAIN_ROWS = 50_000
_SETTLING_ROWS = 10_240


class Network(Protocol):
    """Interface of every network of the package, besides ``torch.nn.Module``.

    ``network(x, task)`` returns raw scores: a list of T tensors (B, width_t) in task order, or, if ``task``
    (B,) names the own task of every row (long layout), a list of one tensor (B, width); a network of k members returns
    (B, k, width) for (B, width). What a step leaves for the next lies in parameters and persistent buffers, which a
    checkpoint keeps. ``represent`` returns the features that the heads read, (B, r). ``batch_dependent`` is
    true if a row's scores depend on the other rows, which forbids micro-batches.
    """

    batch_dependent: bool

    def __call__(self, x: Features, task: Tensor | None = None) -> list[Tensor]: ...

    def represent(self, x: Features, task: Tensor | None = None) -> Tensor: ...


class TableOptions(TrainingOptions, Protocol):
    """Parameters of training that the loop of tables also reads."""

    batch_size: int | Literal["auto"]
    clip_norm: float | None
    monitor: str


@dataclass(eq=False)
class TableLoop(Loop):
    """Network, optimiser and loss of one training on tables, of one network or of several as one.

    A step sums every task's weighted losses over the batch, divides by the batch size, and adds them up, or lets a
    balancer make one step of them. Randomness comes from torch's global generators, which the caller seeds.

    Parameters
    ----------
    options : TableOptions
        Such as an estimator.
    network : torch.nn.Module
        A `Network`, on the device of the data.
    loss : MultiTaskLoss
        Of one network.
    rows, valid : Rows
        Standardised targets with NaN = unlabelled.
    balancer : Balancer, optional
        Makes one step of the tasks' losses; None adds them up.
    evaluate : sequence of callable
        For each network, ``evaluate(scores, batch)`` -> score per task (None = undefined).
    rate : callable
        Factor of the learning rate by the share of all epochs that is over.
    joint : Joint, optional
        The networks, of which ``network``, ``rows`` and ``valid`` are parts. Training rows are not scored then, which
        would take longer than the steps.

    Attributes
    ----------
    batch_size : int
        Rows of a step.
    group : Ranks
        Processes that take the steps together, each on its rows of them. Sums over rows meet: of losses, gradients, and
        moments of batch normalisation. Scores meet on rank 0, which judges them.
    """

    options: TableOptions
    network: torch.nn.Module
    loss: MultiTaskLoss
    rows: Rows
    valid: Rows | None
    _: KW_ONLY
    balancer: Balancer | None = None
    evaluate: Sequence[Evaluate]
    rate: Callable[[float], float] = schedule
    joint: Joint | None = None

    def __post_init__(self) -> None:
        network, options, self.group, self.n_rows = self.network, self.options, self.rows.group, len(self.rows)
        self.tasks = self.loss.tasks
        self.batch_size = step_rows(options.batch_size, self.n_rows)
        if self.group.size > 1 and network.batch_dependent:
            raise ValueError(
                "this network looks at all rows of a step at once, which several processes do not have; fit it in one "
                "process, or choose a layer that looks at one row, such as row_layer='none'"
            )
        self._lay()
        self.optimizer = Optimizer(
            network,
            weight_decay=options.weight_decay,
            average_decay=options.average_decay,
            clip_norm=options.clip_norm,
            group=self.group,
            n_networks=len(self.networks),
        )

    def _lay(self) -> None:
        """Read what depends on the networks that train."""
        network = self.network
        self.networks = [network] if self.joint is None else self.joint.networks
        self.data, self._judging = self.rows.sample(), [] if self.valid is None else self.valid.labels()
        self._learned = self.loss
        if self.joint is not None:
            self._learned = self.loss.restricted([*range(len(self.tasks))] * len(self.networks))
        self._task_weight = self._learned.task_weight.to(next(network.parameters()).device)
        self._micro = self.n_rows if self.balancer is not None else micro_batch_rows(network, self.data, self.n_rows)

    def keep(self, numbers: Sequence[int]) -> None:
        """Leave some of the networks."""
        assert self.joint is not None
        self.joint.keep(numbers)
        super().keep(numbers)
        self.evaluate = [self.evaluate[number] for number in numbers]
        self._lay()

    def run_epoch(self, epoch: int) -> Sequence[Record]:
        """Run one pass over the shuffled rows; return the train part of the epoch's record for each network."""
        self.network.train()
        # of few rows, the statistics of batch normalisation are worth little
        n_steps, steps = self.rows.steps(epoch, self.batch_size, joins_last=bool(batch_norms(self.network)))
        totals, kept, scored = [], [], []
        with statistics_of(self.group, self.network):
            for step, (data, index) in enumerate(steps):
                progress = (epoch + step / n_steps) / self.options.epochs
                losses, scores = self.step(data, index, self.options.learning_rate * self.rate(progress))
                give_way()
                totals.append(losses)
                if step * self.batch_size < _SCORED_TRAIN_ROWS and self.joint is None:
                    kept.append(scores)
                    scored.append(data.without_features().rows(index))
        scores = [torch.cat(columns) for columns in zip(*kept, strict=True)]
        losses = self.group.sum(torch.stack(totals).sum(dim=0))
        weight = self.rows.labelled_weight(partial(labelled_weight, self.loss)).to(losses.device)
        means = self._means("train", losses, weight)
        if self.joint is not None:
            unknown = dict.fromkeys(task.name for task in self.tasks)
            return [describe_rows("train", self.tasks, own, unknown) for own in means]
        values = self._evaluate(self.evaluate[0], self.loss.link(scores), Batch.join(scored, torch.cat))
        if self.balancer is not None:
            self.balancer.end_epoch(means[0])
        return [describe_rows("train", self.tasks, means[0], values)]

    def step(self, data: Batch, index: Tensor, learning_rate: float) -> tuple[Tensor, list[Tensor]]:
        """Take one optimiser step on some rows of the data; return loss sums (T,) and raw scores."""
        if self.balancer is not None:
            return self._balanced_step(self.balancer, data.rows(index), learning_rate)
        totals: list[Tensor] = []
        parts: list[list[Tensor]] = []
        for rows in self.rows.parts(index, self._micro):
            learned, losses, scores = self._forward(data.rows(rows))
            totals.append(losses.detach())
            parts.append([score.detach() for score in scores])
            self._of_step(learned).sum().backward()
        self.optimizer.step(learning_rate)
        return torch.stack(totals).sum(dim=0), [torch.cat(columns) for columns in zip(*parts, strict=True)]

    def _balanced_step(self, balancer: Balancer, batch: Batch, learning_rate: float) -> tuple[Tensor, list[Tensor]]:
        passes: list[tuple[Tensor, Tensor, list[Tensor]]] = []

        def forward() -> Tensor:
            passes.append(self._forward(batch))
            return self._of_step(passes[-1][0])

        balancer.backward(forward, labelled_weight(self.loss, batch) > 0)
        self.optimizer.step(learning_rate)
        balancer.after_step(forward)
        _, losses, scores = passes[0]
        return losses.detach(), [score.detach() for score in scores]

    def _forward(self, batch: Batch) -> tuple[Tensor, Tensor, list[Tensor]]:
        with autocast(batch, self.options.precision):
            scores = self.network(batch.x, batch.task)
        losses = self._learned(scores, batch.y, batch.weight, batch.task)
        return losses, losses, scores

    def _of_step(self, losses: Tensor) -> Tensor:
        """Return weighted losses (T,) per row of a nominal step, to be differentiated."""
        return losses * self._task_weight / min(self.batch_size, self.n_rows)

    def validate(self) -> Sequence[Judged]:
        """Judge each network on its validation rows."""
        if self.valid is None:
            return [Judged({}) for _ in self.networks]
        options, found = self.options, []
        settle_statistics(self.network, self.data, options.precision, self.group)
        losses, weight, scores = self.judge(self.network)
        means = self._means("val", losses, weight)
        for own, parts, labels, evaluate in zip(means, scores, self._judging, self.evaluate, strict=True):
            values = self._evaluate(evaluate, self.loss.link(parts), labels)
            record = describe_rows("val", self.tasks, own, values)
            found.append(Judged(record, monitored(record, options.monitor, self.tasks)))
        return found

    def judge(self, network: torch.nn.Module) -> tuple[Tensor, Tensor, Sequence[list[Tensor]]]:
        """Return the loss sums (K T,) on validation rows of all ranks, their weights, and raw scores of this one's."""
        assert self.valid is not None
        scores = self.valid.scores(
            lambda batch: predict_scores(network, batch, self.options.precision, batch_size=self.batch_size), self.data
        )
        losses, weights = [], []
        for own, labels in zip(scores, self._judging, strict=True):
            losses.append(self.loss(own, labels.y, labels.weight, labels.task))
            weights.append(labelled_weight(self.loss, labels))
        return self.group.sum(torch.cat(losses)), self.group.sum(torch.cat(weights)), scores

    def finish(self) -> None:
        """Settle statistics that validation has not settled."""
        if self.valid is None:
            for network, data in [(self.network, self.data)] if self.joint is None else self.joint.alone:
                settle_statistics(network, data, self.options.precision, self.group)

    def facts(self) -> dict[str, Any]:
        """Return what tells the rows and the steps from others; see `tabmtl.training.epochs.Loop`."""
        data = self.data
        return {
            "the number of training rows": self.n_rows,
            "the checksum of the rows": checksum([*data.x.arrays().values(), data.y, data.task]),
            "the number of validation rows": 0 if self.valid is None else len(self.valid),
            "the number of rows a step": self.batch_size,
            **self.rows.facts(),
        }

    def state(self) -> dict[str, Any]:
        """Return all that the next epoch depends on; see `tabmtl.training.epochs.Loop`."""
        return {"optimizer": self.optimizer.state()}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a state."""
        self.optimizer.restore(state["optimizer"])

    def _means(self, part: str, losses: Tensor, weight: Tensor) -> Sequence[Tensor]:
        """Return mean losses (T,) over the labelled weight for each network, from sums (K T,)."""
        check_losses(part, self._learned.tasks, losses, self.options.learning_rate)
        return (losses / weight).split(len(self.tasks))

    def _evaluate(self, evaluate: Evaluate, scores: list[Tensor], scored: Batch) -> dict[str, float | None]:
        """Return the score of every task on linked scores; of a group, rank 0 judges those of all ranks."""
        if self.group.size == 1:
            return evaluate(scores, scored)
        own = scored.without_features().map(Tensor.cpu)
        batches = [own.like(part) for part in self.group.gather(own.arrays())]
        parts = self.group.gather([score.cpu() for score in scores])

        def judge() -> dict[str, float | None]:
            joined = [torch.cat(columns) for columns in zip(*parts, strict=True)]
            return evaluate(joined, Batch.join(batches, torch.cat))

        return answer(self.group, judge)


def labelled_weight(loss: MultiTaskLoss, data: Batch) -> Tensor:
    """Return the weight of the labelled rows of every task: (T,)."""
    labelled = loss.labelled(data.y).float()
    if data.weight is not None:
        labelled = labelled * data.weight
    if data.task is None:
        return labelled.sum(dim=0)
    return labelled.new_zeros(len(loss.tasks)).index_add(0, data.task, labelled[:, 0])


def check_losses(part: str, tasks: Sequence[Task], losses: Tensor, learning_rate: float) -> None:
    """Raise a DivergenceError that names the first task whose loss, of (T,), is not finite."""
    bad = [task.name for task, loss in zip(tasks, losses.tolist(), strict=True) if not math.isfinite(loss)]
    if bad:
        raise DivergenceError(
            f"training diverged: the {part} loss of task {bad[0]!r} is not finite; lower learning_rate "
            f"(now {learning_rate})"
        )


def describe_rows(part: str, tasks: Sequence[Task], losses: Tensor, values: Mapping[str, float | None]) -> Record:
    """Return the part of an epoch's record on some rows, from mean losses (T,), NaN = no label, and scores."""
    means = losses.tolist()
    record: Record = {}
    for task, mean in zip(tasks, means, strict=True):
        record[f"{part}/{task.name}/loss"] = mean if mean == mean else None
        record[f"{part}/{task.name}/{task.metric}"] = values[task.name]
    losses_defined = [mean for mean in means if mean == mean]
    record[f"{part}/loss"] = sum(losses_defined) / max(len(losses_defined), 1)
    scores_defined = [value for value in values.values() if value is not None]
    record[f"{part}/score"] = sum(scores_defined) / len(scores_defined) if scores_defined else None
    return record


def step_rows(batch_size: int | Literal["auto"], n_rows: int, *, low: int = 32, high: int = 512) -> int:
    """Return the rows of a step; "auto" is the power of two nearest to a 64th of the training rows, within bounds."""
    return min(max(2 ** max(round(math.log2(n_rows / 64)), 0), low), high) if batch_size == "auto" else batch_size


def micro_batch_rows(network: torch.nn.Module, data: Batch, most: int) -> int:
    """Return the rows of a micro-batch: all; on a CPU the power of two, 64 to 1024, that keeps activations in cache."""
    if steps_whole(network, data.x.numbers.device):
        return most
    probe = data.rows(torch.arange(min(32, len(data))))
    rows = _CACHED_BYTES * len(probe) / max(saved_bytes(network, probe), 1)
    return min(max(2 ** int(math.log2(rows)), LEAST_MICRO), 1024)


def settle_statistics(network: torch.nn.Module, data: Batch, precision: str = "float32", group: Ranks = ALONE) -> None:
    """Set the running statistics of batch normalisation to those of the current weights, without dropout.

    Statistics gathered in training are those of earlier weights and of values that dropout spreads; predictions by them
    are biased, which shows in the probabilities of rare classes. Means are over ten batches, more of very wide tables,
    that together hold up to 10 240 training rows, spread over all. Each rank of a group, which all have these rows,
    takes its part of them.
    """
    norms = batch_norms(network)
    if not norms:
        return
    network.eval()
    usual = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
        norm.train()
    n_rows = min(len(data), _SETTLING_ROWS)
    rows = torch.arange(n_rows, device=data.x.numbers.device) * len(data) // n_rows
    n_batches = max(min(10, max(1, len(rows) // 2)), math.ceil(n_rows / rows_at_once(data)))
    if not all(isinstance(norm, BatchNorm) for norm in norms):
        group = ALONE  # others know no group
    with torch.no_grad(), autocast(data, precision), statistics_of(group, network):
        for start in range(n_batches):
            batch = data.rows(rows[start::n_batches][group.rank :: group.size])
            network(batch.x, batch.task)
    for norm, momentum in zip(norms, usual, strict=True):
        norm.momentum = momentum
        norm.eval()


def monitored(record: Record, monitor: str, tasks: Sequence[Task]) -> float:
    """Return the number that early stopping maximises: a score, or minus the loss if no score is defined."""
    score, loss = record["val/score"], record["val/loss"]
    for task in tasks:
        if task.name == monitor != "mean":
            score, loss = record[f"val/{monitor}/{task.metric}"], record[f"val/{monitor}/loss"]
    return -(loss or 0.0) if score is None else score
