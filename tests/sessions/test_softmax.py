"""The softmax over items: autograd's numbers in blocks that nobody sees, and samples that are right on average."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from tabmtl.sessions import softmax
from tabmtl.sessions.softmax import Candidates, softmax_loss

N_ROWS, N_CANDIDATES, WIDTH = 37, 50, 6


def draw(seed: int = 0, scale: float = 1.0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Queries, vectors, corrections and targets."""
    generator = torch.Generator().manual_seed(seed)
    queries = scale * torch.randn(N_ROWS, WIDTH, generator=generator)
    vectors = torch.randn(N_CANDIDATES, WIDTH, generator=generator)
    correction = 3 * torch.rand(N_CANDIDATES, generator=generator)
    target = torch.randint(N_CANDIDATES, (N_ROWS,), generator=generator)
    return queries, vectors, correction, target


def by_autograd(queries: Tensor, vectors: Tensor, correction: Tensor, target: Tensor) -> tuple[Tensor, ...]:
    """Loss and both gradients in float64."""
    q, v = (x.double().requires_grad_() for x in (queries, vectors))
    logits = q @ v.T + correction.double()
    logits = logits - F.one_hot(target, len(v)) * correction.double()
    loss = F.cross_entropy(logits, target)
    return loss.detach(), *torch.autograd.grad(loss, (q, v))


def by_softmax_loss(
    queries: Tensor, vectors: Tensor, correction: Tensor, target: Tensor, *, low: bool = False, times: float = 1.0
) -> tuple[Tensor, ...]:
    q, v = (x.clone().requires_grad_() for x in (queries, vectors))
    loss = softmax_loss(q, v, correction, target, low=low)
    return loss.detach(), *torch.autograd.grad(times * loss, (q, v))


@pytest.mark.parametrize("corrected", [False, True], ids=["full", "sampled"])
@pytest.mark.parametrize("scale", [0.0, 1.0, 30.0])
def test_loss_and_gradients_are_autograds(corrected: bool, scale: float) -> None:
    queries, vectors, correction, target = draw(scale=scale)
    correction = correction if corrected else torch.zeros_like(correction)
    for found, expected in zip(
        by_softmax_loss(queries, vectors, correction, target),
        by_autograd(queries, vectors, correction, target),
        strict=True,
    ):
        assert found.dtype == torch.float32
        torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("n_bytes", [1, 4 * N_CANDIDATES * 5, 4 * N_CANDIDATES * N_ROWS, 10**9])
def test_blocks_are_invisible(n_bytes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = by_softmax_loss(*draw())
    monkeypatch.setattr(softmax, "_BLOCK_BYTES", n_bytes)
    for found, expected in zip(by_softmax_loss(*draw()), whole, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


def test_gradients_are_scaled_by_what_is_behind_the_loss() -> None:
    _, *once = by_softmax_loss(*draw())
    _, *thrice = by_softmax_loss(*draw(), times=3.0)
    for single, tripled in zip(once, thrice, strict=True):
        torch.testing.assert_close(3 * single, tripled)


def test_bfloat16_products_are_near() -> None:
    for found, expected in zip(by_softmax_loss(*draw(), low=True), by_autograd(*draw()), strict=True):
        assert found.dtype == torch.float32
        torch.testing.assert_close(found.double(), expected, rtol=0.05, atol=0.01)


def test_the_targets_own_correction_is_not_added() -> None:
    queries, vectors, correction, _ = draw()
    target = torch.full((N_ROWS,), 7)
    loss = by_softmax_loss(queries, vectors, correction, target)[0]
    correction[7] += 5
    assert by_softmax_loss(queries, vectors, correction, target)[0] == loss
    correction[8] += 5
    assert by_softmax_loss(queries, vectors, correction, target)[0] > loss


COUNTS = torch.tensor([0, 60, 5, 1, 0, 30, 2, 2, 90, 10])
CLICKED = COUNTS.nonzero()[:, 0]


def test_all_clicked_units_compete_where_none_is_drawn() -> None:
    targets = torch.tensor([8, 1, 1, 3])
    for n in (None, 8, 500):
        units, place, correction = Candidates(COUNTS, COUNTS, n).draw(targets)
        assert units.tolist() == CLICKED.tolist()
        assert units[place].tolist() == targets.tolist()
        assert correction.tolist() == [0] * 8


def test_a_sample_holds_its_targets_and_no_unit_twice() -> None:
    torch.manual_seed(0)
    candidates, targets = Candidates(COUNTS, COUNTS, 3), torch.tensor([8, 1, 1, 3])
    sizes = set()
    for _ in range(50):
        units, place, correction = candidates.draw(targets)
        assert units.tolist() == sorted(set(units.tolist()))
        assert set(units.tolist()) <= set(CLICKED.tolist())
        assert units[place].tolist() == targets.tolist()
        assert (correction >= 0).all()
        sizes.add(len(units))
    assert {4, 5, 6} <= sizes <= {3, 4, 5, 6}


@pytest.mark.parametrize(("n", "n_targets"), [(3, 4), (1, 12), (6, 1)])
def test_a_unit_takes_part_as_often_as_its_correction_says(n: int, n_targets: int) -> None:
    torch.manual_seed(1)
    candidates, draws = Candidates(COUNTS, COUNTS, n), 4000
    seen, share = torch.zeros(len(COUNTS)), torch.zeros(len(COUNTS))
    for _ in range(draws):
        units, _, correction = candidates.draw(torch.multinomial(COUNTS.double(), n_targets, replacement=True))
        seen[units] += 1
        share[units] = torch.exp(-correction)
    error = torch.sqrt(share * (1 - share) / draws)
    assert ((seen / draws - share).abs() <= 4.5 * error + 1e-6).all()


def test_the_corrected_sum_is_right_on_average() -> None:
    """The logQ correction, against the sum over all units within 4.5 standard errors."""
    torch.manual_seed(2)
    z = torch.randn(len(COUNTS)).double()
    full = torch.exp(z[CLICKED]).sum()
    candidates, sums = Candidates(COUNTS, COUNTS, 3), []
    for _ in range(4000):
        units, _, correction = candidates.draw(torch.multinomial(COUNTS.double(), 4, replacement=True))
        sums.append(torch.exp(z[units] + correction).sum())
    found = torch.stack(sums)
    error = found.std() / len(sums) ** 0.5
    assert error < 0.03 * full
    assert abs(found.mean() - full) < 4.5 * error


def test_the_sampled_gradient_is_near_the_full_one_on_average() -> None:
    """Of a log of a sum, the average is right only in the limit: most units are drawn here."""
    torch.manual_seed(3)
    counts = torch.randint(1, 50, (200,))
    generator = torch.Generator().manual_seed(4)
    queries, vectors = torch.randn(64, WIDTH, generator=generator), torch.randn(200, WIDTH, generator=generator)
    target = torch.multinomial(counts.double(), 64, replacement=True)
    full = by_softmax_loss(queries, vectors, torch.zeros(200), target)
    candidates, mean = Candidates(counts, counts, 120), torch.zeros_like(full[1])
    for _ in range(100):
        units, place, correction = candidates.draw(target)
        mean += by_softmax_loss(queries, vectors[units], correction, place)[1] / 100
    # these targets are one draw of theirs, and corrections are for all draws: a rest stays
    assert F.cosine_similarity(mean.flatten(), full[1].flatten(), dim=0) > 0.98
