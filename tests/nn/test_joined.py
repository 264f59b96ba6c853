"""Several networks as one network, which scores the rows of each as it does by itself."""

from dataclasses import replace

import pytest
import torch
from small_network import COLUMNS, TASKS, rows

from tabmtl import PLE, MMoE, MultiTabNet, SharedBottom
from tabmtl.base.schema import Batch
from tabmtl.columns import Features
from tabmtl.nn.joined import FewRows, JoinedNetworks, can_join
from tabmtl.targets import Task
from tabmtl.training.predict import predict_scores

pytestmark = pytest.mark.usefixtures("torch_seed")

MODELS = [
    MMoE(n_experts=4, expert_hidden=(8, 8)),
    MMoE(n_experts=5, expert_hidden=(8,)),
    MMoE(n_experts=4, expert_hidden=(8,), expert_norm="layer", head_hidden=0, n_members=2, numeric_embedding="linear"),
    SharedBottom(hidden=(8, 8), n_members=3),
    SharedBottom(hidden=(), numeric_embedding="periodic"),
    SharedBottom(hidden=(8,), numeric_embedding="none", n_members=2),
    SharedBottom(hidden=(8,), numeric_embedding="none"),
]


def networks_of(model, n=3):
    """Networks of unlike weights and statistics."""
    networks = [model._network(COLUMNS, TASKS).double().eval() for _ in range(n)]
    for network in networks:
        for tensor in network.state_dict().values():
            if tensor.is_floating_point():
                tensor.add_(torch.rand_like(tensor), alpha=0.3)
    return networks


def side_by_side(parts):
    return Features(**{name: torch.cat([getattr(x, name) for x in parts], dim=1) for name in ("numbers", "codes")})


def shuffled(n):
    x = rows(12)
    return [x.rows(torch.randperm(12)) for _ in range(n)]


def close(found, expected):
    return len(found) == len(expected) and all(map(torch.allclose, found, expected))


@pytest.mark.parametrize("model", MODELS, ids=str)
def test_joined_networks_score_as_each_does_by_itself(model):
    networks, x = networks_of(model), shuffled(3)
    joined = JoinedNetworks(networks)

    def expected(*numbers):
        return [score for k in numbers for score in networks[k](x[k])]

    found = joined.network(side_by_side(x))
    assert close(found, expected(0, 1, 2))
    assert not close(found, expected(1, 0, 2))  # or the test would see no mistake
    joined.keep([0, 2])
    assert close(joined.network(side_by_side([x[0], x[2]])), expected(0, 2))
    joined.keep([1])
    assert close(joined.network(x[2]), expected(2))
    joined.load(0, networks[1].state_dict())
    assert close(joined.network(x[1]), expected(1))
    kept, own = joined.weights(0), networks[1].state_dict()
    assert kept.keys() == own.keys()
    assert all(torch.equal(kept[name], own[name]) for name in own)


@pytest.mark.parametrize(
    "model",
    [
        SharedBottom(n_members=4),
        SharedBottom(n_members=16, numeric_embedding="linear"),
        SharedBottom(n_members=2, head_hidden=0),
        SharedBottom(n_members=8, head_hidden=8, hidden=()),
    ],
    ids=str,
)
def test_few_rows_have_the_bits_of_many(model):
    network = JoinedNetworks([each.float() for each in networks_of(model)]).network
    x = side_by_side(shuffled(3))
    data, most = Batch(x=replace(x, numbers=x.numbers.float())), 16 // model.n_members
    whole = predict_scores(network, data)
    network.heads.merge()
    few = FewRows(network).eval()
    assert [FewRows.suits(network, n) for n in (most, most + 1)] == [True, False]
    for n in range(1, most + 1):
        for start in (0, 12 - n):
            found = predict_scores(few, data.rows(torch.arange(start, start + n)))
            assert all(map(torch.equal, found, [score[start : start + n] for score in whole]))
    assert all(map(torch.equal, predict_scores(network, data), whole))


@pytest.mark.parametrize(
    "model", [MMoE(n_experts=4, expert_hidden=(8, 8)), SharedBottom(hidden=(8,), dropout=0.0)], ids=str
)
def test_no_network_has_a_gradient_of_the_loss_of_another(model):
    networks, x = networks_of(model), shuffled(3)
    joined = JoinedNetworks(networks)
    for network in (*networks, joined.network):
        network.train()
    scores = joined.network(side_by_side(x))
    sum(score.square().sum() for score in scores[len(TASKS) : 2 * len(TASKS)]).backward()
    sum(score.square().sum() for score in networks[1](x[1])).backward()
    gradients = {name: p.grad.unflatten(0, (3, -1)) for name, p in joined.network.named_parameters()}
    for name, p in networks[1].named_parameters():
        first, own, last = gradients[name]
        assert not first.any()
        assert not last.any()
        own = own[0].mT if own.ndim > p.ndim > 1 else own.view_as(p)
        assert torch.allclose(own, p.grad)


@pytest.mark.parametrize(
    ("model", "tasks"),
    [
        (PLE(), TASKS),  # its gates see some of the experts
        (MultiTabNet(), TASKS),
        (MMoE(n_experts=5), [Task(name="y", kind="regression")]),  # whose products round a row by its place
    ],
    ids=str,
)
def test_other_networks_are_not_joined(model, tasks):
    assert not can_join(model._network(COLUMNS, tasks))


def test_large_tables_of_categories_are_not_joined():
    many = replace(COLUMNS, levels=(tuple(map(str, range(200_001))),))
    assert not can_join(SharedBottom(d_embedding=1)._network(many, TASKS))
