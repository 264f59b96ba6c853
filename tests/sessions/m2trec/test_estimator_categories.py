"""M2TRec predicts the category of the next click: the probabilities of items, summed for any column of categories."""

from __future__ import annotations

import pickle

import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal
from recommenders import ITEMS, LOG, TEST, TRAIN, all_scores, every_m2trec, fitted, tiny
from sklearn.exceptions import NotFittedError

from tabmtl.base.schema import TabmtlWarning
from tabmtl.sessions import M2TRec


def summed(model: M2TRec, sessions: pl.DataFrame, items: pl.DataFrame, column: str) -> pl.DataFrame:
    """The softmax of what `recommend` says of all items, summed by hand."""
    scores = all_scores(model, sessions).join(items.select("item_id", column), on="item_id")
    weight = (pl.col("score").cast(pl.Float64) - pl.col("score").max()).exp().over("session_id")
    shares = scores.with_columns(share=weight).with_columns(pl.col("share") / pl.col("share").sum().over("session_id"))
    if isinstance(items.schema[column], pl.List):
        shares = shares.explode(column, empty_as_null=True)
    return shares.group_by("session_id", column).agg(probability=pl.col("share").sum()).sort("session_id", column)


def check(model: M2TRec, items: pl.DataFrame, column: str) -> None:
    found = model.predict_categories(TEST, column, k=1_000)
    assert found.columns == ["session_id", "rank", column, "probability"]
    expected = summed(model, TEST, items, column)
    assert_frame_equal(found.drop("rank").sort("session_id", column), expected, check_dtypes=False, rel_tol=1e-3)
    drops = found.group_by("session_id", maintain_order=True).agg(
        falls=pl.col("probability").diff().max() <= 0, counts=(pl.col("rank") == pl.int_range(1, pl.len() + 1)).all()
    )
    assert drops.select("falls", "counts").to_numpy().all()
    assert drops["session_id"].equals(model.recommend(TEST, k=1)["session_id"])


@every_m2trec
@pytest.mark.parametrize("column", ["category", "subcategory", "brand", "tags"])
def test_every_column_sums_the_probabilities_of_its_items(form, column):
    assert ITEMS[column].null_count() or form  # a missing value is a category of its own
    check(fitted(form), ITEMS, column)


def test_added_items_count_in_their_categories_also_after_load(reloaded):
    new = ITEMS[:4].with_columns(
        item_id="new " + pl.col("item_id"),
        brand=pl.Series(["fresh", None, "fresh", ITEMS["brand"][5]]),
        tags=pl.Series([["fresh", "old"], [], None, ["old"]]),
    )
    model = pickle.loads(pickle.dumps(fitted("M2TRec"))).add_items(new)
    for copy in (model, reloaded(model), pickle.loads(pickle.dumps(model))):
        for column in ("brand", "tags", "category"):
            check(copy, pl.concat([ITEMS, new]), column)
    assert fitted("M2TRec").predict_categories(TEST, "brand", k=1_000)["brand"].eq("fresh").sum() == 0


def test_columns_keep_their_types():
    items = ITEMS.with_columns(code=pl.int_range(60) % 3, new=pl.int_range(60) % 2 == 0)
    model = tiny("M2TRec", epochs=1, columns={"code": "category", "name": "text"}).fit(TRAIN, items=items)
    for column in ("code", "new"):
        assert model.predict_categories(TEST, column).schema[column] == items.schema[column]
        check(model, items, column)


def test_sessions_of_unknown_items_and_no_session_are_answered():
    unknown = TEST.with_columns(item_id=pl.lit("nobody"))
    found = fitted("M2TRec").predict_categories(unknown, "brand", k=1_000)
    np.testing.assert_allclose(
        found.group_by("session_id").agg(pl.col("probability").sum())["probability"], 1, rtol=1e-4
    )
    none = fitted("M2TRec").predict_categories(TEST.clear(), "brand")
    assert none.height == 0
    assert none.schema == found.schema


def test_columns_without_categories_are_refused():
    more = ITEMS.with_columns(given=pl.lit([1.0, 2.0]), rank=pl.col("brand"))
    model = tiny("M2TRec", epochs=1).fit(TRAIN, items=more)
    for column, error, message in (
        ("price", ValueError, r"column 'price' of the item table was read as numbers.*declare it 'category'"),
        ("name", ValueError, r"column 'name' of the item table was read as text, not as categories"),
        ("given", ValueError, r"column 'given' of the item table was read as vectors, not as categories; .*\]$"),
        ("tag", ValueError, r"the item table of fit had no column 'tag'; .*near is 'tags'"),
        (["brand"], TypeError, "column must be the name of a column"),
    ):
        with pytest.raises(error, match=message):
            model.predict_categories(TEST, column)
        with pytest.raises(error, match=message):
            model.evaluate(TEST, categories=column)
    with pytest.raises(ValueError, match="'tags' holds tags, several an item: evaluate a column of one category"):
        model.evaluate(TEST, categories="tags")
    with pytest.raises(ValueError, match="'rank' is named like another column of the answer"):
        model.predict_categories(TEST, "rank")


def test_what_cannot_be_answered_is_refused():
    for k in (0, 2.5, None):
        with pytest.raises(ValueError, match="k must be"):
            fitted("M2TRec").predict_categories(TEST, "brand", k=k)
    with pytest.raises(NotFittedError):
        tiny("M2TRec").predict_categories(TEST, "brand")
    with pytest.raises(ValueError, match="fitted without an item table, so it knows no category: fit with items="):
        tiny("M2TRec", epochs=1, categories=(), columns=None).fit(TRAIN).predict_categories(TEST, "brand")


@every_m2trec
def test_evaluate_judges_what_is_predicted(form):
    model = fitted(form)
    table = model.evaluate(TEST, [5, 20], categories="brand")
    plain = model.evaluate(TEST, [5, 20])
    assert table.select(plain.columns).equals(plain)
    # every prefix as a session of its own
    place = pl.int_range(pl.len()).over("session_id", order_by="time")
    clicks = TEST.with_columns(place=place, n=pl.len().over("session_id")).join(
        ITEMS.select("item_id", "brand"), on="item_id"
    )
    prefixes, targets = [], []
    for n in range(1, clicks["n"].max()):
        longer = clicks.filter(pl.col("n") > n)
        prefixes.append(longer.filter(pl.col("place") < n).with_columns(session_id=1_000 * pl.col("session_id") + n))
        targets.append(longer.filter(pl.col("place") == n).with_columns(session_id=1_000 * pl.col("session_id") + n))
    found = model.predict_categories(pl.concat(prefixes).sort("session_id", "time"), "brand", k=1_000)
    joined = pl.concat(targets).join(found, on=["session_id", "brand"], nulls_equal=True)
    all_targets = table.row(0, named=True)
    assert len(joined) == all_targets["n_targets"]
    assert all_targets["category_accuracy"] == pytest.approx((joined["rank"] == 1).mean())
    assert all_targets["category_top3"] == pytest.approx((joined["rank"] <= 3).mean())
    assert all_targets["category_log_likelihood"] == pytest.approx(joined["probability"].log().mean(), rel=1e-3)
    last = clicks.sort("session_id", "place").select(
        same=pl.col("brand").eq_missing(pl.col("brand").shift(1).over("session_id")), place="place"
    )
    assert all_targets["last_accuracy"] == pytest.approx(last.filter(pl.col("place") > 0)["same"].mean())


@pytest.mark.all_faces
def test_a_trained_model_predicts_categories():
    """Better than the shares of categories; transitions between five, the single task of this world, are ahead."""
    train, test = LOG.draw(3_000, random_state=1).split()
    model = tiny("M2TRec", d_model=32, epochs=6).fit(train, items=ITEMS)
    found = model.evaluate(test, categories="category").row(0, named=True)
    share = train.join(ITEMS, on="item_id")["category"].value_counts(normalize=True)["proportion"]
    assert share.max() < 0.4
    assert 0.7 < found["last_accuracy"] < 0.75
    assert found["category_accuracy"] > 0.65
    assert found["category_top3"] > 0.85
    assert share.log().dot(share) < -1.4
    assert found["category_log_likelihood"] > -1.2
    assert found["transitions_log_likelihood"] > -0.9


def test_a_column_of_names_is_answered_too():
    with pytest.warns(TabmtlWarning, match="names items"):
        model = tiny("M2TRec", epochs=1, columns=None).fit(TRAIN, items=ITEMS.with_columns(name="item_id"))
    found = model.predict_categories(TEST, "name", k=60)
    assert found["name"].n_unique() == 60
