"""The benchmark asks every way of serving for the rows it says, and prints goals beside what it measured."""

from __future__ import annotations

import re

import polars as pl
import pytest
import torch

from benchmarks.serving import _load_pyfunc, frames_of, main, report

TIMES = r" +[\d.]+ +[\d.]+ +[\d.]+"


@pytest.mark.parametrize("rows", [1, 32, 250, 1024])
def test_requests_have_the_rows_they_say_and_differ(rows):
    X = pl.DataFrame({"x": range(300)})
    frames = frames_of(X, rows)
    assert {len(frame) for frame in frames} == {rows}
    assert len({frame["x"][0] for frame in frames}) == len(frames) <= 64
    assert frames[0]["x"].to_list() == [i % 300 for i in range(rows)]


def test_the_floor_answers_every_row_alike():
    assert _load_pyfunc("anywhere").predict(pl.DataFrame({"x": [1, 2]}), None).tolist() == [0, 0]


def test_goals_are_those_of_one_row(capsys):
    report("one", 1, (0.4, 0.6, 0.3), 0.5)
    report("one", 1, (0.51, 0.6, 0.3), 0.5)
    report("many", 32, (0.51, 0.6, 0.3), 0.5)
    reached, missed, many = capsys.readouterr().out.splitlines()
    assert reached.endswith("<= 0.5 ms  reached")
    assert missed.endswith("<= 0.5 ms  MISSED")
    assert many.split() == ["many,", "32", "rows", "0.510", "0.600", "0.300"]


@pytest.mark.all_faces  # exports and fits four models
def test_every_way_of_serving_is_measured(capsys):
    pytest.importorskip("onnxruntime")
    threads = torch.get_num_threads()
    main(["--quick", "--no-mlflow", "--rows", "1", "16", "--requests", "3"])
    torch.set_num_threads(threads)
    said = capsys.readouterr().out
    for name in ("MultiTabNet", "SharedBottom"):
        for what in (".predict", ", network alone"):
            assert re.search(rf"in process: {name}{what}, 1 row{TIMES}  <= 1 ms  (reached|MISSED)\n", said)
        for what in ("session.run", "encode, session.run", "encode, session.run, decode"):
            assert re.search(rf"ONNX: {name}, {what}, 16 rows{TIMES}\n", said)
    for name in ("RMTGB", "IndependentTasks"):
        for what in (".predict", ", trees alone"):
            assert re.search(rf"boosted: {name}{what}, per task, 1 row{TIMES}  <= 0.1 ms  ", said)
    assert re.search(rf"boosted: RMTGB\.export_task, per task, 16 rows{TIMES}\n", said)
    assert "MLflow: skipped, --no-mlflow" in said
