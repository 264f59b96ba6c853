"""Time and memory from a parquet file to tensors, against scikit-learn's ColumnTransformer on pandas.

    python -m benchmarks.data [--quick] [--rows N] [--rounds N]

The file is drawn anew into a temporary folder: 20 numeric columns (float32, 5 % nulls, some with heavy tails) and
10 text columns of 10 to 10 000 levels. Every side runs in a process of its own, imports not counted, and ends with
the same two tensors: numbers (n, 20) float32 and codes (n, 10) int32, fitted on the rows that it encodes. Ours is
:class:`tabmtl.encode.FeatureCoder` on a polars LazyFrame with two threads; the reference is what a user would
write with scikit-learn, and may use all threads it likes. Last comes the time to encode one row.

Peak memory is that of the whole process, the libraries included. Wall times mean little on a busy machine; CPU
seconds (all threads) and memory hardly change.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
import timeit
from collections.abc import Callable
from pathlib import Path
from typing import Any

# The parent imports nothing heavy: a child's peak memory would count it.

N_NUMERIC, N_CATEGORICAL = 20, 10
TRANSFORMS = ("standardize", "quantile")
#: Least times faster than scikit-learn; and the most GB that standardising may take.
GOALS = {"standardize": 8.0, "quantile": 3.0}
MEMORY_GOAL = 1.3


def draw_table(path: Path, n: int) -> None:
    """Write n seeded rows as zstd parquet."""
    import numpy as np
    import polars as pl

    rng = np.random.default_rng(0)
    columns = []
    shapes: list[Callable[[Any], Any]] = [lambda z: z, np.exp, lambda z: z**3, lambda z: 1e3 * z + 1e5]
    for j in range(N_NUMERIC):
        values = pl.Series(f"num{j}", shapes[j % len(shapes)](rng.standard_normal(n, dtype=np.float32)))
        present = pl.Series(rng.random(n, dtype=np.float32) >= 0.05)
        columns.append(pl.select(pl.when(present).then(values).alias(values.name)).to_series())
    for j, k in enumerate(np.geomspace(10, 10_000, N_CATEGORICAL).round().astype(int)):
        levels = pl.Series(f"cat{j}", [f"level {i:05d}" for i in range(k)])
        columns.append(levels.gather(pl.Series(rng.integers(0, k, n, dtype=np.uint32))))
    pl.DataFrame(columns).write_parquet(path, compression="zstd")


def run_ours(path: Path, transform: str) -> Callable[[], tuple]:
    """What is timed: scan, fit, encode."""
    import polars as pl
    import torch

    from tabmtl.encode import FeatureCoder

    def run() -> tuple:
        frame = pl.scan_parquet(path)
        x_num, x_cat = FeatureCoder.fit(frame, transform=transform).encode(frame)
        return torch.from_numpy(x_num), torch.from_numpy(x_cat)

    return run


def run_scikit_learn(path: Path, transform: str) -> Callable[[], tuple]:
    """What is timed: read, fit_transform."""
    import numpy as np
    import pandas as pd
    import torch
    from sklearn.compose import ColumnTransformer
    from sklearn.impute import SimpleImputer
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OrdinalEncoder, QuantileTransformer, StandardScaler

    def run() -> tuple:
        frame = pd.read_parquet(path)
        scaler = StandardScaler() if transform == "standardize" else QuantileTransformer(output_distribution="normal")
        codes = OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1, encoded_missing_value=-2)
        encoder = ColumnTransformer(
            [
                ("numeric", make_pipeline(SimpleImputer(), scaler), list(frame.columns[:N_NUMERIC])),
                ("categorical", codes.set_params(dtype=np.int32), list(frame.columns[N_NUMERIC:])),
            ]
        )
        encoded = encoder.fit_transform(frame)
        x_num, x_cat = encoded[:, :N_NUMERIC].astype(np.float32), encoded[:, N_NUMERIC:].astype(np.int32)
        return torch.from_numpy(x_num), torch.from_numpy(x_cat)

    return run


def measure(run: Callable[[], tuple]) -> dict[str, float]:
    """Wall and CPU seconds of one run, and the process's peak memory in GB."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    wall, cpu = time.perf_counter(), time.process_time()
    x_num, x_cat = run()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    assert x_num.shape[1] == N_NUMERIC and x_cat.shape[1] == N_CATEGORICAL
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"wall": wall, "cpu": cpu, "memory": after * 1024 / 1e9, "libraries": before * 1024 / 1e9}


def measure_latency(path: Path, transform: str) -> dict[str, float]:
    """Least and median milliseconds to encode one row, 200 times five rows."""
    import polars as pl

    from tabmtl.encode import FeatureCoder

    frame = pl.read_parquet(path, n_rows=500_000)
    coder = FeatureCoder.fit(frame, transform=transform)
    row = frame[7:8]
    times = sorted(t / 5 * 1e3 for t in timeit.repeat(lambda: coder.encode(row), number=5, repeat=200))
    return {"least": times[0], "median": times[len(times) // 2]}


STEPS: dict[str, Callable[[Path, str], dict[str, float]]] = {
    "ours": lambda path, transform: measure(run_ours(path, transform)),
    "scikit-learn": lambda path, transform: measure(run_scikit_learn(path, transform)),
    "one row": measure_latency,
}


def in_own_process(step: str, path: Path, *details: str) -> dict[str, float]:
    """Run one step in a fresh process and read what it prints."""
    command = [sys.executable, "-m", "benchmarks.data", "--step", step, str(path), *details]
    environment = {**os.environ, "POLARS_MAX_THREADS": "2"}
    answer = subprocess.check_output(command, env=environment, cwd=Path(__file__).parents[1], text=True)
    return json.loads(answer)


def compare(path: Path, rounds: int) -> None:
    """Print the tables; of several rounds, taken in turn, the quickest run of every side counts."""
    print(f"{'':12} {'':12} |  wall s   CPU s  peak GB (libraries) | times faster: wall   CPU   goal")
    for transform in TRANSFORMS:
        best: dict[str, dict[str, float]] = {}
        for _ in range(rounds):
            for side in ("scikit-learn", "ours"):
                found = in_own_process(side, path, transform)
                best[side] = min(found, best.get(side, found), key=lambda run: run["wall"])
        reference = best["scikit-learn"]
        for side, run in best.items():
            line = f"{transform:12} {side:12} | {run['wall']:7.2f} {run['cpu']:7.2f} {run['memory']:8.2f} "
            line += f"({run['libraries']:.2f})      |"
            if side == "ours":
                ratios = f"{reference['wall'] / run['wall']:18.1f} {reference['cpu'] / run['cpu']:5.1f}"
                line += f"{ratios}  >= {GOALS[transform]:g}"
                line += f", <= {MEMORY_GOAL} GB" if transform == "standardize" else ""
            print(line, flush=True)
    for transform in TRANSFORMS:
        row = in_own_process("one row", path, transform)
        print(f"one row, {transform}: {row['least']:.2f} ms (median {row['median']:.2f} ms; goal < 0.4 ms)")


def main(arguments: list[str] | None = None) -> None:
    """Draw the table and compare, or run one step of it."""
    parser = argparse.ArgumentParser(description="From parquet to tensors, against scikit-learn.")
    parser.add_argument("--rows", type=int, default=5_000_000)
    parser.add_argument("--rounds", type=int, default=1, help="runs of every side, in turn")
    parser.add_argument("--quick", action="store_true", help="a tenth of the rows")
    parser.add_argument("--step", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.step:
        step, path, *details = options.step
        if step == "draw":
            draw_table(Path(path), int(details[0]))
            print("{}")
        else:
            print(json.dumps(STEPS[step](Path(path), *details)))
        return
    rows = options.rows // 10 if options.quick else options.rows
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "table.parquet"
        in_own_process("draw", path, str(rows))
        print(f"{rows} rows, {path.stat().st_size / 1e6:.0f} MB of parquet; {os.cpu_count()} cores")
        compare(path, options.rounds)


if __name__ == "__main__":
    main()
