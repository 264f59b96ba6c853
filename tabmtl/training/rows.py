"""Rows that the training of a table reads: in memory, where they are one window, or on a disk, window by window."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from tabmtl.base.ranks import ALONE, Ranks
from tabmtl.base.schema import Batch

if TYPE_CHECKING:
    from torch import Tensor

#: Some rows in memory, and the numbers of those of a step among them.
Step = tuple[Batch, "Tensor"]


class Rows(Protocol):
    """Rows of a training, or those that judge it, as tensors in training units on the device of the network."""

    @property
    def group(self) -> Ranks:
        """Processes that take the steps together, each on its rows of them."""

    @property
    def seed(self) -> int | None:
        """Number that the ranks draw by together; None draws from torch's generator."""

    def __len__(self) -> int:
        """Return the number of the rows, of all ranks."""

    def sample(self) -> Batch:
        """Return all rows, or some that are spread over those of all ranks, for measurements."""

    def labels(self) -> Sequence[Batch]:
        """Return the rows of this rank for each network that trains, with or without their features."""

    def steps(self, epoch: int, batch_size: int, *, joins_last: bool) -> tuple[int, Iterable[Step]]:
        """Return the number of an epoch's steps, and the steps.

        A last step of less than half of the rows may join the one before it.
        """

    def parts(self, index: Tensor, n_rows: int) -> Sequence[Tensor]:
        """Split the rows of a step in parts of about so many, which go through the network at once."""

    def scores(self, predict: Callable[[Batch], list[Tensor]], some: Batch) -> Sequence[list[Tensor]]:
        """Return the scores of this rank's rows for each network; if it has none, of some other rows none."""

    def labelled_weight(self, count: Callable[[Batch], Tensor]) -> Tensor:
        """Return the labelled weight (T,) of the rows of all ranks, which ``count`` finds for rows in memory."""

    def facts(self) -> dict[str, Any]:
        """Return what tells the order of the rows from others."""


@dataclass(frozen=True, eq=False)
class MemoryRows:
    """All rows of a training, which one process has in memory; see `Rows`."""

    batch: Batch

    group: ClassVar[Ranks] = ALONE
    seed: ClassVar[None] = None

    def __len__(self) -> int:
        return len(self.batch.x.numbers)

    def sample(self) -> Batch:
        """Return the rows."""
        return self.batch

    def labels(self) -> Sequence[Batch]:
        """Return the rows."""
        return [self.batch]

    def steps(self, epoch: int, batch_size: int, *, joins_last: bool) -> tuple[int, Iterable[Step]]:
        """Deal the rows to steps, in an order by torch's generator."""
        import torch

        numbers = self.batch.x.numbers
        steps = torch.randperm(len(numbers), device=numbers.device).split(batch_size)
        if joins_last and len(steps) > 1 and 2 * len(steps[-1]) < len(steps[0]):
            steps = (*steps[:-2], torch.cat(steps[-2:]))
        return len(steps), ((self.batch, index) for index in steps)

    def parts(self, index: Tensor, n_rows: int) -> Sequence[Tensor]:
        """Split the rows of a step."""
        return index.split(n_rows)

    def scores(self, predict: Callable[[Batch], list[Tensor]], some: Batch) -> Sequence[list[Tensor]]:
        """Return the scores of the rows."""
        return [predict(self.batch)]

    def labelled_weight(self, count: Callable[[Batch], Tensor]) -> Tensor:
        """Count the rows."""
        return count(self.batch)

    def facts(self) -> dict[str, Any]:
        """Return nothing: torch's generator gives the order."""
        return {}
