"""How the network of a model came to be: the tasks of its fit, those added later, and those that are left."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from tabmtl.nn.grown import GrownNetwork, NewHead
from tabmtl.targets import Task
from tabmtl.training.weights import Weights


@dataclass(frozen=True, kw_only=True)
class Lineage:
    """How the network of a model came to be: the tasks of its fit, those added later, and those that are left.

    Attributes
    ----------
    base : tuple of Task
        Tasks of the network that was fitted.
    n_added : int
        Number of the tasks that were added and are left.
    kept : tuple of int
        Places of the tasks of the model, among those of the base and those added.
    """

    base: tuple[Task, ...]
    n_added: int = 0
    kept: tuple[int, ...]

    @staticmethod
    def of_before(facts: dict[str, Any]) -> dict[str, Any]:
        """Return the facts of a file of earlier releases, which named the one way to add a task for each of them."""
        if {*facts.get("methods", ())} <= {"head"}:
            facts["n_added"] = len(facts.pop("methods", range(facts.get("n_added", 0))))
        return facts

    def __post_init__(self) -> None:
        n = len(self.base) + self.n_added
        if not self.kept or list(self.kept) != sorted({*self.kept}) or not 0 <= self.kept[0] <= self.kept[-1] < n:
            raise ValueError(f"the tasks that are left have the places {self.kept}, expected rising ones below {n}")

    @classmethod
    def of(cls, tasks: Sequence[Task]) -> Lineage:
        """Return the lineage of a network that was fitted to tasks."""
        return cls(base=tuple(tasks), kept=tuple(range(len(tasks))))

    def with_tasks(self, n: int) -> Lineage:
        """Return the lineage with n tasks that come behind the others."""
        first = len(self.base) + self.n_added
        return replace(self, n_added=self.n_added + n, kept=(*self.kept, *range(first, first + n)))

    def without(self, place: int) -> Lineage:
        """Return the lineage without a task of the model; one of the fit stays in the base, which computes it."""
        gone = self.kept[place]
        if gone < len(self.base):
            return replace(self, kept=tuple(at for at in self.kept if at != gone))
        kept = tuple(at - (at > gone) for at in self.kept if at != gone)
        return replace(self, n_added=self.n_added - 1, kept=kept)

    @property
    def added(self) -> list[tuple[int, int]]:
        """Number among the added tasks, and place among those of the model, of those added."""
        n = len(self.base)
        return [(at - n, place) for place, at in enumerate(self.kept) if at >= n]

    def base_tasks(self, tasks: Sequence[Task], *, is_long: bool) -> tuple[Task, ...]:
        """Return the tasks of the base, as the model has them now; those that it has no longer stay as they were.

        The tasks of a long table have the same classes, all of them.
        """
        now = dict(zip(self.kept, tasks, strict=True))
        gone = [replace(tasks[0], name=task.name) if is_long else task for task in self.base]
        return tuple(now.get(place, task) for place, task in enumerate(gone))

    def grow(self, base: Any, weights: Weights, tasks: Sequence[Task]) -> GrownNetwork:
        """Return a network of tasks around its base, with heads that read what those of the weights do."""
        return GrownNetwork(base, list(self._heads(weights, tasks)), self.kept)

    def _heads(self, weights: Weights, tasks: Sequence[Task]) -> Iterator[torch.nn.Module]:
        for number, place in self.added:
            start, width = f"added.{number}.", tasks[place].width
            own = {name.removeprefix(start): array for name, array in weights.items() if name.startswith(start)}
            yield NewHead.like(own, width)
