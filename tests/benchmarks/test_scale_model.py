"""The model of many machines is arithmetic that can be checked by hand, and its measurements run."""

from __future__ import annotations

import math

import pytest

from benchmarks import scale_model
from benchmarks.scale import N_ITEMS, popularity
from benchmarks.scale_model import LATENCY, Cost, SessionCost, Traffic, main, report


def test_a_step_of_several_workers_is_the_sum_of_its_parts():
    cost = Cost(row=1e-6, fixed=1e-3, sums=Traffic(3, 1e6), in_group=1.5, row_bytes=1e3)
    spent = cost.seconds(1_000, 4, bandwidth=1e9)
    assert spent["rows"] == pytest.approx(1.5 * 2.5e-4)
    assert spent["fixed"] == 1e-3
    assert spent["latency"] == pytest.approx(6 * 3 * LATENCY)
    assert spent["bytes"] == pytest.approx(2 * 3 / 4 * 1e6 / 1e9)
    assert spent["disk"] == pytest.approx(250 * 1e3 / 1e9)
    assert cost.seconds(1_000, 1) | {"disk": 0} == {"rows": 1e-3, "fixed": 1e-3, "latency": 0, "bytes": 0, "disk": 0}


def test_all_hear_what_is_gathered_and_histograms_are_halved():
    cost = Cost(row=0, fixed=0, gathers=Traffic(1, 1e6), splits=Traffic(10, 1e7))
    spent = cost.seconds(1_000, 8, bandwidth=1e9)
    assert spent["latency"] == pytest.approx((2 * 7 + 3 * 10) * LATENCY)
    assert spent["bytes"] == pytest.approx(7 * 1e6 / 1e9 + 7 / 8 * 1e7 / 1e9)


def test_no_more_workers_than_tasks_have_work(capsys):
    cost = Cost(row=3e-6, fixed=0, n_parts=3, moved=300)
    assert cost.seconds(1e6, 2)["rows"] == pytest.approx(1.5)
    assert cost.seconds(1e6, 64)["tasks"] == pytest.approx(1.0)
    report("three tasks", cost, 1e9, 64)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[-2:] for line in lines[1::2]] == [["tasks", "100%"]] * 2
    assert ["3.0x" in line for line in lines[1::2]] == [True] * 2
    assert "100 GB a task" in lines[2]


def test_clicks_of_all_workers_are_candidates_of_each():
    costs = {"candidate": 1e-6, "pair": 1e-9, "n_negatives": 4_096}
    cost = SessionCost(row=0, fixed=0, **costs)
    assert 4_000 < cost.n_candidates(4) <= 4_096
    assert 10_000 < cost.n_candidates(64 * 1_024) < N_ITEMS
    few = cost.n_candidates(4) - (4_096 - 8)  # five clicks, of which two hardly ever are of one item
    assert few == pytest.approx(5 - math.comb(5, 2) * (popularity() ** 2).sum(), abs=1e-4)
    spent = cost.seconds(64 * 1_024, 64)
    assert spent["candidates"] == pytest.approx((1e-6 + 1e-9 * 1_024) * cost.n_candidates(64 * 1_024))


@pytest.mark.all_faces  # takes a while
def test_it_measures_and_tells_what_is_full_first(capsys, monkeypatch):
    monkeypatch.setattr(scale_model, "NETWORKS", ("SharedBottom",))
    monkeypatch.setattr(scale_model, "in_own_process", lambda function, *arguments: function(*arguments))
    monkeypatch.setattr(scale_model, "_SIZES", (32, 64))
    monkeypatch.setattr(scale_model, "_TARGETS", (32, 64))
    monkeypatch.setattr(scale_model, "_CANDIDATES", (512, 1_024))
    main(["--quick", "--batch-rows", "64"])
    lines = [line.split(",")[0].strip() for line in capsys.readouterr().out.splitlines()]
    many = ["64 workers", "64 workers"]
    assert [line.split("  ")[0] for line in lines] == [
        "survey and encode",
        *(line for name in ("SharedBottom", "M2TRec", "SharedTrees", "RMTGB") for line in (name, *many)),
        *("IndependentTasks", *["64 workers", "to the workers of the tasks before"] * 2),
        *("SharedBottom", "RMTGB"),
    ]
