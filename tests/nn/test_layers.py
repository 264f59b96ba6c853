"""Dropout masks, tokens, and batched heads against the plain modules they stand for."""

import pytest
import torch
from torch.nn import functional as F

from tabmtl.nn.layers import MLP, Dropout, RowOwners, TaskLinear, Towers

pytestmark = pytest.mark.usefixtures("torch_seed")


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_dropout_drops_its_share_and_keeps_the_mean(p):
    x = torch.ones(400, 1001)
    y = Dropout(p)(x)
    assert (y == 0).float().mean().item() == pytest.approx(p, abs=0.004)
    assert y.mean().item() == pytest.approx(1, abs=0.03)
    assert y.unique().numel() == 2
    by_byte = (y.flatten()[:400_000].view(-1, 8) == 0).float().mean(dim=0)  # every byte of a random word is fair
    assert torch.allclose(by_byte, torch.full((8,), p), atol=0.01)


def test_dropout_is_ruled_by_the_seed_and_its_gradient_by_its_mask():
    x = torch.ones(50, 7, requires_grad=True)
    drop = Dropout(0.5)
    torch.manual_seed(3)
    first = drop(x)
    torch.manual_seed(3)
    second = drop(x)
    assert torch.equal(first, second)
    assert not torch.equal(first, drop(x))
    first.sum().backward()
    assert torch.equal(x.grad, first.detach())


def test_dropout_is_the_identity_in_eval_mode_and_at_rate_zero():
    x = torch.randn(5, 3)
    assert Dropout(0.5).eval()(x) is x
    assert Dropout(0.0)(x) is x


@pytest.mark.parametrize("p", [-0.1, 1.0])
def test_dropout_rejects_an_impossible_rate(p):
    with pytest.raises(ValueError, match="at least 0 and below 1"):
        Dropout(p)


def test_an_mlp_has_the_widths_it_was_given():
    assert MLP(5, (7, 3))(torch.zeros(2, 5)).shape == (2, 3)
    assert MLP(5, ())(torch.ones(2, 5)).shape == (2, 5)


def _plain_heads(towers, z, widths, hidden):
    """The same heads, one linear layer at a time; z is (T, B, d)."""
    outputs = []
    for t, width in enumerate(widths):
        own = z[t]
        if hidden:
            own = F.relu(F.linear(own, towers.hidden.weight[t].T, towers.hidden.bias[t]))
        group = sorted(set(widths)).index(width)
        position = [u for u, w in enumerate(widths) if w == width].index(t)
        layer = towers.out[group]
        outputs.append(F.linear(own, layer.weight[position].T, layer.bias[position]))
    return outputs


@pytest.mark.parametrize("widths", [(1,), (1, 1, 1), (1, 5, 1, 3, 5)])
@pytest.mark.parametrize("hidden", [64, 0, None])
def test_batched_heads_equal_one_module_per_task(widths, hidden):
    towers = Towers(16, widths, hidden=hidden)
    n_parameters = sum(p.numel() for p in towers.parameters())
    g = hidden or 16
    assert n_parameters == sum((16 * g + g if hidden else 0) + g * w + w for w in widths)
    own, shared = torch.randn(7, len(widths), 16), torch.randn(7, 16)
    for z, plain in ((own, own.transpose(0, 1)), (shared, [shared] * len(widths))):
        for ours, expected in zip(towers(z), _plain_heads(towers, plain, widths, hidden), strict=True):
            torch.testing.assert_close(ours, expected)


@pytest.mark.parametrize("hidden", [32, 0])
def test_heads_gathered_by_task_equal_the_own_tasks_of_all_heads(hidden):
    towers = Towers(8, [3] * 4, hidden=hidden)
    z, task = torch.randn(9, 8), torch.randint(4, (9,))
    (own,) = towers(z, RowOwners(task, 4))
    torch.testing.assert_close(own, torch.stack(towers(z))[task, torch.arange(9)])


def test_a_task_linear_gives_gradients_to_the_tasks_of_its_rows_only():
    layer = TaskLinear(3, 4, 2)
    layer(torch.randn(5, 4), RowOwners(torch.tensor([0, 2, 2, 0, 0]), 3)).sum().backward()
    assert layer.weight.grad[1].count_nonzero() == 0
    assert layer.bias.grad[:, 0].tolist() == [3.0, 0.0, 2.0]
