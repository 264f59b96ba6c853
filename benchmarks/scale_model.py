"""A model of training on many machines: what a step costs there, and what is full first.

    python -m benchmarks.scale_model [--quick] [--workers N] [--rows N] [--batch-rows N]

Measured here, on rows of `benchmarks.scale` and one thread: the CPU seconds of survey and encoding; those of a step of
each network at two sizes, so a row costs one number and a step another; the same of a round of `SharedTrees`, at two
numbers of rows and of rounds; and the bytes that a step hands to the group, counted by one that stands for others.

Modelled, for W workers of one thread each, rows that are dealt evenly, and networks of 10 and 100 Gbit/s:

- a step of B rows of all takes ``fixed + row B / W`` seconds, and each of its sums twice ``(W - 1) (latency + bytes /
  (W bandwidth))``, that of a ring, one after the other and after the step: nothing overlaps;
- a round of trees takes ``fixed + row n / W``, and the histograms of every leaf half of such a sum: LightGBM sums 16
  bytes a bin, of all columns, and each worker gets its share of the columns;
- a window is read at 1 GB/s, and a message takes 50 microseconds.

So it is a model and no measurement. `benchmarks.scale --only processes` measures two processes against one.
"""

from __future__ import annotations

import pickle
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import polars as pl
import torch

from benchmarks.harness import in_own_process, least_cpu_time, say, speed_parser
from benchmarks.scale import TARGETS, draw_files, job_model
from tabmtl import Shards, SharedTrees
from tabmtl.encode import TableCoder
from tabmtl.encode.cache import encoded
from tabmtl.encode.shards import Roles
from tabmtl.encode.survey import learn_table
from tabmtl.estimators.network import _in_training_units, _on_device
from tabmtl.nn.experts import statistics_of
from tabmtl.processes.group import Group
from tabmtl.schema import Batch
from tabmtl.training.table_loop import TableLoop

NETWORKS = ("SharedBottom", "MMoE", "MultiTabNet")
BANDWIDTHS = {"10 Gbit/s": 10e9 / 8, "100 Gbit/s": 100e9 / 8}  # bytes a second
LATENCY = 50e-6  # seconds a message
DISK = 1e9  # bytes a second of each worker
ROW_BYTES = 150  # of the cache
BIN_BYTES = 16  # of a histogram
_SIZES = 256, 2_048  # rows of the steps that are timed


@dataclass(frozen=True)
class Cost:
    """Cost of a step of a network, or of a round of trees.

    Parameters
    ----------
    row, fixed : float
        CPU seconds a row, and seconds whatever the number of rows.
    n_bytes : float
        Bytes that meet, in all sums together.
    n_sums : float
        Sums, one after the other.
    passes : int, default=2
        Times that a part of the bytes goes round the ring: 2 if every worker gets the sum, 1 if each gets a share.
    """

    row: float
    fixed: float
    n_bytes: float
    n_sums: float
    passes: int = 2

    def seconds(self, rows: float, workers: int, bandwidth: float) -> dict[str, float]:
        """Return the seconds of a step of some rows, by what they are spent on."""
        messages = self.passes * (workers - 1)
        return {
            "rows": self.row * rows / workers,
            "fixed": self.fixed,
            "latency": messages * self.n_sums * LATENCY,
            "bytes": messages * self.n_bytes / workers / bandwidth,
            "disk": rows / workers * ROW_BYTES / DISK,
        }


class _Counting(Group):
    """A rank of two that hears nobody, and counts the bytes that it says."""

    size = 2

    def __init__(self) -> None:
        self.sums: list[int] = []

    def sum_(self, tensor: torch.Tensor) -> torch.Tensor:
        self.sums.append(tensor.numel() * tensor.element_size())
        return tensor

    def gather(self, value: Any, to: int | None = None) -> list[Any]:
        self.sums.append(len(pickle.dumps(value)))
        return [value, value]


def measure_networks(folder: Path, rounds: int) -> dict[str, Any]:
    """Measure survey and encoding, CPU seconds a row, and the cost of a step of each network."""
    model, start = job_model("SharedBottom"), time.process_time()
    shards = Shards(folder / "*.parquet")
    roles = Roles.of(shards, TARGETS)
    coder = model._with_metrics(learn_table(shards, roles, **model._coding()))
    with encoded(shards, roles, coder) as cache:
        encode = (time.process_time() - start) / len(cache)
        data = _on_device(_in_training_units(cache.read(slice(_SIZES[1])), coder), torch.device("cpu"))
        return {"encode": encode, **{name: _measure_network(name, coder, data, rounds) for name in NETWORKS}}


def _measure_network(name: str, coder: TableCoder, data: Batch, rounds: int) -> Cost:
    model = job_model(name)

    def loop(kind: type[TableLoop]) -> TableLoop:
        torch.manual_seed(0)
        network = model._network(coder.features.columns, coder.labels.tasks).train()
        loss = model._loss(coder.labels.tasks)
        return kind(model, network, loss, data, None, evaluate=lambda *_: {})

    alone, counting = loop(TableLoop), _Counting()
    steps = {str(n): partial(alone.step, torch.arange(n), 1e-3) for n in _SIZES}
    small, large = least_cpu_time(steps, rounds).values()
    row = (large - small) / (_SIZES[1] - _SIZES[0])
    counted = loop(type("Counted", (TableLoop,), {"group": counting}))
    with statistics_of(counting, counted.network):
        counted.step(torch.arange(_SIZES[0]), 1e-3)
    return Cost(row, max(small - row * _SIZES[0], 0.0), sum(counting.sums), len(counting.sums))


def measure_trees(folder: Path, rounds: Sequence[int]) -> Cost:
    """Measure a round of `SharedTrees`: one tree for all tasks, with a leaf value each."""
    frame = pl.scan_parquet(folder / "*.parquet").collect()
    few = frame.head(frame.height // 4)

    def fit(rows: pl.DataFrame, n: int) -> None:
        options: dict[str, Any] = {"n_estimators": n, "n_estimators_task": 0, "early_stopping": False, "n_jobs": 1}
        SharedTrees(**options, random_state=0).fit(rows.drop(TARGETS), rows.select(TARGETS))

    sides = {f"{part.height}, {n}": partial(fit, part, n) for part in (few, frame) for n in rounds}
    of_few, more_of_few, of_all, more_of_all = least_cpu_time(sides, 1).values()
    n_rounds = rounds[1] - rounds[0]
    small, large = (more_of_few - of_few) / n_rounds, (more_of_all - of_all) / n_rounds
    row = max((large - small) / (frame.height - few.height), 0.0)
    model = SharedTrees()
    leaves, bins = model.num_leaves, model.max_bin * (len(frame.columns) - len(TARGETS))
    table = 2 * 8 * leaves * len(TARGETS)  # sums of gradients and hessians of every leaf and task
    return Cost(row, max(small - row * few.height, 0.0), leaves * bins * BIN_BYTES + table, leaves + 1, passes=1)


def report(name: str, cost: Cost, rows: float, of_step: float, workers: int) -> None:
    """Print the cost that was measured, and what the model makes of it."""
    say(name, f"{cost.row * 1e6:.1f} us/row", f"{cost.fixed * 1e3:.2f} ms", f"{cost.n_bytes / 1e6:.2f} MB")
    alone = sum(cost.seconds(of_step, 1, 1.0).values())
    for network, bandwidth in BANDWIDTHS.items():
        spent = cost.seconds(of_step, workers, bandwidth)
        taken = sum(spent.values())
        most = max(spent, key=lambda part: spent[part])
        cells = f"{of_step / taken / 1e6:.2f} M/s", f"{alone / taken:.0f}x", f"{rows / of_step * taken / 60:.0f} min"
        say(f"  {workers} workers, {network}", *cells, f"{most} {spent[most] / taken:.0%}")


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, and print what the model makes of it; the arguments are those of the command line."""
    parser = speed_parser("scale_model", __doc__)
    parser.add_argument("--workers", type=int, default=64, help="default 64")
    parser.add_argument("--rows", type=float, default=1e9, help="rows to train on (default 1e9)")
    parser.add_argument("--batch-rows", type=int, default=1_024, help="rows of a step a worker (default 1 024)")
    options = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        in_own_process(draw_files, folder, 8_000 if options.quick else 100_000)
        found = in_own_process(measure_networks, folder, 1 if options.quick else 5)
        found["SharedTrees"] = in_own_process(measure_trees, folder, (1, 2) if options.quick else (5, 25))
    per_worker = options.rows / options.workers
    encode = found.pop("encode")
    say("survey and encode", f"{1 / encode / 1e6:.2f} M/s", f"{per_worker * encode / 60:.0f} min a worker")
    for each, cost in found.items():
        is_network = each in NETWORKS
        of_step = options.batch_rows * options.workers if is_network else options.rows
        unit = "an epoch" if is_network else "a round"
        report(f"{each}, {unit}", cost, options.rows, of_step, options.workers)
    one = found["SharedBottom"]
    gain = (one.fixed + one.row * 1_024) / (one.fixed + one.row * 512)
    say("SharedBottom, steps of 1 024 rows, two processes against one", f"{gain:.2f}x", "of CPU, modelled")


if __name__ == "__main__":
    main()
