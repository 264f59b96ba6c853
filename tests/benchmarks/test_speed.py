"""Every case of the table of speed runs in its small form, and compares like with like."""

from __future__ import annotations

import re

import numpy as np
import polars as pl
import pytest
import torch
from cases import later

from benchmarks import harness, speed
from benchmarks.cases import boosted, files
from benchmarks.cases.networks import FIXED, peer
from benchmarks.cases.serving import _load_pyfunc, frames_of
from benchmarks.cases.sessions import draw_items, draw_log
from benchmarks.harness import Measures
from benchmarks.peers.rechub import N_LEVELS, RATES, draw_tables
from benchmarks.peers.tabm import make_tabm
from tabmtl import SharedBottom

NAMES = [*dict.fromkeys(case.name for case in speed.CASES)]
#: Cases that start servers or groups of processes, or take a second.
SLOW = ["http", "processes", "fit", "onnx", "parts", "wide", "epoch", "home", "one_row", "kinds_trees"]


@pytest.fixture(autouse=True)
def threads():
    """Leave the threads of torch as they were."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.filterwarnings("ignore::tabmtl.base.schema.TabmtlWarning")  # tables are tiny
@pytest.mark.parametrize("name", later(NAMES, *SLOW))
def test_every_case_runs(name, capfd, monkeypatch):
    for module in (harness, boosted, files):  # a process of its own takes seconds to start
        monkeypatch.setattr(module, "in_own_process", lambda function, *arguments: function(*arguments))
    speed.main(["--quick", "--only", name])
    lines = [line for line in capfd.readouterr().out.splitlines() if line.startswith(name)]
    if "skipped" in lines[0]:
        pytest.skip(lines[0])
    assert all(re.search(r": \S.* [\d.e-]+ (s|ms|GB)\b", line) for line in lines)
    assert len(lines) > 1 or name in ("memory", "reading")


def test_sizes_are_those_of_the_command_and_a_case_of_them_runs_once():
    given = dict(map(speed.size_of, ("model=PLE", "rows=99")))
    assert given == {"model": "PLE", "rows": 99}
    (case,) = speed.chosen(["processes"], given, quick=False)
    assert case.title == "processes, model PLE, rows 99"
    assert len(speed.chosen(["processes"], {}, quick=False)) == 3
    assert [case.name for case in speed.chosen(NAMES, {}, quick=True)] == NAMES


def test_a_size_that_no_case_has_is_refused(capsys):
    with pytest.raises(SystemExit):
        speed.main(["--only", "peer", "--set", "raws=5"])
    assert "no chosen case has the size 'raws'" in capsys.readouterr().err


def test_a_figure_has_a_line_a_side(tmp_path):
    found: dict[str, dict[str, list[Measures]]] = {str(n): {"a": [{"ms": n}], "b": [{"ms": 2.0}]} for n in (1.0, 3.0)}
    speed.draw_figure(found, str(tmp_path / "figure.png"))
    assert (tmp_path / "figure.png").stat().st_size > 1000


def test_click_rows_have_the_rates_and_levels_that_are_asked_for():
    X, y = draw_tables(20_000)
    assert (len(X[0]), len(X[1]), len(y[0]), len(y[1])) == (20_000, 4000, 20_000, 4000)
    assert 0 <= X[0]["c0"].min() < X[0]["c0"].max() < N_LEVELS
    assert y[0].mean().row(0) == pytest.approx(RATES, rel=0.15)


@pytest.mark.all_faces  # eight seconds
def test_both_libraries_train_networks_of_one_size():
    pytest.importorskip("torch_rechub")
    sizes = [side(0)["parameters"] for side in peer(rows=20_000, epochs=2).values()]
    assert sizes == pytest.approx([sizes[0]] * 3, rel=0.01)


def test_members_are_as_many_parameters_as_in_tabm():
    pytest.importorskip("tabm")
    bins = [torch.linspace(-2, 2, 49).tolist()] * 16
    theirs = sum(p.numel() for p in make_tabm(bins, 4, k=3, width=8).parameters())
    X = np.random.default_rng(0).normal(size=(500, 16))
    ours = SharedBottom(n_members=3, hidden=(8, 8), head_hidden=0, **FIXED).fit(X, X[:, :4] + 1)
    assert sum(array.size for array in ours.weights_.values()) == pytest.approx(theirs, rel=0.1)


def test_drawn_sessions_are_what_is_asked_for():
    items, log = draw_items(200), draw_log(30, 7, 200)
    assert items.shape == (200, 8)
    assert (items["tags"].list.len() == 8).all()
    assert log.group_by("session_id").len()["len"].unique().to_list() == [7]
    assert log["item_id"].is_between(0, 199).all()


@pytest.mark.parametrize("rows", [1, 32, 250, 1024])
def test_requests_have_the_rows_they_say_and_differ(rows):
    frames = frames_of(pl.DataFrame({"x": range(300)}), rows)
    assert {len(frame) for frame in frames} == {rows}
    assert len({frame["x"][0] for frame in frames}) == len(frames) <= 64
    assert frames[0]["x"].to_list() == [i % 300 for i in range(rows)]


def test_the_floor_answers_every_row_alike():
    assert _load_pyfunc("anywhere").predict(pl.DataFrame({"x": [1, 2]}), None).tolist() == [0, 0]
