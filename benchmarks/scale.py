"""Memory and CPU time of files larger than memory: learn, encode, train from windows or in processes, predict.

    python -m benchmarks.scale [--quick] [--rows N] [--steps N] [--batch-size N] [--clicks N]
                               [--only encode train predict processes sessions] [--models NAME ...]

Rows are drawn into parquet files of 500 000 rows in a temporary folder: 20 numeric columns, 10 text columns of 10 to
10 000 levels, two binary targets and a number, each without labels in 30 % of the rows. Every part runs in a process of
its own, with one thread of torch and of polars:

- *encode*: what `Shards` does before the first step, the survey and the encoded rows on the disk;
- *train*: steps of a `SharedBottom` of batch size 1 024 from windows of these rows, with their share of loading a
  window, and from two million of the rows in memory, 20 of each in turn; and the memory of fits from both;
- *predict*: `predict_files`, against `predict` on the same rows in memory;
- *processes*: fits of one epoch, and of 50 rounds of each stage of `RMTGB`, by one process and by two of ``torchrun``,
  for each of the ``--models``: CPU seconds of the whole fit, of the process that took more. The quotient is the most
  that the wall time can gain on two idle cores. Beside them stand the wall time, and the seconds from the command to
  the group that stands, which for one process are its imports;
- *sessions*: a whole fit of a small `M2TRec`, one epoch, on a click log of files of 500 000 clicks over 50 000 items,
  as `Shards` and as a frame.

Peak memory is anonymous memory (`RssAnon`, looked at every 20 ms), the imports included; pages of files do not count,
because the system takes them back where it needs them. CPU seconds are those of all threads. Wall times mean little
where other work keeps the machine busy.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from benchmarks.harness import at_least, at_most, in_own_process, least_cpu_time, say, speed_parser

# Nothing heavy is imported here: the memory of a part would count it.

FILE_ROWS = 500_000
TARGETS = ["first", "second", "number"]
BATCH = 1_024
_ROUND_STEPS = 20
_LOADED_WINDOWS = 4
_MOST_IN_MEMORY = 2_000_000  # rows, for the speed in memory
#: Rows a CPU second, GB, and shares of the speed in memory.
ENCODE_GOAL, MEMORY_GOAL, TRAIN_GOAL, PREDICT_GOAL, PREDICT_MEMORY_GOAL = 0.4e6, 1.0, 0.95, 0.95, 0.2
PROCESSES_GOAL = 1.5
START_GOAL = 10.0  # seconds more than one process takes
JOB_MODELS = ("SharedBottom", "MMoE", "MultiTabNet", "RMTGB")
N_ITEMS = 50_000  # of the click log


def draw_files(folder: Path, n: int) -> None:
    """Write n seeded rows."""
    import numpy as np
    import polars as pl

    levels = [
        pl.Series(f"cat{j}", [f"level {i:05d}" for i in range(k)])
        for j, k in enumerate(np.geomspace(10, 10_000, 10).round().astype(int))
    ]
    for number, start in enumerate(range(0, n, FILE_ROWS)):
        rng, rows = np.random.default_rng(number), min(FILE_ROWS, n - start)
        x = rng.standard_normal((20, rows), dtype=np.float32)
        codes = [rng.integers(0, len(known), rows, dtype=np.uint32) for known in levels]
        columns = [pl.Series(f"num{j}", column) for j, column in enumerate(x)]
        columns += [known.gather(pl.Series(code)) for known, code in zip(levels, codes, strict=True)]
        score = x[0] - x[1] * x[2] + codes[0] / 5
        noisy = score + rng.standard_normal((3, rows), dtype=np.float32)
        values = {"first": noisy[0] > 1, "second": noisy[1] > 2, "number": noisy[2]}
        for name, value in values.items():
            labelled = pl.Series(rng.random(rows) > 0.3)
            columns.append(pl.select(pl.when(labelled).then(pl.Series(value)).alias(name)).to_series())
        pl.DataFrame(columns).write_parquet(folder / f"part-{number:03d}.parquet")


@contextmanager
def measured(found: dict[str, float]) -> Iterator[None]:
    """Measure the `cpu` seconds and the `peak` of anonymous memory in GB inside, beside that `before`."""
    stop, peak = threading.Event(), [_anonymous()]
    found["before"] = peak[0]

    def watch() -> None:
        while not stop.wait(0.02):
            peak[0] = max(peak[0], _anonymous())

    watcher = threading.Thread(target=watch)
    watcher.start()
    start = time.process_time()
    try:
        yield
    finally:
        found["cpu"] = time.process_time() - start
        stop.set()
        watcher.join()
        found["peak"] = peak[0]


def _anonymous() -> float:
    return int(Path("/proc/self/status").read_text().partition("RssAnon:")[2].split()[0]) * 1024 / 1e9


def _model(**params: Any) -> Any:
    import torch

    from tabmtl import SharedBottom

    torch.set_num_threads(1)
    plain: dict[str, Any] = {
        "batch_size": BATCH,
        "n_jobs": 1,
        "device": "cpu",
        "random_state": 0,
        "early_stopping": False,
    }
    return SharedBottom(**(plain | params))


def encode(folder: Path, n: int) -> dict[str, float]:
    """Measure the survey and the encoding, into the folder of the cache."""
    from tabmtl import Shards
    from tabmtl.encode.cache import encoded
    from tabmtl.encode.shards import Roles
    from tabmtl.encode.survey import learn_table

    found: dict[str, float] = {}
    model = _model()
    with measured(found):
        shards = Shards(folder / "*.parquet", cache=folder / "cache")
        roles = Roles.of(shards, TARGETS)
        coder = learn_table(shards, roles, **model._coding())
        survey = time.process_time()
        with encoded(shards, roles, coder) as cache:
            assert len(cache) == n
    return found | {"survey": survey}


class _EnoughStepsError(Exception):
    """Error that ends a training after enough steps."""


def train(folder: Path, steps: int, in_memory: bool) -> dict[str, float]:
    """Measure the memory of training for some steps, from windows of encoded rows or from rows in memory."""
    from unittest.mock import patch

    import polars as pl

    from tabmtl import Shards
    from tabmtl.training.optimizer import Optimizer

    found: dict[str, float] = {}
    model, original, taken = _model(), Optimizer.step, [0]

    def step(self: Optimizer, learning_rate: float) -> None:
        original(self, learning_rate)
        taken[0] += 1
        if taken[0] == steps:
            raise _EnoughStepsError

    with measured(found), patch.object(Optimizer, "step", step), suppress(_EnoughStepsError):
        if in_memory:
            frame = pl.scan_parquet(folder / "*.parquet")
            model.fit(frame.drop(TARGETS), frame.select(TARGETS))
        else:
            model.fit(Shards(folder / "*.parquet", cache=folder / "cache"), TARGETS)
    return found


def _seconds_to_load(rows: Any) -> float:
    """Measure the CPU seconds of loading a row of the first windows, whose memory is that of the first."""
    from tabmtl.training.windows import Epoch

    start = time.process_time()
    windows = islice(Epoch(rows=rows, seed=(0, 0), batch_size=BATCH).windows(), _LOADED_WINDOWS)
    n_rows = sum(len(window) for window, _ in windows)
    return (time.process_time() - start) / n_rows


def speed(folder: Path, steps: int) -> dict[str, float]:
    """Measure CPU seconds a step, of both in turn, and of loading a row of a window."""
    import torch

    from tabmtl import Shards
    from tabmtl.encode.cache import StoredRows, encoded
    from tabmtl.encode.shards import Roles
    from tabmtl.encode.survey import learn_table
    from tabmtl.estimators.network import _in_training_units, _on_device
    from tabmtl.training.table_loop import TableLoop
    from tabmtl.training.windows import WindowLoop

    model, shards = _model(), Shards(folder / "*.parquet", cache=folder / "cache")
    roles = Roles.of(shards, TARGETS)
    coder = model._with_metrics(learn_table(shards, roles, **model._coding()))
    common: dict[str, Any] = {"loss": model._loss(coder.labels.tasks), "evaluate": lambda *_: {}}

    def prepare(batch: Any) -> Any:
        return _on_device(_in_training_units(batch, coder), torch.device("cpu"))

    def network() -> Any:
        torch.manual_seed(0)
        return model._network(coder.features.columns, coder.labels.tasks).train()

    with encoded(shards, roles, coder) as cache:
        rows = StoredRows(cache)
        loops: dict[str, TableLoop] = {
            "memory": TableLoop(
                model, network(), data=prepare(cache.read(slice(_MOST_IN_MEMORY))), valid=None, **common
            ),
            "windows": WindowLoop(model, network(), rows=rows, valid_rows=None, prepare=prepare, seed=0, **common),
        }
        orders = {name: iter(loop._steps(0)[1]) for name, loop in loops.items()}

        def take(name: str) -> None:
            for data, index in islice(orders[name], _ROUND_STEPS):
                loops[name].step(index, 1e-3, data)

        taken = least_cpu_time({name: partial(take, name) for name in loops}, steps // _ROUND_STEPS)
        return {name: seconds / _ROUND_STEPS for name, seconds in taken.items()} | {"load": _seconds_to_load(rows)}


def predict(folder: Path, n: int, in_memory: bool) -> dict[str, float]:
    """Measure predictions of all rows."""
    import polars as pl

    from tabmtl.scale import predict_files

    found: dict[str, float] = {}
    rows = pl.scan_parquet(folder / "part-000.parquet").head(20_000).collect()
    model = _model(epochs=1).fit(rows.drop(TARGETS), rows.select(TARGETS))
    with measured(found):
        if in_memory:
            frame = pl.scan_parquet(folder / "*.parquet").drop(TARGETS).collect()
            model.predict(frame)
        else:
            predict_files(model, folder / "*.parquet", folder / "scored")
    return found


def popularity() -> Any:
    """Return the shares of the items in the drawn clicks, (N_ITEMS,)."""
    import numpy as np

    weights = 1 / np.arange(10, N_ITEMS + 10)
    return weights / weights.sum()


def draw_clicks(folder: Path, n: int) -> None:
    """Write n seeded clicks of sessions of 5 clicks on average, whose items follow each other more often than not."""
    import numpy as np
    import polars as pl

    edges = np.cumsum(popularity())
    for number, start in enumerate(range(0, n, FILE_ROWS)):
        rng, rows = np.random.default_rng(number), min(FILE_ROWS, n - start)
        session = np.sort(rng.integers(0, rows // 5, rows))
        drawn = np.searchsorted(edges, rng.random(rows)).clip(max=N_ITEMS - 1)
        before = np.roll(drawn, 1)
        follows = (rng.random(rows) < 0.6) & (session == np.roll(session, 1))
        begin = rng.random(rows // 5) * rows
        clicks = pl.DataFrame(
            {
                "session_id": session + start // 5,
                "item_id": np.where(follows, (before + 1 + before % 7) % N_ITEMS, drawn),
                "time": start + begin[session] + 30.0 * rng.random(rows),
            }
        )
        clicks.sort("time").write_parquet(folder / f"clicks-{number:03d}.parquet")


def sessions(folder: Path, in_memory: bool) -> dict[str, float]:
    """Measure a fit of M2TRec, and the CPU seconds up to its first step and to its last one."""
    from unittest.mock import patch

    import polars as pl
    import torch

    from tabmtl import Shards
    from tabmtl.sessions import M2TRec
    from tabmtl.training.optimizer import Optimizer

    torch.set_num_threads(1)
    found: dict[str, float] = {}
    model = M2TRec(d_model=16, n_negatives=512, epochs=1, precision="float32", n_jobs=1, device="cpu", random_state=0)
    original = Optimizer.step

    def step(self: Optimizer, learning_rate: float) -> None:
        found.setdefault("first", time.process_time())
        original(self, learning_rate)
        found["last"] = time.process_time()

    start = time.process_time()
    with measured(found), patch.object(Optimizer, "step", step):
        files = folder / "clicks-*.parquet"
        model.fit(pl.scan_parquet(files) if in_memory else Shards(files))
    found["score"] = float(model.history_["val/mrr@20"][-1])
    return found | {"read": found["first"] - start, "train": found["last"] - found["first"]}


def _rate(rows: float, seconds: float) -> str:
    return f"{rows / seconds / 1e3:.1f} k/s"


def report_encode(folder: Path, n: int) -> None:
    """Measure and print the survey and the encoding."""
    found = in_own_process(encode, folder, n)
    goal = (
        f"{at_least(n / found['cpu'] / 1e6, ENCODE_GOAL / 1e6, ' M/s')}, {at_most(found['peak'], MEMORY_GOAL, ' GB')}"
    )
    say(f"survey and encode, {n:_} rows", _rate(n, found["cpu"]), f"{found['peak']:.2f} GB", goal=goal)


def report_train(folder: Path, n: int, steps: int) -> None:
    """Measure and print training."""
    taken = in_own_process(speed, folder, steps)
    taken["windows"] += BATCH * taken["load"]
    peak = {name: in_own_process(train, folder, 50, name == "memory")["peak"] for name in ("memory", "windows")}
    say(f"train in memory, {n:_} rows", _rate(BATCH, taken["memory"]), f"{peak['memory']:.2f} GB")
    ratio = taken["memory"] / taken["windows"]
    goal = f"{at_least(ratio, TRAIN_GOAL)}, {at_most(peak['windows'], MEMORY_GOAL, ' GB')}"
    say("train from windows", _rate(BATCH, taken["windows"]), f"{peak['windows']:.2f} GB", f"{ratio:.2f}x", goal=goal)


def report_predict(folder: Path, n: int) -> None:
    """Measure and print predictions."""
    memory = in_own_process(predict, folder, n, True)
    files = in_own_process(predict, folder, n, False)
    say(f"predict in memory, {n:_} rows", _rate(n, memory["cpu"]), f"{memory['peak'] - memory['before']:+.2f} GB")
    ratio, more = memory["cpu"] / files["cpu"], files["peak"] - files["before"]
    goal = f"{at_least(ratio, PREDICT_GOAL)}, {at_most(more, PREDICT_MEMORY_GOAL, ' GB')}"
    say("predict_files", _rate(n, files["cpu"]), f"{more:+.2f} GB", f"{ratio:.2f}x", goal=goal)


def report_sessions(folder: Path, n: int) -> None:
    """Measure and print fits on a click log."""
    in_own_process(draw_clicks, folder, n)
    for name, in_memory in (("in memory", True), ("as Shards", False)):
        found = in_own_process(sessions, folder, in_memory)
        rates = [f"{part} {_rate(n, found[part])}" for part in ("read", "train", "cpu")]
        memory = f"{found['peak']:.2f} GB ({found['before']:.2f} before)"
        say(f"M2TRec {name}, {n:_} clicks", *rates, memory, f"MRR@20 {found['score']:.3f}")


JOB = """
import json, sys, time
from benchmarks.scale import TARGETS, job_model
from tabmtl import Shards
from tabmtl.scale import joined

folder, name, batch_size, started = sys.argv[1:]
with joined() as group:
    stands = time.time() - float(started)
    model, start, wall = job_model(name, int(batch_size)), time.process_time(), time.perf_counter()
    model.fit(Shards(f"{folder}/*.parquet"), TARGETS)
    taken = time.process_time() - start, time.perf_counter() - wall, stands
    slowest = [max(parts) for parts in zip(*group.gather(taken))]
    if group.rank == 0:
        print(json.dumps(slowest))
"""


def job_model(name: str, batch_size: int = BATCH) -> Any:
    """Return the model of a job of several processes, of one thread each."""
    import tabmtl

    if name == "RMTGB":
        rounds: dict[str, Any] = dict.fromkeys(("n_estimators_shared", "n_estimators_outlier", "n_estimators_task"), 50)
        return tabmtl.RMTGB(**rounds, early_stopping=False, n_jobs=1, random_state=0)
    _model()  # one thread of torch
    options = {"epochs": 1, "batch_size": batch_size, "n_jobs": 1, "device": "cpu", "random_state": 0}
    return getattr(tabmtl, name)(early_stopping=False, **options)


def run_job(folder: Path, name: str, size: int, batch_size: int) -> tuple[float, float, float]:
    """Run a job of one process or several; return CPU and wall seconds of the fit, and those until the group stands.

    They are those of the slowest process.
    """
    (folder / "job.py").write_text(JOB)
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(size)] if size > 1 else []
    environment = os.environ | {"OMP_NUM_THREADS": "1", "POLARS_MAX_THREADS": "1", "PYTHONPATH": str(Path.cwd())}
    command = [sys.executable, *launcher, str(folder / "job.py"), str(folder), name, str(batch_size), str(time.time())]
    printed = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True).stdout
    cpu, wall, stands = json.loads(printed.splitlines()[-1])
    return cpu, wall, stands


def report_processes(folder: Path, n: int, models: Sequence[str], batch_size: int) -> None:
    """Measure and print fits by one process and by two."""
    for name in models:
        (one, wall, start), (two, wall_of_two, start_of_two) = (
            run_job(folder, name, size, batch_size) for size in (1, 2)
        )
        say(f"{name}, {n:_} rows, one process", f"{one:.1f} s CPU", f"{wall:.1f} s wall", f"begins at {start:.1f} s")
        goal = f"{at_least(one / two, PROCESSES_GOAL, 'x')}, {at_most(start_of_two - start, START_GOAL, ' s more')}"
        parts = f"{two:.1f} s CPU", f"{wall_of_two:.1f} s wall", f"begin at {start_of_two:.1f} s"
        say(f"{name}, two processes, each", *parts, f"{one / two:.2f}x", goal=goal)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the chosen parts; the arguments are those of the command line."""
    parts = ("encode", "train", "predict", "processes", "sessions")
    parser = speed_parser("scale", __doc__, only=parts, models=JOB_MODELS)
    parser.add_argument("--rows", type=int, default=4_000_000, help="rows of the files (default 4 000 000)")
    parser.add_argument("--steps", type=int, default=400, help="steps of training of each kind (default 400)")
    parser.add_argument("--batch-size", type=int, default=BATCH, help="of networks in processes (default 1 024)")
    parser.add_argument("--clicks", type=int, default=2_000_000, help="clicks of the log (default 2 000 000)")
    options = parser.parse_args(argv)
    n, steps = (200_000, 20) if options.quick else (options.rows, options.steps)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if set(options.only) - {"sessions"}:
            in_own_process(draw_files, folder, n)
        if "encode" in options.only:
            report_encode(folder, n)
        if "train" in options.only:
            report_train(folder, n, steps)
        if "predict" in options.only:
            report_predict(folder, n)
        if "processes" in options.only:
            report_processes(folder, n, options.models, options.batch_size)
        if "sessions" in options.only:
            report_sessions(folder, 200_000 if options.quick else options.clicks)


if __name__ == "__main__":
    main()
