"""A network of some tasks answers as the whole one, and computes nothing that they do not need."""

from dataclasses import replace

import pytest
import torch
from numpy.testing import assert_allclose
from small_network import STEPS, TASKS, WIDE, network_of, rows
from torch.utils.flop_counter import FlopCounterMode

from tabmtl import AITM, APEM, ESMM, PLE, STEM, AdaTT, HoME, MMoE, MultiTabNet, SharedBottom

GROUPS = {"some": ["delay"], "others": ["size", "late"]}
CHAIN = ["click", "buy"]
MODELS = [
    *WIDE,
    PLE(n_levels=3, expert_norm="layer", n_members=2),
    HoME(task_groups=GROUPS),
    HoME(task_groups=GROUPS, hierarchy_mask=False),
    MMoE(n_members=2),
    AdaTT(n_shared_experts=1, n_task_experts=2, expert_hidden=(16, 8)),
    MultiTabNet(row_layer="none", mask="none", n_blocks=2),
    MultiTabNet(row_layer="none", mask="FxT_TxT", n_blocks=2, n_members=2),
    MultiTabNet(multi_token=False),
]


def tasks_of(model):
    return STEPS if getattr(model, "task_chain", None) else TASKS


def flops(network):
    x = rows(8)
    with FlopCounterMode(display=False) as counter:
        network.float()(replace(x, numbers=x.numbers.float()))
    return counter.get_total_flops()


@pytest.mark.parametrize("model", MODELS, ids=lambda model: type(model).__name__)
def test_a_network_of_some_tasks_scores_as_the_whole_one(model):
    network, x, generator = network_of(model, tasks_of(model)), rows(9), torch.Generator().manual_seed(1)
    near = {"rtol": 1e-9, "atol": 1e-12}
    if isinstance(model, MultiTabNet):  # whose attention is float32
        network, x, near = network.float(), replace(x, numbers=x.numbers.float()), {"rtol": 1e-5, "atol": 1e-6}
    for tensor in network.state_dict().values():  # also those that begin alike, such as statistics
        if tensor.is_floating_point():
            tensor.add_(torch.rand(tensor.shape, generator=generator, dtype=tensor.dtype) / 8)
    whole = [score.detach() for score in network(x)]
    for places in ([2], [2, 0], [1, 0, 2]):
        part = network.restricted(places)
        for place, score in zip(places, part(x), strict=True):
            assert_allclose(score.detach(), whole[place], **near)
        (last,) = part.restricted([len(places) - 1])(x)
        assert_allclose(last.detach(), whole[places[-1]], **near)
        network_of(model, tasks_of(model)).restricted(places).load_state_dict(part.state_dict())
    assert all(torch.equal(before, after) for before, after in zip(whole, network(x), strict=True))


@pytest.mark.parametrize(
    "model",
    [
        SharedBottom(),
        MMoE(),
        PLE(n_levels=1),
        HoME(),
        HoME(task_groups=GROUPS, n_group_experts=(1, 3)),
        APEM(),
        ESMM(task_chain=CHAIN),
        MultiTabNet(row_layer="none"),
    ],
    ids=lambda model: type(model).__name__,
)
def test_one_task_costs_what_a_network_of_it_alone_costs(model):
    tasks, groups = tasks_of(model), getattr(model, "task_groups", None)
    network = network_of(model, tasks)
    if groups is not None:  # those of the first level feed the shared part, and stay
        assert [*network.restricted([0]).tasks.experts.counts] == [2, 3, 1]
        return
    alone = network_of(model, tasks[:1])
    assert flops(network.restricted([0])) == flops(alone) < flops(network)


def test_what_a_task_reads_of_others_stays():
    for model, counts in ((PLE(), [[2, 2, 2, 2], [2, 2]]), (AdaTT(), [[2] * 3, [2] * 3])):
        part = network_of(model).restricted([1])
        assert [[*level.experts.counts] for level in part.stack] == counts
        assert flops(part) < flops(network_of(model))
    part = network_of(AITM(task_chain=["keep", "click", "buy"]), STEPS).restricted([0])
    assert (part.towers.n_experts, len(part.passed_on), part.heads.n_tasks) == (2, 1, 1)
    part = network_of(STEM()).restricted([1])
    assert (part.experts.n_experts, part.gates.gate_names) == (5, ("size",))
