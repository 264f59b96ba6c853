"""Several networks of one form that train as one, each on rows of its own; see `tabmtl.nn.joined`.

1. Every network draws its rows from a stream of its own: one shuffled pass after the other.
2. An epoch has the same number of steps for all; a step is a batch whose rows hold a row of every network.
3. Losses (K T,) are summed and differentiated once. No network's loss depends on weights of another one.
4. Gradients are clipped, weights moved and averaged by network, as `tabmtl.training.optimizer.Optimizer` does.
5. Every network is validated on its own rows and keeps its own best epoch.
6. A network that has ended leaves, and the others go on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from tabmtl.base.ranks import ALONE, Ranks
from tabmtl.base.schema import Batch
from tabmtl.nn.joined import JoinedNetworks
from tabmtl.training.rows import Step


class Joint:
    """Networks that train as one, with their rows.

    Parameters
    ----------
    networks : sequence of Module
        Untrained.
    rows : sequence of Batch
        Of each network; tensors in training units.
    valid : sequence of Batch
        Rows to validate on, of each network or of none.

    Attributes
    ----------
    network : Module
        All networks as one.
    alone : list of (Module, Batch)
        Each network with its rows.
    networks : list
        Those that still train.
    """

    def __init__(self, networks: Sequence[nn.Module], rows: Sequence[Batch], valid: Sequence[Batch]) -> None:
        self._joined, self.alone = JoinedNetworks(networks), [*zip(networks, rows, strict=True)]
        self.network = self._joined.network
        self.networks = [_Part(self._joined, number) for number in range(len(networks))]
        self.rows, self.valid = RowsBeside(rows), RowsBeside(valid) if valid else None

    def keep(self, numbers: Sequence[int]) -> None:
        """Leave some of the networks."""
        self._joined.keep(numbers)
        self.networks = [self.networks[number] for number in numbers]
        for number, part in enumerate(self.networks):
            part.number = number
        self.rows.keep(numbers)
        if self.valid is not None:
            self.valid.keep(numbers)


class _Part:
    """One of networks that are joined; see `tabmtl.training.epochs.Weighted`."""

    def __init__(self, joined: JoinedNetworks, number: int) -> None:
        self._joined, self.number = joined, number

    def state_dict(self) -> dict[str, Tensor]:
        return self._joined.weights(self.number)

    def load_state_dict(self, weights: Mapping[str, Tensor]) -> None:
        self._joined.load(self.number, weights)


class RowsBeside:
    """Rows of several networks, of which each row that is taken holds one of every network; see `Rows`.

    Parameters
    ----------
    parts : sequence of Batch
        Rows of each network.
    """

    group: ClassVar[Ranks] = ALONE
    seed: ClassVar[int | None] = None

    def __init__(self, parts: Sequence[Batch]) -> None:
        self._n_rows = round(sum(len(part) for part in parts) / len(parts))
        self._left = [torch.empty(0, dtype=torch.int64) for _ in parts]
        self._lay(parts)

    def _lay(self, parts: Sequence[Batch]) -> None:
        self._parts, self._rows = parts, Batch.join(parts, torch.cat)
        self._sizes = torch.tensor([len(part) for part in parts])

    def keep(self, numbers: Sequence[int]) -> None:
        """Leave the rows of some networks."""
        self._left = [self._left[number] for number in numbers]
        self._lay([self._parts[number] for number in numbers])

    def __len__(self) -> int:
        return self._n_rows

    def sample(self) -> Batch:
        """Return the first rows of all networks."""
        return self._take(torch.arange(int(self._sizes.min()))[:, None].expand(-1, len(self._sizes)))

    def labels(self) -> Sequence[Batch]:
        """Return the rows of each network."""
        return self._parts

    def steps(self, epoch: int, batch_size: int, *, joins_last: bool) -> tuple[int, Iterable[Step]]:
        """Deal equally many rows of every network to each step."""
        size = min(batch_size, len(self))
        n_steps = max(round(len(self) / size), 1)
        drawn = [self._draw(number, n_steps * size) for number in range(len(self._parts))]
        self._drawn = self._take(torch.stack(drawn, dim=1))
        return n_steps, ((self._drawn, index) for index in torch.arange(n_steps * size).split(size))

    def _draw(self, number: int, n_rows: int) -> Tensor:
        """Return the numbers of the next rows of a network's stream."""
        left = self._left[number]
        while len(left) < n_rows:
            left = torch.cat([left, torch.randperm(len(self._parts[number]))])
        drawn, self._left[number] = left[:n_rows], left[n_rows:]
        return drawn

    def parts(self, index: Tensor, n_rows: int) -> Sequence[Tensor]:
        """Split the rows of a step."""
        return index.split(n_rows)

    def scores(self, predict: Callable[[Batch], list[Tensor]], some: Batch) -> Sequence[list[Tensor]]:
        """Return the scores of the rows for each network; the last row stands for those that one lacks."""
        index = torch.arange(int(self._sizes.max()))[:, None]
        scores = iter(predict(self._take(index.minimum(self._sizes - 1))))
        n_tasks = self._parts[0].y.shape[1]
        return [[score[: len(part)] for score in islice(scores, n_tasks)] for part in self._parts]

    def labelled_weight(self, count: Callable[[Batch], Tensor]) -> Tensor:
        """Count the rows of the last epoch."""
        return count(self._drawn)

    def facts(self) -> dict[str, Any]:
        """Return nothing: torch's generator gives the order."""
        return {}

    def _take(self, index: Tensor) -> Batch:
        """Take rows by their numbers (n, K) among those of each network."""
        places = index + self._sizes.cumsum(0) - self._sizes
        plain = replace(self._rows, x=self._rows.x.without_ragged())
        beside = plain.map(lambda part: part.index_select(0, places.flatten()).unflatten(0, index.shape).flatten(1))
        ragged: dict[str, Any] = {
            form: tuple(rows.rows(own) for own in places.unbind(dim=1) for rows in several)
            for form, several in self._rows.x.ragged().items()
        }
        return replace(beside, x=replace(beside.x, **ragged))
