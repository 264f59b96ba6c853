"""A model of training on many machines: what a step costs there, and what is full first.

    python -m benchmarks.scale_model [--quick] [--workers N] [--rows N] [--batch-rows N]

Measured here, on rows of `benchmarks.scale` and one thread:

- the CPU seconds of survey and encoding;
- those of a step of each network at two sizes, so a row costs one number and a step another. Batch normalisation has
  kernels of its own in a group, so a network that has it is measured in a group as well;
- the same of a round of each boosted model, at two numbers of rows and of rounds: one tree of `SharedTrees`, the
  trees of all stages of `RMTGB`, and one tree for each task of `IndependentTasks`, all without validation rows;
- those of a step of `M2TRec` at two numbers of targets and of candidates, on an item table of 50 000 items. Every
  worker computes the vectors of all candidates, and compares its own targets with all of them. So a target, a
  candidate, a pair of both, and a step each cost a number. The clicks of all workers are candidates;
- the bytes that a step of a network hands to the group, counted by a group that stands for the others.

Computed, not counted: LightGBM sums 16 bytes a bin of every histogram, one for each split of a tree, and each worker
gets its share of the columns; then all learn the best split. `SharedTrees` sums a table of its leaves besides, and
stage 2 of `RMTGB` three numbers a task. `IndependentTasks` moves the features and one label of every labelled row.

Modelled, for W workers of one thread each, rows that are dealt evenly, and networks of 10 and 100 Gbit/s:

- a step of B rows takes ``fixed + row B / W`` seconds, and whatever is sent comes after it: nothing overlaps;
- a large sum goes twice round a ring, in ``2 (W - 1)`` messages of a W-th of its bytes. All parts of a small one, such
  as moments of batch normalisation, go round once; so does what is gathered, and its size before it. Histograms take
  ``log2 W`` messages, and every worker sends nearly all bytes of each;
- a window is read at 1 GB/s, and a message takes 50 microseconds. Boosted models hold their rows in memory;
- a task of `IndependentTasks` is the work of one worker, which needs memory for all labelled rows of it.

The speed is told in relation to one worker alone, whose steps have as many rows as its part of the common ones.

So it is a model and no measurement. `benchmarks.scale --only processes` measures two processes against one.
"""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from lightgbm import LGBMClassifier, LGBMRegressor
from scipy.optimize import nnls

from benchmarks.harness import in_own_process, least_cpu_time, say, speed_parser
from benchmarks.scale import N_ITEMS, TARGETS, draw_files, job_model, popularity
from benchmarks.sessions_speed import draw_items
from tabmtl import RMTGB, IndependentTasks, Shards, SharedTrees
from tabmtl.encode import TableCoder
from tabmtl.encode.cache import Cache, encoded
from tabmtl.encode.shards import Roles
from tabmtl.encode.survey import learn_table
from tabmtl.estimators.boosted import BoostedEstimator
from tabmtl.estimators.boosted.data import bin_rows
from tabmtl.estimators.network import _in_training_units, _on_device
from tabmtl.nn.experts import BatchNorm, statistics_of
from tabmtl.processes.ranks import ALONE, Ranks
from tabmtl.processes.wire import pack
from tabmtl.scale.torch_group import goes_once
from tabmtl.schema import Batch
from tabmtl.sessions import M2TRec
from tabmtl.sessions.m2trec.item_features import ItemCoder
from tabmtl.sessions.m2trec.items import KnownItems
from tabmtl.sessions.m2trec.softmax import count_held
from tabmtl.sessions.m2trec.training import Examples, SessionLoop, Step
from tabmtl.training.table_loop import TableLoop

NETWORKS = ("SharedBottom", "MMoE", "MultiTabNet")
_TICK = 1e-9  # seconds, the least that the clock tells: of a few rows, noise may leave nothing of a cost
BANDWIDTHS = {"10 Gbit/s": 10e9 / 8, "100 Gbit/s": 100e9 / 8}  # bytes a second
LATENCY = 50e-6  # seconds a message
DISK = 1e9  # bytes a second of each worker
CLICKS = 5  # of a session; all but one are targets
ROW_BYTES, TARGET_BYTES = 150, (4 * CLICKS + 24) / (CLICKS - 1)  # of the caches
BIN_BYTES = 16  # of a histogram
_SIZES = 256, 2_048  # rows of the steps that are timed
_TARGETS, _CANDIDATES = (128, 1_024), (4_096, 16_384)


@dataclass(frozen=True)
class Work:
    """Work of a worker: CPU seconds a row, and seconds of a step or round whatever the number of its rows."""

    row: float
    fixed: float

    @classmethod
    def through(cls, sizes: Sequence[int], seconds: Sequence[float]) -> Work:
        """Find both from the seconds of steps of two sizes, or rounds of two numbers of rows."""
        return cls(*_solve([[n, 1.0] for n in sizes], seconds))


@dataclass(frozen=True)
class Traffic:
    """What a worker sends of one kind in a step: how often, one after the other, and the bytes of all together."""

    n: float = 0.0
    n_bytes: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Cost of a step of a network, or of a round of trees.

    Parameters
    ----------
    work : Work
    sums, small_sums, gathers : Traffic
        Sums over all workers, those so small that all parts go to all, and values of each that all get.
    splits : Traffic
        Meetings of LightGBM, whose bytes are those of the histograms.
    in_group : Work, optional
        Work where there are other workers, by default the same.
    row_bytes : float, default=0
        Bytes of a row that are read from the disk.
    n_tasks : int, optional
        Tasks of equal work, each of which is that of one worker; None divides the rows among all workers.
    moved : float, default=0
        Bytes of a row that go to other workers before the first round, one task after the other.
    """

    work: Work
    sums: Traffic = Traffic()
    small_sums: Traffic = Traffic()
    gathers: Traffic = Traffic()
    splits: Traffic = Traffic()
    in_group: Work | None = None
    row_bytes: float = 0.0
    n_tasks: int | None = None
    moved: float = 0.0

    def seconds(self, rows: float, workers: int, bandwidth: float = 1.0) -> dict[str, float]:
        """Return the seconds of a step of some rows, by what they are spent on."""
        others = workers - 1
        work = (self.in_group or self.work) if others else self.work
        share = 1 / workers if self.n_tasks is None else math.ceil(self.n_tasks / workers) / self.n_tasks
        messages = others * (2 * (self.sums.n + self.gathers.n) + self.small_sums.n)
        messages += math.log2(workers) * self.splits.n
        n_bytes = (2 * self.sums.n_bytes + self.splits.n_bytes) / workers
        n_bytes += self.small_sums.n_bytes + self.gathers.n_bytes
        return {
            "rows" if self.n_tasks is None else "tasks": work.row * rows * share,
            "fixed": work.fixed if self.n_tasks is None else work.fixed * share,
            "latency": messages * LATENCY,
            "bytes": others * n_bytes / bandwidth,
            "disk": rows / workers * self.row_bytes / DISK,
        }


@dataclass(frozen=True, kw_only=True)
class SessionCost(Cost):
    """Cost of a step of `M2TRec`, whose rows are targets.

    Parameters
    ----------
    candidate, pair : float
        CPU seconds a candidate, and of a target and a candidate.
    n_negatives : int
        See `M2TRec`.
    """

    candidate: float
    pair: float
    n_negatives: int

    def n_candidates(self, targets: float) -> float:
        """Return how many candidates a step of some targets has: distinct clicks, and items that fill them up."""
        clicks = targets * CLICKS / (CLICKS - 1)
        distinct = -np.expm1(clicks * np.log1p(-popularity())).sum()
        return min(float(distinct) + max(0.0, self.n_negatives - clicks), N_ITEMS)

    def seconds(self, rows: float, workers: int, bandwidth: float = 1.0) -> dict[str, float]:
        """Return the seconds of a step of some targets, by what they are spent on."""
        candidates = self.n_candidates(rows)
        own = {"candidates": self.candidate * candidates, "pairs": self.pair * candidates * rows / workers}
        return super().seconds(rows, workers, bandwidth) | own


def _solve(terms: Sequence[Sequence[float]], seconds: Sequence[float]) -> list[float]:
    """Find the seconds of one of each term, none below zero, from the seconds of steps that have some of each."""
    found, _ = nnls(np.array(terms, dtype=np.float64), np.array(seconds))
    return [float(each) for each in found]


@dataclass(eq=False)
class _Counting(Ranks):
    """A rank of two that hears nobody, and counts the bytes that it says."""

    size = 2
    sums: list[int] = field(default_factory=list)
    small_sums: list[int] = field(default_factory=list)
    gathers: list[int] = field(default_factory=list)

    def sum_(self, tensor: torch.Tensor) -> torch.Tensor:
        (self.small_sums if goes_once(tensor) else self.sums).append(tensor.nbytes)
        return tensor

    def gather(self, value: Any, to: int | None = None) -> list[Any]:
        self.gathers.append(len(pack(value)))
        return [value, value]

    def traffic(self) -> dict[str, Any]:
        """Return what was said, as arguments of `Cost`."""
        return {name: Traffic(len(said), sum(said)) for name, said in vars(self).items()}

    def clear(self) -> None:
        """Forget what was said."""
        for said in vars(self).values():
            said.clear()


@contextmanager
def _encoded(folder: Path) -> Iterator[tuple[TableCoder, Cache]]:
    """Learn the columns of the files, and encode their rows."""
    shards = Shards(folder / "*.parquet")
    roles, model = Roles.of(shards, TARGETS), job_model("SharedBottom")
    coder = model._with_metrics(learn_table(shards, roles, **model._coding()))
    with encoded(shards, roles, coder) as cache:
        yield coder, cache


def measure_networks(folder: Path, rounds: int) -> dict[str, Any]:
    """Measure survey and encoding, CPU seconds a row, and the cost of a step of each network."""
    start = time.process_time()
    with _encoded(folder) as (coder, cache):
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

    counting = _Counting()
    alone, counted = loop(TableLoop), loop(type("Counted", (TableLoop,), {"group": counting}))
    timed = {"alone": alone}
    if any(isinstance(module, BatchNorm) for module in counted.network.modules()):
        timed["in a group"] = counted
    steps = {f"{at}, {n}": partial(each.step, torch.arange(n), 1e-3) for at, each in timed.items() for n in _SIZES}
    with statistics_of(counting, counted.network):
        taken = [*least_cpu_time(steps, rounds).values()]
        counting.clear()
        counted.step(torch.arange(_SIZES[0]), 1e-3)
    return Cost(
        work=Work.through(_SIZES, taken[:2]),
        in_group=Work.through(_SIZES, taken[2:]) if len(timed) > 1 else None,
        row_bytes=ROW_BYTES,
        **counting.traffic(),
    )


def measure_sessions(n_targets: int, rounds: int) -> SessionCost:
    """Measure a step of `M2TRec`, whose bytes are those of a worker with some targets."""
    items = draw_items(N_ITEMS).drop("item_id")
    coder = ItemCoder.fit(items)
    features, row = coder.encode(items)
    clicks = np.ceil(popularity() * 1e7).astype(np.int64)
    known = KnownItems(features=features, row=row, clicks=clicks, shared=False)

    def equation(candidates: int, targets: int) -> tuple[list[float], Callable[[], object]]:
        # items of sessions count as negatives, so as many as there are to be candidates are drawn beside them
        made, step = _session_step(coder, known, candidates + targets * CLICKS // (CLICKS - 1), targets)
        units, _, of_targets, _ = step.examples.read(step.index)
        held = count_held(torch.cat([of_targets.view(len(units), -1)[:, :1], units], dim=1))
        drawn, _, _ = made.candidates.draw(torch.cat([units.flatten(), of_targets]), held)
        return [1.0, targets, len(drawn), targets * len(drawn)], partial(made.step, step, 1e-3)

    points = {f"{of}": equation(*of) for of in product(_CANDIDATES, _TARGETS)}
    taken = least_cpu_time({name: run for name, (_, run) in points.items()}, rounds)
    # seconds = of_step + of_target n + candidate C + pair n C, at four points
    of_step, of_target, candidate, pair = _solve([terms for terms, _ in points.values()], [*taken.values()])
    counting = _Counting()
    counted, step = _session_step(coder, known, M2TRec().n_negatives, n_targets, counting)
    counted.step(step, 1e-3)
    return SessionCost(
        work=Work(of_target, of_step),
        candidate=candidate,
        pair=pair,
        n_negatives=M2TRec().n_negatives or N_ITEMS,
        row_bytes=TARGET_BYTES,
        **counting.traffic(),
    )


def _session_step(
    coder: ItemCoder, known: KnownItems, n_negatives: int | None, targets: int, group: Ranks = ALONE
) -> tuple[SessionLoop, Step]:
    """Make a training of `M2TRec`, and a step of it of some targets, on drawn sessions."""
    model = M2TRec(n_negatives=n_negatives, precision="float32", n_jobs=1)
    torch.manual_seed(0)
    network = model._network(coder, known).train()
    starts = CLICKS * np.arange(targets // (CLICKS - 1))
    drawn = np.random.default_rng(0).choice(N_ITEMS, CLICKS * len(starts), p=popularity())
    units = torch.from_numpy(known.unit_of[1 + drawn])
    feed = type("Counted", (Examples,), {"group": group})(
        units=units,
        weights=torch.ones(len(units)),
        starts=starts,
        lengths=np.full_like(starts, CLICKS - 1),
        all_prefixes=True,
    )
    step = Step(feed, np.arange(len(starts)))
    return SessionLoop(network, known.on(torch.device("cpu")), feed, {}, model, None), step


def _measure_rounds(make: Callable[[int], Any], folder: Path, rounds: Sequence[int]) -> Work:
    """Measure a round of boosting."""
    frame = pl.scan_parquet(folder / "*.parquet").collect()
    few = frame.head(frame.height // 4)

    def fit(rows: pl.DataFrame, n: int) -> None:
        make(n).fit(rows.drop(TARGETS), rows.select(TARGETS))

    sides = {f"{part.height}, {n}": partial(fit, part, n) for part in (few, frame) for n in rounds}
    of_few, more_of_few, of_all, more_of_all = least_cpu_time(sides, 1).values()
    n_rounds = rounds[1] - rounds[0]
    small, large = (more_of_few - of_few) / n_rounds, (more_of_all - of_all) / n_rounds
    return Work.through((few.height, frame.height), (small, large))


def _splits(model: BoostedEstimator, folder: Path, n_trees: int) -> Traffic:
    """Compute what LightGBM sends for trees: a histogram and the best split of each split, and sums of the root."""
    with _encoded(folder) as (coder, cache):
        options = {"max_bin": model.max_bin, "feature_pre_filter": False, "num_threads": 1, "verbosity": -1}
        data = bin_rows(cache.read(slice(None)), coder.features.columns, options)
    n_bins = sum(data.feature_num_bin(i) for i in range(data.num_feature()))
    n_splits = n_trees * (model.num_leaves - 1)
    return Traffic(2 * n_splits + n_trees, n_splits * n_bins * BIN_BYTES)


def measure_shared_trees(folder: Path, rounds: Sequence[int]) -> Cost:
    """Measure a round of `SharedTrees`: one tree for all tasks, with a leaf value each."""

    def make(n: int) -> SharedTrees:
        return SharedTrees(n_estimators=n, n_estimators_task=0, early_stopping=False, n_jobs=1, random_state=0)

    table = 2 * 8 * make(1).num_leaves * len(TARGETS)  # sums of gradients and hessians of every leaf and task
    splits = _splits(make(1), folder, n_trees=1)
    return Cost(work=_measure_rounds(make, folder, rounds), small_sums=Traffic(1, table), splits=splits)


def measure_rmtgb(folder: Path, rounds: Sequence[int]) -> Cost:
    """Measure a round of all stages of `RMTGB`: a shared tree, two mixed ones with a step of θ, and one a task."""

    def make(n: int) -> RMTGB:
        stages: dict[str, Any] = dict.fromkeys(("n_estimators_shared", "n_estimators_outlier", "n_estimators_task"), n)
        return RMTGB(**stages, early_stopping=False, n_jobs=1, random_state=0)

    n_mixed = 2  # the binary tasks; a loss with a single task, as that of the number, has stage 3 only
    splits = _splits(make(1), folder, n_trees=3 + len(TARGETS))
    return Cost(work=_measure_rounds(make, folder, rounds), small_sums=Traffic(3, 3 * 8 * n_mixed), splits=splits)


def measure_independent(folder: Path, rounds: Sequence[int]) -> Cost:
    """Measure a round of `IndependentTasks`, one tree for each task; compute the bytes of the rows that move before."""
    known = LGBMClassifier().get_params()
    options = {name: value for name, value in IndependentTasks().get_params().items() if name in known}

    def make(n: int) -> IndependentTasks:
        classifier, regressor = LGBMClassifier(n_estimators=n, **options), LGBMRegressor(n_estimators=n, **options)
        trees = {"classifier": classifier, "regressor": regressor}
        return IndependentTasks(**trees, early_stopping=False, n_jobs=1, random_state=0)

    with _encoded(folder) as (_, cache):
        some = cache.read(slice(_SIZES[1]))
    n_labels = np.count_nonzero(~np.isnan(some.y), axis=0)
    of_row = sum(part[0].nbytes for part in vars(some.x).values()) + some.y.itemsize
    moved = n_labels.sum() * of_row / len(some)
    return Cost(work=_measure_rounds(make, folder, rounds), n_tasks=len(TARGETS), moved=float(moved))


def _duration(seconds: float) -> str:
    """Describe a duration: in seconds below ten minutes."""
    return f"{seconds:.3g} s" if seconds < 600 else f"{seconds / 60:.1f} min"


def _describe_work(work: Work) -> list[str]:
    return [f"{work.row * 1e6:.2f} us/row", f"{work.fixed * 1e3:.2f} ms"]


def report(name: str, cost: Cost, rows: float, workers: int, of_worker: float | None = None) -> None:
    """Print the cost that was measured, and what the model makes of it; a part below a tenth of the time is left out.

    Parameters
    ----------
    name : str
    cost : Cost
    rows : float
        Rows to train on.
    workers : int
    of_worker : float, optional
        Rows of a worker in a step; None has all rows in a step, as a round of trees has.
    """
    met = sum(each.n_bytes for each in (cost.sums, cost.small_sums, cost.gathers, cost.splits))
    said = [*_describe_work(cost.work), f"{met / 1e6:.2f} MB"]
    if cost.in_group:
        said += ["in a group", *_describe_work(cost.in_group)]
    if isinstance(cost, SessionCost):
        said += [f"{cost.candidate * 1e6:.2f} us/candidate", f"{cost.pair * 1e9:.2f} ns/pair"]
    unit = "a round" if of_worker is None else "an epoch"
    say(f"{name}, {unit}", *said)
    of_step, alone = (rows, rows) if of_worker is None else (of_worker * workers, of_worker)
    rate_alone = alone / max(sum(cost.seconds(alone, 1).values()), _TICK)
    for network, bandwidth in BANDWIDTHS.items():
        spent = cost.seconds(of_step, workers, bandwidth)
        taken = max(sum(spent.values()), _TICK)
        shares = sorted(((part, each / taken) for part, each in spent.items()), key=lambda part: -part[1])
        largest = ", ".join(f"{part} {share:.0%}" for part, share in shares if share >= 0.1)
        rate = of_step / taken
        cells = f"{rate / 1e6:.2f} M/s", f"{rate / rate_alone:.1f}x", _duration(rows / rate)
        say(f"  {workers} workers, {network}", *cells, largest)
        if cost.n_tasks:
            moved = cost.moved * rows * (workers - 1) / workers
            of_task = f"{cost.moved * rows / cost.n_tasks / 1e9:.0f} GB a task"
            say(f"  to the workers of the tasks before, {network}", of_task, _duration(moved / bandwidth))


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, and print what the model makes of it; the arguments are those of the command line."""
    parser = speed_parser("scale_model", __doc__)
    parser.add_argument("--workers", type=int, default=64, help="default 64")
    parser.add_argument("--rows", type=float, default=1e9, help="rows, or clicks, to train on (default 1e9)")
    parser.add_argument("--batch-rows", type=int, default=1_024, help="rows of a step a worker (default 1 024)")
    options = parser.parse_args(argv)
    rounds, n_trees = (1, (1, 3)) if options.quick else (10, (5, 25))
    rows, workers, of_worker = options.rows, options.workers, options.batch_rows
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        in_own_process(draw_files, folder, 8_000 if options.quick else 100_000)
        networks = in_own_process(measure_networks, folder, rounds)
        encode = networks.pop("encode")
        say("survey and encode", f"{1 / encode / 1e6:.2f} M/s", f"{_duration(rows / workers * encode)} a worker")
        for each, cost in networks.items():
            report(each, cost, rows, workers, of_worker)
        report("M2TRec", in_own_process(measure_sessions, of_worker, rounds), rows, workers, of_worker)
        report("SharedTrees", in_own_process(measure_shared_trees, folder, n_trees), rows, workers)
        rmtgb = in_own_process(measure_rmtgb, folder, n_trees)
        report("RMTGB", rmtgb, rows, workers)
        report("IndependentTasks", in_own_process(measure_independent, folder, n_trees), rows, workers)
    for each, cost, of_step in (*((each, cost, 1_024) for each, cost in networks.items()), ("RMTGB", rmtgb, 200_000)):
        one, two = (sum(cost.seconds(of_step, n)[part] for part in ("rows", "fixed")) for n in (1, 2))
        ratio = one / max(two, _TICK)
        say(f"{each}, {of_step:_} rows at once, two processes against one", f"{ratio:.2f}x", "of CPU, modelled")


if __name__ == "__main__":
    main()
