"""Sessions to queries: one causal pass serves all prefixes, and what is behind the end of a session says nothing."""

from __future__ import annotations

from itertools import product
from typing import Any, get_args

import pytest
import torch

from tabmtl.sessions import M2TRec
from tabmtl.sessions.m2trec.encoder import Pooling, SessionEncoder, unit_length

POOLINGS = get_args(Pooling)
every_form = pytest.mark.parametrize(("pooling", "n_layers"), list(product(POOLINGS, (1, 2))))


class Queries(SessionEncoder):
    """An encoder that gives its queries only."""

    def __init__(self, options: M2TRec) -> None:
        super().__init__(options.d_model, options)

    def forward(self, *args: Any, **options: Any) -> torch.Tensor:  # type: ignore[override]
        return super().forward(*args, **options)[0]


def options_of(**options: Any) -> M2TRec:
    return M2TRec(**{"d_model": 8, "n_heads": 2, "max_length": 9, "dropout": 0.3} | options)


def make(pooling: str = "items", n_layers: int = 1, **options: Any) -> SessionEncoder:
    """An encoder whose biases by distance are not 0 any more."""
    torch.manual_seed(0)
    encoder = Queries(options_of(pooling=pooling, n_layers=n_layers, **options))
    for parameter in encoder.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return encoder.eval()


def clicks(n: int, length: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(n, length, 8, generator=torch.Generator().manual_seed(seed))


def lengths_of(*lengths: int) -> torch.Tensor:
    return torch.tensor(lengths)


def assert_equal(first: torch.Tensor, second: torch.Tensor) -> None:
    torch.testing.assert_close(first, second, rtol=1e-4, atol=1e-5)


@every_form
def test_one_pass_gives_the_query_and_the_summary_of_every_prefix(pooling, n_layers):
    encoder, items, lengths = make(pooling, n_layers), clicks(3, 6), lengths_of(6, 4, 1)
    found = SessionEncoder.forward(encoder, items, lengths, all_prefixes=True)
    assert [part.shape for part in found] == [(3, 6, 8), (3, 6, encoder.width)]
    for row, n in enumerate(lengths.tolist()):
        for gone in range(n):
            alone = SessionEncoder.forward(encoder, items[row : row + 1, gone:n], lengths_of(n - gone))
            for part, own in zip(found, alone, strict=True):
                assert_equal(part[row, gone], own[0])
    if pooling not in {"items", "undirected"}:
        assert_equal(encoder(items, lengths), encoder.out(SessionEncoder.forward(encoder, items, lengths)[1]))


@every_form
def test_what_is_behind_the_end_says_nothing(pooling, n_layers):
    encoder, items, lengths = make(pooling, n_layers), clicks(3, 7), lengths_of(7, 3, 1)
    inside = torch.arange(7) < lengths[:, None]
    other = items.where(inside[..., None], 100 * clicks(3, 7, seed=2))
    assert torch.equal(encoder(items, lengths), encoder(other, lengths))
    first, second = (encoder(x, lengths, all_prefixes=True)[inside] for x in (items, other))
    assert torch.equal(first, second)
    for row, n in enumerate(lengths.tolist()):
        assert_equal(encoder(items, lengths)[row], encoder(items[row : row + 1, :n], lengths_of(n))[0])
    assert torch.isfinite(encoder(other, lengths, all_prefixes=True)).all()


@every_form
def test_the_order_of_clicks_matters(pooling, n_layers):
    encoder, items = make(pooling, n_layers), clicks(1, 5)
    turned = items[:, [0, 2, 1, 3, 4]]  # the last click stays the last
    difference = (encoder(items, lengths_of(5)) - encoder(turned, lengths_of(5))).abs().max()
    # one layer that is read at the last click only knows the others by their distance
    assert difference > 1e-3


def test_without_biases_by_distance_the_older_clicks_are_a_set():
    encoder, items = make("last"), clicks(1, 5)
    torch.nn.init.zeros_(encoder.bias)
    turned = items[:, [0, 2, 1, 4, 3]]
    assert_equal(encoder(items, lengths_of(5)), encoder(turned, lengths_of(5)))


def test_distance_counts_from_the_click_that_looks():
    """The bias of distance 3 is felt by prefixes of four clicks and more only."""
    encoder, items = make("last"), clicks(1, 6)
    before = encoder(items, lengths_of(6), all_prefixes=True)[0]
    with torch.no_grad():
        encoder.bias[:, :, 3] += 1
    changed = (encoder(items, lengths_of(6), all_prefixes=True)[0] - before).abs().amax(dim=1) > 1e-4
    assert changed.tolist() == [True, True, True, False, False, False]


def test_pooled_items_are_a_weighted_mean_of_the_items():
    encoder, items = make(pooling="undirected"), clicks(1, 4)
    torch.nn.init.zeros_(encoder.weigh.weight)
    torch.nn.init.zeros_(encoder.weigh_distance)
    assert_equal(encoder(items, lengths_of(3)), items[:, :3].mean(dim=1))
    with torch.no_grad():
        encoder.weigh_distance[1] = 30.0  # the last click but one, and nothing else
    assert_equal(encoder(items, lengths_of(3)), items[:, 1])


@pytest.mark.parametrize("pooling", ["items", "undirected"])
def test_pooled_items_begin_in_the_space_of_the_items(pooling):
    encoder = Queries(options_of(pooling=pooling, dropout=0.0))
    same = clicks(1, 1).expand(1, 6, 8)
    assert_equal(encoder(same, lengths_of(6)), same[:, 0])


def without_path(encoder: SessionEncoder) -> SessionEncoder:
    plain = Queries(options_of(pooling="undirected")).eval()
    plain.load_state_dict({name: value for name, value in encoder.state_dict().items() if name != "direct.weight"})
    return plain


def test_the_directed_path_adds_a_map_of_the_last_state():
    encoder, items, lengths = make(), clicks(3, 5), lengths_of(5, 3, 1)
    assert encoder.direct is not None
    anchor = without_path(encoder)(items, lengths)
    _, states = SessionEncoder.forward(encoder, items, lengths)
    path = states @ encoder.direct.weight.T
    for strength in (1.0, 0.5):
        encoder.strength = strength
        assert_equal(encoder(items, lengths), anchor + strength * path)
    encoder.strength = 0.0
    assert torch.equal(encoder(items, lengths), anchor)
    encoder.strength = 1.0
    encoder.scale_direct(0.25)  # for good
    assert_equal(encoder(items, lengths), anchor + 0.25 * path)
    with pytest.raises(RuntimeError, match=r"direct\.weight"):
        Queries(options_of(pooling="mean")).load_state_dict(encoder.state_dict())


def test_training_leaves_the_path_out_of_half_of_the_queries_whatever_its_strength():
    encoder, items = make(dropout=0.0), clicks(200, 5)
    lengths = torch.full((200,), 5)
    with_path, anchor = (
        encoder(items, lengths, all_prefixes=True),
        without_path(encoder)(items, lengths, all_prefixes=True),
    )
    encoder.strength = 0.0
    queries = encoder.train()(items, lengths, all_prefixes=True)
    left_out = torch.isclose(queries, anchor, rtol=1e-4, atol=1e-5).all(dim=-1)
    assert torch.isclose(queries, with_path, rtol=1e-4, atol=1e-5).all(dim=-1)[~left_out].all()
    assert 0.45 < left_out.float().mean() < 0.55


def test_the_mean_is_over_the_states_of_the_session():
    encoder, items = make("mean"), clicks(2, 5)
    lengths = lengths_of(5, 2)
    states: list[torch.Tensor] = []
    encoder.norm.register_forward_hook(lambda module, args, output: states.append(output))
    queries = encoder(items, lengths)
    expected = torch.stack([states[0][0].mean(dim=0), states[0][1, :2].mean(dim=0)])
    assert_equal(queries, encoder.out(expected))


def test_dropout_is_of_training_only():
    encoder, items = make(), clicks(2, 5)
    assert torch.equal(encoder(items, lengths_of(5, 3)), encoder(items, lengths_of(5, 3)))
    encoder.train()
    assert not torch.equal(encoder(items, lengths_of(5, 3)), encoder(items, lengths_of(5, 3)))


def test_unit_length():
    vectors = torch.tensor([[3.0, 4.0], [0.0, 0.0]], dtype=torch.bfloat16)
    found = unit_length(vectors)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, torch.tensor([[0.6, 0.8], [0.0, 0.0]]))


def test_a_prefix_of_its_own_is_read_both_ways():
    encoder, lengths = make("mean", training="per_prefix"), lengths_of(5, 3)
    items = clicks(2, 5).requires_grad_()
    states: list[torch.Tensor] = []
    encoder.norm.register_forward_hook(lambda module, args, output: states.append(output))
    encoder(items, lengths)
    states[0][0, 4].sum().backward()  # of the oldest click
    assert items.grad is not None
    assert (items.grad[0].abs().sum(dim=1) > 0).all()
    assert not items.grad[1].any()
    other = items.detach().clone()
    other[1, 3:] = 100.0  # behind the end
    assert_equal(encoder(items, lengths), encoder(other, lengths))
    turned = items.detach().flip(1)
    assert (encoder(turned, lengths)[0] - encoder(items, lengths)[0]).abs().max() > 1e-3  # the order matters
