"""M2TRec: what its parameters do, how its training ends, and what it refuses."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import polars as pl
import pytest
from recommenders import ITEMS, TEST, TRAIN, all_scores, fitted, tiny

from tabmtl.base.schema import TabmtlWarning
from tabmtl.sessions import M2TRec, Popularity


def fit(**params: Any) -> M2TRec:
    return tiny("M2TRec", **params).fit(TRAIN, items=ITEMS)


def test_the_best_weights_are_kept():
    still = {"dropout": 0.0, "pooling": "undirected", "repeats": False}
    model = tiny("M2TRec", epochs=40, learning_rate=0.05, patience=3, **still)
    train = TRAIN.head(500)
    items = ITEMS.filter(pl.col("item_id").is_in(train["item_id"].implode()))
    history = model.fit(train, items=items, clicks_val=TEST).history_
    assert history["epoch"].to_list() == list(range(len(history)))
    assert history.schema == {name: pl.Int64 if name == "epoch" else pl.Float64 for name in history.columns}
    assert {"train/loss", "train/item/loss", "train/category/loss", "train/subcategory/loss"} < set(history.columns)
    best = history["val/mrr@20"].to_list().index(history["val/mrr@20"].max())
    assert model.best_iteration_ == best + 1
    assert len(history) == best + 1 + 3 < 40
    ranking = model.rank(TEST)
    assert ranking.mrr(20) == pytest.approx(history["val/mrr@20"][best], abs=1e-3)
    assert ranking.recall(20) == pytest.approx(history["val/recall@20"][best], abs=5e-3)
    assert ranking.mrr(20) > history["val/mrr@20"][-1] + 1e-3


def test_the_losses_add_up_by_their_weights():
    row = fit(epochs=1, category_weight=[0.25, 2.0]).history_.row(0, named=True)
    parts = row["train/item/loss"] + 0.25 * row["train/category/loss"] + 2 * row["train/subcategory/loss"]
    assert row["train/loss"] == pytest.approx(parts, rel=1e-5)


def test_the_newest_sessions_are_held_back():
    model = fit(epochs=1, validation_fraction=0.2)
    order = TRAIN.group_by("session_id").agg(pl.col("time").max()).sort("time")["session_id"]
    kept = order[: len(order) - round(0.2 * len(order))].to_list()
    old, new = (TRAIN.filter(pl.col("session_id").is_in(kept) == here) for here in (True, False))
    by_hand = tiny("M2TRec", epochs=1).fit(old, items=ITEMS, clicks_val=new)
    columns = model.history_.columns
    assert model.history_.equals(by_hand.history_.select(columns))
    assert model.item_counts_.sum() == len(TRAIN)


def test_without_early_stopping_all_is_trained_on_to_the_end():
    params = {"epochs": 3, "early_stopping": False, "pooling": "undirected", "repeats": False}
    model = tiny("M2TRec", **params).fit(TRAIN, items=ITEMS, clicks_val=TEST)
    assert len(model.history_) == model.best_iteration_ == 3
    alone = tiny("M2TRec", **params).fit(TRAIN, items=ITEMS)
    watched = [name for name in model.history_.columns if name not in alone.history_.columns]
    assert watched == ["val/recall@20", "val/mrr@20"]  # the last weights are kept whatever these say
    assert all(np.array_equal(weights, model.weights_[name]) for name, weights in alone.weights_.items())
    few = TRAIN.filter(pl.col("session_id").is_in(TRAIN["session_id"].unique()[:19].to_list()))
    assert "val/mrr@20" not in tiny("M2TRec").fit(few, items=ITEMS).history_.columns


def test_on_epoch_sees_every_epoch_and_stops():
    seen: list[dict[str, Any]] = []

    def stop(record):
        seen.append(dict(record))
        return len(seen) == 2

    model = fit(epochs=9, on_epoch=stop)
    assert len(model.history_) == 2
    assert seen == model.history_.to_dicts()


def test_a_fit_that_is_broken_off_leaves_the_model_as_it_was():
    def fail(record):
        raise KeyboardInterrupt

    model = pickle.loads(pickle.dumps(fitted("M2TRec"))).set_params(on_epoch=fail)
    with pytest.raises(KeyboardInterrupt):
        model.fit(TRAIN.head(200), items=ITEMS)
    assert all_scores(model, TEST).equals(all_scores(fitted("M2TRec"), TEST))
    with pytest.raises(ValueError, match=r"training diverged: .* lower learning_rate \(now 1e\+20\)"):
        model.set_params(on_epoch=None, learning_rate=1e20, temperature=None, epochs=5).fit(TRAIN, items=ITEMS)
    assert all_scores(model, TEST).equals(all_scores(fitted("M2TRec"), TEST))


def test_what_was_reported_is_saved_and_callbacks_are_not(reloaded):
    model = fit(on_epoch=print)
    loaded = reloaded(model)
    assert loaded.on_epoch is None
    assert loaded.history_.equals(model.history_)
    assert loaded.best_iteration_ == model.best_iteration_
    assert loaded.oracle_ceiling_ == model.oracle_ceiling_
    assert loaded.n_distinct_metadata_ == model.n_distinct_metadata_ == 60
    assert loaded.weights_.keys() == model.weights_.keys()


def heads(model: M2TRec) -> set[str]:
    return {name.split(".")[1] for name in model.weights_ if name.startswith("heads.")}


def test_a_weight_of_0_is_no_head():
    assert heads(fitted("M2TRec")) == {"0", "1"}
    one = fit(epochs=1, category_weight=[0, 0.5])
    assert heads(one) == {"0"}
    assert [name for name in one.history_.columns if "category" in name] == ["train/subcategory/loss"]
    none = fit(epochs=1, category_weight=0)
    assert heads(none) == set()
    assert none.history_.columns[:3] == ["epoch", "train/loss", "train/item/loss"]
    # the columns stay features
    assert all_scores(none, TEST).equals(all_scores(fit(epochs=1, categories=()), TEST))


def test_categories_of_numbers_are_heads_too():
    items = ITEMS.with_columns(pl.col("category").cast(pl.Categorical).to_physical())
    model = tiny("M2TRec", categories=["category"]).fit(TRAIN, items=items)
    assert model.weights_["heads.0.weight"].shape == (2 + 5, 16)


def test_without_an_item_table_items_are_their_ids():
    model = tiny("M2TRec", categories=(), columns=None, epochs=8, learning_rate=0.01).fit(TRAIN)
    assert model.n_items_ == TRAIN["item_id"].n_unique()
    assert not hasattr(model, "oracle_ceiling_")
    assert not [name for name in model.weights_ if "tower" in name]
    assert model.score(TEST) > 1.5 * Popularity().fit(TRAIN).score(TEST)


def twins() -> pl.DataFrame:
    """Every item has the metadata of the one before or behind it."""
    place = pl.int_range(pl.len()) // 2 * 2
    return ITEMS.select("item_id", pl.exclude("item_id").gather(place))


def test_without_ids_equals_are_ranked_by_training_clicks():
    model = tiny("M2TRec", id_mode="none", early_stopping=False).fit(TRAIN, items=twins())
    assert model.n_distinct_metadata_ <= 30
    scores = all_scores(model, TEST)["score"].to_numpy().reshape(-1, 30, 2)
    counts = model.item_counts_.reshape(30, 2)
    credited = np.where(counts > 0, counts, model._new_items.share * np.maximum(counts[:, ::-1], 1))
    gaps = np.log(credited[:, 0]) - np.log(credited[:, 1])
    np.testing.assert_allclose(scores[..., 0] - scores[..., 1], np.broadcast_to(gaps, scores.shape[:2]), atol=1e-4)


def test_own_vectors_tell_equals_apart():
    gaps = []
    for mode in ("none", "full"):
        model = tiny("M2TRec", pooling="undirected", repeats=False, id_mode=mode).fit(TRAIN, items=twins())
        clicked = (model.item_counts_ > 5).reshape(30, 2).all(axis=1)
        vectors = model.item_vectors()[:, :16].reshape(30, 2, 16)[clicked]
        gaps.append(np.linalg.norm(vectors[:, 0] - vectors[:, 1], axis=1).mean())
    assert gaps[0] < 1e-4
    assert gaps[1] > 0.1


@pytest.mark.all_faces  # six seconds each
@pytest.mark.parametrize(
    "params",
    [{"n_negatives": 10}, {"precision": "bf16"}, {"temperature": None}, {"training": "per_prefix"}],
    ids=str,
)
def test_cheaper_and_other_forms_learn_too(params):
    score = fit(epochs=10, learning_rate=0.01, **params).score(TEST)
    assert score > 1.4 * Popularity().fit(TRAIN).score(TEST)


def test_columns_of_every_kind_are_read():
    vectors = pl.Series("vector", np.random.default_rng(0).normal(size=(60, 3)).tolist())
    changed = ITEMS.with_columns(vectors, flag=pl.col("price") > 50, nothing=pl.lit(None))
    model = tiny("M2TRec").fit(TRAIN, items=changed)
    first = changed[:1].with_columns(item_id=pl.lit("new"))
    before = pickle.loads(pickle.dumps(model)).add_items(first).item_vectors()[-1]
    for column in ("vector", "flag", "price", "tags", "name", "brand", "subcategory"):
        known = changed[column].drop_nulls().to_list()
        other = next(value for value in known if value != first[column].to_list()[0])
        mixed = first.with_columns(pl.Series(column, [other], dtype=first[column].dtype))
        vector = pickle.loads(pickle.dumps(model)).add_items(mixed).item_vectors()[-1]
        assert np.abs(vector - before).max() > 1e-3, column


def test_a_column_that_names_items_is_warned_of_where_fit_is_called():
    with pytest.warns(TabmtlWarning, match=r"'name' .* 53 levels for 53 items.*declare it 'text'") as caught:
        tiny("M2TRec", columns=None, epochs=1).fit(TRAIN, items=ITEMS)
    assert caught[0].filename == __file__


def test_seeds():
    states = [np.random.RandomState(3) for _ in range(2)]
    first, second = (all_scores(fit(epochs=1, random_state=state), TEST) for state in states)
    assert first.equals(second)
    assert not any(all_scores(fit(epochs=1, random_state=seed), TEST).equals(first) for seed in (0, None))


def test_progress_is_shown(capsys):
    fit(verbose=1)
    shown = capsys.readouterr()
    assert "val/mrr@20" in shown.out + shown.err
    assert "60 of 60 items apart: without ids, Recall@20 is at most 1.000" in shown.out


def test_the_form_of_the_paper_has_no_ids_and_no_layers_between_fields_and_encoder():
    params = {"columns": {"name": "text"}, "epochs": 2, "batch_size": 128, "n_jobs": 1, "random_state": 0}
    model = M2TRec.paper(categories=["category", "subcategory"], **params).fit(TRAIN, items=ITEMS)
    assert model.get_params()["epochs"] == 2
    assert not any(name.startswith(("items.own", "items.tower.up")) for name in model.weights_)
    assert {"train/category/loss", "train/subcategory/loss"} < set(model.history_.columns)
    width = 32 * (ITEMS.width - 1)
    assert model.weights_["encoder.norm.weight"].shape == (width,)
    assert model.item_vectors().shape[0] == model.n_items_
    trivial = Popularity().fit(TRAIN).score(TEST)
    assert trivial + 0.1 < model.score(TEST)  # MRR@20 .229, .463


@pytest.mark.parametrize("native", [False, True])
def test_auto_is_bfloat16_where_the_processor_has_it(native, monkeypatch):
    monkeypatch.setattr("torch.cpu._is_amx_tile_supported", lambda: False)
    monkeypatch.setattr("torch.cpu._is_avx512_bf16_supported", lambda: native)
    losses = {name: fit(epochs=1, precision=name).history_["train/loss"][0] for name in ("auto", "float32", "bf16")}
    assert losses["bf16"] != losses["float32"]
    assert losses["auto"] == losses["bf16" if native else "float32"]
