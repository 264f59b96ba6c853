"""The benchmark compares networks of one size, on rows that are what it says."""

from __future__ import annotations

import pytest

from benchmarks.experts_speed import (
    compare_embeddings,
    draw_figure,
    fit_ours,
    fit_rechub,
    main,
    member_steps,
    options,
)
from benchmarks.peers.rechub import N_LEVELS, RATES, draw_tables
from tabmtl import MMoE


def test_the_rows_have_the_rates_and_levels_that_are_asked_for():
    X, y = draw_tables(20_000)
    assert (len(X[0]), len(X[1]), len(y[0]), len(y[1])) == (20_000, 4000, 20_000, 4000)
    assert 0 <= X[0]["c0"].min() < X[0]["c0"].max() < N_LEVELS
    assert y[0].mean().row(0) == pytest.approx(RATES, rel=0.15)


def test_a_run_times_every_epoch_but_the_first():
    X, y = draw_tables(2000)
    run = fit_ours(MMoE(**options(3, seed=0), expert_hidden=(4,), n_experts=2), X, y)
    assert len(run.epochs) == 2
    assert 0 < sum(run.epochs) < 3 * run.whole


def test_both_libraries_train_networks_of_one_size():
    pytest.importorskip("torch_rechub")
    X, y = draw_tables(20_000)
    ours = fit_ours(MMoE(**options(2, seed=0), numeric_embedding="none", expert_hidden=(64, 32)), X, y)
    peer = fit_rechub("MMoE", X, y, 2, 0)
    assert ours.n_parameters == pytest.approx(peer.n_parameters, rel=0.01)
    assert len(peer.epochs) == len(ours.epochs)


def test_members_are_timed_beside_a_peer_of_one_size():
    pytest.importorskip("tabm")
    steps = member_steps(3, 8)
    assert list(steps) == ["TabM", "ours", "ours, one member"]
    sizes = [sum(parameter.numel() for parameter in network.parameters()) for network, _ in steps.values()]
    assert sizes[0] == sizes[1] > sizes[2]
    for network, step in steps.values():
        before = [parameter.detach().clone() for parameter in network.parameters()]
        step()
        assert all((old != new).any() for old, new in zip(before, network.parameters(), strict=True))


def test_embeddings_are_timed_with_every_optimiser_and_drawn(tmp_path, capsys):
    found = compare_embeddings((1000, 2000), rounds=1)
    assert list(found) == [1000, 2000]
    assert all(len(row) == 4 and min(row.values()) > 0 for row in found.values())
    assert "goal" not in capsys.readouterr().out  # which is of the largest table
    draw_figure(found, str(tmp_path / "figure.png"))
    assert (tmp_path / "figure.png").stat().st_size > 1000


def test_one_epoch_is_refused(capsys):
    with pytest.raises(SystemExit):
        main(["--epochs", "1"])
    assert "at least 2" in capsys.readouterr().err
