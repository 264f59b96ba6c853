"""M2TRec beside plain code, on one thread: training steps, exact search, whole fits, and reading a log."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
import torch

from benchmarks.datasets import ClickLog, load_sessions
from benchmarks.harness import Measures, Side, Sides, alone, asking, cpu, gauged, plain_steps, steps_of
from benchmarks.peers.sasrec import fit_plain, plain_step
from tabmtl.sessions import M2TRec, temporal_split
from tabmtl.sessions.log import LogColumns, read_sessions
from tabmtl.sessions.ranking import top_k

#: The batch has 10 752 clicks, which serve as negatives: of these, only 16 384 draws further items.
NEGATIVES = {"in-batch": 1, "1024": 1024, "8192": 8192, "16384": 16384, "full": None}
#: Defaults of M2TRec before there was a directed path.
EARLIER: dict[str, Any] = {
    "pooling": "undirected",
    "epochs": 10,
    "learning_rate": 2e-3,
    "batch_size": 2048,
    "precision": "float32",
}
FIXED: dict[str, Any] = {"early_stopping": False, "n_jobs": 1, "device": "cpu", "random_state": 0}
STEPS = 9


def network(d_model: int) -> dict[str, Any]:
    """Return parameters of the network that every side takes."""
    return {"d_model": d_model, "n_layers": 2, "n_heads": 4}


def draw_items(n: int) -> pl.DataFrame:
    """Draw an item table: 500 categories, 2 000 brands, 8 of 1 000 tags, 4 numbers."""
    rng = np.random.default_rng(0)
    sizes = {"category": 500, "brand": 2000}
    names = {name: rng.integers(size, size=n).astype(str) for name, size in sizes.items()}
    numbers = {f"x{j}": rng.standard_normal(n, dtype=np.float32) for j in range(4)}
    tags = pl.Series("tags", rng.integers(1000, size=(n, 8)))
    return pl.DataFrame({"item_id": np.arange(n), **names, "tags": tags.cast(pl.List(pl.String)), **numbers})


def draw_log(n_sessions: int, length: int, n_items: int) -> pl.DataFrame:
    """Draw sessions of equally many clicks, each on any item."""
    items = np.random.default_rng(1).integers(n_items, size=n_sessions * length)
    sessions = np.repeat(np.arange(n_sessions), length)
    return pl.DataFrame({"session_id": sessions, "item_id": items, "time": np.arange(len(items))})


def stepping(n_sessions: int, length: int, d_model: int, n_items: int, items: pl.DataFrame | None = None) -> Any:
    """Return a function that makes a side of training steps from options of M2TRec, over metadata or ids alone.

    A step has one target a session, whose newest clicks are read: sessions are so long that few of them have less.
    """
    log = draw_log(max(2, n_sessions // 10), 20 * length, n_items)
    still: dict[str, Any] = {
        "dropout": 0.0,
        "average_decay": 0.0,
        "epochs": 1,
    }
    shape: dict[str, Any] = {"training": "per_prefix", "max_length": length, "batch_size": n_sessions}
    shape["id_mode"] = "full" if items is None else "none"

    def side(**options: Any) -> Side:
        model = M2TRec(**shape, **still, **network(d_model), **FIXED, **options)
        return lambda _: steps_of(lambda: model.fit(log, items=items), STEPS)

    return side


def body(n_items: int = 10_000, n_sessions: int = 512, length: int = 20, d_model: int = 128) -> Sides:
    """Compare steps over ids, whose negatives are the items of the batch, with ``nn.TransformerEncoder``."""
    side = stepping(n_sessions, length, d_model, n_items)
    plain = plain_step(n_items, n_sessions, length, **network(d_model))[1]
    return {"nn.TransformerEncoder": lambda _: plain_steps(plain, STEPS)} | {
        f"{precision}, pooling={pooling}": side(n_negatives=1, precision=precision, pooling=pooling)
        for pooling in ("last", "mean", "items")
        for precision in ("float32", "bf16")
    }


def step(
    precision: str = "float32",
    pooling: str = "mean",
    n_items: int = 100_000,
    n_sessions: int = 512,
    length: int = 20,
    d_model: int = 128,
) -> Sides:
    """Compare steps over metadata by the items of the softmax."""
    side = stepping(n_sessions, length, d_model, n_items, draw_items(n_items))
    return {name: side(n_negatives=n, precision=precision, pooling=pooling) for name, n in NEGATIVES.items()}


def search(
    n_sessions: int = 1, n_items: int = 100_000, length: int = 20, d_model: int = 128, requests: int = 100
) -> Sides:
    """Compare the exact top 20 for a block of sessions with plain ones, and all of `recommend`; wall milliseconds."""
    log = draw_log(max(n_sessions, 32), length, n_items)
    model = M2TRec(epochs=1, max_length=length, **network(d_model), **FIXED)
    model.fit(log, items=draw_items(n_items).select("item_id", "category"))
    some = log.filter(pl.col("session_id") < n_sessions)
    queries, rows = model.transform(some), model.item_vectors()
    asked, items, columns = torch.from_numpy(queries), torch.from_numpy(rows), torch.from_numpy(rows.T.copy())
    sides = {
        "torch q @ X.T, topk": lambda _: torch.topk(asked @ items.T, 20),
        "numpy q @ X.T, argpartition": lambda _: np.argpartition(-(queries @ rows.T), 20),
        "search": lambda _: top_k((asked @ columns).numpy(), 20),
        "recommend": lambda _: model.recommend(some),
    }
    return {name: asking(ask, [None], requests) for name, ask in sides.items()}


def epoch(
    name: str = "diginetica", share: float = 0.05, epochs: int = 2, d_model: int = 128, judges: int = 2000
) -> Sides:
    """Compare an epoch on the newest share of a log, with all work of `fit`, and Recall@20, with a plain SASRec."""
    data = opened(name, share)
    named: dict[str, Any] = {**data.columns}
    columns = LogColumns(**{name.removesuffix("_column"): column for name, column in named.items()})
    clicks, test = data.part("train"), data.part("test")
    test = test.filter(pl.col("session_id").is_in(test["session_id"].unique().sort().head(judges).implode()))

    def plain(_: int) -> Measures:
        seconds, recall = fit_plain(clicks, test, columns, epochs=epochs, **network(d_model))
        return {"s": seconds, "Recall@20": recall}

    def ours(precision: str) -> Side:
        options: dict[str, Any] = network(d_model) | FIXED | named | {"precision": precision}
        model = M2TRec(categories=data.categories, epochs=epochs, **options)
        fit = cpu(lambda: model.fit(clicks, items=data.items))
        return lambda seed: {"s": fit(seed)["s"] / epochs, "Recall@20": model.rank(test).recall(20)}

    return {"plain SASRec": plain} | {f"M2TRec, {precision}": ours(precision) for precision in ("float32", "bf16")}


def fit(name: str = "complete_journey", share: float = 1.0) -> Sides:
    """Compare fits by earlier defaults and by those of now, and their scores on the newest tenth of the train part."""
    data = opened(name, share)
    named: dict[str, Any] = {**data.columns, "categories": data.categories, "n_jobs": 1, "random_state": 0}
    train, judged = temporal_split(data.part("train"), test_size=0.1, time_column=data.columns["time_column"])

    def side(**settings: Any) -> Side:
        model = M2TRec(**named | settings)
        run = cpu(lambda: model.fit(train, items=data.items))

        def measured(seed: int) -> Measures:
            seconds, ranking = run(seed), model.rank(judged)
            return seconds | {"Recall@20": ranking.recall(20), "MRR@20": ranking.mrr(20)}

        return measured

    return {"earlier defaults": side(**EARLIER), "defaults": side()}


def opened(name: str, share: float) -> ClickLog:
    """Open the newest share of a log."""
    data = load_sessions(name)
    return data if share == 1 else data.newest(share)


def fit_alone(n_items: int, n_sessions: int, length: int, d_model: int) -> Measures:
    """Measure `fit` on drawn data, with every click of the sessions of a step predicted."""
    torch.set_num_threads(1)
    log, items = draw_log(4 * n_sessions, length + 1, n_items), draw_items(n_items)
    model = M2TRec(epochs=2, batch_size=n_sessions * length, n_negatives=8192, **network(d_model), **FIXED)
    found: Measures = {}
    with gauged(found):
        model.fit(log, items=items)
    return {"GB": found["GB"], **found}


def memory(n_items: int = 100_000, n_sessions: int = 512, length: int = 20, d_model: int = 128) -> Sides:
    """Measure the memory of a training run."""
    return {"fit": alone(fit_alone, n_items, n_sessions, length, d_model)}


def read_alone(clicks: int) -> Measures:
    """Measure the way from clicks to sessions, and the size of the log."""
    log = draw_log(clicks // 5, 5, 100_000).sample(fraction=1.0, shuffle=True, seed=0)
    found: Measures = {}
    with gauged(found):
        read_sessions(log, LogColumns(), log["item_id"].unique().sort())
    return {"s of wall": found["s of wall"], **found, "GB of the log": log.estimated_size() / 1e9}


def reading(clicks: int = 10_000_000) -> Sides:
    """Measure time and memory of the way from clicks to sessions."""
    return {"read": alone(read_alone, clicks)}
