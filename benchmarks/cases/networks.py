"""Training of networks: beside torch-rechub and TabM, beside each other, and a step of embeddings alone."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import polars as pl
import torch
from sklearn.base import clone
from sklearn.metrics import roc_auc_score
from torch import nn

import tabmtl
from benchmarks.cases.boosted import labels_of
from benchmarks.harness import Measures, Side, Sides, cpu, plain_steps, steps_of
from benchmarks.peers.rechub import (
    HIDDEN,
    LONGEST,
    N_COLUMNS,
    WIDTH,
    Tables,
    draw_impressions,
    draw_tables,
    train_din,
    train_rechub,
)
from benchmarks.peers.tabm import make_tabm, tabm_step
from tabmtl import APEM, HoME, MMoE, SharedBottom
from tabmtl.base.schema import Columns
from tabmtl.columns import Sequence as ListInOrder
from tabmtl.estimators.network import NetworkEstimator
from tabmtl.nn.embeddings import CategoricalEmbedding
from tabmtl.targets import KINDS
from tabmtl.training.optimizer import Optimizer

#: One thread, and nothing but the training.
FIXED: dict[str, Any] = {"epochs": 1, "early_stopping": False, "device": "cpu", "n_jobs": 1, "random_state": 0}
EXPERTS: dict[str, Any] = {"numeric_embedding": "none", "expert_hidden": (64, 32)}
#: The training of torch-rechub.
PLAIN = {"learning_rate": 1e-3, "weight_decay": 0.0, "average_decay": 0.0, "dropout": 0.0, "batch_size": 1024}
STEPS = 15


def epochs_of(model: NetworkEstimator, X: Tables, y: Tables) -> Measures:
    """Fit a model without validation rows, and measure an epoch: the time between two calls of ``on_epoch``."""
    stamps = [time.process_time()]
    model.set_params(on_epoch=lambda record: stamps.append(time.process_time()))
    model.fit(X[0], y[0])
    stamps.append(time.process_time())
    statistics = ("running_mean", "running_var", "num_batches_tracked")
    size = sum(array.size for name, array in model.weights_.items() if not name.endswith(statistics))
    p = model.predict_proba(X[1])
    return _run(stamps, y[1], [p[name][:, 1] for name in y[1].columns], size)


def epochs_of_rechub(name: Any, X: Tables, y: Tables, epochs: int, seed: int) -> Measures:
    """Train torch-rechub's model of that name, and measure an epoch."""
    stamps, probabilities, size = train_rechub(name, X, y[0], epochs=epochs, seed=seed)
    return _run(stamps, y[1], list(probabilities.T), size)


def _run(stamps: Sequence[float], y: pl.DataFrame, probabilities: Sequence[np.ndarray], size: int) -> Measures:
    """Return CPU seconds of an epoch, the first left out, and of the whole by epoch, the parameters, and AUC."""
    measures = {
        "s": min(after - before for before, after in pairwise(stamps[1:-1])),
        "s of the whole": (stamps[-1] - stamps[0]) / (len(stamps) - 2),
        "parameters": float(size),
    }
    return measures | {f"AUC {t}": float(roc_auc_score(y[t], p)) for t, p in zip(y.columns, probabilities, strict=True)}


def options(epochs: int, seed: int, *, own_training: bool = False) -> dict[str, Any]:
    """Return architecture and training as for torch-rechub, or our defaults for all but the architecture."""
    architecture: dict[str, Any] = {
        "d_embedding": 8,
        "head_hidden": 16,
        "columns": {f"c{j}": "category" for j in range(N_COLUMNS)},
        "min_frequency": 1,
    }
    return architecture | ({} if own_training else PLAIN) | FIXED | {"epochs": epochs, "random_state": seed}


def peer(rows: int = 100_000, epochs: int = 3, name: str = "MMoE") -> Sides:
    """Compare a mixture of both libraries: of one architecture, batch and rate, and by our own training."""
    X, y = draw_tables(rows)

    def ours(own_training: bool, seed: int) -> Measures:
        model = getattr(tabmtl, name)(**EXPERTS, **options(epochs, seed, own_training=own_training))
        return epochs_of(model, X, y)

    return {
        "torch-rechub": partial(epochs_of_rechub, name, X, y, epochs),
        "tabmtl": partial(ours, False),
        "tabmtl, own training": partial(ours, True),
    }


def din(rows: int = 100_000, epochs: int = 3, mean_length: float = 50.0, learning_rate: float = 1e-2) -> Sides:
    """Compare SharedBottom that attends to a history with DIN of torch-rechub, of the same widths, batch and rate.

    Ours knows the place of every entry, theirs does not; in these rows it tells nothing.
    """
    X, y = draw_impressions(rows, mean_length)
    own: dict[str, Any] = {"d_embedding": WIDTH, "hidden": HIDDEN, "head_hidden": 0, "min_frequency": 1}
    own |= {"columns": {"history": ListInOrder(of="item", longest=LONGEST)}, "learning_rate": learning_rate}

    def ours(seed: int) -> Measures:
        return epochs_of(SharedBottom(**(PLAIN | own | FIXED | {"epochs": epochs, "random_state": seed})), X, y)

    def theirs(seed: int) -> Measures:
        stamps, probabilities, size = train_din(X, y[0], epochs=epochs, learning_rate=learning_rate, seed=seed)
        return _run(stamps, y[1], list(probabilities.T), size)

    return {"torch-rechub": theirs, "tabmtl": ours}


def home(rows: int = 100_000, epochs: int = 3) -> Sides:
    """Compare HoME and APEM to MMoE, all ours."""
    X, y = draw_tables(rows)
    groups: dict[str, Any] = {"task_groups": {"often": ["t0"], "seldom": ["t1", "t2"]}}
    models: dict[str, Callable[..., NetworkEstimator]] = {
        "MMoE": partial(MMoE, **EXPERTS),
        "HoME": partial(HoME, **EXPERTS, **groups),
        "HoME, no feature-gates": partial(HoME, **EXPERTS, **groups, feature_gate="none"),
        "APEM": APEM,
    }

    def side(model: Callable[..., NetworkEstimator], seed: int) -> Measures:
        return epochs_of(model(**options(epochs, seed)), X, y)

    return {name: partial(side, model) for name, model in models.items()}


def fitting(model: NetworkEstimator, X: pl.DataFrame, y: Any, steps: int = STEPS) -> Side:
    """Make a side of the optimiser steps of a fit."""
    return lambda _: steps_of(lambda: model.fit(X, y), steps)


def members(k: int = 8, width: int = 256, steps: int = STEPS) -> Sides:
    """Compare a step of TabM, of SharedBottom with as many members, and of one member, on 256 rows of 16 numbers."""
    rng = np.random.default_rng(0)
    x, y = (rng.standard_normal((256 * (steps + 1), n), dtype=np.float32) for n in (16, 4))
    X, Y = pl.DataFrame(x), pl.DataFrame(y, schema=[f"y{t}" for t in range(4)])
    ours: dict[str, Any] = {"hidden": (width, width), "head_hidden": 0, "batch_size": 256} | FIXED
    bins = [np.linspace(-2, 2, 49).tolist()] * 16
    theirs = tabm_step(make_tabm(bins, 4, k=k, width=width), *(torch.from_numpy(part[:256]) for part in (x, y)))
    return {
        "TabM": lambda _: plain_steps(theirs, steps),
        "ours": fitting(SharedBottom(n_members=k, **ours), X, Y, steps),
        "ours, one member": fitting(SharedBottom(**ours), X, Y, steps),
    }


def long(model: str = "MMoE", rows: int = 256 * (STEPS + 1), n_tasks: Sequence[int] = (3, 30, 139)) -> Sides:
    """Compare steps of 256 rows, each with one of many tasks, by the number of tasks; 8 numbers and 2 categories."""
    rng = np.random.default_rng(0)
    X = pl.DataFrame(rng.standard_normal((rows, 8)))
    X = X.with_columns(i=pl.Series(rng.integers(20, size=rows).astype(str)), j=pl.Series(rng.integers(50, size=rows)))
    X, y = X.cast({"j": pl.String}), pl.Series("y", rng.standard_normal(rows))

    def side(n: int) -> Side:
        network = getattr(tabmtl, model)(task_column="task", batch_size=256, **FIXED)
        return fitting(network, X.with_columns(task=pl.Series(rng.permutation(np.arange(rows) % n))), y)

    return {f"{n} tasks": side(n) for n in n_tasks}


def kinds(batch_size: int = 1024, n_tasks: int = 8, steps: int = STEPS) -> Sides:
    """Compare a step of SharedBottom on tasks of every kind with that of squared errors, on rows of 16 numbers."""
    rng = np.random.default_rng(0)
    x, y = (rng.standard_normal((batch_size * (steps + 1), n), dtype=np.float32) for n in (16, n_tasks))
    X, Y = pl.DataFrame(x), pl.DataFrame(y, schema=[f"y{t}" for t in range(n_tasks)])

    def side(name: str) -> Side:
        network = SharedBottom(batch_size=batch_size, tasks=dict.fromkeys(Y.columns, name), **FIXED)
        return fitting(network, X, labels_of(KINDS[name], Y), steps)

    return {name: side(name) for name in dict.fromkeys(("regression", *KINDS))}


def lists(levels: int = 10_000, length: int = 50, batch_size: int = 1024, steps: int = STEPS) -> Sides:
    """Compare a step of SharedBottom on a list a row, by mean length, with one on as many columns of categories.

    As tags, and as the history of an item.
    """
    rng = np.random.default_rng(0)
    n = batch_size * (steps + 1)
    y = pl.DataFrame(rng.standard_normal((n, 2), dtype=np.float32), schema=["y0", "y1"])
    lengths = rng.geometric(1 / length, n)
    # the share of level k is about k ** -0.8
    tags = (levels * rng.random(lengths.sum()) ** 5).astype(np.int64)
    categories = (levels / length * rng.random((n, length)) ** 5).astype(np.int64)
    row = pl.Series("row", np.repeat(np.arange(n), lengths))
    in_lists = pl.DataFrame({"row": row, "tags": tags}).group_by("row", maintain_order=True).agg("tags")
    network = SharedBottom(batch_size=batch_size, **FIXED)
    shown = in_lists.select("tags", item=pl.col("tags").list.first())
    of_items = {"columns": {"tags": ListInOrder(of="item", longest=int(lengths.max()))}}
    readers = {
        f"history, {pooling}": clone(network).set_params(**of_items, sequence_pooling=pooling)
        for pooling in ("mean", "attention")
    }
    return {
        "columns": fitting(clone(network), pl.DataFrame(categories).cast(pl.String), y, steps),
        "lists, mean": fitting(clone(network), in_lists.select("tags"), y, steps),
        **{name: fitting(reader, shown, y, steps) for name, reader in readers.items()},
    }


def embeddings(rows: int = 10_000, batch_size: int = 1024) -> Sides:
    """Compare a step of 20 embedded columns alone, on batches of skewed ids, by optimiser.

    Ours keeps a moving average, AdamW is bare.
    """
    shares = np.geomspace(1e3, 1e6, 20)
    levels = tuple(("",) * max(2, round(rows * share)) for share in shares / shares.sum())
    columns = Columns(numeric=(), categorical=tuple(map(str, range(20))), levels=levels, has_missing=(), bins=())
    sizes = torch.tensor(columns.cardinalities)
    # the share of code k is about k ** -0.8
    batches = [(sizes * torch.rand(batch_size, 20, dtype=torch.float64) ** 5).int() for _ in range(4)]
    upstream = torch.randn(batch_size, 20, 16)

    def side(kind: str) -> Side:
        embedding = CategoricalEmbedding(columns, 16)
        embedding.table.sparse = kind == "row-wise"
        if kind.startswith("AdamW"):
            adam = torch.optim.AdamW(embedding.parameters(), **{kind.split()[1]: True})  # type: ignore[arg-type]
            step: Callable[[], object] = adam.step
        else:
            network = nn.Sequential(embedding, nn.Linear(1, 1))  # our optimiser wants a dense parameter too
            step = partial(Optimizer(network, weight_decay=0.0, average_decay=0.998).step, 1e-3)

        def run() -> None:
            for codes in batches:
                embedding(codes).backward(upstream)
                step()
                embedding.zero_grad()

        return lambda round_: {"ms": 1e3 * cpu(run)(round_)["s"] / len(batches)}

    return {kind: side(kind) for kind in ("AdamW fused", "AdamW foreach", "row-wise", "dense, averaged")}
