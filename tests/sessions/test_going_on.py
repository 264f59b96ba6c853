"""Recommenders that go on with new logs: what they learn is what one fit on all learns, where that is a sum."""

import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal
from recommenders import ITEMS, TEST, TRAIN, all_scores, fitted, renamed, tiny

import tabmtl
from tabmtl.scale import Shards
from tabmtl.sessions import CategoryPopularity, Popularity, SequentialRules, temporal_split
from tabmtl.testing.storage import reload

SUMS = ["Popularity", "CategoryPopularity", "SequentialRules", "VSKNN", "STAN"]
OLD, NEW = temporal_split(TRAIN, test_size=0.4)
#: Half of the items are new to the second log.
KNOWN = OLD["item_id"].unique().sort()[:30]
FIRST = OLD.filter(pl.col("item_id").is_in(KNOWN.implode()))
LISTED = ITEMS.filter(pl.col("item_id").is_in(KNOWN.implode()))
#: What repeats say if nothing was learned.
PLAIN = {"scale": 1.0, "seen": 0.0, "last": 0.0, "trust": 1.0}


def going_on(form, **params):
    return tiny(form, **params).fit(FIRST, items=LISTED).partial_fit(NEW, items=ITEMS)


@pytest.mark.parametrize("time", ["time", None])
@pytest.mark.parametrize("form", SUMS)
def test_two_logs_one_after_the_other_are_one(form, time):
    params = {"repeats": False, "time_column": time}
    once = tiny(form, **params).fit(pl.concat([FIRST, NEW]), items=ITEMS)
    found = going_on(form, **params)
    assert found.item_ids_.to_list() == [*KNOWN, *(set(ITEMS["item_id"]) - set(KNOWN))] or found.n_items_ == len(ITEMS)
    counts = [dict(zip(model.item_ids_, model.item_counts_, strict=True)) for model in (found, once)]
    assert counts[0] == counts[1]
    assert_frame_equal(all_scores(found, TEST), all_scores(once, TEST), rel_tol=1e-5, abs_tol=1e-7)


@pytest.mark.parametrize("form", ["VSKNN", "STAN"])
def test_older_sessions_find_their_place_among_the_newer_ones(form):
    params = {"repeats": False, "sample_size": 20}
    found = tiny(form, **params).fit(NEW, items=ITEMS).partial_fit(OLD)
    once = tiny(form, **params).fit(pl.concat([NEW, OLD]), items=ITEMS)
    assert_frame_equal(all_scores(found, TEST), all_scores(once, TEST), rel_tol=1e-5, abs_tol=1e-7)


@pytest.mark.parametrize("form", SUMS)
def test_a_log_that_is_kept_aside_teaches_repeats_as_in_one_fit(form):
    once = tiny(form).fit(pl.concat([OLD, NEW]), items=ITEMS, clicks_val=TEST)
    found = tiny(form).fit(OLD, items=ITEMS).partial_fit(NEW, clicks_val=TEST)
    for name, value in once.repeat_weights_.items():
        assert found.repeat_weights_[name] == pytest.approx(value, rel=1e-3, abs=1e-3)


def test_what_repeats_learned_stays_and_what_fit_could_not_learn_is_learned_of_new_sessions():
    model = tiny("Popularity").fit(OLD, clicks_val=NEW)
    before = model.repeat_weights_
    assert before != PLAIN
    assert model.partial_fit(TEST).repeat_weights_ == before
    few = tiny("Popularity").fit(OLD.head(30), items=ITEMS)
    assert few.repeat_weights_ == few.partial_fit(NEW.head(20)).repeat_weights_ == PLAIN
    assert few.partial_fit(NEW).repeat_weights_ != PLAIN


def test_a_session_that_two_logs_share_counts_as_two():
    log = pl.DataFrame({"session_id": [1, 1, 1], "item_id": ["a", "b", "c"], "time": [0, 1, 2]})
    model = SequentialRules().fit(log[:2]).partial_fit(log[2:])
    assert model.item_counts_.tolist() == [1, 1, 1]
    assert model.recommend(["b"], 3).filter(item_id="c")["score"].item() < 0  # nothing followed b in its session


def test_parameters_of_fit_hold_when_it_goes_on():
    model = tiny("SequentialRules", repeats=False).fit(FIRST, items=LISTED).set_params(steps=1, session_column="visit")
    model.partial_fit(NEW, items=ITEMS)
    assert all_scores(model.set_params(session_column="session_id"), TEST).equals(
        all_scores(going_on("SequentialRules", repeats=False), TEST)
    )
    assert model.steps == 1


def test_an_unfitted_recommender_is_fitted():
    assert all_scores(tiny("STAN").partial_fit(TRAIN, items=ITEMS), TEST).equals(all_scores(fitted("STAN"), TEST))


def test_new_categories_are_known_in_files_and_without_a_table_are_none(tmp_path):
    log = pl.DataFrame({"session_id": [1, 1], "item_id": ["a", "b"], "time": [0, 1]})
    items = pl.DataFrame({"item_id": ["a", "b", "c", "d"], "category": ["x", "y", "z", "y"]})
    later = pl.DataFrame({"session_id": [2, 2], "item_id": ["c", "d"], "time": [2, 3]})
    model = reload(CategoryPopularity().fit(log, items=items[:2]), tmp_path / "model")
    with pytest.warns(tabmtl.TabmtlWarning, match="the log has 2 new items, and there is no item table"):
        reload(model, tmp_path / "other").partial_fit(later)
    model.partial_fit(later, items=items)
    assert model.recommend(["b"], 4)["item_id"].to_list()[:2] == ["b", "d"]
    assert model.recommend(["c"], 1)["item_id"].to_list() == ["c"]


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        (lambda log: log.drop("item_id"), ValueError, "has no column 'item_id'"),
        (lambda log: log.with_columns(item_id=pl.int_range(pl.len())), TypeError, "those of the catalogue String"),
        (lambda log: log.with_columns(time=pl.lit(None, pl.Datetime)), ValueError, "'time' of the click"),
        (lambda log: log.head(0), ValueError, "has no row"),
    ],
)
def test_a_log_that_does_not_fit_changes_nothing(change, error, words):
    model = tiny("STAN").fit(TRAIN, items=ITEMS)
    with pytest.raises(error, match=words):
        model.partial_fit(change(NEW))
    assert all_scores(model, TEST).equals(all_scores(fitted("STAN"), TEST))


def test_shards_are_read_by_a_first_fit_alone(tmp_path):
    NEW.write_parquet(tmp_path / "clicks.parquet")
    model = tiny("M2TRec", epochs=1).fit(OLD, items=ITEMS)
    with pytest.raises(TypeError, match=r"as one frame, not as Shards: .*; M2TRec reads Shards in a first fit"):
        model.partial_fit(Shards(tmp_path / "clicks.parquet"), items=ITEMS)


def test_a_category_of_another_type_is_refused():
    model = tiny("CategoryPopularity").fit(TRAIN, items=ITEMS)
    others = renamed(ITEMS).with_columns(category=pl.int_range(pl.len()))
    with pytest.raises(TypeError, match="'category' of the item table held String in fit and is now Int64: cast it"):
        model.partial_fit(NEW, items=others)


def test_what_learns_from_all_at_once_says_so():
    class Newest(Popularity):
        _go_on = Popularity.__mro__[1]._go_on

    with pytest.raises(NotImplementedError, match="Newest learns from all sessions at once: fit again on the sessions"):
        Newest().fit(OLD).partial_fit(NEW)
    assert np.isfinite(Newest().fit(OLD).score(TEST))
