"""What training minimises: per task kind one loss on raw scores, masked where a label is missing."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from tabmtl.schema import Task


class MultiTaskLoss:
    """Sums of the per-row losses of every task, over the labelled rows.

    ==========  =====================================================  ==========================
    kind        loss of a row with raw scores s and label y            link
    ==========  =====================================================  ==========================
    binary      log(1 + exp(s)) - y s                                  p = 1 / (1 + exp(-s))
    multiclass  log(sum_k exp(s_k)) - s_y                              p = softmax(s)
    regression  (s - y)², y standardised                               y = s · scale + center
    ==========  =====================================================  ==========================

    A missing label (NaN) and a weight of 0 contribute exactly nothing, to the loss and to its gradient.

    Parameters
    ----------
    tasks : sequence of Task
        All tasks. In the long layout they share one kind and width.

    Attributes
    ----------
    task_weight : Tensor of shape (T,)
        The tasks' own weights; the trainer multiplies the sums by them.
    """

    def __init__(self, tasks: Sequence[Task]) -> None:
        self.n_tasks = len(tasks)
        self.task_weight = torch.tensor([task.weight for task in tasks], dtype=torch.float32)
        self._binary = [t for t, task in enumerate(tasks) if task.kind == "binary"]
        self._regression = [t for t, task in enumerate(tasks) if task.kind == "regression"]
        self._multiclass = [t for t, task in enumerate(tasks) if task.kind == "multiclass"]

    def __call__(
        self, scores: Sequence[Tensor], y: Tensor, weight: Tensor | None = None, task: Tensor | None = None
    ) -> Tensor:
        """Weighted loss sums.

        Parameters
        ----------
        scores : sequence of Tensor
            Wide: T tensors (B, width_t). Long: one tensor (B, width), every row's own task.
        y : Tensor of shape (B, T), or (B, 1) in the long layout
            NaN = unlabelled.
        weight : Tensor of the shape of y, optional
        task : Tensor of int64, shape (B,), optional
            Long layout: the task of every row.

        Returns
        -------
        losses : Tensor of shape (T,)
        """
        labelled = ~y.isnan()
        rows = self._rows(scores, y.nan_to_num(), task is not None)
        rows = torch.where(labelled, rows, 0.0)
        if weight is not None:
            rows = rows * weight
        if task is None:
            return rows.sum(dim=0)
        return rows.new_zeros(self.n_tasks).index_add(0, task, rows[:, 0])

    def _rows(self, scores: Sequence[Tensor], y: Tensor, long: bool) -> Tensor:
        """Loss of every cell, (B, T) or (B, 1); tasks of one kind are computed together."""
        kinds: tuple[list[int], ...] = (self._binary, self._regression, self._multiclass)
        if long:  # one column, whose kind all tasks share
            kinds = tuple([0] if tasks else [] for tasks in kinds)
        binary, regression, multiclass = kinds
        rows = torch.empty_like(y)
        if binary:
            score = torch.cat([scores[t] for t in binary], dim=1).float()
            rows[:, binary] = F.binary_cross_entropy_with_logits(score, y[:, binary], reduction="none")
        if regression:
            score = torch.cat([scores[t] for t in regression], dim=1).float()
            rows[:, regression] = (score - y[:, regression]).square()
        for t in multiclass:
            rows[:, t] = F.cross_entropy(scores[t].float(), y[:, t].long(), reduction="none")
        return rows
