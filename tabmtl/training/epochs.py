"""Epochs of every training: averaged weights are validated, the best are kept, and training stops early."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

import torch

from tabmtl.training.device import unseeded
from tabmtl.training.optimizer import Optimizer

Record = dict[str, float | None]
OnEpoch = Callable[[Mapping[str, float | None]], bool | None]


class TrainingOptions(Protocol):
    """Parameters that every training reads; see :class:`tabmtl.estimators.trained.TrainedEstimator`."""

    epochs: int
    batch_size: int
    learning_rate: float
    weight_decay: float
    average_decay: float
    early_stopping: bool
    patience: int
    precision: str


class Loop(Protocol):
    """Training that `run_epochs` repeats, one epoch at a time."""

    optimizer: Optimizer

    def run_epoch(self, epoch: int) -> Record:
        """Run one pass over the training data, and return the train part of the epoch's record."""

    def validate(self) -> tuple[Record, float | None]:
        """Return the validation part of the record, and the number to maximise; None keeps the last epoch."""

    def finish(self) -> None:
        """Finish the training; called once, when the kept weights are in the network."""


def run_epochs(
    network: torch.nn.Module, loop: Loop, options: TrainingOptions, *, validated: bool, on_epoch: OnEpoch | None
) -> tuple[list[Record], int]:
    """Train in epochs: validate averaged weights after each, stop early, and leave the kept weights in the network.

    Parameters
    ----------
    network : torch.nn.Module
    loop : Loop
    options : TrainingOptions
        Such as an estimator.
    validated : bool
        Whether there is validation data. Without it, or without early stopping, all epochs are trained and the last
        weights are kept.
    on_epoch : callable, optional
        Called with the epoch's record, while the network has the validated weights; a true answer stops training.
        Torch's generators are the caller's meanwhile.

    Returns
    -------
    history : list of dict
        One record an epoch.
    best : int
        Index of the epoch whose weights were kept.
    """
    # glibc gives freed memory back, and takes it anew at every step, until a block as large as this one was freed
    torch.empty(2**25 - 2**16, dtype=torch.uint8)
    history: list[Record] = []
    patience = options.patience if options.early_stopping and validated else None
    best, best_score, best_weights = 0, -float("inf"), network.state_dict()
    for epoch in range(options.epochs):
        record: Record = {"epoch": float(epoch), **loop.run_epoch(epoch)}
        with loop.optimizer.averaged():
            of_validation, score = loop.validate()
            record |= of_validation
            score = float(epoch) if score is None or patience is None else score
            if score > best_score:
                best, best_score = epoch, score
                best_weights = {k: v.clone() for k, v in network.state_dict().items()}
            history.append(record)
            with unseeded():
                stop = on_epoch is not None and on_epoch(record)  # the hook sees the validated weights
        if stop or (patience is not None and epoch - best >= patience):
            break
    network.load_state_dict(best_weights)
    loop.finish()
    return history, best


def schedule(progress: float) -> float:
    """Return the factor of the learning rate: a short linear warm-up, then half a cosine."""
    return min(1.0, progress / 0.02 + 0.1) * 0.5 * (1 + torch.cos(torch.tensor(progress * torch.pi)).item())
