"""How M2TRec is trained: examples of sessions, and one step of the losses of items and categories."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from tabmtl.schema import DivergenceError
from tabmtl.sessions.m2trec.network import M2TRecNetwork, Units
from tabmtl.sessions.m2trec.softmax import Candidates, OwnItems, softmax_loss
from tabmtl.sessions.ragged import Sessions, ranges
from tabmtl.training.device import give_way
from tabmtl.training.epochs import Record, schedule
from tabmtl.training.optimizer import Optimizer

Training = Literal["per_session", "per_prefix"]

_WINDOW = 32  # steps whose examples are sorted by length, so that a step is padded little


@dataclass(frozen=True, kw_only=True, eq=False)
class Examples:
    """Ranges of clicks, each followed by a click to predict.

    Attributes
    ----------
    units : Tensor of int64, shape (n,)
        Unit of every click, session after session.
    starts, lengths : ndarray of int64, shape (E,)
        Clicks that an example sees; the one behind them is its target.
    every : bool
        Whether each click of an example predicts the one after it, or only the last does.
    """

    units: Tensor
    starts: np.ndarray
    lengths: np.ndarray
    every: bool

    @classmethod
    def of(
        cls, sessions: Sessions, unit_of: np.ndarray, max_length: int, training: Training, device: torch.device
    ) -> Examples:
        """The examples of sessions of at least two clicks; passes over a longer session than is read are several."""
        every = training == "per_session"
        lengths = sessions.lengths - 1
        counts = -(-lengths // max_length) if every else lengths
        owner = np.repeat(np.arange(len(sessions)), counts)
        place = ranges(0, counts)
        ends = lengths[owner] - place * (max_length if every else 1)
        seen = np.minimum(ends, max_length)
        starts = sessions.offsets[owner] + ends - seen
        units = torch.from_numpy(unit_of[sessions.items].astype(np.int64)).to(device)
        return cls(units=units, starts=starts, lengths=seen, every=every)

    def batches(self, batch_size: int) -> list[np.ndarray]:
        """All examples in random steps of about so many targets, examples of a step of about one length."""
        order = torch.randperm(len(self.lengths)).numpy()
        targets = self.lengths if self.every else np.ones_like(self.lengths)
        window = max(1, int(_WINDOW * batch_size / max(targets.mean(), 1)))
        steps: list[np.ndarray] = []
        for start in range(0, len(order), window):
            part = order[start : start + window]
            part = part[np.argsort(self.lengths[part], kind="stable")]
            step = np.cumsum(targets[part]) // batch_size
            steps += np.split(part, np.flatnonzero(np.diff(step)) + 1)
        return [steps[place] for place in torch.randperm(len(steps)).tolist()]

    def read(self, index: np.ndarray) -> tuple[Tensor, Tensor, Tensor]:
        """Units (B, L) newest first, 0 behind the end; lengths (B,); and targets (P,) in the order of queries."""
        lengths = torch.from_numpy(self.lengths[index]).to(self.units.device)
        last = torch.from_numpy(self.starts[index]).to(self.units.device) + lengths - 1
        places = torch.arange(int(self.lengths[index].max()), device=self.units.device)
        inside = places < lengths[:, None]
        clicks = (last[:, None] - places).where(inside, 0)
        units = self.units[clicks].where(inside, 0)
        return units, lengths, self.units[clicks[inside] + 1] if self.every else self.units[last + 1]


class SessionLoop:
    """One training of a network; see `tabmtl.training.epochs.Loop`.

    Parameters
    ----------
    network : M2TRecNetwork
    units : Units
    examples : Examples
    candidates : Candidates
    weights : dict of str to float
        Of the category losses by level, beside 1 of the items.
    options : LoopOptions
    validate : callable
        Gives the validation record and what early stopping maximises.
    """

    def __init__(
        self,
        network: M2TRecNetwork,
        units: Units,
        examples: Examples,
        candidates: Candidates,
        *,
        weights: dict[str, float],
        options: LoopOptions,
        validate: Callable[[], tuple[Record, float | None]],
    ) -> None:
        self.network, self.units, self.examples, self.candidates = network, units, examples, candidates
        self._weights, self._options, self._validate = weights, options, validate
        self.optimizer = Optimizer(
            network,
            learning_rate=options.learning_rate,
            weight_decay=options.weight_decay,
            average_decay=options.average_decay,
        )

    def run_epoch(self, epoch: int) -> Record:
        """One pass over all examples."""
        self.network.train()
        names = ["item", *self._weights]
        steps = self.examples.batches(self._options.batch_size)
        totals, n_targets = torch.zeros(len(names), device=self.units.row.device), 0
        for number, index in enumerate(steps):
            progress = (epoch + number / len(steps)) / self._options.epochs
            losses, n = self.step(index, self._options.learning_rate * schedule(progress))
            give_way()
            totals += n * losses
            n_targets += n
        means = (totals / n_targets).tolist()
        if not np.isfinite(means).all():
            raise DivergenceError(
                f"training diverged: a loss is not finite; lower learning_rate (now {self._options.learning_rate})"
            )
        weighted = zip(means, (1.0, *self._weights.values()), strict=True)
        record: Record = {"train/loss": sum(mean * weight for mean, weight in weighted)}
        return record | {f"train/{name}/loss": mean for name, mean in zip(names, means, strict=True)}

    def step(self, index: np.ndarray, learning_rate: float) -> tuple[Tensor, int]:
        """One optimiser step on some examples; mean losses of items and of each level, and the number of targets."""
        units, lengths, targets = self.examples.read(index)
        low = self._options.precision == "bf16"
        with torch.autocast(units.device.type, torch.bfloat16, enabled=low):
            candidates, place, correction = self.candidates.draw(torch.cat([units.flatten(), targets]))
            vectors = self.network.vectors(self.units, candidates)
            places, target = place[: units.numel()].view_as(units), place[units.numel() :]
            clicked = vectors.index_select(0, places.flatten()).view(*units.shape, -1)
            queries, categories = self.network(clicked, lengths, every=self.examples.every)
        own = OwnItems.of(target, places, lengths if self.examples.every else torch.ones_like(lengths))
        losses = [softmax_loss(queries[:, :-1], queries[:, -1], vectors, correction, own, low=low)]
        for level, scores in enumerate(categories):
            losses.append(category_loss(scores, self.units.levels[targets, level]))
        loss = losses[0] + sum(weight * part for weight, part in zip(self._weights.values(), losses[1:], strict=True))
        loss.backward()
        self.optimizer.step(learning_rate)
        return torch.stack([part.detach() for part in losses]), len(targets)

    def validate(self) -> tuple[Record, float | None]:
        """The validation part of the record."""
        return self._validate()

    def finish(self) -> None:
        """Nothing is left to do."""


@dataclass(frozen=True, kw_only=True)
class LoopOptions:
    """How to train: the fields of `M2TRec` that the loop reads."""

    epochs: int
    batch_size: int
    learning_rate: float
    weight_decay: float
    average_decay: float
    precision: str


def category_loss(scores: Tensor, codes: Tensor) -> Tensor:
    """Mean cross-entropy over the targets whose category is known (not code 0); 0 if there is none."""
    total = F.cross_entropy(scores.float(), codes.where(codes > 0, -100), reduction="sum", ignore_index=-100)
    return total / (codes > 0).sum().clamp(min=1)
