"""The line beside the progress bar, and plain lines without rich."""

import sys

import pytest

from tabmtl.progress import _describe, show_progress
from tabmtl.schema import Task


def tasks(n):
    return [Task(name=f"t{t}", kind="regression", metric="r2") for t in range(n)]


def record(n, part="val", missing=()):
    scores = {f"{part}/t{t}/r2": None if t in missing else t / 10 for t in range(n)}
    return {"epoch": 3.0, f"{part}/loss": 0.25, f"{part}/score": 0.5, **scores}


def test_validation_goes_before_training():
    both = record(1, "train") | record(1, "val") | {"val/t0/r2": 0.75}
    assert _describe(both, tasks(1)) == "val loss 0.2500  t0 0.7500"
    assert _describe(record(1, "train"), tasks(1)) == "train loss 0.2500  t0 0.0000"


def test_an_undefined_score_is_a_dash():
    assert _describe(record(2, missing={1}), tasks(2)).endswith("t0 0.0000  t1 -")


def test_many_tasks_are_summed_up():
    text = _describe(record(12), tasks(12))
    assert "t7 0.7000" in text
    assert "t8" not in text
    assert text.endswith("mean of 12 0.5000")


@pytest.mark.parametrize("rich", [True, False])
def test_every_epoch_is_shown(rich, capsys, monkeypatch):
    if rich:
        pytest.importorskip("rich")
    else:
        monkeypatch.setitem(sys.modules, "rich.progress", None)
    with show_progress(2, tasks(1)) as show:
        show(record(1))
        show(record(1))
    out = capsys.readouterr().out
    if rich:
        assert "2/2" in out
    else:
        assert out.splitlines() == ["epoch 3  val loss 0.2500  t0 0.0000"] * 2
    assert "t0 0.0000" in out
