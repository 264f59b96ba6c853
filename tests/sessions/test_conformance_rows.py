"""A session gets the same alone, among others, in any order, and where its next click is ranked."""

from __future__ import annotations

import numpy as np
import polars as pl
from recommenders import TEST, every_form, fitted


def assert_same_lists(found, expected):
    """Equal scores, to rounding; and equal items where scores are not nearly tied."""
    assert found["session_id"].equals(expected["session_id"])
    scores = expected["score"].to_numpy()
    np.testing.assert_allclose(found["score"].to_numpy(), scores, rtol=1e-5, atol=1e-6)
    near = np.abs(np.diff(scores)) < 1e-4 * np.abs(scores[1:]) + 1e-5
    tied = np.concatenate([[False], near]) | np.concatenate([near, [False]])
    assert tied.mean() < 0.5 or len(np.unique(scores)) < len(scores) / 2
    assert (found["item_id"] == expected["item_id"]).to_numpy()[~tied].all()


@every_form
def test_a_session_alone_gets_what_it_gets_among_others(form):
    model = fitted(form)
    together = model.recommend(TEST, k=10)
    alone = [model.recommend(TEST.filter(session_id=name), k=10) for name in together["session_id"].unique()[:25]]
    found = pl.concat(alone)
    assert_same_lists(
        found, found.select("session_id", "rank").join(together, on=["session_id", "rank"], maintain_order="left")
    )


@every_form
def test_rows_may_come_in_any_order(form):
    shuffled = TEST.sample(fraction=1, shuffle=True, seed=1)
    found, expected = (fitted(form).recommend(log, k=10) for log in (shuffled, TEST))
    for answer, log in ((found, shuffled), (expected, TEST)):
        assert answer["session_id"].unique(maintain_order=True).equals(log["session_id"].unique(maintain_order=True))
    assert found.sort("session_id", "rank").equals(expected.sort("session_id", "rank"))


@every_form
def test_sessions_may_come_in_any_order(form):
    late = TEST.with_columns(time=pl.col("time") + pl.duration(days=3) * (pl.col("session_id") % 5))
    found = fitted(form).recommend(late, k=10)
    expected = fitted(form).recommend(TEST, k=10)
    assert found["session_id"].equals(expected["session_id"])
    assert_same_lists(found, expected)


@every_form
def test_ranks_are_those_of_the_recommendations(form):
    few = TEST.filter(pl.col("session_id").is_in(TEST["session_id"].unique(maintain_order=True)[:20].to_list()))
    place = pl.int_range(pl.len()).over("session_id")
    prefixes = few.filter(place < place.max().over("session_id"))
    last = few.group_by("session_id").agg(pl.all().last())
    found = fitted(form).recommend(prefixes, k=60)
    scores = found.join(last.select("session_id", target="item_id"), on="session_id")
    own = scores.filter(pl.col("item_id") == pl.col("target")).select("session_id", own="score")
    expected = scores.join(own, on="session_id").group_by("session_id").agg((pl.col("score") >= pl.col("own")).sum())
    ranks = dict(expected.iter_rows())
    ranking = fitted(form).rank(few)
    lengths = few.group_by("session_id").agg(pl.len(), pl.col("time").max()).sort("time")
    ends = np.cumsum(lengths["len"].to_numpy() - 1) - 1
    said = ranking.ranks[ends]
    wanted = [ranks[name] for name in lengths["session_id"]]
    # where two items are equal but for rounding, one more or less
    assert np.mean(said == wanted) > 0.9
    assert np.abs(said - wanted).max() <= 1
