"""Time and memory from a parquet file to tensors, against scikit-learn's ColumnTransformer on pandas.

    python -m benchmarks.data [--quick] [--rows N] [--rounds N]

The file is drawn anew into a temporary folder: 20 numeric columns (float32, 5 % nulls, some with heavy tails) and
10 text columns of 10 to 10 000 levels. Every side runs in a process of its own, imports not counted, and ends with
the same two tensors: numbers (n, 20) float32 and codes (n, 10) int32, fitted on the rows that it encodes. Ours is
:class:`tabmtl.encode.FeatureCoder` on a polars LazyFrame with two threads; the reference is plain code
with scikit-learn, and may use all threads it likes. Last comes the time to encode one row.

Peak memory is that of the whole process, the libraries included. Wall times mean little on a busy machine; CPU
seconds (all threads) and memory hardly change.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

from benchmarks.harness import at_least, at_most, gauge, in_own_process, latency, say, speed_parser

# Nothing heavy is imported here: the peak memory of a side would count it.

Transform = Literal["standardize", "quantile"]
N_NUMERIC, N_CATEGORICAL = 20, 10
#: Least times faster than scikit-learn; and the most GB that standardising may take.
GOALS: dict[Transform, float] = {"standardize": 8.0, "quantile": 3.0}
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


def run_ours(path: Path, transform: Transform) -> Callable[[], tuple]:
    """Scan, fit and encode: the timed steps of ours."""
    import polars as pl
    import torch

    from tabmtl.encode import FeatureCoder

    def run() -> tuple:
        frame = pl.scan_parquet(path)
        x = FeatureCoder.fit(frame, transform=transform).encode(frame)
        return torch.from_numpy(x.numbers), torch.from_numpy(x.codes)

    return run


def run_scikit_learn(path: Path, transform: Transform) -> Callable[[], tuple]:
    """Read and fit_transform: the timed steps of scikit-learn."""
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


SIDES = {"scikit-learn": run_scikit_learn, "ours": run_ours}


def measure(side: str, path: Path, transform: Transform) -> dict[str, float]:
    """Measure seconds and memory of one side."""
    return gauge(SIDES[side](path, transform))


def measure_latency(path: Path, transform: Transform) -> list[float]:
    """Measure median, 99th percentile and least milliseconds to encode one row."""
    import polars as pl

    from tabmtl.encode import FeatureCoder

    frame = pl.read_parquet(path, n_rows=500_000)
    return latency(FeatureCoder.fit(frame, transform=transform).encode, [frame[7:8]])


def compare(path: Path, rounds: int) -> None:
    """Print the tables; of several interleaved rounds, the quickest run of every side counts."""
    say("", "wall s", "CPU s", "peak GB", "libraries", goal="goal: times faster, peak")
    for transform, goal in GOALS.items():
        best: dict[str, dict[str, float]] = {}
        for _ in range(rounds):
            for side in SIDES:
                found = in_own_process(measure, side, path, transform)
                best[side] = min(found, best.get(side, found), key=lambda run: run["wall"])
        for side, found in best.items():
            say(f"{transform}: {side}", *(f"{found[key]:.2f}" for key in ("wall", "cpu", "peak", "before")))
        ratios = {key: best["scikit-learn"][key] / best["ours"][key] for key in ("wall", "cpu")}
        judged = at_least(ratios["wall"], goal)
        if transform == "standardize":
            judged += f", {at_most(best['ours']['peak'], MEMORY_GOAL, ' GB')}"
        say(f"{transform}: times faster", *(f"{ratio:.1f}x" for ratio in ratios.values()), goal=judged)
    say("", "p50", "p99", "least", goal="goal of the least")
    for transform in GOALS:
        row = in_own_process(measure_latency, path, transform)
        say(f"one row, {transform}", *(f"{ms:.2f} ms" for ms in row), goal=at_most(row[2], 0.4, " ms"))


def main(arguments: Sequence[str] | None = None) -> None:
    """Draw the table and compare."""
    parser = speed_parser("data", __doc__)
    parser.add_argument("--rows", type=int, default=5_000_000, help="default: 5 million; --quick takes a tenth")
    parser.add_argument("--rounds", type=int, default=1, help="runs of every side, in turn")
    given = parser.parse_args(arguments)
    rows = given.rows // 10 if given.quick else given.rows
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "table.parquet"
        in_own_process(draw_table, path, rows)
        print(f"{rows} rows, {path.stat().st_size / 1e6:.0f} MB of parquet; {os.cpu_count()} cores")
        compare(path, given.rounds)


if __name__ == "__main__":
    main()
