"""The harness of the benchmarks: clocks, memory, processes, tables and options."""

from __future__ import annotations

import os
import re
import time
from importlib import import_module
from itertools import takewhile
from pathlib import Path

import numpy as np
import polars as pl
import pytest

import tabmtl
from benchmarks import harness
from benchmarks.evidence import PARTS
from benchmarks.speed import CASES

PARTS_OF_OTHERS = (
    "after_drift",
    "after_sessions",
    "after_shifts",
    "after_task",
    "evidence_compare",
    "evidence_goals",
    "evidence_models",
    "evidence_report",
    "stored_folders",
    "stored_forms",
    "stored_networks",
    "stored_sessions",
    "stored_verbs",
)
TOOLS = ("__init__", "harness", "histories", "problems", "splits")
NAMES = sorted(
    file.stem for file in Path(harness.__file__).parent.glob("*.py") if file.stem not in PARTS_OF_OTHERS + TOOLS
)


#: They compare and count, and measure neither time nor scores.
NOT_MEASURED = ("stored_answers", "trips")


@pytest.mark.parametrize("name", NAMES)
def test_every_benchmark_says_what_it_measures(name, capsys):
    module = import_module(f"benchmarks.{name}")
    with pytest.raises(SystemExit) as stopped:
        module.main(["--help"])
    assert stopped.value.code == 0
    said = capsys.readouterr().out
    assert said.startswith(f"usage: python -m benchmarks.{name} ")
    assert " ".join(module.__doc__.partition("\n")[0].split()[:5]) in said
    assert name in NOT_MEASURED or ("--quick" in said) != ("--seeds" in said)


@pytest.mark.parametrize("page", ["README.md", "docs/*.md"])
def test_commands_of_the_documents_exist(page):
    text = " ".join(" ".join(file.read_text("utf-8").split()) for file in harness.ROOT.glob(page))
    for name, options in re.findall(r"python -m benchmarks\.([a-z_]+)((?: --?[\w-]+| [\w=.]+)*)`", text):
        assert name in NAMES
        words = options.split()
        if name == "speed" and "--only" in words:
            only = [*takewhile(lambda word: not word.startswith("--"), words[words.index("--only") + 1 :])]
            assert only and {*only} <= {case.name for case in CASES}, options
        elif "--parts" in words:
            assert words[words.index("--parts") + 1] in PARTS


def counted(asked: list[str], name: str) -> harness.Side:
    """Make a side that says when it is asked, and is slow in the round that comes first."""

    def side(seed: int) -> harness.Measures:
        asked.append(f"{name}{seed}")
        return {"s": 0.1 if len(asked) > 2 else 5.0, "AUC": 0.5 + seed}

    return side


def test_sides_run_in_turn_and_a_warm_round_does_not_count():
    asked: list[str] = []
    found = harness.take_turns({name: counted(asked, name) for name in "ab"}, 2, warm=True)
    assert asked == ["a0", "b0", "a0", "b0", "a1", "b1"]
    assert found["a"] == [{"s": 0.1, "AUC": 0.5}, {"s": 0.1, "AUC": 1.5}]


def test_no_round_begins_when_enough_was_timed(monkeypatch):
    monkeypatch.setattr(harness, "ENOUGH_SECONDS", 0.0)
    asked: list[str] = []
    harness.take_turns({"a": counted(asked, "a")}, 50, warm=True)
    assert len(asked) == 2


def test_every_request_is_asked_in_turn():
    asked: list[str] = []
    p50, p99, least = harness.asking(asked.append, ["a", "b", "c"], 40)(0).values()
    assert asked == [*"abc" * 10, *"abc" * 13, "a"]  # 30 untimed ones first
    assert 0 < least <= p50 <= p99 < 1000


def test_a_gauge_sees_the_memory_of_a_run():
    found: harness.Measures = {}
    with harness.gauged(found):
        kept = np.ones(50_000_000)
        time.sleep(0.1)
        del kept
    assert found["GB"] >= found["GB before"] + 0.3
    assert found["s of wall"] >= 0.1
    assert found["s"] > 0


def test_steps_of_a_fit_are_timed_until_there_are_enough():
    X = np.random.default_rng(0).normal(size=(300, 2))
    model = tabmtl.SharedBottom(hidden=(4,), epochs=9, batch_size=32, n_jobs=1, device="cpu")
    found = harness.steps_of(lambda: model.fit(X, X[:, 0]), 3)
    assert min(found.values()) > 0
    assert not hasattr(model, "tasks_")  # the fit ended early


def test_another_process_is_fresh_and_answers():
    assert harness.in_own_process(os.getpid) != os.getpid()
    assert harness.in_own_process(os.getenv, "POLARS_MAX_THREADS") == os.environ.get("POLARS_MAX_THREADS", "2")


def test_sides_are_compared_with_the_first(capsys):
    def sides(rows: int) -> harness.Sides:
        def fast(seed: int) -> harness.Measures:
            return {"s": rows / (4 + seed), "AUC": 0.1 * seed}

        return {"slow": lambda _: {"s": rows, "AUC": 0.5}, "fast": fast}

    case = harness.Case("loops", sides, {"rows": 8}, {"rows": 1}, 3, faster={"fast": 5}, most={"slow": 9})
    case.run({}, quick=False)
    slow, fast = capsys.readouterr().out.splitlines()
    assert slow.split() == [
        "loops,",
        "rows",
        "8:",
        "slow",
        "8",
        "s",
        "0.5000",
        "±",
        "0.0000",
        "AUC",
        "<=",
        "9",
        "s",
        "reached",
    ]
    assert fast.split()[4:] == [
        "1.333",
        "s",
        "0.1000",
        "±",
        "0.1000",
        "AUC",
        "6.00x",
        "±",
        "1.00",
        ">=",
        "5x",
        "reached",
    ]
    assert case.run({"rows": 2}, quick=True)["slow"] == [{"s": 2, "AUC": 0.5}]
    assert case.run({}, quick=True)["slow"] == [{"s": 1, "AUC": 0.5}]


def test_a_case_that_lacks_something_is_skipped(capsys):
    def sides() -> harness.Sides:
        raise FileNotFoundError("no log here")

    harness.Case("a", sides).run({}, quick=True)
    harness.Case("b", sides, needs={"no_such_module": "no-such>=1"}).run({}, quick=True)
    assert capsys.readouterr().out.splitlines() == [
        "a: skipped, no log here",
        "b: skipped, no_such_module is not installed: pip install 'no-such>=1'",
    ]


@pytest.mark.parametrize(
    ("judge", "value", "said"),
    [
        (harness.at_least, 2.0, ">= 2x  reached"),
        (harness.at_least, 1.99, ">= 2x  MISSED"),
        (harness.at_most, 2.0, "<= 2x  reached"),
        (harness.at_most, 2.01, "<= 2x  MISSED"),
    ],
)
def test_goals_are_judged(judge, value, said):
    assert judge(value, 2) == said


def test_a_table_has_a_cell_for_every_row_and_column(capsys):
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


def test_a_set_that_is_missing_is_skipped(tmp_path, capsys):
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
