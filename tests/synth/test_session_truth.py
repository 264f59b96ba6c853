"""The law of click sessions: against the formula written down again, against what is drawn, and as a ceiling."""

import math
from datetime import timedelta

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tabmtl.synth import make_sessions, session_world

TINY = {"n_categories": 3, "n_subcategories": 2, "n_brands": 3, "n_tags": 4, "cold_share": 0.25}


@pytest.fixture(scope="module")
def tiny():
    return make_sessions(3_000, 12, random_state=0, **TINY)


@pytest.fixture(scope="module")
def log():
    return make_sessions(4_000, 300, random_state=1)


def reference(truth, prefix, time, metadata_only=False):
    """The formula of ``make_sessions``, item by item, from the true metadata."""
    rows = list(truth.items.iter_rows(named=True))
    place = {row["item_id"]: j for j, row in enumerate(rows)}
    affinity, clicked = truth.affinities, [place[item] for item in prefix]
    own, weights = truth.told if metadata_only else truth.attraction, []
    for j, row in enumerate(rows):
        log = math.log(own[j])
        if clicked:
            last, first = rows[clicked[-1]], rows[clicked[0]]
            log += affinity["brand"] * (row["brand"] == last["brand"])
            log += affinity["first"] * (row["brand"] == first["brand"])
            log += affinity["subcategory"] * (row["subcategory"] == last["subcategory"])
            log -= affinity["price"] * abs(truth.level[j] - truth.level[clicked[-1]])
        weights.append(math.exp(log) if truth.births[j] <= time else 0.0)
    p = np.zeros(len(rows))
    for j, row in enumerate(rows):
        category = truth.categories.index(row["category"])
        total = sum(w for w, other in zip(weights, rows, strict=True) if other["category"] == row["category"])
        if not clicked:
            p[j] = truth.start[category] * weights[j] / total
            continue
        last = truth.categories.index(rows[clicked[-1]]["category"])
        p[j] = (1 - truth.repeat_rate) * truth.transitions[last, category] * weights[j] / total
        p[j] += truth.repeat_rate * clicked.count(j) / len(clicked)
    return p


def prefixes_of(clicks):
    """Every click but the first of its session, plainly: what was clicked before, the item and its time."""
    for (_,), part in clicks.sort("session_id", "time").group_by("session_id", maintain_order=True):
        items, times = part["item_id"].to_list(), part["time"].to_list()
        yield from ((items[:n], items[n], times[n]) for n in range(1, len(items)))


def z_scores(observed, expected, variance):
    """How many standard deviations counts are off, where they vary at all."""
    some = variance > 1
    np.testing.assert_allclose(observed[variance == 0], expected[variance == 0])
    return (observed - expected)[some] / np.sqrt(variance[some])


class TestNextProbabilities:
    @given(
        prefixes=st.lists(st.lists(st.integers(0, 11), max_size=5), min_size=1, max_size=4),
        share=st.floats(0, 1.1),
        metadata_only=st.booleans(),
    )
    def test_equal_the_formula(self, tiny, prefixes, share, metadata_only):
        truth = tiny.truth
        names = [[f"i{j:02}" for j in prefix] for prefix in prefixes]
        time = truth.begin + share * (truth.end - truth.begin)
        p = truth.next_probabilities(names, time, metadata_only=metadata_only)
        for row, prefix in zip(p, names, strict=True):
            np.testing.assert_allclose(row, reference(truth, prefix, time, metadata_only), atol=1e-12)

    @settings(max_examples=25)
    @given(
        n_items=st.integers(4, 40),
        options=st.fixed_dictionaries(
            {"n_categories": st.integers(1, 4), "cold_share": st.floats(0, 0.1)},
            optional={
                "stickiness": st.floats(0, 1),
                "skew": st.floats(0, 5),
                "idiosyncratic": st.floats(0, 5),
                "repeat_rate": st.floats(0, 1),
                "price_affinity": st.floats(0, 10),
                "brand_affinity": st.floats(0, 5),
                "n_brands": st.integers(1, 50),
                "n_tags": st.integers(1, 5),
            },
        ),
    )
    def test_sum_to_one_and_leave_out_what_is_not_born(self, n_items, options):
        log = make_sessions(20, n_items, random_state=0, **options)
        prefixes, _, times = zip(*prefixes_of(log.clicks), strict=True)
        p = log.truth.next_probabilities([*prefixes, []], [*times, log.cut - timedelta(seconds=1)])
        np.testing.assert_allclose(p.sum(1), 1)
        assert (p >= 0).all()
        unborn = log.births["birth"].to_numpy() > np.array([*times, log.cut], dtype="datetime64[us]")[:, None]
        assert (p[unborn] == 0).all()
        assert (p[-1] == 0).sum() >= len(log.cold)

    def test_times_may_be_one_many_or_a_series(self, tiny):
        many = [tiny.cut, tiny.truth.end]
        one = [tiny.truth.next_probabilities([["i00"]], time) for time in many]
        for times in (many, pl.Series(many, dtype=pl.Datetime("ms")), np.array(many, dtype="datetime64[us]")):
            np.testing.assert_array_equal(tiny.truth.next_probabilities([["i00"]] * 2, times), np.concatenate(one))
        assert (one[0] != one[1]).any()
        assert tiny.truth.next_probabilities([], tiny.cut).shape == (0, 12)


class TestWhatIsDrawn:
    @pytest.mark.parametrize("rounds", [0, 1, 30])
    @pytest.mark.parametrize(
        "options",
        [
            {},
            {"brand_affinity": 4.0, "first_affinity": 0.0, "price_affinity": 8.0, "subcategory_affinity": 3.0},
            {"n_brands": 1, "repeat_rate": 0.5, "idiosyncratic": 2.0, "cold_share": 0.0},
            {"n_categories": 1, "n_brands": 6, "first_affinity": 3.0, "repeat_rate": 0.0},
            {"skew": 5.0, "idiosyncratic": 3.0, "stickiness": 0.0, "brand_affinity": 5.0},
        ],
    )
    @pytest.mark.all_faces
    def test_pairs_of_clicks_are_as_frequent_as_the_law_says(self, options, rounds, monkeypatch):
        # Without rounds all items are looked at, with one both ways mix, with 30 nearly none is left.
        monkeypatch.setattr(session_world, "_ROUNDS", rounds)
        log = make_sessions(6_000, 12, random_state=2, **{**TINY, **options})
        prefixes, targets, times = zip(*prefixes_of(log.clicks), strict=True)
        p = log.truth.next_probabilities(prefixes, times)
        last, first = (np.array([int(prefix[at][1:]) for prefix in prefixes]) for at in (-1, 0))
        hit = np.array([int(item[1:]) for item in targets])[:, None] == np.arange(12)
        for state in (last, first, np.minimum([len(prefix) for prefix in prefixes], 4)):
            rows = state == np.arange(12)[:, None]
            z = z_scores(rows @ hit.astype(float), rows @ p, rows @ (p * (1 - p)))
            assert np.abs(z).max() < 4.5
            # Cells of a row hang together by their sum: the bound is wide enough for that.
            assert np.mean(z**2) == pytest.approx(1, abs=6 * math.sqrt(2 / len(z)))

    def test_categories_follow_their_matrix(self):
        log = make_sessions(20_000, 200, repeat_rate=0, stickiness=0.5, random_state=0)
        category = dict(zip(log.truth.items["item_id"], log.truth.codes["category"].tolist(), strict=True))
        counts = np.zeros((10, 10))
        for prefix, item, _ in prefixes_of(log.clicks):
            counts[category[prefix[-1]], category[item]] += 1
        totals, T = counts.sum(1, keepdims=True), log.truth.transitions
        np.testing.assert_allclose(T.sum(1), 1)
        assert np.abs(z_scores(counts, totals * T, totals * T * (1 - T))).max() < 4.5
        first = log.clicks.sort("time").group_by("session_id").agg(pl.col("item_id").first())["item_id"]
        started, n, S = np.bincount([category[item] for item in first], minlength=10), len(first), log.truth.start
        assert np.abs(z_scores(started, n * S, n * S * (1 - S))).max() < 4.5

    def test_the_matrix_is_sticky_and_moves_on_around_a_circle(self):
        truth = make_sessions(10, 100, stickiness=0.7, random_state=0).truth
        T = truth.transitions
        assert (np.diag(T) == pytest.approx(0.7 + 0.03 * truth.start)) & (T.argmax(1) == np.arange(10)).all()
        moves = T - np.diag(np.diag(T)) - 0.03 * truth.start * (1 - np.eye(10))
        follower = moves.argmax(1)
        np.testing.assert_allclose(moves[np.arange(10), follower], 0.18)
        np.testing.assert_allclose(moves[np.arange(10), follower[follower]], 0.09)
        seen, now = set(), 0
        while now not in seen:
            seen.add(now)
            now = follower[now]
        assert len(seen) == 10


class TestCeiling:
    @pytest.mark.parametrize("metadata_only", [False, True])
    @pytest.mark.parametrize("k", [1, 4, 50])
    def test_equals_plain_python(self, tiny, k, metadata_only):
        clicks = tiny.clicks.filter(pl.col("session_id") % 40 == 0)
        recall, mrr, drawn_recall, drawn_mrr = [], [], [], []
        for prefix, item, time in prefixes_of(clicks):
            p = reference(tiny.truth, prefix, time)
            order = np.argsort(-reference(tiny.truth, prefix, time, metadata_only))
            rank = 1 + order.tolist().index(int(item[1:]))
            recall.append(sum(p[order[:k]]))
            mrr.append(sum(p[j] / r for r, j in enumerate(order[:k], 1)))
            drawn_recall.append(rank <= k)
            drawn_mrr.append((rank <= k) / rank)
        for labels, r, m in (("expected", recall, mrr), ("drawn", drawn_recall, drawn_mrr)):
            scores = tiny.truth.ceiling(clicks, k, labels=labels, metadata_only=metadata_only)
            assert scores == pytest.approx({f"recall@{k}": np.mean(r), f"mrr@{k}": np.mean(m)}, abs=1e-9)

    def test_targets_come_by_session_whatever_the_order_of_rows(self, log):
        targets = log.truth.targets(log.clicks)
        assert targets.height == log.clicks.height - log.clicks["session_id"].n_unique()
        assert targets.equals(targets.sort("session_id", "time"))
        assert targets.equals(log.truth.targets(log.clicks.sample(fraction=1, shuffle=True, seed=0)))
        some = targets[:50]
        prefixes = [prefix for prefix, *_ in prefixes_of(log.clicks)][:50]
        p = log.truth.next_probabilities(prefixes, some["time"])
        chosen = p[np.arange(50), [int(item[1:]) for item in some["item_id"]]]
        np.testing.assert_allclose(some["probability"], chosen)
        assert some["rank"].to_list() == (p >= chosen[:, None]).sum(1).tolist()

    def test_the_expected_score_is_the_drawn_one_without_its_luck(self, log):
        drawn, expected = (log.truth.ceiling(log.clicks, labels=labels) for labels in ("drawn", "expected"))
        assert drawn == pytest.approx(expected, abs=0.02)

    def test_metadata_alone_reaches_less_and_finds_cold_items(self):
        log = make_sessions(2_000, 300, idiosyncratic=1.5, random_state=0)
        _, test = log.split()
        full, told = (log.truth.ceiling(test, labels="expected", metadata_only=only) for only in (False, True))
        assert told["recall@20"] < full["recall@20"] - 0.05
        assert told["mrr@20"] < full["mrr@20"]
        cold = log.truth.targets(test, metadata_only=True).filter(pl.col("item_id").is_in(log.cold.to_list()))
        assert (cold["rank"] <= 20).mean() > 4 * 20 / 300

    def test_no_target_gives_nan(self, tiny):
        alone = tiny.clicks.group_by("session_id").first()
        assert all(math.isnan(score) for score in tiny.truth.ceiling(alone).values())


class TestErrors:
    def test_strange_items_times_and_arguments(self, tiny):
        truth = tiny.truth
        with pytest.raises(ValueError, match="an item must be one of i00 to i11, got 'x'"):
            truth.next_probabilities([["i00"], ["x"]], tiny.cut)
        with pytest.raises(ValueError, match="times must be one or as many as the 1 prefixes, got 2"):
            truth.next_probabilities([["i00"]], [tiny.cut, tiny.cut])
        with pytest.raises(ValueError, match="times must be no earlier than 2024-01-01 00:00:00, got 2023-12-31"):
            truth.next_probabilities([["i00"]], truth.begin - timedelta(days=1))
        with pytest.raises(ValueError, match="labels must be one of drawn, expected, got 'all'"):
            truth.ceiling(tiny.clicks, labels="all")
        with pytest.raises(ValueError, match="k must be an integer >= 1, got 0"):
            truth.ceiling(tiny.clicks, 0)
