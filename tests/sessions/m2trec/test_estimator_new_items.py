"""New items of a fitted M2TRec: what the report says of them, and how parameters change what they get."""

import numpy as np
import polars as pl
import pytest
from recommenders import ITEMS, LOG, TEST, TRAIN, again, all_scores, every_m2trec, fitted, tiny

from tabmtl.base.schema import TabmtlWarning
from tabmtl.sessions.m2trec.new_items import LAUNCH

MORE = ITEMS[:5].with_columns(item_id="new " + pl.col("item_id"))


@every_m2trec
def test_the_report_counts_listed_and_added_items(form):
    report = fitted(form).new_item_report_
    n_cold = int((fitted(form)._items.clicks == 0).sum())
    assert report["n_items"].to_list() == [n_cold]
    assert report["share"].item() == pytest.approx(LAUNCH)
    assert (report["recall@20"][0] is None) == (form == "M2TRec of the paper")
    assert report["mass"].item() > 0
    added = again(form).add_items(MORE).new_item_report_
    assert added["n_items"].to_list() == [n_cold + 5]
    assert added["mass"].item() > report["mass"].item()
    assert added["places"].item() > report["places"].item()
    assert added.select("share", "clicks", "recall@20").equals(report.select("share", "clicks", "recall@20"))


def test_a_launch_is_credited_with_the_given_share():
    cold = pl.Series(MORE["item_id"]).implode()
    models = [tiny("M2TRec", new_item_share=share).fit(TRAIN, items=ITEMS).add_items(MORE) for share in (0.2, 2.0)]
    low, high = (all_scores(model, TEST).filter(pl.col("item_id").is_in(cold))["score"].to_numpy() for model in models)
    np.testing.assert_allclose(high - low, np.log(10), rtol=1e-3)
    assert [model.new_item_report_["share"].item() for model in models] == [0.2, 2.0]


@pytest.mark.parametrize("form", ["M2TRec", "M2TRec of the paper"])
def test_new_items_have_no_more_places_than_allowed(form):
    model = tiny(form, max_new_share=0.03, new_item_share=3.0).fit(TRAIN, items=ITEMS)
    assert 0 < model.new_item_report_["places"].item() <= 0.03
    before = model.new_item_report_["n_items"].item()
    model.add_items(MORE).add_items(MORE.with_columns(item_id="newer " + pl.col("item_id")))
    assert model.new_item_report_["n_items"].item() == before + 10
    assert 0.01 < model.new_item_report_["places"].item() <= 0.03
    assert model._new_items.cut > 0


def test_without_sessions_aside_those_of_training_stand_in():
    model = tiny("M2TRec", early_stopping=False).fit(TRAIN, items=ITEMS)
    assert model._items.clicks.sum() == len(TRAIN)
    assert 0 < model.new_item_report_["recall@20"][0] <= 1
    few = TRAIN.filter(pl.col("session_id").is_in(TRAIN["session_id"].unique(maintain_order=True).head(4).implode()))
    assert tiny("M2TRec", epochs=1).fit(few, items=ITEMS).new_item_report_["offset"].is_finite().all()


def test_a_validation_log_of_unknown_items_measures_nothing_and_training_stands_in():
    other = TEST.with_columns(item_id="x" + pl.col("item_id"))
    with pytest.warns(TabmtlWarning, match="none of the .* items to predict in clicks_val"):
        model = tiny("M2TRec", epochs=1).fit(TRAIN, items=ITEMS, clicks_val=other)
    assert model.new_item_report_["recall@20"][0] > 0


def test_a_warning_says_where_added_items_are_all_alike():
    model, row = again("M2TRec"), ITEMS.filter(pl.col("item_id").is_in(LOG.cold.implode()))[:1]
    clones = pl.concat([row.with_columns(item_id=pl.lit(f"clone {number}")) for number in range(25)])
    with pytest.warns(TabmtlWarning, match="tells the 25 items without clicks apart that were added: .* 24 others"):
        model.add_items(clones)
    assert model.n_items_ == 85
