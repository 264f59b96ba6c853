"""Speed of MultiTab-Net's training against the same network written the obvious way, on one CPU thread.

    python -m benchmarks.speed [--quick]

Both sides run in one process, in turn, and are compared by the least CPU time of several rounds. Ours is
:class:`tabmtl.training.table_loop.TableLoop` as estimators run it; the reference is
:mod:`benchmarks.peers.multitabnet`, in float32. Both start from the same weights and see the same rows; their losses
after equal steps stand side by side. Goals are printed beside the measurements.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.harness import at_least, at_most, compare, latency, least_cpu_time, say, speed_parser
from benchmarks.peers.multitabnet import PlainNetwork, plain_loss, train_plain
from tabmtl.columns import Features
from tabmtl.models.multitabnet import MultiTabNet, MultiTabNetwork
from tabmtl.schema import Batch, Columns
from tabmtl.targets import Task
from tabmtl.training.epochs import run_epochs
from tabmtl.training.losses import MultiTaskLoss
from tabmtl.training.run import Run
from tabmtl.training.table_loop import TableLoop

LEARNING_RATE = 1e-3


@dataclass(frozen=True, kw_only=True)
class Shape:
    """A table, by the levels of its categorical columns and the number of numeric ones, and the size of a network."""

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

    def options(self, row_layer: str) -> MultiTabNet:
        """Return an estimator with the sizes of our network."""
        return MultiTabNet(d_token=self.d_token, n_blocks=self.n_blocks, row_layer=row_layer, dropout=0.0)

    def network(self, row_layer: str) -> MultiTabNetwork:
        """Make our network, with fresh weights."""
        return MultiTabNetwork(self.columns, self.tasks, self.options(row_layer))

    def rows(self, n: int) -> Batch:
        """Draw n random rows."""
        labels = [
            torch.randn(n) if not task.is_classification else torch.randint(max(2, task.width), (n,)).float()
            for task in self.tasks
        ]
        codes = [torch.randint(c + 2, (n,), dtype=torch.int32) for c in self.cardinalities]
        return Batch(
            x=Features(
                numbers=torch.randn(n, self.n_numeric),
                codes=torch.stack(codes, dim=1) if codes else torch.zeros(n, 0, dtype=torch.int32),
            ),
            y=torch.stack(labels, dim=1),
        )


def _tasks(n_binary: int, n_regression: int, n_multiclass: int = 0) -> tuple[Task, ...]:
    kinds = ["binary"] * n_binary + ["regression"] * n_regression + ["multiclass"] * n_multiclass
    classes = {"multiclass": (0, 1, 2, 3, 4)}
    return tuple(
        Task(name=f"t{i}", kind=kind, metric="none", classes=classes.get(kind)) for i, kind in enumerate(kinds)
    )


ACS = Shape(
    name="ACS", cardinalities=(94, 8, 24, 529, 219, 18, 99, 2, 9, 51), n_numeric=0, tasks=_tasks(1, 0, n_multiclass=1)
)
HIGGS = Shape(name="Higgs", cardinalities=(3,) * 4, n_numeric=17, tasks=_tasks(1, 7))
WIDE = Shape(name="30 + 8, d=64", cardinalities=(20,) * 10, n_numeric=20, tasks=_tasks(4, 4), d_token=64, n_blocks=3)
#: Table, second layer, rows a step, and how many times faster float32 and bf16 should be.
CASES: list[tuple[Shape, str, int, tuple[float, ...]]] = [
    *((shape, "none", 2048, (4.0, 6.0)) for shape in (ACS, HIGGS)),
    *((shape, "mixer", 2048, (1.5, 2.5)) for shape in (ACS, HIGGS)),
    *((shape, layer, 256, ()) for layer in ("none", "mixer") for shape in (ACS, HIGGS)),
    (WIDE, "none", 256, (1.7, 2.5)),
    (WIDE, "none", 2048, ()),
]


def train_ours(network: nn.Module, data: Batch, tasks: tuple[Task, ...], batch_size: int, precision: str) -> None:
    """Train one epoch as the estimators do, on the seeded order that the reference gets."""
    plain: dict[str, Any] = {"weight_decay": 0.0, "average_decay": 0.0}
    options = MultiTabNet(epochs=1, batch_size=batch_size, learning_rate=LEARNING_RATE, precision=precision, **plain)
    no_scores = dict.fromkeys(task.name for task in tasks)
    torch.manual_seed(0)
    loop = TableLoop(options, network, MultiTaskLoss(tasks), data, None, evaluate=lambda *_: no_scores)
    run_epochs(network, loop, options, run=Run(), validated=False, on_epoch=None)


def mflop_per_row(network: nn.Module, data: Batch, tasks: tuple[Task, ...]) -> float:
    """Return matrix-product MFLOP of a training step, forward and backward, per row."""
    rows = data.rows(torch.arange(256))
    with FlopCounterMode(display=False) as counter:
        plain_loss(network(rows.x), rows.y, tasks).backward()
    network.zero_grad()
    return counter.get_total_flops() / len(rows) / 1e6


def compare_training(
    shape: Shape, row_layer: str, batch_size: int, goals: Sequence[float], *, rounds: int, n_rows: int, peak: float
) -> None:
    """Compare epochs of the plain network and of ours, and the losses before and after one."""
    torch.manual_seed(1)
    tasks, data, ours = shape.tasks, shape.rows(n_rows), shape.network(row_layer)
    flops = mflop_per_row(ours, data, tasks)
    networks = {
        "plain": PlainNetwork(shape.columns, tasks, shape.options(row_layer), ours),
        "float32": ours,
        "bf16": deepcopy(ours),
    }
    torch.manual_seed(0)
    order = torch.randperm(n_rows)
    shuffled = data.rows(order)
    sides: dict[str, Callable[[], object]] = {
        "plain": lambda: train_plain(networks["plain"], shuffled, tasks, batch_size, LEARNING_RATE),
        "float32": lambda: train_ours(ours, data, tasks, batch_size, "float32"),
        "bf16": lambda: train_ours(networks["bf16"], data, tasks, batch_size, "bf16"),
        "loading alone": lambda: [data.rows(rows) for rows in order.split(256)],
    }

    @torch.no_grad()
    def loss(network: nn.Module) -> str:
        return f"{plain_loss(network(data.x), data.y, tasks):.4f}"

    losses, title = [loss(ours)], f"{shape.name}, {row_layer}, {batch_size} rows"
    for name, network in networks.items():
        sides[name]()
        losses.append(loss(network))
    seconds = compare(title, sides, rounds, dict(zip(("float32", "bf16"), goals, strict=False)))
    speed, share = flops * n_rows / seconds["float32"] / 1e3, 100 * seconds["loading alone"] / seconds["float32"]
    goal = at_least(100 * speed / peak, 40, " %") if shape is WIDE else ""
    say(f"{title}: GFLOP/s of float32, and of the peak", f"{speed:.1f}", f"{speed / peak:.0%}", goal=goal)
    say(f"{title}: loading, of float32", f"{share:.1f} %", goal=at_most(share, 2, " %"))
    say(f"{title}: loss at the start, and after an epoch of each", *losses)


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table."""
    given = speed_parser("speed", __doc__).parse_args(arguments)
    torch.set_num_threads(1)
    rounds, n_rows = (3, 2048) if given.quick else (7, 4096)
    x = torch.randn(1024, 1024)
    peak = 2 * 1024**3 / least_cpu_time({"product": lambda: x @ x}, 20)["product"] / 1e9
    print(f"torch {torch.__version__}, 1 thread, peak of a float32 product {peak:.0f} GFLOP/s")
    say("table, second layer, rows a step", "an epoch", "faster", goal="goal")
    for case in CASES:
        compare_training(*case, rounds=rounds, n_rows=n_rows, peak=peak)
    for shape, layer in dict.fromkeys(case[:2] for case in CASES):
        network, row = shape.network(layer).eval(), shape.rows(1)
        with torch.inference_mode():
            least = latency(lambda row, score=network: score(row.x), [row])[2]
        say(f"{shape.name}, {layer}: scores of one row", f"{least:.2f} ms", goal=at_most(least, 1, " ms"))


if __name__ == "__main__":
    main()
