"""Items and units: who shares one, who has a vector of its own, and how equals are told apart."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
import torch
from forging import through_file

from tabmtl.columns import Text
from tabmtl.sessions.m2trec.item_features import ItemCoder
from tabmtl.sessions.m2trec.items import KnownItems

CPU = torch.device("cpu")
TABLE = pl.DataFrame(
    {
        "brand": ["x", "y", "x", "z", None],
        "tags": [["a", "b"], ["a"], ["b", "a"], None, []],
        "name": ["p", "q", "p", "r", ""],
    }
)
COUNTS = np.array([6, 3, 2, 0, 0])
CODER = ItemCoder.fit(TABLE, columns={"name": Text()})


def items(*, shared: bool | None) -> KnownItems:
    """Items that share units, that do not, or that have no metadata."""
    features, row = (None, None) if shared is None else CODER.encode(TABLE)
    return KnownItems(features=features, row=row, clicks=COUNTS, shared=bool(shared))


@pytest.mark.parametrize(
    ("shared", "unit_of", "row", "own"),
    [
        (True, [0, 1, 2, 1, 3, 4], [4, 0, 1, 2, 3], [0] * 5),
        (False, [0, 1, 2, 3, 4, 5], [4, 0, 1, 0, 2, 3], [0, 1, 2, 3, 0, 0]),
        (None, [0, 1, 2, 3, 4, 5], None, [0, 1, 2, 3, 0, 0]),
    ],
)
def test_units_are_those_of_equal_metadata_or_every_item_also_from_a_file(shared, unit_of, row, own):
    for known in (items(shared=shared), through_file(items(shared=shared))):
        units = known.on(CPU)
        assert known.unit_of.tolist() == unit_of
        assert units.own.tolist() == own
        assert (units.features is None) == (row is None)
        assert row is None or units.row.tolist() == row


def test_a_shared_unit_deals_its_probability_to_its_items_by_clicks():
    bias = items(shared=True).bias(0.5, -7.0)
    np.testing.assert_allclose(np.exp(bias), [6 / 8, 1, 2 / 8, 0.5, 0.5])  # two units that nobody clicked


def test_items_without_clicks_get_the_base_and_the_log_of_their_share():
    bias = items(shared=False).bias(0.5, -2.0)
    np.testing.assert_allclose(bias, [0, 0, 0, np.log(0.5) - 2, np.log(0.5) - 2])
    assert items(shared=False).bias(0.0, -2.0).tolist() == [0, 0, 0, -np.inf, -np.inf]


def test_popularity_is_relative_to_the_mean_unit_and_none_of_the_cold():
    for shared, clicks in ((True, [8, 3, 0, 0]), (False, [6, 3, 2, 0, 0])):
        known = items(shared=shared)
        assert known.on(CPU).clicks.tolist() == [0, *clicks]
        mean = np.mean([n for n in clicks if n])
        expected = [np.log(n / mean) if n else 0 for n in [0, *clicks]]
        np.testing.assert_allclose(known.on(CPU).popularity, expected, rtol=1e-6)
        assert known.on(CPU).popularity.dtype == torch.float32
        more = known.extended(len(NEW), *CODER.encode(NEW))
        assert more.on(CPU).popularity[: len(expected)].tolist() == known.on(CPU).popularity.tolist()
        assert not more.on(CPU).popularity[len(expected) :].any()


NEW = pl.DataFrame(
    {"brand": ["x", "new", "newer", "z"], "tags": [["b", "a"], ["a"], ["a"], None], "name": ["p", "q", "q", "r"]}
)


def test_new_items_of_known_metadata_join_its_unit():
    known = items(shared=True)
    more = known.extended(len(NEW), *CODER.encode(NEW))
    assert more.unit_of[:6].tolist() == known.unit_of.tolist()
    assert more.on(CPU).row[1:5].tolist() == known.on(CPU).row[1:].tolist()
    # two new brands are one unit, for nobody can tell them apart
    assert more.unit_of[6:].tolist() == [1, 5, 5, 4 - 1]
    chance = np.exp(more.bias(0.5, 0.0))
    for unit, sum_of in ((1, 1), (2, 1), (3, 0.5), (4, 0.5), (5, 0.5)):
        assert chance[more.unit_of[1:] == unit].sum() == pytest.approx(sum_of)
    np.testing.assert_allclose(chance[[0, 2, 5]], [6 / 10, 2 / 10, 2 / 10])  # half of the mean of 6 and 2 clicks
    hidden = np.exp(more.bias(0.0, 0.0))
    np.testing.assert_allclose(hidden, [6 / 8, 1, 2 / 8, 0, 0, 0, 0, 0, 0])


def test_new_items_have_units_of_their_own_and_no_own_vector():
    known = items(shared=False)
    more = known.extended(len(NEW), *CODER.encode(NEW))
    assert more.unit_of.tolist() == list(range(10))
    assert more.on(CPU).own.tolist() == [0, 1, 2, 3, 0, 0, 0, 0, 0, 0]
    assert more.on(CPU).row[1:6].tolist() == known.on(CPU).row[1:].tolist()


@pytest.mark.parametrize("shared", [False, True])
def test_items_from_a_file_may_be_extended(shared):
    known = items(shared=shared)
    again = through_file(known)
    assert again.features is not None
    assert known.features is not None
    assert list(again.features.keys()) == list(known.features.keys())
    extended = again.extended(len(NEW), *CODER.encode(NEW))
    assert extended.unit_of.tolist() == known.extended(len(NEW), *CODER.encode(NEW)).unit_of.tolist()
