"""The plain reference is the method that it stands for, and the benchmark compares like with like."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
import torch
from torch.nn import functional as F

from benchmarks.peers.sasrec import PaddedSessions, PlainSASRec, plain_recall, plain_step, train_plain
from benchmarks.sessions_speed import (
    NEGATIVES,
    Setting,
    compare_epochs,
    compare_fits,
    draw_items,
    draw_log,
    main,
    our_step,
)
from tabmtl.pipelines.datasets import ClickLog
from tabmtl.sessions.log import LogColumns, read_sessions
from tabmtl.sessions.m2trec.item_features import ItemCoder

TINY = Setting(n_items=3000, n_body_items=60, n_sessions=8, length=5, d_model=16, rounds=1, n_clicks=100_000)
SIZES = {"d_model": 16, "n_layers": 2, "n_heads": 4}


def rounds_log(n_sessions: int = 60, n_items: int = 12) -> pl.DataFrame:
    """Every click is followed by one on the next item of a circle, the first of a session is any."""
    start = np.random.default_rng(0).integers(n_items, size=(n_sessions, 1))
    items = (start + np.arange(4)) % n_items
    sessions = np.repeat(np.arange(n_sessions), 4)
    return pl.DataFrame(
        {"session_id": sessions, "item_id": items.ravel(), "position": np.tile(np.arange(4), n_sessions)}
    )


def parameters(network: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def test_the_plain_model_reads_no_later_click_and_no_padding():
    torch.manual_seed(0)
    plain = PlainSASRec(20, 6, **SIZES).eval()
    codes = torch.tensor([[3, 7, 2, 9, 4, 1]])
    states = plain(codes)
    assert not torch.allclose(states[0, -1], plain(codes.flip(1))[0, -1])
    torch.testing.assert_close(plain(codes[:, :4]), states[:, :4])
    padded = torch.cat([codes[:, :4], torch.zeros(1, 2, dtype=torch.int64)], dim=1)
    torch.testing.assert_close(plain(padded)[:, :4], states[:, :4])


def test_the_plain_loss_is_cross_entropy_over_all_items_where_a_click_follows():
    torch.manual_seed(0)
    plain = PlainSASRec(20, 4, **SIZES).eval()
    codes, targets = torch.tensor([[3, 7, 2, 0], [5, 0, 0, 0]]), torch.tensor([[7, 2, 9, 0], [1, 0, 0, 0]])
    logits = plain(codes) @ plain.items.weight.T
    expected = F.cross_entropy(logits[..., 1:].flatten(0, 1), targets.flatten() - 1, ignore_index=-1)
    torch.testing.assert_close(plain.loss(codes, targets), expected)


def test_padded_sessions_are_the_newest_clicks_and_the_ones_behind_them():
    codes, targets = PaddedSessions([np.array([4, 5]), np.arange(1, 7)], 3)[0]
    assert (codes.tolist(), targets.tolist()) == ([4, 0, 0], [5, 0, 0])
    codes, targets = PaddedSessions([np.array([4, 5]), np.arange(1, 7)], 3)[1]
    assert (codes.tolist(), targets.tolist()) == ([3, 4, 5], [4, 5, 6])


def test_the_plain_model_learns_what_follows():
    log = rounds_log()
    sessions = read_sessions(log, LogColumns(time=None, order="position"), log["item_id"].unique().sort())
    torch.manual_seed(0)
    plain = PlainSASRec(12, 50, dropout=0.0, **SIZES)
    before = plain_recall(plain, sessions, 1)
    losses = train_plain(plain, sessions, epochs=12, batch_size=8, learning_rate=5e-3)
    assert losses[0] == pytest.approx(np.log(12), abs=0.5)
    assert losses[-1] < 0.5
    assert before < 0.5 < 0.9 < plain_recall(plain, sessions, 1)


def test_both_bodies_have_about_the_same_parameters_and_losses_that_fall():
    plain, plain_run = plain_step(60, 8, 5, **SIZES)
    ours, our_run = our_step(TINY, None)
    assert parameters(ours) == pytest.approx(parameters(plain), rel=0.05)
    matrices = [p.shape for p in plain.layers.parameters() if p.ndim == 2]
    assert sorted(matrices) == sorted(p.shape for p in ours.encoder.layers.parameters() if p.ndim == 2)
    losses = [(plain_run().item(), our_run()[0].item()) for _ in range(60)]
    n_clicked = 34  # of 60 items, by the 48 clicks of a step; ours begins by guessing the last click once more
    assert losses[0][0] == pytest.approx(np.log(n_clicked), rel=0.1)
    assert losses[-1][0] < losses[0][0] - 0.2
    assert losses[-1][1] < losses[0][1] - 0.2


@pytest.mark.parametrize(
    ("kind", "least", "most"), [("in-batch", 511, 511), ("1024", 1023, 1535), ("full", 3000, 3000)]
)
def test_a_step_has_the_candidates_that_its_name_says(kind, least, most, monkeypatch):
    items = draw_items(3000).drop("item_id")
    coder = ItemCoder.fit(items)
    seen = []

    def loss(queries, repeat, vectors, *rest, bfloat16):
        seen.append((len(queries), len(vectors)))
        return queries.mean() + vectors.mean()

    monkeypatch.setattr("tabmtl.sessions.m2trec.training.softmax_loss", loss)
    our_step(TINY, (coder, coder.encode(items)), n_negatives=NEGATIVES[kind])[1]()
    [(n_queries, n_candidates)] = seen
    assert n_queries == TINY.n_sessions
    assert least <= n_candidates - 1 <= most  # unit 0 is none, but fills up


def test_drawn_data_are_what_the_setting_says():
    items, log = draw_items(200), draw_log(30, 7, 200)
    assert items.shape == (200, 8)
    assert (items["tags"].list.len() == 8).all()
    assert log.group_by("session_id").len()["len"].unique().to_list() == [7]
    assert log["item_id"].is_between(0, 199).all()


def circle() -> ClickLog:
    log = rounds_log()
    return ClickLog(
        name="circle",
        clicks=log.with_columns(
            split=pl.when(pl.col("session_id") < 50).then(pl.lit("train")).otherwise(pl.lit("test"))
        ),
        items=pl.DataFrame({"item_id": range(12), "category": list("aabbccddeeff")}),
        columns={
            "session_column": "session_id",
            "item_column": "item_id",
            "time_column": None,
            "order_column": "position",
        },
        categories=("category",),
        licence="CC0",
        source="made up",
    )


def test_epochs_compare_time_and_recall_on_a_held_out_log(capsys):
    found = compare_epochs(circle(), TINY, 1, 10)
    assert list(found) == ["plain SASRec", "M2TRec, float32", "M2TRec, bf16"]
    assert all(seconds > 0 and 0 <= recall <= 1 for seconds, recall in found.values())
    assert "circle, 50 sessions" in capsys.readouterr().out


def test_fits_compare_time_and_scores_on_later_sessions_of_train(capsys):
    found = compare_fits(circle())
    assert list(found) == ["earlier defaults", "defaults"]
    assert all(seconds > 0 and 0 <= mrr <= 1 for seconds, mrr in found.values())
    assert "circle, 180 clicks: defaults" in capsys.readouterr().out


@pytest.mark.all_faces  # ten seconds
def test_the_sections_print_goals_beside_what_was_measured(capfd, monkeypatch):
    def load(name):
        raise FileNotFoundError(f"no {name} here")

    monkeypatch.setattr("benchmarks.sessions_speed.load_sessions", load)
    monkeypatch.setattr("benchmarks.sessions_speed.SMALL", TINY)
    threads = torch.get_num_threads()
    main(["--quick", "--only", "body", "step", "search", "epoch", "fit", "reading"])
    torch.set_num_threads(threads)
    said = capfd.readouterr().out
    for part in (
        "body: bf16, pooling=last",
        "full, and beside 8192",
        ">= 3x",
        "3000 items, 256 sessions",
        "epoch: skipped",
        "fit: skipped",
        "wall",
    ):
        assert part in said
