"""Greedy pruning of a network: cut by cut, over all layers and experts, to a size or until a task would lose.

The size of a network is `tabmtl.nn.units.multiply_adds`. A cut takes the same number of units from the layer of a
group, or an expert from a bucket. L_t is the mean loss of task t on the labelled rows, and L_t* that of the network as
it came. Each step

1. ranks units. Let m_u = 1 be a mask of unit u, and L_b the sum of L_t / L_t* on the slice b of the rows, eight in all;

       saliency(u) = sum_b |dL_b / dm_u|,    dL_b / dm_u = sum of w dL_b / dw over the weights w that read u;

   for an expert, dL_b / dm_u is the sum of dL_b / da over its biases a in the gates;
2. plans one cut for every group: of its least salient units, an eighth of those that it had;
3. makes the six cuts with the least saliency by what a unit saves, one at a time, and takes the one with the least rise
   of the losses by what it saves,

       mean over t of max(L_t(cut) - L_t, 0) / L_t*  over  size - size(cut),

   where a preference multiplies the terms of its tasks, here and in the first step, unless a task would then have lost
   more than the floor, with settled statistics of batch normalisation. The next one is taken instead; the cuts of the
   group are half as large from then on, and end where the smallest is refused.

Ye, Zhang, Chen, Fan and Wang, 2023, "Performance-aware Approximation of Global Channel Pruning for Multitask CNNs"
(PAGCP), IEEE TPAMI, arXiv 2303.11923, of which we know the abstract and the released code. Theirs are the greedy order,
in which saliency is that of the network as already pruned, the judgement of cuts by the tasks, each of which may stop
them, and the choice by loss over multiplications saved. Their code prunes layer after layer, each at growing ratios
until the loss of a task has grown by a ratio, ranks filters by the norm of their weights, leaves the layers with the
largest loss a multiplication as they were, and trains the network again. Ours are steps over all layers at once,
experts, the floor, which is one of scores, and the saliency, the first-order one of Molchanov et al. (2017, arXiv
1611.06440).
"""

from __future__ import annotations

import copy
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import polars as pl
import torch
from torch import Tensor, nn

from tabmtl.base.schema import Batch, warn_user
from tabmtl.metrics.scores import Answered, each_task, score_task, undefined_reason
from tabmtl.nn.units import Bucket, Form, Group, Kept, cut, multiply_adds
from tabmtl.training.losses import MultiTaskLoss
from tabmtl.training.predict import autocast, rows_at_once
from tabmtl.training.table_loop import labelled_weight, settle_statistics

MULTIPLE = 4  # of units: products of other widths round a row by its place
_SLICES = 8
_TRIED = 6  # cuts a step; as good as all, see docs/lab.md
_CUT_SHARE = 8
_LEAST_LOSS = 1e-6


@dataclass(frozen=True, kw_only=True)
class Cut:
    """Units that a network may lose in one step.

    Attributes
    ----------
    groups : tuple of Units and Bucket
        Each of which loses as many; more than one in a long table only.
    kept : mapping of str to Tensor
        Units that stay, see `tabmtl.nn.units.Kept`.
    n_left : int
        How many stay in each group.
    saliency : float
        Sum over the units that go.
    """

    groups: tuple[Group, ...]
    kept: Kept
    n_left: int
    saliency: float

    @property
    def name(self) -> str:
        """Name of the groups."""
        return " to ".join(dict.fromkeys([self.groups[0].name, self.groups[-1].name]))

    @property
    def n_cut(self) -> int:
        """How many units of each group go."""
        return self.groups[0].n_units - self.n_left


class Pruner:
    """Pruning of a network by rows with labels of all tasks.

    Parameters
    ----------
    network : TaskNetwork
        With ``units``. It stays as it is; scores are held against those of a copy, with statistics of batch
        normalisation that are settled on the rows, as those of all smaller ones are.
    rows : Batch
        Tensors, with labels in training units.
    loss : MultiTaskLoss
    judge : callable
        ``judge(network)`` -> scores of the tasks, which may fall by the floor at most.
    form : Form
        Of the network.
    preference : Tensor of shape (T,)
        Weights of the tasks where cuts are ranked.
    precision : {"float32", "bf16"}

    Attributes
    ----------
    network : TaskNetwork
        The smaller one, once `prune` has run.
    form : Form
        Of this one.
    """

    def __init__(
        self,
        network: Any,
        rows: Batch,
        loss: MultiTaskLoss,
        judge: Callable[[nn.Module], Mapping[str, float]],
        *,
        form: Form,
        preference: Tensor,
        precision: str = "float32",
    ) -> None:
        self.form, self._rows, self._loss = form, rows, loss
        self._judge, self._precision, self._is_long = judge, precision, rows.task is not None
        self._weight = labelled_weight(loss, rows).double()
        settled = copy.deepcopy(network)
        settle_statistics(settled, rows, precision)
        self._scores = judge(settled.eval())
        self._take(network.eval())
        self._unit = self._losses(network).abs().clamp(min=_LEAST_LOSS) / preference.to(self._weight)
        self._whole, self._told = self.size, [{"cut": None, "left": None, **self._facts(self._scores)}]
        self._steps, self._saved = dict[str, int](), dict[str, float]()  # in units, and by a unit
        self._ended = Counter[str]()  # groups whose cuts a task has ended
        for groups in self._together():
            name, n = groups[0].name, groups[0].n_units
            step = 1 if isinstance(groups[0], Bucket) else _multiple(n / _CUT_SHARE)
            self._steps[name] = step if n > step else 0
            if n > step:
                kept = {group.name: torch.arange(n - step).expand(group.n_parts, -1) for group in groups}
                self._saved[name] = self._saving(cut(network, self._groups, kept)) / step

    def _take(self, network: Any) -> None:
        self.network, self._groups = network, network.units()
        self.size = multiply_adds(network, is_long=self._is_long)

    def _saving(self, smaller: Any) -> int:
        """Return the multiplications of a row that a smaller network saves."""
        return self.size - multiply_adds(smaller, is_long=self._is_long)

    def prune(self, keep: float, floor: float) -> pl.DataFrame:
        """Cut until the network has a share of its size; warn if every cut that is left costs a task too much before.

        A further call goes on to a smaller share.

        Parameters
        ----------
        keep : float
            Share of the multiplications of a row.
        floor : float
            Most that the score of a task may fall in all.

        Returns
        -------
        steps : polars DataFrame
            A row for the network as it came, and one for every cut; see `tabmtl.extras.prune`.
        """
        aim = int(keep * self._whole)
        while self.size > aim:
            found = self._next(aim, floor)
            if found is None:
                self._warn(self.size / self._whole, keep, floor)
                break
            step, smaller, scores = found
            self.form = self.form.cut(self._groups, step.kept)
            self._take(smaller)
            self._told.append({"cut": step.name, "left": step.n_left, **self._facts(scores)})
        types = {"cut": pl.String, "left": pl.Int64, "multiply_adds": pl.Int64}
        return pl.DataFrame(self._told, types | {f"score/{task}": pl.Float64 for task in self._scores})

    def _warn(self, share: float, keep: float, floor: float) -> None:
        """Warn that cutting has ended before it reached the size."""
        why = "layers and experts are as few as can be, and what reads the columns is not cut: ask for a larger keep"
        if self._ended:
            tasks = ", ".join(repr(task) for task, _ in self._ended.most_common())
            why = f"further cuts cost {tasks} more than floor={floor} on these rows: raise floor, or give more rows"
        warn_user(f"prune ended at {share:.3f} of the multiplications of a row, above keep={keep}; {why}")

    def _facts(self, scores: Mapping[str, float]) -> dict[str, Any]:
        """Return what is told of the network after a step."""
        return {"multiply_adds": self.size, **{f"score/{task}": score for task, score in scores.items()}}

    def _next(self, aim: int, floor: float) -> tuple[Cut, Any, Mapping[str, float]] | None:
        """Return the next cut, the network without its units, and the scores of this one; None if there is none."""
        saliencies, losses = self._saliencies(), self._losses(self.network)
        while cuts := [*self._cuts(saliencies, aim)]:
            for step, smaller in self._tried(cuts, losses):
                settle_statistics(smaller, self._rows, self._precision)
                scores = self._judge(smaller)
                fallen = [task for task, before in self._scores.items() if not before - scores[task] <= floor]
                if not fallen:
                    return step, smaller, scores
                name = step.groups[0].name
                self._steps[name] = _smaller(step.groups[0], self._steps[name])
                if not self._steps[name]:
                    self._ended.update(fallen)
        return None

    def _cuts(self, saliencies: Mapping[str, Tensor], aim: int) -> Iterator[Cut]:
        """Yield a cut of every group that may lose units: by a step, or fewer if these reach the aim."""
        for groups in self._together():
            name, n_units = groups[0].name, groups[0].n_units
            if not self._steps[name]:
                continue
            n_cut = min(self._steps[name], math.ceil((self.size - aim) / self._saved[name]))
            n_left = n_units - n_cut if isinstance(groups[0], Bucket) else _multiple(n_units - n_cut)
            if n_left < n_units:
                kept = {group.name: self._best(group, saliencies[group.name], n_left) for group in groups}
                pairs = [(saliencies[group.name], kept[group.name]) for group in groups]
                gone = sum(float(own.sum() - own.gather(1, left).sum()) for own, left in pairs)
                yield Cut(groups=groups, kept=kept, n_left=n_left, saliency=gone)

    def _together(self) -> Iterator[tuple[Group, ...]]:
        """Yield the groups that lose units together: in a long table the heads, and the own experts of all tasks."""
        if not self._is_long:
            yield from ((group,) for group in self._groups)
            return
        # groups of a layer lose units together in a long table
        for _, own in groupby(self._groups, lambda own: (own.kind, getattr(own, "experts", None), _of_all(own))):
            several = tuple(own)
            if several[0].kind == "shared" or _of_all(several[0]):
                yield from ((group,) for group in several)
            else:
                yield several

    def _best(self, group: Group, saliency: Tensor, n_left: int) -> Tensor:
        """Return the places of the most salient units; those of all parts are equal in a long table."""
        ranked = saliency.sum(dim=0).expand_as(saliency) if self._is_long else saliency
        return ranked.argsort(dim=1, descending=True, stable=True)[:, :n_left].sort(dim=1).values

    def _tried(self, cuts: Sequence[Cut], losses: Tensor) -> Iterator[tuple[Cut, Any]]:
        """Yield the most promising cuts and their networks, the one with the least rise of the losses first.

        What a unit saves is measured when a cut is tried, and falls by the cuts of other groups later on.
        """
        promising = sorted(cuts, key=lambda step: step.saliency / step.n_cut / self._saved[step.groups[0].name])
        found = []
        for step in promising[:_TRIED]:
            smaller = cut(self.network, self._groups, step.kept)
            saved = self._saving(smaller)
            self._saved[step.groups[0].name] = saved / step.n_cut
            rise = ((self._losses(smaller) - losses).clamp(min=0) / self._unit).mean().item()
            found.append((rise / saved, -saved, step, smaller))
        for *_, step, smaller in sorted(found, key=lambda each: each[:2]):
            yield step, smaller

    def _losses(self, network: nn.Module) -> Tensor:
        """Return the mean losses (T,) of all rows."""
        total, size = torch.zeros_like(self._weight), rows_at_once(self._rows)
        with torch.no_grad():
            for start in range(0, len(self._rows), size):
                rows = torch.arange(start, min(start + size, len(self._rows)), device=self._weight.device)
                total += self._sums(network, self._rows.rows(rows))
        return total / self._weight

    def _sums(self, network: nn.Module, rows: Batch) -> Tensor:
        """Return the sums (T,) of the losses of some rows."""
        with autocast(rows, self._precision):
            scores = network(rows.x, rows.task)
        return self._loss(scores, rows.y, rows.weight, rows.task)

    def _saliencies(self) -> dict[str, Tensor]:
        """Return the saliencies (n_parts, n_units) of all groups."""
        n, found = len(self._rows), {group.name: torch.zeros(group.n_parts, group.n_units) for group in self._groups}
        parameters = {name: self.network.get_parameter(name) for group in self._groups for name in _readers(group)}
        for start in range(min(_SLICES, n)):
            rows = torch.arange(start, n, _SLICES, device=self._weight.device)
            loss = (self._sums(self.network, self._rows.rows(rows)) / self._weight / self._unit).sum()
            slopes = dict(zip(parameters, torch.autograd.grad(loss, [*parameters.values()]), strict=True))
            for group in self._groups:
                found[group.name] += _mask_slopes(self.network, group, parameters, slopes).abs().cpu()
        return found


def check_scored(answered: Answered) -> None:
    """Raise a ValueError that names the first task whose score is undefined on some rows."""
    for task, labels, _, weight, group in each_task(*answered):
        reason = undefined_reason(task, labels, weight, group)
        if reason is not None:
            raise ValueError(
                f"prune watches the score of every task, and that of {task.name!r} is undefined on these rows: "
                f"{reason}; give rows with more of its labels"
            )


def score_all(answered: Answered) -> dict[str, float]:
    """Return the scores of all tasks, which are defined."""
    return {each[0].name: score_task(*each) for each in each_task(*answered)}


def _readers(group: Group) -> list[str]:
    """Return the names of the parameters that read the units of a group."""
    return [f"{group.gates}.linear.bias"] if isinstance(group, Bucket) else [slot.name for slot in group.reads]


def _mask_slopes(
    network: nn.Module, group: Group, parameters: Mapping[str, Tensor], slopes: Mapping[str, Tensor]
) -> Tensor:
    """Return the derivatives (n_parts, n_units) of a loss by masks of the units, given those by the parameters."""
    if isinstance(group, Bucket):
        gates: Any = network.get_submodule(group.gates)
        of_experts = slopes[_readers(group)[0]].new_zeros(len(gates.expert_names))
        of_experts.index_add_(0, gates.places % len(of_experts), slopes[_readers(group)[0]])
        return of_experts[group.first : group.first + group.n_units][None]
    total = torch.zeros(())
    for slot in group.reads:
        products = slot.view(parameters[slot.name].detach() * slopes[slot.name])
        products = products if slot.at is None else products[list(slot.at)]
        own = {slot.axis, 0} if group.n_parts > 1 else {slot.axis}
        others = [axis for axis in range(products.ndim) if axis not in own]
        total = total + (products.sum(dim=others) if others else products).view(group.n_parts, group.n_units)
    return total


def _of_all(group: Group) -> bool:
    """Return whether a bucket is the first of its level, whose experts all tasks see."""
    return isinstance(group, Bucket) and group.first == 0


def _multiple(n_units: float) -> int:
    """Return a number of units rounded down to what keeps products even, at least the least."""
    return max(int(n_units) // MULTIPLE * MULTIPLE, MULTIPLE)


def _smaller(group: Group, step: int) -> int:
    """Return the next step of a group whose cut was refused; 0 ends its cuts."""
    least = 1 if isinstance(group, Bucket) else MULTIPLE
    return 0 if step == least else _multiple(step / 2)
