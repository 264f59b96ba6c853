"""Speed and memory of M2TRec against plain code, on one CPU thread.

    python -m benchmarks.sessions_speed [--only NAME ...] [--quick]

- ``body``: a training step of sessions to queries with in-batch negatives, against ``nn.TransformerEncoder``.
- ``step``: a whole training step with the item tower, by the items of the softmax.
- ``search``: exact top 20, against ``q @ X.T`` and ``topk``.
- ``epoch``: epochs on Diginetica, against :mod:`benchmarks.peers.sasrec`, and the recall of both by then.
- ``fit``: the defaults of M2TRec on Complete Journey and on Diginetica, against `EARLIER` ones, with the scores of both
  on the newest tenth of the train sessions.
- ``memory`` and ``reading``: a training run, and 10 million clicks to sessions; each in a process of its own.

Sides of a comparison run in one process, in turn, and are compared by the least CPU time of several rounds. Ratios are
to the first line of the same part and kind. Goals are printed beside the measurements.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import polars as pl
import torch
from torch import Tensor

from benchmarks.harness import Sides, at_least, at_most, compare, gauge, in_own_process, say, speed_parser
from benchmarks.peers.sasrec import fit_plain, plain_step
from tabmtl.pipelines.datasets import ClickLog, load_sessions
from tabmtl.sessions import M2TRec, temporal_split
from tabmtl.sessions.log import LogColumns, read_sessions
from tabmtl.sessions.m2trec.item_features import ItemCoder, ItemFeatures
from tabmtl.sessions.m2trec.items import KnownItems
from tabmtl.sessions.m2trec.network import M2TRecNetwork
from tabmtl.sessions.m2trec.training import Examples, SessionLoop, Step
from tabmtl.sessions.ranking import top_k

#: The batch has 10 752 clicks, which serve as negatives: of these, only 16 384 draws further items.
NEGATIVES = {"in-batch": 1, "1024": 1024, "8192": 8192, "16384": 16384, "full": None}
#: Defaults of M2TRec before there was a directed path. (They were validated on 20 000 clicks among all listed items,
#: which took half of the time and is gone.)
EARLIER: dict[str, Any] = {
    "directed": False,
    "epochs": 10,
    "learning_rate": 2e-3,
    "batch_size": 2048,
    "precision": "float32",
}


@dataclass(frozen=True, kw_only=True)
class Setting:
    """Items of the catalogue and of the body alone, sessions a step, clicks before the target, and clicks to read.

    The share of Diginetica and the epochs on it are options of the command.
    """

    n_items: int = 100_000
    n_body_items: int = 10_000
    n_sessions: int = 512
    length: int = 20
    d_model: int = 128
    rounds: int = 5
    n_clicks: int = 10_000_000
    share: float = 0.05
    epochs: int = 2

    @property
    def network(self) -> dict[str, Any]:
        """Parameters of the network that every side takes."""
        return {"d_model": self.d_model, "n_layers": 2, "n_heads": 4}


SMALL = Setting(n_items=10_000, n_body_items=1000, n_sessions=32, length=5, d_model=32, rounds=1, n_clicks=100_000)


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


def our_step(
    setting: Setting,
    coded: tuple[ItemCoder, tuple[ItemFeatures, np.ndarray]] | None,
    *,
    n_negatives: int | None = 1,
    precision: str = "float32",
    pooling: str = "last",
) -> tuple[M2TRecNetwork, Callable[[], object]]:
    """Make M2TRec's network, and its training step on one batch of one target per session, over metadata or ids alone.

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
    weights = torch.ones(len(clicks))
    examples = Examples(units=clicks, weights=weights, starts=starts, lengths=lengths, all_prefixes=False)
    loop = SessionLoop(network, items.on(torch.device("cpu")), examples, {}, model, None)
    return network, lambda: loop.step(Step(examples, batch), 1e-3)


def compare_bodies(setting: Setting) -> None:
    """Time training steps over ids, with in-batch negatives."""
    goals = {"float32, pooling=last": 1.7, "bf16, pooling=last": 3.0}
    sizes = {"length": setting.length, **setting.network}
    sides: Sides = {
        "nn.TransformerEncoder": plain_step(setting.n_body_items, setting.n_sessions, **sizes)[1],
        **{
            f"{precision}, pooling={pooling}": our_step(setting, None, precision=precision, pooling=pooling)[1]
            for pooling in ("last", "mean", "items")
            for precision in ("float32", "bf16")
        },
    }
    compare("body", sides, setting.rounds, goals)


def compare_steps(setting: Setting) -> None:
    """Time whole training steps over metadata, by the items of the softmax."""
    items = draw_items(setting.n_items).drop("item_id")
    coder = ItemCoder.fit(items)
    coded = coder, coder.encode(items)
    for pooling, precision in (("mean", "float32"), ("last", "float32"), ("mean", "bf16"), ("last", "bf16")):
        kind: dict[str, Any] = {"precision": precision, "pooling": pooling}
        sides = {name: our_step(setting, coded, n_negatives=n, **kind)[1] for name, n in NEGATIVES.items()}
        title, faster = f"step, {precision}, pooling={pooling}", 1 / 1.2
        seconds = compare(title, sides, setting.rounds, {"1024": faster, "8192": faster})
        ratio = seconds["full"] / seconds["8192"]
        say(f"{title}: full, and beside 8192", f"{ratio:.2f}x", goal=at_least(ratio, 3))


def compare_searches(setting: Setting) -> None:
    """Time the exact top 20, by the parts of `recommend`, for one session and for blocks of them."""
    log = draw_log(512, setting.length, setting.n_items)
    model = M2TRec(epochs=1, early_stopping=False, max_length=setting.length, n_jobs=1, **setting.network)
    model.fit(log, items=draw_items(setting.n_items).select("item_id", "category"))
    index = model._fitted_index()
    for n in (1, 32, 256):
        some = log.filter(pl.col("session_id") < n)
        read = model._read(some)
        parts: Sides = {
            "network and search": lambda read=read: top_k(index.scores(read), 20),  # type: ignore[misc]
            "recommend": lambda some=some: model.recommend(some),  # type: ignore[misc]
        }
        search(setting, index.queries(read), index.matrix, 3.5 if n == 1 else 0.9, parts)
    width = len(index.matrix)
    search(setting, torch.randn(1, width), torch.randn(width, 10 * setting.n_items), 30.0, {})


def search(setting: Setting, queries: Tensor, matrix: Tensor, goal: float, parts: Sides) -> None:
    """Time the search of items as columns, the plain ones of items as rows, and other searches."""
    rows, asked = matrix.T[:, :-1].contiguous(), queries[:, :-1].contiguous()
    numpy_rows, numpy_asked = rows.numpy(), asked.numpy()
    sides: Sides = {
        "torch q @ X.T, topk": lambda: torch.topk(asked @ rows.T, 20),
        "numpy q @ X.T, argpartition": lambda: np.argpartition(-(numpy_asked @ numpy_rows.T), 20),
        "search": lambda: top_k((queries @ matrix).numpy(), 20),
        **parts,
    }
    title = f"search, {matrix.shape[1]} items, {len(queries)} sessions"
    own = compare(title, sides, 2 * setting.rounds)["search"] / len(queries) * 1e3
    say(f"{title}: search, a session", f"{own:.3f} ms", goal=at_most(own, goal, " ms"))


def compare_epochs(data: ClickLog, setting: Setting, epochs: int, n_held_out: int) -> dict[str, tuple[float, float]]:
    """Measure CPU seconds per epoch, with all work of `fit`, and Recall@20 on held-out sessions, by side."""
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
        is_ours = name != "plain SASRec"
        where = f"epoch, {data.name}, {clicks['session_id'].n_unique()} sessions: {name}"
        ratio = seconds / own_seconds
        say(where, f"{own_seconds:.2f} s", f"{ratio:.2f}x", goal=at_least(ratio, 3) if is_ours else "")
        goal = at_least(own_recall, recall, "") if is_ours else ""
        say(f"    Recall@20 after {epochs} epochs", f"{own_recall:.3f}", goal=goal)
    return found


def compare_on_diginetica(setting: Setting) -> None:
    """Compare epochs on the newest share of Diginetica, if it is there."""
    try:
        data = load_sessions("diginetica")
    except FileNotFoundError as error:
        print(f"epoch: skipped, {error}")
    else:
        data = data if setting.share == 1 else data.newest(setting.share)
        compare_epochs(data, setting, setting.epochs, 2000)


def compare_fits(data: ClickLog) -> dict[str, tuple[float, float]]:
    """Measure CPU seconds of `fit` with early stopping, and MRR@20 on the newest tenth of train, by side."""
    named: dict[str, Any] = {**data.columns, "categories": data.categories, "n_jobs": 1, "random_state": 0}
    train, judged = temporal_split(data.part("train"), test_size=0.1, time_column=data.columns["time_column"])
    found = {}
    for name, settings in {"earlier defaults": EARLIER, "defaults": {}}.items():
        model = M2TRec(**named | settings)
        start = time.process_time()
        model.fit(train, items=data.items)
        seconds = time.process_time() - start
        ranking = model.rank(judged)
        found[name] = seconds, ranking.mrr(20)
        faster = found["earlier defaults"][0] / seconds
        goal = at_least(faster, 2) if name == "defaults" else ""
        say(f"fit, {data.name}, {len(train)} clicks: {name}", f"{seconds:.0f} s", f"{faster:.2f}x", goal=goal)
        say("    Recall@20 and MRR@20", f"{ranking.recall(20):.4f}", f"{ranking.mrr(20):.4f}")
    return found


def compare_fits_on_logs(setting: Setting) -> None:
    """Compare fits on the logs that are there; of Diginetica, the newest share."""
    for name in ("complete_journey", "diginetica"):
        try:
            data = load_sessions(name)
        except FileNotFoundError as error:
            print(f"fit: skipped, {error}")
            continue
        compare_fits(data.newest(setting.share) if name == "diginetica" and setting.share < 1 else data)


def fit_alone(setting: Setting) -> dict[str, float]:
    """Measure `fit` on drawn data, with every click of 512 sessions predicted in a step."""
    torch.set_num_threads(1)
    log = draw_log(4 * setting.n_sessions, setting.length + 1, setting.n_items)
    step: dict[str, Any] = {"batch_size": setting.n_sessions * setting.length, "n_negatives": 8192}
    model = M2TRec(epochs=2, **step, **setting.network, n_jobs=1, early_stopping=False)
    return gauge(partial(model.fit, log, items=draw_items(setting.n_items)))


def read_alone(setting: Setting) -> dict[str, float]:
    """Measure the way from clicks to sessions, and the size of the log in GB."""
    log = draw_log(setting.n_clicks // 5, 5, 100_000).sample(fraction=1.0, shuffle=True, seed=0)
    found = gauge(lambda: read_sessions(log, LogColumns(), log["item_id"].unique().sort()))
    return found | {"log": log.estimated_size() / 1e9}


def say_memory(setting: Setting) -> None:
    """Print the peak memory of a training run."""
    found = in_own_process(fit_alone, setting)
    own = f"memory: fit, {setting.n_items} items, {setting.n_sessions} x {setting.length} targets a step"
    goal = at_most(found["peak"], 1.5, " GB")
    say(own, f"{found['peak']:.2f} GB", f"({found['before']:.2f} before)", goal=goal)


def say_reading(setting: Setting) -> None:
    """Print time and peak memory of the way from clicks to sessions."""
    found = in_own_process(read_alone, setting)
    cells = f"{found['wall']:.1f} s wall", f"{found['cpu']:.1f} s CPU"
    say(f"reading: {setting.n_clicks} clicks", *cells, goal=at_most(found["wall"], 30, " s"))
    cells = f"{found['peak']:.2f} GB", f"({found['before']:.2f} before)"
    say(f"reading: memory, a log of {found['log']:.2f} GB", *cells)


PARTS: dict[str, Callable[[Setting], None]] = {
    "body": compare_bodies,
    "step": compare_steps,
    "search": compare_searches,
    "epoch": compare_on_diginetica,
    "fit": compare_fits_on_logs,
    "memory": say_memory,
    "reading": say_reading,
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table."""
    parser = speed_parser("sessions_speed", __doc__, only=PARTS)
    share = "newest share of Diginetica's train sessions; 1 = all"
    parser.add_argument("--share", type=float, default=Setting.share, help=share)
    parser.add_argument("--epochs", type=int, default=Setting.epochs, help="on Diginetica")
    given = parser.parse_args(arguments)
    setting = replace(SMALL if given.quick else Setting(), share=given.share, epochs=given.epochs)
    torch.set_num_threads(1)
    # for all sides, as training does: see tabmtl.training.epochs.run_epochs
    torch.empty(2**25 - 2**16, dtype=torch.uint8)
    print(f"torch {torch.__version__}, 1 thread, CPU time")
    for name in given.only:
        PARTS[name](setting)


if __name__ == "__main__":
    main()
