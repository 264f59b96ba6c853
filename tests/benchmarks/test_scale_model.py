"""The model of many machines is arithmetic that can be checked by hand, and its measurements run."""

from __future__ import annotations

import math

import pytest

from benchmarks import scale_model
from benchmarks.scale import N_ITEMS, popularity
from benchmarks.scale_model import LATENCY, Cost, SessionCost, Traffic, Work, main, report


def test_a_step_of_several_workers_is_the_sum_of_its_parts():
    cost = Cost(work=Work(1e-6, 1e-3), in_group=Work(1.5e-6, 2e-3), sums=Traffic(3, 1e6), row_bytes=1e3)
    spent = cost.seconds(1_000, 4, bandwidth=1e9)
    assert spent["rows"] == pytest.approx(1.5 * 2.5e-4)
    assert spent["fixed"] == 2e-3
    assert spent["latency"] == pytest.approx(6 * 3 * LATENCY)
    assert spent["bytes"] == pytest.approx(2 * 3 / 4 * 1e6 / 1e9)
    assert spent["disk"] == pytest.approx(250 * 1e3 / 1e9)
    assert cost.seconds(1_000, 1) | {"disk": 0} == {"rows": 1e-3, "fixed": 1e-3, "latency": 0, "bytes": 0, "disk": 0}


def test_all_hear_what_is_gathered_and_histograms_are_halved():
    cost = Cost(work=Work(0, 0), gathers=Traffic(1, 1e6), small_sums=Traffic(5, 3e4), splits=Traffic(10, 1e7))
    spent = cost.seconds(1_000, 8, bandwidth=1e9)
    assert spent["latency"] == pytest.approx((2 * 7 + 5 * 7 + 3 * 10) * LATENCY)
    assert spent["bytes"] == pytest.approx(7 * (1e6 + 3e4) / 1e9 + 7 / 8 * 1e7 / 1e9)


@pytest.mark.parametrize(("workers", "of_all"), [(1, 1), (2, 2 / 3), (3, 1 / 3), (64, 1 / 3)])
def test_tasks_are_not_divided(workers, of_all):
    cost = Cost(work=Work(3e-6, 3e-3), n_tasks=3)
    spent = cost.seconds(1e6, workers)
    assert spent["tasks"] == pytest.approx(3 * of_all)
    assert spent["fixed"] == pytest.approx(3e-3 * of_all)
    assert "rows" not in spent


def test_no_more_workers_than_tasks_have_work(capsys):
    report("three tasks", Cost(work=Work(3e-6, 0), n_tasks=3, moved=300), 1e9, 64)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[-2:] for line in lines[1::2]] == [["tasks", "100%"]] * 2
    assert ["3.0x" in line for line in lines[1::2]] == [True] * 2
    assert "100 GB a task" in lines[2]


def test_a_cost_that_noise_leaves_nothing_of_is_told(capsys):
    report("nothing", Cost(work=Work(0.0, 0.0), n_tasks=3), 1e9, 64)
    assert len(capsys.readouterr().out.splitlines()) == 5


def test_few_seconds_are_not_told_as_minutes(capsys):
    cost = Cost(work=Work(0.55e-6, 0))
    report("seconds", cost, 1e9, 64)
    report("minutes", cost, 1e11, 64)
    lines = capsys.readouterr().out.splitlines()
    assert ["8.59 s" in line for line in lines] == [False, True, True, False, False, False]
    assert ["14.3 min" in line for line in lines] == [False, False, False, False, True, True]


def test_work_of_two_sizes_is_a_line_that_is_never_below_zero():
    found = Work.through((256, 2_048), (256 * 1e-5 + 1e-3, 2_048 * 1e-5 + 1e-3))
    assert (found.row, found.fixed) == pytest.approx((1e-5, 1e-3))
    steeper = Work.through((1, 10), (1.0, 20.0))
    assert (steeper.row, steeper.fixed) == pytest.approx((201 / 101, 0))


def test_parts_of_a_tenth_are_told_the_largest_first(capsys):
    report("network", Cost(work=Work(1e-3, 0.3), row_bytes=0.09e6), 1e3, 1, of_worker=600)  # 0.6, 0.3 and 0.054 s
    assert capsys.readouterr().out.splitlines()[1].endswith(" rows 63%, fixed 31%")


def test_clicks_of_all_workers_are_candidates_of_each():
    costs = {"candidate": 1e-6, "pair": 1e-9, "n_negatives": 4_096}
    cost = SessionCost(work=Work(0, 0), **costs)
    assert 4_000 < cost.n_candidates(4) <= 4_096
    assert 10_000 < cost.n_candidates(64 * 1_024) < N_ITEMS
    few = cost.n_candidates(4) - (4_096 - 5)  # five clicks, of which two hardly ever are of one item
    assert few == pytest.approx(5 - math.comb(5, 2) * (popularity() ** 2).sum(), abs=1e-4)
    spent = cost.seconds(64 * 1_024, 64)
    assert spent["candidates"] == pytest.approx(1e-6 * cost.n_candidates(64 * 1_024))
    assert spent["pairs"] == pytest.approx(1e-9 * 1_024 * cost.n_candidates(64 * 1_024))


@pytest.mark.all_faces  # takes a while
def test_it_measures_and_tells_what_is_full_first(capsys, monkeypatch):
    monkeypatch.setattr(scale_model, "NETWORKS", ("SharedBottom", "MMoE"))
    monkeypatch.setattr(scale_model, "in_own_process", lambda function, *arguments: function(*arguments))
    monkeypatch.setattr(scale_model, "_SIZES", (32, 64))
    monkeypatch.setattr(scale_model, "_TARGETS", (32, 64))
    monkeypatch.setattr(scale_model, "_CANDIDATES", (512, 1_024))
    main(["--quick", "--batch-rows", "64"])
    said = capsys.readouterr().out.splitlines()
    lines = [line.split(",")[0].strip() for line in said]
    many = ["64 workers", "64 workers"]
    assert [line.split("  ")[0] for line in lines] == [
        "survey and encode",
        *(line for name in ("SharedBottom", "MMoE", "M2TRec", "SharedTrees", "RMTGB") for line in (name, *many)),
        *("IndependentTasks", *["64 workers", "to the workers of the tasks before"] * 2),
        *("SharedBottom", "MMoE", "RMTGB"),
    ]
    in_group = [line for line, told in zip(lines, said, strict=True) if "in a group" in told]
    assert in_group == ["MMoE"]  # which has batch normalisation
