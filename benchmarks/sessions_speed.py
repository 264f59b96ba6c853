"""Speed and memory of M2TRec against plain code, on one CPU thread.

    python -m benchmarks.sessions_speed [--sections NAME ...] [--quick]

Sections:

- ``body``: a training step of sessions to queries with in-batch negatives, against ``nn.TransformerEncoder``.
- ``step``: a whole training step with the item tower, by which items the softmax is over.
- ``search``: exact top 20, against ``q @ X.T`` and ``topk``.
- ``epoch``: epochs on Diginetica, against :mod:`benchmarks.peers.sasrec`, and what both have learned by then.
- ``memory`` and ``reading``: a training run, and 10 million clicks to sessions; each in a process of its own.

Sides of a comparison run in one process, in turn, and are compared by the least CPU time of several rounds; ratios
repeat within some percent, absolute numbers do not. Goals are printed beside what was measured.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from torch import Tensor

from benchmarks.peers.sasrec import fit_plain, plain_step
from benchmarks.speed import least_cpu_time
from tabmtl.pipelines.datasets import ClickLog, load_sessions
from tabmtl.sessions import M2TRec
from tabmtl.sessions.log import LogColumns, read_sessions
from tabmtl.sessions.m2trec.item_features import ItemCoder, ItemFeatures
from tabmtl.sessions.m2trec.items import KnownItems
from tabmtl.sessions.m2trec.network import M2TRecNetwork
from tabmtl.sessions.m2trec.training import Examples, SessionLoop
from tabmtl.sessions.ranking import top_k

SECTIONS = ("body", "step", "search", "epoch", "memory", "reading")
#: The batch has 10 752 clicks, which serve as negatives: of these, only 16 384 draws further items.
NEGATIVES = {"in-batch": 1, "1024": 1024, "8192": 8192, "16384": 16384, "full": None}
_GOAL = ("1024", "8192")


@dataclass(frozen=True, kw_only=True)
class Setting:
    """Items of the catalogue and of the body alone, sessions a step, clicks before the target, and the network."""

    n_items: int = 100_000
    n_body_items: int = 10_000
    n_sessions: int = 512
    length: int = 20
    d_model: int = 128
    rounds: int = 5

    @property
    def network(self) -> dict[str, Any]:
        """As every side takes it."""
        return {"d_model": self.d_model, "n_layers": 2, "n_heads": 4}


SMALL = Setting(n_items=10_000, n_body_items=1000, n_sessions=32, length=5, d_model=32, rounds=1)


def say(what: str, measured: str, goal: str = "", reached: bool | None = None) -> None:
    """Print a line of the table."""
    verdict = "" if reached is None else "reached" if reached else "MISSED"
    print(f"{what:62} {measured:>20} {goal:>11}  {verdict}".rstrip(), flush=True)


def draw_items(n: int) -> pl.DataFrame:
    """An item table: 500 categories, 2 000 brands, 8 of 1 000 tags, 4 numbers."""
    rng = np.random.default_rng(0)
    sizes = {"category": 500, "brand": 2000}
    names = {name: rng.integers(size, size=n).astype(str) for name, size in sizes.items()}
    numbers = {f"x{j}": rng.standard_normal(n, dtype=np.float32) for j in range(4)}
    tags = pl.Series("tags", rng.integers(1000, size=(n, 8)))
    return pl.DataFrame({"item_id": np.arange(n), **names, "tags": tags.cast(pl.List(pl.String)), **numbers})


def draw_log(n_sessions: int, length: int, n_items: int) -> pl.DataFrame:
    """Sessions of equally many clicks, each on any item."""
    items = np.random.default_rng(1).integers(n_items, size=n_sessions * length)
    sessions = np.repeat(np.arange(n_sessions), length)
    return pl.DataFrame({"session_id": sessions, "item_id": items, "time": np.arange(len(items))})


def our_step(
    setting: Setting,
    coded: tuple[ItemCoder, tuple[ItemFeatures, np.ndarray]] | None,
    *,
    n_negatives: int | None = 1,
    precision: str = "float32",
    pooling: str = "last",
) -> tuple[M2TRecNetwork, Callable[[], object]]:
    """M2TRec's network, and its training step on one batch of one target a session, over metadata or ids alone.

    With one negative, the softmax is over the items of the batch and no more.
    """
    coder, (features, row) = coded or (None, (None, None))
    n, mode = (setting.n_body_items, "full") if features is None else (setting.n_items, "none")
    still = {"dropout": 0.0, "item_dropout": 0.0, "unknown_rate": 0.0}
    options: dict[str, Any] = {"id_mode": mode, "pooling": pooling, "max_length": setting.length, **still}
    options |= {"n_negatives": n_negatives, "precision": precision, "epochs": 1, "weight_decay": 0.01}
    model = M2TRec(**options, **setting.network)
    items = KnownItems(features=features, row=row, clicks=np.ones(n, dtype=np.int64), shared=mode == "none")
    torch.manual_seed(0)
    network = model._network(coder, items).train()
    batch = np.arange(setting.n_sessions)
    clicks = torch.randint(1, n + 1, (len(batch) * (setting.length + 1),))
    starts, lengths = batch * (setting.length + 1), np.full_like(batch, setting.length)
    examples = Examples(units=clicks, starts=starts, lengths=lengths, all_prefixes=False)
    loop = SessionLoop(network, items.on(torch.device("cpu")), examples, {}, model, lambda: ({}, None))
    return network, lambda: loop.step(batch, 1e-3)


def compare_bodies(setting: Setting) -> None:
    """Training steps over ids, in-batch negatives."""
    goals = {("float32", "last"): 1.7, ("bf16", "last"): 3.0}
    sizes = {"length": setting.length, **setting.network}
    sides: dict[str, Callable[[], object]] = {}
    sides["nn.TransformerEncoder"] = plain_step(setting.n_body_items, setting.n_sessions, **sizes)[1]
    kinds = {f"{p}, pooling={q}": (p, q) for q in ("last", "mean", "items") for p in ("float32", "bf16")}
    for name, (precision, pooling) in kinds.items():
        sides[name] = our_step(setting, None, precision=precision, pooling=pooling)[1]
    seconds = least_cpu_time(sides, setting.rounds)
    for name, taken in seconds.items():
        ratio, goal = seconds["nn.TransformerEncoder"] / taken, goals.get(kinds.get(name, ("", "")))
        asked: tuple = (f">= {goal}x", ratio >= goal) if goal else ()
        say(f"body: {name}", f"{taken * 1e3:.1f} ms, {ratio:.2f}x", *asked)


def compare_steps(setting: Setting) -> None:
    """Whole training steps over metadata, by the items that the softmax is over."""
    items = draw_items(setting.n_items).drop("item_id")
    coder = ItemCoder.fit(items)
    coded = coder, coder.encode(items)
    for pooling, precision in (("mean", "float32"), ("last", "float32"), ("mean", "bf16"), ("last", "bf16")):
        kind: dict[str, Any] = {"precision": precision, "pooling": pooling}
        sides = {name: our_step(setting, coded, n_negatives=n, **kind)[1] for name, n in NEGATIVES.items()}
        seconds = least_cpu_time(sides, setting.rounds)
        for name, taken in seconds.items():
            ratio = taken / seconds["in-batch"]
            asked: tuple = ("<= 1.2x", ratio <= 1.2) if name in _GOAL else ()
            if name == "full":
                ratio = taken / seconds["8192"]
                name, asked = "full, and beside 8192", (">= 3x", ratio >= 3)
            say(f"step, {precision}, pooling={pooling}: {name}", f"{taken * 1e3:.1f} ms, {ratio:.2f}x", *asked)


def compare_searches(setting: Setting) -> None:
    """Exact top 20, by the parts of `recommend`, for one session and for blocks of them."""
    log = draw_log(512, setting.length, setting.n_items)
    model = M2TRec(epochs=1, early_stopping=False, max_length=setting.length, n_jobs=1, **setting.network)
    model.fit(log, items=draw_items(setting.n_items).select("item_id", "category"))
    index = model._fitted_index()
    for n in (1, 32, 256):
        some = log.filter(pl.col("session_id") < n)
        read = model._read(some)
        parts: dict[str, Callable[[], object]] = {
            "network and search": lambda read=read: top_k(index.scores(read), 20),  # type: ignore[misc]
            "recommend": lambda some=some: model.recommend(some),  # type: ignore[misc]
        }
        search(setting, index.queries(read), index.matrix, 3.5 if n == 1 else 0.9, parts)
    width = len(index.matrix)
    search(setting, torch.randn(1, width), torch.randn(width, 10 * setting.n_items), 30.0, {})


def search(
    setting: Setting, queries: Tensor, matrix: Tensor, goal: float, parts: Mapping[str, Callable[[], object]]
) -> None:
    """Time the search of items as columns, the plain ones of items as rows, and what else there is."""
    rows, asked = matrix.T[:, :-1].contiguous(), queries[:, :-1].contiguous()
    plain, numpy_rows, numpy_asked = "torch q @ X.T, topk", rows.numpy(), asked.numpy()
    sides: dict[str, Callable[[], object]] = {
        plain: lambda: torch.topk(asked @ rows.T, 20),
        "numpy q @ X.T, argpartition": lambda: np.argpartition(-(numpy_asked @ numpy_rows.T), 20),
        "search": lambda: top_k((queries @ matrix).numpy(), 20),
        **parts,
    }
    seconds = least_cpu_time(sides, 2 * setting.rounds)
    for name, taken in seconds.items():
        own, reached = taken / len(queries) * 1e3, taken / len(queries) * 1e3 <= goal
        cells: tuple = (f"<= {goal:g} ms", reached) if name == "search" else ()
        where = f"search, {matrix.shape[1]} items, {len(queries)} sessions: {name}"
        say(where, f"{own:.3f} ms, {seconds[plain] / taken:.2f}x", *cells)


def compare_epochs(data: ClickLog, setting: Setting, epochs: int, n_held_out: int) -> dict[str, tuple[float, float]]:
    """CPU seconds an epoch, with all that `fit` does, and Recall@20 on held-out sessions, by side."""
    named: dict[str, Any] = {**data.columns}
    columns = LogColumns(**{name.removesuffix("_column"): column for name, column in named.items()})
    clicks, test = data.part("train"), data.part("test")
    test = test.filter(pl.col("session_id").is_in(test["session_id"].unique().sort().head(n_held_out).implode()))
    found = {"plain SASRec": fit_plain(clicks, test, columns, epochs=epochs, **setting.network)}
    fixed: dict[str, Any] = {"categories": data.categories, "epochs": epochs, "early_stopping": False, "n_jobs": 1}
    for precision in ("float32", "bf16"):
        model = M2TRec(**named, **fixed, **setting.network, precision=precision, random_state=0)
        start = time.process_time()
        model.fit(clicks, items=data.items)
        found[f"M2TRec, {precision}"] = (time.process_time() - start) / epochs, model.rank(test).recall(20)
    seconds, recall = found["plain SASRec"]
    for name, (own_seconds, own_recall) in found.items():
        reached = seconds / own_seconds >= 3 and own_recall >= recall
        cells: tuple = () if name == "plain SASRec" else (">= 3x", reached)
        where = f"epoch, {data.name}, {clicks['session_id'].n_unique()} sessions: {name}"
        say(where, f"{own_seconds:.2f} s, {seconds / own_seconds:.2f}x", *cells)
        say(f"    Recall@20 after {epochs} epochs", f"{own_recall:.3f}")
    return found


def peak_memory() -> float:
    """Most GB that this process has held; unlike ru_maxrss without what its parent held."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024 / 1e9


def in_own_process(section: str, arguments: list[str]) -> None:
    """Run a section in a fresh process with two threads, and say what it prints."""
    command = [sys.executable, "-m", "benchmarks.sessions_speed", "--child", section, *arguments]
    environment = {**os.environ, "POLARS_MAX_THREADS": "2"}
    answer = subprocess.check_output(command, env=environment, cwd=Path(__file__).parents[1], text=True)
    for row in json.loads(answer):
        say(*row)


def train_alone(setting: Setting) -> list[tuple]:
    """Peak memory of `fit` on drawn data, every click of 512 sessions predicted in a step."""
    log = draw_log(4 * setting.n_sessions, setting.length + 1, setting.n_items)
    items = draw_items(setting.n_items)
    before = peak_memory()
    step: dict[str, Any] = {"batch_size": setting.n_sessions * setting.length, "n_negatives": 8192}
    M2TRec(epochs=2, **step, **setting.network, n_jobs=1, early_stopping=False).fit(log, items=items)
    own = f"memory: fit, {setting.n_items} items, {setting.n_sessions} x {setting.length} targets a step"
    after = peak_memory()
    return [(own, f"{after:.2f} GB ({before:.2f} before)", "< 1.5 GB", after < 1.5)]


def read_alone(n_clicks: int) -> list[tuple]:
    """Time and memory of clicks to sessions."""
    log = draw_log(n_clicks // 5, 5, 100_000).sample(fraction=1.0, shuffle=True, seed=0)
    before, wall, cpu = peak_memory(), time.perf_counter(), time.process_time()
    read_sessions(log, LogColumns(), log["item_id"].unique().sort())
    wall, cpu, after = time.perf_counter() - wall, time.process_time() - cpu, peak_memory()
    return [
        (f"reading: {n_clicks} clicks, CPU {cpu:.1f} s", f"{wall:.1f} s wall", "< 30 s", wall < 30),
        (f"reading: memory, a log of {log.estimated_size() / 1e9:.2f} GB", f"{after:.2f} GB ({before:.2f} before)"),
    ]


def main(arguments: list[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description="Speed and memory of M2TRec, one CPU thread.")
    parser.add_argument("--sections", nargs="+", choices=SECTIONS, default=SECTIONS)
    parser.add_argument("--quick", action="store_true", help="small sizes and one round: goals mean nothing then")
    parser.add_argument(
        "--share", type=float, default=0.05, help="newest share of Diginetica's train sessions; 1 = all"
    )
    parser.add_argument("--epochs", type=int, default=2, help="on Diginetica")
    parser.add_argument("--child", choices=("memory", "reading"), help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    setting, n_clicks = (SMALL, 100_000) if given.quick else (Setting(), 10_000_000)
    torch.set_num_threads(1)
    if given.child:
        print(json.dumps(train_alone(setting) if given.child == "memory" else read_alone(n_clicks)))
        return
    torch.empty(
        2**25 - 2**16, dtype=torch.uint8
    )  # for all sides, as training does: see tabmtl.training.epochs.run_epochs
    print(f"torch {torch.__version__}, 1 thread, CPU time, and ratio to the first line of the same section and kind")
    for section, compare in {"body": compare_bodies, "step": compare_steps, "search": compare_searches}.items():
        if section in given.sections:
            compare(setting)
    if "epoch" in given.sections:
        try:
            data = load_sessions("diginetica")
        except FileNotFoundError as error:
            print(f"epoch: skipped, {error}")
        else:
            compare_epochs(data if given.share == 1 else data.newest(given.share), setting, given.epochs, 2000)
    for section in ("memory", "reading"):
        if section in given.sections:
            in_own_process(section, ["--quick"] if given.quick else [])


if __name__ == "__main__":
    main()
