"""The table of scores: networks, R-MTGB, one LightGBM per task and a linear model, on real tables and MultiTab-Bench.

Run it by ``python -m benchmarks.scores``; ``--help`` lists the options. Every model is fitted on the stored
train rows, stops on the validation rows, and is scored on the test rows once. One LightGBM per task is the best of four
configurations. MultiTab-Bench has no validation rows: its networks train 6 epochs on 20 000 rows, and all are scored by
explained variance on 20 000 fresh rows. census_kdd is left out unless ``--sets`` names it.
"""

from __future__ import annotations

import time
from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import polars.selectors as cs
from sklearn.compose import make_column_transformer
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from benchmarks.harness import Record, print_sets, print_table, score_parser, spreads
from tabmtl import RMTGB, IndependentTasks, MultiTabNet, SharedBottom, Task, multitask_gain
from tabmtl.pipelines.datasets import load
from tabmtl.synth import make_multitab_bench

BENCH, REFERENCE = "multitab_bench", "IndependentTasks"
SETS = ("portal", "star", "rand_hie", "flights", BENCH, "gss_abortion", "census_kdd")
BENCH_ROWS = 20_000
#: MultiTab-Bench has next to no noise, which takes no dropout, and few rows, which take small steps.
BENCH_OPTIONS = {"epochs": 6, "early_stopping": False, "learning_rate": 3e-3, "batch_size": 256, "dropout": 0.0}


@dataclass(frozen=True, kw_only=True)
class Problem:
    """Rows X and y to fit, score and perhaps stop on, with the facts about the tasks."""

    train: tuple[Any, Any]
    test: tuple[Any, Any]
    val: tuple[Any, Any] | None = None
    tasks: Any

    def fit(self, model: Any) -> Any:
        """Fit a model on the train rows; the validation rows stop it."""
        watched = {} if self.val is None else dict(zip(("X_val", "y_val"), self.val, strict=True))
        return model.fit(*self.train, **watched)


def real_problem(name: str, folder: Path | None, **options: Any) -> Problem:
    """Read a real set, with its stored split."""
    data = load(name, folder=folder, **options)
    return Problem(train=data.part("train"), val=data.part("val"), test=data.part("test"), tasks=data.tasks)


def open_problem(name: str, seed: int, args: Namespace) -> Problem:
    """Read a real set, without use of the seed, or draw MultiTab-Bench."""
    if name == "flights":  # the folder alone would choose all rows
        return real_problem(name, args.folder, full=True) if args.full else real_problem(name, None)
    if name != BENCH:
        return real_problem(name, args.folder)
    bench = make_multitab_bench(BENCH_ROWS, random_state=seed)
    fresh = bench.draw(BENCH_ROWS, random_state=seed)
    tasks = [Task(name=name, kind="regression", metric="explained_variance") for name in bench.y.columns]
    return Problem(train=(bench.X, bench.y), test=(fresh.X, fresh.y), tasks=tasks)


def network(cls: Callable[..., Any], problem: Problem, seed: int, epochs: int | None) -> Any:
    """Make a network with its defaults; without validation rows, it trains for a fixed number of epochs."""
    options: dict[str, Any] = {} if epochs is None else {"epochs": epochs}
    if problem.val is None:
        options = BENCH_OPTIONS
    return cls(tasks=problem.tasks, random_state=seed, **options)


def linear(problem: Problem) -> Any:
    """Make a logistic or ridge regression per task."""
    models = {"classifier": LogisticRegression(max_iter=300), "regressor": Ridge(alpha=1)}
    return IndependentTasks(tasks=problem.tasks, **models)


def encoded(problem: Problem) -> Problem:
    """Return the problem of a linear model, with its features encoded on all train rows."""
    numbers = make_pipeline(SimpleImputer(strategy="median", add_indicator=True), StandardScaler())
    levels = OneHotEncoder(min_frequency=20, handle_unknown="infrequent_if_exist", sparse_output=False)
    (X, y), (X_test, y_test) = problem.train, problem.test
    numeric, categorical = (X.select(kind).columns for kind in (cs.numeric(), cs.string()))
    encode = make_column_transformer((numbers, numeric), (levels, categorical))
    return Problem(train=(encode.fit_transform(X), y), test=(encode.transform(X_test), y_test), tasks=problem.tasks)


MODELS: dict[str, Callable[[Problem, int, int | None], Any]] = {
    "MultiTabNet": partial(network, MultiTabNet),
    "SharedBottom": partial(network, SharedBottom),
    "RMTGB": lambda problem, seed, _: RMTGB(tasks=problem.tasks, random_state=seed),
    REFERENCE: lambda problem, seed, _: IndependentTasks(tasks=problem.tasks, tune="all", random_state=seed),
    "linear": lambda problem, *_: linear(problem),
}


def outputs_of(model: Any, X: pl.DataFrame) -> dict[str, np.ndarray]:
    """Return probabilities (n, K) or predictions (n,) per task."""
    values = model.predict(X)
    found = {task.name: values[task.name].to_numpy() for task in model.tasks_ if not task.is_classification}
    return found | (model.predict_proba(X) if len(found) < len(model.tasks_) else {})


def run(name: str, model_name: str, seed: int, args: Namespace) -> list[Record]:
    """Fit one model, and return one record per task."""
    problem = open_problem(name, seed, args)
    start = time.perf_counter()
    model = MODELS[model_name](problem, seed, args.epochs)
    if model_name == "linear":
        problem = encoded(problem)
    problem.fit(model)
    seconds = time.perf_counter() - start
    print(f"{name} {model_name} seed {seed}: {seconds:.1f} s", flush=True)
    facts = {"set": name, "model": model_name, "seed": seed, "seconds": seconds, "test_rows": len(problem.test[1])}
    intervals = model.score_intervals(*problem.test).select("task", "score", "standard_error")
    return [{**facts, **row} for row in intervals.iter_rows(named=True)]


def runs(args: Namespace, name: str) -> Iterator[list[Record]]:
    """Yield records of all models and seeds; one fit of the linear model on a real set covers all seeds."""
    for model in args.models:
        for seed in args.seeds if model != "linear" or name == BENCH else args.seeds[:1]:
            yield run(name, model, seed, args)


def report(records: pl.DataFrame) -> None:
    """Print a set: scores of all models, their mean over tasks, Δm, and standard errors of the last model."""
    name, (*_, last) = records["set"][0], records["model"].unique(maintain_order=True)
    tasks = records["task"].unique(maintain_order=True).to_list()
    means = records.group_by("model", "seed", maintain_order=True).agg(pl.col("score", "seconds").mean())
    rows = pl.concat([records, means.with_columns(task=pl.lit("mean"))], how="diagonal")
    table = spreads(rows, "task", "model", "score")
    scores = {
        model: dict(own.group_by("task", maintain_order=True).agg(pl.col("score").mean()).iter_rows())
        for (model,), own in records.group_by("model", maintain_order=True)
    }
    others = [model for model in scores if model != REFERENCE and REFERENCE in scores]
    gains = {model: multitask_gain(scores[model], scores[REFERENCE]).delta_m for model in others}
    table["Δm %"] = {str(model): f"{gain:+.2f}" for model, gain in gains.items()}
    taken = means.group_by("model", maintain_order=True).agg(pl.col("seconds").mean()).iter_rows()
    table["seconds"] = {model: f"{seconds:.1f}" for model, seconds in taken}
    errors = dict(records.filter(model=last).unique("task").select("task", "standard_error").iter_rows())
    for task in tasks:
        table[task][f"error of {last}"] = f"{errors[task]:.4f}"
    seeds = records["seed"].unique().sort().to_list()
    print_table(f"{name}: test scores, mean ± standard deviation over the seeds {seeds}", table)
    if {"MultiTabNet", "linear"} <= scores.keys():
        below = [t for t in tasks if scores["MultiTabNet"][t] < scores["linear"][t] - errors[t]]
        print(f"MultiTabNet more than one standard error below linear: {', '.join(below) or 'no task'}")


def main(argv: Sequence[str] | None = None) -> None:
    """Run the benchmark; the arguments are those of the command line."""
    parser = score_parser("scores", __doc__, sets=SETS, models=MODELS)
    parser.set_defaults(sets=SETS[:-1])
    parser.add_argument("--epochs", type=int, help="of the networks on real sets, at most (default: their own)")
    parser.add_argument("--full", action="store_true", help="all rows of flights instead of the sample")
    args = parser.parse_args(argv)
    print_sets(args.sets, partial(runs, args), report, args.output / "scores.csv", [])


if __name__ == "__main__":
    main()
