"""Losses of training: one per kind of task on raw scores, masked where a label is missing."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from functools import reduce
from itertools import pairwise
from typing import Literal, Self

import torch
import torch.nn.functional as F
from torch import Tensor

from tabmtl.nn.layers import at_least_float32
from tabmtl.targets import Kind, Task, kind_blocks
from tabmtl.targets.funnel import with_steps_before

Space = Literal["chain", "conditional", "independent"]

BLOCK = 32  # numbers that a function of torch takes at a time on a CPU; it may round what is left over differently


class MultiTaskLoss:
    """Sums of the per-row losses of every task, over the labelled rows; the kinds of the tasks know loss and link.

    A missing label (NaN) and a weight of 0 contribute exactly nothing, to the loss and to its gradient. The loss of k
    members is the mean of their losses; their link is that of their mean probability or value.

    Parameters
    ----------
    tasks : sequence of Task
        All tasks. In the long layout they share one kind and width.

    Attributes
    ----------
    tasks : tuple of Task
    task_weight : Tensor of shape (T,)
        The tasks' own weights; the trainer multiplies the sums by them.
    """

    def __init__(self, tasks: Sequence[Task]) -> None:
        self._take(tasks)

    def _take(self, tasks: Sequence[Task]) -> None:
        self.tasks = tuple(tasks)
        self.n_tasks = len(tasks)
        self._blocks = [*kind_blocks(self.tasks)]
        self.task_weight = torch.tensor([task.weight for task in tasks], dtype=torch.float32)

    def needed(self, places: tuple[int, ...]) -> tuple[int, ...]:
        """Return the numbers of some tasks, and behind them those whose scores their link takes too."""
        return places

    def restricted(self, places: Sequence[int]) -> Self:
        """Return the loss of some tasks, which hold all that their link needs."""
        loss = copy.copy(self)
        loss._take([self.tasks[t] for t in places])
        return loss

    def link(self, scores: Sequence[Tensor]) -> list[Tensor]:
        """Return the scores (B, width) that the links of the kinds take, from the output of the network."""
        if scores[0].ndim == 2:
            return self._chain_steps(scores)
        k, (rows,) = scores[0].shape[1], _by_member([torch.cat(list(scores), dim=2)])
        chained = self._chain_steps(rows.split([score.shape[2] for score in scores], dim=1))
        linked = list[Tensor](chained)
        for kind, columns in self._blocks_of(len(scores)):
            block = torch.cat([chained[t] for t in columns], dim=1)
            block = at_least_float32(block).unflatten(0, (k, -1))  # (k, B, scores)
            if len(columns) == 1:
                linked[columns[0]] = kind.member_mean(block)
                continue
            for t, mean in zip(columns, kind.member_mean(block[..., None]).unbind(dim=1), strict=True):
                linked[t] = mean
        return self._descend(linked)

    def link_rows(self, scores: Sequence[Tensor]) -> list[Tensor]:
        """Link scores that are predicted: every row as if it were alone, bit for bit."""
        return self.link(scores) if scores[0].ndim == 2 else self._link_blocks(scores)

    def _link_blocks(self, scores: Sequence[Tensor]) -> list[Tensor]:
        """Link rows filled up to whole blocks."""
        n, widths = len(scores[0]), [score.shape[-1] for score in scores]
        rows = torch.cat(list(scores), dim=-1)
        linked = self.link(F.pad(rows, (0, 0) * (rows.ndim - 1) + (0, -n % BLOCK)).split(widths, dim=-1))
        return [score[:n] for score in linked]

    def _chain_steps(self, scores: Sequence[Tensor]) -> list[Tensor]:
        """Return the scores of the tasks, where those of the network are of other events."""
        return list(scores)

    def _descend(self, linked: list[Tensor]) -> list[Tensor]:
        """Mend means that rounding alone has put in a wrong order."""
        return linked

    def __call__(
        self, scores: Sequence[Tensor], y: Tensor, weight: Tensor | None = None, task: Tensor | None = None
    ) -> Tensor:
        """Return weighted loss sums.

        Parameters
        ----------
        scores : sequence of Tensor
            Wide: T tensors (B, width_t). Long: one tensor (B, width), every row's own task. Of k members:
            (B, k, width).
        y : Tensor of shape (B, T), or (B, 1) in the long layout
            NaN = unlabelled.
        weight : Tensor of the shape of y, optional
        task : Tensor of int64, shape (B,), optional
            Long layout: the task of every row.

        Returns
        -------
        losses : Tensor of shape (T,)
        """
        labelled, y = self.labelled(y), y.nan_to_num()
        if scores[0].ndim == 2:
            rows = self._rows(scores, y)
        else:
            k = scores[0].shape[1]
            rows = self._rows(_by_member(scores), y.repeat(k, 1))
            rows = rows.unflatten(0, (k, -1)).mean(dim=0)
        rows = torch.where(labelled, rows, 0.0)
        if weight is not None:
            rows = rows * weight
        if task is None:
            return rows.sum(dim=0)
        return rows.new_zeros(self.n_tasks).index_add(0, task, rows[:, 0])

    def _blocks_of(self, n_columns: int) -> Sequence[tuple[Kind, list[int]]]:
        """Return the columns by kind; a long table has one column, whose kind all tasks share."""
        return self._blocks if n_columns == self.n_tasks else [(self.tasks[0].kind, [0])]

    def labelled(self, y: Tensor) -> Tensor:
        """Return the mask of the labelled cells, (B, T) or (B, 1)."""
        return ~y.isnan()

    def _rows(self, scores: Sequence[Tensor], y: Tensor) -> Tensor:
        """Return the loss of every cell, (B, T) or (B, 1); tasks of one kind are computed together."""
        dtype = reduce(torch.promote_types, [score.dtype for score in scores], torch.float32)
        rows = torch.empty_like(y, dtype=dtype)
        for kind, columns in self._blocks_of(len(scores)):
            score = torch.cat([scores[t] for t in columns], dim=1).to(dtype)
            rows[:, columns] = kind.loss(score, y[:, columns].to(dtype))
        return rows


def _by_member(scores: Sequence[Tensor]) -> list[Tensor]:
    """Take scores (B, k, width) of k members to rows (k B, width), those of the first member first."""
    return [score.transpose(0, 1).flatten(0, 1) for score in scores]


def chain_logits(scores: Tensor) -> Tensor:
    """Return the logits of the probabilities of a funnel, p_k = sigmoid(s_1) ... sigmoid(s_k).

    log p_k = sum_j log sigmoid(s_j), and log(1 - p_k) is the log of the sum, over the steps j <= k, of the probability
    to come as far as step j and no further: nothing is subtracted, so the logit is finite for every finite score.

    Parameters
    ----------
    scores : Tensor of shape (B, K)
        Logits of every step given the step before.

    Returns
    -------
    Tensor of shape (B, K)
        Never increasing in k.

    Examples
    --------
    >>> import torch
    >>> chain_logits(torch.zeros(1, 3)).sigmoid()
    tensor([[0.5000, 0.2500, 0.1250]])
    """
    chained = [scores[:, 0]]
    for score in scores.unbind(dim=1)[1:]:
        reached, stays = F.logsigmoid(chained[-1]), F.logsigmoid(-chained[-1])
        yes = reached + F.logsigmoid(score)
        no = torch.logaddexp(stays, reached + F.logsigmoid(-score))
        chained.append(torch.minimum(yes - no, chained[-1]))  # rounding alone could raise it
    return torch.stack(chained, dim=1)


class FunnelLoss(MultiTaskLoss):
    """Losses of a funnel of ordered binary tasks, "click" and then "click and conversion", and of other tasks.

    Labels and probabilities of a step mean that this step and all before it were taken, over all rows: all
    impressions. With y_k the labels of the K steps and s_k their raw scores,

    ================  ====================================  ==============================================
    ``space``         probability                           loss of a row
    ================  ====================================  ==============================================
    "chain"           p_k = sigmoid(s_1) ... sigmoid(s_k)   sum_k BCE(y_k, p_k)
    "conditional"     the same                              sum_k BCE(y_k, sigmoid(s_k)) where y_{k-1} = 1
    "independent"     p_k = sigmoid(s_k)                    sum_k BCE(y_k, p_k)
    ================  ====================================  ==============================================

    and, for any of them, ``calibrator`` times sum_{k>1} max(p_k - p_{k-1}, 0), counted where y_k is labelled. "chain"
    with two steps is the loss of ESMM, "independent" with a calibrator that of AITM. Where y_{k-1} is unlabelled,
    "conditional" leaves out step k, even if y_k = 1 says that y_{k-1} is 1 too: with such ones, and without the zeros
    of rows that came as far, the step would look too frequent.

    Parameters
    ----------
    tasks : sequence of Task
    chain : sequence of int
        Indices of the steps among the tasks, in order.
    space : {"chain", "conditional", "independent"}, default="chain"
    calibrator : float, default=0.0
    """

    def __init__(
        self, tasks: Sequence[Task], chain: Sequence[int], *, space: Space = "chain", calibrator: float = 0.0
    ) -> None:
        super().__init__(tasks)
        self._chain, self._space, self._calibrator = list(chain), space, calibrator

    def needed(self, places: tuple[int, ...]) -> tuple[int, ...]:
        """Return the numbers of some tasks, and behind them those of the steps whose products they are."""
        return places if self._space == "independent" else with_steps_before(places, self._chain)

    def restricted(self, places: Sequence[int]) -> Self:
        """Return the loss of some tasks, which hold all that their link needs."""
        loss = super().restricted(places)
        loss._chain = [places.index(t) for t in self._chain if t in places]
        return loss

    def _chain_steps(self, scores: Sequence[Tensor]) -> list[Tensor]:
        """Return the scores of the tasks: those of the steps become logits of p_k."""
        linked = list(scores)
        if self._space != "independent" and self._chain:
            chained = chain_logits(at_least_float32(torch.cat([linked[t] for t in self._chain], dim=1)))
            for k, t in enumerate(self._chain):
                linked[t] = chained[:, k : k + 1]
        return linked

    def link_rows(self, scores: Sequence[Tensor]) -> list[Tensor]:
        """Link scores that are predicted: every row as if it were alone, bit for bit."""
        return self._link_blocks(scores)

    def _descend(self, linked: list[Tensor]) -> list[Tensor]:
        """Mend means of members that rounding alone has raised along the chain."""
        if self._space != "independent":
            for before, t in pairwise(self._chain):
                linked[t] = torch.minimum(linked[t], linked[before])
        return linked

    def _rows(self, scores: Sequence[Tensor], y: Tensor) -> Tensor:
        linked = self._chain_steps(scores)
        rows = super()._rows(scores if self._space == "conditional" else linked, y)
        if self._space == "conditional":
            reached = y[:, self._chain[:-1]] > 0
            rows[:, self._chain[1:]] = torch.where(reached, rows[:, self._chain[1:]], 0.0)
        if self._calibrator:
            p = at_least_float32(torch.cat([linked[t] for t in self._chain], dim=1)).sigmoid()
            rows[:, self._chain[1:]] += self._calibrator * (p[:, 1:] - p[:, :-1]).clamp_min(0)
        return rows
