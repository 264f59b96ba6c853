"""Vectors of sessions and items: their inner products are the scores, inside, exported, and of items that are new."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from cases import later
from polars.testing import assert_frame_equal
from recommenders import (
    ITEMS,
    LOG,
    M2TREC_FORMS,
    TEST,
    TRAIN,
    again,
    all_scores,
    every_m2trec,
    fitted,
    index_of,
    own_terms,
    renamed,
    tiny,
)
from sklearn.exceptions import NotFittedError

import tabmtl
from tabmtl.columns import Text
from tabmtl.sessions.m2trec import index
from tabmtl.sessions.repeats import RepeatWeights


@every_m2trec
def test_inner_products_are_the_scores_and_clicked_items_have_what_was_learned(form):
    model = again(form)
    model._repeats = RepeatWeights(scale=0.5, seen=2, last=-1)
    queries, vectors = model.transform(TEST), model.item_vectors()
    width = 16 if model.item_tower == "mlp" else 32 * (ITEMS.width - 1)
    assert queries.shape == (TEST["session_id"].n_unique(), width + 2)
    assert vectors.shape == (60, width + 2)
    assert queries.dtype == vectors.dtype == np.float32
    assert (queries[:, -1] == 0.5).all()
    found = model.recommend(TEST, k=60)
    order = found["session_id"].unique(maintain_order=True)
    places = dict(zip(model.item_ids_, range(60), strict=True))
    rows = dict(zip(order, range(len(order)), strict=True))
    row, place = found["session_id"].replace_strict(rows).to_numpy(), found["item_id"].replace_strict(places).to_numpy()
    said = (queries @ vectors.T)[row, place] + own_terms(found, TEST)
    np.testing.assert_allclose(said, found["score"], rtol=1e-4, atol=1e-4)


@every_m2trec
def test_exported_files_give_the_scores(form, tmp_path):
    model = again(form).set_params(item_column="sku")  # the column of fit names the items
    for _ in range(2):
        model.export_index(tmp_path / "a" / "index")
    folder = tmp_path / "a" / "index"
    assert sorted(file.name for file in folder.iterdir()) == ["items.parquet", "vectors.npy"]
    vectors, items = np.load(folder / "vectors.npy", allow_pickle=False), pl.read_parquet(folder / "items.parquet")
    assert items.columns == ["item_id"]
    assert items["item_id"].to_list() == model.item_ids_.to_list()
    assert vectors.dtype == np.float32
    np.testing.assert_array_equal(vectors, model.item_vectors())


@every_m2trec
def test_new_items_score_at_once_as_listed_ones_of_equal_metadata(form):
    model = again(form)
    before, weights = all_scores(model, TEST), {name: array.copy() for name, array in model.weights_.items()}
    cold = LOG.cold.to_list()
    old = ITEMS.filter(pl.col("item_id").is_in(cold))
    assert model.add_items(renamed(old)) is model
    assert model.n_items_ == 60 + len(cold)
    assert model.item_ids_.to_list()[60:] == ["new " + item for item in old["item_id"]]
    assert model.item_counts_[60:].tolist() == [0] * len(cold)
    assert all(np.array_equal(weights[name], array) for name, array in model.weights_.items())
    found = all_scores(model, TEST)
    new = found.filter(pl.col("item_id").str.starts_with("new ")).with_columns(pl.col("item_id").str.slice(4))
    twins = found.filter(pl.col("item_id").is_in(cold))
    fresh = own_terms(twins, TEST) == 0  # but for what a session makes of an item that it has clicked
    assert fresh.sum() > 0.9 * len(twins)
    assert_frame_equal(new.filter(fresh).cast(twins.schema), twins.filter(fresh), rel_tol=1e-4, abs_tol=1e-4)
    if form != "M2TRec of the paper":  # there equals share what one had
        kept = found.filter(~pl.col("item_id").str.starts_with("new "))
        assert_frame_equal(kept, before, rel_tol=1e-5, abs_tol=1e-5)


def test_without_ids_a_new_item_gets_its_share_of_the_clicks_of_its_equals():
    model = again("M2TRec of the paper")
    item = model.item_ids_[int(np.argmax(model.item_counts_))]
    before = all_scores(model, TEST).filter(item_id=item)["score"]
    model.add_items(renamed(ITEMS.filter(item_id=item)))
    found = all_scores(model, TEST)
    old, new = (found.filter(item_id=name)["score"] for name in (item, f"new {item}"))
    np.testing.assert_allclose(np.exp(old) + np.exp(new), np.exp(before), rtol=1e-4)
    np.testing.assert_allclose(np.exp(new - old), model._new_items.share, rtol=1e-3)


@every_m2trec
def test_new_items_may_have_new_and_missing_values(form):
    model = again(form)
    strange = ITEMS[:3].with_columns(
        brand=pl.lit("new brand"), category=pl.lit("new"), tags=pl.lit(["new tag"]), price=1e9, name=pl.lit("zzz")
    )
    nothing = ITEMS[3:4].select("item_id", *(pl.lit(None).alias(name) for name in ITEMS.columns[1:]))
    model.add_items(renamed(strange)).add_items(renamed(nothing, "no "))
    found = model.recommend(TEST, k=64, candidates=["new i00", "new i01", "new i02", "no i03"])
    assert found["score"].is_finite().all()
    assert found["item_id"].n_unique() == 4


@pytest.mark.parametrize("form", later(M2TREC_FORMS, *M2TREC_FORMS[1:]))
def test_added_items_are_saved_pickled_and_clicked(form, reloaded):
    model = again(form).add_items(renamed(ITEMS[:4])).add_items(renamed(ITEMS[4:5]))
    for copy in (reloaded(model), pickle.loads(pickle.dumps(model))):
        assert copy.item_ids_.equals(model.item_ids_)
        assert all_scores(copy, TEST).equals(all_scores(model, TEST))
        assert copy.new_item_report_.equals(model.new_item_report_)
        copy.add_items(renamed(ITEMS[5:7]))
        assert copy.n_items_ == 67
    log = TEST.with_columns(item_id=pl.lit("new i02"))
    unknown = TEST.with_columns(item_id=pl.lit("nobody"))
    assert not all_scores(model, log).equals(all_scores(model, unknown))
    assert model.recommend(log, k=65, exclude_seen=True)["item_id"].is_in(["new i02"]).any() is False
    assert np.isfinite(model.rank(log).ranks).all()


@every_m2trec
@pytest.mark.parametrize("n", [0, 1, 3, 12])
def test_few_added_items_have_the_bits_that_a_loaded_model_gives_them(form, n, monkeypatch):
    monkeypatch.setattr(index, "_UNITS_AT_A_TIME", 8)
    model = again(form).add_items(renamed(ITEMS[:n]).with_columns(price=7.0))
    assert np.array_equal(model.item_vectors(), pickle.loads(pickle.dumps(model)).item_vectors())


@pytest.mark.parametrize("library", ["to_pandas", "to_arrow", "lazy"])
def test_added_items_may_come_from_any_library(library):
    model = again("M2TRec").add_items(getattr(renamed(ITEMS[:5]), library)())
    expected = again("M2TRec").add_items(renamed(ITEMS[:5]))
    assert all_scores(model, TEST).equals(all_scores(expected, TEST))


def test_adding_no_item_changes_nothing():
    model = again("M2TRec").add_items(renamed(ITEMS[:0]))
    assert all_scores(model, TEST).equals(all_scores(fitted("M2TRec"), TEST))


@pytest.mark.parametrize("params", [{}, {"temperature": None}, {"id_mode": "none"}], ids=str)
def test_similar_items_have_the_greatest_cosines(params, tmp_path):
    model = tiny("M2TRec", epochs=1, **params).fit(TRAIN, items=ITEMS).add_items(renamed(ITEMS[:9]))
    vectors = model.item_vectors()[:, :16]
    vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    names = model.item_ids_.to_list()
    model.save(tmp_path / "model")
    for item in ("i07", "new i02"):
        found = model.similar(item, k=68)
        cosines = dict(zip(names, vectors @ vectors[names.index(item)], strict=True))
        np.testing.assert_allclose(found["score"], [cosines[name] for name in found["item_id"]], atol=1e-5)
        assert found["score"].is_sorted(descending=True)
        assert len(set(found["item_id"]) - {item}) == 68
        assert_frame_equal(tabmtl.load(tmp_path / "model").similar(item, k=68), found, abs_tol=1e-5)
    if "id_mode" in params:  # equals in metadata
        assert model.similar("new i02", k=1).select("item_id", "score").row(0) == ("i02", pytest.approx(1))


REFUSED: dict[str, tuple[pl.DataFrame, type[Exception], str]] = {
    "known": (ITEMS[:5], ValueError, r"holds \['i00', 'i01', 'i02'\] already: add new items only"),
    "twice": (renamed(pl.concat([ITEMS[:1], ITEMS[:1]])), ValueError, r"'new i00' more than once in 'item_id'"),
    "no name": (renamed(ITEMS).drop("item_id"), ValueError, r"no column 'item_id'"),
    "lacking": (renamed(ITEMS).drop("brand"), ValueError, r"lacks the column 'brand', which it had in fit"),
    "kind": (renamed(ITEMS).with_columns(price=pl.lit("x")), TypeError, r"'price' was numeric in fit"),
    "names": (ITEMS.with_columns(item_id=pl.int_range(60)), TypeError, "'item_id' are Int64, .* String: cast"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_items_that_do_not_fit_are_refused_and_none_is_added(case):
    items, error, message = REFUSED[case]
    model = again("M2TRec")
    with pytest.raises(error, match=message):
        model.add_items(items)
    assert all_scores(model, TEST).equals(all_scores(fitted("M2TRec"), TEST))


def numbered(frame: pl.DataFrame, dtype: Any = pl.Int32) -> pl.DataFrame:
    return frame.with_columns(pl.col("item_id").str.slice(1).cast(dtype))


def test_added_names_may_be_wider_numbers():
    model = tiny("M2TRec", epochs=1).fit(numbered(TRAIN), items=numbered(ITEMS))
    model.add_items(numbered(ITEMS[:1], pl.Int64).with_columns(item_id=pl.lit(2**40)))
    assert model.recommend(numbered(TEST), k=1, candidates=[2**40])["item_id"].unique().to_list() == [2**40]


def test_without_an_item_table_no_item_can_be_added():
    model = tiny("M2TRec", epochs=1, categories=(), columns=None).fit(TRAIN)
    with pytest.raises(ValueError, match="fitted without an item table, so it knows no new item: fit with items="):
        model.add_items(renamed(ITEMS))


def test_parameters_changed_after_fit_do_not_change_what_was_fitted():
    model = again("M2TRec").set_params(new_item_share=50.0, max_new_share=0.01, d_model=32, max_length=2)
    model.add_items(renamed(ITEMS[:5]))
    expected = again("M2TRec").add_items(renamed(ITEMS[:5]))
    assert all_scores(model, TEST).equals(all_scores(expected, TEST))


def test_before_fit_there_are_no_vectors(tmp_path):
    model = tiny("M2TRec")
    asked = [lambda: model.transform(TEST), model.item_vectors, lambda: model.add_items(ITEMS)]
    for ask in (*asked, lambda: model.export_index(tmp_path), lambda: model.recommend(TEST, approximate=True)):
        with pytest.raises(NotFittedError):
            ask()
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
def test_a_gpu_scores_as_the_cpu():
    model = again("M2TRec").set_params(device="cuda")
    assert_frame_equal(all_scores(model, TEST), all_scores(fitted("M2TRec"), TEST), rel_tol=1e-3, abs_tol=1e-3)


def test_vectors_of_all_items_are_computed_once_a_fit(monkeypatch):
    computed, compute = [], index._vectors_of

    def spied(network, items, *start):
        computed.append(items)
        return compute(network, items, *start)

    monkeypatch.setattr(index, "_vectors_of", spied)
    model = tiny("M2TRec").fit(TRAIN, items=ITEMS)
    all_scores(model, TEST)
    model.transform(TEST)
    whole = [items for items in computed if len(items) == 61]  # epochs are judged among the items of their sessions
    assert [bool(items.own.any()) for items in whole] == [True, False]  # and once without own vectors
    assert index_of(model).items is whole[0]
    assert index_of(model).network is model.fitted_network()[0]
    assert "_bare_vectors" not in vars(index_of(model))


def test_an_encoder_of_text_is_its_vectors_as_a_column_and_new_items_need_it(reloaded):
    def encode(texts):
        return [[len(text), text.count("a")] for text in texts]

    vectors = pl.Series("name", encode(ITEMS["name"].to_list()), dtype=pl.Array(pl.Float32, 2))
    columns = {"name": Text(encoder=encode)}
    plain = tiny("M2TRec", epochs=1, columns=None).fit(TRAIN, items=ITEMS.with_columns(vectors))
    model = tiny("M2TRec", epochs=1, columns=columns).fit(TRAIN, items=ITEMS)
    assert_frame_equal(model.recommend(TEST), plain.recommend(TEST))
    loaded, new = reloaded(model), ITEMS[:2].with_columns(item_id="new " + pl.col("item_id"))
    assert_frame_equal(loaded.recommend(TEST), model.recommend(TEST))
    with pytest.raises(ValueError, match=r"text in \['name'\], by an encoder of fit.*set_params\(columns="):
        loaded.add_items(new)
    assert len(loaded.set_params(columns=columns).add_items(new).item_ids_) == 62
