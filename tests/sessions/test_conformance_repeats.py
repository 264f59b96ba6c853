"""What the items of a session are worth: learned by every recommender on sessions that it was not fitted on."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import polars as pl
import pytest
from cases import later
from recommenders import FORMS, ITEMS, M2TREC_FORMS, TEST, TRAIN, again, all_scores, every_form, fitted, own_terms, tiny

from tabmtl.sessions import temporal_split
from tabmtl.sessions.repeats import RepeatWeights
from tabmtl.synth import make_sessions

PLAIN = {"scale": 1.0, "seen": 0.0, "last": 0.0, "trust": 1.0}
WEIGHTS = RepeatWeights(scale=0.5, seen=2.0, last=-1.0)
LONGER = make_sessions(1500, 60, random_state=1)


def weighed(form: str, weights: RepeatWeights = WEIGHTS) -> Any:
    """A copy of a fitted recommender with weights of our own."""
    model = again(form)
    model._repeats = weights
    return model


def item_terms(form: str) -> dict[str, float]:
    """What is added to the score of an item in every session, which no scale changes."""
    model = fitted(form)
    terms = model._new_items.values(model._items)[0] if hasattr(model, "_new_items") else np.zeros(model.n_items_)
    return dict(zip(model.item_ids_, terms.tolist(), strict=True))


@every_form
def test_few_clicks_teach_nothing_and_nothing_is_learned_unasked(form):
    assert fitted(form).repeat_weights_ == PLAIN
    unasked = tiny(form, repeats=False).fit(TRAIN, items=ITEMS, clicks_val=TEST)
    assert unasked.repeat_weights_ == PLAIN


@pytest.mark.parametrize("form", later(FORMS, *M2TREC_FORMS[1:], "Blend"))
def test_weights_are_learned_on_later_sessions_or_on_the_newest_without_which_it_was_fitted(form):
    clicks = LONGER.clicks
    newest = clicks.group_by("session_id").agg(pl.col("time").max()).sort("time")["session_id"][-75:].implode()
    inside = pl.col("session_id").is_in(newest)
    learned = tiny(form, epochs=1).fit(clicks, items=LONGER.items)
    given = tiny(form, epochs=1).fit(clicks.filter(~inside), items=LONGER.items, clicks_val=clicks.filter(inside))
    assert learned.repeat_weights_ == pytest.approx(given.repeat_weights_)
    assert learned.repeat_weights_ != PLAIN
    # all sessions are remembered in the end
    assert learned.item_counts_.sum() == len(clicks)


@pytest.mark.parametrize("form", later(FORMS, *M2TREC_FORMS, "Blend"))
def test_likelihoods_rise_by_what_was_learned(form):
    """On later sessions than those that taught; MRR@20 does not fall there by more than noise."""
    train, later = temporal_split(LONGER.clicks, test_size=0.5)
    valid, test = temporal_split(later, test_size=0.5)
    model = tiny(form).fit(train, items=LONGER.items, clicks_val=valid)
    plain = pickle.loads(pickle.dumps(model))
    plain._repeats = RepeatWeights()
    assert model.repeat_weights_ != PLAIN
    read = model._read(test).at_least(2)
    prefixes, targets = read.prefixes()
    shares = [some._log_shares(prefixes)[np.arange(len(targets)), targets - 1] for some in (model, plain)]
    found = np.isfinite(shares[1])
    assert (np.isfinite(shares[0]) == found).all()
    assert shares[0][found].mean() > shares[1][found].mean()
    assert model.score(test) > plain.score(test) - 0.005


@every_form
def test_own_items_are_weighed_once_and_all_else_stays(form):
    log = pl.concat([TEST, TEST.with_columns(time=pl.col("time") - pl.duration(days=1))])  # every item twice
    plain, found = all_scores(fitted(form), log), all_scores(weighed(form), log)
    before, after, terms = plain["score"].to_numpy(), found["score"].to_numpy(), own_terms(plain, log)
    assert len(np.unique(terms)) == 3
    if fitted(form)._log_scale:
        added = plain["item_id"].replace_strict(item_terms(form)).to_numpy()
        expected = 0.5 * (before - added) + added + terms
    else:
        expected = np.where(before > 0, before * np.exp(terms / 0.5), before)
    np.testing.assert_allclose(after, expected, rtol=1e-4, atol=1e-4)


@every_form
def test_unknown_items_have_no_weight(form):
    log = pl.DataFrame({"session_id": [1, 2, 2], "item_id": ["?", "i00", "?"], "time": [1.0, 2.0, 3.0]})
    plain, found = all_scores(fitted(form), log), all_scores(weighed(form, RepeatWeights(seen=2, last=-9)), log)
    changed = plain.filter(plain["score"] != found["score"])
    assert set(changed.select("session_id", "item_id").rows()) <= {(2, "i00")}
    ratio = found["score"] - plain["score"] if fitted(form)._log_scale else (found["score"] / plain["score"]).log()
    assert ratio.max() == pytest.approx(2, abs=1e-4) or not len(changed)  # and it was not the last click


@every_form
def test_weights_are_saved(form, reloaded):
    model = weighed(form)
    loaded = reloaded(model)
    assert loaded.repeat_weights_ == {"scale": 0.5, "seen": 2.0, "last": -1.0, "trust": 1.0}
    assert all_scores(loaded, TEST).equals(all_scores(model, TEST))


@every_form
def test_log_shares_are_logs_of_shares_of_what_was_found(form):
    model = weighed(form)
    read = model._read(TEST)
    shares = np.exp(model._log_shares(read))
    scores = model._scores_of(read, exclude_seen=False)
    some = (shares > 0).any(axis=1)
    assert some.sum() > 0.9 * len(read)
    np.testing.assert_allclose(shares[some].sum(axis=1), 1, rtol=1e-4)
    found = np.ones_like(scores, dtype=bool) if model._log_scale else scores > 0
    assert ((shares > 0) == found).all()
    for row in np.flatnonzero(some)[:20]:
        order = np.argsort(scores[row][found[row]])
        assert (np.diff(shares[row][found[row]][order]) >= -1e-7).all()
