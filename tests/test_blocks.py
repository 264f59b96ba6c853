"""Dropout masks, tokens, and batched heads against the plain modules they stand for."""

import pytest
import torch
from torch.nn import functional as F

from tabmtl.blocks import MLP, CategoricalEmbedding, Dropout, FeatureTokenizer, TaskLinear, Towers, fill_missing
from tabmtl.schema import Columns

NAN = float("nan")


@pytest.fixture(autouse=True)
def _seed():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def _columns(cardinalities=(3, 10_000), has_missing=(False, True, False)):
    return Columns(
        numeric=tuple(f"x{j}" for j in range(len(has_missing))),
        categorical=tuple(f"c{j}" for j in range(len(cardinalities))),
        levels=tuple(tuple(map(str, range(c))) for c in cardinalities),
        has_missing=tuple(has_missing),
        bins=tuple((-2.0, -0.5, 0.0, 2.0)[: 4 - (j == 0)] for j in range(len(has_missing))),
    )


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


def test_one_table_serves_all_categorical_columns():
    columns = _columns((2, 5))
    embedding = CategoricalEmbedding(columns, 4)
    assert embedding.table.weight.shape == (4 + 7, 4)
    tokens = embedding(torch.tensor([[0, 0], [3, 6]], dtype=torch.int32))
    assert torch.equal(tokens[0], embedding.table.weight[[0, 4]])
    assert torch.equal(tokens[1], embedding.table.weight[[3, 10]])


def test_missing_numbers_become_zero_and_a_flag():
    values, missing = fill_missing(torch.tensor([[1.5, NAN], [NAN, -2.0]]))
    assert values.tolist() == [[1.5, 0.0], [0.0, -2.0]]
    assert missing.tolist() == [[0.0, 1.0], [1.0, 0.0]]


@pytest.mark.parametrize("kind", ["linear", "piecewise", "periodic"])
def test_only_columns_with_missing_values_learn_a_vector_for_them(kind):
    tokenizer = FeatureTokenizer(_columns(), 8, numeric_embedding=kind)
    assert tokenizer.missing.shape == (1, 8)
    torch.nn.init.normal_(tokenizer.missing)
    codes = torch.zeros(2, 2, dtype=torch.int32)
    at_zero = tokenizer(torch.zeros(2, 3), codes)
    absent = tokenizer(torch.full((2, 3), NAN), codes)
    assert at_zero.shape == (2, 5, 8)
    assert torch.equal(absent[:, [2, 4]], at_zero[:, [2, 4]])
    assert torch.allclose(absent[:, 3], at_zero[:, 3] + tokenizer.missing[0])


def test_linear_tokens_are_an_affine_map_per_column_after_the_categorical_ones():
    tokenizer = FeatureTokenizer(_columns(has_missing=(False, False)), 4)
    assert tokenizer.missing is None
    x = torch.randn(6, 2)
    tokens = tokenizer(x, torch.ones(6, 2, dtype=torch.int32))
    assert torch.allclose(tokens[:, 2:], x[:, :, None] * tokenizer.numeric.weight + tokenizer.numeric.bias)


def test_a_tokenizer_needs_a_column_and_a_known_embedding():
    with pytest.raises(ValueError, match="at least one feature"):
        FeatureTokenizer(_columns((), ()), 4)
    with pytest.raises(ValueError, match="'linear', 'piecewise' or 'periodic', got 'cubic'"):
        FeatureTokenizer(_columns(), 4, numeric_embedding="cubic")


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
    (own,) = towers(z, task)
    torch.testing.assert_close(own, torch.stack(towers(z))[task, torch.arange(9)])


def test_a_task_linear_gives_gradients_to_the_tasks_of_its_rows_only():
    layer = TaskLinear(3, 4, 2)
    layer(torch.randn(5, 4), torch.tensor([0, 2, 2, 0, 0])).sum().backward()
    assert layer.weight.grad[1].count_nonzero() == 0
    assert layer.bias.grad[:, 0].tolist() == [3.0, 0.0, 2.0]
