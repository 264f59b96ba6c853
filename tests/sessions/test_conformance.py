"""What every recommender does, held by each that the package lists."""

from __future__ import annotations

import json
import pickle
import random
from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import torch
from polars.testing import assert_frame_equal
from recommenders import ITEMS, RECOMMENDERS, TEST, TRAIN, all_scores, every_form, fitted, params_of, tiny
from safetensors.numpy import load_file
from sklearn.base import clone
from sklearn.exceptions import NotFittedError

import tabmtl


def test_all_seven_are_listed():
    names = {cls.__name__ for cls in RECOMMENDERS}
    assert names == {"M2TRec", "Popularity", "CategoryPopularity", "SequentialRules", "VSKNN", "STAN", "Blend"}


@every_form
def test_parameters_are_scikit_learns(form):
    model = tiny(form)
    params = params_of(model)
    again = clone(model)
    assert again is not model
    assert params_of(again) == params
    assert model.set_params(session_column="visit") is model
    assert params_of(model) == params | {"session_column": "visit"}
    with pytest.raises(ValueError, match="colour"):
        model.set_params(colour="red")


@every_form
def test_fit_returns_self_and_leaves_parameters_alone(form):
    model = tiny(form)
    before = params_of(model)
    assert model.fit(TRAIN, items=ITEMS) is model
    assert params_of(model) == before
    assert model.n_items_ == len(ITEMS)
    counts = dict(zip(model.item_ids_.to_list(), model.item_counts_.tolist(), strict=True))
    clicked = dict(TRAIN["item_id"].value_counts().iter_rows())
    assert counts == {item: clicked.get(item, 0) for item in ITEMS["item_id"]}


@every_form
def test_a_failed_fit_leaves_the_recommender_as_it_was(form):
    model = tiny(form).fit(TRAIN, items=ITEMS)
    before = all_scores(model, TEST)
    for clicks, items in (
        (TRAIN.drop("item_id"), ITEMS),
        (TRAIN.head(0), ITEMS),
        (TRAIN, ITEMS.drop("item_id")),
        (TRAIN.with_columns(time=pl.lit(None, pl.Datetime)), ITEMS),
    ):
        with pytest.raises(ValueError, match=r"click log|item table"):
            model.fit(clicks, items=items)
        assert all_scores(model, TEST).equals(before)


@every_form
def test_fit_again_forgets_the_first(form):
    model = tiny(form).fit(TRAIN.head(600), items=ITEMS)
    model.recommend(TEST, k=3)
    assert all_scores(model.fit(TRAIN, items=ITEMS), TEST).equals(all_scores(fitted(form), TEST))


@every_form
@pytest.mark.parametrize("library", ["pandas", "pyarrow", "lazy"])
def test_any_library_gives_the_same_and_gets_its_own(form, library):
    convert = {"pandas": pl.DataFrame.to_pandas, "pyarrow": pl.DataFrame.to_arrow, "lazy": pl.DataFrame.lazy}[library]
    model = tiny(form).fit(convert(TRAIN), items=convert(ITEMS))
    found = model.recommend(convert(TEST), k=5)
    assert isinstance(found, {"pandas": pd.DataFrame, "pyarrow": pa.Table, "lazy": pl.DataFrame}[library])
    expected = fitted(form).recommend(TEST, k=5)
    assert list(found.columns if library != "pyarrow" else found.column_names) == expected.columns
    frame = pl.DataFrame(found) if library != "pandas" else pl.from_pandas(found)
    assert_frame_equal(frame, expected, check_exact=True)
    assert_frame_equal(model.evaluate(convert(TEST)), fitted(form).evaluate(TEST))


@every_form
def test_columns_may_have_other_names(form):
    names = {"session_id": "visit", "item_id": "sku", "time": "when"}
    model = tiny(form, session_column="visit", item_column="sku", time_column="when")
    model.fit(TRAIN.rename(names), items=ITEMS.rename({"item_id": "sku"}))
    found = model.recommend(TEST.rename(names), k=5)
    assert found.columns == ["visit", "rank", "sku", "score"]
    assert found.equals(fitted(form).recommend(TEST, k=5).rename({"session_id": "visit", "item_id": "sku"}))


@every_form
def test_a_log_may_have_an_order_only(form):
    by_end = TRAIN.sort(pl.col("time").max().over("session_id"), "session_id", "time").drop("time")
    by_row = tiny(form, time_column=None).fit(by_end, items=ITEMS)
    place = pl.int_range(pl.len()).over("session_id")
    numbered = by_end.with_columns(place=place).sort(pl.col("session_id").rle_id(), -pl.col("place"))
    by_order = tiny(form, time_column=None, order_column="place").fit(numbered, items=ITEMS)
    now, reverse = TEST.drop("time"), TEST.with_columns(place=-place).reverse()
    expected = all_scores(by_row, now)
    assert all_scores(by_order, reverse.with_columns(place=-pl.col("place"))).equals(expected)
    assert all_scores(by_order, reverse).equals(expected) == (form == "Popularity")


@every_form
@pytest.mark.parametrize("k", [1, 7, 60, 500])
def test_ranks_count_from_one_and_scores_fall(form, k):
    found = fitted(form).recommend(TEST, k=k)
    assert found.columns == ["session_id", "rank", "item_id", "score"]
    n = TEST["session_id"].n_unique()
    assert found["rank"].to_list() == list(range(1, min(k, 60) + 1)) * n
    assert found["session_id"].n_unique() == n
    assert found["session_id"].unique(maintain_order=True).equals(TEST["session_id"].unique(maintain_order=True))
    drops = found["score"].to_numpy().reshape(n, -1)
    assert (np.diff(drops, axis=1) <= 0).all()
    assert np.isfinite(drops).all()
    assert found.select("session_id", "item_id").is_unique().all()


@every_form
def test_a_shorter_list_is_the_start_of_a_longer_one(form):
    longer = fitted(form).recommend(TEST, k=20)
    assert fitted(form).recommend(TEST, k=5).equals(longer.filter(pl.col("rank") <= 5))


@every_form
def test_only_candidates_are_recommended_and_their_scores_stay(form):
    chosen = ITEMS["item_id"].gather_every(9)
    full = fitted(form).recommend(TEST, k=60)
    for candidates in (chosen, chosen.to_list(), chosen.to_numpy(), chosen.to_pandas(), set(chosen)):
        found = fitted(form).recommend(TEST, k=20, candidates=candidates)
        assert found["rank"].max() == len(chosen)
        expected = full.filter(pl.col("item_id").is_in(chosen.to_list()))
        assert found.drop("rank").equals(expected.drop("rank"))
    assert fitted(form).recommend(TEST, candidates=[]).is_empty()


@every_form
def test_unknown_candidates_are_refused(form):
    cure = "add_items adds them" if hasattr(fitted(form), "add_items") else "leave them out, or fit again with an item"
    with pytest.raises(ValueError, match=rf"candidates names \['nothing'\], which the catalogue does not hold: {cure}"):
        fitted(form).recommend(TEST, candidates=["i00", "nothing"])
    with pytest.raises(TypeError, match="candidates must be a list or series of items, got 'i00': put it in a list"):
        fitted(form).recommend(TEST, candidates="i00")
    with pytest.raises(TypeError, match="candidates are Int64"):
        fitted(form).recommend(TEST, candidates=[3])


@every_form
def test_repeats_are_allowed_unless_excluded(form):
    clicked = TEST.select("session_id", "item_id").unique()
    full = fitted(form).recommend(TEST, k=60)
    assert len(full.join(clicked, on=["session_id", "item_id"])) == len(clicked)
    assert len(full.filter(pl.col("rank") <= 20).join(clicked, on=["session_id", "item_id"])) > 0
    found = fitted(form).recommend(TEST, k=60, exclude_seen=True)
    assert found.drop("rank").equals(full.join(clicked, on=["session_id", "item_id"], how="anti").drop("rank"))
    assert found.group_by("session_id").agg(pl.col("rank").max() == pl.len())["rank"].all()


@every_form
def test_ranks_leave_out_what_is_excluded(form):
    """a, b, a, c: the third click is among those before it, and the fourth gains by it."""
    a, b, c = fitted(form).recommend(TEST.head(1), k=60)["item_id"][:60:25]
    log = pl.DataFrame({"session_id": 0, "item_id": [a, b, a, c], "time": [1.0, 2.0, 3.0, 4.0]})
    every, fresh = (fitted(form).rank(log, exclude_seen=excluded) for excluded in (False, True))
    found = fitted(form).recommend(log[:3], k=60, exclude_seen=True)
    assert np.isinf(fresh.ranks).tolist() == [False, True, False]
    assert fresh.ranks[2] == (found["score"] >= found.filter(item_id=c)["score"][0]).sum() <= every.ranks[2]
    assert not np.isin(fresh.top[2], fitted(form).item_ids_.is_in([a, b]).arg_true()).any()
    recall = fitted(form).evaluate(log, 60, exclude_seen=True)["recall@60"][0]
    assert recall == pytest.approx(2 / 3)


@every_form
def test_sessions_and_items_may_be_new(form):
    model = fitted(form)
    log = pl.DataFrame({"session_id": [-1, -1, -2], "item_id": ["new", "i00", "newer"], "time": [1.0, 2.0, 3.0]})
    found = model.recommend(log, k=60)
    assert found["session_id"].to_list() == [-1] * 60 + [-2] * 60
    assert found["score"].is_finite().all()
    assert not model.recommend(log, k=60, exclude_seen=True).filter(session_id=-1)["item_id"].is_in(["i00"]).any()
    ranking = model.rank(log.with_columns(session_id=0, item_id=pl.Series(["new", "i00", "newer"])))
    assert np.isfinite(ranking.ranks).tolist() == [True, False]
    assert ranking.counts[1] == 0


@every_form
def test_saved_and_loaded_recommenders_are_the_same_without_pickle(form, tmp_path, monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("pickle was used")

    model = fitted(form)
    with monkeypatch.context() as patch:
        for name in ("dump", "dumps", "load", "loads", "Pickler", "Unpickler"):
            patch.setattr(pickle, name, refuse)
        patch.setattr(torch, "save", refuse)
        patch.setattr(torch, "load", refuse)
        model.save(tmp_path / "model")
        loaded = tabmtl.load(tmp_path / "model")
    for file in filter(Path.is_file, (tmp_path / "model").rglob("*")):
        json.loads(file.read_text()) if file.suffix == ".json" else load_file(file)
        assert file.suffix in (".json", ".safetensors")
    assert type(loaded) is type(model)
    assert params_of(loaded) == params_of(model)
    assert loaded.item_ids_.equals(model.item_ids_)
    assert loaded.item_counts_.tolist() == model.item_counts_.tolist()
    assert all_scores(loaded, TEST).equals(all_scores(model, TEST))
    assert loaded.evaluate(TEST, k=[1, 20]).equals(model.evaluate(TEST, k=[1, 20]))
    loaded.save(tmp_path / "again")
    assert all_scores(tabmtl.load(tmp_path / "again"), TEST).equals(all_scores(model, TEST))


@every_form
def test_pickled_recommenders_are_the_same(form):
    again = pickle.loads(pickle.dumps(fitted(form)))
    assert params_of(again) == params_of(fitted(form))
    assert all_scores(again, TEST).equals(all_scores(fitted(form), TEST))


@every_form
def test_before_fit_nothing_is_answered(form, tmp_path):
    model = tiny(form)
    for ask in (model.recommend, model.rank, model.evaluate, model.score):
        with pytest.raises(NotFittedError):
            ask(TEST)
    with pytest.raises(NotFittedError):
        model.save(tmp_path / "model")


@every_form
def test_a_seed_gives_one_recommender_and_global_generators_stay(form):
    random.seed(3)
    np.random.seed(3)
    states = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    model = tiny(form).fit(TRAIN, items=ITEMS)
    model.evaluate(TEST)
    assert states == (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist())
    random.seed(4)
    np.random.seed(4)
    with torch.random.fork_rng():
        torch.manual_seed(4)
        assert all_scores(tiny(form).fit(TRAIN, items=ITEMS), TEST).equals(all_scores(model, TEST))


@every_form
def test_buckets_add_up_to_all(form):
    table = fitted(form).evaluate(TEST, k=[5, 20])
    assert table["bucket"].to_list() == ["all", "0", "1-5", "6-20", "21-100", ">100"]
    total, parts = table.row(0, named=True), table[1:].filter(pl.col("n_targets") > 0)
    assert total["n_targets"] == len(TEST) - TEST["session_id"].n_unique() == parts["n_targets"].sum()
    for name in ("recall@5", "mrr@5", "ndcg@5", "recall@20", "mrr@20", "ndcg@20"):
        mean = (parts[name] * parts["n_targets"]).sum() / total["n_targets"]
        assert total[name] == pytest.approx(mean, abs=1e-12)
    assert 0 < total["coverage@5"] <= total["coverage@20"] <= 1


@every_form
def test_score_is_the_mrr_of_evaluate(form):
    model = fitted(form)
    score = model.score(TEST)
    assert 0 < score < 1
    for k in (20, [20], np.int64(20)):
        assert model.evaluate(TEST, k=k)["mrr@20"][0] == score


@every_form
def test_what_cannot_be_asked_is_refused(form):
    for k in (0, -1, 2.5, "3", None, True):
        with pytest.raises(ValueError, match="k must be"):
            fitted(form).recommend(TEST, k=k)
        with pytest.raises(ValueError, match=rf"k must be .*, got {k!r}"):
            fitted(form).evaluate(TEST, k=k)
    with pytest.raises(ValueError, match="k must be at least 1"):
        fitted(form).evaluate(TEST, k=[20, 0])
    with pytest.raises(ValueError, match="no session of this log has two clicks"):
        fitted(form).evaluate(TEST.unique("session_id"))
    with pytest.raises(ValueError, match="no column 'time'"):
        fitted(form).recommend(TEST.drop("time"))
    with pytest.raises(TypeError, match="Int64, those of the catalogue String"):
        fitted(form).recommend(TEST.with_columns(item_id=pl.lit(1, pl.Int64)))


@every_form
def test_columns_of_recommendations_have_names_of_their_own(form):
    clicks = TRAIN.rename({"session_id": "rank"})
    with pytest.raises(ValueError, match=r"none of 'rank', 'score' and 'probability', got \('rank', 'item_id'\)"):
        tiny(form, session_column="rank").fit(clicks, items=ITEMS)
    with pytest.raises(ValueError, match="must differ"):
        tiny(form, session_column="item_id").fit(clicks, items=ITEMS)


@every_form
def test_lengths_of_lists_are_checked(form):
    with pytest.raises(ValueError, match="top must be"):
        fitted(form).rank(TEST, top=0)
    with pytest.raises(ValueError, match="one length"):
        fitted(form).evaluate(TEST, [])
