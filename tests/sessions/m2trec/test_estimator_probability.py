"""Probabilities of recommended items add up over all that may be recommended, and happen as often as they say."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from recommenders import ITEMS, TEST, every_m2trec, fitted, tiny

from tabmtl.sessions import M2TRec
from tabmtl.sessions.repeats import RepeatWeights
from tabmtl.synth import make_sessions


@every_m2trec
@pytest.mark.parametrize("exclude_seen", [False, True])
@pytest.mark.parametrize("every", [1, 7])
def test_probabilities_are_shares_among_the_items_that_may_be_recommended(form, exclude_seen, every):
    chosen = ITEMS["item_id"].gather_every(every)
    found = fitted(form).recommend(TEST, k=60, candidates=chosen, exclude_seen=exclude_seen, probability=True)
    assert found.columns == ["session_id", "rank", "item_id", "score", "probability"]
    plain = fitted(form).recommend(TEST, k=60, candidates=chosen, exclude_seen=exclude_seen)
    assert found.drop("probability").equals(plain)
    sums = found.group_by("session_id").agg(pl.col("probability").sum(), pl.col("score").exp().sum())
    np.testing.assert_allclose(sums["probability"], 1, rtol=1e-4)
    expected = found.join(sums, on="session_id", maintain_order="left")
    np.testing.assert_allclose(
        found["probability"], expected["score"].exp() / expected["score_right"], rtol=1e-3, atol=1e-7
    )
    first = fitted(form).recommend(TEST, k=2, candidates=chosen, exclude_seen=exclude_seen, probability=True)
    assert first.equals(found.filter(pl.col("rank") <= 2))


def test_probabilities_need_all_scores_and_a_session():
    with pytest.raises(ValueError, match="needs the scores of all items; leave out approximate=True"):
        fitted("M2TRec").recommend(TEST, probability=True, approximate=True)
    assert fitted("M2TRec").recommend(TEST.clear(), probability=True).columns[-1] == "probability"


@pytest.mark.all_faces  # twenty seconds
def test_items_are_clicked_as_often_as_their_probabilities_say():
    """On sessions later than those that were set aside; the scores alone say something else."""
    log = make_sessions(4000, 400, random_state=1)
    train, test = log.split()
    model = tiny("M2TRec", id_mode="none", d_model=32, epochs=6, batch_size=256, validation_fraction=0.2)
    model.fit(train, items=log.items)
    assert worst_error(model, test) < 0.03
    model._repeats = RepeatWeights()
    assert worst_error(model, test) > 0.03


def worst_error(model: M2TRec, test: pl.DataFrame) -> float:
    """Greatest difference of mean probability and share of clicks, of items in bins of their probability."""
    prefixes, targets = model._read(test).at_least(2).prefixes()
    shares = np.exp(model._log_shares(prefixes))
    clicked = np.arange(1, model.n_items_ + 1) == targets[:, None]
    which = np.digitize(shares, [0.02, 0.05, 0.1, 0.2, 0.3])
    errors = [shares[which == place].mean() - clicked[which == place].mean() for place in range(6)]
    return float(np.abs(errors).max())
