"""How M2TRec is trained: examples of sessions, and one step of the losses of items and categories."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Literal, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from tabmtl.base.ranks import ALONE, Ranks, answer
from tabmtl.base.schema import DivergenceError
from tabmtl.base.storage.stored import fingerprint
from tabmtl.columns.ragged import ranges
from tabmtl.nn.layers import at_least_float32
from tabmtl.sessions.m2trec.items import NetworkItems
from tabmtl.sessions.m2trec.network import M2TRecNetwork
from tabmtl.sessions.m2trec.softmax import Candidates, count_held, own_places, softmax_loss
from tabmtl.sessions.m2trec.validation import Validation, is_clearly_better
from tabmtl.sessions.ragged import Sessions
from tabmtl.sessions.ranking import Ranking
from tabmtl.sessions.repeats import TOP
from tabmtl.training.checkpoint import check_like, checksum
from tabmtl.training.device import give_way, has_bfloat16
from tabmtl.training.epochs import Judged, Loop, schedule
from tabmtl.training.hooks import Record
from tabmtl.training.optimizer import Optimizer
from tabmtl.training.table_loop import step_rows

ExampleMode = Literal["per_session", "per_prefix"]

_BEGUN = 0.85  # of MRR@20 without the directed path: with more, the path is not judged after one epoch
#: Steps whose examples are sorted by length, so that a step is padded little.
SORTED_STEPS = 32


@dataclass(frozen=True, kw_only=True, eq=False)
class Examples:
    """Ranges of clicks, each followed by a click to predict.

    Attributes
    ----------
    units : Tensor of int64, shape (n,)
        Unit of every click, session after session.
    weights : Tensor of float32, shape (n,)
        Weight of every click as a target; their mean over the targets of all examples is 1.
    starts, lengths : ndarray of int64, shape (E,)
        Clicks that an example sees; the one behind them is its target.
    all_prefixes : bool
        Whether each click of an example predicts the one after it, or only the last does.
    group : Ranks
        Processes that take the steps together, each on examples of its own.
    """

    group: ClassVar[Ranks] = ALONE

    units: Tensor
    weights: Tensor
    starts: np.ndarray
    lengths: np.ndarray
    all_prefixes: bool

    @classmethod
    def of(
        cls,
        sessions: Sessions,
        unit_of: np.ndarray,
        max_length: int,
        mode: ExampleMode,
        device: torch.device,
        mean_weight: float | None = None,
    ) -> Examples:
        """Make the examples of sessions of at least two clicks; passes cut a long session in pieces.

        ``mean_weight`` is that of all targets, by default of those of these sessions.
        """
        all_prefixes = mode == "per_session"
        lengths = sessions.lengths - 1
        counts = -(-lengths // max_length) if all_prefixes else lengths
        owner = np.repeat(np.arange(len(sessions)), counts)
        ends = lengths[owner] - ranges(0, counts) * (max_length if all_prefixes else 1)
        seen = np.minimum(ends, max_length)
        return cls(
            units=torch.from_numpy(unit_of[sessions.items].astype(np.int64)).to(device),
            weights=torch.from_numpy(_relative_weights(sessions, mean_weight)).to(device),
            starts=sessions.offsets[owner] + ends - seen,
            lengths=seen,
            all_prefixes=all_prefixes,
        )

    @property
    def targets(self) -> np.ndarray:
        """Number of targets of every example, (E,)."""
        return self.lengths if self.all_prefixes else np.ones_like(self.lengths)

    def batches(self, batch_size: int | Literal["auto"]) -> list[np.ndarray]:
        """Deal all examples to random steps of about ``batch_size`` targets, each of examples of about one length."""
        order = torch.randperm(len(self.lengths)).numpy()
        targets = self.targets
        batch_size = step_rows(batch_size, int(targets.sum()), low=256, high=2048)
        window = max(1, int(SORTED_STEPS * batch_size / max(targets.mean(), 1)))
        steps: list[np.ndarray] = []
        for start in range(0, len(order), window):
            part = order[start : start + window]
            part = part[np.argsort(self.lengths[part], kind="stable")]
            step = np.cumsum(targets[part]) // batch_size
            steps += np.split(part, np.flatnonzero(np.diff(step)) + 1)
        return [steps[place] for place in torch.randperm(len(steps)).tolist()]

    def steps(self, epoch: int, batch_size: int | Literal["auto"]) -> tuple[int, Iterable[Step]]:
        """Return the number of the steps of an epoch, and the steps."""
        batches = self.batches(batch_size)
        return len(batches), (Step(self, index) for index in batches)

    def facts(self) -> dict[str, Any]:
        """Return what tells the examples from others."""
        return {
            "the number of training clicks": len(self.units),
            "the checksum of the sessions": checksum([self.units, self.weights, self.starts]),
        }

    def read(self, index: np.ndarray) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Give units (B, L) newest first, 0 behind the end; lengths (B,); targets and their weights (P,).

        Targets are in the order of queries.
        """
        lengths = torch.from_numpy(self.lengths[index]).to(self.units.device)
        last = torch.from_numpy(self.starts[index]).to(self.units.device) + lengths - 1
        places = torch.arange(int(self.lengths[index].max()), device=self.units.device)
        inside = places < lengths[:, None]
        clicks = (last[:, None] - places).where(inside, 0)
        units = self.units[clicks].where(inside, 0)
        targets = 1 + (clicks[inside] if self.all_prefixes else last)
        return units, lengths, self.units[targets], self.weights[targets]


def _relative_weights(sessions: Sessions, mean: float | None) -> np.ndarray:
    """Divide the weights of clicks (n,) by the mean weight of those to predict, all but the first of each session."""
    if sessions.weights is None:
        return np.ones(len(sessions.items), dtype=np.float32)
    if mean is None:
        mean = np.delete(sessions.weights, sessions.offsets[:-1]).mean(dtype=np.float64)
    if not mean:
        raise ValueError(
            "every click to predict has the weight 0: give a weight above 0 in event_weights to some event"
        )
    return (sessions.weights / mean).astype(np.float32)


@dataclass(frozen=True, eq=False)
class Step:
    """Examples of one step, by number (B,), and what draws its candidates; None is torch's own generator."""

    examples: Examples
    index: np.ndarray
    generator: torch.Generator | None = None


class Feed(Protocol):
    """Source of steps: `Examples` in memory, or windows of them on a disk."""

    @property
    def group(self) -> Ranks: ...
    def steps(self, epoch: int, batch_size: int | Literal["auto"], /) -> tuple[int, Iterable[Step]]: ...
    def facts(self) -> dict[str, Any]: ...


class SessionLoop(Loop):
    """One training of a network; see `tabmtl.training.epochs.Loop`.

    Parameters
    ----------
    network : M2TRecNetwork
    items : NetworkItems
    feed : Feed
    level_weights : mapping of str to float
        Weights of the category losses by level; the loss of items has the weight 1.
    options : M2TRec
    validation : Validation or None
    """

    def __init__(
        self,
        network: M2TRecNetwork,
        items: NetworkItems,
        feed: Feed,
        level_weights: Mapping[str, float],
        options: Any,
        validation: Validation | None,
    ) -> None:
        self.network, self.items, self.feed, self.options = network, items, feed, options
        self.group, self.networks = feed.group, [network]
        self.level_weights, self.validation = level_weights, validation
        self.epoch = 0
        device = items.row.device
        self.bfloat16 = options.precision == "bf16" or (options.precision == "auto" and has_bfloat16(device))
        self.candidates = Candidates(items.clicks, options.n_negatives)
        self.optimizer = Optimizer(
            network,
            weight_decay=options.weight_decay,
            average_decay=options.average_decay,
            group=self.group,
        )

    def run_epoch(self, epoch: int) -> Sequence[Record]:
        """Pass once over all examples; in a group, each rank over its own."""
        self.epoch = epoch
        self.network.train()
        n_steps, steps = self.feed.steps(epoch, self.options.batch_size)
        names = ["item", *self.level_weights]
        totals, n_targets = torch.zeros(len(names), device=self.items.row.device), 0
        for number, step in enumerate(steps):
            progress = (epoch + number / n_steps) / self.options.epochs
            losses, n = self.step(step, self.options.learning_rate * schedule(progress))
            give_way()
            totals += n * losses
            n_targets += n
        means = dict(zip(names, (self.group.sum(totals) / n_targets).tolist(), strict=True))
        if not np.isfinite(list(means.values())).all():
            raise DivergenceError(
                f"training diverged: a loss is not finite; lower learning_rate (now {self.options.learning_rate})"
            )
        levels = (weight * means[name] for name, weight in self.level_weights.items())
        loss = sum(levels, start=means["item"])
        return [{"train/loss": loss} | {f"train/{n}/loss": mean for n, mean in means.items()}]

    def step(self, step: Step, learning_rate: float) -> tuple[Tensor, int]:
        """Take one optimiser step; give the mean losses of items and of each level, and the number of targets.

        In a group they are means over the targets of all ranks, of which this one gives its part.
        """
        if not len(step.index):  # other ranks may have examples of it
            none = self.items.row[:0]
            _, _, n_targets = self._meet(step, none, 0, 0, [none] * len(self.level_weights))
            if n_targets:
                self.optimizer.step(learning_rate)
            return torch.zeros(1 + len(self.level_weights), device=self.items.row.device), n_targets
        losses, n_targets = self._losses(step)
        levels = zip(self.level_weights.values(), losses[1:], strict=True)
        (losses[0] + sum(weight * part for weight, part in levels)).backward()
        self.optimizer.step(learning_rate)
        return torch.stack([part.detach() for part in losses]), n_targets

    def _losses(self, step: Step) -> tuple[list[Tensor], int]:
        """Compute the losses of items and of each level, with their graphs, and the number of targets; see `step`."""
        network, items, examples, all_prefixes = self.network, self.items, step.examples, step.examples.all_prefixes
        units, lengths, targets, weights = examples.read(step.index)
        counts = lengths if all_prefixes else torch.ones_like(lengths)
        newest = targets[counts.cumsum(0) - counts]
        n_held = count_held(torch.cat([newest[:, None], units], dim=1))
        codes = [items.codes(targets, column) for column in network.level_columns]
        with torch.autocast(units.device.type, torch.bfloat16, enabled=self.bfloat16):
            clicked = torch.cat([units.flatten(), targets])
            (candidates, place, correction), shares, n_targets = self._meet(step, clicked, n_held, len(targets), codes)
            vectors = network.vectors(items, candidates)
            places, target = place[: units.numel()].view_as(units), place[units.numel() :]
            clicked = vectors.index_select(0, places.flatten()).view(*units.shape, -1)
            queries, categories = network(clicked, lengths, all_prefixes=all_prefixes)
        own = own_places(target, places, counts)
        losses = [softmax_loss(queries, vectors, correction, own, weights, bfloat16=self.bfloat16)]
        for of_level, scores in zip(codes, categories, strict=True):
            losses.append(category_loss(scores, of_level, weights))
        if self.group.size > 1:
            losses = [share * loss for share, loss in zip(shares, losses, strict=True)]
        return losses, n_targets

    def _meet(
        self, step: Step, clicked: Tensor, n_held: int, n_targets: int, codes: Sequence[Tensor]
    ) -> tuple[tuple[Tensor, Tensor, Tensor], list[float], int]:
        """Draw the candidates of a step, with the clicks of all ranks among them.

        Returns
        -------
        candidates : tuple of Tensor
            As of `Candidates.draw`, with the places of this rank's clicks (M,).
        shares : list of float
            Shares of this rank in the targets that losses of items and of each level count; alone none.
        n_targets : int
            Number of targets of all ranks.
        """
        if self.group.size == 1:
            return self.candidates.draw(clicked, n_held, step.generator), [], n_targets
        own = [n_held, n_targets, *(int(torch.count_nonzero(of_level)) for of_level in codes)]
        parts = self.group.gather((clicked.cpu().numpy(), own))
        everyone = torch.from_numpy(np.concatenate([part for part, _ in parts])).to(clicked.device)
        start = sum(len(part) for part, _ in parts[: self.group.rank])
        held, *totals = np.sum([counts for _, counts in parts], axis=0).tolist()
        candidates, place, correction = self.candidates.draw(everyone, held, step.generator)
        shares = [n / max(total, 1) for n, total in zip(own[1:], totals, strict=True)]
        return (candidates, place[start : start + len(clicked)], correction), shares, totals[0]

    def validate(self) -> Sequence[Judged]:
        """Rank the next clicks of validation sessions; MRR@20 is to be maximised. In a group, rank 0 does.

        The epoch is as good as its better query, with the directed path or without it. A path that does clear harm is
        left out of training from then on. After one epoch it has hardly begun on dense logs either, so it must then
        lose 15 % of MRR@20 too.
        """
        if self.validation is None:
            return [Judged({})]
        record, self.network.encoder.left_out = answer(self.group, partial(self._judge, self.validation))
        return [Judged(record, record["val/mrr@20"])]

    def _judge(self, validation: Validation) -> tuple[Record, float]:
        """Return the validation part of the record, and the share of queries without the directed path from now on."""
        rankings, left_out = validation.rank(), self.network.encoder.left_out
        if len(rankings) > 1 and self._path_does_harm(rankings):
            left_out = 1.0
        ranking = max(rankings, key=lambda ranking: ranking.mrr(20))
        return {"val/recall@20": ranking.recall(20), "val/mrr@20": ranking.mrr(20)}, left_out

    def _path_does_harm(self, rankings: list[Ranking]) -> bool:
        """Tell whether the directed path does clear harm to the ranks of the targets."""
        without, directed = rankings
        if not self.epoch and directed.mrr(TOP) > _BEGUN * without.mrr(TOP):
            return False
        return is_clearly_better(without, directed)

    def facts(self) -> dict[str, Any]:
        """Return what tells the sessions and items from others."""
        return self.feed.facts() | {
            "the checksum of the items": fingerprint(self.items.known),
            "the number of validation clicks": 0 if self.validation is None else len(self.validation),
        }

    def state(self) -> dict[str, Any]:
        """Return all that the next epoch depends on."""
        return {"optimizer": self.optimizer.state(), "left_out": self.network.encoder.left_out}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a state."""
        self.optimizer.restore(state["optimizer"])
        check_like(state["left_out"], 0.5, "its share without the directed path")
        self.network.encoder.left_out = state["left_out"]


def category_loss(scores: Tensor, codes: Tensor, weights: Tensor) -> Tensor:
    """Average the weighted cross-entropies of the targets whose category is known (not code 0); 0 if there is none."""
    losses = F.cross_entropy(
        at_least_float32(scores), codes.where(codes > 0, -100), reduction="none", ignore_index=-100
    )
    return (weights * losses).sum() / (codes > 0).sum().clamp(min=1)
