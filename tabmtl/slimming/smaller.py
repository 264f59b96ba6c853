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
from dataclasses import replace
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
from tabmtl.training.losses import MultiTaskLoss
from tabmtl.training.predict import autocast, predict_scores
from tabmtl.training.table_loop import Forward, TableLoop, labelled_weight, settle_statistics

_PULL = 0.03  # weight of the distillation; see docs/lab.md
_LABELS = 1.0  # weight of the labels in the smaller network
_LEAST_VARIANCE = 1e-6
_LEAST_DRAWN = 0.5  # chance that the smallest network of all is drawn
_MOST_MASKS = 128  # that are kept for later steps
_STATISTICS = ("running_mean", "running_var")


class SmallerNetworks:
    """Smaller networks that steps learn beside the whole one; see `tabmtl.training.table_loop.Beside`.

    Parameters
    ----------
    options : SlimEstimator
        It has the shares ``slim``.
    network : Module
    loss : MultiTaskLoss
    seed : int or None
        Of the draws of widths; None draws one.
    """

    def __init__(self, options: Any, network: nn.Module, loss: MultiTaskLoss, seed: int | None) -> None:
        self._options, self._network, self._loss, self._n_tasks = options, network, loss, loss.n_tasks
        self._groups = network.units()  # type: ignore[operator]
        self._shares = sorted(float(share) for share in options.slim)
        if not self._is_smaller(Shares(self._shares[0], (self._shares[0],) * self._n_tasks)):
            raise ValueError(
                "slim cuts hidden layers, and this network has none that would lose units, in multiples of 4; say "
                "head_hidden=64, or leave out slim"
            )
        self._is_long, self._n_drawn = options.task_column is not None, 0
        self._masks: dict[Shares, Masks] = {}
        self._drawn = Shares(1.0, (1.0,) * self._n_tasks)
        self._seed = int(torch.randint(2**31, ())) if seed is None else seed

    def begin_step(self) -> None:
        """Draw a smaller network."""
        self._drawn = self._draw()

    def _draw(self) -> Shares:
        """Draw shares that cut units, as all ranks do; those of all tasks are equal in a long table."""
        rng = np.random.default_rng([self._seed, self._n_drawn])
        self._n_drawn += 1
        n_heads = 1 if self._is_long else self._n_tasks
        if rng.random() < _LEAST_DRAWN:
            return Shares(self._shares[0], (self._shares[0],) * self._n_tasks)
        drawn = None
        while drawn is None or not self._is_smaller(drawn):
            shared, *own = (self._shares[place] for place in rng.integers(len(self._shares), size=1 + n_heads))
            drawn = Shares(shared, tuple(own * self._n_tasks if self._is_long else own))
        return drawn

    def _is_smaller(self, shares: Shares) -> bool:
        """Say whether shares cut any units of the network."""
        kept = kept_by(self._groups, shares)
        return any(group.name in kept and kept[group.name].shape[1] < group.n_units for group in self._groups)

    def forward(self, whole: Forward, batch: Batch) -> tuple[Tensor, Tensor, list[Tensor]]:
        """Add the losses of the smaller network, and the pull, to the losses of the whole one."""
        heads: Any = self._network.heads
        with _read_by(heads) as features:
            learned, losses, scores = whole(batch)
            with autocast(batch, self._options.precision):
                smaller = functional_call(self._network, self._masked(), (batch.x, batch.task))
        of_labels = self._loss(smaller, batch.y, batch.weight, batch.task)
        pull = self._pull(features[0], features[1], batch)
        return learned + _LABELS * of_labels + _PULL * pull, losses, scores

    def _masked(self) -> dict[str, Tensor]:
        """Return the parameters of the network that was drawn."""
        if self._drawn not in self._masks:
            if len(self._masks) == _MOST_MASKS:
                self._masks.clear()
            self._masks[self._drawn] = masks(self._network, self._groups, kept_by(self._groups, self._drawn))
        return self._masks[self._drawn].of(self._network)

    def _pull(self, whole: Tensor, smaller: Tensor, batch: Batch) -> Tensor:
        """Return sums (T,) of the squared distances of standardised features; rows count as their labels do."""
        heads: Any = self._network.heads
        shared = [group for group in self._groups if group.kind == "shared"]
        if not shared:
            return whole.new_zeros(self._n_tasks)
        n_kept = kept_by(shared[-1:], self._drawn)[shared[-1].name].shape[1]
        aim, own = (_standardised(part[..., :n_kept]) for part in (whole.detach(), smaller))
        distances = (own - aim).square().mean(dim=-1)  # (k B,) or (k B, T)
        labelled = self._loss.labelled(batch.y)
        weight = labelled if batch.weight is None else labelled * batch.weight
        of_row = weight.sum(dim=1) / labelled.sum(dim=1).clamp(min=1)  # mean over the labels, 0 without any
        of_rows = distances.unflatten(0, (heads.n_members, -1)).mean(dim=0)
        rows = of_rows.reshape(len(of_row), -1) * of_row[:, None]  # (B, 1) or (B, T)
        if batch.task is not None:
            return rows.new_zeros(self._n_tasks).index_add(0, batch.task, rows.flatten())
        return rows.sum(dim=0).expand(self._n_tasks)

    def fitted(self, loop: TableLoop) -> dict[str, Any]:
        """Measure the smaller networks, and return the fitted attributes of them."""
        ones, parts, measured = (1.0,) * self._n_tasks, [], []
        for share in self._shares:
            network = self._cut(self._network, Shares(share, ones))
            if share < 1:
                settle_statistics(network, loop.data, self._options.precision, loop.group)
                parts.append(self._describe(network, share, loop.data))
            for of_tasks in self._shares:
                own = self._cut(network, Shares(1.0, (of_tasks,) * self._n_tasks))
                frame = {"shared": share, "task_width": of_tasks, "task": [task.name for task in self._loss.tasks]}
                losses = self._mean_losses(own, loop).tolist()
                size = multiply_adds(own, is_long=self._is_long)
                measured.append(
                    pl.DataFrame(frame | {"loss": losses}).with_columns(multiply_adds=pl.lit(size, pl.Int64))
                )
        return {"_slimmed": Slimmed(losses=pl.concat(measured), parts=tuple(parts))}

    def _mean_losses(self, network: nn.Module, loop: TableLoop) -> Tensor:
        """Return the mean losses (T,) of a network on the validation rows, or on the sample of those to train."""
        if loop.valid is not None:
            losses, weight, _ = loop.judge(network)
            return losses / weight
        data = loop.data
        scores = predict_scores(network, data, self._options.precision, batch_size=loop.batch_size)
        return self._loss(scores, data.y, data.weight, data.task) / labelled_weight(self._loss, data)

    def _cut(self, network: Any, shares: Shares) -> Any:
        groups = network.units()
        return cut(network, groups, kept_by(groups, shares)).eval()

    def _describe(self, network: nn.Module, share: float, data: Batch) -> AtShare:
        """Return what is kept of a network with smaller shared widths."""
        buffers = network.state_dict()
        statistics = {name: own.cpu().numpy() for name, own in buffers.items() if name.endswith(_STATISTICS)}
        with unsaid():  # of experts; fit tells of the whole
            found = self._options._inspect(network, replace(data, y=None, weight=None))
        frames = {name: found.get(f"{name}_") for name in ("expert_utilisation", "experts")}
        return AtShare(share=share, statistics=statistics, **frames)

    def state(self) -> list[int]:
        """Return all that the next draw depends on."""
        return [self._seed, self._n_drawn]

    def restore(self, state: Any) -> None:
        """Go on from a state."""
        check_like(state, [0, 0], "its draws of widths")
        self._seed, self._n_drawn = state


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
