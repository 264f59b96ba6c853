"""Progress in a terminal and in plain lines, and the time limit of every fit."""

import re
import sys
import threading
import warnings
from functools import partial

import numpy as np
import polars as pl
import pytest
from conformance import tiny

from tabmtl import RMTGB, IndependentTasks, SharedBottom, SharedTrees
from tabmtl.base.schema import TabmtlWarning, TimeLimitWarning
from tabmtl.targets import Task
from tabmtl.training.watch import Watch, describe_tasks

rng = np.random.default_rng(0)
X = rng.normal(size=(700, 3))
Y = pl.DataFrame({"a": X[:, 0] + rng.normal(size=700), "b": X[:, 0] + X[:, 1] > 0})


def tasks(n):
    return [Task(name=f"t{t}", kind="regression", metric="r2") for t in range(n)]


def record(n, part="val", missing=()):
    scores = {f"{part}/t{t}/r2": None if t in missing else t / 10 for t in range(n)}
    return {"epoch": 3.0, f"{part}/loss": 0.25, f"{part}/score": 0.5, **scores}


def test_validation_goes_before_training():
    both = record(1, "train") | record(1, "val") | {"val/t0/r2": 0.75}
    assert describe_tasks(tasks(1), both) == "val loss 0.2500  t0 r2 0.7500"
    assert describe_tasks(tasks(1), record(1, "train")) == "train loss 0.2500  t0 r2 0.0000"


def test_an_undefined_score_is_a_dash():
    assert describe_tasks(tasks(2), record(2, missing={1})).endswith("t0 r2 0.0000  t1 r2 -")


def test_many_tasks_are_summed_up():
    text = describe_tasks(tasks(12), record(12))
    assert "t7 r2 0.7000" in text
    assert "t8" not in text
    assert text.endswith("mean of 12 0.5000")


@pytest.mark.parametrize("rich", [True, False])
def test_every_epoch_is_a_line_where_there_is_no_terminal(rich, capsys, monkeypatch):
    if not rich:
        monkeypatch.setitem(sys.modules, "rich.console", None)
    with Watch(1).steps(12, "epoch", partial(describe_tasks, tasks(1))) as step:
        assert not step(record(1))
        assert not step(record(1))
    lines = capsys.readouterr().out.splitlines()
    assert [line.rpartition("  ")[0] for line in lines] == [
        f"epoch {n:>2}/12  val loss 0.2500  t0 r2 0.0000" for n in (1, 2)
    ]
    assert lines[0].endswith(" s")


def test_rounds_are_shown_now_and_then_and_the_last_one(capsys):
    with Watch(1).steps(100, "round", every=3) as step:
        for n in range(7):
            step(f"[{n}]")  # no markup
    assert [line.split()[2] for line in capsys.readouterr().out.splitlines()] == ["[2]", "[5]", "[6]"]


def test_a_terminal_has_a_bar_and_a_notebook_lines(capsys, monkeypatch):
    console = pytest.importorskip("rich.console")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(console.Console, "is_terminal", True)
    with Watch(1).steps(2, "epoch") as step:
        step("[bold]a")
        step("[bold]b")
    shown = capsys.readouterr().out
    assert "2/2" in shown and "━" in shown and "[bold]b" in shown
    monkeypatch.setattr(console, "_is_jupyter", lambda: True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with Watch(1).steps(1, "epoch") as step:
            step("a")
    assert capsys.readouterr().out.startswith("epoch 1/1  a  ")


def test_parts_share_the_time_and_one_warning_names_what_ended():
    watch = Watch(0, 100.0)
    part = watch.part(1 / 4)
    assert 20 < part.left <= 25 < watch.left
    assert not part.cuts("nothing")
    over = Watch(0, 1e-9)
    assert [over.part(1 / 2).cuts(name) for name in ("x", "x", "y")] == [True] * 3
    with pytest.warns(TimeLimitWarning, match=r"^time_limit=1e-09 cut short the fit, which took .* s.*: x; y\. Set"):
        over.warn()
    for name in "abc":
        over.end(name)
    with pytest.warns(TimeLimitWarning, match=r"seconds: x; y; a; and 2 more\. Set a longer one for the rest$"):
        over.warn()
    Watch(0, None).warn()


@pytest.mark.parametrize(
    ("model", "text"),
    [
        (tiny(SharedBottom, epochs=50), r"epoch 1 of 50\."),
        (SharedTrees(random_state=0), r"round 1 of 2000; trees of single tasks; no fit of all rows, so that the one"),
        (RMTGB(random_state=0), r"stage 1 round 1 of 50|stage 3 without the shared part, round 1 of 1000"),
        (
            IndependentTasks(families=("lightgbm",), random_state=0),
            r"task 'a', round 1 of 1000; task 'b', round 1 of 1000; no fit of all rows",
        ),
    ],
    ids=lambda value: type(value).__name__,
)
def test_every_fit_of_a_table_ends_in_time(model, text):
    model.set_params(time_limit=1e-3)
    with pytest.warns(TabmtlWarning, match=f"time_limit=0.001 cut short the fit, which took .*: {text}") as caught:
        model.fit(X, Y)
    assert [found.filename for found in caught] == [__file__]
    assert model.predict(X).shape == (700, 2)
    assert not model._watch.is_limited


def test_two_threads_fit_one_estimator_each_with_its_own_time():
    meeting, ends = threading.Barrier(2), {}

    def hook(record):
        meeting.wait(30)
        ends[threading.get_ident()] = model._watch._end
        meeting.wait(30)

    model = tiny(SharedBottom, epochs=1, time_limit=1e6, on_epoch=hook)
    threads = [threading.Thread(target=model.fit, args=(X, Y)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(ends.values())) == 2
    assert not model._watch.is_limited


def test_a_limit_that_is_not_reached_changes_nothing():
    plain, limited = (
        IndependentTasks(families=("lightgbm",), time_limit=limit, random_state=0).fit(X, Y) for limit in (None, 1e6)
    )
    assert plain.predict(X).equals(limited.predict(X))


@pytest.mark.parametrize(
    "model",
    [
        RMTGB(n_estimators_task=60),
        SharedTrees(n_estimators=60),
        IndependentTasks(tune=("small", "mid"), families=("lightgbm",)),
    ],
)
def test_trees_show_rounds_and_losses(model, capsys):
    quiet = model.set_params(random_state=0).fit(X, Y).predict(X)
    assert not capsys.readouterr().out
    assert model.set_params(verbose=1).fit(X, Y).predict(X).equals(quiet)
    shown = capsys.readouterr().out
    lines, name = shown.splitlines(), type(model).__name__
    assert all(line.startswith(f"{name}  ") for line in lines)
    for task, metric in (("a", "r2"), ("b", "roc_auc")):
        assert any(re.search(rf"  {task}  val {metric} [01]\.\d{{4}}", line) for line in lines), task
    assert isinstance(model, IndependentTasks) or "mean val loss 0." in shown


def test_seconds_are_those_of_the_fit_as_in_its_limit(capsys, monkeypatch):
    now = iter(range(100))
    monkeypatch.setattr("tabmtl.training.watch.perf_counter", lambda: float(next(now)))
    watch = Watch(1, name="Trees")  # at 0 s
    for _ in range(2):
        with watch.steps(2, "round") as step:
            step("a")
            step("b")
    watch.tell("done")
    lines = capsys.readouterr().out.splitlines()
    assert lines == [*(f"Trees  round {1 + n % 2}/2  {'ab'[n % 2]}  {n + 1}.0 s" for n in range(4)), "Trees  done"]


def interrupt(model, after):
    def hook(record):
        if record["epoch"] == after:
            raise KeyboardInterrupt

    return model.set_params(on_epoch=hook)


def test_an_interrupt_leaves_the_estimator_as_it_was():
    model = tiny(SharedBottom, epochs=5, random_state=0).fit(X, Y)
    before = dict(vars(model))
    with pytest.raises(KeyboardInterrupt):
        interrupt(model, 2).fit(X, Y)
    assert {name: value for name, value in vars(model).items() if name != "on_epoch"} == {
        name: value for name, value in before.items() if name != "on_epoch"
    }
