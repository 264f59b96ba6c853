"""Layers of which every owner of rows has its own, against a loop over the rows."""

import pytest
import torch

from tabmtl.nn.experts import Experts, Gates
from tabmtl.nn.layers import RowOwners

pytestmark = pytest.mark.usefixtures("torch_seed")

OWNERS = {
    "even": [0, 1, 2, 3] * 5,
    "in order": [0] * 6 + [1] * 4 + [2] * 7 + [3] * 3,
    "one has most": [2] * 30 + [0, 3, 2, 1],
    "two are absent": [3, 1, 1, 3, 3],
    "one row": [2],
}
every_owner = pytest.mark.parametrize("owner", OWNERS.values(), ids=OWNERS)
in_and_out_of_training = pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])


def weights(n_owners=4, n=3, d_in=5, d_out=2):
    return torch.randn(n_owners, n, d_in, d_out).double().requires_grad_(), torch.randn(n_owners, n, d_out).double()


def by_rows(owner, x, weight, bias):
    """The n layers of every row's owner, row by row and part by part."""
    x = x.unflatten(1, (weight.shape[1], -1))
    rows = [
        torch.cat([x[b, i] @ weight[o, i] + bias[o, i] for i in range(weight.shape[1])]) for b, o in enumerate(owner)
    ]
    return torch.stack(rows)


@pytest.mark.parametrize("order", ["as stored", "transposed", "strided"])
@in_and_out_of_training
@every_owner
def test_layers_of_owners_equal_a_loop_over_rows(owner, training, order):
    weight, bias = weights()
    if order == "transposed":
        weight = weight.detach().mT.contiguous().requires_grad_()
    view = {
        "as stored": weight,
        "transposed": weight.mT,
        "strided": weight.transpose(0, 1).contiguous().transpose(0, 1),
    }
    x, pull = torch.randn(len(owner), 15).double().requires_grad_(), torch.randn(len(owner), 6).double()
    found = RowOwners(torch.tensor(owner), 4, training=training).linear(x, view[order], bias)
    expected = by_rows(owner, x, view[order], bias)
    torch.testing.assert_close(found, expected)
    for ours, plain in zip(
        *(torch.autograd.grad((y * pull).sum(), (x, weight)) for y in (found, expected)), strict=True
    ):
        torch.testing.assert_close(ours, plain)


@in_and_out_of_training
def test_a_bias_has_the_gradient_of_the_rows_of_its_owner_alone(training):
    weight, bias = weights()
    bias.requires_grad_()
    x = torch.full((6, 15), torch.nan, dtype=torch.float64)
    x[:5] = 0.0
    owner = torch.tensor([0, 2, 2, 0, 0, 3])  # a row of no number spoils its own answer only
    found = RowOwners(owner, 4, training=training).linear(x, weight, bias)
    assert found[:5].isfinite().all()
    found[:5].sum().backward()
    assert bias.grad[:, 0, 0].tolist() == [3.0, 0.0, 2.0, 0.0]
    assert bias.grad.unique().numel() == 3


def test_rows_of_one_owner_in_common_share_a_layer():
    own = RowOwners(torch.tensor([1, 0, 1]), 2)
    weight, bias = weights(1)
    x = torch.randn(3, 15).double()
    torch.testing.assert_close(own.shared.linear(x, weight, bias), by_rows([0] * 3, x, weight, bias))
    index = Experts([2, 2, 1], 15, [2]).index([x, x], [own, own.shared])
    assert index.tolist() == [[2, 3, 4], [0, 1, 4], [2, 3, 4]]


def test_a_row_is_answered_bit_for_bit_alike_beside_any_others():
    weight, bias = torch.randn(20, 2, 64, 48), torch.randn(20, 2, 48)
    x, owner = torch.randn(300, 128), torch.randint(20, (300,))
    whole = RowOwners(owner, 20).linear(x, weight, bias)
    order = torch.randperm(300)
    assert torch.equal(RowOwners(owner[order], 20).linear(x[order], weight, bias), whole[order])
    for row in range(0, 300, 25):
        assert torch.equal(RowOwners(owner[row : row + 1], 20).linear(x[row : row + 1], weight, bias)[0], whole[row])


def test_matrix_products_follow_autocast_in_both_directions():
    weight, bias = (p.float() for p in weights())
    weight = weight.detach().requires_grad_()
    own, x = RowOwners(torch.tensor(OWNERS["even"]), 4, training=True), torch.randn(20, 15, requires_grad=True)
    exact = torch.autograd.grad(own.linear(x, weight, bias).sum(), weight)[0]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = own.linear(own.linear(x, weight[..., :1].expand(-1, -1, -1, 5)), weight, bias)
        low = own.linear(x, weight, bias)
    found.sum().backward()
    assert weight.grad.isfinite().all()
    torch.testing.assert_close(torch.autograd.grad(low.sum(), weight)[0], exact, rtol=0.05, atol=0.05)


@in_and_out_of_training
@pytest.mark.parametrize("norm", ["batch", "layer", "none"])
def test_experts_of_a_rows_own_are_those_of_all_experts(norm, training):
    """Of one input, and out of training, a row's part of what all experts give is what its own ones give."""
    experts = Experts([2, 3, 3, 3], 4, (6, 5), norm=norm).double().eval()
    for parameter in experts.parameters():
        torch.nn.init.normal_(parameter)
    owner, x = torch.tensor([2, 0, 1, 1, 0, 2, 2]), torch.randn(7, 4).double()
    own = RowOwners(owner, 3, training=training)
    found, place = experts([x, x], [own.shared, own]), experts.index([x, x], [own.shared, own])
    assert place[0].tolist() == [0, 1, 8, 9, 10]
    torch.testing.assert_close(found, experts([x]).take_along_dim(place[:, :, None], dim=1))


def test_statistics_of_own_experts_are_over_the_rows_of_all_tasks_place_by_place():
    experts, x = Experts([1, 2, 2], 4, (6,), norm="batch"), 3 + torch.randn(50, 4)
    own = RowOwners(torch.arange(50) % 2, 2, training=True)
    experts([x, x], [own.shared, own])
    with torch.no_grad():
        whole = experts.first(x).view(50, 5, 6)
    places = experts.index([x, x], [own.shared, own])
    own_outputs = whole.take_along_dim(places[:, :, None], dim=1).flatten(1)
    torch.testing.assert_close(experts.norms[0].running_mean[:18], own_outputs.mean(dim=0))
    torch.testing.assert_close(experts.norms[0].running_var[:18], own_outputs.var(dim=0))


@pytest.mark.parametrize("n_rows", [1, 2, 3])
def test_a_few_rows_of_many_tasks_are_normalised(n_rows):
    experts, own = Experts([1, *[2] * 9], 4, (6, 3), norm="batch"), RowOwners(torch.arange(n_rows), 9, training=True)
    x = torch.randn(n_rows, 4)
    found = experts([x, x], [own.shared, own])
    assert found.isfinite().all()
    found.square().sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in experts.parameters())


@in_and_out_of_training
@pytest.mark.parametrize("shared", [None, 0, 3])
def test_gates_of_a_rows_own_weigh_what_it_has_of_what_they_see(shared, training):
    has = torch.tensor([[True, True, False, False], [True, False, True, False], [True, False, False, True]])
    sees = has.clone()
    sees[:, 0] = torch.tensor([True, False, True])  # the second gate does not see the expert that all tasks have
    everything = torch.ones(1, 4, dtype=torch.bool)
    sees = sees if shared is None else torch.cat([everything, sees] if shared == 0 else [sees, everything])
    gates = Gates(5, list("abcd")[: len(sees)], list("efgh"), sees, has=has, shared=shared).double().train(training)
    owner, x = torch.tensor([2, 0, 1, 1, 0]), torch.randn(5, 5).double()
    own = RowOwners(owner, 3, training=training)
    found, place = gates(x, own), gates.index(x, own)
    logits = gates._logits([x]).flatten(1).take_along_dim(place.flatten(1), dim=1).view(place.shape)
    torch.testing.assert_close(found, logits.softmax(dim=2))
    assert found.shape == (5, 1 if shared is None else 2, 2)
    inputs = [x, 2 * x][: found.shape[1]]
    torch.testing.assert_close(gates(inputs, own)[:, 0], found[:, 0])
