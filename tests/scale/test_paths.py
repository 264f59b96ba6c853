"""Blocks of files: all rows in order, or an error; a few asked for at once where a file can be entered anywhere."""

from __future__ import annotations

import os
import pickle
from errno import EACCES, ENOENT, ENOSPC
from itertools import islice
from pathlib import Path

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from tabmtl.encode.features import FeatureCoder
from tabmtl.pipelines.data.files import read_file
from tabmtl.scale import Shards
from tabmtl.scale.paths import read_blocks, scan_file, written

ROWS = pl.DataFrame({"a": range(21), "b": [f"level {i}" for i in range(21)]})


@pytest.fixture
def asked(monkeypatch):
    """Rows that polars is asked for at once."""
    seen, collect_batches = [], pl.LazyFrame.collect_batches

    def recorded(scan, **options):
        seen.append(scan.collect().height)
        return collect_batches(scan, **options)

    monkeypatch.setattr(pl.LazyFrame, "collect_batches", recorded)
    return seen


def test_a_parquet_file_is_read_some_blocks_at_once(tmp_path, asked):
    file = str(tmp_path / "rows.parquet")
    ROWS.write_parquet(file, row_group_size=5)
    blocks = [*read_blocks(scan_file(file), file, 2)]
    assert [block.height for block in blocks] == [2] * 10 + [1]
    assert_frame_equal(pl.concat(blocks), ROWS)
    assert asked == [4] * 5 + [1]
    part = [*read_blocks(scan_file(file).slice(3, 10), file, 4)]
    assert_frame_equal(pl.concat(part), ROWS[3:13])


@pytest.mark.parametrize("is_file", [True, False])
def test_others_are_read_in_one_go(tmp_path, asked, is_file):
    file = str(tmp_path / "rows.csv")
    ROWS.write_csv(file)
    scan = scan_file(file) if is_file else ROWS.lazy()
    assert_frame_equal(pl.concat(read_blocks(scan, file if is_file else None, 2)), ROWS)
    assert asked == [21]


#: Content of CSV files, and the line that is wrong with the number of its cells.
RAGGED = {
    "too few": ("a,b,c\n1,2,3\n4,5\n6,7,8\n", "line 3 has 2 cells, expected 3 cells"),
    "the first row": ("a,b\n1\n2,3\n", "line 2 has 1 cell, expected 2 cells"),
    "too many": ("a,b\n1,2\n3,4,5\n", "line 3 has 3 cells, expected 2 cells"),
    "behind quoted newlines": ('a,b\r\n"x\n\n,",2\r\n"y",3\r\n4\r\n', "line 6 has 1 cell, expected 2 cells"),
    "a quoted header": ('\ufeff"a,\nb",c\n1,2\n3\n', "line 4 has 1 cell, expected 2 cells"),
    "the last line": ("a,b\n1,2\n3", "line 3 has 1 cell, expected 2 cells"),
    "an empty line": ("\na,b\n1,2\n\n\n3,4\n", "line 4 is empty, expected 2 cells"),
    "empty lines at the end": ("a,b\n1,2\n\r\n\n", "line 3 is empty, expected 2 cells"),
}


@pytest.mark.parametrize("case", RAGGED)
def test_a_line_with_another_number_of_cells_is_named(tmp_path, case):
    content, said = RAGGED[case]
    cure = "remove it, or write its commas$" if "empty" in said else "(put|leave) "
    file = tmp_path / "rows.csv"
    file.write_bytes(content.encode())
    for read in (scan_file, Shards, lambda path: read_file(Path(path))):
        with pytest.raises(ValueError, match=rf"rows\.csv: {said}, as many as the header has: {cure}"):
            read(str(file))


WHOLE = {
    "quotes": ('a,b\n"x, ""y"", z\n\n,",2\n"","1,5"\n', [('x, "y", z\n\n,', "2"), ("", "1,5")]),
    "quotes in a cell": ('a,b,c\nx "y, z" w,2\n', [('x "y', ' z" w', "2")]),
    "empty cells": ("a,b\n,\n1,\n", [(None, None), ("1", None)]),
    "empty lines at the start": ("\n\na,b\n1,2", [("1", "2")]),
    "one column": ("a\n1\n\n2\n", [("1",), (None,), ("2",)]),
}


@pytest.mark.parametrize("case", WHOLE)
def test_quotes_and_empty_cells_are_no_error(tmp_path, case):
    content, rows = WHOLE[case]
    file = tmp_path / "rows.csv"
    file.write_bytes(content.encode())
    assert scan_file(str(file)).cast(pl.String).collect().rows() == rows
    assert read_file(file).cast(pl.String).rows() == rows


def test_a_file_that_was_mended_is_checked_again(tmp_path):
    file = tmp_path / "rows.csv"
    for content in ("a,b\n1,2\n", "a,b\n1\n", "a,b\n1,2\n3,4\n"):
        file.write_text(content)
        if content.count(",") == 1:
            with pytest.raises(ValueError, match="line 2 has 1 cell"):
                scan_file(str(file))
        else:
            assert scan_file(str(file)).collect().width == 2


def test_a_file_without_rows_has_no_block(tmp_path):
    file = str(tmp_path / "none.parquet")
    ROWS.clear().write_parquet(file)
    assert [*read_blocks(scan_file(file), file, 2)] == []


@pytest.fixture
def ends_early(monkeypatch):
    """Let polars give the first block only, as it does when one of its threads panics."""
    collect_batches = pl.LazyFrame.collect_batches
    monkeypatch.setattr(
        pl.LazyFrame, "collect_batches", lambda scan, **options: islice(collect_batches(scan, **options), 1)
    )


@pytest.mark.parametrize("ending", ["parquet", "csv"])
def test_rows_that_do_not_come_are_an_error(tmp_path, ends_early, ending, monkeypatch):
    monkeypatch.setattr("tabmtl.scale.blocks.BLOCK_ROWS", 2)
    file = str(tmp_path / f"rows.{ending}")
    ROWS.write_parquet(file) if ending == "parquet" else ROWS.write_csv(file)
    with pytest.raises(ValueError, match=rf"rows.{ending} gave \d+ of 21 rows: write it again"):
        [*read_blocks(scan_file(file), file, 2)]
    with pytest.raises(ValueError, match=r"gave \d+ of 21 rows: write it again"):
        [*Shards(file).blocks(["a"])]


def test_rows_that_do_not_come_of_a_query_are_an_error(ends_early, monkeypatch):
    monkeypatch.setattr("tabmtl.encode.features.SLICE_ROWS", 5)
    coder = FeatureCoder.fit(ROWS)
    with pytest.raises(ValueError, match=r"the LazyFrame gave 5 of 21 rows: its rows must be the same each time"):
        coder.encode(ROWS.lazy())


@pytest.mark.parametrize("ending", ["parquet", "csv"])
@pytest.mark.parametrize("how", ["appended", "replaced", "removed", "touched"])
def test_a_file_that_changes_is_an_error(tmp_path, ending, how):
    file = tmp_path / f"rows.{ending}"
    ROWS.write_parquet(file) if ending == "parquet" else ROWS.write_csv(file)
    os.utime(file, (1, 1))
    blocks = read_blocks(scan_file(str(file)), str(file), 4)
    next(blocks)
    if how == "appended":
        file.write_bytes(file.read_bytes() * 2)
    elif how == "replaced":
        file.write_bytes(content := file.read_bytes())
        (tmp_path / "other").write_bytes(content)
        (tmp_path / "other").replace(file)
    elif how == "removed":
        file.unlink()
    else:
        os.utime(file)
    with pytest.raises(ValueError, match=rf"rows.{ending} was changed while it was read: wait until it is written"):
        list(blocks)


def test_shards_are_files_of_one_moment(tmp_path):
    file = tmp_path / "rows.parquet"
    ROWS.write_parquet(file)
    shards = Shards(file)
    assert sum(block.height for _, block in shards.blocks(["a"])) == 21
    os.utime(file, (1, 1))
    with pytest.raises(ValueError, match=r"rows.parquet was changed while it was read"):
        [*shards.blocks(["a"])]
    with pytest.raises(ValueError, match=r"rows.parquet was changed while it was read"):
        shards.check_unchanged()
    elsewhere = pickle.loads(pickle.dumps(shards))  # on another machine, the same file has another time
    assert sum(block.height for _, block in elsewhere.blocks(["a"])) == 21


def test_a_damaged_file_is_named(tmp_path):
    file = tmp_path / "rows.parquet"
    pl.DataFrame({"a": range(10_000)}).write_parquet(file)
    content = file.read_bytes()
    file.write_bytes(content[:4] + b"x" * 50 + content[54:])
    with pytest.raises(ValueError, match=r"rows.parquet cannot be read: .*; write it again, or leave it out"):
        [*Shards(file).blocks(["a"])]


def test_a_quote_that_is_not_closed_is_shown_in_part(tmp_path):
    file = tmp_path / "rows.csv"
    file.write_text("a,b\n1,2\n" + '3,"4\n' + "5,6\n" * 100_000)
    with pytest.raises(ValueError, match="a quote that is not closed: close it") as caught:
        [*read_blocks(pl.scan_csv(file, schema={"a": pl.Int64, "b": pl.Int64}), str(file), 100)]
    assert len(str(caught.value)) < 800


def test_columns_of_one_name_are_told(tmp_path):
    file = tmp_path / "rows.csv"
    file.write_text('a,"b, c","b, c"\n1,2,3\n')
    with pytest.raises(ValueError, match=r"rows.csv has several columns of the names \['b, c'\]: rename them"):
        Shards(file)
    file.write_text("a,b,,\n1,2,,\n")
    assert scan_file(str(file)).select("a", "b").collect().rows() == [(1, 2)]


@pytest.mark.parametrize(("number", "cure"), [(ENOSPC, "make room there"), (EACCES, "give permission to write there")])
def test_what_cannot_be_written_is_named(tmp_path, number, cure):
    reason = os.strerror(number)
    of_polars = pl.exceptions.ComputeError(f"parquet: File out of specification: {reason} (os error {number})")
    for error in (OSError(number, reason), of_polars):
        message = rf"the rows could not be written: {reason}; {cure}, or name another"
        with pytest.raises(OSError, match=message) as caught, written("the rows", tmp_path):
            raise error
        assert (caught.value.errno, caught.value.filename) == (number, str(tmp_path))


def test_a_missing_folder_is_told_and_a_missing_input_is_no_matter_of_writing(tmp_path):
    lost = OSError(ENOENT, "No such file or directory")
    with (
        pytest.raises(FileNotFoundError, match=r"the rows could not be written: No such .*; make its folder, or name"),
        written("the rows", tmp_path / "no" / "rows.csv"),
    ):
        raise lost
    for place in (tmp_path, tmp_path / "rows.csv"):
        with pytest.raises(FileNotFoundError) as caught, written("the rows", place):
            raise lost
        assert caught.value is lost
    refused = OSError(EACCES, "Permission denied")
    with pytest.raises(PermissionError) as caught, written("the rows", tmp_path, [refused]):
        raise refused
    assert caught.value is refused
