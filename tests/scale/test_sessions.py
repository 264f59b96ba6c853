"""M2TRec from a log on a disk: what equals training from a frame, ranks that learn the weights of one, checkpoints."""

from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal
from ranks import assert_same_weights
from recommenders import ITEMS, LOG
from wired import run_ranks

from tabmtl.scale import Shards, clicks
from tabmtl.sessions import M2TRec, Popularity
from tabmtl.sessions.m2trec import fitting, tower
from tabmtl.sessions.m2trec.items import KnownItems
from tabmtl.sessions.m2trec.network import M2TRecNetwork

TRAIN, LATER = LOG.split()
STILL = {"dropout": 0.0, "id_dropout": 0.0, "pooling": "undirected"}
TINY = {"categories": ("category", "subcategory"), "columns": {"name": "text"}, "d_model": 16, "epochs": 1}
TINY |= {"batch_size": 128, "precision": "float32", "device": "cpu", "n_jobs": 1, "random_state": 0}
EXACT = 1e-7  # of float64 weights


@pytest.fixture(autouse=True)
def _small(monkeypatch):
    monkeypatch.setattr(clicks, "LANES", 4)
    monkeypatch.setattr(tower, "UNSEEN_RATE", 0.0)
    monkeypatch.setattr(clicks, "CHUNK_SESSIONS", 8)
    monkeypatch.setattr(clicks, "_WINDOW_CHUNKS", 4)


@pytest.fixture
def _float64(monkeypatch):
    """Compute in float64, where rounding does not grow from step to step."""
    on_device = KnownItems.on

    def wide(tensor):
        return tensor.double() if tensor.is_floating_point() else tensor

    def on_device_in_float64(known, device):
        items = on_device(known, device)
        features = None if items.features is None else items.features.map(wide)
        return replace(items, features=features, popularity=items.popularity.double())

    monkeypatch.setattr(KnownItems, "on", on_device_in_float64)
    monkeypatch.setattr(fitting, "M2TRecNetwork", lambda *args: M2TRecNetwork(*args).double())


def fit(log=TRAIN, **params):
    return M2TRec(**TINY | STILL | params).fit(Shards(log.lazy()), items=ITEMS)


def test_one_step_is_that_of_a_frame(monkeypatch):
    monkeypatch.setattr(clicks, "_WINDOW_CHUNKS", 64)
    log = TRAIN.with_columns(event=pl.when(pl.int_range(pl.len()) % 3 == 0).then(pl.lit("buy")))
    params = {"epochs": 2, "batch_size": 10_000, "n_negatives": None, "average_decay": 0.0, "learning_rate": 0.01}
    params |= {"event_column": "event", "event_weights": {"buy": 3.0}}
    ours = M2TRec(**TINY | STILL | params).fit(Shards(log.lazy()), items=ITEMS, clicks_val=Shards(LATER.lazy()))
    frame = M2TRec(**TINY | STILL | params).fit(log, items=ITEMS, clicks_val=LATER)
    assert_same_weights(frame, ours, 1e-4)
    np.testing.assert_allclose(ours.history_.to_numpy(), frame.history_.to_numpy(), rtol=1e-4)
    assert ours.oracle_ceiling_ == frame.oracle_ceiling_
    np.testing.assert_array_equal(ours.item_counts_, frame.item_counts_)
    assert_frame_equal(ours.new_item_report_, frame.new_item_report_, rel_tol=1e-3)
    for one, other in zip(ours._categories, frame._categories, strict=True):
        for name in ("offsets", "codes", "counts"):
            if one.transitions is not None:
                found, expected = getattr(one.transitions, name), getattr(other.transitions, name)
                np.testing.assert_array_equal(found, expected)
                assert found.dtype == expected.dtype
    lists = [model.recommend(LATER, k=3) for model in (ours, frame)]
    assert_frame_equal(*lists, abs_tol=1e-2)


@pytest.mark.usefixtures("_float64")
@pytest.mark.parametrize(
    "params",
    [
        {"n_negatives": 100, "early_stopping": True},
        pytest.param(
            {"training": "per_prefix", "id_mode": "none", "pooling": "mean", "n_negatives": 20},
            marks=pytest.mark.all_faces,
        ),
    ],
)
def test_two_ranks_learn_the_weights_of_one(params):
    one, first, second = run_ranks(1, lambda: fit(**params)) + run_ranks(2, lambda: fit(**params))
    assert_same_weights(one, first, EXACT)
    assert_same_weights(first, second, 0)
    np.testing.assert_allclose(one.history_.to_numpy(), first.history_.to_numpy(), rtol=1e-6)
    assert first.repeat_weights_ == second.repeat_weights_
    for name in ("history_", "new_item_report_"):
        assert_frame_equal(getattr(first, name), getattr(second, name), check_exact=True)
    scores = [model.recommend(LATER, k=5)["score"] for model in (one, first)]
    np.testing.assert_allclose(*scores, atol=1e-3)


@pytest.mark.all_faces
def test_a_rank_without_a_session_of_a_step():
    few = TRAIN.filter(pl.col("session_id").rank("dense") <= 30)
    one, two = run_ranks(1, lambda: fit(few, batch_size=8)) + run_ranks(2, lambda: fit(few, batch_size=8))[:1]
    np.testing.assert_allclose(one.history_["train/loss"], two.history_["train/loss"], rtol=1e-4)


@pytest.mark.all_faces
def test_one_rank_shows_and_decides(capsys):
    seen = []
    params = {"epochs": 2, "verbose": 1, "on_epoch": lambda record: seen.append(record["epoch"]) or True}
    models = run_ranks(2, lambda: fit(**params))
    assert seen == [0.0]
    assert [model.history_.height for model in models] == [1, 1]
    assert capsys.readouterr().out.count("sessions, ") == 1


REFUSED = [
    (r"fit of M2TRec on a frame is .*; give M2TRec the log as Shards, or call it outs", lambda: M2TRec().fit(TRAIN)),
    (r"fit of Popularity on a frame is for one process, .* call it outside", lambda: Popularity().fit(TRAIN)),
]


@pytest.mark.parametrize(("message", "call"), REFUSED)
def test_what_ranks_cannot_do_is_refused(message, call):
    with pytest.raises(ValueError, match=message):
        run_ranks(2, call)
