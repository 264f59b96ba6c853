"""Training at several widths at once.

A step learns the labels by the whole network, and by one smaller network that is drawn: a share of the shared widths,
and a share of the hidden layer of every head. The features of the smaller network, which its heads read, are pulled to
those of the whole one.

Aich, Schulter, Roy-Chowdhury, Chandraker and Suh, 2023, "Efficient Controllable Multi-Task Architectures", ICCV, arXiv
2308.11744. The paper's are the widths of the shared part and of each task that are cut apart, their draws, and the
distillation that makes features invariant to them. Inferred, since we know the abstract and not the details, are the
size of the pull and the scale of its features, that one network is drawn a step beside the whole one, the smallest of
all in half of the steps, and that its labels count like those of the whole one; see docs/lab.md.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import polars as pl
import torch
from torch import Tensor, nn
from torch.func import functional_call

from tabmtl.nn.layers import Towers
from tabmtl.nn.units import Masks, cut, masks, multiply_adds
from tabmtl.schema import Batch, unsaid
from tabmtl.slimming.shares import Shares, kept_by
from tabmtl.slimming.state import AtShare, Slimmed
from tabmtl.training.checkpoint import check_like
from tabmtl.training.predict import autocast, predict_scores
from tabmtl.training.table_loop import TableLoop, labelled_weight, settle_statistics

_PULL = 0.03  # weight of the distillation; see docs/lab.md
_LABELS = 1.0  # weight of the labels in the smaller network
_LEAST_VARIANCE = 1e-6
_LEAST_DRAWN = 0.5  # chance that the smallest network of all is drawn
_MOST_MASKS = 128  # that are kept for later steps
_STATISTICS = ("running_mean", "running_var")


@dataclass(eq=False)
class SlimLoop(TableLoop):
    """Loop of a network that is trained at several widths; its options have the shares ``slim``."""

    options: Any

    def __post_init__(self) -> None:
        super().__post_init__()
        self._groups = self.network.units()  # type: ignore[operator]
        self._shares = sorted(float(share) for share in self.options.slim)
        if not self._is_smaller(Shares(self._shares[0], (self._shares[0],) * len(self.tasks))):
            raise ValueError(
                "slim cuts hidden layers, and this network has none that would lose units, in multiples of 4; say "
                "head_hidden=64, or leave out slim"
            )
        self._is_long, self._n_drawn = self.data.task is not None, 0
        self._masks: dict[Shares, Masks] = {}
        self._drawn = Shares(1.0, (1.0,) * len(self.tasks))
        self._seed = int(torch.randint(2**31, ())) if self.rows.seed is None else self.rows.seed

    def step(self, index: Tensor, learning_rate: float, data: Batch | None = None) -> tuple[Tensor, list[Tensor]]:
        """Draw a smaller network, and take a step."""
        self._drawn = self._draw()
        return super().step(index, learning_rate, data)

    def _draw(self) -> Shares:
        """Draw shares that cut units, as all ranks do; those of all tasks are equal in a long table."""
        rng = np.random.default_rng([self._seed, self._n_drawn])
        self._n_drawn += 1
        n_heads = 1 if self._is_long else len(self.tasks)
        if rng.random() < _LEAST_DRAWN:
            return Shares(self._shares[0], (self._shares[0],) * len(self.tasks))
        drawn = None
        while drawn is None or not self._is_smaller(drawn):
            shared, *own = (self._shares[place] for place in rng.integers(len(self._shares), size=1 + n_heads))
            drawn = Shares(shared, tuple(own * len(self.tasks) if self._is_long else own))
        return drawn

    def _is_smaller(self, shares: Shares) -> bool:
        """Say whether shares cut any units of the network."""
        kept = kept_by(self._groups, shares)
        return any(group.name in kept and kept[group.name].shape[1] < group.n_units for group in self._groups)

    def _forward(self, batch: Batch) -> tuple[Tensor, Tensor, list[Tensor]]:
        heads: Any = self.network.heads
        with _read_by(heads) as features:
            learned, losses, scores = super()._forward(batch)
            with autocast(batch, self.options.precision):
                smaller = functional_call(self.network, self._masked(), (batch.x, batch.task))
        of_labels = self.loss(smaller, batch.y, batch.weight, batch.task)
        pull = self._pull(features[0], features[1], batch)
        return learned + _LABELS * of_labels + _PULL * pull, losses, scores

    def _masked(self) -> dict[str, Tensor]:
        """Return the parameters of the network that was drawn."""
        if self._drawn not in self._masks:
            if len(self._masks) == _MOST_MASKS:
                self._masks.clear()
            self._masks[self._drawn] = masks(self.network, self._groups, kept_by(self._groups, self._drawn))
        return self._masks[self._drawn].of(self.network)

    def _pull(self, whole: Tensor, smaller: Tensor, batch: Batch) -> Tensor:
        """Return sums (T,) of the squared distances of standardised features; rows count as their labels do."""
        heads: Any = self.network.heads
        shared = [group for group in self._groups if group.kind == "shared"]
        if not shared:
            return whole.new_zeros(len(self.tasks))
        n_kept = kept_by(shared[-1:], self._drawn)[shared[-1].name].shape[1]
        aim, own = (_standardised(part[..., :n_kept]) for part in (whole.detach(), smaller))
        distances = (own - aim).square().mean(dim=-1)  # (k B,) or (k B, T)
        labelled = self.loss.labelled(batch.y)
        weight = labelled if batch.weight is None else labelled * batch.weight
        of_row = weight.sum(dim=1) / labelled.sum(dim=1).clamp(min=1)  # mean over the labels, 0 without any
        of_rows = distances.unflatten(0, (heads.n_members, -1)).mean(dim=0)
        rows = of_rows.reshape(len(of_row), -1) * of_row[:, None]  # (B, 1) or (B, T)
        if batch.task is not None:
            return rows.new_zeros(len(self.tasks)).index_add(0, batch.task, rows.flatten())
        return rows.sum(dim=0).expand(len(self.tasks))

    def fitted(self) -> dict[str, Any]:
        """Measure the smaller networks, and return the fitted attributes of them."""
        ones, parts, measured = (1.0,) * len(self.tasks), [], []
        for share in self._shares:
            network = self._cut(self.network, Shares(share, ones))
            if share < 1:
                settle_statistics(network, self.data, self.options.precision, self.group)
                parts.append(self._describe(network, share))
            for of_tasks in self._shares:
                own = self._cut(network, Shares(1.0, (of_tasks,) * len(self.tasks)))
                frame = {"shared": share, "task_width": of_tasks, "task": [task.name for task in self.tasks]}
                losses = self._mean_losses(own).tolist()
                size = multiply_adds(own, is_long=self._is_long)
                measured.append(
                    pl.DataFrame(frame | {"loss": losses}).with_columns(multiply_adds=pl.lit(size, pl.Int64))
                )
        return {"_slimmed": Slimmed(losses=pl.concat(measured), parts=tuple(parts))}

    def _mean_losses(self, network: nn.Module) -> Tensor:
        """Return the mean losses (T,) of a network on the validation rows, or on the sample of those to train."""
        if self.valid is not None:
            losses, weight, _ = self._judge(network)
            return losses / weight
        data = self.data
        scores = predict_scores(network, data, self.options.precision, batch_size=self.batch_size)
        return self.loss(scores, data.y, data.weight, data.task) / labelled_weight(self.loss, data)

    def _cut(self, network: Any, shares: Shares) -> Any:
        groups = network.units()
        return cut(network, groups, kept_by(groups, shares)).eval()

    def _describe(self, network: nn.Module, share: float) -> AtShare:
        """Return what is kept of a network with smaller shared widths."""
        buffers = network.state_dict()
        statistics = {name: own.cpu().numpy() for name, own in buffers.items() if name.endswith(_STATISTICS)}
        with unsaid():  # of experts; fit tells of the whole
            found = self.options._inspect(network, replace(self.data, y=None, weight=None))
        frames = {name: found.get(f"{name}_") for name in ("expert_utilisation", "experts")}
        return AtShare(share=share, statistics=statistics, **frames)

    def state(self) -> dict[str, Any]:
        """Return all that the next epoch depends on."""
        return super().state() | {"drawn": [self._seed, self._n_drawn]}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a state."""
        super().restore(state)
        check_like(state["drawn"], [0, 0], "its draws of widths")
        self._seed, self._n_drawn = state["drawn"]


def _standardised(features: Tensor) -> Tensor:
    """Return features (B, ..., H) less their means over the rows, and over their common deviation.

    Plain distances, also over the size of the features that are aimed at, would pay for features that are smaller, down
    to none.
    """
    centred = features.float() - features.float().mean(dim=0)
    return centred * (centred.square().mean(dim=(0, -1)) + _LEAST_VARIANCE).rsqrt().unsqueeze(-1)


@contextmanager
def _read_by(heads: Towers) -> Iterator[list[Tensor]]:
    """Yield a list that gets the features which heads read inside."""
    found: list[Tensor] = []
    hook = heads.register_forward_pre_hook(lambda _, inputs: found.append(inputs[0]))
    try:
        yield found
    finally:
        hook.remove()
