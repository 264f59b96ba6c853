"""A fitted network with tasks that came later: it stays as it is inside, and the new tasks read what it computes.

B is the rows, S the old tasks that lend features, H the width of what the last layer of a head reads.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tabmtl.nn.layers import StackedLinear
from tabmtl.nn.task_network import TaskNetwork

if TYPE_CHECKING:
    from tabmtl.columns import Features

#: Standard deviations from the mean beyond which a feature counts as so far: few labels say nothing of what lies there.
FAR = 3.0
#: Most tasks of a long table that lend features, evenly chosen: each is a pass through the network.
MOST_SOURCES = 16
_MULTIPLE = 4  # products of another inner width round a row by its place


class Reading(NamedTuple):
    """What new tasks read of a network.

    Attributes
    ----------
    blocks : list of Tensor of shape (B, width)
        Features of the heads, those of the last layers, and the row's vector.
    lent : Tensor of shape (B, S, H)
        Features of the last layer of each source.
    scores : list of Tensor
        Scores of the tasks of a wide table, as the network gives them.
    """

    blocks: list[Tensor]
    lent: Tensor
    scores: list[Tensor]


def sources_of(n_tasks: int, *, is_long: bool) -> list[int]:
    """Return the tasks of a network that lend features."""
    if not is_long or n_tasks <= MOST_SOURCES:
        return list(range(n_tasks))
    return [round(i * (n_tasks - 1) / (MOST_SOURCES - 1)) for i in range(MOST_SOURCES)]


def read_network(network: TaskNetwork, x: Features, *, is_long: bool) -> Reading:
    """Compute what new tasks read; members lend the mean of their features, and the first one its row's vector.

    Rows of a long table pass the network once for each source, as if they were of that task.
    """
    k, heads = network.heads.n_members, network.heads
    scores: list[Tensor] = []
    if is_long:
        features, lent = _pass_by_source(network, x)
    else:
        z = network.task_features(x)
        hidden = heads.represent(z)  # (T, k B, H)
        features, lent, scores = z.flatten(1), hidden.transpose(0, 1), heads.score(hidden)
    vector = network.row_vector(x)
    features, lent = (part if k == 1 else part.unflatten(0, (k, -1)).mean(dim=0) for part in (features, lent))
    return Reading([features, lent.flatten(1), vector[: x.numbers.shape[0]]], lent, scores)


def _pass_by_source(network: TaskNetwork, x: Features) -> tuple[Tensor, Tensor]:
    """Return the mean features (k B, H') of heads over the sources, and those of the last layers (k B, S, H)."""
    heads, found, lent = network.heads, [], []
    rows = torch.zeros(x.numbers.shape[0], dtype=torch.int64, device=x.numbers.device)
    for source in sources_of(heads.n_tasks, is_long=True):
        own = network.owners(rows + source)
        found.append(network.task_features(x, own).flatten(1))
        lent.append(heads.represent(found[-1], own))
    return torch.stack(found).mean(dim=0), torch.stack(lent, dim=1)


class Standardised(nn.Module):
    """Features less their mean and over their deviation, at most `FAR`; one that does not vary is 0.

    Parameters
    ----------
    *shape : int
        Of the features of a row.
    """

    center: Tensor
    rate: Tensor

    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.register_buffer("center", torch.zeros(shape))
        self.register_buffer("rate", torch.ones(shape))

    def learn(self, features: Tensor) -> None:
        """Take center and rate of rows (n, ...)."""
        deviation, self.center = features.std(dim=0, correction=0), features.mean(dim=0)
        varies = deviation > 1e-4 * deviation.max()
        self.rate = torch.where(varies, 1 / deviation.clamp(min=1e-12), 0.0)

    def forward(self, features: Tensor) -> Tensor:
        """Standardise features (B, ...)."""
        return ((features - self.center) * self.rate).clamp(-FAR, FAR)


class NewHead(nn.Module):
    """Head of a new task: a linear layer on all that it reads.

    Parameters
    ----------
    d_in, width : int
        Number of features, and of scores.
    """

    task_specific = True

    def __init__(self, d_in: int, width: int) -> None:
        super().__init__()
        self.standardised = Standardised(d_in)
        self.linear = StackedLinear(1, d_in + -d_in % _MULTIPLE, width)

    @classmethod
    def like(cls, weights: Mapping[str, Any], width: int) -> NewHead:
        """Return a head that reads what one of these weights does."""
        return cls(len(weights["standardised.center"]), width)

    def forward(self, read: Reading) -> Tensor:
        """Return scores (B, width)."""
        features = self.standardised(torch.cat(read.blocks, dim=1))
        return self.linear(F.pad(features, (0, self.linear.weight.shape[1] - features.shape[1]))[None])[0]


class GrownNetwork(nn.Module):
    """A network and heads of new tasks; see `tabmtl.training.table_loop.Network`.

    Parameters
    ----------
    base : TaskNetwork
        Its scores are what it computes alone, bit for bit.
    added : sequence of Module
        Heads of the new tasks.
    kept : sequence of int
        Places of the tasks that are answered, among those of the base and those added.
    """

    def __init__(self, base: TaskNetwork, added: Sequence[nn.Module], kept: Sequence[int]) -> None:
        super().__init__()
        self.base, self.added, self.kept = base, nn.ModuleList(added), tuple(kept)
        self.batch_dependent = base.batch_dependent

    @property
    def heads(self) -> Any:
        """Heads of the base."""
        return self.base.heads

    @property
    def levels(self) -> Any:
        """Experts and gates of the base, if it is a mixture."""
        return self.base.levels

    @property
    def gates_decide(self) -> bool:
        """Whether experts reach the tasks of the base through its gates alone."""
        return self.base.gates_decide

    def restricted(self, places: Sequence[int]) -> nn.Module:
        """Return the network of some of the tasks, by their places; it has the weights of this one."""
        kept = [self.kept[place] for place in places]
        if max(kept) < self.base.heads.n_tasks and hasattr(self.base, "restricted"):
            return self.base.restricted(kept)
        return GrownNetwork(self.base, list(self.added), kept)

    def represent(self, x: Features, task: Tensor | None = None) -> Tensor:
        """Return the features of the base; a row of a new task of a long table has the mean over its sources."""
        if task is None:
            return self.base.represent(x)
        place = task.new_tensor(self.kept)[task]
        n_old = self.base.heads.n_tasks
        own = self.base.represent(x, place.clamp(max=n_old - 1))
        is_new = place >= n_old
        if not is_new.any():
            return own
        return torch.where(is_new[:, None], read_network(self.base, x, is_long=True).blocks[0], own)

    def forward(self, x: Features, task: Tensor | None = None) -> list[Tensor]:
        """Score rows."""
        n_old = self.base.heads.n_tasks
        if task is not None:
            return [self._score_own(x, task.new_tensor(self.kept)[task], n_old)]
        read = read_network(self.base, x, is_long=False)
        heads = enumerate(self.added, start=n_old)
        added = {place: self._by_member(head(read)) for place, head in heads if place in self.kept}
        return [added[place] if place in added else read.scores[place] for place in self.kept]

    def _score_own(self, x: Features, place: Tensor, n_old: int) -> Tensor:
        """Return the scores of rows of a long table, by the place of their own task."""
        (scores,) = self.base(x, place.clamp(max=n_old - 1))
        if torch.compiler.is_exporting() or bool((place >= n_old).any()):
            read = read_network(self.base, x, is_long=True)
            for t, head in enumerate(self.added, start=n_old):
                own = (place == t).view(-1, *[1] * (scores.ndim - 1))
                scores = torch.where(own, self._by_member(head(read)), scores)
        return scores

    def _by_member(self, scores: Tensor) -> Tensor:
        """Return scores (B, width) for every member, (B, k, width)."""
        k = self.base.heads.n_members
        return scores if k == 1 else scores[:, None].expand(-1, k, -1)
