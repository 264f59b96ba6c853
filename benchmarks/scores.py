"""The table of scores: networks, R-MTGB, one LightGBM per task and a linear model, on real tables and MultiTab-Bench.

Run it by ``python -m benchmarks.scores``; ``--help`` lists the options. Every model is fitted on the stored
train rows, stops on the validation rows, and is scored on the test rows once. MultiTab-Bench has no validation rows:
its networks train 6 epochs on 20 000 rows, and all are scored by explained variance on 20 000 fresh rows.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from sklearn.compose import make_column_transformer
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from tabmtl import RMTGB, IndependentTasks, MultiTabNet, SharedBottom, Task, multitask_gain
from tabmtl.pipelines.datasets import load
from tabmtl.synth import make_multitab_bench

BENCH = "multitab_bench"
SETS = ("portal", "star", "rand_hie", "flights", BENCH, "gss_abortion", "census_kdd")
BENCH_ROWS = 20_000
#: MultiTab-Bench has next to no noise, which takes no dropout, and few rows, which take small steps.
BENCH_OPTIONS = {"epochs": 6, "early_stopping": False, "learning_rate": 3e-3, "batch_size": 256, "dropout": 0.0}

#: Scores of the linear recipe in an earlier run, tasks in order, by the set and its number of test rows: a changed
#: table or recipe shows.
LINEAR_BEFORE = {
    ("portal", 6_849): (0.9000, 0.9743, 0.5534),
    ("star", 2_157): (0.2303, 0.3225, 0.2633, 0.2008, 0.2640, 0.3145, 0.2011, 0.1729),
    ("rand_hie", 3_999): (0.7500, 0.6609, 0.7556, 0.1256, 0.1157),
    ("flights", 68_171): (0.8363, 0.7380, 0.1113, 0.9874),
    ("gss_abortion", 9_120): (0.6682, 0.6559, 0.6653, 0.6640, 0.6508, 0.6615, 0.6601),
    ("census_kdd", 99_762): (0.9407, 0.9941, 0.8994),
}


@dataclass(frozen=True, kw_only=True)
class Problem:
    """Rows to fit, stop and score on, and what the columns are."""

    train: tuple[Any, Any]
    val: tuple[Any, Any] | None
    test: tuple[Any, Any]
    tasks: Any
    numeric: tuple[str, ...]
    categorical: tuple[str, ...] = ()


def open_problem(name: str, seed: int, args: argparse.Namespace) -> Problem:
    """Read a real set (the seed plays no part), or draw MultiTab-Bench."""
    if name != BENCH:
        options = {"full": True} if name == "flights" and args.full else {}
        # The folder alone would choose all rows of flights.
        folder = None if name == "flights" and not args.full else args.folder
        data = load(name, folder=folder, **options)
        train, val, test = (data.part(part) for part in ("train", "val", "test"))
        return Problem(
            train=train, val=val, test=test, tasks=data.tasks, numeric=data.numeric, categorical=data.categorical
        )
    bench = make_multitab_bench(BENCH_ROWS, random_state=seed)
    fresh = bench.draw(BENCH_ROWS, random_state=seed)
    tasks = [Task(name=name, kind="regression", metric="explained_variance") for name in bench.y.columns]
    numeric = tuple(bench.X.columns)
    return Problem(train=(bench.X, bench.y), val=None, test=(fresh.X, fresh.y), tasks=tasks, numeric=numeric)


def network(cls: Callable[..., Any], problem: Problem, seed: int, epochs: int | None) -> tuple[Any, Problem]:
    """A network with its defaults; without validation rows, it trains for a fixed number of epochs."""
    options: dict[str, Any] = {} if epochs is None else {"epochs": epochs}
    if problem.val is None:
        options = BENCH_OPTIONS
    return cls(tasks=problem.tasks, random_state=seed, **options), problem


def lightgbm(problem: Problem, seed: int, epochs: int | None) -> tuple[Any, Problem]:
    """One LightGBM per task: the reference of the gain."""
    return IndependentTasks(tasks=problem.tasks, random_state=seed), problem


def boosted(problem: Problem, seed: int, epochs: int | None) -> tuple[Any, Problem]:
    """R-MTGB with its defaults."""
    return RMTGB(tasks=problem.tasks, random_state=seed), problem


def linear(problem: Problem, seed: int, epochs: int | None) -> tuple[Any, Problem]:
    """A logistic or ridge regression per task, and the problem with its features encoded on all train rows."""
    numbers = make_pipeline(SimpleImputer(strategy="median", add_indicator=True), StandardScaler())
    levels = OneHotEncoder(min_frequency=20, handle_unknown="infrequent_if_exist", sparse_output=False)
    encode = make_column_transformer((numbers, list(problem.numeric)), (levels, list(problem.categorical)))
    train = (encode.fit_transform(problem.train[0]), problem.train[1])
    test = (encode.transform(problem.test[0]), problem.test[1])
    models = {"classifier": LogisticRegression(max_iter=300), "regressor": Ridge(alpha=1)}
    encoded = Problem(train=train, val=None, test=test, tasks=problem.tasks, numeric=())
    return IndependentTasks(tasks=problem.tasks, **models), encoded


MODELS: dict[str, Callable[[Problem, int, int | None], tuple[Any, Problem]]] = {
    "MultiTabNet": lambda *args: network(MultiTabNet, *args),
    "SharedBottom": lambda *args: network(SharedBottom, *args),
    "RMTGB": boosted,
    "IndependentTasks": lightgbm,
    "linear": linear,
}


def run(name: str, model_name: str, seed: int, args: argparse.Namespace) -> list[dict[str, Any]]:
    """Fit one model, and give one record a task."""
    start = time.perf_counter()
    model, problem = MODELS[model_name](open_problem(name, seed, args), seed, args.epochs)
    watched = {} if problem.val is None else dict(zip(("X_val", "y_val"), problem.val, strict=True))
    model.fit(*problem.train, **watched)
    seconds = time.perf_counter() - start
    facts = {"set": name, "model": model_name, "seed": seed, "seconds": seconds, "test_rows": len(problem.test[1])}
    intervals = model.score_intervals(*problem.test).select("task", "score", "standard_error")
    return [{**facts, **row} for row in intervals.iter_rows(named=True)]


def report(name: str, records: pl.DataFrame) -> None:
    """Print a set: scores of all models (mean ± spread over seeds), their mean over tasks, Δm, and standard errors."""
    seeds = records.filter(pl.col("model") != "linear")["seed"].unique().sort().to_list()
    print(f"\n{name}: test scores, mean ± standard deviation over the seeds {seeds}")
    tasks = records["task"].unique(maintain_order=True).to_list()
    models = records["model"].unique(maintain_order=True).to_list()
    before = LINEAR_BEFORE.get((name, records["test_rows"][0]))
    columns: dict[str, list[str]] = {"task": [*tasks, "mean", "Δm %", "seconds"]}
    means: dict[str, dict[str, float]] = {}
    for model in models:
        own = records.filter(pl.col("model") == model)
        grid = own.pivot("task", index="seed", values="score").select(tasks).to_numpy()
        means[model] = dict(zip(tasks, grid.mean(axis=0).tolist(), strict=True))
        cells = [mean_and_spread(column) for column in (*grid.T, grid.mean(axis=1))]
        columns[model] = [*cells, _delta_m(model, records), format(own["seconds"].to_numpy().mean(), ".1f")]
    if before is not None and "linear" in models:
        columns["linear before"] = [f"{score:.4f}" for score in (*before, np.mean(before))] + ["", ""]
    errors = (
        records.filter(pl.col("model") == models[-1]).unique("task", maintain_order=True)["standard_error"].to_list()
    )
    columns[f"error of {models[-1]}"] = [f"{error:.4f}" for error in errors] + ["", "", ""]
    widths = [max(map(len, [title, *cells])) for title, cells in columns.items()]
    for row in ([*columns], *zip(*columns.values(), strict=True)):
        print("  ".join(map(str.rjust, row, widths)))
    _judge(means, errors)


def mean_and_spread(scores: np.ndarray) -> str:
    """Mean ± standard deviation, of one score the score alone."""
    return f"{scores.mean():.4f}" + (f" ± {scores.std(ddof=1):.4f}" if len(scores) > 1 else "")


def _delta_m(model: str, records: pl.DataFrame) -> str:
    """Δm of the mean scores over the seeds against those of IndependentTasks."""
    scores = {
        name: dict(records.filter(pl.col("model") == name).group_by("task").agg(pl.col("score").mean()).iter_rows())
        for name in (model, "IndependentTasks")
    }
    if model == "IndependentTasks" or not scores["IndependentTasks"]:
        return ""
    return f"{multitask_gain(scores[model], scores['IndependentTasks']).delta_m:+.2f}"


def _judge(means: dict[str, dict[str, float]], errors: Sequence[float]) -> None:
    """Say which tasks MultiTabNet scores below the linear model by more than one standard error of that."""
    if not {"MultiTabNet", "linear"} <= means.keys():
        return
    pairs = zip(means["MultiTabNet"].items(), means["linear"].values(), errors, strict=True)
    below = [task for (task, score), linear_score, error in pairs if score < linear_score - error]
    print(f"MultiTabNet more than one standard error below linear: {', '.join(below) or 'no task'}")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark; the arguments are those of the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scores", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--sets", nargs="+", choices=SETS, default=SETS[:-1], help="default: all but census_kdd")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=[*MODELS], help="default: all")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], help="default: 0 1 2")
    parser.add_argument("--epochs", type=int, help="of the networks on real sets, at most (default: their own)")
    parser.add_argument("--full", action="store_true", help="all rows of flights instead of the sample")
    parser.add_argument("--folder", type=Path, help="the data folder; default $TABMTL_DATA")
    parser.add_argument("--output", type=Path, default=Path("benchmark_output"), help="default: ./benchmark_output")
    args = parser.parse_args(argv)
    args.output.mkdir(parents=True, exist_ok=True)
    records: list[dict[str, Any]] = []
    for name in args.sets:
        try:
            open_problem(name, args.seeds[0], args)
        except FileNotFoundError as error:
            print(f"\nskipped: {error}")
            continue
        for model in args.models:
            # The linear model has no randomness: on a real set one fit says all.
            for seed in args.seeds if model != "linear" or name == BENCH else args.seeds[:1]:
                records += run(name, model, seed, args)
                pl.DataFrame(records).write_csv(args.output / "scores.csv")
                print(f"{name} {model} seed {seed}: {records[-1]['seconds']:.1f} s", flush=True)
        report(name, pl.DataFrame(records).filter(pl.col("set") == name))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
