"""Columns of shards: one coder however rows lie in files, and the coder of a frame where the sample holds all rows."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import polars as pl
import pytest
from conformance import features, mixed_targets
from hypothesis import given, settings
from hypothesis import strategies as st
from wired import run_ranks

from tabmtl.base.storage.stored import take_apart
from tabmtl.columns import Text
from tabmtl.encode import TableCoder
from tabmtl.encode.features import find_kinds
from tabmtl.encode.tasks import DeclaredTasks
from tabmtl.scale import Shards, blocks, survey
from tabmtl.scale.blocks import Roles
from tabmtl.scale.survey import Plan, Survey, learn_table
from tabmtl.training.run import current

CODING = {
    "tasks": {"delay": "regression"},
    "force": None,
    "task_column": None,
    "columns": {},
    "encoding": {"transform": "quantile", "min_frequency": 2},
}


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch):
    """Read 64 rows at a time."""
    monkeypatch.setattr(blocks, "BLOCK_ROWS", 64)


@pytest.fixture(scope="module")
def table():
    """Rows sorted by a number, with columns of all types and targets beside them."""
    X = features(500).with_columns(nothing=pl.lit(None, pl.String), rare=pl.format("r{}", pl.int_range(500) // 2))
    return pl.concat([X, mixed_targets(X)], how="horizontal").sort("plain")


def stored(frame, folder, sizes):
    folder.mkdir(exist_ok=True)
    for i, part in enumerate(np.split(np.arange(frame.height), np.cumsum(sizes)[:-1])):
        frame[part.tolist()].write_parquet(folder / f"{i}.parquet", row_group_size=37)
    return Shards(folder / "*.parquet")


def learned(source, targets=("late", "size", "delay"), **changes):
    return learn_table(source, Roles.of(source, list(targets)), **(CODING | changes))


def assert_same(coder, other):
    one, two = take_apart(coder), take_apart(other)
    assert one.facts == two.facts
    assert one.arrays.keys() == two.arrays.keys()
    for name, array in one.arrays.items():
        np.testing.assert_array_equal(array, two.arrays[name], err_msg=name)


def test_the_coder_of_a_frame_where_the_sample_holds_all_rows(table, tmp_path):
    targets = ["late", "size", "delay"]
    found = learned(stored(table, tmp_path / "a", [500]))
    assert_same(found, TableCoder.fit(table.drop(targets), table.select(targets), None, **CODING))
    one = learn_table(
        Shards(tmp_path / "a" / "0.parquet"), Roles.of(Shards(tmp_path / "a" / "0.parquet"), "delay"), **CODING
    )
    assert one.labels.origin.ndim == 1


@pytest.mark.parametrize("sample", [60, 200_000])
def test_one_coder_however_rows_lie_in_files(table, tmp_path, monkeypatch, sample):
    monkeypatch.setattr(survey, "SAMPLE_ROWS", sample)
    expected = learned(stored(table, tmp_path / "one", [500]))
    for number, sizes in enumerate([[1, 499], [100] * 5]):
        assert_same(learned(stored(table, tmp_path / str(number), sizes)), expected)
    assert_same(learned(Shards(table.lazy())), expected)


def test_ranks_learn_the_text_of_one(monkeypatch):
    monkeypatch.setattr(survey, "SAMPLE_ROWS", 60)
    remarks = pl.Series([None if k % 9 == 0 else f"number {k} by river {k % 7}" for k in range(200)])
    source = Shards(pl.DataFrame({"remark": remarks, "delay": np.arange(200) / 2}).lazy())
    coding = {"columns": {"remark": Text()}, "encoding": {"flat": True}}
    expected = learned(source, ["delay"], **coding)
    for found in run_ranks(2, lambda: learned(source, ["delay"], group=current(), **coding)):
        assert_same(found, expected)


@pytest.mark.parametrize("kind", ["regression", "multiclass"])
def test_a_long_table(kind):
    rng = np.random.default_rng(0)
    frame = pl.DataFrame({"x": rng.normal(size=90), "school": [10, 2, 3] * 30, "y": rng.integers(0, 3, 90)})
    coding = CODING | {"task_column": "school", "tasks": {"y": kind}}
    expected = TableCoder.fit(frame.drop("y"), frame["y"], None, **coding)
    assert_same(learn_table(Shards(frame.lazy()), Roles.of(Shards(frame.lazy()), "y"), **coding), expected)
    with pytest.raises(ValueError, match="task_column 'school' has missing values"):
        lost = Shards(frame.with_columns(school=pl.when(pl.col("x") > 0).then("school")).lazy())
        learn_table(lost, Roles.of(lost, "y"), **coding)


@given(st.lists(st.integers(1, 7), min_size=1, max_size=6), st.randoms(use_true_random=False))
@settings(max_examples=20)
def test_summaries_merge_in_any_order(sizes, random):
    n = sum(sizes)
    rng = np.random.default_rng(n)
    frame = pl.DataFrame({"x": rng.normal(size=n), "k": (["a", "b", None] * n)[:n], "y": rng.normal(size=n)})
    schema = frame.select("x", "k").schema
    kinds = find_kinds(schema, {})
    plan = Plan(kinds=kinds, tasks=(), classes=frozenset(), targets=("y",), weight=None, readings={})
    starts = np.cumsum([0, *sizes])
    parts = [Survey.of(frame[a:b], int(a), plan) for a, b in pairwise(starts)]
    whole = Survey.merge(parts, plan)
    random.shuffle(parts)
    while len(parts) > 1:
        parts = [Survey.merge(parts[:2], plan), *parts[2:]]
    assert parts[0].n_rows == whole.n_rows == n
    levels = [one.columns["categories"]["k"].sort("level") for one in (parts[0], whole)]
    assert levels[0].equals(levels[1])
    assert parts[0].values[0].equals(whole.values[0])
    orders = [np.argsort(one.rows) for one in (parts[0], whole)]
    numbers = [one.columns["numbers"]["sample"] for one in (parts[0], whole)]
    np.testing.assert_array_equal(numbers[0][:, orders[0]], numbers[1][:, orders[1]])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(survey, "SAMPLE_ROWS", 0)
        assert parts[0].center_and_scale(0, "standardized") == whole.center_and_scale(0, "standardized")
        np.testing.assert_allclose(
            whole.center_and_scale(0, "standardized"), (frame["y"].mean(), frame["y"].std(ddof=0) or 1), rtol=1e-12
        )


def test_kinds_are_inferred_from_all_labels():
    n = 3_000
    frame = pl.DataFrame({"x": range(n), "many": range(n), "few": [0, 1, 2] * (n // 3), "half": np.arange(n) / 2})
    frame = frame.with_columns(flag=pl.col("x") < n - 1, text=pl.format("t{}", pl.col("x") // 2))
    with pytest.warns(UserWarning, match="distinct whole numbers"):
        tasks = learned(Shards(frame.lazy()), ["many", "few", "half", "flag", "text"], tasks=None).labels.tasks
    assert [task.kind.name for task in tasks] == ["regression", "multiclass", "regression", "binary", "multiclass"]
    assert tasks[3].classes == (False, True)
    assert len(tasks[4].classes or ()) == n // 2
    declared: DeclaredTasks = {"many": "multiclass"}
    assert len(learned(Shards(frame.lazy()), ["many"], tasks=declared).labels.tasks[0].classes or ()) == n


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": pl.lit(float("inf"))}, "column 'x' holds an infinite value"),
        ({"y": pl.when(pl.col("x") == 70).then(float("-inf")).otherwise(0.5)}, "task 'y': a label is infinite"),
        ({"y": pl.when(pl.col("x") == 70).then(float("inf")).otherwise("x")}, "task 'y': a label is infinite"),
        ({"y": pl.lit(None, pl.Float64)}, "task 'y' has no observed label"),
        ({"w": pl.col("x") - 70}, "the column 'w' of sample_weight holds a negative"),
        ({"w": pl.lit(0.0)}, "task 'y' has no observed label"),
    ],
)
def test_bad_values_are_found_in_every_block(change, message):
    frame = pl.DataFrame({"x": np.arange(100.0), "y": np.arange(100) / 7, "w": np.ones(100)}).with_columns(**change)
    source = Shards(frame.lazy())
    with pytest.raises(ValueError, match=message):
        learn_table(source, Roles.of(source, "y", "w"), **(CODING | {"tasks": None}))
