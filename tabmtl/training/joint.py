"""Training of several networks of one form as one, each on rows of its own; see `tabmtl.nn.joined`.

1. Every member draws its rows from a stream of its own: one shuffled pass after the other.
2. An epoch has the same number of steps for all members; a step is a batch whose rows hold a row of every member.
3. Losses (K T,) are summed and differentiated once. No member's loss depends on weights of another one.
4. Gradients are clipped, weights moved and averaged by member, as `tabmtl.training.optimizer.Optimizer` does.
5. Every member is validated on its own rows and keeps its own best epochs.
6. A member that has ended leaves, and the others go on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from tabmtl.nn.joined import JoinedNetworks
from tabmtl.schema import Batch
from tabmtl.training.device import give_way
from tabmtl.training.epochs import Snapshots, has_stalled, keep_freed_memory, schedule
from tabmtl.training.hooks import Record
from tabmtl.training.losses import MultiTaskLoss
from tabmtl.training.optimizer import PLATEAU_FACTOR, averaging_decay, decay_groups, move_by_adamw
from tabmtl.training.predict import autocast, predict_scores
from tabmtl.training.run import Run
from tabmtl.training.table_loop import (
    Evaluate,
    TableOptions,
    check_losses,
    describe_rows,
    labelled_weight,
    micro_batch_rows,
    monitored,
    settle_statistics,
    step_rows,
)
from tabmtl.training.watch import Describe


@dataclass(kw_only=True, eq=False)
class Member:
    """One of several networks that are trained as one.

    Parameters
    ----------
    network : Module
        Untrained; it has the kept weights in the end.
    rows : Batch
        Tensors in training units.
    valid : Batch or None
        Rows to validate on; all members have some, or none has.
    evaluate : callable
        As in `tabmtl.training.table_loop.TableLoop`.

    Attributes
    ----------
    history : list of dict
        One record an epoch. It has no scores of training rows, which would take longer than the steps.
    snapshots : Snapshots
        The kept epochs.
    """

    network: nn.Module
    rows: Batch
    valid: Batch | None
    evaluate: Evaluate
    history: list[Record] = field(default_factory=list, init=False)

    def __post_init__(self) -> None:
        self.snapshots = Snapshots(self)
        self.restarted_after, self.has_ended = [0], False
        self._left = torch.empty(0, dtype=torch.int64)
        self.state_dict: Callable[[], Mapping[str, Tensor]] = self.network.state_dict

    def draw(self, n: int) -> Tensor:
        """Return the numbers of the next n rows of the stream."""
        while len(self._left) < n:
            self._left = torch.cat([self._left, torch.randperm(len(self.rows))])
        drawn, self._left = self._left[:n], self._left[n:]
        return drawn


class JointOptimizer:
    """AdamW and the average of weights for networks that are one: all of them take a step, each by itself.

    Parameters
    ----------
    joined : JoinedNetworks
    options : TableOptions
        Such as an estimator.
    """

    def __init__(self, joined: JoinedNetworks, options: TableOptions) -> None:
        self._joined, self._options = joined, options
        self._parameters = list(joined.network.parameters())
        self._groups = decay_groups(joined.network, self._parameters, options.weight_decay)
        self._means, self._squares = ({p: torch.zeros_like(p) for p in self._parameters} for _ in range(2))
        self._average = {p: p.detach().clone() for p in self._parameters}
        self._steps, self._factors = 0, [1.0] * joined.n

    @torch.no_grad()
    def step(self, learning_rate: float) -> None:
        """Move the weights along their gradients, clear these, and update the average."""
        if self._options.clip_norm is not None:
            self._clip(self._options.clip_norm)
        for factor in set(self._factors):
            numbers = [k for k, own in enumerate(self._factors) if own == factor]
            for parameters, weight_decay in self._groups:
                self._move(parameters, numbers, learning_rate * factor, weight_decay)
        self._steps += 1
        decay = averaging_decay(self._options.average_decay, self._steps)
        torch._foreach_lerp_(list(self._average.values()), self._weights, 1 - decay)
        for p in self._parameters:
            p.grad = None

    @property
    def _weights(self) -> list[Tensor]:
        return [p.detach() for p in self._parameters]

    def _clip(self, most: float) -> None:
        """Shorten the gradient of every network that is longer."""
        gradients = [p.grad.view(self._joined.n, -1) for p in self._parameters if p.grad is not None]
        lengths = torch.stack([torch.linalg.vector_norm(own, dim=1) for own in gradients])
        factors = (most / (torch.linalg.vector_norm(lengths, dim=0) + 1e-6)).clamp_(max=1.0)
        if (factors < 1).any():
            for own in gradients:
                own.mul_(factors[:, None])

    def _move(self, parameters: list[nn.Parameter], numbers: list[int], learning_rate: float, decay: float) -> None:
        """Move parameters of some networks."""
        moved = list[list[Tensor]]()
        for p in parameters:
            if p.grad is not None:
                parts = [self._of(own, numbers) for own in (p.detach(), p.grad, self._means[p], self._squares[p])]
                own = zip(*parts, strict=True)
                moved += [
                    [weight, gradient, torch.tensor(float(self._steps)), *rest] for weight, gradient, *rest in own
                ]
        move_by_adamw(moved, learning_rate, decay)

    def _of(self, tensor: Tensor, numbers: list[int]) -> list[Tensor]:
        """Return the parts of a tensor that belong to some networks: the tensor itself, if to all."""
        if len(numbers) == self._joined.n:
            return [tensor]
        parts = tensor.unflatten(0, (self._joined.n, -1))
        return [parts[k] for k in numbers]

    def restart(self, number: int) -> None:
        """Go on with the weights that a network was given, as their own average, with a third of the rate."""
        self._factors[number] *= PLATEAU_FACTOR
        for p, average in self._average.items():
            self._of(average, [number])[0].copy_(self._of(p.detach(), [number])[0])

    def keep(self, numbers: list[int]) -> None:
        """Leave some of the networks only."""
        n = self._joined.n
        for kept in (self._means, self._squares, self._average):
            for p, tensor in kept.items():
                kept[p] = tensor.unflatten(0, (n, -1))[numbers].flatten(0, 1)
        self._factors = [self._factors[k] for k in numbers]
        self._joined.keep(numbers)

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Put the averaged weights into the networks inside, and their own again outside."""
        own = [weight.clone() for weight in self._weights]
        torch._foreach_copy_(self._weights, list(self._average.values()))
        try:
            yield
        finally:
            torch._foreach_copy_(self._weights, own)


class _JointTraining:
    """Members that train, between two epochs.

    Parameters
    ----------
    options : TableOptions
    members : sequence of Member
    loss : callable
        Gives the loss of the tasks of several networks side by side.
    """

    def __init__(self, options: TableOptions, members: Sequence[Member], loss: Callable[[int], MultiTaskLoss]) -> None:
        self._options, self._loss_of, self.active = options, loss, list(members)
        self._loss_of_one = loss(1)
        self._patience = options.patience if options.early_stopping and members[0].valid is not None else None
        self._joined = JoinedNetworks([member.network for member in members])
        self._optimizer = JointOptimizer(self._joined, options)
        n_rows = round(sum(len(member.rows) for member in members) / len(members))
        self.batch_size = min(step_rows(options.batch_size, n_rows), n_rows)
        self._n_steps = max(round(n_rows / self.batch_size), 1)
        self._arrange()

    def _arrange(self) -> None:
        """Set the rows of the members that train side by side."""
        for number, member in enumerate(self.active):
            member.state_dict = partial(self._joined.weights, number)
        self._loss = self._loss_of(len(self.active))
        self._rows = _Beside([member.rows for member in self.active])
        n_rows = min(len(member.rows) for member in self.active)
        self._sample = self._rows.take(torch.arange(n_rows)[:, None].expand(-1, len(self.active)))
        self._micro = min(micro_batch_rows(self._joined.network, self._sample, self.batch_size), self.batch_size)
        if self._patience is not None or self.active[0].valid is not None:
            judging = [member.valid for member in self.active if member.valid is not None]
            last = torch.tensor([len(rows) - 1 for rows in judging])
            self._judging = _Beside(judging).take(torch.arange(int(last.max()) + 1)[:, None].minimum(last))

    def run_epoch(self, epoch: int) -> Record:
        """Run an epoch of all members; return the record of the first."""
        self._joined.network.train()
        drawn = torch.stack([member.draw(self._n_steps * self.batch_size) for member in self.active], dim=1)
        rows, losses = self._rows.take(drawn), torch.zeros(())
        for step in range(self._n_steps):
            progress = (epoch + step / self._n_steps) / self._options.epochs
            losses = losses + self._step(rows, step * self.batch_size, self._options.learning_rate * schedule(progress))
            give_way()
        with self._optimizer.averaged():
            self._end_epoch(epoch, losses, labelled_weight(self._loss, rows))
        return self.active[0].history[-1]

    def _step(self, rows: Batch, start: int, learning_rate: float) -> Tensor:
        """Take a step on the rows of a batch, from its first on; return the loss sums (K T,)."""
        total, weight = torch.zeros(()), self._loss.task_weight / self.batch_size
        for first in range(start, start + self.batch_size, self._micro):
            stop = min(first + self._micro, start + self.batch_size)
            some = rows.rows(slice(first, stop))
            with autocast(some, self._options.precision):
                scores = self._joined.network(some.x)
            losses = self._loss(scores, some.y, some.weight)
            (losses * weight).sum().backward()
            total = total + losses.detach()
        self._optimizer.step(learning_rate)
        return total

    def _end_epoch(self, epoch: int, losses: Tensor, weight: Tensor) -> None:
        """Validate the averaged weights, and let every member keep those of its best epochs."""
        tasks, scores, n_tasks = self._loss_of_one.tasks, [], self._loss_of_one.n_tasks
        check_losses("train", self._loss.tasks, losses, self._options.learning_rate)
        unknown = dict.fromkeys([task.name for task in tasks])
        if self.active[0].valid is not None:
            settle_statistics(self._joined.network, self._sample, self._options.precision)
            scores = predict_scores(self._joined.network, self._judging, self._options.precision)
        parts = zip((losses / weight).split(n_tasks), self.active, strict=True)
        for number, (means, member) in enumerate(parts):
            record = {"epoch": float(epoch), **describe_rows("train", tasks, means, unknown)}
            score, task_scores = float(epoch), list[float]()
            if member.valid is not None:
                record |= self._judge(member, scores[number * n_tasks : (number + 1) * n_tasks])
            if member.valid is not None and self._patience is not None:
                score = monitored(record, self._options.monitor, tasks)
                if self._options.keep == "task":
                    task_scores = [monitored(record, task.name, tasks) for task in tasks]
            member.history.append(record)
            member.snapshots.offer(epoch, score, task_scores)

    def _judge(self, member: Member, scores: list[Tensor]) -> Record:
        """Return the validation part of a member's record."""
        rows, loss = member.valid, self._loss_of_one
        assert rows is not None
        scores = [score[: len(rows)] for score in scores]
        losses = loss(scores, rows.y, rows.weight)
        check_losses("val", loss.tasks, losses, self._options.learning_rate)
        return describe_rows(
            "val", loss.tasks, losses / labelled_weight(loss, rows), member.evaluate(loss.link(scores), rows)
        )

    def let_go(self) -> None:
        """Let the members that have stalled begin again from their best weights, or leave."""
        for number, member in enumerate(self.active):
            if self._patience is None or not has_stalled(member.snapshots, member.restarted_after, self._patience):
                continue
            member.has_ended = len(member.restarted_after) > self._options.restarts
            if not member.has_ended:
                member.restarted_after.append(len(member.history) - 1)
                self._joined.load(number, member.snapshots.best.weights)
                self._optimizer.restart(number)
        kept = [number for number, member in enumerate(self.active) if not member.has_ended]
        if 0 < len(kept) < len(self.active):
            self._optimizer.keep(kept)
        if len(kept) < len(self.active):
            self.active = [self.active[number] for number in kept]
            if kept:
                self._arrange()


class _Beside:
    """Rows of several members, of which each row that is taken holds one of every member."""

    def __init__(self, parts: Sequence[Batch]) -> None:
        self._rows = Batch.join(parts, torch.cat)
        sizes = torch.tensor([len(part) for part in parts])
        self._starts = sizes.cumsum(0) - sizes

    def take(self, index: Tensor) -> Batch:
        """Take rows by their numbers (n, K) among those of each member."""
        places = index + self._starts
        plain = replace(self._rows, x=self._rows.x.without_ragged())
        beside = plain.map(lambda part: part.index_select(0, places.flatten()).unflatten(0, index.shape).flatten(1))
        ragged: dict[str, Any] = {
            form: tuple(rows.rows(own) for own in places.unbind(dim=1) for rows in several)
            for form, several in self._rows.x.ragged().items()
        }
        return replace(beside, x=replace(beside.x, **ragged))


def train_jointly(
    options: TableOptions,
    members: Sequence[Member],
    loss: Callable[[int], MultiTaskLoss],
    run: Run,
    describe: Describe = str,
) -> int:
    """Train members, leave the kept weights in their networks, and return the number of rows of a step.

    Parameters
    ----------
    options : TableOptions
        Such as an estimator; its balance is "sum".
    members : sequence of Member
    loss : callable
        ``loss(k)`` is the loss of the tasks of k networks side by side.
    run : Run
        The fit. Its watch shows the epochs of the first member that trains, and ends all of them.
    describe : callable
        Turns the record of an epoch into text.
    """
    keep_freed_memory()
    training = _JointTraining(options, members, loss)
    with run.watch.steps(options.epochs, "epoch", describe) as step:
        for epoch in range(options.epochs):
            is_over = step(training.run_epoch(epoch))
            training.let_go()
            if is_over or not training.active:
                break
    for member in members:
        member.network.load_state_dict(member.snapshots.best.weights)
        if member.valid is None:
            settle_statistics(member.network, member.rows, options.precision)
    return training.batch_size
