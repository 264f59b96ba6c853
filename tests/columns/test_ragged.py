"""Ragged rows: taken, joined and shuffled as a list of lists is, of numpy arrays and of tensors."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tabmtl.base.schema import Batch
from tabmtl.columns import Features
from tabmtl.columns.ragged import Bags, Ragged
from tabmtl.model_selection.repeats import feature_keys

LISTS = [[3, 4, 4], [], [0], [2], [], [5, 6]]


def bags_of(lists: list[list[int]]) -> Bags:
    codes = np.array([code for own in lists for code in own], dtype=np.int32)
    lengths = [len(own) for own in lists]
    weights = np.array([1 / len(own) for own in lists for _ in own], dtype=np.float32)
    return Bags(offsets=np.cumsum([0, *lengths]), codes=codes, weights=weights)


def lists_of(rows: Ragged) -> list[list[int]]:
    rows = rows.map(np.asarray)
    return [own.tolist() for own in np.split(rows.codes, rows.offsets[1:-1])][: len(rows)]


def features_of(*lists: list[list[int]]) -> Features:
    """Rows with a bag of each of some columns, beside two vectors of one and two numbers."""
    n = np.arange(len(lists[0]), dtype=np.float32)
    return Features(
        numbers=n[:, None],
        codes=n[:, None].astype(np.int32),
        bags=tuple(map(bags_of, lists)),
        vectors=np.stack([n, n + 10, n + 20], axis=1),
    )


INDICES = [
    np.array([5, 0, 0, 1]),
    np.array([], dtype=np.int64),
    np.array([True, False, False, True, True, False]),
    slice(1, 4),
    slice(2),
    slice(4, 2),
    slice(None),
]


@pytest.mark.parametrize("index", INDICES, ids=str)
def test_rows_are_those_of_lists(index):
    expected = [LISTS[i] for i in np.arange(len(LISTS))[index]]
    x = features_of(LISTS, LISTS[::-1])
    for rows in (x.rows(index), *([] if index is INDICES[2] else [_tensors(x, index)])):
        assert lists_of(rows.bags[0]) == expected
        assert lists_of(rows.bags[1]) == [LISTS[::-1][i] for i in np.arange(len(LISTS))[index]]
        np.testing.assert_array_equal(rows.vectors, x.vectors[index])
        assert len(rows) == len(rows.bags[0]) == len(expected)


def _tensors(x: Features, index) -> Features:
    rows = x.map(torch.from_numpy).rows(index if isinstance(index, slice) else torch.from_numpy(index))
    assert all(isinstance(part, torch.Tensor) for part in rows.arrays().values())
    return rows


def test_blocks_join_to_the_rows():
    batch = Batch(x=features_of(LISTS, LISTS[::-1]), y=np.zeros((6, 1)))
    parts = [batch.rows(slice(0, 2)), batch.rows(slice(2, 2)), batch.rows(slice(2, 6))]
    for joined in (Batch.join(parts), batch.like(batch.arrays())):
        assert lists_of(joined.x.bags[1]) == LISTS[::-1]
        assert list(joined.x.keys()) == list(batch.x.keys())
    tensors = Batch.join([part.map(torch.from_numpy) for part in parts], torch.cat)
    assert lists_of(tensors.x.bags[0]) == LISTS
    assert [*batch.without_features().arrays()] == [
        "numbers",
        "codes",
        "y",
        "weight",
        "of_class",
        "task",
        "group",
        "time",
    ]


def test_equal_rows_have_equal_keys():
    lists = [[2, 3], [3], [2, 3], [], [0], [], [2], [2, 2]]
    x = features_of(lists)
    x = Features(numbers=x.numbers * 0, codes=x.codes * 0, bags=x.bags, vectors=x.vectors * 0)
    found = np.unique(feature_keys(Batch(x=x)), return_inverse=True)[1]
    assert len(set(found)) == 6
    assert (found[0], found[3]) == (found[2], found[5])
    assert x.distinct()[1].tolist() == [0, 1, 0, 2, 3, 2, 4, 5]
