"""Heads whose hidden layers are of unequal widths, such as those of a network that was cut."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tabmtl.nn.layers import RowOwners, TaskLinear, Towers, by_width


class Head(NamedTuple):
    """Tensors of the head of one task.

    Attributes
    ----------
    hidden, hidden_bias : Tensor of shape (d_in, hidden), (hidden,)
    out, out_bias : Tensor of shape (k, hidden, width), (k, width)
        Of k members.
    """

    hidden: Tensor
    hidden_bias: Tensor
    out: Tensor
    out_bias: Tensor


class UnevenTowers(Towers):
    """Heads with hidden layers of unequal widths. Heads of equal widths share a batched product.

    They are for wide tables: in a long one, a row meets the layer of its own task in a product of all.

    Parameters
    ----------
    d_in : int
        Width of the features.
    widths : sequence of int
        Number of scores of each task.
    hiddens : sequence of int
        Width of the hidden layer of each task.
    dropout, n_members : as in `Towers`

    Examples
    --------
    >>> import torch
    >>> heads = UnevenTowers(8, [1, 5], [4, 12])
    >>> [scores.shape[1] for scores in heads(torch.zeros(3, 8))], heads.represent(torch.zeros(3, 8)).shape
    ([1, 5], torch.Size([2, 3, 12]))
    """

    hidden: nn.ModuleList  # type: ignore[assignment]

    def __init__(
        self, d_in: int, widths: Sequence[int], hiddens: Sequence[int], *, dropout: float = 0.0, n_members: int = 1
    ) -> None:
        super().__init__(d_in, widths, hidden=None, dropout=dropout, n_members=n_members)
        self._hiddens = tuple(hiddens)
        self._hidden_groups, self._groups = by_width(hiddens), by_width([*zip(widths, hiddens, strict=True)])
        self.hidden = nn.ModuleList(TaskLinear(len(group), d_in, hiddens[group[0]]) for group in self._hidden_groups)
        self.out = nn.ModuleList(
            TaskLinear(len(group) * n_members, hiddens[group[0]], widths[group[0]]) for group in self._groups
        )

    def widen(self, n_networks: int) -> None:
        """Refuse to hold the heads of several networks."""
        raise ValueError("heads of unequal widths stand alone")

    def restrict(self, tasks: Sequence[int]) -> None:
        """Leave the heads of some tasks only, in this order."""
        heads = heads_of(self)
        found = _assembled([heads[t] for t in tasks], self.dropout.p, self.n_members, is_uneven=True)
        self.__dict__.update(found.__dict__)

    def merge(self) -> None:
        """Keep the hidden layers as they are."""

    def represent(self, z: Tensor, own: RowOwners | None = None) -> Tensor:
        """Return what the last layers read, (T, B, hidden), padded with 0 to the widest."""
        most = max(self._hiddens)
        return torch.stack([F.pad(part, (0, most - part.shape[-1])) for part in self._parts(z, own)])

    def forward(self, z: Tensor, own: RowOwners | None = None) -> list[Tensor]:
        """Score features, as `Towers` does."""
        return self.score(self._parts(z, own))

    def score(self, z: Tensor | Sequence[Tensor]) -> list[Tensor]:
        """Return the scores of every task, given what `represent` returns, or its parts without padding."""
        scores: dict[int, Tensor] = {}
        for group, layer in zip(self._groups, self.out, strict=True):
            of_group = torch.stack([z[t][..., : self._hiddens[t]] for t in group])
            scores.update(zip(group, self._score(of_group, layer).unbind(), strict=True))
        return [scores[t] for t in range(self.n_tasks)]

    def _parts(self, z: Tensor, own: RowOwners | None) -> list[Tensor]:
        """Return what the last layer of every task reads, (B, hidden) of its own width."""
        if own is not None:
            raise ValueError("in a long table, all heads need hidden layers of one width")
        found: dict[int, Tensor] = {}
        for group, layer in zip(self._hidden_groups, self.hidden, strict=True):
            x = torch.stack([z[:, t] for t in group]) if z.ndim == 3 else z.expand(len(group), *z.shape)
            found.update(zip(group, self.dropout(F.relu(layer(x), inplace=True)).unbind(), strict=True))
        return [found[t] for t in range(self.n_tasks)]

    def layers_of_tasks(self) -> list[tuple[str, int, str, tuple[int, ...]]]:
        """Return for every task the name of its hidden layer, its place there, and the same of its last layer."""
        found = super().layers_of_tasks()
        for g, group in enumerate(self._hidden_groups):
            for place, t in enumerate(group):
                found[t] = (f"hidden.{g}", place, *found[t][2:])
        return found


def heads_of(towers: Towers) -> list[Head]:
    """Return the tensors of every task's head, which has a hidden layer."""
    found = []
    for hidden, at, out, places in towers.layers_of_tasks():
        first, last = towers.get_submodule(hidden), towers.get_submodule(out)
        numbers = [first.weight[at], first.bias[at], last.weight[list(places)], last.bias[list(places)]]  # type: ignore
        found.append(Head(*(own.detach() for own in numbers)))
    return found


def narrowed(towers: Towers, kept: Sequence[Tensor]) -> Towers:
    """Return heads whose hidden layers have some of the units only, given their places for every task."""
    heads = []
    for head, places in zip(heads_of(towers), kept, strict=True):
        own = places.to(head.hidden.device)
        heads.append(Head(head.hidden[:, own], head.hidden_bias[own], head.out[:, own], head.out_bias))
    return _assembled(heads, towers.dropout.p, towers.n_members)


def _assembled(heads: Sequence[Head], dropout: float, n_members: int, *, is_uneven: bool = False) -> Towers:
    """Return heads of given tensors."""
    d_in, widths = len(heads[0].hidden), [head.out.shape[2] for head in heads]
    hiddens, options = [len(head.hidden_bias) for head in heads], {"dropout": dropout, "n_members": n_members}
    found: Towers
    with torch.device("meta"):  # which draws no weights, so that random generators stay
        if len({*hiddens}) == 1 and not is_uneven:
            found = Towers(d_in, widths, hidden=hiddens[0], **options)  # type: ignore[arg-type]
        else:
            found = UnevenTowers(d_in, widths, hiddens, **options)  # type: ignore[arg-type]
    found.to(heads[0].hidden.dtype).to_empty(device=heads[0].hidden.device)
    for head, (hidden, at, out, places) in zip(heads, found.layers_of_tasks(), strict=True):
        first, last = found.get_submodule(hidden), found.get_submodule(out)
        first.weight.data[at], first.bias.data[at] = head.hidden, head.hidden_bias  # type: ignore[operator]
        last.weight.data[list(places)] = head.out  # type: ignore[operator]
        last.bias.data[list(places)] = head.out_bias  # type: ignore[operator]
    return found
