"""The network whose tasks have features of their own, for all tasks of a row or for the row's own task alone."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

from torch import Tensor, nn

from tabmtl.nn.layers import RowOwners, Towers


class TaskNetwork(nn.Module):
    """Base of the networks that end in a head per task; a subclass gives `task_features`.

    Attributes
    ----------
    heads : Towers
    batch_dependent : bool
        Whether a row's scores depend on the other rows of its batch.
    levels : list of (Module, list of Module)
        Of a mixture of experts. Per level its experts, which give (B, E, H), and its gates, which give weights
        (B, G, E) and have ``gate_names`` and ``expert_names``. Modules that may give the own part of a row alone have a
        method ``index``: called like the module, it gives the places of that part among all E, or all G E.
    gates_decide : bool
        Whether experts reach tasks through these gates alone, so that without weight an expert is dead.
    """

    batch_dependent = False
    gates_decide = True
    heads: Towers
    levels: Sequence[tuple[nn.Module, Sequence[nn.Module]]]

    @abstractmethod
    def task_features(self, x_num: Tensor, x_cat: Tensor, own: RowOwners | None = None) -> Tensor:
        """Features that the heads read.

        Parameters
        ----------
        x_num, x_cat : Tensor
            As for :meth:`forward`.
        own : RowOwners, optional
            The own task of every row. What belongs to other tasks is then not computed.

        Returns
        -------
        Tensor of shape (B, T, H), or (B, H) if all tasks read the same
            With ``own`` T is 1: the features of each row's own task.
        """

    def represent(self, x_num: Tensor, x_cat: Tensor, task: Tensor | None = None) -> Tensor:
        """Features of all tasks side by side (B, T H), or of each row's own task (B, H)."""
        return self.task_features(x_num, x_cat, self._own(task)).flatten(1)

    def forward(self, x_num: Tensor, x_cat: Tensor, task: Tensor | None = None) -> list[Tensor]:
        """Score rows.

        Parameters
        ----------
        x_num : Tensor of shape (B, Fn), float32
            Standardised values, NaN where missing.
        x_cat : Tensor of shape (B, Fc), int32
            Codes.
        task : Tensor of shape (B,), int64, optional
            For task-per-row data the task of each row.

        Returns
        -------
        list of Tensor
            (B, width) raw scores per task; with ``task``, one tensor with each row's own.
        """
        own = self._own(task)
        features = self.task_features(x_num, x_cat, own)
        return self.heads(features if own is None else features.flatten(1), own)

    def _own(self, task: Tensor | None) -> RowOwners | None:
        return None if task is None else RowOwners(task, self.heads.n_tasks, training=self.training)
