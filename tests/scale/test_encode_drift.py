"""Models of files keep a profile of their rows."""

import numpy as np
import polars as pl
import pytest
from conformance import tiny

import tabmtl
from tabmtl import SharedBottom, SharedTrees
from tabmtl.scale import Shards


def rows(seed):
    rng = np.random.default_rng(seed)
    age = rng.normal(40, 10, 1_000)
    return pl.DataFrame({"age": age, "town": rng.choice(["Ulm", "Bonn"], 1_000), "spent": age + rng.normal(size=1_000)})


NEW = rows(1).drop("spent")


@pytest.mark.parametrize("cls", [SharedTrees, SharedBottom])
def test_files_leave_a_profile(cls, tmp_path):
    rows(0).write_parquet(tmp_path / "rows.parquet")
    assert not tiny(cls).fit(Shards(tmp_path / "rows.parquet"), "spent").drift(NEW)["is_drift"].any()


def test_the_column_of_times_of_files_is_left_out(tmp_path):
    dated = rows(0).with_columns(day=pl.date(2024, 1, 1) + pl.duration(days=pl.int_range(pl.len())))
    dated.write_parquet(tmp_path / "rows.parquet")
    later = NEW.with_columns(day=pl.date(2030, 1, 1))
    model = tiny(SharedTrees).fit(Shards(tmp_path / "rows.parquet"), "spent", time="day")
    model.save(tmp_path / "model")
    for found in (model, tabmtl.load(tmp_path / "model")):
        assert "day" not in found.drift(later)["name"]
        assert found.drift(later, ignore="day")["is_drift"].to_list() == found.drift(later)["is_drift"].to_list()
