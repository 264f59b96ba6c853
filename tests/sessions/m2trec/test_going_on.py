"""M2TRec goes on: rows for new items and levels, what stays as fit measured it, and one pass over new sessions."""

from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from recommenders import ITEMS, TEST, TRAIN, all_scores, renamed, tiny

from tabmtl import TabmtlWarning
from tabmtl.base.schema import FIRST_LEVEL, UNSEEN
from tabmtl.sessions import Blend, M2TRec, temporal_split
from tabmtl.sessions.m2trec import going_on

OLD, NEW = temporal_split(TRAIN, test_size=0.3)
#: Twelve items are listed in the second table only, nine of them clicked, of a brand that the first table has not.
LATER = renamed(ITEMS[::5], "later ").with_columns(brand=pl.lit("newer"))
CLICKED = pl.concat([NEW, renamed(NEW.filter(pl.col("item_id").is_in(ITEMS["item_id"][::5].implode())), "later ")])
CLICKS_OF_LATER = np.array([(CLICKED["item_id"] == name).sum() for name in LATER["item_id"].sort()])


@pytest.fixture
def _still(monkeypatch):
    """Let a pass move no weight."""
    monkeypatch.setattr(going_on, "PASS_RATE", 0.0)


def first(**params):
    return tiny("M2TRec", repeats=False, **params).fit(OLD, items=ITEMS)


@pytest.mark.usefixtures("_still")
@pytest.mark.parametrize("params", [{}, {"id_mode": "none"}])
def test_new_rows_begin_as_they_were_read_and_all_others_keep_their_weights(params):
    model = first(**params)
    before, coder, own = dict(model.weights_), model._coder.features.columns, model._items.own_rows
    known, clicked = all_scores(model, TEST), OLD["item_id"].unique().to_list()
    model.partial_fit(CLICKED, items=pl.concat([ITEMS, LATER]))
    after, grown = model.weights_, model._coder.features.columns
    brand = coder.categorical.index("brand")
    assert grown.levels[brand] == (*coder.levels[brand], "newer")
    place = sum(grown.cardinalities[:brand]) + len(coder.levels[brand]) + FIRST_LEVEL
    unseen = before["items.tower.tokenizer.categorical.table.weight"][sum(coder.cardinalities[:brand]) + UNSEEN]
    assert after["items.tower.tokenizer.categorical.table.weight"][place].tolist() == unseen.tolist()
    assert len(set(before) ^ set(after)) == 0
    if "items.own.weight" in after:
        rows = model._items.own_rows
        np.testing.assert_array_equal(
            after["items.own.weight"][rows[: len(own)]][own > 0], before["items.own.weight"][own[own > 0]]
        )
        length = np.linalg.norm(after["items.own.weight"][rows[len(own) :]][CLICKS_OF_LATER > 0], axis=1)
        usual = np.median(np.linalg.norm(before["items.own.weight"][1:], axis=1))
        assert 0.4 * usual < np.median(length) < 2 * usual
    if "id_mode" not in params:  # where items do not share units by their clicks
        found = known.join(all_scores(model, TEST), on=["session_id", "item_id"]).filter(
            pl.col("item_id").is_in(clicked)
        )
        np.testing.assert_allclose(found["score_right"], found["score"], rtol=1e-4, atol=1e-4)


def test_a_pass_adds_its_line_and_learns():
    model = first(epochs=2)
    history = model.history_
    model.partial_fit(CLICKED, items=pl.concat([ITEMS, LATER]))
    assert model.history_["epoch"].to_list() == [*range(len(history) + 1)]
    assert model.best_iteration_ == len(history) + 1
    assert model.history_[: len(history)].select(history.columns).equals(history)
    again = model.partial_fit(CLICKED, items=pl.concat([ITEMS, LATER])).history_["train/item/loss"]
    assert again[-1] < again[-2]


def test_categories_follow_the_new_log():
    model = first()
    old = model._column_of("category").transitions.counts.sum()
    model.partial_fit(NEW, items=ITEMS)
    both = tiny("M2TRec", epochs=1).fit(pl.concat([OLD, NEW]), items=ITEMS)._column_of("category").transitions
    found = model._column_of("category").transitions
    assert found.counts.sum() > old
    assert found.counts.tolist() == both.counts.tolist()
    assert model.predict_categories(["i00"], "category").height == 3


def test_without_metadata_new_items_join_by_their_clicks():
    model = tiny("M2TRec", categories=(), columns=None, epochs=1).fit(OLD)
    with pytest.raises(ValueError, match=r"fitted without metadata, and the item table has \['category', .*: leave"):
        model.partial_fit(CLICKED, items=pl.concat([ITEMS, LATER]))
    model.partial_fit(CLICKED, items=pl.concat([ITEMS, LATER]).select("item_id"))
    assert model.n_items_ == len(ITEMS) + len(LATER)
    assert all_scores(model, TEST)["score"].is_finite().all()


def test_new_items_without_a_table_are_told_of():
    model = first(epochs=1)
    with pytest.warns(TabmtlWarning, match="the log has 9 new items, and there is no item table: all their metadata"):
        model.partial_fit(CLICKED)
    assert all_scores(model, TEST)["score"].is_finite().all()


def test_a_table_that_lacks_a_column_or_has_another_kind_is_refused():
    model = first(epochs=1)
    with pytest.raises(ValueError, match="lacks the column 'price', which it had in fit"):
        model.partial_fit(CLICKED, items=pl.concat([ITEMS, LATER]).drop("price"))
    with pytest.raises(TypeError, match="column 'price' was numeric in fit and is now String"):
        model.partial_fit(CLICKED, items=pl.concat([ITEMS, LATER]).with_columns(price=pl.lit("much")))
    assert model.n_items_ == len(ITEMS)


def test_parts_of_a_blend_go_on_and_take_items_that_they_were_not_told_of():
    parts = [tiny("M2TRec").set_params(random_state=None), tiny("CategoryPopularity"), tiny("STAN")]
    model = Blend(parts, random_state=0).fit(OLD, items=ITEMS)
    model.add_items(renamed(ITEMS[:2], "added "))
    model.partial_fit(CLICKED, items=pl.concat([ITEMS, LATER]))
    assert {part.n_items_ for part in model.estimators_.values()} == {model.n_items_} == {len(ITEMS) + 2 + len(LATER)}
    assert all(part.item_ids_.equals(model.item_ids_) for part in model.estimators_.values())
    assert all_scores(model, TEST)["score"].is_finite().all()
    weights = model.blend_weights_
    assert model.partial_fit(NEW).blend_weights_.equals(weights)
    assert not model.partial_fit(NEW, clicks_val=TEST).blend_weights_.equals(weights)


def test_a_file_of_before_is_read_if_it_has_no_optimizer():
    model = first(epochs=1)
    saved = model.__saved__()
    facts = saved.facts | {"optimizer": {}, "params": saved.facts["params"] | {"keep_optimizer": False}}
    assert all_scores(M2TRec.__from_saved__(replace(saved, facts=facts)), TEST).equals(all_scores(model, TEST))
    arrays = saved.arrays | {"optimizer.step/heads.0.bias": np.ones(1)}
    with pytest.raises(ValueError, match="optimizer"):
        M2TRec.__from_saved__(replace(saved, facts=facts, arrays=arrays))
