"""Batched experts and masked gates against the plain modules they stand for."""

from itertools import pairwise

import pytest
import torch
from ranks import run_ranks
from torch import nn
from torch.nn import functional as F

from tabmtl.nn.experts import BatchNorm, Experts, Gates, mix, statistics_of, wide_linear
from tabmtl.training.run import current

pytestmark = pytest.mark.usefixtures("torch_seed")

COUNTS = [(4,), (2, 1, 3), (0, 2, 1), (1, 0, 2), (1,)]
NORMS = ["batch", "layer", "none"]
SEES = torch.tensor([[True, False, True, False], [True, True, True, True], [False, False, False, True]])


def scrambled(module):
    """The module in float64, every parameter (those that start at 0 or 1 too) drawn anew."""
    for parameter in module.double().parameters():
        nn.init.uniform_(parameter, -1.0, 1.0)
    return module


def plain_norm(experts, norm, layer, e, width):
    """The normalisation of one expert's layer, as torch's own module with copied weights."""
    if norm == "none":
        return nn.Identity()
    ours, own = experts.norms[layer], slice(e * width, (e + 1) * width)
    plain = nn.BatchNorm1d(width, momentum=None) if norm == "batch" else nn.LayerNorm(width)
    plain.weight.data, plain.bias.data = ours.weight.data.flatten()[own], ours.bias.data.flatten()[own]
    return plain


def plain_expert(experts, norm, activation, e, d_in, hidden):
    """One expert as a stack of torch's own modules with copied weights."""
    modules = []
    for layer, (before, after) in enumerate(pairwise((d_in, *hidden))):
        linear = nn.Linear(before, after)
        if layer == 0:
            own = slice(e * after, (e + 1) * after)
            linear.weight.data, linear.bias.data = experts.first.weight.data[own], experts.first.bias.data[own]
        else:
            ours = experts.later[layer - 1]
            linear.weight.data, linear.bias.data = ours.weight.data[e].T, ours.bias.data[e]
        modules += [linear, plain_norm(experts, norm, layer, e, after), activation()]
    return nn.Sequential(*modules).double()


@pytest.mark.parametrize("activation", ["relu", "silu"])
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("hidden", [(3,), (6, 5, 3)])
@pytest.mark.parametrize("counts", COUNTS)
def test_batched_experts_equal_a_loop_of_modules(counts, hidden, norm, activation):
    experts = scrambled(Experts(counts, 7, hidden, norm=norm, activation=activation))
    silu_or_relu = nn.SiLU if activation == "silu" else nn.ReLU
    plain = [plain_expert(experts, norm, silu_or_relu, e, 7, hidden) for e in range(sum(counts))]
    for training in (True, True, False):  # the running statistics of two batches rule the third
        experts.train(training)
        own = [torch.randn(9, 7).double() for _ in counts]
        for inputs in ([own[0]], [own[0]] * len(counts), own):
            of_expert = [inputs[b % len(inputs)] for b, count in enumerate(counts) for _ in range(count)]
            expected = [one.train(training)(x) for one, x in zip(plain, of_expert, strict=True)]
            found = experts(inputs)
            assert found.shape == (9, sum(counts), hidden[-1])
            torch.testing.assert_close(found, torch.stack(expected, dim=1), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("norm", NORMS)
def test_gradients_of_batched_experts_are_those_of_the_modules(norm):
    experts = scrambled(Experts([2, 1], 4, (5, 3), norm=norm))
    plain = [plain_expert(experts, norm, nn.ReLU, e, 4, (5, 3)) for e in range(3)]
    x, z, pull = torch.randn(8, 4).double(), torch.randn(8, 4).double(), torch.randn(8, 3, 3).double()
    (experts([x, z]) * pull).sum().backward()
    for e, (one, own) in enumerate(zip(plain, (x, x, z), strict=True)):
        (one(own) * pull[:, e]).sum().backward()
        torch.testing.assert_close(experts.first.weight.grad[e * 5 : (e + 1) * 5], one[0].weight.grad)
        torch.testing.assert_close(experts.later[0].weight.grad[e].T, one[3].weight.grad)
        if norm != "none":
            own_part = slice(e * 3, (e + 1) * 3)
            torch.testing.assert_close(experts.norms[1].weight.grad.flatten()[own_part], one[4].weight.grad)


def test_one_row_is_trained_on_by_running_statistics():
    x = torch.randn(1, 4)
    with pytest.raises(ValueError, match="more than 1 value"):
        nn.BatchNorm1d(4)(x)
    experts = Experts([2, 1], 4, (5, 3), norm="batch")
    experts([torch.randn(32, 4) + 3, torch.randn(32, 4)])
    before = experts.norms[0].running_mean.clone()
    found = experts([x, x + 1])
    found.sum().backward()
    assert torch.equal(found, experts.eval()([x, x + 1]))
    assert torch.equal(experts.norms[0].running_mean, before)
    assert before.abs().max() > 0
    assert experts.first.weight.grad.abs().sum() > 0


def test_experts_drop_values_in_training_alone():
    experts, x = Experts([40], 4, (8,), dropout=0.25), torch.randn(200, 4)
    kept = experts.eval()([x])
    found = experts.train()([x])
    dropped = (found == 0) & (kept > 0)
    assert dropped.sum() / (kept > 0).sum() == pytest.approx(0.25, abs=0.02)
    torch.testing.assert_close(found[~dropped], kept[~dropped] / 0.75)


def n_parameters(module):
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("hidden", [(6,), (6, 5, 3)])
@pytest.mark.parametrize("counts", COUNTS)
def test_parameters_of_experts_are_those_of_as_many_mlps(counts, hidden, norm):
    experts = Experts(counts, 7, hidden, norm=norm)
    layers = sum(before * after + after for before, after in pairwise((7, *hidden)))
    scales = 2 * sum(hidden) if norm != "none" else 0
    assert n_parameters(experts) == sum(counts) * (layers + scales)
    assert sum(n_parameters(module) for module in experts.norms) == sum(counts) * scales


@pytest.mark.parametrize("norm", ["batch", "layer"])
def test_a_normalised_expert_starts_with_unit_scale(norm):
    experts = Experts([3], 4, (50,), norm=norm)
    found = experts.norms[0](experts.first(10 * torch.randn(400, 4))).view(400, 3, 50)
    axis = 0 if norm == "batch" else 2
    assert found.mean(dim=axis).abs().max() < 1e-4
    torch.testing.assert_close(found.std(dim=axis, correction=0), torch.ones(1).expand(found.mean(dim=axis).shape))


def test_start_values_are_those_of_linear_layers():
    experts = Experts([20, 20], 16, (25, 9))
    for weights, d_in in ((experts.first.weight, 16), (experts.later[0].weight, 25), (experts.later[0].bias, 25)):
        assert weights.abs().max() <= d_in**-0.5
        assert weights.std().item() == pytest.approx((3 * d_in) ** -0.5, rel=0.1)


@pytest.mark.parametrize("sizes", [(3, 1, 2), (0, 4, 2), (6, 0, 0)])
def test_parts_of_a_wide_linear_layer_read_their_own_inputs(sizes):
    linear, inputs = scrambled(nn.Linear(4, 6)), [torch.randn(5, 4).double() for _ in sizes]
    weights, biases = linear.weight.split(sizes), linear.bias.split(sizes)
    expected = [F.linear(x, w, b) for x, w, b in zip(inputs, weights, biases, strict=True)]
    torch.testing.assert_close(wide_linear(linear, inputs, sizes), torch.cat(expected, dim=1))
    assert torch.equal(wide_linear(linear, inputs[:1], sizes), linear(inputs[0]))
    assert torch.equal(wide_linear(linear, [inputs[0]] * 3, sizes), linear(inputs[0]))
    with pytest.raises(ValueError, match="argument"):
        wide_linear(linear, inputs[:2], sizes)


def gates(sees=SEES):
    n_gates, n_experts = (3, 4) if sees is None else sees.shape
    return scrambled(Gates(5, [f"g{g}" for g in range(n_gates)], [f"e{e}" for e in range(n_experts)], sees))


@pytest.mark.parametrize("own", [True, False])
@pytest.mark.parametrize("sees", [SEES, None], ids=["masked", "all"])
def test_gates_are_a_softmax_over_what_they_see(sees, own):
    module = gates(sees)
    seen = torch.ones(3, 4, dtype=torch.bool) if sees is None else sees
    inputs = [torch.randn(6, 5).double() for _ in range(3)] if own else [torch.randn(6, 5).double()] * 3
    weights = module(inputs if own else inputs[0])
    assert weights.shape == (6, 3, 4)
    torch.testing.assert_close(weights.sum(dim=2), torch.ones(6, 3).double())
    assert torch.equal(weights != 0, seen.expand(6, 3, 4))
    start = 0
    for g, x in enumerate(inputs):
        n = int(seen[g].sum())
        part = slice(start, start + n)
        logits = F.linear(x, module.linear.weight[part], module.linear.bias[part])
        torch.testing.assert_close(weights[:, g, seen[g]], logits.softmax(dim=1))
        start += n
    assert n_parameters(module) == int(seen.sum()) * (5 + 1)


def test_the_mask_takes_no_part_in_the_state():
    assert set(gates().state_dict()) == {"linear.weight", "linear.bias"}


def test_mixing_is_a_weighted_sum():
    weights, outputs = torch.randn(6, 3, 4), torch.randn(6, 4, 7)
    torch.testing.assert_close(mix(weights, outputs), torch.einsum("bge,beh->bgh", weights, outputs))


@pytest.mark.parametrize("g", range(3))
@pytest.mark.parametrize("norm", NORMS)
def test_gradients_reach_the_experts_that_a_gate_sees_and_no_others(norm, g):
    experts, module = scrambled(Experts([3, 1], 5, (6, 2), norm=norm, activation="silu")), gates()
    x = torch.randn(9, 5).double()
    (mix(module(x), experts([x]))[:, g] * torch.randn(9, 2).double()).sum().backward()
    for parameter in experts.parameters():
        of_expert = parameter.grad.reshape(4, -1).abs().amax(dim=1)
        assert (of_expert[~SEES[g]] == 0).all()
        if parameter is experts.first.weight or parameter is experts.later[0].weight:
            assert (of_expert[SEES[g]] > 1e-9).all()
    by_gate = [part.abs().sum() > 0 for part in module.linear.weight.grad.split(module.n_seen)]
    assert by_gate == [k == g and module.n_seen[k] > 1 for k in range(3)]


def test_running_statistics_are_plain_means_at_first_and_then_torchs_own():
    ours, mean, moving = BatchNorm(4), nn.BatchNorm1d(4, momentum=None), nn.BatchNorm1d(4)
    batches = [5 + 0.1 * torch.randn(10, 4) for _ in range(20)]
    for x in batches[:10]:
        torch.testing.assert_close(ours(x), mean(x))
    moving.load_state_dict(mean.state_dict())
    for name in ("running_mean", "running_var"):
        torch.testing.assert_close(getattr(ours, name), getattr(mean, name))
    for x in batches[10:]:
        torch.testing.assert_close(ours(x), moving(x))
    for name in ("running_mean", "running_var"):
        torch.testing.assert_close(getattr(ours, name), getattr(moving, name))


def test_one_batch_is_enough_to_predict_at_the_scale_of_training():
    x, ours, plain = 5 + 0.01 * torch.randn(500, 4), BatchNorm(4), nn.BatchNorm1d(4)
    torch.testing.assert_close(ours(x), ours.eval()(x), rtol=0.01, atol=0.01)
    trained, predicted = plain(x), plain.eval()(x)
    assert predicted.std() < 0.05 * trained.std()  # what torch's own would predict


def test_running_statistics_stand_still_at_momentum_zero():
    ours, x = BatchNorm(4), torch.randn(10, 4)
    ours.momentum = 0.0
    first = ours(x)
    assert torch.equal(ours.running_mean, torch.zeros(4))
    ours.momentum = 0.1
    assert torch.equal(ours(x), first)
    torch.testing.assert_close(ours.running_mean, x.mean(dim=0))


def normalise(x, start, experts=None):
    """Outputs of a module in a state, the gradient for the rows, and the module; all of the rank that asks."""
    norm = BatchNorm(6).to(torch.promote_types(x.dtype, torch.float32))
    norm.load_state_dict(start)
    norm._batches = 3  # so that the moments of this one are a quarter of the running ones
    x.requires_grad_()
    with statistics_of(current(), norm):
        found = norm(x, experts)
    (found * x.detach().sin()).sum().backward()
    return found.detach(), x.grad, norm


def assert_ranks_normalise_as_one(sizes, x, experts=None, rtol=1e-9, atol=1e-9):
    start = scrambled(BatchNorm(6)).state_dict()
    parts = x.split(sizes)
    of_rank = [None] * len(sizes) if experts is None else experts.split(sizes)
    found = run_ranks(len(sizes), lambda: normalise(parts[current().rank].clone(), start, of_rank[current().rank]))
    output, for_rows, norm = normalise(x.double(), start, experts)
    close = {"rtol": rtol, "atol": atol, "check_dtype": False}
    assert {part.dtype for part, _, _ in found} == {x.dtype}
    torch.testing.assert_close(torch.cat([part for part, _, _ in found]), output, **close)
    torch.testing.assert_close(torch.cat([part for _, part, _ in found]), for_rows, **close)
    for name, parameter in norm.named_parameters():
        summed = sum(module.get_parameter(name).grad.double() for _, _, module in found)
        torch.testing.assert_close(summed, parameter.grad, **close)
    for name in ("running_mean", "running_var"):
        first, *others = (module.get_buffer(name) for _, _, module in found)
        torch.testing.assert_close(first, norm.get_buffer(name), **close)
        assert all(torch.equal(first, other) for other in others)


@pytest.mark.parametrize("experts", [None, torch.randint(3, (30, 2), generator=torch.Generator().manual_seed(0))])
@pytest.mark.parametrize("sizes", [(17, 13), (29, 0, 1)])
def test_ranks_normalise_the_rows_of_all(sizes, experts):
    x = (5 + torch.arange(30.0)[:, None] * torch.randn(6)).double() + torch.randn(30, 6)
    assert_ranks_normalise_as_one(sizes, x if experts is None else x[:, :4], experts)


def test_ranks_lose_no_digit_where_the_mean_is_large():
    x = 3_000 + torch.randn(200, 6)  # the mean square less the square of the mean has no digit left in float32
    assert_ranks_normalise_as_one((120, 80), x, rtol=0.01, atol=0.01)


def test_ranks_normalise_in_bfloat16():
    assert_ranks_normalise_as_one((20, 10), torch.randn(30, 6).bfloat16(), rtol=0.02, atol=0.05)


@pytest.mark.parametrize("sizes", [(0, 1), (0, 0)])
def test_a_single_row_of_all_ranks_or_none_has_no_moments(sizes):
    assert_ranks_normalise_as_one(sizes, torch.randn(sum(sizes), 6).double())


def test_experts_take_no_rows():
    experts = Experts([2, 1], 4, [5, 3], norm="batch")
    assert experts([torch.zeros(0, 4)] * 2).shape == (0, 3, 3)
    assert experts.eval()([torch.zeros(0, 4)] * 2).shape == (0, 3, 3)


def test_normalisation_over_ranks_takes_one_message_forward_and_one_back(monkeypatch):
    def work():
        said, total = [], current().sum
        monkeypatch.setattr(current(), "sum", lambda tensor: said.append(tensor.numel()) or total(tensor))
        normalise(torch.randn(5, 6), BatchNorm(6).state_dict())
        return said

    assert run_ranks(2, work) == [[13, 12]] * 2
