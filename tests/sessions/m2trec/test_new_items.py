"""What new items are worth: measured numbers against brute force, on scores that are drawn at random."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import polars as pl
import pytest
from recommenders import sessions_of
from scipy.special import logsumexp, softmax

from tabmtl.base.schema import TabmtlWarning
from tabmtl.sessions.m2trec.item_features import ItemCoder
from tabmtl.sessions.m2trec.items import KnownItems
from tabmtl.sessions.m2trec.new_items import (
    LAUNCH,
    NewItems,
    Rivals,
    measure_bare,
    measure_new_items,
    report_new_items,
    share_of_births,
    warn_of_equals,
)
from tabmtl.sessions.ragged import Sessions

N = 60
rng = np.random.default_rng(0)
LOGITS = rng.normal(0, 2, (N + 1, N)).astype(np.float32)  # of the next item by the last one
CLICKED = np.arange(N) < 45
TABLE = pl.DataFrame({"price": np.arange(N)})
CODER = ItemCoder.fit(TABLE)


def drawn(n: int, logits: np.ndarray = LOGITS) -> Sessions:
    """Sessions of two clicks, the second drawn by the softmax of logits."""
    first = rng.integers(1, N + 1, n)
    return sessions_of(*([item, 1 + rng.choice(N, p=softmax(logits[item].astype(float)))] for item in first.tolist()))


def scores_of(sessions: Sessions) -> np.ndarray:
    return LOGITS[sessions.items[sessions.offsets[1:] - 1]]


def scores_by(bare: np.ndarray) -> Any:
    """Scores by logits, and by others where items lose their own vectors."""

    def by(bias: np.ndarray, factor: np.ndarray, lost: np.ndarray) -> Any:
        assert (factor == 1).all()
        table = np.where(lost, bare, LOGITS) + bias
        return lambda some: table[some.items[some.offsets[1:] - 1]].astype(np.float32)

    return by


KNOWN = KnownItems(features=None, row=None, clicks=np.where(CLICKED, 3, 0), shared=False)


def test_base_and_scale_maximise_the_likelihood_and_recall_is_that_of_the_ranks():
    bare = 0.7 * LOGITS + rng.normal(0, 1, LOGITS.shape).astype(np.float32)
    sessions = drawn(400)
    found = measure_bare(scores_by(bare), KNOWN, sessions)
    last, target = sessions.items[::2], sessions.items[1::2] - 1
    part = np.full(N, -1)
    part[CLICKED] = np.random.default_rng(0).permutation(45) % 10
    rows = [(last[row], target[row], group) for group in range(10) for row in range(group % 5, 400, 5)]
    rows = [(item, aim, group) for item, aim, group in rows if CLICKED[aim]]

    def mixed(scale, base):
        scores = [np.where(part == group, scale * bare[item] + base, LOGITS[item]) for item, _, group in rows]
        return np.where(CLICKED, scores, -np.inf).astype(float)

    aims, inside = np.array([aim for _, aim, _ in rows]), np.array([part[aim] == group for _, aim, group in rows])

    def likelihood(scale, base):
        scores = mixed(scale, base)
        total = (scores[np.arange(len(rows)), aims] - logsumexp(scores, axis=1)).sum()
        return total + base - np.exp(base) - 25 * np.log(scale) ** 2

    here = likelihood(found.scale, found.base)
    for scale, base in ((1, 0.05), (1, -0.05), (2 ** (1 / 6), 0), (2 ** (-1 / 6), 0)):
        assert here > likelihood(found.scale * scale, found.base + base)
    scores = mixed(found.scale, found.base)
    ranks = np.count_nonzero(scores >= scores[np.arange(len(rows)), aims][:, None] - 1e-9, axis=1)
    assert found.recall == pytest.approx(np.mean(ranks[inside] <= 20), abs=1e-9)


def test_where_no_item_of_training_is_clicked_nothing_is_measured():
    found = measure_bare(scores_by(LOGITS), KNOWN, sessions_of([1, 60], [3, 0]))
    assert (found.base, found.scale, found.recall) == (0, 1, None)


def test_mass_and_places_of_rivals_are_those_of_all_scores():
    sessions = sessions_of(*([item] for item in range(1, N + 1)))
    rivals = Rivals.of(scores_of, ~CLICKED, sessions)
    for shift in (-3.0, 0.0, 0.7, 40.0):
        scores = np.where(CLICKED, LOGITS[1:], LOGITS[1:] + np.float32(shift)).astype(float)
        top = np.argsort(-scores, axis=1)[:, :20]
        assert rivals.mass(shift) == pytest.approx(softmax(scores, axis=1)[:, ~CLICKED].sum(axis=1).mean(), rel=1e-5)
        assert rivals.places(shift) == pytest.approx((~CLICKED)[top].mean(), abs=1e-9)
    assert rivals.places(40.0) == 0.75  # there are 15 of them


def test_the_cut_gives_new_items_as_many_places_as_allowed():
    rivals = Rivals.of(scores_of, ~CLICKED, sessions_of(*([item] for item in range(1, N + 1))))
    today = rivals.places()
    for share in (0.01, 0.1, 0.2):
        cut = rivals.cut(share)
        assert cut > 0
        assert rivals.places(-cut) <= share < rivals.places(-cut + 1e-3) < today
    assert rivals.cut(today) == rivals.cut(1.0) == 0


def test_few_other_items_leave_places_to_new_ones_whatever_they_score():
    rivals = Rivals.of(scores_of, np.arange(N) >= 5, sessions_of([1], [2]))
    assert rivals.places(-40.0) == 0.75
    assert np.isfinite(rivals.cut(0.1))
    nobody = Rivals.of(scores_of, np.zeros(N, dtype=bool), sessions_of([1], [2]))
    assert (nobody.places(40.0), nobody.mass(40.0), nobody.cut(0.01)) == (0, 0, 0)


FEATURES, ROW = CODER.encode(TABLE)
LISTED = KnownItems(features=FEATURES, row=ROW, clicks=np.where(CLICKED, 3, 0), shared=False)


def valued(bias: np.ndarray, factor: np.ndarray, lost: np.ndarray | None = None) -> Any:
    """Scores of logits, where own vectors add nothing."""
    table = LOGITS * factor + bias
    return lambda some: table[some.items[some.offsets[1:] - 1]].astype(np.float32)


def test_new_items_get_the_probability_of_their_clicks():
    sessions = drawn(3000, np.where(CLICKED, LOGITS, LOGITS - 1.0))
    new, report = measure_new_items(valued, LISTED, sessions, share=np.exp(-1))
    assert (new.share, new.cut) == (np.exp(-1), 0)
    assert new.base == pytest.approx(0, abs=0.15)
    (facts,) = report_new_items(valued, LISTED, new, report).to_dicts()
    assert facts["n_items"] == 15
    assert facts["mass"] == pytest.approx(facts["clicks"], rel=0.15)
    assert facts["offset"] == pytest.approx(new.base - 1)


def test_the_most_places_hold_for_listed_and_added_items_together():
    new, report = measure_new_items(valued, LISTED, drawn(1000), share=1.0)
    known = LISTED.extended(5, *CODER.encode(TABLE[:5]))
    rows = np.concatenate([np.arange(N), np.arange(5)])

    def more(bias, factor, lost=None):
        table = LOGITS[:, rows] * factor + bias
        return lambda some: table[some.items[some.offsets[1:] - 1]].astype(np.float32)

    free, capped = new.capped(more, known, None), new.capped(more, known, 0.02)
    assert (free.cut, capped.base) == (0, new.base)
    places = [report_new_items(more, known, some, report)["places"].item() for some in (free, capped)]
    assert places[0] > 0.05
    assert places[1] == pytest.approx(0.02, abs=0.002)
    assert capped.capped(more, known, None).cut == 0


def test_without_metadata_a_new_item_counts_as_one_with_one_click():
    new, report = measure_new_items(valued, KNOWN, drawn(200), share=0.5)
    assert (new.base, new.scale, new.share) == (0, 1, 1 / 3)
    assert report["recall@20"][0] is None


def test_a_warning_says_where_metadata_hardly_tells_new_items_apart():
    row = np.where(np.arange(N) < 45, ROW, ROW[0])
    known = KnownItems(features=FEATURES, row=row, clicks=np.where(np.arange(N) < 30, 1, 0), shared=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_of_equals(known, np.arange(N) >= 40, "added")  # 15 of 20 are equal, which a list can hold
        warn_of_equals(known, np.zeros(N, dtype=bool), "added")
    known = KnownItems(features=FEATURES, row=np.zeros(N, dtype=int), clicks=known.clicks, shared=False)
    with pytest.warns(
        TabmtlWarning, match="tells the 30 items without clicks apart that were listed: half .* 29 others"
    ):
        warn_of_equals(known, known.clicks == 0, "listed")


def log_of(rates: np.ndarray, birth: np.ndarray, n: int = 4000) -> Sessions:
    """Sessions of independent clicks, where item i has a rate from its birth on."""
    chances = np.where(birth <= np.arange(n)[:, None] / n, rates, 0)
    held = rng.random(chances.shape) < chances
    held[:, 0] = True  # no session is empty
    return sessions_of(
        *((1 + np.flatnonzero(row)).tolist() for row in held), times=np.repeat(np.arange(n), held.sum(1))
    )


@pytest.mark.parametrize("share", [0.3, 1.0])
def test_the_share_of_births_is_that_of_the_clicks_that_follow(share):
    old, new = rng.exponential(0.01, 600), np.full(200, 0.01 * share)
    log = log_of(np.concatenate([old, new]), np.concatenate([np.zeros(600), rng.uniform(0.5, 0.9, 200)]))
    expected = share * 0.01 / (log.lengths.sum() / len(log) / 800)
    assert share_of_births(log, 800) == pytest.approx(expected, rel=0.25)


def test_rare_items_are_no_births():
    rare = log_of(rng.exponential(0.001, 800), np.zeros(800))
    assert share_of_births(rare, 800) == LAUNCH
    log = log_of(rng.exponential(0.01, 800), np.repeat([0, 0.7], 400))
    assert share_of_births(log, 800) != LAUNCH
    timeless = Sessions(ids=log.ids, offsets=log.offsets, items=log.items, times=None)
    assert share_of_births(timeless, 800) == LAUNCH


def new_items(**changes: float) -> NewItems:
    kept = {"offsets": np.array([0, 2, 3]), "clicks": np.array([4, 0, 2], dtype=np.int32)}
    return NewItems(**{"base": -0.5, "scale": 1.1, "share": 0.4, "cut": 0.0} | changes | kept)


@pytest.mark.parametrize("wrong", [{"base": np.inf}, {"share": -0.1}, {"share": np.nan}, {"cut": -1.0}])
def test_a_file_with_other_numbers_is_refused(wrong):
    assert new_items().sessions.padded().tolist() == [[4, 0], [2, 0]]
    with pytest.raises(ValueError, match="must be finite, and shares not below 0"):
        new_items(**wrong)
