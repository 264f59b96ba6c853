"""Speed of mixtures of experts against torch-rechub, against each other, of members and of big tables; one CPU thread.

    python -m benchmarks.experts_speed [--quick] [--only NAME ...] [--figure PATH]

All sides run in one process, in turn, and the least CPU time counts, so other work on the machine hardly matters to
the ratios. Goals are printed beside the measurements.

peer        MMoE and PLE against those of torch-rechub (`pip install 'torch-rechub>=0.9,<0.10'`), of one architecture
home        HoME and APEM against our MMoE
embeddings  a step of the embeddings alone, by rows of the table, row-wise and dense; ``--figure`` draws it
long        a step of every network on a table with one task per row, by number of tasks
members     a step of SharedBottom with members against TabM (`pip install 'tabm>=0.0.3,<0.1'`), of one architecture

An epoch of ours is the time between two calls of ``on_epoch`` in ``fit`` on a frame, without validation rows:
shuffling, steps, the moving average, losses, and AUC of 50 000 training rows. An epoch of torch-rechub is its trainer's
`train_one_epoch` over its own loaders: shuffling, steps and losses. First epochs are left out. "Whole" is all of
``fit``, encoding the frame and measuring the experts included, or all from arrays to the trained model, by epoch.
Ours lets the learning rate fall to zero along half a cosine, which it always does; torch-rechub keeps it. Its gates and
towers are batch-normalised like its experts, ours are not; ours has two more codes per column.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import polars as pl
import torch
from sklearn.metrics import roc_auc_score
from torch import nn

from benchmarks.harness import Sides, at_least, at_most, compare, least_cpu_time, say, speed_parser, spread
from benchmarks.peers import tabm
from benchmarks.peers.rechub import INSTALL, N_COLUMNS, Tables, draw_tables, has_rechub, train_rechub
from tabmtl import APEM, PLE, STEM, AdaTT, HoME, MMoE, MultiTabNet, SharedBottom
from tabmtl.columns import Features
from tabmtl.estimators.mixture import MixtureEstimator
from tabmtl.estimators.network import NetworkEstimator
from tabmtl.nn.embeddings import CategoricalEmbedding
from tabmtl.schema import Batch, Columns
from tabmtl.targets import Task
from tabmtl.training.losses import MultiTaskLoss
from tabmtl.training.optimizer import Optimizer
from tabmtl.training.table_loop import TableLoop

#: Least speed relative to torch-rechub, and the speed that we aim at.
PEER_GOAL, PEER_AIM = 2.0, 2.5
#: Highest multiples of the CPU seconds of our MMoE.
COST_GOALS = {"HoME": 3.0, "HoME, no feature-gates": 2.0, "APEM": 5.0}
#: Least speed relative to fused dense AdamW, on the largest table with the smaller batch.
EMBEDDING_GOAL = 5.0
TABLE_ROWS = (10_000, 100_000, 1_000_000, 3_280_000)
#: Numbers of tasks of a long table; most times the CPU seconds of a step at the first that PLE may take at the last.
LONG_TASKS, LONG_GOAL = (3, 30, 139), 4.0
#: Most times the CPU seconds of a step of TabM; members and widths of the layers, in batches of 256.
MEMBERS_GOAL = 1.2
MEMBER_SIZES = ((8, 256), (16, 128), (32, 256), (32, 512))
LONG_NETWORKS = (SharedBottom, MMoE, PLE, HoME, APEM, STEM, AdaTT, MultiTabNet)


@dataclass(frozen=True, kw_only=True)
class Run:
    """A training run: CPU seconds of epochs and of the whole by epoch, AUC of every task, and parameters."""

    epochs: list[float]
    whole: float
    auc: list[float]
    n_parameters: int


def _run(stamps: list[float], y: pl.DataFrame, probabilities: Sequence[np.ndarray], n_parameters: int) -> Run:
    """Make a run from times at the start, after every epoch, and at the end; the first epoch is not counted."""
    auc = [float(roc_auc_score(y[f"t{t}"], scores)) for t, scores in enumerate(probabilities)]
    epochs = [after - before for before, after in pairwise(stamps[1:-1])]
    whole = (stamps[-1] - stamps[0]) / (len(stamps) - 2)
    return Run(epochs=epochs, whole=whole, auc=auc, n_parameters=n_parameters)


def fit_ours(model: MixtureEstimator, X: Tables, y: Tables) -> Run:
    """Fit one of our models, without validation rows."""
    stamps = [time.process_time()]
    model.set_params(on_epoch=lambda record: stamps.append(time.process_time()))
    model.fit(X[0], y[0])
    stamps.append(time.process_time())
    statistics = ("running_mean", "running_var", "num_batches_tracked")
    size = sum(array.size for name, array in model.weights_.items() if not name.endswith(statistics))
    p = model.predict_proba(X[1])
    return _run(stamps, y[1], [p[name][:, 1] for name in y[1].columns], size)


def fit_rechub(name: Any, X: Tables, y: Tables, epochs: int, seed: int) -> Run:
    """Train torch-rechub's model of that name."""
    stamps, probabilities, size = train_rechub(name, X, y[0], epochs=epochs, seed=seed)
    return _run(stamps, y[1], list(probabilities.T), size)


def options(epochs: int, seed: int, *, own_training: bool = False) -> dict[str, Any]:
    """Return architecture and training as for torch-rechub, or our defaults for all but the architecture."""
    architecture: dict[str, Any] = {
        "d_embedding": 8,
        "head_hidden": 16,
        "categorical_features": [f"c{j}" for j in range(N_COLUMNS)],
        "min_frequency": 1,
        "epochs": epochs,
        "early_stopping": False,
        "n_jobs": 1,
        "random_state": seed,
    }
    plain = {"learning_rate": 1e-3, "weight_decay": 0.0, "average_decay": 0.0, "dropout": 0.0, "batch_size": 1024}
    return architecture if own_training else architecture | plain


def least(runs: Sequence[Run]) -> float:
    """Return the least CPU seconds of an epoch."""
    return min(seconds for run in runs for seconds in run.epochs)


def least_whole(runs: Sequence[Run]) -> float:
    """Return the least CPU seconds of a whole run, by epoch."""
    return min(run.whole for run in runs)


def say_runs(runs: Mapping[str, Sequence[Run]], goals: Mapping[str, str]) -> None:
    """Print a line a side: least time of an epoch, least time of the whole by epoch, parameters, and AUC over seeds."""
    say("", "s/epoch", "whole/epoch", "parameters", "AUC of the tasks: mean ± sd of seeds", goal="goal")
    for name, own in runs.items():
        auc = "  ".join(map(spread, zip(*(run.auc for run in own), strict=True)))
        cells = f"{least(own):.2f}", f"{least_whole(own):.2f}", f"{own[0].n_parameters}", auc
        say(name, *cells, goal=goals.get(name, ""))


def collect(sides: Mapping[str, Callable[[int], Run]], rounds: int) -> dict[str, list[Run]]:
    """Run every side in turn, each round with its own seed."""
    runs: dict[str, list[Run]] = {name: [] for name in sides}
    for seed in range(rounds):
        for name, side in sides.items():
            runs[name].append(side(seed))
    return runs


def compare_peer(n_rows: int, epochs: int, rounds: int) -> None:
    """Compare MMoE and PLE of both libraries."""
    X, y = draw_tables(n_rows)

    def ours(model: Callable[..., MixtureEstimator], own_training: bool, seed: int) -> Run:
        given = options(epochs, seed, own_training=own_training)
        return fit_ours(model(numeric_embedding="none", expert_hidden=(64, 32), **given), X, y)

    sides: dict[str, Callable[[int], Run]] = {}
    for name, model in {"MMoE": MMoE, "PLE": PLE}.items():
        if has_rechub():
            sides[f"torch-rechub {name}"] = partial(fit_rechub, name, X, y, epochs)
        sides |= {f"tabmtl {name}": partial(ours, model, False)}
        sides |= {f"tabmtl {name}, own training": partial(ours, model, True)}
    runs, goals = collect(sides, rounds), {}
    for name in ("MMoE", "PLE") if has_rechub() else ():
        peer = runs[f"torch-rechub {name}"]
        for side in (f"tabmtl {name}", f"tabmtl {name}, own training"):
            size = runs[side][0].n_parameters / peer[0].n_parameters - 1
            ratio, whole = (seconds(peer) / seconds(runs[side]) for seconds in (least, least_whole))
            goals[side] = f"{ratio:.2f}x, {at_least(ratio, PEER_GOAL)}, aim {PEER_AIM}x"
            goals[side] += f", whole {whole:.2f}x, {size:+.1%} parameters"
    print(f"{n_rows} rows, {epochs} epochs, {rounds} seeds, batches of 1024 (own training: of 512)")
    say_runs(runs, goals)
    if not has_rechub():
        print(f"torch-rechub is not installed: {INSTALL}")


def compare_cost(n_rows: int, epochs: int, rounds: int) -> None:
    """Compare HoME and APEM to MMoE, all ours."""
    X, y = draw_tables(n_rows)
    plain: dict[str, Any] = {"numeric_embedding": "none", "expert_hidden": (64, 32)}
    home = plain | {"task_groups": {"often": ["t0"], "seldom": ["t1", "t2"]}}

    def side(model: Callable[..., MixtureEstimator], seed: int) -> Run:
        return fit_ours(model(**options(epochs, seed)), X, y)

    models: dict[str, Callable[..., MixtureEstimator]] = {
        "MMoE": partial(MMoE, **plain),
        "HoME": partial(HoME, **home),
        "HoME, no feature-gates": partial(HoME, **home, feature_gate="none"),
        "APEM": APEM,
    }
    runs = collect({name: partial(side, model) for name, model in models.items()}, rounds)
    ratios = {name: least(runs[name]) / least(runs["MMoE"]) for name in COST_GOALS}
    goals = {name: f"{ratio:.2f}x, {at_most(ratio, COST_GOALS[name])}" for name, ratio in ratios.items()}
    print(f"cost beside MMoE: {n_rows} rows, {epochs} epochs, {rounds} seeds, batches of 1024")
    say_runs(runs, goals)


def embedding_steps(n_rows: int, batch_size: int, n_batches: int) -> Sides:
    """Return a training step of 20 embedded columns alone, on batches of skewed ids, by optimiser."""
    shares = np.geomspace(1e3, 1e6, 20)
    levels = tuple(("",) * max(2, round(n_rows * share)) for share in shares / shares.sum())
    columns = Columns(numeric=(), categorical=tuple(map(str, range(20))), levels=levels, has_missing=(), bins=())
    sizes = torch.tensor(columns.cardinalities)
    # the share of code k is about k ** -0.8
    batches = [(sizes * torch.rand(batch_size, 20, dtype=torch.float64) ** 5).int() for _ in range(n_batches)]
    upstream = torch.randn(batch_size, 20, 16)

    def side(kind: str) -> Callable[[], object]:
        embedding = CategoricalEmbedding(columns, 16)
        embedding.table.sparse = kind == "row-wise"
        if kind.startswith("AdamW"):
            adam = torch.optim.AdamW(embedding.parameters(), **{kind.split()[1]: True})  # type: ignore[arg-type]
            step: Callable[[], object] = adam.step
        else:
            network = nn.Sequential(embedding, nn.Linear(1, 1))  # our optimiser wants a dense parameter too
            ours = Optimizer(network, weight_decay=0.0, average_decay=0.998)
            step = partial(ours.step, 1e-3)

        def run() -> None:
            for codes in batches:
                embedding(codes).backward(upstream)
                step()
                embedding.zero_grad()

        return run

    return {kind: side(kind) for kind in ("AdamW fused", "AdamW foreach", "row-wise", "dense, averaged")}


def compare_embeddings(table_rows: Sequence[int], rounds: int) -> dict[int, dict[str, float]]:
    """Time a step with batches of 1024 by rows of the table and by optimiser; the largest with 8192 too."""
    milliseconds: dict[int, dict[str, float]] = {}
    print("embeddings alone, 20 columns of width 16: CPU ms of forward, backward and step, and times as fast as fused;")
    print("row-wise and 'dense, averaged' are our Optimizer, which keeps a moving average; AdamW is bare")
    for rows, batch_size in (*((rows, 1024) for rows in table_rows), (table_rows[-1], 8192)):
        goals = {"row-wise": EMBEDDING_GOAL} if (rows, batch_size) == (TABLE_ROWS[-1], 1024) else {}
        steps = embedding_steps(rows, batch_size, n_batches=4)
        seconds = compare(f"4 steps, {rows} rows, batches of {batch_size}", steps, rounds, goals)
        if batch_size == 1024:
            milliseconds[rows] = {kind: taken / 4 * 1e3 for kind, taken in seconds.items()}
    return milliseconds


def long_step(model: type[NetworkEstimator], n_tasks: int) -> Callable[[], object]:
    """Forward, backward and optimiser step on 256 rows, each with one of many tasks; 8 numbers and 2 categories."""
    bins = (tuple(np.linspace(-2, 2, 49)),) * 8
    levels = (("",) * 20, ("",) * 50)
    facts: dict[str, Any] = {"levels": levels, "has_missing": (False,) * 8, "bins": bins}
    columns = Columns(numeric=tuple("abcdefgh"), categorical=("i", "j"), **facts)
    tasks = [Task(name=f"t{t}", kind="regression") for t in range(n_tasks)]
    network, loss = model(task_column="task")._network(columns, tasks).train(), MultiTaskLoss(tasks)
    optimizer = Optimizer(network, weight_decay=1e-5, average_decay=0.998)
    x = Features(numbers=torch.randn(256, 8), codes=torch.randint(20, (256, 2), dtype=torch.int32))
    y = torch.randn(256, 1)
    task = torch.randint(n_tasks, (256,))

    def step() -> None:
        loss(network(x, task), y, None, task).sum().backward()
        optimizer.step(1e-3)

    return step


def compare_long(rounds: int) -> None:
    """Print the milliseconds a step of every network, by number of tasks of a long table."""
    torch.empty(2**25 - 2**16, dtype=torch.uint8)  # as training does, so that freed gradients stay in the process
    print("long tables: CPU ms of forward, backward and step, default options, 256 rows with one task each")
    for model in LONG_NETWORKS:
        seconds = least_cpu_time({f"{n} tasks": long_step(model, n) for n in LONG_TASKS}, rounds)
        first, *_, last = seconds.values()
        cells = "  ".join(f"{name} {taken * 1e3:7.2f}" for name, taken in seconds.items())
        goal = at_most(last / first, LONG_GOAL, "x") if model is PLE else ""
        say(f"{model.__name__}: {cells}", f"{last / first:.2f}x", goal=goal)


def member_steps(k: int, width: int) -> dict[str, tuple[nn.Module, Callable[[], object]]]:
    """Return network and training step on 256 rows of 16 numbers and four targets: TabM's, ours, and one member's."""
    bins = (tuple(np.linspace(-2, 2, 49).tolist()),) * 16
    facts: dict[str, Any] = {"levels": (), "has_missing": (False,) * 16, "bins": bins}
    columns = Columns(numeric=tuple(f"x{j}" for j in range(16)), categorical=(), **facts)
    tasks = [Task(name=f"t{t}", kind="regression") for t in range(4)]
    x, y, rows = torch.randn(256, 16), torch.randn(256, 4), torch.arange(256)
    data = Batch(x=Features(numbers=x, codes=torch.zeros(256, 0, dtype=torch.int32)), y=y)

    def ours(n_members: int) -> tuple[nn.Module, Callable[[], object]]:
        model = SharedBottom(n_members=n_members, hidden=(width, width), head_hidden=0, batch_size=256)
        network = model._network(columns, tasks).train()
        loop = TableLoop(model, network, MultiTaskLoss(tasks), data, None, evaluate=lambda scores, batch: {})
        return network, lambda: loop.step(rows, 1e-3)

    steps = {"ours": ours(k), "ours, one member": ours(1)}
    if tabm.has_tabm():
        peer = tabm.make_tabm(bins, len(tasks), k=k, width=width)
        steps = {"TabM": (peer, tabm.tabm_step(peer, x, y))} | steps
    return steps


def compare_members(sizes: Sequence[tuple[int, int]], rounds: int) -> None:
    """Print the milliseconds a step of a network with members, beside TabM's and beside one member's."""
    torch.empty(2**25 - 2**16, dtype=torch.uint8)  # as training does, so that freed gradients stay in the process
    print("members: CPU ms of a training step, 256 rows of 16 piecewise-linear numbers, four targets, two layers")
    for k, width in sizes:
        seconds = least_cpu_time({name: step for name, (_, step) in member_steps(k, width).items()}, rounds)
        cells = "  ".join(f"{name} {taken * 1e3:.1f}" for name, taken in seconds.items())
        times = f"{seconds['ours'] / seconds['ours, one member']:.1f}x one"
        goal = at_most(seconds["ours"] / seconds["TabM"], MEMBERS_GOAL) if "TabM" in seconds else tabm.INSTALL
        ratio = f"{seconds['ours'] / seconds['TabM']:.2f}x" if "TabM" in seconds else ""
        say(f"{k} members of width {width}: {cells}", times, ratio, goal=goal)


def draw_figure(milliseconds: Mapping[int, Mapping[str, float]], path: str) -> None:
    """Save a figure of milliseconds a step by rows of the table."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    for kind in next(iter(milliseconds.values())):
        axes.loglog(list(milliseconds), [found[kind] for found in milliseconds.values()], marker="o", label=kind)
    axes.set(xlabel="rows of the table", ylabel="CPU ms of a step", title="20 embedded columns, batches of 1024")
    axes.legend()
    figure.savefig(path, dpi=150)


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the tables."""
    parser = speed_parser("experts_speed", __doc__, only=("peer", "home", "embeddings", "long", "members"))
    parser.add_argument("--rows", type=int, default=100_000, help="rows to train on; --quick takes a fifth")
    parser.add_argument("--epochs", type=int, default=3, help="at least 2; the first is not counted")
    parser.add_argument("--rounds", type=int, default=3, help="runs of every side, in turn, each with its own seed")
    parser.add_argument("--figure", help="where to save the figure of the embeddings")
    given = parser.parse_args(arguments)
    sizes = (given.rows // 5, 2, 1) if given.quick else (given.rows, given.epochs, given.rounds)
    if sizes[1] < 2:
        parser.error("--epochs must be at least 2: the first epoch is not counted")
    torch.set_num_threads(1)
    torch.optim.AdamW([torch.zeros(1)])  # torch imports its compiler with the first optimiser: no side's cost
    print(f"torch {torch.__version__}, 1 thread, CPU seconds")
    if "peer" in given.only:
        compare_peer(*sizes)
    if "home" in given.only:
        compare_cost(*sizes)
    if "long" in given.only:
        compare_long(2 if given.quick else 15)
    if "members" in given.only:
        compare_members(MEMBER_SIZES[:1] if given.quick else MEMBER_SIZES, 2 if given.quick else 8)
    if "embeddings" in given.only:
        milliseconds = compare_embeddings(TABLE_ROWS[:2] if given.quick else TABLE_ROWS, 1 if given.quick else 5)
        if given.figure:
            draw_figure(milliseconds, given.figure)


if __name__ == "__main__":
    main()
