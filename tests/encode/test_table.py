"""Tables with their targets to batches, wide and long."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from forging import through_file

from tabmtl.base.storage.stored import put_together, take_apart
from tabmtl.columns import Category
from tabmtl.encode import TableCoder

X = pl.DataFrame({"n": [1.0, 2.0, None, 4.0], "c": ["u", "v", "u", None]})
Y = pl.DataFrame({"k": ["no", "yes", None, "no"], "r": [1.5, None, 3.0, 5.0]})
LONG = pl.DataFrame(
    {"n": [1.0, 2.0, 3.0, 4.0, 5.0], "school": ["b", "a", "b", "a", "b"], "c": ["u", "v", "u", "v", "u"]}
)
LABELS = pl.Series("score", [1.5, 2.5, 3.5, None, 5.5])


def fit(X, y, weight=None, **options) -> TableCoder:
    given = {"tasks": None, "force": None, "task_column": None, "columns": {}, "encoding": {}}
    return TableCoder.fit(X, y, weight, **{**given, **options})


def test_a_wide_table_becomes_a_batch():
    coder = fit(X, Y)
    batch = coder.read(X, Y)
    assert (batch.x.numbers.dtype, batch.x.codes.dtype, batch.y.dtype) == (np.float32, np.int32, np.float64)
    np.testing.assert_array_equal(batch.y, [[0, 1.5], [1, np.nan], [np.nan, 3], [0, 5]])
    assert batch.x.codes.ravel().tolist() == [2, 3, 2, 0]
    assert batch.weight is None
    assert batch.task is None
    assert coder.read(X).y is None


def test_every_container_gives_the_same_batch():
    expected = fit(X, Y).read(X, Y)
    objects = np.array(X.rows(), dtype=object)
    for features, labels in (
        (X.lazy(), Y),
        (X.to_pandas(), Y.to_pandas()),
        (X.to_arrow(), Y.to_arrow()),
        (X, pd.DataFrame(Y.to_dict(as_series=False), dtype=object)),
        (objects, Y),
        (objects.tolist(), np.array(Y.rows(), dtype=object)),
    ):
        batch = fit(features, labels).read(features, labels)
        np.testing.assert_array_equal(batch.x.numbers, expected.x.numbers)
        np.testing.assert_array_equal(batch.x.codes, expected.x.codes)
        np.testing.assert_array_equal(batch.y, expected.y)
        # and a fit reads any other container
        np.testing.assert_array_equal(fit(X, Y).read(features).x.numbers, expected.x.numbers)


def test_columns_are_held_against_those_of_fit():
    coder = fit(X, Y)
    for other in (X.drop("n"), X.rename({"n": "m"}), X.with_columns(z=1).lazy(), np.zeros((2, 3))):
        with pytest.raises(ValueError, match=r"X has the columns .*, expected those of fit: \['n', 'c'\]"):
            coder.read(other)
    with pytest.raises(ValueError, match=r"Add those that X lacks: \['n'\]"):
        coder.read(X.drop("n"))
    with pytest.raises(ValueError, match="X has 4 rows, y has 3"):
        coder.read(X, Y[:3])


def test_columns_of_an_array_have_names():
    numbers = np.array([[1, 2.0], [3, 0.5], [1, 2.0]])
    coder = fit(numbers, [0, 1, 0], columns={"x0": Category()})
    assert coder.features.columns.categorical == ("x0",)


def test_weights_have_mean_one_over_the_labelled_rows_of_a_task():
    coder = fit(X, Y)
    batch = coder.read(X, Y, [2.0, 4.0, 0.0, 6.0])
    np.testing.assert_allclose(batch.weight, [[0.5, 0.5], [1.0, 0], [0, 0], [1.5, 1.5]])
    np.testing.assert_array_equal(np.isnan(batch.y), [[False, False], [False, True], [True, True], [False, False]])
    scaled = coder.read(X, Y, np.array([2.0, 4.0, 0.0, 6.0]) * 7)
    np.testing.assert_allclose(scaled.weight, batch.weight)


@pytest.mark.parametrize("scale", [2.0**-1000, 2.0**-400, 2.0**1020], ids=["tiny", "small", "huge"])
def test_weights_of_any_size_are_those_of_order_one(scale):
    weight = np.array([2.0, 3.0, 0.0, 7.0])
    expected = fit(X, Y).read(X, Y, weight).weight
    np.testing.assert_array_equal(fit(X, Y).read(X, Y, weight * scale).weight, expected)
    each = np.column_stack([weight * scale, weight / scale])
    np.testing.assert_array_equal(fit(X, Y).read(X, Y, each).weight, expected)
    coder, weight = fit(LONG, LABELS, task_column="school"), np.array([1.0, 3.0, 1.0, 1.0, 4.0])
    expected = coder.read(LONG, LABELS, weight).weight
    scaled = weight * np.where(LONG["school"] == "a", scale, 1 / scale)
    np.testing.assert_array_equal(coder.read(LONG, LABELS, scaled).weight, expected)
    if scale < 2.0**-900:
        np.testing.assert_allclose(coder.read(LONG, LABELS, weight * 1e-310).weight, expected, rtol=1e-12)


def test_a_long_table_gives_every_row_its_task():
    coder = fit(LONG, LABELS, task_column="school")
    assert [task.name for task in coder.labels.tasks] == ["a", "b"]
    assert coder.features.names == ("n", "c")
    assert coder.names == ("n", "school", "c")
    batch = coder.read(LONG, LABELS, [1.0, 3.0, 1.0, 1.0, 4.0])
    assert batch.task.tolist() == [1, 0, 1, 0, 1]
    assert batch.task.dtype == np.int64
    assert batch.y.shape == (5, 1)
    np.testing.assert_allclose(batch.weight[:, 0], [0.5, 1, 0.5, 0, 2])
    wide = batch.wide_labels(2)
    np.testing.assert_array_equal(wide[:, 0], [np.nan, 2.5, np.nan, np.nan, np.nan])
    for features in (LONG.lazy(), LONG.to_pandas(), LONG.to_arrow(), LONG.cast({"school": pl.Categorical})):
        again = coder.read(features)
        assert again.task.tolist() == [1, 0, 1, 0, 1]
        np.testing.assert_array_equal(again.x.numbers, batch.x.numbers)


def test_tasks_are_matched_by_their_text():
    numbers = LONG.with_columns(school=pl.Series([10, 2, 10, 2, 10]))
    coder = fit(numbers, LABELS, task_column="school")
    assert coder.labels.task_levels == ("2", "10")
    for schools in ([10, 2], [10.0, 2.0], ["10", "2"]):
        assert coder.read(numbers[:2].with_columns(school=pl.Series(schools))).task.tolist() == [1, 0]
    for name in ("*", "^s.*$"):
        renamed = LONG.rename({"school": name})
        assert fit(renamed, LABELS, task_column=name).read(renamed).task.tolist() == [1, 0, 1, 0, 1]


def test_task_columns_that_do_not_fit():
    with pytest.raises(ValueError, match="task_column names columns that X does not have: \\['town'\\]"):
        fit(LONG, LABELS, task_column="town")
    for hole in (None, float("nan")):
        with pytest.raises(ValueError, match="task_column 'n' has missing values"):
            fit(LONG.with_columns(n=pl.Series([1.0, hole, 2.0, 1.0, 2.0])), LABELS, task_column="n")
    with pytest.raises(ValueError, match="task_column needs one target"):
        fit(X.with_columns(c=pl.lit("u")), Y, task_column="c")
    with pytest.raises(ValueError, match="X has no feature column"):
        fit(LONG.select("school"), LABELS, task_column="school")
    coder = fit(LONG, LABELS, task_column="school")
    with pytest.raises(ValueError, match=r"the task 'q' was not seen in fit; expected one of \['a', 'b'\]"):
        coder.read(LONG.with_columns(school=pl.lit("q")))


@pytest.mark.parametrize("transform", ["standardize", "quantile", "none"])
@pytest.mark.parametrize("long", [False, True])
def test_state_goes_through_json(transform, long):
    table, labels, task_column = (LONG, LABELS, "school") if long else (X, Y, None)
    coder = fit(table, labels, task_column=task_column, encoding={"transform": transform, "min_frequency": 2})
    copied = through_file(coder)
    assert take_apart(copied).facts == take_apart(coder).facts
    first, second = coder.read(table, labels), copied.read(table, labels)
    for name in ("numbers", "codes", "y", "task"):
        np.testing.assert_array_equal(first.arrays()[name], second.arrays()[name])


def test_a_file_has_the_kinds_of_columns_of_a_table():
    saved = take_apart(fit(X.select("n"), Y))
    coders = saved.facts["features"]["coders"]
    for wrong in ({"numbers": coders["numbers"]}, dict(reversed(coders.items()))):
        facts = saved.facts | {"features": saved.facts["features"] | {"coders": wrong}}
        with pytest.raises(ValueError, match=r"of the kinds .*, expected some of \['numbers', 'categories'"):
            put_together(TableCoder, replace(saved, facts=facts))


def test_one_row_is_read_like_many():
    coder = fit(X, Y)
    whole = coder.read(X)
    for i in range(4):
        for row in (X[i], X[i].to_pandas(), pa.Table.from_pandas(X[i].to_pandas()), [list(X.row(i))]):
            batch = coder.read(row)
            np.testing.assert_array_equal(batch.x.numbers, whole.x.numbers[i : i + 1])
            np.testing.assert_array_equal(batch.x.codes, whole.x.codes[i : i + 1])
