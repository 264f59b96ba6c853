"""Blocks of files: all rows in order, a few blocks asked for at once where a file can be entered anywhere."""

from __future__ import annotations

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from tabmtl.encode.files import read_blocks, scan_file

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


def test_a_file_without_rows_has_no_block(tmp_path):
    file = str(tmp_path / "none.parquet")
    ROWS.clear().write_parquet(file)
    assert [*read_blocks(scan_file(file), file, 2)] == []
