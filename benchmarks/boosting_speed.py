"""Speed and memory of R-MTGB: against a plain loop over scikit-learn trees, and against bare LightGBM.

    python -m benchmarks.boosting_speed [--quick] [--only NAME ...]

Everything runs on one thread (set OMP_NUM_THREADS=1 and POLARS_MAX_THREADS=1). Both sides of a comparison run in one
process, in turn, and the least CPU time of several rounds counts; where memory is compared, each has a process of its
own. Goals are printed beside what was measured. The time of ours is that of ``fit`` as a user calls it: reading the
polars frame, binning, all trees.

plain     the released code's setting (stumps), against :mod:`benchmarks.peers.rmtgb`, which gets arrays
overhead  against LightGBM's own trees with the same parameters, binning of an array included
growth    with rows, tasks and iterations
million   a million rows, against one pooled LightGBM that has the task as a category; memory too
serving   one row at a time
"""

from __future__ import annotations

import argparse
import itertools
import json
import subprocess
import sys
import time
import timeit
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import lightgbm as lgb
import numpy as np
import polars as pl
from sklearn.metrics import root_mean_squared_error

from benchmarks.peers.rmtgb import PlainRMTGB
from tabmtl import RMTGB
from tabmtl.synth import make_outlier_tasks

#: CPU seconds of the released code (GAA-UAM/R-MTGB at ec9f54b, scikit-learn 1.6.1) by rows per task, in the setting of
#: `compare_plain`: measured once, elsewhere, on a 2-core machine. It is not installable beside this package.
RELEASE_SECONDS = {300: 0.72, 1000: 1.81, 3000: 5.33, 10_000: 19.1}
#: Least times faster than the plain loop, by rows per task.
PLAIN_GOALS = {300: 10, 1000: 20, 3000: 30, 10_000: 30}
OVERHEAD_GOAL = 1.15  # most times the CPU seconds of as many LightGBM trees
#: Most times the CPU seconds and the peak memory of one pooled LightGBM.
MILLION_GOALS = {"cpu": 3.0, "peak": 2.0}
#: LightGBM's, as ours sets them.
PARAMS: dict[str, Any] = {
    "objective": "regression",
    "boost_from_average": False,
    "learning_rate": 0.1,
    "force_row_wise": True,
    "deterministic": True,
    "num_threads": 1,
    "verbosity": -1,
}


def draw_columns(n_tasks: int, n_rows: int, n_features: int) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Draw rows of tasks that are alike, float32, a column at a time.

    Parameters
    ----------
    n_tasks, n_rows, n_features : int
        ``n_rows`` in all; the tasks come in turn.

    Returns
    -------
    columns : dict of str to ndarray of shape (n_rows,)
        The features ``x0``, ``x1``, ... and the ``task``, a whole number.
    y : ndarray of shape (n_rows,)
        Smooth functions of pairs of features, and of one feature by task, with noise.
    """
    rng = np.random.default_rng(0)
    task = np.arange(n_rows, dtype=np.int32) % n_tasks
    own = rng.standard_normal(n_tasks).astype(np.float32)[task]
    columns, y = {}, 0.3 * rng.standard_normal(n_rows, dtype=np.float32)
    before = own
    for j in range(n_features):
        x = rng.standard_normal(n_rows, dtype=np.float32)
        y += np.sin(x + before) / np.float32(n_features**0.5)
        columns[f"x{j}"] = before = x
    return columns | {"task": task}, y


def to_frame(columns: dict[str, np.ndarray]) -> pl.DataFrame:
    """Turn columns into a frame, and empty the dictionary on the way: memory is measured."""
    return pl.DataFrame([pl.Series(name, columns.pop(name)) for name in list(columns)])


def to_matrix(columns: dict[str, np.ndarray], n_rows: int) -> np.ndarray:
    """Turn columns into a float32 matrix (n, p), and empty the dictionary on the way."""
    matrix = np.empty((n_rows, len(columns)), dtype=np.float32)
    for j, name in enumerate(list(columns)):
        matrix[:, j] = columns.pop(name)
    return matrix


def least_cpu_time(runs: Mapping[str, Callable[[], object]], rounds: int, enough: float = 20.0) -> dict[str, float]:
    """Least CPU seconds of each run over interleaved rounds; no round begins after ``enough`` seconds in all."""
    seconds = dict.fromkeys(runs, float("inf"))
    begin = time.process_time()
    for _ in range(rounds):
        for name, run in runs.items():
            start = time.process_time()
            run()
            seconds[name] = min(seconds[name], time.process_time() - start)
        if time.process_time() - begin > enough:
            break
    return seconds


def rmtgb(iterations: tuple[int, int, int], num_leaves: int, **options: Any) -> RMTGB:
    """R-MTGB without early stopping, on one thread; leaves of stumps may hold one row, as in the release."""
    shared, outlier, own = iterations
    return RMTGB(
        n_estimators_shared=shared,
        n_estimators_outlier=outlier,
        n_estimators_task=own,
        learning_rate=PARAMS["learning_rate"],
        num_leaves=num_leaves,
        min_child_samples=1 if num_leaves == 2 else 20,
        early_stopping=False,
        n_jobs=1,
        random_state=0,
        **options,
    )


def compare_plain(n_per_task: int, rounds: int, iterations: tuple[int, int, int] = (50, 50, 50)) -> dict[str, float]:
    """Fit both sides on the released recipe: ten tasks, two of them outliers, five features, stumps.

    Returns
    -------
    found : dict of str to float
        CPU seconds of ``ours`` and ``plain``, and their RMSE over all test rows, ``rmse ours`` and ``rmse plain``.
    """
    data = make_outlier_tasks(n_per_task, random_state=0)
    (X, tasks), (X_test, tasks_test) = (
        (frame.drop("task").to_numpy(), np.unique(frame["task"], return_inverse=True)[1])
        for frame in (data.X, data.X_test)
    )
    ours = rmtgb(iterations, 2, task_column="task", theta_step="sum")
    plain = PlainRMTGB(*iterations, learning_rate=PARAMS["learning_rate"])
    plain_fit = partial(plain.fit, X, tasks, data.y.to_numpy())
    seconds = least_cpu_time({"plain": plain_fit, "ours": partial(ours.fit, data.X, data.y)}, rounds)
    answers = {"plain": plain.predict(X_test, tasks_test), "ours": ours.predict(data.X_test)}
    errors = {f"rmse {side}": root_mean_squared_error(data.y_test, answer) for side, answer in answers.items()}
    return seconds | errors


def compare_overhead(
    n_rows: int, n_features: int, num_leaves: int, iterations: tuple[int, int, int], rounds: int
) -> dict[str, float]:
    """CPU seconds of ``ours`` on ten tasks, and of LightGBM with as many trees.

    ``pooled``: n1 + 2 n2 + n3 trees over all rows. ``by task``: the n3 over the rows of every task, as the method has
    it. ``outside``: so, and the 2 n2 from one booster of two outputs whose gradients come from outside, of which
    LightGBM does not know that the hessian is constant.
    """
    columns, y = draw_columns(10, n_rows, n_features)
    matrix = to_matrix({name: column for name, column in columns.items() if name != "task"}, n_rows)
    model = rmtgb(iterations, num_leaves, task_column="task")
    params = PARAMS | {"num_leaves": num_leaves, "min_data_in_leaf": model.min_child_samples}
    n_shared, n_mixed, n_own = iterations
    rows_of_tasks: list[Any] = [np.arange(t, n_rows, 10) for t in range(10)]
    hessian = np.ones((2, n_rows), dtype=np.float32).T

    def towards_y(scores: np.ndarray, _: lgb.Dataset) -> tuple[np.ndarray, np.ndarray]:
        return (scores.T - y).astype(np.float32).T, hessian

    def grow(n_pooled: int, n_outside: int, n_by_task: int) -> None:
        data = lgb.Dataset(matrix, y, params=params).construct()
        parts = [(data.subset(rows), n_by_task) for rows in rows_of_tasks if n_by_task]
        for part, n_trees in [(data, n_pooled), *parts]:
            booster = lgb.Booster(params, part)
            for _ in range(n_trees):
                booster.update()
        outside = lgb.Booster(params | {"objective": "none", "num_class": 2}, data)
        for _ in range(n_outside):
            outside.update(fobj=towards_y)

    runs = {
        "pooled": partial(grow, n_shared + 2 * n_mixed + n_own, 0, 0),
        "by task": partial(grow, n_shared + 2 * n_mixed, 0, n_own),
        "outside": partial(grow, n_shared, n_mixed, n_own),
    }
    return least_cpu_time({**runs, "ours": partial(model.fit, to_frame(columns), y)}, rounds)


def measure_million(side: str, n_rows: int) -> dict[str, float]:
    """Fit 80 trees of 16 leaves over rows of ten tasks with 20 features, "ours" or "lightgbm", in a fresh process.

    Returns
    -------
    found : dict of str to float
        ``cpu`` seconds of the fit, and GB of ``peak`` memory of the process, of which the ``imports`` took their part.
    """
    imports = peak_memory()
    columns, y = draw_columns(10, n_rows, 20)
    run: Callable[[], object]
    if side == "ours":
        run = partial(rmtgb((20, 20, 20), 16, task_column="task").fit, to_frame(columns), y)
    else:
        data = lgb.Dataset(to_matrix(columns, n_rows), y, categorical_feature=[20])
        run = partial(lgb.train, PARAMS | {"num_leaves": 16}, data, 80)
    seconds = least_cpu_time({side: run}, 1)[side]
    return {"cpu": seconds, "peak": peak_memory(), "imports": imports}


def peak_memory() -> float:
    """Peak memory of this process in GB; unlike getrusage, VmHWM forgets the process that started this one."""
    return int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0]) * 1024 / 1e9


def serving_calls() -> dict[str, Callable[[], object]]:
    """Ways to answer one row: ten tasks in the long layout, 20 in the wide one, 3000 rows, 200 trees per task."""
    columns, y = draw_columns(10, 3000, 20)
    X = to_frame(columns)
    long = rmtgb((50, 50, 50), 16, task_column="task").fit(X, y)
    Y = pl.DataFrame({f"y{t}": y + np.float32(t) * X[f"x{t}"].to_numpy() for t in range(20)})
    wide = rmtgb((50, 50, 50), 16).fit(X.drop("task"), Y)
    row, wide_row = X[:1], X[:1].drop("task")
    encoded, wide_encoded = long.encode(row), wide.encode(wide_row)
    one, exported = long.export_task("0"), [wide.export_task(name) for name in Y.columns]
    return {
        "one task, its exported model (goal <= 0.1)": partial(one.predict, encoded),
        "one task, predict": partial(long.predict, row),
        "20 tasks, their exported models (goal <= 2)": lambda: [model.predict(wide_encoded) for model in exported],
        "20 tasks, predict (goal <= 2)": partial(wide.predict, wide_row),
    }


def print_plain(quick: bool) -> None:
    """Against the plain loop."""
    print("plain: 10 tasks, 5 features, stumps, 50/50/50, CPU seconds (release: measured once, elsewhere)")
    print("rows per task |   plain    ours   ratio    goal | release | test RMSE: plain   ours")
    for n, goal in list(PLAIN_GOALS.items())[: 2 if quick else None]:
        found = compare_plain(n, 3 if quick else 7)
        print(
            f"{n:13} | {found['plain']:7.2f} {found['ours']:7.3f} {found['plain'] / found['ours']:6.1f}x   >={goal}x "
            f"| {RELEASE_SECONDS[n]:7.2f} |          {found['rmse plain']:.4f}  {found['rmse ours']:.4f}",
            flush=True,
        )


def print_overhead(quick: bool) -> None:
    """Against LightGBM."""
    n_rows = 20_000 if quick else 100_000
    print(
        f"overhead: {n_rows} rows, 10 tasks, CPU seconds, binning included; goal <= {OVERHEAD_GOAL}x the pooled trees"
    )
    print("features leaves    n1/n2/n3 |  pooled by task outside    ours | ours to each")
    blocks = ((50, 50, 50), (100, 0, 0), (0, 50, 0), (0, 0, 100))
    for (n_features, leaves), iterations in itertools.product(((5, 2), (20, 16)), blocks):
        found = compare_overhead(n_rows, n_features, leaves, iterations, 3 if quick else 5)
        seconds = " ".join(f"{found[side]:7.3f}" for side in ("pooled", "by task", "outside", "ours"))
        ratios = " ".join(f"{found['ours'] / found[side]:.2f}x" for side in ("pooled", "by task", "outside"))
        print(f"{n_features:8} {leaves:6} {'/'.join(map(str, iterations)):>11} | {seconds} | {ratios}", flush=True)


def print_growth(quick: bool) -> None:
    """With rows, tasks and iterations."""
    print("growth: 10 features, 16 leaves; trees count as often as they see all rows")
    print("tasks    rows  iterations per block | CPU s   ns per row and tree")
    shapes = [(10, 3000, 25), (10, 3000, 50), (10, 3000, 100), (10, 3000, 200), (50, 15_000, 50), (150, 45_000, 50)]
    for n_tasks, n_rows, iterations in [*shapes, (10, 30_000, 50), (10, 300_000, 50)][: 5 if quick else None]:
        columns, y = draw_columns(n_tasks, n_rows, 10)
        fit = partial(rmtgb((iterations,) * 3, 16, task_column="task").fit, to_frame(columns), y)
        seconds = least_cpu_time({"fit": fit}, 2 if quick else 3)["fit"]
        each = seconds / n_rows / (4 * iterations) * 1e9
        print(f"{n_tasks:5} {n_rows:7} {iterations:21} | {seconds:6.3f} {each:20.0f}", flush=True)


def print_million(quick: bool) -> None:
    """Time and memory beside one pooled LightGBM, each in a process of its own."""
    n_rows = 100_000 if quick else 1_000_000
    print(f"million: {n_rows} rows, 20 features, 10 tasks, 16 leaves, 20/20/20 against 80 pooled trees")
    print("         |  CPU s  peak GB (imports alone)")
    sides = {}
    for side in ("lightgbm", "ours"):
        command = [sys.executable, "-m", "benchmarks.boosting_speed", "--side", side, str(n_rows)]
        found = sides[side] = json.loads(subprocess.check_output(command, cwd=Path(__file__).parents[1], text=True))
        print(f"{side:8} | {found['cpu']:6.2f}  {found['peak']:.2f} ({found['imports']:.2f})")
    for key, goal in MILLION_GOALS.items():
        print(f"{key:8} | {sides['ours'][key] / sides['lightgbm'][key]:.2f}x (goal <= {goal:g}x)", flush=True)


def print_serving(quick: bool) -> None:
    """One row at a time."""
    print("serving: one row, 20 features, 16 leaves, 200 trees per task; wall milliseconds, least (median)")
    for name, call in serving_calls().items():
        times = sorted(1e3 * t / 5 for t in timeit.repeat(call, number=5, repeat=50 if quick else 200))
        print(f"{name:44} | {times[0]:.3f} ({times[len(times) // 2]:.3f})", flush=True)


PRINTS = (print_plain, print_overhead, print_growth, print_million, print_serving)
PARTS = {part.__name__.removeprefix("print_"): part for part in PRINTS}


def main(arguments: list[str] | None = None) -> None:
    """Print the tables, or run one side of `million`."""
    parser = argparse.ArgumentParser(description="Speed and memory of R-MTGB, beside plain code and bare LightGBM.")
    parser.add_argument("--quick", action="store_true", help="smaller tables, fewer rounds")
    parser.add_argument("--only", nargs="+", choices=list(PARTS), default=list(PARTS), help="some of the tables")
    parser.add_argument("--side", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.side:
        print(json.dumps(measure_million(options.side[0], int(options.side[1]))))
        return
    for name in options.only:
        PARTS[name](options.quick)


if __name__ == "__main__":
    main()
