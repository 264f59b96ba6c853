"""The logit of own items is that of the full softmax, and is kept only where it gains clearly."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from recommenders import sessions_of
from scipy.optimize import minimize

from tabmtl.sessions import ranking, repeats
from tabmtl.sessions.ragged import Sessions
from tabmtl.sessions.ranking import rank_targets
from tabmtl.sessions.repeats import Choices, RepeatWeights, learn_weights, read_targets

N_ITEMS = 120
NAMES = ("scale", "seen", "last", "trust")
START = [1.0, 0.0, 0.0, 1.0]
Scorer = Callable[[Sessions], np.ndarray]


def log_shares(sessions: Sessions) -> np.ndarray:
    """A law that knows the last click; a tenth of the items, others for each, is not found."""
    rng = np.random.default_rng(7)
    table = rng.normal(scale=2.5, size=(N_ITEMS + 1, N_ITEMS))
    table[rng.random(table.shape) < 0.1] = -np.inf
    scores = table[sessions.last_items()]
    return (scores - np.log(np.exp(scores).sum(axis=1, keepdims=True))).astype(np.float32)


def draw(weights: RepeatWeights, n_sessions: int, seed: int = 0) -> Sessions:
    """Sessions whose clicks follow the law, weighed."""
    rng = np.random.default_rng(seed)
    drawn: list[list[int]] = []
    for length in rng.integers(2, 9, n_sessions):
        session = [int(rng.integers(1, N_ITEMS + 1))]
        while len(session) < length:
            read = sessions_of(session)
            utilities = weights.weigh(log_shares(read), read, log_scale=True)[0].astype(float)
            shares = np.exp(utilities - utilities.max())
            session.append(1 + int(rng.choice(N_ITEMS, p=shares / shares.sum())))
        drawn.append(session)
    return sessions_of(*drawn)


def choices_of(sessions: Sessions, scorer: Scorer = log_shares) -> Choices:
    return Choices.of(sessions, N_ITEMS, scorer, lambda some: some)


def full_likelihoods(sessions: Sessions, numbers: Any) -> np.ndarray:
    """Log softmax of the targets that were found, over all items at once."""
    prefixes, targets = sessions.prefixes()
    weights = RepeatWeights(**dict(zip(NAMES, numbers, strict=True)))
    utilities = weights.weigh(log_shares(prefixes).astype(float), prefixes, log_scale=True)
    largest = utilities.max(axis=1)
    totals = np.log(np.exp(utilities - largest[:, None]).sum(axis=1)) + largest
    found = utilities[np.arange(len(targets)), targets - 1] - totals
    return found[np.isfinite(found)]


@pytest.fixture(scope="module")
def log() -> Sessions:
    return draw(RepeatWeights(scale=0.7, seen=3.0, last=-1.5), 300)


@pytest.mark.parametrize(
    "numbers", [(1, 0, 0, 1), (0.1, -1, 2, 0.5), (0.35, 1, -4, 0.01), (2.5, -8, 3, 0.2), (4, 2, 1, 1)]
)
def test_likelihoods_are_those_of_all_items(log, numbers):
    weights = RepeatWeights(**dict(zip(NAMES, numbers, strict=True)))
    found = choices_of(log).log_likelihoods(weights)
    np.testing.assert_allclose(found, full_likelihoods(log, numbers), atol=0.02)
    assert abs(found.mean() - full_likelihoods(log, numbers).mean()) < 2e-3


@pytest.mark.parametrize("n_free", [1, 2, 3, 4])
def test_weights_are_those_of_a_general_optimiser_over_all_items(log, n_free):
    def loss(free):
        numbers = np.concatenate([free, START[n_free:]])
        away = [np.log(numbers[0]), *numbers[1:3], 1 - numbers[3]]
        return np.square(away).sum() / 2 - full_likelihoods(log, numbers).sum()

    bounds = [(0.1, 4), (-9, 9), (-9, 9), (0.01, 1)][:n_free]
    expected = minimize(loss, START[:n_free], method="L-BFGS-B", bounds=bounds).x
    choices = choices_of(log)
    found = choices.fit(n_free, np.ones(len(choices), dtype=bool))
    numbers = [found.scale, found.seen, found.last, found.trust]
    np.testing.assert_allclose(numbers[:n_free], expected, atol=1e-2)
    assert numbers[n_free:] == START[n_free:]


def test_reciprocal_ranks_are_those_of_all_scores_with_ties_against_the_target(log):
    def coarse(sessions):
        return np.round(log_shares(sessions))

    prefixes, targets = log.prefixes()
    for weights in (RepeatWeights(), RepeatWeights(scale=0.5, last=-1.5), RepeatWeights(seen=-3.0)):
        scores = coarse(prefixes)
        found = np.isfinite(scores[np.arange(len(targets)), targets - 1])
        ranks = rank_targets(weights.weigh(scores, prefixes, log_scale=True), targets)[found]
        expected = np.where(ranks <= 20, 1 / ranks, 0)
        np.testing.assert_array_equal(choices_of(log, coarse).reciprocal_ranks(weights), expected)


@pytest.mark.all_faces
def test_what_was_learned_is_the_law_and_nothing_is_learned_where_nothing_is_to_be_learned(log):
    learned = learn_weights(choices_of(log))
    # about three standard errors of a fit on 1 200 clicks
    assert [learned.scale, learned.seen, learned.last] == pytest.approx([0.7, 3.0, -1.5], abs=0.35)
    assert learned.scale == pytest.approx(0.7, abs=0.06)
    assert learned.trust == 1
    gained = full_likelihoods(log, [learned.scale, learned.seen, learned.last, 1]) - full_likelihoods(log, START)
    assert gained.mean() > 0.1
    plain = [learn_weights(choices_of(draw(RepeatWeights(), 200, seed))) for seed in range(5)]
    assert sum(weights == RepeatWeights() for weights in plain) >= 4  # a rule of two errors errs at times


@pytest.mark.parametrize(("scale", "seen"), [(1.0, 2.0), (0.5, 0.0)])
def test_only_what_gains_is_kept(scale, seen):
    learned = learn_weights(choices_of(draw(RepeatWeights(scale=scale, seen=seen), 300)))
    assert learned.scale == pytest.approx(scale, rel=0.15)
    assert (learned.seen, learned.last) == (pytest.approx(seen, abs=0.2 * seen), 0)


def test_a_gain_of_likelihood_that_costs_mrr_is_not_taken(log, monkeypatch):
    choices = choices_of(log)
    monkeypatch.setattr(Choices, "reciprocal_ranks", lambda self, weights: self.session % 3 - 9.0 * abs(weights.seen))
    learned = learn_weights(choices)
    assert learned.scale != 1
    assert (learned.seen, learned.last) == (0, 0)


def test_few_clicks_or_sessions_teach_nothing(log):
    assert len(choices_of(log.take(np.arange(40)))) < repeats.LEAST_TARGETS
    assert learn_weights(choices_of(log.take(np.arange(40)))) == RepeatWeights()
    long = sessions_of(*np.split(np.tile(log.items[:900], 2), 18))
    assert len(choices_of(long)) > repeats.LEAST_TARGETS
    assert learn_weights(choices_of(long)) == RepeatWeights()


def test_blocks_are_invisible_and_many_clicks_are_spread(log, monkeypatch):
    weights = RepeatWeights(scale=0.8, seen=1.0, last=-1.0)
    whole = choices_of(log).log_likelihoods(weights)
    monkeypatch.setattr(ranking, "_BLOCK_BYTES", 7 * 4 * N_ITEMS)
    np.testing.assert_array_equal(choices_of(log).log_likelihoods(weights), whole)
    monkeypatch.setattr(repeats, "MOST_TARGETS", 400)
    fewer = choices_of(log)
    assert 300 < len(fewer) <= 400
    assert fewer.session[-1] > fewer.session[0]


def test_clicks_of_which_nothing_is_known_are_left_out():
    """An unknown target; a target that was not found; and sessions that hold all that was found, or nothing known."""

    def few(sessions):
        scores = np.full((len(sessions), N_ITEMS), -np.inf, dtype=np.float32)
        scores[:, :2] = np.log([0.75, 0.25])
        return scores

    sessions = sessions_of([1, 0], [1, 3], [2, 1, 2], [0, 2])
    choices = choices_of(sessions, few)
    assert choices.x == pytest.approx(np.log([0.75, 0.25, 0.25]))
    assert (choices.seen.tolist(), choices.last.tolist()) == ([0, 1, 0], [0, 0, 0])
    found = choices.log_likelihoods(RepeatWeights(seen=1.0, last=2.0))
    e = np.exp
    assert found == pytest.approx(
        np.log([0.75 / (0.75 + 0.25 * e(3)), 0.25 * e(1) / (0.25 * e(1) + 0.75 * e(3)), 0.25]), abs=1e-4
    )
    assert len(choices_of(sessions_of([5, 6], [7, 8]), few)) == 0
    assert learn_weights(choices_of(sessions_of([5, 6], [7, 8]), few)) == RepeatWeights()


def test_clicks_on_unknown_items_take_no_place_among_those_that_are_read(monkeypatch):
    monkeypatch.setattr(repeats, "MOST_TARGETS", 2)
    sessions = sessions_of([0, 0, 0, 7], [4], [5, 0, 8, 0], [6, 9])
    prefixes, places, session = read_targets(sessions)
    assert [part.tolist() for part in np.split(prefixes.items, prefixes.offsets[1:-1])] == [[0, 0, 0], [6]]
    assert (places.tolist(), session.tolist()) == ([6, 8], [0, 1])


@pytest.mark.parametrize("trust", [1.0, 0.4, 0.01])
def test_scores_that_are_no_logs_rank_alike_and_keep_their_sign(trust):
    weights = RepeatWeights(scale=0.5, seen=1.0, last=-3.0, trust=trust)
    sessions = sessions_of([1, 2], [3, 1, 3])
    shares = np.array([[4.0, 2.0, 1.0, -0.5], [1.0, 2.0, 0.0, -0.5]], dtype=np.float32)
    with np.errstate(divide="ignore", invalid="ignore"):
        logs = np.log(np.maximum(shares, 0))
    found = weights.weigh(shares.copy(), sessions, log_scale=False)
    assert found.dtype == np.float32
    if trust == 1:
        assert found[0] == pytest.approx([4 * np.exp(2), 2 * np.exp(-4), 1, -0.5])
        assert found[1] == pytest.approx([np.exp(2), 2, 0, -0.5])
    assert (found[:, 3] == -0.5).all()
    assert (found[0, 2], found[1, 1], found[1, 2]) == (1, 2, 0)
    expected = weights.weigh(logs, sessions, log_scale=True)
    positive = shares > 0
    np.testing.assert_allclose(0.5 * np.log(found[positive]), expected[positive], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("log_scale", [False, True])
def test_scores_keep_all_bits_where_nothing_was_learned(log_scale):
    scores = np.random.default_rng(0).normal(size=(50, N_ITEMS)).astype(np.float32)
    sessions = sessions_of(*([1 + row, 5, 1 + row, 0] for row in range(50)))
    assert (RepeatWeights().weigh(scores.copy(), sessions, log_scale=log_scale) == scores).all()


def test_without_trust_the_odds_of_own_items_are_those_that_were_learned():
    """However likely the scores make them, among each other by seen and last, among others by p to the scale."""
    scores = np.log(np.array([[0.9, 0.06, 0.03, 0.01], [0.01, 0.2, 0.39, 0.4]]))
    sessions = sessions_of([1, 2], [1, 2])
    found = RepeatWeights(scale=0.5, seen=-1.0, last=0.7, trust=1e-9).weigh(scores.copy(), sessions, log_scale=True)
    shares = np.exp(found)
    np.testing.assert_allclose(shares[:, 0] / shares[:, 2:].sum(axis=1), np.exp(-1))
    np.testing.assert_allclose(shares[:, 1] / shares[:, 2:].sum(axis=1), np.exp(-0.3))
    np.testing.assert_allclose(found[:, 2:], 0.5 * scores[:, 2:])


@pytest.mark.parametrize(
    "numbers",
    [{"scale": 0.0}, {"scale": -1.0}, {"seen": float("nan")}, {"last": float("inf")}, {"trust": 0.0}, {"trust": 1.1}],
)
def test_bad_weights_are_refused(numbers):
    with pytest.raises(ValueError, match="must be finite, scale above 0, and trust too and at most 1"):
        RepeatWeights(**numbers)
