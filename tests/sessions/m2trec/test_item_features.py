"""Metadata of items to arrays: equal rows become one, and what is new, rare or missing has its place."""

from __future__ import annotations

from dataclasses import replace
from datetime import date
from typing import Any

import numpy as np
import polars as pl
import pytest
from forging import through_file
from hypothesis import given, settings
from hypothesis import strategies as st

from tabmtl.base.schema import FIRST_LEVEL, MISSING, UNSEEN, TabmtlWarning
from tabmtl.base.storage.stored import put_together, take_apart
from tabmtl.columns import Category, Features, Sequence, Text
from tabmtl.sessions.m2trec.item_features import ItemCoder

TABLE = pl.DataFrame(
    {
        "brand": ["x", "y", None, "x", "x"],
        "price": [1.0, 2.0, None, 1.0, 3.0],
        "tags": [["a", "b"], ["a"], None, ["b", "a"], []],
        "name": ["red shoe", "blue hat", None, "red shoe", ""],
        "vector": [[1.0, 0.0], [0.0, 1.0], None, [1.0, 0.0], [0.0, 0.0]],
    }
)


def fit(table: pl.DataFrame = TABLE, **options: Any) -> ItemCoder:
    options.setdefault("columns", {name: Text() for name in table.columns if name == "name"})
    return ItemCoder.fit(table, **options)


def decoded(encoded: tuple[Features, np.ndarray]) -> list[tuple[Any, ...]]:
    """All that is known of every item, whatever its row."""
    features, row = encoded
    keys = list(features.keys())
    return [keys[place] for place in row]


def test_columns_are_read_by_their_type():
    coder = fit()
    assert coder.features.columns.categorical == ("brand",)
    assert coder.features.columns.numeric == ("price",)
    names = {"tags": ("tags",), "texts": ("name",), "vectors": ("vector",)}
    assert {kind: coder.features.coders[kind].names for kind in names} == names
    assert coder.features.columns.bag_sizes == (FIRST_LEVEL + 2, FIRST_LEVEL + 2**15)
    assert coder.features.columns.vector_widths == (2,)
    assert coder.category_names == ["brand", "tags"]


def test_dates_of_items_are_read():
    table = TABLE.with_columns(since=pl.date_range(date(2024, 1, 28), date(2024, 2, 1), eager=True))
    coder = fit(table)
    assert coder.features.columns.numeric[1:] == ("since: elapsed", "since: day cos", "since: day sin")
    assert len(set(decoded(coder.encode(table)))) == len(table)


def test_equal_rows_become_one():
    features, row = fit().encode(TABLE)
    assert row.tolist() == [0, 1, 2, 0, 3]
    assert len(features) == len(features.codes) == len(features.vectors) == len(features.bags[0]) == 4
    assert features.codes[:, 0].tolist() == [FIRST_LEVEL, FIRST_LEVEL + 1, MISSING, FIRST_LEVEL]
    np.testing.assert_array_equal(np.isnan(features.numbers[:, 0]), [False, False, True, False])
    np.testing.assert_array_equal(np.isnan(features.vectors), np.outer([False, False, True, False], [True, True]))
    assert np.sign(features.vectors[0] - features.vectors[1]).tolist() == [1, -1]


@pytest.mark.parametrize("column", TABLE.columns)
def test_every_kind_of_column_tells_rows_apart_alone(column):
    table = TABLE.select(column)
    features, row = fit(table).encode(table)
    expected = [0, 1, 2, 0, {"brand": 0}.get(column, 3)]  # what is empty or zero is not missing
    assert row.tolist() == expected
    assert len(features) == max(expected) + 1


@settings(deadline=None, max_examples=30)
@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2), st.integers(0, 2)), min_size=1, max_size=12))
def test_items_share_a_row_if_and_only_if_they_are_equal(cells):
    brands, tags, words = ["x", "y", None], [["a", "b"], ["a"], None], ["one two", "two", None]
    table = pl.DataFrame(
        {
            "brand": pl.Series([brands[a] for a, _, _ in cells], dtype=pl.String),
            "tags": pl.Series([tags[b] for _, b, _ in cells], dtype=pl.List(pl.String)),
            "name": pl.Series([words[c] for _, _, c in cells], dtype=pl.String),
        }
    )
    features, rows = fit(table).encode(table)
    for first, row in zip(cells, rows, strict=True):
        assert [first == other for other in cells] == (rows == row).tolist()
    assert sorted(set(rows.tolist())) == list(range(len(features)))


def test_what_is_unseen_is_one_thing_and_what_is_missing_another():
    new = TABLE[:3].with_columns(
        brand=pl.Series(["new", "newer", None]),
        tags=pl.Series([["new"], ["newer"], None], dtype=pl.List(pl.String)),
        price=pl.lit(None),
        name=pl.lit(None),
        vector=pl.lit(None),
    )
    features, row = fit().encode(new)
    assert row.tolist() == [0, 0, 1]  # nobody can tell two new brands apart
    assert features.codes[:, 0].tolist() == [UNSEEN, MISSING]
    assert features.bags[0].codes.tolist() == [UNSEEN, MISSING]
    assert np.isnan(features.numbers).all()


def test_rare_levels_count_as_unseen():
    features, row = fit(min_frequency=2).encode(TABLE)
    assert features.codes[row, 0].tolist() == [FIRST_LEVEL, UNSEEN, MISSING, FIRST_LEVEL, FIRST_LEVEL]
    table = pl.DataFrame({"brand": ["x", "y", "z"]})
    assert fit(table, min_frequency=2).encode(table)[1].tolist() == [0, 0, 0]


def test_missing_numbers_of_any_kind_are_equal():
    table = pl.DataFrame({"price": [1.0, None, float("nan"), -float("nan"), 2.0]})
    assert fit(table).encode(table)[1].tolist() == [0, 1, 1, 1, 2]


def test_no_tag_an_empty_tag_and_several_are_different():
    tags = [[], [""], None, ["", ""], ["b", "a"], ["a", "b"], ["ab"], ["a", None, "b"]]
    table = pl.DataFrame({"tags": pl.Series(tags, dtype=pl.List(pl.String))})
    assert fit(table).encode(table)[1].tolist() == [0, 1, 2, 3, 4, 4, 5, 4]


def test_rows_of_known_metadata_join_it():
    coder = fit()
    known, row = coder.encode(TABLE)
    new = TABLE[[4, 1, 0]].with_columns(tags=pl.Series([[], ["a"], ["b", "a"]], dtype=pl.List(pl.String)))
    new = pl.concat([new, new[:1].with_columns(price=9.0)])
    more, new_row = coder.encode(new)
    apart, apart_row = known.extended(more), np.concatenate([row, len(known) + new_row])
    assert apart_row.tolist() == [0, 1, 2, 0, 3, 4, 5, 6, 7]
    joined, place = apart.distinct()
    assert place[apart_row].tolist() == [0, 1, 2, 0, 3, 3, 1, 0, 4]
    assert len(joined) == 5
    both = decoded((known, row)) + decoded((more, new_row))
    assert decoded((joined, place[apart_row])) == decoded((apart, apart_row)) == both
    # known rows keep their numbers, for units of a network are counted by them
    assert list(joined.keys())[: len(known)] == list(known.keys())


def test_the_order_of_items_does_not_matter():
    coder = fit()
    assert decoded(coder.encode(TABLE[::-1])) == decoded(coder.encode(TABLE))[::-1]
    alone = [decoded(coder.encode(TABLE[place : place + 1]))[0] for place in range(len(TABLE))]
    assert alone == decoded(coder.encode(TABLE))


def test_columns_may_have_any_order_and_more_of_them_are_left_aside():
    coder = fit()
    shuffled = TABLE.select(reversed(TABLE.columns)).with_columns(other=pl.lit(1))
    assert decoded(coder.encode(shuffled)) == decoded(coder.encode(TABLE))


def test_a_name_that_looks_like_a_pattern_is_a_name():
    names = {"brand": "^.*$", "price": "*", "tags": "^t"}
    assert decoded(fit(TABLE.rename(names)).encode(TABLE.rename(names))) == decoded(fit().encode(TABLE))


def test_categories_are_levels_whatever_their_type():
    table = pl.DataFrame({"aisle": [3, 5, None, 3], "price": [1.0, 1.0, 1.0, 1.0]})
    coder = fit(table, categories=["aisle"])
    assert coder.features.columns.categorical == ("aisle",)
    assert coder.encode(table)[0].codes[:, 0].tolist() == [FIRST_LEVEL, FIRST_LEVEL + 1, MISSING]
    named = fit(table, columns={"price": Category()}, categories=["aisle"])
    assert named.features.columns.numeric == ()


def test_no_item_and_a_column_of_nulls_are_encoded():
    coder = fit()
    assert len(coder.encode(TABLE[:0])[0]) == 0
    nothing = pl.DataFrame({name: pl.Series([None, None]) for name in TABLE.columns})
    assert decoded(coder.encode(nothing)) == decoded(coder.encode(TABLE[[2, 2]]))


def test_a_coder_comes_back_from_its_state():
    coder = fit()
    again = through_file(coder)
    assert again.features.columns == coder.features.columns
    assert decoded(again.encode(TABLE)) == decoded(coder.encode(TABLE))
    tags_only = fit(TABLE.select("tags"))
    assert decoded(through_file(tags_only).encode(TABLE)) == decoded(tags_only.encode(TABLE))


def test_a_column_that_names_items_is_warned_of():
    table = pl.DataFrame({"sku": [f"{i}" for i in range(60)], "brand": ["x", "y"] * 30})
    with pytest.warns(TabmtlWarning, match=r"'sku' .* has 60 levels for 60 items, .* 'text' .* 'ignore'"):
        ItemCoder.fit(table)
    ItemCoder.fit(table, columns={"sku": Text()})
    ItemCoder.fit(table[:40])  # of few items, few levels are many


def test_a_number_that_names_items_is_not_said_to_be_text():
    table = pl.DataFrame({"price": [float(i) for i in range(60)], "brand": ["x", "y"] * 30})
    with pytest.warns(TabmtlWarning, match=r"'price' .* leave it out of categories .* 'ignore'") as caught:
        ItemCoder.fit(table, categories=["price"])
    assert "text" not in str(caught[0].message)


REFUSED: dict[str, tuple[pl.DataFrame, dict[str, Any], type[Exception], str]] = {
    "category": (
        TABLE,
        {"categories": ["kind"]},
        ValueError,
        r"categories names columns .*: \['kind'\]; the item table has \['brand",
    ),
    "column": (TABLE, {"columns": {"kind": Text()}}, ValueError, r"columns declares columns .*: \['kind'\]"),
    "number as text": (TABLE, {"columns": {"price": Text()}}, TypeError, r"'price' has type Float64 and .* 'text'"),
    "tags as category": (TABLE, {"categories": ["tags"]}, TypeError, r"'tags' has type List.* 'category', which"),
    "text as category": (TABLE, {"categories": ["name"]}, ValueError, r"columns declares \['name'\] something else"),
    "twice": (TABLE, {"categories": ["brand", "brand"]}, ValueError, r"categories must name .* once each"),
    "sequence": (TABLE, {"columns": {"tags": Sequence()}}, ValueError, r"no sequences, .*\['tags'\] some: .* 'tags'"),
    "records": (
        TABLE.with_columns(tags=pl.concat_list(pl.struct("price"))),
        {},
        TypeError,
        r"'tags' .* lists of these",
    ),
    "infinite": (TABLE.with_columns(price=float("inf")), {}, ValueError, r"'price' holds an infinite value"),
    "widths": (
        TABLE.with_columns(vector=pl.Series([[1.0], [1.0, 2.0], None, [], [0.5]])),
        {},
        ValueError,
        r"'vector' must have one length; most have 1, others 2, 0: mend",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_table_that_does_not_fit_is_refused(case):
    table, options, error, message = REFUSED[case]
    with pytest.raises(error, match=message):
        fit(table, **options)


CHANGED: dict[str, tuple[pl.DataFrame, type[Exception], str]] = {
    "lacking": (TABLE.drop("tags"), ValueError, r"lacks the column 'tags', which it had in fit: .* nulls"),
    "text for a number": (
        TABLE.with_columns(price=pl.lit("x")),
        TypeError,
        r"'price' was numeric in fit and is now Str",
    ),
    "text for tags": (TABLE.with_columns(tags=pl.lit("x")), TypeError, r"'tags' held lists of text in fit .* String"),
    "number for text": (TABLE.with_columns(name=pl.lit(3)), TypeError, r"'name' held text in fit and is now Int32"),
    "number for vectors": (TABLE.with_columns(vector=1.0), TypeError, r"'vector' held vectors in fit .* Float64"),
    "length": (TABLE.with_columns(vector=pl.lit([1.0])), ValueError, r"'vector' must have the length of fit, 2"),
    "NaN": (TABLE.with_columns(vector=pl.lit([1.0, float("nan")])), ValueError, r"'vector' holds .* not finite"),
    "text in vectors": (TABLE.with_columns(vector=pl.lit(["1", "2"])), TypeError, r"'vector' held vectors .* List"),
    "days in tags": (TABLE.with_columns(tags=pl.lit([date(2024, 1, 1)])), TypeError, r"'tags' held lists of text"),
    "a hole": (TABLE.with_columns(vector=pl.lit([1.0, None])), ValueError, r"'vector' holds .* is missing"),
}


@pytest.mark.parametrize("case", CHANGED)
def test_new_items_of_another_kind_are_refused(case):
    table, error, message = CHANGED[case]
    coder = fit()
    for _ in range(2):
        with pytest.raises(error, match=message):
            coder.encode(table)
        coder.encode(TABLE)  # what is kept for the types of these columns says nothing of others


def test_a_file_has_the_kinds_of_columns_of_items_in_their_order():
    saved = take_apart(fit())
    coders = saved.facts["features"]["coders"]
    for wrong in ("categories tags texts vectors", "numbers categories texts tags vectors"):
        own = {name: coders[name] for name in wrong.split()}
        names = [name for coder in own.values() for name in coder["names"]]
        facts = {"features": saved.facts["features"] | {"coders": own, "names": names}}
        with pytest.raises(ValueError, match=r"of the kinds .*, expected some of .*'tags', .*'texts', .*'vectors'"):
            put_together(ItemCoder, replace(saved, facts=facts))
