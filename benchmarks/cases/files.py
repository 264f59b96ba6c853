"""Files: fits and predictions of what is larger than memory, in processes of their own.

Nothing heavy is imported here: the memory of a side would count it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

from benchmarks.harness import Measures, Sides, alone, gauged, in_own_process, steps_of

FILE_ROWS = 500_000
TARGETS = ["first", "second", "number"]
N_ITEMS = 50_000  # of the click log


@cache
def folder() -> tempfile.TemporaryDirectory[str]:
    """Return a folder for drawn files, which is removed at the end of the process."""
    return tempfile.TemporaryDirectory()


def drawn(draw: Callable[[Path, int], None], n: int) -> Path:
    """Return the folder of n drawn rows, which are drawn by a process of their own unless they are there."""
    place = Path(folder().name, f"{draw.__name__}-{n}")
    if not place.exists():
        place.mkdir()
        in_own_process(draw, place, n)
    return place


def draw_rows(place: Path, n: int) -> None:
    """Write seeded rows in files of 500 000: 20 numbers, a few missing, 10 texts of 10 to 10 000 levels, 3 targets.

    Three in ten rows have no label of a target.
    """
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
        pl.DataFrame(columns).write_parquet(place / f"part-{number:03d}.parquet")


def draw_clicks(place: Path, n: int) -> None:
    """Write n seeded clicks of sessions of 5 clicks on average, whose items follow each other more often than not."""
    import numpy as np
    import polars as pl

    weights = 1 / np.arange(10, N_ITEMS + 10)
    edges = np.cumsum(weights / weights.sum())
    for number, start in enumerate(range(0, n, FILE_ROWS)):
        rng, rows = np.random.default_rng(number), min(FILE_ROWS, n - start)
        session = np.sort(rng.integers(0, rows // 5, rows))
        picked = np.searchsorted(edges, rng.random(rows)).clip(max=N_ITEMS - 1)
        before = np.roll(picked, 1)
        follows = (rng.random(rows) < 0.6) & (session == np.roll(session, 1))
        begin = rng.random(rows // 5) * rows
        clicks = pl.DataFrame(
            {
                "session_id": session + start // 5,
                "item_id": np.where(follows, (before + 1 + before % 7) % N_ITEMS, picked),
                "time": start + begin[session] + 30.0 * rng.random(rows),
            }
        )
        clicks.sort("time").write_parquet(place / f"part-{number:03d}.parquet")


def fit_alone(place: Path, is_table: bool, in_memory: bool, steps: int) -> Measures:
    """Measure a fit of one epoch at most: a step with its share of loading, what comes before, and memory.

    A table fits SharedBottom, in batches of 1 024 rows, and a log a small M2TRec.
    """
    import polars as pl
    import torch

    from tabmtl import SharedBottom
    from tabmtl.scale import Shards
    from tabmtl.sessions import M2TRec

    torch.set_num_threads(1)
    files = place / "*.parquet"
    fixed: dict[str, Any] = {"epochs": 1, "n_jobs": 1, "device": "cpu", "random_state": 0}
    found: Measures = {}
    with gauged(found):
        data: Any = pl.scan_parquet(files) if in_memory else Shards(files)
        if is_table:
            network = SharedBottom(batch_size=1_024, early_stopping=False, **fixed)
            X, y = (data.drop(TARGETS), data.select(TARGETS)) if in_memory else (data, TARGETS)
            measured = steps_of(lambda: network.fit(X, y), steps)
        else:
            shop = M2TRec(d_model=16, n_negatives=512, precision="float32", **fixed)
            measured = steps_of(lambda: shop.fit(data), steps)
            if hasattr(shop, "history_"):
                measured["MRR@20"] = float(shop.history_["val/mrr@20"][-1])
    step = {"s": measured.pop("s on average"), "s of the median step": measured.pop("s")}
    return step | measured | {("s in all" if unit == "s" else unit): value for unit, value in found.items()}


def from_files(rows: int = 4_000_000, steps: int = 1_000_000) -> Sides:
    """Compare a fit of SharedBottom on Shards with one on a frame."""
    place = drawn(draw_rows, rows)
    return {name: alone(fit_alone, place, True, name == "in memory", steps) for name in ("in memory", "from files")}


def from_clicks(clicks: int = 2_000_000, steps: int = 1_000_000) -> Sides:
    """Compare a fit of a small M2TRec on a click log as Shards with one on a frame."""
    place = drawn(draw_clicks, clicks)
    return {name: alone(fit_alone, place, False, name == "in memory", steps) for name in ("in memory", "from files")}


def predict_alone(place: Path, in_memory: bool) -> Measures:
    """Measure predictions of all rows."""
    import polars as pl
    import torch

    from tabmtl import SharedBottom
    from tabmtl.scale import predict_files

    torch.set_num_threads(1)
    found: Measures = {}
    rows = pl.scan_parquet(place / "part-000.parquet").head(20_000).collect()
    model = SharedBottom(epochs=1, batch_size=1_024, n_jobs=1, device="cpu", random_state=0)
    model.fit(rows.drop(TARGETS), rows.select(TARGETS))
    with gauged(found), tempfile.TemporaryDirectory() as scored:
        if in_memory:
            model.predict(pl.scan_parquet(place / "*.parquet").drop(TARGETS).collect())
        else:
            predict_files(model, place / "*.parquet", Path(scored, "scored"))
    return found


def predict(rows: int = 4_000_000) -> Sides:
    """Compare `predict_files` with `predict`."""
    place = drawn(draw_rows, rows)
    return {name: alone(predict_alone, place, name == "in memory") for name in ("in memory", "from files")}


JOB = """
import json, sys, time
from benchmarks.cases.files import TARGETS, job_model
from tabmtl.scale import Shards
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


def job_model(name: str, batch_size: int) -> Any:
    """Return the network of a job of several processes, of one thread each, for one epoch."""
    import torch

    import tabmtl

    torch.set_num_threads(1)
    fixed: dict[str, Any] = {"early_stopping": False, "n_jobs": 1, "device": "cpu", "random_state": 0}
    return getattr(tabmtl, name)(epochs=1, batch_size=batch_size, **fixed)


def run_job(place: Path, name: str, batch_size: int, size: int, _: int) -> Measures:
    """Run a job of one process or several; measure the fit, and the seconds until the group stands, of the slowest."""
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(size)] if size > 1 else []
    environment = os.environ | {"OMP_NUM_THREADS": "1", "POLARS_MAX_THREADS": "1", "PYTHONPATH": str(Path.cwd())}
    job = place / "job.py"
    job.write_text(JOB)
    command = [sys.executable, *launcher, str(job), str(place), name, str(batch_size), str(time.time())]
    printed = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True).stdout
    return dict(zip(("s", "s of wall", "s to begin"), json.loads(printed.splitlines()[-1]), strict=True))


def processes(model: str = "MMoE", rows: int = 4_000_000, batch_size: int = 1_024) -> Sides:
    """Compare fits by one process and by two of ``torchrun``.

    The ratio is the most that wall time can gain on two idle cores.
    """
    run = partial(run_job, drawn(draw_rows, rows), model, batch_size)
    return {"one process": partial(run, 1), "two processes, each": partial(run, 2)}
