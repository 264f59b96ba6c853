"""Units of a network that it may lose: groups of them, a network with some masked, and the smaller one without them.

A unit is a number that a hidden layer computes, or an expert of a mixture. The units of a group can be exchanged: which
of them are cut changes the weights of the smaller network, and not its form.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor, nn

from tabmtl.nn.experts import BatchNorm, Experts, Gates, LayerNorm
from tabmtl.nn.layers import MLP, StackedLinear, TaskLinear, Towers, shared_copy
from tabmtl.nn.sequences import SequenceEmbedding
from tabmtl.nn.uneven import narrowed

N = TypeVar("N", bound=nn.Module)

#: Places (n_parts, k) of the units that stay, rising in every part, by the names of groups; others stay whole.
Kept = Mapping[str, Tensor]


@dataclass(frozen=True)
class Slot:
    """Numbers of a parameter or a buffer that belong to the units of a group, one slice for each unit.

    Attributes
    ----------
    name : str
        Of the parameter or the buffer in its network.
    axis : int
        Along which the units lie, once the first axis is split.
    split : int, optional
        Number of equal parts that the first axis is split into, such as experts: (E H, ...) is seen as (E, H, ...).
    at : tuple of int, optional
        Places along the first axis that belong to the group, such as that of a task; all by default.
    """

    name: str
    axis: int
    split: int | None = None
    at: tuple[int, ...] | None = None

    def view(self, numbers: Tensor) -> Tensor:
        """Return numbers of the shape of the parameter with the first axis split."""
        return numbers if self.split is None else numbers.unflatten(0, (self.split, -1))


@dataclass(frozen=True)
class Units:
    """Group of units of a layer, or of the equal layers of several experts.

    Attributes
    ----------
    name : str
    kind : {"shared", "task"}
        Whether all tasks read the units, or one alone.
    n_units : int
    n_parts : int
        Number of layers, each with as many units of its own: that of the experts, or 1. All parts keep equal numbers.
        In a long table with batch normalisation, let all keep the same places, since tasks share statistics by place.
    makes, reads : tuple of Slot
        What computes the units, and what reads them; the latter without ``split``.
    task : int or None
        The task that reads them.
    """

    name: str
    kind: Literal["shared", "task"]
    n_units: int
    makes: tuple[Slot, ...]
    reads: tuple[Slot, ...]
    n_parts: int = 1
    task: int | None = None


@dataclass(frozen=True)
class Bucket:
    """Group of the experts of a bucket, which read one input and are seen by the same gates.

    Attributes
    ----------
    name : str
    n_units : int
        Number of experts.
    first : int
        Place of the first of them among all experts of the level.
    experts, gates : str
        Names of the modules.
    """

    name: str
    n_units: int
    first: int
    experts: str
    gates: str
    n_parts: int = 1
    kind: Literal["experts"] = "experts"
    task: None = None


Group = Units | Bucket


def mlp_units(name: str, mlp: MLP, reads: Sequence[Slot]) -> list[Units]:
    """Return the groups of the layers of an MLP, whose last one the given slots read."""
    layers = [(f"{name}.{i}", layer.out_features) for i, layer in enumerate(mlp) if isinstance(layer, nn.Linear)]
    found = []
    for i, (layer, size) in enumerate(layers):
        read = tuple(reads) if i + 1 == len(layers) else (Slot(f"{layers[i + 1][0]}.weight", 1),)
        found.append(Units(layer, "shared", size, (Slot(f"{layer}.weight", 0), Slot(f"{layer}.bias", 0)), read))
    return found


def level_units(name: str, level: tuple[str, nn.Module], gates: str, reads: Sequence[Slot]) -> list[Group]:
    """Return the groups of a level of experts: of every layer, and of every bucket with several experts.

    Units that layer normalisation sees are no group: it would count those that are masked.

    Parameters
    ----------
    name : str
        Beginning of the names of the groups.
    level : (str, Experts)
        The experts, and their name in the network.
    gates : str
        Name of the gates that weigh them.
    reads : sequence of Slot
        What reads the outputs of the gates.
    """
    path, experts = level
    assert isinstance(experts, Experts)
    n = experts.n_experts
    first_layer = [Slot(f"{path}.first.{number}", 1, n) for number in ("weight", "bias")]
    sizes = [experts.first.out_features // n, *(_stacked(layer).weight.shape[2] for layer in experts.later)]
    found: list[Group] = []
    for i, size in enumerate(sizes):
        later = f"{path}.later.{i - 1}"
        makes = first_layer if i == 0 else [Slot(f"{later}.weight", 2), Slot(f"{later}.bias", 1)]
        if experts.norms:
            numbers = ("weight", "bias", "running_mean", "running_var")
            makes = [*makes, *(Slot(f"{path}.norms.{i}.{number}", 1, n) for number in numbers)]
        is_last = i + 1 == len(sizes)
        read = tuple(reads) if is_last else (Slot(f"{path}.later.{i}.weight", 1),)
        if not any(isinstance(norm, LayerNorm) for norm in experts.norms):
            parts = 1 if is_last else n  # the outputs of all experts are added up
            found.append(Units(f"{name}.{i}", "shared", size, tuple(makes), read, parts))
    first = 0
    for b, count in enumerate(experts.counts):
        if count > 1:
            found.append(Bucket(f"{name}.bucket.{b}", count, first, path, gates))
        first += count
    return found


def head_units(name: str, heads: Towers) -> list[Units]:
    """Return the groups of the hidden layers of heads, one a task; none of heads without such a layer."""
    found = []
    for t, (hidden, at, out, places) in enumerate(heads.layers_of_tasks()):
        makes = Slot(f"{name}.{hidden}.weight", 2, at=(at,)), Slot(f"{name}.{hidden}.bias", 1, at=(at,))
        size = len(heads.get_submodule(hidden).bias[0])  # type: ignore[index]
        found.append(Units(f"{name}.{t}", "task", size, makes, (Slot(f"{name}.{out}.weight", 1, at=places),), task=t))
    return found


def readers_in_heads(name: str, heads: Towers) -> list[Slot]:
    """Return what reads the features that heads are given."""
    layers = heads.out if heads.hidden is None else heads.hidden
    if isinstance(layers, TaskLinear):
        return [Slot(f"{name}.hidden.weight", 1)]
    kind = "out" if heads.hidden is None else "hidden"
    return [Slot(f"{name}.{kind}.{g}.weight", 1) for g in range(len(layers))]


def _stacked(layer: nn.Module) -> StackedLinear:
    assert isinstance(layer, StackedLinear)
    return layer


def cut(network: N, groups: Sequence[Group], kept: Kept) -> N:
    """Return the smaller network without the units that are not kept.

    It holds whole tensors of the network, and copies of parts and of statistics of batches. The network stays as it is.

    Parameters
    ----------
    network : Module
        With a method ``units`` and heads, such as those of `SharedBottom`, `MMoE` and `PLE`.
    groups, kept : see `Kept`
        In a long table, all heads keep equal numbers of units, and so do the buckets of all tasks in a level; settle
        statistics of batches once experts are cut, since these belong to places.
    """
    smaller: Any = shared_copy(network)
    with torch.no_grad():
        heads = {group.task: kept[group.name] for group in _cut_ones(groups, kept) if group.kind == "task"}
        for group in _cut_ones(groups, kept):
            if isinstance(group, Units) and group.kind == "shared":
                for slot in (*group.makes, *group.reads):
                    _take(smaller, slot, kept[group.name])
        if heads:
            widths = {group.task: group.n_units for group in groups if group.kind == "task"}
            own = [heads.get(t, torch.arange(width)[None])[0] for t, width in sorted(widths.items())]
            smaller.heads = narrowed(smaller.heads, own)
        for module in smaller.modules():
            _follow(module)
        for experts, gates, places in _buckets(smaller, groups, kept):
            _leave(smaller, experts, gates, places)
    smaller.is_joinable = False  # with others, which may be of another form
    return smaller.train(network.training)


def _cut_ones(groups: Sequence[Group], kept: Kept) -> list[Group]:
    """Return the groups that lose units.

    Raises
    ------
    ValueError
        If places are not those of a group.
    """
    known = {group.name: group for group in groups}
    for name, places in kept.items():
        if name not in known:
            raise ValueError(f"the network has no group {name!r} of units; its groups are {sorted(known)}")
        n_parts, n_units = known[name].n_parts, known[name].n_units
        fits = places.ndim == 2 and len(places) == n_parts and places.shape[1] > 0
        if not fits or places.min() < 0 or places.max() >= n_units or (places.diff(dim=1) <= 0).any():
            raise ValueError(
                f"the units of {name!r} that stay must be rising places below {n_units}, in {n_parts} rows and at "
                f"least one in each; got {tuple(places.shape)} of them"
            )
    return [group for group in groups if group.name in kept and kept[group.name].shape[1] < group.n_units]


def _take(network: nn.Module, slot: Slot, places: Tensor) -> None:
    """Leave some units of a slot."""
    path, _, name = slot.name.rpartition(".")
    module = network.get_submodule(path)
    old = getattr(module, name)
    viewed = slot.view(old.detach())
    places = places.to(old.device)
    if len(places) == 1:
        taken = viewed.index_select(slot.axis, places[0])
    else:
        shape = [len(places), *[1] * (viewed.ndim - 1)]
        shape[slot.axis] = places.shape[1]
        size = [*viewed.shape]
        size[slot.axis] = places.shape[1]
        taken = viewed.gather(slot.axis, places.view(shape).expand(size))
    taken = taken if slot.split is None else taken.flatten(0, 1)
    setattr(module, name, nn.Parameter(taken, old.requires_grad) if isinstance(old, nn.Parameter) else taken)


def _follow(module: nn.Module) -> None:
    """Let the sizes that a module tells be those of its tensors, and its statistics its own."""
    if isinstance(module, nn.Linear):
        module.out_features, module.in_features = module.weight.shape
    elif isinstance(module, BatchNorm):
        module.num_features = len(module.weight)
        for name, buffer in module.named_buffers():  # which may be settled, in place
            setattr(module, name, buffer.clone())
    elif isinstance(module, Experts):
        module.follow()


def _buckets(network: nn.Module, groups: Sequence[Group], kept: Kept) -> Iterator[tuple[str, str, list[list[int]]]]:
    """Yield experts and gates of the levels that lose experts, with the places in every bucket that stay."""
    cut_ones = {(group.experts, group.first): group for group in _cut_ones(groups, kept) if isinstance(group, Bucket)}
    for path, gates in {group.experts: group.gates for group in cut_ones.values()}.items():
        experts = network.get_submodule(path)
        assert isinstance(experts, Experts)
        ends = [0]
        for count in experts.counts:
            ends.append(ends[-1] + count)
        places = []
        for first, end in pairwise(ends):
            own = cut_ones.get((path, first))
            places.append([*range(first, end)] if own is None else (kept[own.name][0].cpu() + first).tolist())
        yield path, gates, places


def _leave(network: nn.Module, experts: str, gates: str, places: list[list[int]]) -> None:
    """Leave some experts of a level, given their places in every bucket."""
    left, weigh = network.get_submodule(experts), network.get_submodule(gates)
    assert isinstance(left, Experts)
    assert isinstance(weigh, Gates)
    kept = [place for own in places for place in own]
    left.keep(kept, [len(own) for own in places])
    weigh.keep(kept)


def multiply_adds(network: Any, *, is_long: bool = False) -> int:
    """Count the multiplications of a row with weights: every number of a matrix counts once.

    Tables of embeddings, and layers that look at the entries of sequences, count nothing. Every member counts.

    Parameters
    ----------
    network : TaskNetwork
    is_long : bool
        Whether a row computes the parts of its own task only; then the mean over the tasks.
    """
    heads: Towers = network.heads
    shares = dict[int, float]()
    if is_long:
        shares |= {id(layer): 1 / heads.n_tasks for layer in heads.modules()}
        for experts, gates in getattr(network, "levels", ()):
            n_gates, n_seen = gates[0].own.shape[1:]
            shares |= {id(layer): n_seen / experts.n_experts for layer in experts.modules()}
            shares[id(gates[0].linear)] = n_gates * n_seen / sum(gates[0].n_seen)
    once = {id(layer) for layer in (*heads.out, *network.vector.modules())}  # each member has its own, or none yet
    total = 0.0
    for matrix, layer in _matrices(network):
        times = 1 if id(layer) in once else heads.n_members
        total += matrix.numel() * times * shares.get(id(layer), 1.0)
    return round(total)


def _matrices(network: nn.Module) -> Iterator[tuple[Tensor, nn.Module]]:
    """Yield the matrices that a row is multiplied with, and their layers."""
    of_lists = [module for module in network.modules() if isinstance(module, SequenceEmbedding)]
    left_out = {id(each) for module in of_lists for each in module.modules()}
    for layer in network.modules():
        weight = getattr(layer, "weight", None)
        is_table = isinstance(layer, nn.Embedding | nn.EmbeddingBag | LayerNorm) or id(layer) in left_out
        if isinstance(weight, Tensor) and weight.ndim > 1 and not is_table:
            yield weight, layer


@dataclass(frozen=True, kw_only=True)
class Form:
    """Form of a network that has lost units.

    Attributes
    ----------
    widths : dict of str to int
        Number of the units that are left, by the names of groups. Others are whole.
    experts : dict of str to tuple of int
        Places of the experts that are left, among those of the whole network.
    """

    widths: dict[str, int]
    experts: dict[str, tuple[int, ...]]

    @classmethod
    def whole(cls) -> Form:
        """Return the form of a network that has all its units."""
        return cls(widths={}, experts={})

    def cut(self, groups: Sequence[Group], kept: Mapping[str, torch.Tensor]) -> Form:
        """Return the form once some more units are lost; the groups are those of the network of this form."""
        widths, experts = dict(self.widths), dict(self.experts)
        for group in groups:
            places = kept.get(group.name)
            if places is None:
                continue
            if isinstance(group, Bucket):
                before = self.experts.get(group.name, tuple(range(group.n_units)))
                experts[group.name] = tuple(before[place] for place in places[0].tolist())
            else:
                widths[group.name] = places.shape[1]
        return Form(widths=widths, experts=experts)

    def of_whole(self, network: Any) -> Any:
        """Return a whole network without the units that are lost."""
        groups = network.units()
        return cut(network, groups, self.kept(groups))

    def kept(self, groups: Sequence[Group]) -> dict[str, torch.Tensor]:
        """Return units that are left of a whole network: which experts, and how many of the others."""
        parts = {group.name: group.n_parts for group in groups}
        found = {name: torch.arange(n).expand(parts.get(name, 1), -1) for name, n in self.widths.items()}
        return found | {name: torch.tensor([places]) for name, places in self.experts.items()}
