"""Popularity, and popularity in the category of the last click."""

import numpy as np
import polars as pl
import pytest

from tabmtl.base.schema import TabmtlWarning
from tabmtl.sessions import CategoryPopularity, Popularity
from tabmtl.sessions.popularity import fill_with_popularity, popularity_below_zero

# clicks: a 3, b 2, c 1, d 1; e was never clicked
CLICKS = [("s1", "a"), ("s1", "b"), ("s1", "a"), ("s2", "c"), ("s2", "a"), ("s3", "d"), ("s3", "b")]
TEXT = (pl.String, pl.Categorical, pl.Enum)
CATEGORIES = {"a": "x", "b": "y", "c": "y", "d": None, "e": "y"}


def log(pairs):
    sessions, items = zip(*pairs, strict=True)
    return pl.DataFrame({"session_id": sessions, "item_id": items, "time": range(len(pairs))})


def table(dtype=pl.String, name="category"):
    return pl.DataFrame({"item_id": list(CATEGORIES), name: pl.Series(list(CATEGORIES.values())).cast(dtype)})


def order(model, items):
    return "".join(model.recommend(log([("new", item) for item in items]), k=5)["item_id"])


def test_popularity_is_the_share_of_all_clicks():
    model = Popularity().fit(log(CLICKS), items=table())
    found = model.recommend(log([("new", "c")]), k=5)
    assert found["item_id"].to_list() == ["a", "b", "c", "d", "e"]
    np.testing.assert_allclose(found["score"], np.array([3, 2, 1, 1, 0]) / 7, rtol=1e-6)
    assert order(model, "zz") == "abcde"


def test_items_of_the_category_come_first_and_each_part_is_by_popularity():
    model = CategoryPopularity().fit(log(CLICKS), items=table())
    found = model.recommend(log([("new", "c")]), k=5)
    assert found["item_id"].to_list() == ["b", "c", "e", "a", "d"]
    # 3 clicks on the 3 items of y; the others relative to the most clicked item
    np.testing.assert_allclose(found["score"], [3 / 6, 2 / 6, 1 / 6, 3 / 4 - 1, 1 / 4 - 1], rtol=1e-6)


@pytest.mark.parametrize(
    ("clicked", "expected"),
    [
        pytest.param("a", "abcde", id="one item in the category"),
        pytest.param("ac", "bcead", id="the last click counts"),
        pytest.param("cz", "bcead", id="unseen last"),
        pytest.param("d", "abcde", id="no category"),
        pytest.param("cd", "abcde", id="no category last"),
        pytest.param("zz", "abcde", id="nothing known"),
    ],
)
def test_order_of_popularity_in_the_category(clicked, expected):
    assert order(CategoryPopularity().fit(log(CLICKS), items=table()), clicked) == expected


@pytest.mark.parametrize("dtype", [pl.String, pl.Categorical, pl.Enum(["x", "y"]), pl.Int8, pl.Float64, pl.Boolean])
def test_categories_may_be_of_any_type(dtype):
    missing = np.nan if dtype == pl.Float64 else None
    codes = pl.Series(list(CATEGORIES.values())).replace_strict({"x": 0, "y": 1}, default=missing)
    items = table(dtype) if dtype in TEXT else table().with_columns(category=codes.cast(dtype))
    model = CategoryPopularity().fit(log(CLICKS), items=items)
    assert (order(model, "c"), order(model, "d")) == ("bcead", "abcde")


def test_the_name_of_categories_may_look_like_a_pattern():
    assert order(CategoryPopularity(category="^c.*$").fit(log(CLICKS), items=table(name="^c.*$")), "c") == "bcead"


def test_clicked_items_that_the_table_lacks_have_no_category():
    with pytest.warns(TabmtlWarning, match="not in the item table"):
        model = CategoryPopularity().fit(log(CLICKS), items=table().filter(pl.col("item_id") != "a"))
    assert order(model, "a") == "abcde"
    assert order(model, "b") == "bcead"


@pytest.mark.parametrize(
    ("items", "message"),
    [
        pytest.param(None, r"no item table to hold the column 'category'.*items=", id="no table"),
        pytest.param(table(name="brand"), r"no column 'category'; its columns are \['brand'\]", id="no column"),
        pytest.param(
            table().with_columns(pl.concat_list("category")), r"the column 'category' .* holds List", id="lists"
        ),
    ],
)
def test_errors_name_the_column_and_leave_the_recommender_as_it_was(items, message):
    model = CategoryPopularity().fit(log(CLICKS), items=table())
    with pytest.raises(ValueError, match=message):
        model.fit(log(CLICKS[:2]), items=items)
    assert order(model, "c") == "bcead"


def test_the_fallback_keeps_what_was_found_and_ranks_the_rest_by_popularity():
    counts = np.array([0, 10, 3, 3])
    scores = fill_with_popularity(np.array([[0, 0, 1e-30, 0], [2, 1, 0, 0]], dtype=np.float32), counts)
    np.testing.assert_allclose(scores, [[-1, -1 / 11, 1e-30, 3 / 11 - 1], [2, 1, 3 / 11 - 1, 3 / 11 - 1]], rtol=1e-6)
    assert scores.dtype == np.float32


def test_the_fallback_stays_below_zero_and_tells_single_clicks_apart():
    below = popularity_below_zero(np.array([0, 1, 2, 1_000_000]))
    assert below.dtype == np.float32
    assert below[0] == -1
    assert (np.diff(below) > 0).all()
    assert below[-1] < 0
