"""The harness of the benchmarks: clocks, memory, processes, tables and options."""

from __future__ import annotations

import os
import time
from importlib import import_module
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from benchmarks import harness

NAMES = sorted(
    file.stem
    for file in Path(harness.__file__).parent.glob("*.py")
    if file.stem not in ("__init__", "evidence_report", "harness", "splits")
)


#: They compare and count, and measure neither time nor scores.
NOT_MEASURED = ("stored_answers", "trips")


@pytest.mark.parametrize("name", NAMES)
def test_every_benchmark_says_what_it_measures(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    module = import_module(f"benchmarks.{name}")
    with pytest.raises(SystemExit) as stopped:
        module.main(["--help"])
    assert stopped.value.code == 0
    said = capsys.readouterr().out
    assert said.startswith(f"usage: python -m benchmarks.{name} ")
    assert " ".join(module.__doc__.partition("\n")[0].split()[:5]) in said
    assert name in NOT_MEASURED or ("--quick" in said) != ("--seeds" in said)


def test_sides_run_in_turn_and_the_first_round_is_not_timed() -> None:
    asked: list[str] = []

    def slow_at_first() -> None:
        asked.append("a")
        while len(asked) == 1 and time.process_time() < end:
            pass

    end = time.process_time() + 0.2
    seconds = harness.least_cpu_time({"a": slow_at_first, "b": lambda: asked.append("b")}, rounds=2)
    assert asked == [*"ab" * 3]
    assert seconds["a"] < 0.1


def test_no_round_begins_when_enough_was_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(harness, "ENOUGH_SECONDS", 0.0)
    asked: list[int] = []
    assert harness.least_cpu_time({"a": lambda: asked.append(1)}, rounds=50)["a"] < np.inf
    assert len(asked) == 2


def test_every_request_is_asked_in_turn() -> None:
    asked: list[str] = []
    p50, p99, least = harness.latency(asked.append, ["a", "b", "c"], 40)
    assert asked == [*"abc" * 10, *"abc" * 13, "a"]  # 30 untimed ones first
    assert 0 < least <= p50 <= p99 < 1000


def test_a_gauge_sees_the_memory_of_a_run() -> None:
    found = harness.gauge(lambda: np.ones(50_000_000))
    assert found["peak"] >= found["before"] > 0
    assert found["peak"] > 0.4
    assert found["wall"] > 0
    assert found["cpu"] > 0


def test_another_process_is_fresh_and_answers() -> None:
    assert harness.in_own_process(os.getpid) != os.getpid()
    assert harness.in_own_process(os.getenv, "POLARS_MAX_THREADS") == os.environ.get("POLARS_MAX_THREADS", "2")


def test_sides_are_compared_with_the_first(capsys: pytest.CaptureFixture[str]) -> None:
    def spin(seconds: float) -> None:
        end = time.process_time() + seconds
        while time.process_time() < end:
            pass

    sides = {"slow": lambda: spin(0.05), "fast": lambda: spin(0.01)}
    harness.compare("loops", sides, 1, {"fast": 2})
    slow, fast = capsys.readouterr().out.splitlines()
    assert slow.split()[:2] == ["loops:", "slow"]
    assert slow.endswith(" 1.00x")
    assert fast.endswith(">= 2x  reached")


@pytest.mark.parametrize(
    ("judge", "value", "said"),
    [
        (harness.at_least, 2.0, ">= 2x  reached"),
        (harness.at_least, 1.99, ">= 2x  MISSED"),
        (harness.at_most, 2.0, "<= 2x  reached"),
        (harness.at_most, 2.01, "<= 2x  MISSED"),
    ],
)
def test_goals_are_judged(judge, value: float, said: str) -> None:
    assert judge(value, 2) == said


def test_a_table_has_a_cell_for_every_row_and_column(capsys: pytest.CaptureFixture[str]) -> None:
    records = pl.DataFrame(
        {"model": ["a", "a", "b"], "task": ["t", "t", "u"], "seed": [0, 1, 0], "score": [0.1, 0.3, None]}
    ).vstack(pl.DataFrame({"model": ["b"], "task": ["t"], "seed": [0], "score": [0.5]}))
    table = harness.spreads(records, "model", "task", "score")
    assert table == {"a": {"t": "0.2000 ± 0.1414"}, "b": {"t": "0.5000"}}
    harness.print_table("scores", table | {"c": {"u": "x"}})
    assert capsys.readouterr().out.splitlines() == [
        "",
        "scores",
        "                 t  u",
        "a  0.2000 ± 0.1414   ",
        "b           0.5000   ",
        "c                   x",
    ]


def test_a_set_that_is_missing_is_skipped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def runs(name: str):
        yield [{"set": name, "score": 1}]
        if name == "missing":
            raise FileNotFoundError("no such set")
        yield [{"set": name, "score": 2, "more": 3}]

    reported: list[pl.DataFrame] = []
    records = [{"set": "earlier", "score": 0}]
    harness.print_sets(["missing", "there"], runs, reported.append, tmp_path / "new" / "scores.csv", records)
    assert "skipped: no such set" in capsys.readouterr().out
    assert [frame.rows() for frame in reported] == [[("there", 1, None), ("there", 2, 3)]]
    written = pl.read_csv(tmp_path / "new" / "scores.csv")
    assert written["set"].to_list() == ["earlier", "missing", "there", "there"]
