"""Which items can be recommended, what they are called, and what is known of them."""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import Any

import polars as pl
import pytest
from forging import through_file
from hypothesis import given, settings
from hypothesis import strategies as st

from tabmtl.base.schema import TabmtlWarning
from tabmtl.sessions.catalogue import make_catalogue

TABLE = pl.DataFrame({"item_id": [3, 1, 2], "brand": ["x", None, "y"], "price": [3.0, 1.0, 2.0]})


def test_without_a_table_the_clicked_items_are_the_catalogue():
    catalogue = make_catalogue(pl.Series([5, 2, 5, 9]), None, "item_id")
    assert catalogue.ids.to_list() == [2, 5, 9]
    assert catalogue.counts.tolist() == [1, 2, 1]
    assert catalogue.metadata is None


@pytest.mark.parametrize("library", [pl.DataFrame.lazy, pl.DataFrame.to_pandas, pl.DataFrame.to_arrow])
def test_a_table_holds_items_that_were_never_clicked(library):
    catalogue = make_catalogue(pl.Series([2, 2, 3]), library(TABLE), "item_id")
    assert catalogue.ids.to_list() == [1, 2, 3]
    assert catalogue.counts.tolist() == [0, 2, 1]
    assert catalogue.metadata is not None
    assert catalogue.metadata.to_dict(as_series=False) == {"brand": [None, "y", "x"], "price": [1.0, 2.0, 3.0]}


def test_items_that_the_table_lacks_are_warned_of_and_have_no_metadata():
    with pytest.warns(TabmtlWarning, match=r"^1 of 2 clicked items .* such as \[7\]: .* missing$"):
        catalogue = make_catalogue(pl.Series([7, 2, 7]), TABLE, "item_id")
    assert catalogue.ids.to_list() == [1, 2, 3, 7]
    assert catalogue.counts.tolist() == [0, 1, 0, 2]
    assert catalogue.metadata is not None
    assert catalogue.metadata.row(3) == (None, None)


def test_a_table_of_none_of_the_items_asks_for_the_key():
    message = r"^4 of 4 clicked items .* such as \[5, 6, 7\]: .* missing; .* does 'item_id' name the same things in the"
    for _ in range(5):  # the examples are always the same
        with pytest.warns(TabmtlWarning, match=message):
            make_catalogue(pl.Series([8, 7, 6, 5, 8]), TABLE, "item_id")


def test_who_reads_no_metadata_is_told_of_a_wrong_key_only():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        make_catalogue(pl.Series([7, 2]), TABLE, "item_id", described=False)
    with pytest.warns(TabmtlWarning, match=r"^2 of 2 clicked items .* \[7, 8\]; as it lacks them all, does 'item_id'"):
        make_catalogue(pl.Series([7, 8]), TABLE, "item_id", described=False)


@settings(deadline=None, max_examples=40)
@given(clicked=st.lists(st.integers(0, 9), min_size=1), listed=st.sets(st.integers(0, 9), min_size=1))
def test_every_item_is_there_once_with_its_clicks(clicked, listed):
    table = pl.DataFrame({"item_id": list(listed), "twice": [2 * item for item in listed]})
    if set(clicked) <= listed:
        catalogue = make_catalogue(pl.Series(clicked), table, "item_id")
    else:
        with pytest.warns(TabmtlWarning, match="not in the item table"):
            catalogue = make_catalogue(pl.Series(clicked), table, "item_id")
    items = sorted(listed | set(clicked))
    assert catalogue.ids.to_list() == items
    assert catalogue.counts.tolist() == [clicked.count(item) for item in items]
    assert catalogue.metadata is not None
    assert catalogue.metadata["twice"].to_list() == [2 * item if item in listed else None for item in items]


@pytest.mark.parametrize(
    "names",
    [{}, {"brand": "item", "price": "count"}, {"item_id": "^b.*$", "price": "*"}],
    ids=["none", "own", "patterns"],
)
def test_metadata_may_have_any_names(names):
    table = TABLE.rename(names) if names else TABLE.select("item_id")
    catalogue = make_catalogue(pl.Series([1]), table, names.get("item_id", "item_id"))
    assert catalogue.ids.to_list() == [1, 2, 3]
    assert catalogue.metadata is not None
    values = {"brand": [None, "y", "x"], "price": [1.0, 2.0, 3.0]} if names else {}
    assert catalogue.metadata.to_dict(as_series=False) == {names.get(name, name): values[name] for name in values}


@pytest.mark.filterwarnings("ignore:.*not in the item table:tabmtl.base.schema.TabmtlWarning")
def test_the_log_may_have_wider_numbers_than_the_table():
    catalogue = make_catalogue(pl.Series([1, 2**40]), TABLE.cast({"item_id": pl.Int32}), "item_id")
    assert catalogue.ids.to_list() == [1, 2, 3, 2**40]
    assert catalogue.counts.tolist() == [1, 0, 0, 1]


def test_categories_name_items_as_text_does():
    clicked = pl.Series(["b", "a", "b"], dtype=pl.Categorical)
    table = pl.DataFrame({"item_id": pl.Series(["b", "c", "a"], dtype=pl.Enum(["b", "c", "a"]))})
    for items in (None, table):
        catalogue = make_catalogue(clicked, items, "item_id")
        assert catalogue.ids.dtype == pl.String
        assert catalogue.ids.to_list() == ["a", "b"] + (["c"] if items is not None else [])
        assert catalogue.counts[:2].tolist() == [1, 2]


REFUSED: dict[str, tuple[Any, type[Exception], str]] = {
    "no such column": (TABLE.drop("item_id"), ValueError, r"item table has no column 'item_id'; .*'brand'.*rename"),
    "missing": (TABLE.with_columns(item_id=pl.Series([1, None, 2])), ValueError, r"'item_id' .* missing in 1 rows"),
    "repeated": (TABLE.with_columns(item_id=pl.Series([1, 2, 1])), ValueError, r"has 1 more than once in 'item_id'"),
    "text": (TABLE.cast({"item_id": pl.String}), TypeError, "'item_id' are Int64, those of the catalogue String: cast"),
    "floats": (TABLE.cast({"item_id": pl.Float64}), TypeError, r"whole numbers or text, got Float64: .* 'item_id'"),
    "no frame": ([1, 2, 3], TypeError, r"item table must be .* got list"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_table_that_does_not_fit_is_refused_with_the_cure(case):
    items, error, message = REFUSED[case]
    with pytest.raises(error, match=message):
        make_catalogue(pl.Series([1, 2]), items, "item_id")


def test_clicked_items_must_be_names():
    with pytest.raises(TypeError, match=r"whole numbers or text, got Float64: cast the column 'sku'"):
        make_catalogue(pl.Series("item", [1.0]), None, "sku")


@pytest.mark.parametrize(
    "items", ["i000", b"i000", 5, None, {"i000": 1}, TABLE, TABLE.lazy(), TABLE.to_pandas()], ids=type
)
def test_codes_are_of_a_list(items):
    catalogue = make_catalogue(pl.Series([5, 2]), None, "item_id")
    with pytest.raises(TypeError, match=r"^candidates must be a list or series of items, .*: (put it in|give its)"):
        catalogue.codes(items, "candidates", "leave it out")


NAMES = [pl.Series([5, 2], dtype=pl.Int32), pl.Series([2**63 + 1, 2], dtype=pl.UInt64), pl.Series(["ß", "", "a"])]


@pytest.mark.parametrize("ids", NAMES, ids=str)
def test_names_come_back_from_their_state(ids):
    catalogue = make_catalogue(ids, None, "item_id")
    again = through_file(replace(catalogue, metadata=None))
    assert again.ids.dtype == catalogue.ids.dtype
    assert again.ids.to_list() == catalogue.ids.to_list()
    assert again.counts.tolist() == catalogue.counts.tolist()


def test_signed_and_unsigned_names_join():
    clicked, items = pl.Series([1, 3, 3]), pl.DataFrame({"item_id": pl.Series([2, 1], dtype=pl.UInt64)})
    with pytest.warns(TabmtlWarning, match=r"1 of 2 clicked items .* such as \[3\]"):
        catalogue = make_catalogue(clicked, items, "item_id")
    assert catalogue.ids.dtype == pl.Int64
    assert catalogue.counts.tolist() == [1, 0, 2]
    beyond = pl.DataFrame({"item_id": pl.Series([2**63 + 1], dtype=pl.UInt64)})
    with pytest.warns(TabmtlWarning), pytest.raises(TypeError, match="beyond Int64: cast them to text"):
        make_catalogue(clicked, beyond, "item_id")
