"""The comparison of sharing with single tasks, on small tables: its rows, its differences, and what it runs again."""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from benchmarks import sharing as benchmark

NAMES = ("SharedTrees", benchmark.TWIN)


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few rows, few labels and few trees."""
    monkeypatch.setattr(benchmark, "ROWS", 500)
    monkeypatch.setattr(benchmark, "FEW", {"binary": 60, "regression": 40})
    few = {name: partial(benchmark.MODELS[name], n_estimators=5) for name in NAMES}
    monkeypatch.setattr(benchmark, "MODELS", {**benchmark.MODELS, **few})


def test_rows_are_split_and_labels_of_one_task_are_few() -> None:
    case = benchmark.open_case("portal", 1, None)
    assert (len(case.train[0]), len(case.test[0])) == (400, 100)
    assert case.groups is None
    scarce = case.scarce("weight", 1)
    assert scarce.train[1]["weight"].count() == 40
    assert scarce.train[1].drop("weight").equals(case.train[1].drop("weight"))
    assert scarce.test[1].equals(case.test[1])
    kept = scarce.train[1]["weight"].is_not_null()
    assert scarce.train[1]["weight"].filter(kept).equals(case.train[1]["weight"].filter(kept))


def test_whole_groups_are_on_one_side(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    days = benchmark.load("flights")
    unit = np.unique(benchmark.units_of(days), return_inverse=True)[1]
    monkeypatch.setattr(benchmark, "load", lambda *_, **__: days)
    case = benchmark.open_case("flights", 0, tmp_path)
    sizes = np.bincount(unit)
    assert case.groups is not None
    assert np.bincount(case.groups)[np.unique(case.groups)].tolist() == sizes[np.unique(case.groups)].tolist()
    assert len(case.train[0]) + len(case.test[0]) <= max(500, sizes.max())


def test_missing_fits_run_and_differences_are_paired(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    common = ["--sets", "portal", "--models", *NAMES, "--settings", "full", "weight", "--output", str(tmp_path)]
    benchmark.main([*common, "--seeds", "0"])
    capsys.readouterr()
    benchmark.main([*common, "--seeds", "0", "1"])
    printed = capsys.readouterr().out
    assert "seed 1" in printed
    assert "seed 0" not in printed
    scores = pl.read_csv(tmp_path / "sharing.csv")
    assert scores.group_by("setting", "model").len()["len"].to_list() == [2] * 4
    wide = scores.filter(setting="weight").pivot("model", index="seed", values="score")
    difference = (wide["SharedTrees"] - wide[benchmark.TWIN]).to_numpy()
    stated = f"{difference.mean():+.4f} ± {difference.std(ddof=1) / math.sqrt(2):.4f}"
    assert stated in next(line for line in printed.splitlines() if line.strip().startswith("weight SharedTrees"))
