"""HoME: a hierarchy of multi-gate experts (all tasks, groups of tasks, tasks), with cures for three of their faults.

Wang, Cao, Fu, Gai and Zhou (Kuaishou), 2024, "HoME: Hierarchy of Multi-Gate Experts for Multi-Task Learning at
Kuaishou", arXiv 2408.05430. Shapes: B rows, D width of a row's vector, G groups, T tasks, H1 and H2 widths of experts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from tabmtl.base.params import Count, check_known, check_widths
from tabmtl.base.schema import Columns
from tabmtl.columns import Features
from tabmtl.estimators.faces import ClassifierFace, RegressorFace
from tabmtl.estimators.mixture import ExpertEstimator
from tabmtl.nn.experts import Activation, Gates, gate_softmax, mix, restrict_level
from tabmtl.nn.layers import Boundary, RowOwners, StackedLinear, take_rows
from tabmtl.nn.task_network import TaskNetwork
from tabmtl.targets import Task

_N_MASKS = 2  # in the mixture of a gate
_RANK = 8  # of a mask


class FeatureGates(nn.Module):
    """A re-weighted copy of its input for each of K buckets: v ⊙ sum_l softmax(W_f v)_l 2 sigmoid(v B_l A_l).

    A starts at zero, so that every copy starts as the input itself.

    Parameters
    ----------
    n_buckets, width : int
        K, and the width D of an input.
    """

    def __init__(self, n_buckets: int, width: int) -> None:
        super().__init__()
        self.shape = (n_buckets, _N_MASKS)
        self.down = StackedLinear(n_buckets, width, _N_MASKS * (_RANK + 1))  # B_l of all l, and W_f
        self.up = nn.Parameter(torch.zeros(n_buckets * _N_MASKS, _RANK, width))  # A_l

    def forward(self, inputs: Sequence[Tensor], owners: Sequence[RowOwners] | None = None) -> Sequence[Tensor]:
        """Gate inputs (B, D), one per bucket; or, with the owners of the buckets, one for each of these."""
        if owners is not None:
            return self._gate_own(inputs, owners)
        k, n_masks = self.shape
        v = inputs[0].expand(k, -1, -1) if all(x is inputs[0] for x in inputs) else torch.stack(list(inputs))
        low, logits = self.down(v).split([n_masks * self.up.shape[1], n_masks], dim=2)
        low = low.unflatten(2, (n_masks, -1)).transpose(1, 2).flatten(0, 1)  # (K L, B, r)
        masks = torch.bmm(low, self.up).sigmoid().unflatten(0, (k, n_masks))  # (K, L, B, D)
        weights = 2 * logits.softmax(dim=2).transpose(1, 2).unsqueeze(3)  # (K, L, B, 1)
        return (v * (masks * weights).sum(dim=1)).unbind()

    def restrict(self, buckets: Sequence[int]) -> None:
        """Leave the copies of some buckets only, in this order."""
        n_masks = self.shape[1]
        self.down.restrict(buckets)
        take_rows(self, [bucket * n_masks + mask for bucket in buckets for mask in range(n_masks)], "up")
        self.shape = (len(buckets), n_masks)

    def _gate_own(self, inputs: Sequence[Tensor], owners: Sequence[RowOwners]) -> list[Tensor]:
        n_masks, sizes = self.shape[1], [owner.n_owners for owner in owners]
        parts = (p.split(sizes) for p in (self.down.weight, self.down.bias, self.up.unflatten(0, self.shape)))
        gated = []
        for owner, v, weight, bias, up in zip(owners, inputs, *parts, strict=True):
            low = owner.linear(v, weight[:, None], bias[:, None])  # (B, L (r + 1))
            low, logits = low.split([low.shape[1] - n_masks, n_masks], dim=1)
            masks = owner.linear(low, up).sigmoid().unflatten(1, (n_masks, -1))  # (B, L, D)
            gated.append(v * (masks * (2 * logits.softmax(dim=1))[:, :, None]).sum(dim=1))
        return gated


class SelfGates(Gates):
    """Gates of buckets over their own experts: softmax, or the sigmoid if a bucket has one expert."""

    def _weigh(self, logits: Tensor, sees: Tensor) -> Tensor:
        alone = sees.sum(dim=-1, keepdim=True) == 1
        return torch.where(alone, logits.sigmoid(), gate_softmax(logits, training=self.training))


class HoMELevel(nn.Module):
    """Buckets of experts on feature-gated inputs, gates over the experts that they may see, and self-gates.

    Parameters
    ----------
    d_in, d_gate, d_out : int
        Widths of the experts' inputs, of the gates' inputs, and of an expert.
    buckets : sequence of (str, int)
        Name and number of experts of each bucket; names may be alike.
    gates : sequence of (str, sequence of int)
        Name of each output, and the buckets that its gate sees, its own first.
    feature_gated : bool
    options : HoME
    """

    def __init__(
        self,
        d_in: int,
        d_gate: int,
        d_out: int,
        buckets: Sequence[tuple[str, int]],
        gates: Sequence[tuple[str, Sequence[int]]],
        feature_gated: bool,
        options: HoME,
    ) -> None:
        super().__init__()
        counts = [count for _, count in buckets]
        self.feature_gates = FeatureGates(len(buckets), d_in) if feature_gated else None
        self.experts = options._experts(counts, d_in, [d_out])
        owners, names = self.experts.bucket.tolist(), self.experts.names([name for name, _ in buckets])
        masked = options.hierarchy_mask or options.task_column is not None
        sees = torch.tensor([[not masked or owner in seen for owner in owners] for _, seen in gates])
        own = torch.tensor([[owner == seen[0] for owner in owners] for _, seen in gates])
        shared = 0 if len(gates) == len(buckets) else None  # the gate that feeds the experts that all tasks share
        has = torch.tensor([[owner in seen for owner in owners] for g, (_, seen) in enumerate(gates) if g != shared])
        gate_names = [gate for gate, _ in gates]
        self.gates = Gates(d_gate, gate_names, names, sees, has=has, shared=shared)
        self_names = [f"{gate} (self)" for gate in gate_names]
        self.self_gates = None
        if options.self_gate:
            self.self_gates = SelfGates(d_in, self_names, names, own, has=has, shared=shared)
        self.all_gates = [self.gates] if self.self_gates is None else [self.gates, self.self_gates]
        self.output = Boundary()

    def forward(
        self,
        inputs: Sequence[Tensor],
        gate_inputs: Sequence[Tensor],
        own: Sequence[Tensor],
        owners: Sequence[RowOwners] | None = None,
    ) -> Tensor:
        """Take inputs (B, D) of buckets, and of gates and self-gates, to outputs (B, n_gates, H).

        With the ``owners`` of the buckets, a row has its own buckets and gates; the last owners have the gates too.
        """
        gated = inputs if self.feature_gates is None else self.feature_gates(inputs, owners)
        rows = None if owners is None else owners[-1]
        weights = self.gates(gate_inputs, rows)
        if self.self_gates is not None:
            weights = weights + self.self_gates(own, rows)
        return mix(weights, self.output(self.experts(gated, owners)), self.experts.n_networks)

    def restrict(self, gates: Sequence[int]) -> list[int]:
        """Leave some gates only, and the buckets that they see; return the numbers of these."""
        buckets = restrict_level(self.experts, self.all_gates, gates)
        if self.feature_gates is not None:
            self.feature_gates.restrict(buckets)
        return buckets


class HoMENetwork(TaskNetwork):
    """Two levels: groups of tasks beside a shared part, then tasks.

    Parameters
    ----------
    columns : Columns
    tasks : sequence of Task
    options : HoME
        The hyper-parameters.
    """

    task_group: Tensor

    def __init__(self, columns: Columns, tasks: Sequence[Task], options: HoME) -> None:
        super().__init__()
        names, self.vector = [task.name for task in tasks], options._vector(columns)
        groups = find_groups(options.task_groups, names)
        self.group_of = [next(g for g, members in enumerate(groups.values()) if name in members) for name in names]
        self.register_buffer("task_group", torch.tensor(self.group_of), persistent=False)
        self.group_of_bucket = self.group_of  # of the tasks' experts, which some gates see though they are of others
        h1, h2 = options.expert_hidden
        shared, labels = "(shared)", [f"(group {group})" for group in groups]  # never alike
        first, second = options.n_shared_experts
        in_group = options.n_group_experts
        buckets = [(shared, first), *((label, in_group[0]) for label in labels)]
        gates = [(shared, list(range(len(buckets)))), *((label, [k, 0]) for k, label in enumerate(labels, start=1))]
        width = self.vector.width
        self.input, both = Boundary(), options.feature_gate == "both"
        self.groups = HoMELevel(width, width, h1, buckets, gates, options.feature_gate != "none", options)
        buckets = [(shared, second), *((label, in_group[1]) for label in labels)]
        gates = [(name, [len(buckets) + t, 1 + self.group_of[t], 0]) for t, name in enumerate(names)]
        buckets += [(name, options.n_task_experts) for name in names]
        self.tasks = HoMELevel(h1, 2 * h1, h2, buckets, gates, both, options)
        for gate in self.groups.all_gates:
            gate.task_specific = False
        self.heads = options._heads(h2, tasks)
        self.levels = [(level.experts, level.all_gates) for level in (self.groups, self.tasks)]

    def task_features(self, x: Features, own: RowOwners | None = None) -> Tensor:
        """Return features (B, T, H2)."""
        v = self.input(self.vector(x))
        n_buckets, group_of = len(self.groups.experts.counts), self.group_of
        of_bucket = self.group_of_bucket
        owners = of_groups = None
        if own is not None:  # a row has one group, and this one task
            of_groups = [own.shared, RowOwners(self.task_group[own.owner], n_buckets - 1, training=self.training)]
            n_buckets, group_of, of_bucket, owners = 2, [0], [0], [*of_groups, own]
        shared, *groups = self.groups([v] * n_buckets, [v], [v], of_groups).unbind(dim=1)
        joined = [torch.cat([group, shared], dim=1) for group in groups]
        of_task = [groups[g] for g in group_of]
        of_experts = [shared, *groups, *(groups[g] for g in of_bucket)]
        return self.tasks(of_experts, [joined[g] for g in group_of], of_task, owners)

    def restrict(self, tasks: list[int]) -> None:
        """Leave some tasks only, and the groups that they need."""
        n_groups = len(self.groups.gates.gate_names) - 1
        shared_and_groups: list[int] = []
        of_tasks: list[int] = []
        for bucket in self.tasks.restrict(tasks):
            (shared_and_groups if bucket <= n_groups else of_tasks).append(bucket)
        place = {bucket - 1: k - 1 for k, bucket in enumerate(shared_and_groups)}
        self.group_of_bucket = [place[self.group_of_bucket[bucket - 1 - n_groups]] for bucket in of_tasks]
        self.group_of = [place[self.group_of[t]] for t in tasks]
        self.groups.restrict(shared_and_groups)
        self.heads.restrict(tasks)


def find_groups(task_groups: Mapping[str, Sequence[str]] | None, names: Sequence[str]) -> dict[str, list[str]]:
    """Return the groups of tasks by name; by default one group of all tasks.

    Raises
    ------
    ValueError
        If a group is empty or names a task that y does not have, or a task is not in exactly one group.
    """
    if task_groups is None:
        return {"tasks": list(names)}
    groups = {str(group): list(members) for group, members in task_groups.items()}
    empty = [group for group, members in groups.items() if not members]
    if empty:
        raise ValueError(f"task_groups: the groups {empty} have no task; leave them out")
    listed = [name for members in groups.values() for name in members]
    check_known("task_groups names tasks", dict.fromkeys(listed), names, "y")
    twice = sorted({name for name in listed if listed.count(name) > 1})
    if twice:
        raise ValueError(f"task_groups: the tasks {twice} are listed twice; a task belongs to one group")
    missing = [name for name in names if name not in listed]
    if missing:
        raise ValueError(f"task_groups: the tasks {missing} are in no group; give each of them one")
    return groups


def _is_list_of_names(members: object) -> bool:
    return isinstance(members, list | tuple) and all(isinstance(name, str) for name in members)


def check_pair(name: str, value: Any) -> None:
    """Raise a ValueError for a value that is no pair of counts."""
    if not isinstance(value, Sequence) or isinstance(value, str) or len(value) != 2:
        raise ValueError(f"{name} must be a pair, one number a level, such as (4, 2), got {value!r}")
    check_widths(name, value)


def check_groups(name: str, value: Any) -> None:
    """Raise a ValueError for a value that is no mapping to lists of names."""
    if value is not None and (not isinstance(value, Mapping) or not all(map(_is_list_of_names, value.values()))):
        raise ValueError(f"{name} must map the name of a group to a list of tasks, got {value!r}")


Pair = Annotated[tuple[int, int], check_pair]
Groups = Annotated[Mapping[str, Sequence[str]] | None, check_groups]


@dataclass(kw_only=True, eq=False, repr=False)
class HoME(ExpertEstimator):
    """HoME: hierarchy of multi-gate experts.

    Experts are normalised, by default E(x) = Dropout(SiLU(BatchNorm(W x + b))), so that gates weigh outputs of one
    scale. This works against the collapse of experts. Let v be the row's vector, and Sum(w, ...) a sum of experts
    weighted by w. Level 1 has experts of each group k, and shared experts. Each of these sets of experts reads its own
    feature-gated copy v_k of v,

        z_k = Sum(softmax(W_k v), shared and own experts) + SG_k        of every group k,
        z_s = Sum(softmax(W_s v), all experts) + SG_s,

    and level 2 has shared experts on z_s, experts of each group g on z_g, and experts of each task t on the z_g of its
    group,

        h_t = Sum(softmax(U_t [z_g, z_s]), shared, own group's and own experts) + SG_t,    o_t = Head_t(h_t).

    The hierarchy mask limits a gate to the experts named in these formulas, so that shared experts do not end up with
    one task. A feature-gate works against under-fitting: FeaGate(v) = sum_l softmax(W_f v)_l 2 sigmoid(v B_l A_l),
    which starts as 1, and v_k = v ⊙ FeaGate_k(v). A self-gate SG_k = Sum(a(V_k x), own experts) lets own experts learn
    whatever the gate says; a is the softmax, or the sigmoid for a single expert. It reads v at level 1, and z_g at
    level 2.

    A row of a long table (``task_column``) computes the parts of its own task and group only: the sum in z_s is then
    over the shared experts and the experts of the row's group, and ``hierarchy_mask`` always holds.

    Parameters
    ----------
    task_groups : mapping of str to sequence of str, optional
        Groups of tasks that go together, such as ``{"watch": ["long_view"], "interact": ["click", "like"]}``. Every
        task belongs to one group. By default all tasks are one group: two levels of CGC with self-gates.
    n_shared_experts, n_group_experts : (int, int), default=(4, 2), (2, 2)
        Numbers of shared experts, and of experts of each group, at level 1 and at level 2.
    n_task_experts : int, default=1
        Number of experts of each task at level 2.
    expert_hidden : (int, int), default=(128, 64)
        Width of the experts of level 1 and of level 2. An expert is one layer.
    hierarchy_mask : bool, default=True
        Whether a gate sees only the experts named in the formulas; otherwise it sees all experts of its level.
    feature_gate : {"both", "first", "none"}, default="both"
        Levels with feature-gates, of L = 2 masks of rank 8.
    self_gate : bool, default=True
        Whether own experts also reach their group and task past the gate, by SG.

    Notes
    -----
    Only the abstract of the paper was at hand. It names the cures: normalisation and Swish for collapse, a hierarchy
    mask for degradation, feature- and self-gates for under-fitting. The formulas are those on which independent
    re-implementations agree. The rest is our reading: the mixture over L and the factor 2 in feature-gates, gates on v
    instead of its gated copy, task experts on the group's output, self-gates on v and z_g, and all sizes.

    How users' histories enter its features could not be read. Columns of sequences are ours: each is one
    embedding more in v, pooled by attention to the row's own item before all experts and gates, which therefore see
    one reading of a history (:class:`tabmtl.nn.sequences.PooledSequence`).

    References
    ----------
    Wang, Cao, Fu, Gai and Zhou (2024), "HoME: Hierarchy of Multi-Gate Experts for Multi-Task Learning at Kuaishou",
    KDD 2025, arXiv 2408.05430.

    Examples
    --------
    >>> from tabmtl import HoME
    >>> from tabmtl.synth import make_funnel
    >>> log = make_funnel(500, random_state=0)
    >>> model = HoME(task_groups=log.task_groups, epochs=1, random_state=0).fit(log.X, log.y)
    >>> model.expert_utilisation_.filter(level=2, gate="click")["expert"].to_list()[:3]
    ['(shared) 0', '(shared) 1', '(group interact) 0']
    """

    task_groups: Groups = None
    n_shared_experts: Pair = (4, 2)
    n_group_experts: Pair = (2, 2)
    n_task_experts: Count = 1
    expert_hidden: Pair = (128, 64)
    hierarchy_mask: bool = True
    feature_gate: Literal["both", "first", "none"] = "both"
    self_gate: bool = True
    activation: Activation = "silu"

    search_space: ClassVar[dict[str, Any]] = ExpertEstimator.search_space | {
        "n_shared_experts": {"choices": ((2, 1), (4, 2), (6, 4))},
        "n_group_experts": {"choices": ((1, 1), (2, 2), (3, 3))},
        "n_task_experts": {"low": 1, "high": 3},
        "expert_hidden": {"choices": ((64, 32), (128, 64), (256, 128))},
        "feature_gate": {"choices": ("both", "first", "none")},
    }

    __gone_params__: ClassVar[dict[str, Any]] = ExpertEstimator.__gone_params__ | {
        "n_feature_masks": 2,
        "feature_rank": 8,
    }

    def _network(self, columns: Columns, tasks: Sequence[Task]) -> HoMENetwork:
        return HoMENetwork(columns, tasks, self)


class HoMEClassifier(ClassifierFace, HoME):
    """`HoME` whose every task is a classification."""


class HoMERegressor(RegressorFace, HoME):
    """`HoME` whose every task is a regression."""
