"""Base of the networks with a head per task, for wide and for long tables."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor, nn

from tabmtl.nn.experts import Experts, Gates, restrict_level
from tabmtl.nn.layers import Boundary, RowOwners, Towers, Widened, shared_copy

if TYPE_CHECKING:
    from tabmtl.columns import Features


class TaskNetwork(Widened):
    """Base of the networks that end in a head per task; a subclass gives `task_features`.

    With k members (:class:`tabmtl.nn.layers.Members`, ``heads.n_members``), k B rows pass through the network, those of
    the first member first.

    Attributes
    ----------
    heads : Towers
    batch_dependent : bool
        Whether a row's scores depend on the other rows of its batch.
    levels : list of (Module, list of Module)
        In mixtures: experts and gates of every level. Experts give outputs (B, E, H). Gates give weights (B, G, E), and
        have ``gate_names`` and ``expert_names``. A module that can compute a row's own part alone has a method
        ``index`` with the same arguments: the places of that part among all E, or all G E.
    is_joinable : bool
        Whether its layers also hold those of several networks, see `tabmtl.nn.joined`: K networks of a wide table are
        one with K times the columns and the tasks.
    is_even : bool
        Whether none of its functions rounds a row by its place, so that members may answer few rows by products of few.
    gates_decide : bool
        In mixtures: whether experts reach tasks through these gates alone, so that an expert without weight is dead.
    """

    batch_dependent = False
    is_joinable = False
    is_even = False
    gates_decide = True
    _kept: list[int] | None = None  # places of the heads' tasks among the features, which have more
    heads: Towers
    levels: Sequence[tuple[nn.Module, Sequence[nn.Module]]]

    def task_features(self, x: Features, own: RowOwners | None = None) -> Tensor:
        """Return the features that the heads read.

        Parameters
        ----------
        x : Features
            As for :meth:`forward`.
        own : RowOwners, optional
            The own task of every row, with members of k B rows. Parts of the network that belong to other tasks are not
            computed.

        Returns
        -------
        Tensor of shape (B, T, H), or (B, H) if all tasks read the same
            With ``own`` T is 1: the features of each row's own task. With members k B in place of B.
        """
        raise NotImplementedError(f"{type(self).__name__} must define task_features(x, own)")

    def row_vector(self, x: Features) -> Tensor:
        """Return what heads of new tasks read of a row itself, (B, D), or with members (k B, D).

        That is what the module ``vector`` gives; of a network without one, nothing.
        """
        read: Any = self._modules.get("vector")
        return x.numbers.new_zeros(x.numbers.shape[0], 0) if read is None else read(x)

    def represent(self, x: Features, task: Tensor | None = None) -> Tensor:
        """Return the features of all tasks side by side (B, T H), or of each row's own task (B, H).

        They are means over the members.
        """
        features, k = self.task_features(x, self.owners(task)), self.heads.n_members
        return (features if k == 1 else features.unflatten(0, (k, -1)).mean(dim=0)).flatten(1)

    def forward(self, x: Features, task: Tensor | None = None) -> list[Tensor]:
        """Score rows.

        Parameters
        ----------
        x : Features
            B rows, as tensors.
        task : Tensor of shape (B,), int64, optional
            Long layout: the own task of every row.

        Returns
        -------
        list of Tensor
            Raw scores (B, width) per task, or those of the members (B, k, width); with ``task``, one tensor with each
            row's own.

        Raises
        ------
        ValueError
            If the features of the tasks are not rows first, or those of all tasks where ``task`` is given.
        """
        own = self.owners(task)
        features = self.task_features(x, own)
        n, k = x.numbers.shape[0], self.heads.n_members
        if features.shape[0] != k * n:
            rows, found = f"{n} rows" if k == 1 else f"{k} x {n} rows", tuple(features.shape)
            raise ValueError(
                f"task_features must return (B, T, H) or (B, H) for B = {rows}, got shape {found}; with members, give "
                "heads and adapters the same n_members"
            )
        if own is not None and features.ndim == 3 and features.shape[1] != 1:
            raise ValueError(
                "task_features must return (B, 1, H) or (B, H) where own is given, features of each row's own task; "
                f"got shape {tuple(features.shape)}: select by own"
            )
        if self._kept is not None and features.ndim == 3:
            features = features[:, self._kept]
        return self.heads(features if own is None else features.flatten(1), own)

    def restricted(self, tasks: Sequence[int]) -> Self:
        """Return a network that scores some tasks of a wide table only, in this order.

        It holds whole tensors of this network, and copies of parts. This network stays as it is.

        Parameters
        ----------
        tasks : sequence of int
            Numbers of the tasks, at least one, and each once.
        """
        network = shared_copy(self)
        with torch.no_grad():
            network.restrict(list(tasks))
        return network

    def restrict(self, tasks: list[int]) -> None:
        """Leave some tasks only; a subclass leaves out all that it computes for the others, by default their heads.

        Layers are replaced, and their tensors stay as they are; see `restricted`.
        """
        self._kept = tasks if self._kept is None else [self._kept[t] for t in tasks]
        self.heads.restrict(tasks)

    def owners(self, task: Tensor | None) -> RowOwners | None:
        """Return the own tasks of the rows of all members; None in a wide table."""
        if task is None:
            return None
        return RowOwners(task.repeat(self.heads.n_members), self.heads.n_tasks, training=self.training)


class UnitLevel(nn.Module):
    """Level of a stack: units, such as the tasks, with an input and a bucket of experts each, and gates of units.

    Attributes
    ----------
    experts : Experts
    gates : Gates
        Each gives the input of a unit of the next level.
    asking : list of int
        The unit of every gate.
    """

    experts: Experts
    gates: Gates
    asking: list[int]

    def restrict(self, gates: Sequence[int]) -> list[int]:
        """Leave some gates only, and the units that they need; return the numbers of these."""
        units = restrict_level(self.experts, [self.gates], gates)
        self.asking = [units.index(self.asking[i]) for i in gates]
        return units


class StackedNetwork(TaskNetwork):
    """Levels of experts, one after the other, that read one input per unit: per task, and perhaps for a shared part.

    Parameters
    ----------
    vector : Module
        Takes a row to its vector, the first input of all units.
    stack : sequence of UnitLevel
        The levels. A level takes inputs (B, D) of all units, or those of a row's own
        units and its `RowOwners`, and gives the inputs of the next level. The last one gives features of tasks only.
    n_units : int
    heads : Towers
    """

    def __init__(self, vector: nn.Module, stack: Sequence[UnitLevel], n_units: int, heads: Towers) -> None:
        super().__init__()
        self.vector, self.input, self.n_units = vector, Boundary(), n_units
        self.stack, self.heads = nn.ModuleList(stack), heads
        self.levels = [(level.experts, [level.gates]) for level in stack]

    def task_features(self, x: Features, own: RowOwners | None = None) -> Tensor:
        """Return features (B, T, H)."""
        vector = self.input(self.vector(x))
        inputs: tuple[Tensor, ...] = (vector,) * (self.n_units if own is None else 1 + self.n_units - own.n_owners)
        for level in self.stack:
            inputs = level(inputs, own)
        return torch.stack(inputs, dim=1)

    def restrict(self, tasks: list[int]) -> None:
        """Leave some tasks only, and the units that they need."""
        kept = tasks
        for level in reversed(self.stack):
            kept = level.restrict(kept)  # type: ignore[operator]
        self.n_units = len(kept)
        self.heads.restrict(tasks)
