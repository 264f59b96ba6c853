"""The line beside the progress bar, and plain lines without rich."""

import sys
from functools import partial

import pytest

from tabmtl.schema import Task
from tabmtl.training.hooks import describe_tasks, show_progress


def tasks(n):
    return [Task(name=f"t{t}", kind="regression", metric="r2") for t in range(n)]


def record(n, part="val", missing=()):
    scores = {f"{part}/t{t}/r2": None if t in missing else t / 10 for t in range(n)}
    return {"epoch": 3.0, f"{part}/loss": 0.25, f"{part}/score": 0.5, **scores}


def test_validation_goes_before_training():
    both = record(1, "train") | record(1, "val") | {"val/t0/r2": 0.75}
    assert describe_tasks(tasks(1), both) == "val loss 0.2500  t0 0.7500"
    assert describe_tasks(tasks(1), record(1, "train")) == "train loss 0.2500  t0 0.0000"


def test_an_undefined_score_is_a_dash():
    assert describe_tasks(tasks(2), record(2, missing={1})).endswith("t0 0.0000  t1 -")


def test_many_tasks_are_summed_up():
    text = describe_tasks(tasks(12), record(12))
    assert "t7 0.7000" in text
    assert "t8" not in text
    assert text.endswith("mean of 12 0.5000")


@pytest.mark.parametrize("rich", [True, False])
def test_every_epoch_is_shown(rich, capsys, monkeypatch):
    if rich:
        pytest.importorskip("rich")
    else:
        monkeypatch.setitem(sys.modules, "rich.progress", None)
    with show_progress(2, partial(describe_tasks, tasks(1))) as show:
        show(record(1))
        show(record(1))
    out = capsys.readouterr().out
    if rich:
        assert "2/2" in out
    else:
        assert out.splitlines() == ["epoch 3  val loss 0.2500  t0 0.0000"] * 2
    assert "t0 0.0000" in out
