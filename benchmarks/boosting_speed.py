"""Speed and memory of R-MTGB and SharedTrees: against a plain loop over scikit-learn trees, and bare LightGBM.

    python -m benchmarks.boosting_speed [--quick] [--only NAME ...]

Everything runs on one thread (set OMP_NUM_THREADS=1 and POLARS_MAX_THREADS=1). Both sides of a comparison run in one
process, in turn, and the least CPU time of several rounds counts; where memory is compared, each has a process of its
own. Goals are printed beside the measurements. The time of ours is that of ``fit`` as a user calls it: reading the
polars frame, binning, all trees.

plain     the released code's setting (stumps), against :mod:`benchmarks.peers.rmtgb`, which gets arrays
overhead  against LightGBM's own trees with the same parameters, binning of an array included
growth    with rows, tasks and iterations
million   a million rows, against one pooled LightGBM that has the task as a category; memory too
serving   one row at a time
shared    SharedTrees against one LightGBM of as many trees for a single task, by rows and by tasks; one row
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import lightgbm as lgb
import numpy as np
import polars as pl
from sklearn.metrics import root_mean_squared_error

from benchmarks.harness import (
    Sides,
    at_most,
    compare,
    gauge,
    in_own_process,
    latency,
    least_cpu_time,
    say,
    speed_parser,
)
from benchmarks.peers.rmtgb import PlainRMTGB
from tabmtl import RMTGB, SharedTrees
from tabmtl.synth import make_outlier_tasks

Iterations = tuple[int, int, int]

#: CPU seconds of the released code (GAA-UAM/R-MTGB at ec9f54b, scikit-learn 1.6.1) by rows per task, in the setting of
#: `compare_plain`: measured once, elsewhere, on a 2-core machine. It is not installable beside this package.
RELEASE_SECONDS = {300: 0.72, 1000: 1.81, 3000: 5.33, 10_000: 19.1}
#: Least times faster than the plain loop, by rows per task.
PLAIN_GOALS = {300: 10, 1000: 20, 3000: 30, 10_000: 30}
SHARED_GOAL = 1.5  # most times the CPU seconds of one LightGBM with as many trees
SHARED_ROW_GOAL = 0.3  # milliseconds of one row of eight tasks
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
    """Draw rows of tasks that are alike and come in turn, float32, a column at a time.

    The columns are features ``x0``, ``x1``, ... and the ``task``, a whole number. The target is a sum of smooth
    functions of pairs of features, and of one feature by task, with noise.
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


def rmtgb(iterations: Iterations, num_leaves: int, **options: Any) -> RMTGB:
    """Make R-MTGB without early stopping, on one thread; leaves of stumps may hold one row, as in the release."""
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


def compare_plain(n_per_task: int, rounds: int, iterations: Iterations = (50, 50, 50)) -> dict[str, float]:
    """Time both sides on ten tasks, two of them outliers, with stumps: CPU seconds and RMSE over all test rows."""
    data = make_outlier_tasks(n_per_task, random_state=0)
    (X, tasks), (X_test, tasks_test) = (
        (frame.drop("task").to_numpy(), np.unique(frame["task"], return_inverse=True)[1])
        for frame in (data.X, data.X_test)
    )
    ours = rmtgb(iterations, 2, task_column="task", theta_step="sum", theta_penalty=0.0)
    plain = PlainRMTGB(*iterations, learning_rate=PARAMS["learning_rate"])
    plain_fit = partial(plain.fit, X, tasks, data.y.to_numpy())
    sides: Sides = {"plain": plain_fit, "ours": partial(ours.fit, data.X, data.y)}
    seconds = compare(f"plain: {n_per_task} rows per task", sides, rounds, {"ours": PLAIN_GOALS.get(n_per_task, 10)})
    answers = {"plain": plain.predict(X_test, tasks_test), "ours": ours.predict(data.X_test)}
    errors = {f"rmse {side}": root_mean_squared_error(data.y_test, answer) for side, answer in answers.items()}
    say(f"plain: {n_per_task} rows per task: RMSE, plain and ours", *(f"{error:.4f}" for error in errors.values()))
    return seconds | errors


def compare_overhead(
    n_rows: int, n_features: int, num_leaves: int, iterations: Iterations, rounds: int
) -> dict[str, float]:
    """Time ``ours`` on ten tasks, and LightGBM with as many trees, in CPU seconds.

    ``pooled``: n1 + 2 n2 + n3 trees over all rows. ``by task``: the n3 over the rows of every task, as in the method.
    ``outside``: the same, with the 2 n2 from one booster of two outputs with gradients from outside, for which LightGBM
    does not know that the hessian is constant.
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

    sides: Sides = {
        "pooled": partial(grow, n_shared + 2 * n_mixed + n_own, 0, 0),
        "by task": partial(grow, n_shared + 2 * n_mixed, 0, n_own),
        "outside": partial(grow, n_shared, n_mixed, n_own),
        "ours": partial(model.fit, to_frame(columns), y),
    }
    title = f"overhead: {n_features} features, {num_leaves} leaves, {'/'.join(map(str, iterations))}"
    return compare(title, sides, rounds, {"ours": 1 / OVERHEAD_GOAL})


def related_targets(columns: dict[str, np.ndarray], y: np.ndarray, n_tasks: int) -> pl.DataFrame:
    """Make wide targets: the same function with a feature more, and noise, for each task."""
    rng, n_features = np.random.default_rng(1), len(columns) - 1
    tasks = {
        f"y{t}": y + columns[f"x{t % n_features}"] + 0.3 * rng.standard_normal(len(y), dtype=np.float32)
        for t in range(n_tasks)
    }
    return pl.DataFrame(tasks)


def shared_trees(n_trees: int) -> SharedTrees:
    """Make shared trees without early stopping, on one thread."""
    return SharedTrees(
        n_estimators=n_trees,
        learning_rate=PARAMS["learning_rate"],
        num_leaves=16,
        early_stopping=False,
        n_jobs=1,
        random_state=0,
    )


def compare_shared(n_rows: int, n_tasks: int, n_trees: int, rounds: int, kind: str = "regression") -> dict[str, float]:
    """Time a fit of all tasks, and one LightGBM with as many trees for the first task, in CPU seconds."""
    columns, y = draw_columns(1, n_rows, 20)
    Y = related_targets(columns, y, n_tasks)
    Y = Y if kind == "regression" else Y > 0
    matrix = to_matrix({name: column for name, column in columns.items() if name != "task"}, n_rows)
    model = shared_trees(n_trees)
    params = PARAMS | {"num_leaves": 16, "lambda_l2": model.reg_lambda, "objective": kind}
    first = Y["y0"].to_numpy().astype(np.float32)
    sides: Sides = {
        "one": lambda: lgb.train(params, lgb.Dataset(matrix, first), n_trees),
        "ours": partial(model.fit, to_frame(columns).drop("task"), Y),
    }
    title = f"shared: {n_rows} rows, {n_tasks} {kind} tasks, {n_trees} trees"
    return compare(title, sides, rounds, {"ours": 1 / SHARED_GOAL} if n_tasks == 8 else None)


def fit_million(side: str, n_rows: int) -> dict[str, float]:
    """Measure a fit of 80 trees of 16 leaves over rows of ten tasks with 20 features, "ours" or "lightgbm"."""
    columns, y = draw_columns(10, n_rows, 20)
    if side == "ours":
        return gauge(partial(rmtgb((20, 20, 20), 16, task_column="task").fit, to_frame(columns), y))
    data = lgb.Dataset(to_matrix(columns, n_rows), y, categorical_feature=[20])
    return gauge(partial(lgb.train, PARAMS | {"num_leaves": 16}, data, 80))


def serving_calls() -> dict[str, tuple[Callable[[], object], float | None]]:
    """Return ways to predict one row, with a goal: ten long tasks, 20 wide ones, 200 trees per task."""
    columns, y = draw_columns(10, 3000, 20)
    X = to_frame(columns)
    long = rmtgb((50, 50, 50), 16, task_column="task").fit(X, y)
    Y = pl.DataFrame({f"y{t}": y + np.float32(t) * X[f"x{t}"].to_numpy() for t in range(20)})
    wide = rmtgb((50, 50, 50), 16).fit(X.drop("task"), Y)
    row, wide_row = X[:1], X[:1].drop("task")
    encoded, wide_encoded = long.encode(row), wide.encode(wide_row)
    one, exported = long.export_task("0"), [wide.export_task(name) for name in Y.columns]
    return {
        "one task, its exported model": (partial(one.predict, encoded), 0.1),
        "one task, predict": (partial(long.predict, row), None),
        "20 tasks, their exported models": (lambda: [model.predict(wide_encoded) for model in exported], 2),
        "20 tasks, predict": (partial(wide.predict, wide_row), 2),
    }


def print_plain(quick: bool) -> None:
    """Print the times against the plain loop."""
    print("10 tasks, 5 features, stumps, 50/50/50; the release was measured once, elsewhere")
    for n in list(PLAIN_GOALS)[: 2 if quick else None]:
        say(f"plain: {n} rows per task: the release", f"{1e3 * RELEASE_SECONDS[n]:.0f} ms")
        compare_plain(n, 3 if quick else 7)


def print_overhead(quick: bool) -> None:
    """Print the times against LightGBM."""
    n_rows = 20_000 if quick else 100_000
    print(f"{n_rows} rows, 10 tasks, binning included; by the blocks' iterations")
    blocks = ((50, 50, 50), (100, 0, 0), (0, 50, 0), (0, 0, 100))
    for (n_features, leaves), iterations in itertools.product(((5, 2), (20, 16)), blocks):
        compare_overhead(n_rows, n_features, leaves, iterations, 3 if quick else 5)


def print_growth(quick: bool) -> None:
    """Print the growth with rows, tasks and iterations."""
    print("10 features, 16 leaves; trees count as often as they see all rows")
    say("", "CPU s", "ns by row and tree")
    shapes = [(10, 3000, 25), (10, 3000, 50), (10, 3000, 100), (10, 3000, 200), (50, 15_000, 50), (150, 45_000, 50)]
    for n_tasks, n_rows, iterations in [*shapes, (10, 30_000, 50), (10, 300_000, 50)][: 5 if quick else None]:
        columns, y = draw_columns(n_tasks, n_rows, 10)
        fit = partial(rmtgb((iterations,) * 3, 16, task_column="task").fit, to_frame(columns), y)
        seconds = least_cpu_time({"fit": fit}, 2 if quick else 3)["fit"]
        each = seconds / n_rows / (4 * iterations) * 1e9
        what = f"growth: {n_tasks} tasks, {n_rows} rows, {iterations} iterations a block"
        say(what, f"{seconds:.3f}", f"{each:.0f}")


def print_million(quick: bool) -> None:
    """Print time and memory beside one pooled LightGBM, each in a process of its own."""
    n_rows = 100_000 if quick else 1_000_000
    print(f"{n_rows} rows, 20 features, 10 tasks, 16 leaves, 20/20/20 against 80 pooled trees")
    say("", "CPU s", "peak GB", "before")
    sides = {side: in_own_process(fit_million, side, n_rows) for side in ("lightgbm", "ours")}
    for side, found in sides.items():
        say(f"million: {side}", *(f"{found[key]:.2f}" for key in ("cpu", "peak", "before")))
    for key, goal in MILLION_GOALS.items():
        ratio = sides["ours"][key] / sides["lightgbm"][key]
        say(f"million: ours to lightgbm, {key}", f"{ratio:.2f}x", goal=at_most(ratio, goal))


def print_serving(quick: bool) -> None:
    """Print the times of one row."""
    print("one row, 20 features, 16 leaves, 200 trees per task; wall milliseconds")
    say("", "p50", "p99", "least", goal="goal of the least")
    for name, (call, goal) in serving_calls().items():
        found = latency(lambda ask: ask(), [call], 250 if quick else 1000)
        judged = "" if goal is None else at_most(found[2], goal, " ms")
        say(f"serving: {name}", *(f"{ms:.3f}" for ms in found), goal=judged)


def print_shared(quick: bool) -> None:
    """Print the times of shared trees against one LightGBM, and of one row."""
    print("20 features, 16 leaves; one LightGBM of as many trees learns one task")
    shapes = [(100_000, 8), (100_000, 1), (100_000, 16), (25_000, 8), (400_000, 8)]
    for n_rows, n_tasks in shapes[: 2 if quick else None]:
        compare_shared(n_rows // 5 if quick else n_rows, n_tasks, 40 if quick else 200, 2 if quick else 3)
    compare_shared(20_000 if quick else 100_000, 8, 40 if quick else 200, 2 if quick else 3, "binary")
    columns, y = draw_columns(1, 3000, 20)
    Y = related_targets(columns, y, 8)
    X = to_frame(columns).drop("task")
    model = shared_trees(200).fit(X, Y)
    found = latency(lambda ask: ask(), [partial(model.predict, X[:1])], 250 if quick else 1000)
    judged = at_most(found[2], SHARED_ROW_GOAL, " ms")
    say("shared: one row of 8 tasks, 200 trees, wall ms: p50, p99, least", *(f"{ms:.3f}" for ms in found), goal=judged)


PARTS = {
    "plain": print_plain,
    "overhead": print_overhead,
    "growth": print_growth,
    "million": print_million,
    "serving": print_serving,
    "shared": print_shared,
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the tables."""
    given = speed_parser("boosting_speed", __doc__, only=PARTS).parse_args(arguments)
    for name in given.only:
        PARTS[name](given.quick)


if __name__ == "__main__":
    main()
