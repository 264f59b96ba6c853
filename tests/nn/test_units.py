"""Networks without some of their units: masked, cut, and counted."""

import numpy as np
import pytest
import torch
from small_network import STEPS, TASKS, network_of, own_tasks, rows
from torch.func import functional_call

from tabmtl import PLE, MMoE, SharedBottom
from tabmtl.base.schema import Batch
from tabmtl.columns import Features
from tabmtl.nn.uneven import UnevenTowers
from tabmtl.nn.units import Bucket, cut, multiply_adds
from tabmtl.training.table_loop import settle_statistics

SMALL = {"dropout": 0.0, "head_hidden": 12}
MIXTURE = SMALL | {"expert_hidden": (16, 8)}
MODELS = [
    SharedBottom(hidden=(16, 12, 8), **SMALL),
    SharedBottom(hidden=(16,), n_members=2, **SMALL),
    SharedBottom(hidden=(), **SMALL),
    SharedBottom(hidden=(16, 8), dropout=0.0, head_hidden=0),
    MMoE(n_experts=4, **MIXTURE),
    MMoE(n_experts=3, **MIXTURE | {"expert_hidden": (8,)}),
    MMoE(n_experts=3, n_members=2, **MIXTURE | {"expert_norm": "none"}),
    PLE(**MIXTURE),
    PLE(n_levels=1, n_task_experts=3, **MIXTURE | {"activation": "silu", "head_hidden": 0}),
    PLE(n_levels=3, **MIXTURE | {"expert_hidden": (8, 12, 8)}),
    PLE(n_task_experts=3, **MIXTURE | {"expert_norm": "none"}),
]
LONG = [model.__class__(**{**model.get_params(), "task_column": "task"}) for model in MODELS]


def named(model):
    return f"{type(model).__name__}-{'long' if model.task_column else 'wide'}"


def some(groups, seed, *, is_long=False):
    """Some units of every group; in a long table as many of all tasks, the same of all parts, all normed experts."""
    rng, found = np.random.default_rng(seed), {}
    made = [slot.name for group in groups if group.kind == "shared" for slot in group.makes]
    has_norms = any(name.endswith("running_mean") for name in made)
    for group in groups:
        if is_long and has_norms and group.kind == "experts":
            continue
        of_tasks = group.kind == "task" or (group.kind == "experts" and group.name.rpartition(".")[2] != "0")
        size = 1 + (group.n_units - 1) // 2 if is_long and of_tasks else int(rng.integers(1, group.n_units + 1))
        parts = [np.sort(rng.permutation(group.n_units)[:size]) for _ in range(group.n_parts)]
        found[group.name] = torch.from_numpy(np.stack([parts[0]] * group.n_parts if is_long else parts))
    return found


def masked(network, groups, kept):
    """Parameters of a network of which nothing reads the units that go: the oracle of `cut`."""
    found = {}
    for group in [group for group in groups if group.name in kept]:
        stays = torch.zeros(group.n_parts, group.n_units).scatter_(1, kept[group.name], 1.0)
        if isinstance(group, Bucket):
            gates, name = network.get_submodule(group.gates), f"{group.gates}.linear.bias"
            place = gates.places % len(gates.expert_names) - group.first
            is_own = (place >= 0) & (place < group.n_units)
            is_cut = is_own & (stays[0] == 0)[place.clamp(0, group.n_units - 1)]
            found[name] = found.get(name, network.get_parameter(name)).masked_fill(is_cut, -torch.inf)
            continue
        for slot in group.reads:
            parameter, factor = found.get(slot.name, network.get_parameter(slot.name)), stays
            if slot.at is not None:
                factor = stays.new_ones(parameter.shape[0], group.n_units)
                factor[list(slot.at)] = stays[0]
            shape = [1] * parameter.ndim
            shape[slot.axis], shape[0] = group.n_units, len(factor) if len(factor) > 1 else shape[0]
            found[slot.name] = parameter * factor.to(parameter).view(shape)
    return found


def settled(model):
    """A network whose batch normalisation has learned statistics."""
    network = network_of(model, STEPS if model.task_column else TASKS)
    generator = torch.Generator().manual_seed(1)
    for name, buffer in network.named_buffers():
        if name.endswith(("running_mean", "running_var")):
            buffer.copy_(torch.rand(buffer.shape, generator=generator) + 0.1)
    return network


@pytest.mark.parametrize("model", [*MODELS, *LONG], ids=named)
@pytest.mark.parametrize("seed", range(3))
def test_a_masked_network_answers_as_the_smaller_one(model, seed):
    is_long = model.task_column is not None
    network, task = settled(model), own_tasks(model)
    groups, before = network.units(), network(rows(), task)
    kept = some(groups, seed, is_long=is_long)
    hidden = functional_call(network, masked(network, groups, kept), (rows(), task))
    smaller = cut(network, groups, kept)
    for own, found in zip(hidden, smaller(rows(), task), strict=True):
        torch.testing.assert_close(found, own, rtol=1e-9, atol=1e-9)
    for own, found in zip(before, network(rows(), task), strict=True):
        assert torch.equal(own, found)
    numbers = [sum(p.numel() for p in each.parameters()) for each in (smaller, network)]
    assert numbers[0] < numbers[1]
    assert multiply_adds(smaller, is_long=is_long) < multiply_adds(network, is_long=is_long)


@pytest.mark.parametrize("model", MODELS, ids=named)
def test_gradients_of_a_masked_network_are_those_of_the_smaller_one(model):
    network = settled(model)
    groups = network.units()
    kept = some(groups, 0)
    sum(own.square().sum() for own in functional_call(network, masked(network, groups, kept), (rows(),))).backward()
    smaller = cut(network, groups, kept)
    sum(own.square().sum() for own in smaller(rows())).backward()
    for name, parameter in smaller.named_parameters():
        if name.startswith("vector.") and parameter.grad is not None:
            torch.testing.assert_close(parameter.grad, network.get_parameter(name).grad, rtol=1e-8, atol=1e-10)
    gates = [name for name, parameter in network.named_parameters() if not parameter.grad.isfinite().all()]
    assert gates == []


@pytest.mark.parametrize("model", MODELS, ids=named)
def test_every_group_that_keeps_all_changes_nothing(model):
    network = settled(model)
    groups = network.units()
    kept = {group.name: torch.arange(group.n_units).expand(group.n_parts, -1) for group in groups}
    for own, found in zip(network(rows()), cut(network, groups, kept)(rows()), strict=True):
        assert torch.equal(own, found)


@pytest.mark.parametrize("model", MODELS, ids=named)
def test_a_smaller_network_is_cut_further_and_restricted(model):
    network = settled(model)
    smaller = cut(network, network.units(), some(network.units(), 1))
    groups = smaller.units()
    kept = some(groups, 2)
    hidden = functional_call(smaller, masked(smaller, groups, kept), (rows(),))
    least = cut(smaller, groups, kept)
    torch.testing.assert_close(least(rows()), hidden, rtol=1e-9, atol=1e-9)
    of_some = least.restricted([2, 0])
    torch.testing.assert_close(of_some(rows()), [hidden[2], hidden[0]], rtol=1e-9, atol=1e-9)


def test_uneven_heads_take_features_of_all_tasks_or_of_each():
    heads = UnevenTowers(8, [1, 3, 1], [4, 8, 4], n_members=2).eval()
    z = torch.rand(6, 8)
    shared, own = heads(z), heads(z[:, None].expand(-1, 3, -1))
    assert [score.shape for score in shared] == [(3, 2, 1), (3, 2, 3), (3, 2, 1)]
    torch.testing.assert_close(shared, own)
    torch.testing.assert_close(heads.score(heads.represent(z)), shared)
    with pytest.raises(ValueError, match="stand alone"):
        heads.widen(2)


def test_a_long_table_needs_heads_of_one_width():
    network = settled(LONG[0])
    kept = {"heads.0": torch.arange(4)[None]}
    with pytest.raises(ValueError, match="hidden layers of one width"):
        cut(network, network.units(), kept)(rows(), own_tasks(LONG[0]))


@pytest.mark.parametrize("places", [[[0, 0]], [[1, 0]], [[0, 99]], [[-1, 0]], [[]], [[0], [1]], [0]])
def test_places_that_no_group_has_are_refused(places):
    network = settled(MODELS[0])
    with pytest.raises(ValueError, match=r"'trunk\.0' that stay must be rising places below 16, in 1 rows"):
        cut(network, network.units(), {"trunk.0": torch.tensor(places, dtype=torch.int64)})
    with pytest.raises(ValueError, match=r"no group 'trunk\.9' of units; its groups are"):
        cut(network, network.units(), {"trunk.9": torch.zeros(1, 1, dtype=torch.int64)})


def test_a_gate_keeps_an_expert():
    network = settled(PLE(n_levels=1, n_shared_experts=1, n_task_experts=2, **MIXTURE))
    names = [group.name for group in network.units() if group.kind == "experts"]
    assert names == ["levels.0.bucket.1", "levels.0.bucket.2", "levels.0.bucket.3"]
    with pytest.raises(ValueError, match="each gate needs an expert"):
        network.levels[0][1][0].keep([1, 2])


def test_units_that_layer_normalisation_sees_are_no_group():
    groups = network_of(MMoE(n_experts=2, expert_norm="layer", **MIXTURE)).units()
    assert {group.kind for group in groups} == {"experts", "task"}


def test_multiplications_are_those_of_the_matrices():
    network = network_of(SharedBottom(hidden=(16, 8), head_hidden=4, numeric_embedding="none", d_embedding=4))
    # a row: an embedding of 4, two numbers, one flag; three heads with 1, 3 and 1 scores
    assert multiply_adds(network) == 7 * 16 + 16 * 8 + 3 * 8 * 4 + 4 * 5
    members = network_of(
        SharedBottom(hidden=(16, 8), head_hidden=4, numeric_embedding="none", d_embedding=4, n_members=3)
    )
    assert multiply_adds(members) == 3 * multiply_adds(network)


def test_a_row_of_a_long_table_counts_its_own_task_only():
    options = {"n_shared_experts": 1, "n_task_experts": 2, "numeric_embedding": "none", "d_embedding": 4}
    network = network_of(PLE(n_levels=1, **MIXTURE | options | {"task_column": "task"}), STEPS)
    assert multiply_adds(network, is_long=True) == 3 * (7 * 16 + 16 * 8) + 3 * 7 + 8 * 12 + 12


def test_statistics_of_a_smaller_network_can_be_settled():
    network = network_of(MMoE(n_experts=3, **MIXTURE)).float()
    smaller = cut(network, network.units(), some(network.units(), 0)).float()
    x = rows(40)
    batch = Batch(x=Features(numbers=x.numbers.float(), codes=x.codes))
    before = {name: own.clone() for name, own in network.named_buffers()}
    settle_statistics(smaller, batch)
    assert all(torch.equal(own, before[name]) for name, own in network.named_buffers())
