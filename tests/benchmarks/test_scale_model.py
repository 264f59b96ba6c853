"""The model of many machines is arithmetic that can be checked by hand, and its measurements run."""

from __future__ import annotations

import pytest

from benchmarks import scale_model
from benchmarks.scale_model import LATENCY, Cost, main


def test_a_step_of_several_workers_is_the_sum_of_its_parts():
    cost = Cost(row=1e-6, fixed=1e-3, n_bytes=1e6, n_sums=3)
    spent = cost.seconds(1_000, 4, bandwidth=1e9)
    assert spent["rows"] == pytest.approx(2.5e-4)
    assert spent["fixed"] == 1e-3
    assert spent["latency"] == pytest.approx(6 * 3 * LATENCY)
    assert spent["bytes"] == pytest.approx(2 * 3 / 4 * 1e6 / 1e9)
    assert cost.seconds(1_000, 1, bandwidth=1e9) | {"rows": 1e-3, "disk": 0} == {
        "rows": 1e-3,
        "fixed": 1e-3,
        "latency": 0,
        "bytes": 0,
        "disk": 0,
    }


@pytest.mark.all_faces  # takes a while
def test_it_measures_and_tells_what_is_full_first(capsys, monkeypatch):
    monkeypatch.setattr(scale_model, "NETWORKS", ("SharedBottom",))
    monkeypatch.setattr(scale_model, "in_own_process", lambda function, *arguments: function(*arguments))
    monkeypatch.setattr(scale_model, "_SIZES", (32, 64))
    main(["--quick"])
    lines = [line.split(",")[0].strip() for line in capsys.readouterr().out.splitlines()]
    assert [line.split("  ")[0] for line in lines] == [
        "survey and encode",
        *("SharedBottom", "64 workers", "64 workers"),
        *("SharedTrees", "64 workers", "64 workers"),
        "SharedBottom",
    ]
