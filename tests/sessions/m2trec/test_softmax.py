"""The softmax over items: autograd's numbers in blocks that nobody sees, and samples that are right on average."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from tabmtl.sessions.m2trec import softmax
from tabmtl.sessions.m2trec.softmax import Candidates, count_held, own_places, softmax_loss

N_ROWS, N_CANDIDATES, N_OWN, WIDTH = 37, 50, 4, 6


Drawn = tuple[Tensor, Tensor, Tensor, Tensor]


def draw(seed: int = 0, scale: float = 1.0, least: int = 0) -> Drawn:
    """Queries, vectors, corrections, and items of their sessions, from ``least`` on."""
    generator = torch.Generator().manual_seed(seed)
    queries = scale * torch.randn(N_ROWS, WIDTH, generator=generator)
    vectors = torch.randn(N_CANDIDATES, WIDTH, generator=generator)
    correction = 3 * torch.rand(N_CANDIDATES, generator=generator)
    places = torch.randint(least, 9, (N_ROWS, N_OWN), generator=generator)  # of few, so that many come twice
    return queries, vectors, correction, places


def by_autograd(queries: Tensor, vectors: Tensor, correction: Tensor, own: Tensor) -> list[Tensor]:
    """Loss and gradients in float64."""
    q, v = (x.double().requires_grad_() for x in (queries, vectors))
    strange = 1 - F.one_hot(own, len(v)).amax(dim=1)
    loss = F.cross_entropy(q @ v.T + strange * correction.double(), own[:, 0])
    return [loss.detach(), *torch.autograd.grad(loss, (q, v))]


def by_softmax_loss(
    queries: Tensor, vectors: Tensor, correction: Tensor, own: Tensor, *, bfloat16: bool = False
) -> list[Tensor]:
    """Loss and gradients; what is behind the loss scales them."""
    q, v = (x.clone().requires_grad_() for x in (queries, vectors))
    loss = softmax_loss(q, v, correction, own, torch.ones(len(q)), bfloat16=bfloat16)
    return [loss.detach(), *(gradient / 3 for gradient in torch.autograd.grad(3 * loss, (q, v)))]


@pytest.mark.parametrize("corrected", [False, True], ids=["full", "sampled"])
@pytest.mark.parametrize("scale", [0.0, 1.0, 30.0])
def test_loss_and_gradients_are_autograds(corrected, scale):
    queries, vectors, correction, own = draw(scale=scale)
    correction = correction if corrected else torch.zeros_like(correction)
    for found, expected in zip(
        by_softmax_loss(queries, vectors, correction, own),
        by_autograd(queries, vectors, correction, own),
        strict=True,
    ):
        assert found.dtype == torch.float32
        torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("n_bytes", [1, 4 * N_CANDIDATES * 5, 4 * N_CANDIDATES * N_ROWS, 10**9])
def test_blocks_are_invisible(n_bytes, monkeypatch):
    whole = by_softmax_loss(*draw())
    monkeypatch.setattr(softmax, "_BLOCK_BYTES", n_bytes)
    for found, expected in zip(by_softmax_loss(*draw()), whole, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


def test_bfloat16_products_are_near():
    for found, expected in zip(by_softmax_loss(*draw(), bfloat16=True), by_autograd(*draw()), strict=True):
        assert found.dtype == torch.float32
        torch.testing.assert_close(found.double(), expected, rtol=0.05, atol=0.01)


def test_a_target_of_weight_n_counts_n_times():
    queries, vectors, correction, own = draw()
    weights = torch.arange(N_ROWS) % 4
    rows = torch.arange(N_ROWS).repeat_interleave(weights)
    loss, grad_q, grad_v = by_softmax_loss(queries[rows], vectors, correction, own[rows])
    q, v = (x.clone().requires_grad_() for x in (queries, vectors))
    weighted = softmax_loss(q, v, correction, own, weights / weights.float().mean(), bfloat16=False)
    torch.testing.assert_close(weighted.detach(), loss)
    expected = torch.zeros_like(queries).index_add_(0, rows, grad_q), grad_v
    for one, other in zip(torch.autograd.grad(weighted, (q, v)), expected, strict=True):
        torch.testing.assert_close(one, other)


def test_what_is_no_candidate_takes_no_part():
    queries, vectors, correction, own = draw(least=1)
    correction[0] = -torch.inf
    loss, grad_q, grad_v = by_softmax_loss(queries, vectors, correction, own)
    without = by_softmax_loss(queries, vectors[1:], correction[1:], own - 1)
    assert (grad_v[0] == 0).all()
    for found, expected in zip((loss, grad_q, grad_v[1:]), without, strict=True):
        torch.testing.assert_close(found, expected)


def test_own_items_are_those_of_the_session_and_the_target_comes_first():
    """Two sessions, 5 6 5 | 8 and 7 | 9, newest first, whose every click predicts the next."""
    clicks, counts = torch.tensor([[5, 6, 5], [7, 0, 0]]), torch.tensor([3, 1])
    own = own_places(torch.tensor([8, 5, 6, 9]), clicks, counts)
    assert own.tolist() == [[8, 8, 5, 6, 5], [5, 8, 5, 6, 5], [6, 8, 5, 6, 5], [9, 9, 7, 9, 9]]
    # where only the last click predicts
    own = own_places(torch.tensor([6, 9]), torch.tensor([[5, 6], [7, 0]]), torch.tensor([1, 1]))
    assert own.tolist() == [[6, 6, 5, 6], [9, 9, 7, 9]]


def test_a_unit_is_held_once_a_session():
    assert count_held(torch.tensor([[8, 5, 6, 5], [9, 7, 0, 0], [7, 7, 7, 0]])) == 3 + 2 + 1
    assert count_held(torch.zeros(0, 3, dtype=torch.long)) == 0


COUNTS = torch.tensor([0, 60, 5, 1, 0, 30, 2, 2, 90, 10])
CLICKED = COUNTS.nonzero()[:, 0]


def check_draw(units: Tensor, place: Tensor, correction: Tensor, clicked: Tensor) -> None:
    """Sorted units that were clicked, between units 0, which are no candidates."""
    n = 1 + int(torch.count_nonzero(units))
    assert units[:n].tolist() == sorted(set(units.tolist()))
    assert set(units.tolist()) <= {0, *CLICKED.tolist()}
    assert units[place].tolist() == clicked.tolist()
    assert correction[0] == -torch.inf
    assert units[0] == 0
    assert (correction[1:n] >= 0).all()
    assert correction[n:].isneginf().all()


def test_all_clicked_units_compete_where_none_is_drawn():
    clicked = torch.tensor([8, 1, 0, 1, 3])
    for n in (None, 8, 500):
        units, place, correction = Candidates(COUNTS, n).draw(clicked, 4)
        check_draw(units, place, correction, clicked)
        assert units[1:].tolist() == CLICKED.tolist()
        assert correction[1:].tolist() == [0] * 8


def test_a_sample_holds_what_is_clicked_and_no_unit_twice():
    torch.manual_seed(0)
    candidates, clicked, sizes = Candidates(COUNTS, 6), torch.tensor([8, 1, 0, 1, 3]), set()
    for _ in range(50):
        units, place, correction = candidates.draw(clicked, 4)
        check_draw(units, place, correction, clicked)
        sizes.add(int(torch.count_nonzero(units)))
    assert {4, 5} <= sizes <= {3, 4, 5}  # for 4 clicks on 3 units, 2 are drawn, among them perhaps the same


def test_nothing_is_drawn_where_a_step_has_clicks_enough():
    clicked = torch.tensor([8, 1, 5, 3])
    units, place, correction = Candidates(COUNTS, 4).draw(clicked, 4)
    check_draw(units, place, correction, clicked)
    assert units[:5].tolist() == [0, 1, 3, 5, 8]
    assert len(units) == 512


@pytest.mark.parametrize(("n", "n_clicks"), [(7, 4), (1, 12), (7, 1)])
def test_a_unit_takes_part_as_often_as_its_correction_says(n, n_clicks):
    torch.manual_seed(1)
    candidates, draws = Candidates(COUNTS, n), 4000
    seen, share = torch.zeros(len(COUNTS)), torch.zeros(len(COUNTS))
    for _ in range(draws):
        units, _, correction = candidates.draw(torch.multinomial(COUNTS.double(), n_clicks, replacement=True), n_clicks)
        seen[units[units > 0]] += 1
        share[units] = torch.exp(-correction)
    share[0] = 0
    error = torch.sqrt(share * (1 - share) / draws)
    assert ((seen / draws - share).abs() <= 4.5 * error + 1e-6).all()
