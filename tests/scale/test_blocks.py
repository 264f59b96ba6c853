"""Files of a table: one order of rows, one type a column, and errors that name the file."""

from __future__ import annotations

import pickle

import numpy as np
import polars as pl
import pytest
from wired import run_ranks

from tabmtl import SharedTrees
from tabmtl.base.ranks import ALONE
from tabmtl.scale import Shards, blocks
from tabmtl.scale.blocks import Roles, row_keys, share_of
from tabmtl.training.run import current


def test_blocks_do_not_depend_on_the_files(tmp_path, monkeypatch):
    monkeypatch.setattr(blocks, "BLOCK_ROWS", 10)
    frame = pl.DataFrame({"i": range(57), "x": np.arange(57) / 2})
    for i, rows in enumerate(np.split(np.arange(57), [3, 4, 30])):
        frame[rows.tolist()].write_parquet(tmp_path / f"{i}.parquet", row_group_size=7)
    found = list(Shards(tmp_path / "*.parquet").blocks(["x", "i"]))
    assert [start for start, _ in found] == [0, 10, 20, 30, 40, 50]
    assert [block.height for _, block in found] == [10] * 5 + [7]
    assert pl.concat([block for _, block in found]).equals(frame.select("x", "i"))


def test_numbers_of_files_get_one_type_and_columns_are_found_by_name(tmp_path):
    pl.DataFrame({"a": [1, 2], "k": ["x", "y"]}).write_csv(tmp_path / "0.csv")
    pl.DataFrame({"k": ["z"], "a": [0.5]}).write_csv(tmp_path / "1.csv")
    ((_, block),) = Shards([tmp_path / "0.csv", tmp_path / "1.csv"]).blocks(["a", "k"])
    assert block.to_dict(as_series=False) == {"a": [1.0, 2.0, 0.5], "k": ["x", "y", "z"]}


def test_files_that_do_not_fit_are_named(tmp_path):
    frame = pl.DataFrame({"a": [1], "k": ["x"]})
    frame.write_parquet(tmp_path / "0.parquet")
    frame.with_columns(pl.lit("1").alias("a")).write_parquet(tmp_path / "1.parquet")
    with pytest.raises(TypeError, match=r"column 'a' is String in .*1.parquet and Int64 in .*0.parquet"):
        Shards(tmp_path / "*.parquet")
    frame.drop("k").write_parquet(tmp_path / "1.parquet")
    with pytest.raises(ValueError, match=r"1.parquet and .*0.parquet differ in the columns \['k'\]"):
        Shards(tmp_path / "*.parquet")
    frame.clear().write_parquet(tmp_path / "1.parquet")
    with pytest.warns(UserWarning, match=r"1 of 2 files hold no row, such as .*1.parquet"):
        assert len(list(Shards(tmp_path / "*.parquet").blocks(["a"]))) == 1
    with pytest.raises(FileNotFoundError, match="no file is called"):
        Shards(tmp_path / "*.pq")
    (tmp_path / "broken.parquet").write_text("not a table")
    with pytest.raises(ValueError, match=r"broken.parquet cannot be read: .*; write it again"):
        Shards(tmp_path / "broken.parquet")
    (tmp_path / "2.json").write_text("{}")
    with pytest.raises(ValueError, match=r"2.json is neither .parquet nor .csv"):
        Shards(tmp_path / "2.json")


def test_rows_that_cannot_be_encoded_are_named_by_file(tmp_path, monkeypatch):
    monkeypatch.setattr(blocks, "BLOCK_ROWS", 10)
    good = pl.DataFrame({"h": [[1], [2, 3]] * 15, "t": [[0.5], None] * 15, "v": [[0.5, 1.0]] * 30})
    good = good.with_columns(y=pl.int_range(30) / 7)
    good.write_parquet(tmp_path / "0.parquet")
    model = SharedTrees(n_estimators=1, n_estimators_task=5, columns={"h": "sequence", "t": "sequence:h"})
    for name, value in {"t": [0.5, 0.7], "v": [0.5, float("nan")]}.items():
        bad = pl.when(pl.int_range(30) == 12).then(pl.lit(pl.Series([value]))).otherwise(name)
        good.with_columns(bad.alias(name)).write_parquet(tmp_path / "1.parquet")
        source = Shards(tmp_path / "*.parquet")
        with pytest.raises(ValueError, match=r"in row 12 of .*1.parquet, counted from 0[,:]") as caught:
            model.fit(source, "y")
        assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


def test_roles_are_names_of_columns():
    source = Shards(pl.LazyFrame({"a": [1], "b": [2], "y": [0.5], "w": [1.0]}))
    roles = Roles.of(source, "y", "w")
    assert (roles.features, roles.targets, roles.flat) == (("a", "b"), ("y",), True)
    assert roles.without(["a"]).features == ("b",)
    for error, message, y, weight in [
        (TypeError, "y is the name of a column, or a list of names; got Series", pl.Series([1]), None),
        (TypeError, "sample_weight is the name of a column; got list", "y", [1.0]),
        (ValueError, r"y names columns that the table does not have: \['yy'\]; near is 'y'", ["yy"], None),
        (ValueError, "sample_weight names 'y', which is a target", "y", "y"),
        (ValueError, "y names 'y' twice", ["y", "y"], None),
    ]:
        with pytest.raises(error, match=message):
            Roles.of(source, y, weight)
    with pytest.raises(ValueError, match=r"y_val names columns that the table does not have: \['yy'\]"):
        Roles.of(source, "yy", what="y_val")
    narrow = Shards(pl.LazyFrame({"a": [1], "y": [0.5]}))
    with pytest.raises(ValueError, match=r"X_val lacks columns of X: \['b'\]"):
        Roles.of(narrow, "y").like(roles, narrow)
    with pytest.raises(ValueError, match=r"columns ignores targets: \['y'\]; targets are no features"):
        roles.without(["y"])
    with pytest.raises(ValueError, match=r"columns ignores columns that X does not have: \['z'\]"):
        roles.without(["z"])


def test_columns_limit_what_is_read():
    source = Shards(pl.LazyFrame({"a": [1], "b": [2], "y": [0.5]}), columns=["a", "y"])
    assert Roles.of(source, "y").features == ("a",)
    with pytest.raises(ValueError, match=r"columns names columns that the table does not have: \['c'\]"):
        Shards(pl.LazyFrame({"a": [1]}), columns=["c"])


def test_keys_are_random_and_distinct():
    keys = row_keys(np.arange(100_000))
    assert len(np.unique(keys)) == len(keys)
    assert abs(np.mean(keys < np.uint64(2**62)) - 0.25) < 0.01
    assert not (keys == row_keys(np.arange(100_000), seed=1)).any()


def test_ranks_share_numbers_side_by_side():
    assert share_of(ALONE, 7) == range(7)
    assert run_ranks(3, lambda: share_of(current(), 7)) == [range(2), range(2, 4), range(4, 7)]
