"""Epochs of every training: averaged weights are validated, the best are kept, and training stops early."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import polars as pl
import torch
from torch import Tensor

from tabmtl.base.ranks import Ranks, answer
from tabmtl.base.schema import DivergenceError, warn_user
from tabmtl.training.checkpoint import MISFITS, Checkpoint, State, check_like
from tabmtl.training.device import generator_states, set_generator_states, unseeded
from tabmtl.training.hooks import OnEpoch, Record
from tabmtl.training.optimizer import Optimizer
from tabmtl.training.run import Run
from tabmtl.training.watch import Describe

_STILL_RISING = 0.01  # of the whole rise of the score, in the last epochs


class TrainingOptions(Protocol):
    """Parameters that every training reads; see :class:`tabmtl.estimators.trained.TrainedEstimator`."""

    epochs: int
    learning_rate: float
    weight_decay: float
    average_decay: float
    early_stopping: bool
    patience: int
    restarts: int
    precision: str


class Weighted(Protocol):
    """Network, or one of several that are trained as one."""

    def state_dict(self) -> Mapping[str, Any]:
        """Return its weights, as torch does."""

    def load_state_dict(self, weights: Mapping[str, Any], /) -> object:
        """Take weights, as torch does."""


class Judged(NamedTuple):
    """Validation part of a network's record, and what is to be maximised.

    Without a ``score`` the last epoch is kept.
    """

    record: Record
    score: float | None = None


class Loop(Protocol):
    """Training of a network, or of several as one, that `run_epochs` repeats, one epoch at a time.

    Attributes
    ----------
    network : Module
    networks : sequence of Weighted
        Those that train as one.
    optimizer : Optimizer
    """

    network: torch.nn.Module
    networks: Sequence[Weighted]
    optimizer: Optimizer

    def run_epoch(self, epoch: int) -> Sequence[Record]:
        """Run one pass over the training data, and return the train part of the epoch's record for each network."""

    def validate(self) -> Sequence[Judged]:
        """Validate each network."""

    def keep(self, numbers: Sequence[int]) -> None:
        """Leave some of the networks."""
        self.optimizer.keep(numbers)

    def finish(self) -> None:
        """Finish the training; called once, when the kept weights are in the networks."""
        return

    def facts(self) -> Mapping[str, Any]:
        """Return what tells the training rows and their steps from others, as JSON, with names for an error."""

    def state(self) -> State:
        """Return all that the next epoch depends on, besides the weights of the network and torch's generators."""

    def restore(self, state: State) -> None:
        """Go on from a state, whose arrays are of numpy."""


class Best(NamedTuple):
    """The epoch that a training keeps: its number, its score and its weights."""

    epoch: int
    score: float
    weights: Mapping[str, Tensor]


class Span(NamedTuple):
    """Epochs of a training: how many at most, the number of the first, and their name."""

    n_epochs: int
    start: int = 0
    unit: str = "epoch"


class Trained:
    """Finished epochs of a network; the attributes hold them at any time.

    Attributes
    ----------
    history : list of dict
        One record an epoch.
    scores : list of float
        Scores of all epochs.
    best : Best
        The epoch with the best score; one without weights before the first has ended.
    """

    def __init__(self, network: Weighted) -> None:
        self.network = network
        self.history: list[Record] = []
        self.scores: list[float] = []
        self.best = Best(0, -math.inf, {})
        self.restarted_after = [0]

    def offer(self, epoch: int, score: float) -> None:
        """Keep the network's weights if they are the best."""
        self.scores.append(score)
        if not self.best.weights or score > self.best.score:
            self.best = Best(epoch, score, {name: own.clone() for name, own in self.network.state_dict().items()})


def run_epochs(
    networks: Sequence[torch.nn.Module],
    loop: Loop,
    options: TrainingOptions,
    *,
    run: Run,
    on_epoch: OnEpoch | None,
    describe: Describe = str,
    span: Span | None = None,
) -> list[Trained]:
    """Train in epochs: validate averaged weights after each, stop early, and leave the kept weights in the networks.

    Parameters
    ----------
    networks : sequence of Module
        Each gets the weights that are kept for it: the network of the loop, or those that it trains as one.
    loop : Loop
    options : TrainingOptions
        Such as an estimator.
    run : Run
        The fit. Its watch shows the epochs of the first network that trains. Its checkpoint, if any, is of one network:
        it is written after each epoch, and the training goes on from what it holds, as if it had never ended; epochs
        before it are told to nobody again. In a group of processes, rank 0 shows the progress and calls ``on_epoch``,
        which decides for all; if it raises an error, training ends in all.
    on_epoch : callable, optional
        Called with the epoch's record, while the network has the validated weights; a true answer stops training.
        Torch's generators are the caller's meanwhile.
    describe : callable
        Turns the epoch's record into text.
    span : Span, optional
        By default the epochs of the options, at most. Without validation data, or without early stopping, all are
        trained and the last weights are kept.

    Returns
    -------
    list of Trained
        One for each network.

    Raises
    ------
    ValueError
        If the checkpoint is of another training.
    """
    keep_freed_memory()
    span = Span(options.epochs) if span is None else span
    training, checkpoint = _Training(loop, options, span.start), run.checkpoint
    first = training.all[0]
    if checkpoint is not None and training.resume(checkpoint):
        run.watch.tell(f"goes on after epoch {len(first.history)} of {span.n_epochs}, from a checkpoint")
    with run.watch.steps(span.n_epochs, span.unit, describe, done=len(first.history)) as step:

        def tell(record: Record) -> bool:
            is_over = step(record)
            return answer(run.group, lambda: on_epoch is not None and bool(on_epoch(record))) or is_over

        while training.n_epochs < span.n_epochs and not training.has_ended:
            training.run_epoch(tell, run.group)
            if checkpoint is not None:
                checkpoint.save(training.state(checkpoint))
    for network, own in zip(networks, training.all, strict=True):
        network.load_state_dict(own.best.weights)
    loop.finish()
    return training.all


class _Training:
    """A training between two epochs, of all networks and of those that have not stopped."""

    def __init__(self, loop: Loop, options: TrainingOptions, start: int) -> None:
        self._loop, self._options, self._start = loop, options, start
        self.all = [*map(Trained, loop.networks)]
        self._active = self.all
        self.has_ended, self.n_epochs = False, 0

    def run_epoch(self, tell: Callable[[Record], bool], group: Ranks) -> None:
        """Run an epoch, and prepare the next one, if there is one; ``tell`` gets its record, and may stop training."""
        loop, stops, epoch = self._loop, self._options.early_stopping, self._start + self.n_epochs
        records = loop.run_epoch(epoch)
        _check_weights(loop.network, group, epoch)
        with loop.optimizer.averaged():
            for own, record, judged in zip(self._active, records, loop.validate(), strict=True):
                own.history.append({"epoch": float(epoch), **record, **judged.record})
                score = judged.score
                if score is None or not stops:
                    score = float(epoch)
                own.offer(epoch, score)
            self.n_epochs += 1
            with unseeded():
                self.has_ended = tell(self._active[0].history[-1])  # the hook sees the validated weights
        if stops and not self.has_ended:
            self._let_go()

    def _let_go(self) -> None:
        """Let networks that have stalled begin again from their best weights, or leave."""
        kept = []
        for number, own in enumerate(self._active):
            newest = max(own.best.epoch, own.restarted_after[-1])
            has_stalled = len(own.history) - 1 - newest >= self._options.patience
            if has_stalled and len(own.restarted_after) > self._options.restarts:
                continue
            kept.append(number)
            if has_stalled:
                own.restarted_after.append(len(own.history) - 1)
                own.network.load_state_dict(own.best.weights)
                self._loop.optimizer.restart(number)
        self.has_ended = not kept
        if 0 < len(kept) < len(self._active):
            self._loop.keep(kept)
            self._active = [self._active[number] for number in kept]

    def state(self, checkpoint: Checkpoint) -> State:
        network, (own,) = self._loop.network, self.all
        noise = generator_states(next(network.parameters()).device)
        return {
            "history": own.history,
            "restarted_after": own.restarted_after,
            "has_ended": self.has_ended,
            "network": network.state_dict(),
            "scores": own.scores,
            "best": own.best._asdict(),
            "loop": self._loop.state(),
            "noise": checkpoint.group.gather([part.numpy() for part in noise], to=0),
        }

    def resume(self, checkpoint: Checkpoint) -> bool:
        """Go on from a checkpoint, if it holds an epoch of this training; tell whether it does."""
        checkpoint.agree(self._loop.facts())
        state = checkpoint.take()
        if state is not None:
            try:
                self._restore(state, checkpoint.group.rank)
            except MISFITS as error:
                raise checkpoint.misfit(error) from error
        return state is not None

    def _restore(self, state: State, rank: int) -> None:
        network, (own,) = self._loop.network, self.all
        check_like(state["network"], network.state_dict(), "its network")
        network.load_state_dict({name: torch.tensor(array) for name, array in state["network"].items()})
        self._loop.restore(state["loop"])
        own.history = list(state["history"])
        self.n_epochs = len(own.history)
        check_like(state["scores"], self.n_epochs * [0.5], "its scores")
        check_like(state["best"], Best(0, 0.5, network.state_dict())._asdict(), "its best epoch")
        own.scores, best = list(state["scores"]), state["best"]
        own.best = Best(**best | {"weights": {name: torch.tensor(array) for name, array in best["weights"].items()}})
        check_like(state["restarted_after"], max(len(state["restarted_after"]), 1) * [0], "its restarts")
        check_like(state["has_ended"], False, "its end")
        own.restarted_after, self.has_ended = list(state["restarted_after"]), state["has_ended"]
        if rank < len(state["noise"]):  # else this rank is new, and keeps the noise of its own
            device = next(network.parameters()).device
            saved = generator_states(device)
            noise = state["noise"][rank][: len(saved)]  # the device may have changed
            check_like(noise, saved[: max(len(noise), 1)], "its noise")
            set_generator_states([torch.tensor(part) for part in noise], device)


def keep_freed_memory() -> None:
    """Let steps use freed memory again: glibc gives it back until a block as large as this one was freed."""
    torch.empty(2**25 - 2**16, dtype=torch.uint8)


def _check_weights(network: torch.nn.Module, group: Ranks, epoch: int) -> None:
    """Raise a RuntimeError if the weights of a rank have parted from the others', a DivergenceError if none is left."""
    if group.size == 1:
        return
    sums = group.gather(sum(p.detach().double().abs().sum().item() for p in network.parameters()))
    if not any(map(math.isfinite, sums)):
        raise DivergenceError(f"training diverged in epoch {epoch}: a weight is not finite; lower learning_rate")
    for rank, found in enumerate(sums):
        if found != sums[0]:
            raise RuntimeError(
                f"after epoch {epoch} the weights of rank {rank} are not those of rank 0; run all ranks with one "
                "version of tabmtl and of torch on one kind of processor, and report it if you do"
            )


def warn_if_rising(scores: Sequence[float], patience: int) -> None:
    """Warn if the score of a training that its last epoch ended had risen in the epochs of its patience.

    A training of no more epochs than that has no earlier score to compare with, and gives no warning.
    """
    if len(scores) <= patience:
        return
    before, best = max(scores[:-patience]), max(scores)
    if best - before > _STILL_RISING * (best - scores[0]):
        warn_user(
            f"the validation score still rose when training ended after epochs={len(scores)}: {best:.4g}, against "
            f"{before:.4g} {patience} epochs before; more epochs are likely to improve it"
        )


def schedule(progress: float) -> float:
    """Return the factor of the learning rate: a short linear warm-up, then half a cosine."""
    return min(1.0, progress / 0.02 + 0.1) * 0.5 * (1 + torch.cos(torch.tensor(progress * torch.pi)).item())


def trained_attributes(history: list[Record], best: int) -> dict[str, Any]:
    """Return what a training that has just ended tells of its epochs."""
    # declared, for a score may be undefined in every epoch
    types = {name: pl.Int64 if name == "epoch" else pl.Float64 for name in history[0]}
    return {"history_": pl.DataFrame(history, types), "best_iteration_": best + 1}
