"""What decisions, intervals and splits by time are worth: parts of rows, judged intervals, and tables."""

import numpy as np
import polars as pl
import pytest

from benchmarks import decisions as bench
from benchmarks.decisions import ROWS, parts_of


def test_units_lie_in_one_part():
    n = sum(ROWS)
    X = pl.DataFrame({"row": np.arange(n), "day": np.arange(n) // 100})
    parts = [own for own, _ in parts_of(X, X, X["day"].to_numpy(), seed=1)]
    assert [len(own) for own in parts] == pytest.approx([*ROWS], rel=0.1)
    days = [{*own["day"]} for own in parts]
    assert not (days[0] & days[1] or days[0] & days[2] or days[1] & days[2])


def test_an_interval_score_is_the_width_and_twenty_times_what_it_misses_by():
    y, low, high = np.array([0.0, 5.0, -1.0]), np.zeros(3), np.ones(3)
    found = {measure: value for _, measure, value in bench._judged("", y, low, high)}
    assert found == pytest.approx({"coverage": 1 / 3, "mean width": 1.0, "interval score": 1 + 20 * (4 + 1) / 3})


def test_a_table_has_the_measures_of_a_set(monkeypatch, tmp_path, capsys):
    def generated(make, folder, seed):
        assert folder is None
        yield "tuned", "F1", make.__name__ == "SharedTrees"

    monkeypatch.setattr(bench, "SETS", {"generated": generated})
    bench.main(["--sets", "generated", "--models", "SharedTrees", "--seeds", "0", "1", "--output", str(tmp_path)])
    assert pl.read_csv(tmp_path / "decisions.csv")["value"].to_list() == [True, True]
    assert "SharedTrees: tuned  1.0000 ± 0.0000" in capsys.readouterr().out
