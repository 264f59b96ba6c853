"""Speed of MultiTab-Net's training against the same network written the obvious way, on one CPU thread.

    python -m benchmarks.speed [--quick]

Both sides run in one process, in turn, and are compared by the least CPU time of several rounds, so that other work on
the machine hardly matters: ratios repeat within some percent, absolute numbers do not. Ours is
:class:`tabmtl.training.table_loop.TableLoop` as estimators run it; the reference is
:mod:`benchmarks.peers.multitabnet`, in float32. Both start from the same weights and see the same rows; their losses
after equal steps stand side by side. Goals are printed beside what was measured.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.peers.multitabnet import PlainNetwork, plain_loss, train_plain
from tabmtl.models.multitabnet import MultiTabNet, MultiTabNetwork
from tabmtl.schema import Batch, Columns, Task
from tabmtl.training.epochs import run_epochs
from tabmtl.training.losses import MultiTaskLoss
from tabmtl.training.table_loop import TableLoop

LEARNING_RATE = 1e-3


@dataclass(frozen=True, kw_only=True)
class Shape:
    """A table and a network size.

    Attributes
    ----------
    name : str
    cardinalities : tuple of int
        Levels per categorical column.
    n_numeric : int
    tasks : tuple of Task
    d_token, n_blocks : int
    """

    name: str
    cardinalities: tuple[int, ...]
    n_numeric: int
    tasks: tuple[Task, ...]
    d_token: int = 16
    n_blocks: int = 1

    @property
    def columns(self) -> Columns:
        """The features, named by number."""
        return Columns(
            numeric=tuple(f"x{j}" for j in range(self.n_numeric)),
            categorical=tuple(f"c{j}" for j in range(len(self.cardinalities))),
            levels=tuple(tuple(map(str, range(c))) for c in self.cardinalities),
            has_missing=(False,) * self.n_numeric,
            bins=((-1.0, 0.0, 1.0),) * self.n_numeric,
        )

    @property
    def sizes(self) -> dict[str, int]:
        """Network sizes that differ from the defaults."""
        return {"d_token": self.d_token, "n_blocks": self.n_blocks}

    def rows(self, n: int) -> Batch:
        """Draw n random rows."""
        labels = [
            torch.randn(n) if task.kind == "regression" else torch.randint(max(2, task.width), (n,)).float()
            for task in self.tasks
        ]
        codes = [torch.randint(c + 2, (n,), dtype=torch.int32) for c in self.cardinalities]
        return Batch(
            x_num=torch.randn(n, self.n_numeric),
            x_cat=torch.stack(codes, dim=1) if codes else torch.zeros(n, 0, dtype=torch.int32),
            y=torch.stack(labels, dim=1),
        )


@dataclass(frozen=True, kw_only=True)
class Case:
    """What is timed: a shape, its second layer, a batch size, and the goals for float32 and bf16 (None = none)."""

    shape: Shape
    row_layer: str
    batch_size: int
    goals: tuple[float | None, float | None] = (None, None)


def _tasks(n_binary: int, n_regression: int, n_multiclass: int = 0) -> tuple[Task, ...]:
    kinds = ["binary"] * n_binary + ["regression"] * n_regression + ["multiclass"] * n_multiclass
    classes = {"multiclass": (0, 1, 2, 3, 4)}
    return tuple(
        Task(name=f"t{i}", kind=kind, metric="none", classes=classes.get(kind)) for i, kind in enumerate(kinds)
    )


ACS = Shape(
    name="ACS",
    cardinalities=(94, 8, 24, 529, 219, 18, 99, 2, 9, 51),
    n_numeric=0,
    tasks=_tasks(1, 0, 1),
)
HIGGS = Shape(name="Higgs", cardinalities=(3,) * 4, n_numeric=17, tasks=_tasks(1, 7))
WIDE = Shape(name="30 + 8, d=64", cardinalities=(20,) * 10, n_numeric=20, tasks=_tasks(4, 4), d_token=64, n_blocks=3)
CASES = [
    *(Case(shape=s, row_layer="none", batch_size=2048, goals=(4.0, 6.0)) for s in (ACS, HIGGS)),
    *(Case(shape=s, row_layer="mixer", batch_size=2048, goals=(1.5, 2.5)) for s in (ACS, HIGGS)),
    *(Case(shape=s, row_layer=layer, batch_size=256) for layer in ("none", "mixer") for s in (ACS, HIGGS)),
    Case(shape=WIDE, row_layer="none", batch_size=256, goals=(1.7, 2.5)),
    Case(shape=WIDE, row_layer="none", batch_size=2048),
]


def least_cpu_time(runs: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Least CPU seconds of each run over interleaved rounds, after one untimed round."""
    seconds = dict.fromkeys(runs, float("inf"))
    for round_ in range(rounds + 1):
        for name, run in runs.items():
            start = time.process_time()
            run()
            if round_:
                seconds[name] = min(seconds[name], time.process_time() - start)
    return seconds


def train_ours(network: nn.Module, data: Batch, case: Case, precision: str) -> None:
    """One epoch as the estimators train, on the seeded order that the reference gets."""
    options = MultiTabNet(
        epochs=1,
        batch_size=case.batch_size,
        learning_rate=LEARNING_RATE,
        weight_decay=0.0,
        average_decay=0.0,
        precision=precision,
    )
    tasks = case.shape.tasks
    no_scores = dict.fromkeys(task.name for task in tasks)
    torch.manual_seed(0)
    loop = TableLoop(options, network, MultiTaskLoss(tasks), data, None, evaluate=lambda *_: no_scores)
    run_epochs(network, loop, options, validated=False, on_epoch=None)


def mflop_per_row(network: nn.Module, data: Batch, tasks: tuple[Task, ...]) -> float:
    """Matrix-product MFLOP of a training step, forward and backward, per row."""
    rows = data.rows(torch.arange(256))
    with FlopCounterMode(display=False) as counter:
        plain_loss(network(rows.x_num, rows.x_cat), rows.y, tasks).backward()
    network.zero_grad()
    return counter.get_total_flops() / len(rows) / 1e6


def measure(case: Case, *, rounds: int, n_rows: int, peak: float) -> str:
    """Time one case; returns its line of the table."""
    torch.manual_seed(1)
    shape, data = case.shape, case.shape.rows(n_rows)
    ours = MultiTabNetwork(shape.columns, shape.tasks, row_layer=case.row_layer, **shape.sizes)
    flops = mflop_per_row(ours, data, shape.tasks)
    networks = {"plain": PlainNetwork(ours), "float32": ours, "bf16": deepcopy(ours)}
    torch.manual_seed(0)
    order = torch.randperm(n_rows)
    shuffled = data.rows(order)
    runs: dict[str, Callable[[], object]] = {
        "plain": lambda: train_plain(networks["plain"], shuffled, shape.tasks, case.batch_size, LEARNING_RATE),
        "float32": lambda: train_ours(ours, data, case, "float32"),
        "bf16": lambda: train_ours(networks["bf16"], data, case, "bf16"),
        "load": lambda: [data.rows(rows) for rows in order.split(256)],
    }
    with torch.no_grad():
        losses = [f"{plain_loss(ours(data.x_num, data.x_cat), data.y, shape.tasks):.4f}"]
    for name, network in networks.items():
        runs[name]()
        with torch.no_grad():
            losses.append(f"{plain_loss(network(data.x_num, data.x_cat), data.y, shape.tasks):.4f}")
    seconds = least_cpu_time(runs, rounds)
    cells = [f"{shape.name:12} {case.row_layer:5} {case.batch_size:5} {n_rows / seconds['plain']:7.0f}"]
    for precision, goal in zip(("float32", "bf16"), case.goals, strict=True):
        gain = seconds["plain"] / seconds[precision]
        wanted = f">={goal:g}x" if goal else "-"
        cells.append(f"{n_rows / seconds[precision]:7.0f} {gain:5.2f}x {wanted:>6}")
    speed = flops * n_rows / seconds["float32"] / 1e3
    cells.append(f"{speed:5.1f} {speed / peak:4.0%}")
    cells.append(f"{seconds['load'] / seconds['float32']:6.1%}")
    return " | ".join([*cells, " ".join(losses)])


def latency_ms(shape: Shape, row_layer: str) -> float:
    """Least CPU milliseconds to score one row, eager."""
    row = shape.rows(1)
    network = MultiTabNetwork(shape.columns, shape.tasks, row_layer=row_layer, **shape.sizes).eval()
    with torch.inference_mode():
        runs = {"one": lambda: [network(row.x_num, row.x_cat) for _ in range(50)]}
        return least_cpu_time(runs, 7)["one"] / 50 * 1e3


def peak_gflops() -> float:
    """Measure float32 GFLOP/s of a 1024³ matrix product."""
    x = torch.randn(1024, 1024)
    return 2 * 1024**3 / least_cpu_time({"product": lambda: x @ x}, 20)["product"] / 1e9


def main(arguments: list[str] | None = None) -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description="Training speed of MultiTab-Net, paired with plain code.")
    parser.add_argument("--quick", action="store_true", help="3 rounds instead of 7, on half the rows")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    rounds, n_rows = (3, 2048) if options.quick else (7, 4096)
    peak = peak_gflops()
    print(f"torch {torch.__version__}, 1 thread, float32 peak {peak:.0f} GFLOP/s; rows per CPU-second")
    print(
        f"{'shape':12} layer batch   plain | float32  ratio   goal |    bf16  ratio   goal | "
        "GFLOP/s peak | loader | loss: start plain float32 bf16   (goals: d=64 peak >= 40%, loader < 2%)"
    )
    for case in CASES:
        print(measure(case, rounds=rounds, n_rows=n_rows, peak=peak), flush=True)
    for shape, layer in dict.fromkeys((case.shape, case.row_layer) for case in CASES):
        print(f"one row, {shape.name}, {layer}: {latency_ms(shape, layer):.2f} ms (goal < 1 ms)")


if __name__ == "__main__":
    main()
