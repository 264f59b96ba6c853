"""Tables of scores: networks, R-MTGB, one LightGBM per task and a linear model, or mixtures of experts, on real tables.

Run it by ``python -m benchmarks.scores``; ``--help`` lists the options. Every model has its defaults, is fitted on the
stored train rows, stops on the validation rows, and is scored on the test rows once. One LightGBM per task is the best
of four configurations. MultiTab-Bench has no validation rows: its networks train 6 epochs on 20 000 rows, and all are
scored by explained variance on 20 000 fresh rows. census_kdd is left out unless ``--sets`` names it.

``--experts`` is the table of mixtures and their family, of at most 6 epochs each: census_kdd with two tasks (income and
marriage; education is a feature), all rows of flights, and "funnel", fresh impressions of
:func:`tabmtl.synth.make_funnel`, where ESMM, AITM and APEM know the chain, HoME knows the groups, and the true
probabilities score the ceiling.

A difference to LightGBM is the mean over the seeds; its error joins that of the test rows (DeLong for AUC, paired: both
answer the same rows) with that of the seeds. "ahead" and "behind" mean more than two errors, else nothing is claimed.
"""

from __future__ import annotations

import time
from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import polars as pl
import polars.selectors as cs
from sklearn.compose import make_column_transformer
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

import tabmtl
from benchmarks.datasets import load
from benchmarks.harness import Record, print_sets, print_table, score_parser, spreads
from tabmtl import RMTGB, IndependentTasks, Task, multitask_gain
from tabmtl.metrics.intervals import score_difference
from tabmtl.synth import make_funnel, make_multitab_bench

BENCH, FUNNEL, REFERENCE, LINEAR = "multitab_bench", "funnel", "IndependentTasks", "linear"
SETS = ("portal", "star", "rand_hie", "flights", BENCH, "gss_abortion", "census_kdd")
MODELS = (REFERENCE, "MultiTabNet", "SharedBottom", "RMTGB", LINEAR)
EXPERT_SETS = ("census_kdd", "rand_hie", "gss_abortion", "flights", FUNNEL)
EXPERTS = (REFERENCE, "SharedBottom", "MMoE", "PLE", "AdaTT", "STEM", "HoME", "APEM", "ESMM", "AITM")
#: Models of a funnel, which know its chain, and those that take nothing else.
CHAIN, OF_CHAINS, CHAINS_ALONE = ["click", "conversion"], ("ESMM", "AITM", "APEM"), ("ESMM", "AITM")
#: Groups of tasks for HoME; the other sets are one group.
GROUPS = {
    "flights": {"disruption": ["cancelled", "dep_del15"], "times": ["arr_delay", "air_time"]},
    "rand_hie": {"any": ["any_spend", "any_inpatient", "any_mental"], "amount": ["log_spend", "mdvis"]},
    "gss_abortion": {"hard": ["abdefect", "abhlth", "abrape"], "choice": ["abany", "abnomore", "abpoor", "absingle"]},
    "census_kdd": {"money": ["income_50k"], "family": ["never_married"]},
}
BENCH_ROWS = 20_000
#: MultiTab-Bench has next to no noise, which takes no dropout, and few rows, which take small steps.
BENCH_OPTIONS = {"epochs": 6, "early_stopping": False, "learning_rate": 3e-3, "batch_size": 256, "dropout": 0.0}
#: Impressions to train on, and on fresh ones to stop and to score.
FUNNEL_ROWS, FRESH_ROWS = 100_000, 50_000


@dataclass(frozen=True, kw_only=True)
class Problem:
    """Rows X and y to fit, score and perhaps stop on, with the facts about the tasks, and the ceiling of scores."""

    train: tuple[Any, Any]
    test: tuple[Any, Any]
    val: tuple[Any, Any] | None = None
    tasks: Any
    ceiling: dict[str, float] | None = None

    def fit(self, model: Any) -> Any:
        """Fit a model on the train rows; the validation rows stop it."""
        watched = {} if self.val is None else dict(zip(("X_val", "y_val"), self.val, strict=True))
        return model.fit(*self.train, **watched)


def open_problem(name: str, seed: int, args: Namespace) -> Problem:
    """Read a real set, without use of the seed, or draw MultiTab-Bench or a funnel."""
    if name == BENCH:
        bench = make_multitab_bench(BENCH_ROWS, random_state=seed)
        fresh = bench.draw(BENCH_ROWS, random_state=seed)
        tasks = [Task(name=name, kind="regression", metric="explained_variance") for name in bench.y.columns]
        return Problem(train=(bench.X, bench.y), test=(fresh.X, fresh.y), tasks=tasks)
    if name == FUNNEL:
        log = make_funnel(FUNNEL_ROWS, random_state=seed)
        watched, asked = (log.draw(FRESH_ROWS, random_state=1000 * part + seed) for part in (1, 2))
        parts = {"train": (log.X, log.y), "val": (watched.X, watched.y), "test": (asked.X, asked.y)}
        return Problem(**parts, tasks=log.tasks, ceiling=asked.ceiling())
    full = args.full or args.experts
    data = load(name, args.folder, full=full, college_degree=not args.experts)
    return Problem(train=data.part("train"), val=data.part("val"), test=data.part("test"), tasks=data.tasks)


def make(model: str, name: str, problem: Problem, seed: int, epochs: int | None) -> Any:
    """Make a model with its defaults and the known facts about the tasks of a set."""
    common: dict[str, Any] = {"tasks": problem.tasks, "random_state": seed}
    if model == REFERENCE:
        return IndependentTasks(tune="all", families=("lightgbm",), **common)
    if model == LINEAR:
        models = {"classifier": LogisticRegression(max_iter=300), "regressor": Ridge(alpha=1)}
        return IndependentTasks(tasks=problem.tasks, **models)
    if model == "RMTGB":
        return RMTGB(**common)
    if name == FUNNEL and model in OF_CHAINS:
        common["task_chain"] = CHAIN
    if model == "HoME":
        common["task_groups"] = GROUPS.get(name) or make_funnel(10, n_users=5, n_items=5, random_state=0).task_groups
    budget = {} if epochs is None else {"epochs": epochs}
    network: Callable[..., Any] = getattr(tabmtl, model)
    return network(**common, **(BENCH_OPTIONS if problem.val is None else budget))


def encoded(problem: Problem) -> Problem:
    """Return the problem of a linear model, with its features encoded on all train rows."""
    numbers = make_pipeline(SimpleImputer(strategy="median", add_indicator=True), StandardScaler())
    levels = OneHotEncoder(min_frequency=20, handle_unknown="infrequent_if_exist", sparse_output=False)
    (X, y), (X_test, y_test) = problem.train, problem.test
    numeric, categorical = (X.select(kind).columns for kind in (cs.numeric(), cs.string()))
    encode = make_column_transformer((numbers, numeric), (levels, categorical))
    return Problem(train=(encode.fit_transform(X), y), test=(encode.transform(X_test), y_test), tasks=problem.tasks)


def outputs_of(model: Any, X: Any) -> dict[str, np.ndarray]:
    """Return probabilities (n, K) or predictions (n,) per task."""
    return {task.name: outputs for task, outputs in zip(model.tasks_, model.__answers__(X), strict=True)}


def run_seed(name: str, models: Sequence[str], seed: int, args: Namespace) -> list[Record]:
    """Fit models on one seed, the reference before all; one record a model and task."""
    problem = open_problem(name, seed, args)
    records: list[Record] = []
    reference: dict[str, np.ndarray] = {}
    for model_name in dict.fromkeys((REFERENCE, *models)):
        own = encoded(problem) if model_name == LINEAR else problem
        start = time.process_time()
        model = own.fit(make(model_name, name, problem, seed, args.epochs))
        seconds = time.process_time() - start
        X, y = own.test
        scores, outputs = model.score_intervals(X, y).select("task", "score", "standard_error"), outputs_of(model, X)
        reference = reference or outputs
        for task, row in zip(model.tasks_, scores.iter_rows(named=True), strict=True):
            labels = y[task.name].cast(pl.Float64).to_numpy()
            difference = score_difference(task, labels, outputs[task.name], reference[task.name])
            facts = {"set": name, "model": model_name, "seed": seed, "seconds": seconds, "test_rows": len(y), **row}
            facts |= {"difference": difference.score, "error": difference.standard_error}
            records.append(facts | {"ceiling": (problem.ceiling or {}).get(task.name)})
        print(f"{name} seed {seed} {model_name}: {seconds:.0f} CPU s", flush=True)
    return records


def runs(args: Namespace, name: str) -> Iterator[list[Record]]:
    """Yield records of all seeds; a linear model on a real set covers all seeds, and chains need a funnel."""
    models = [model for model in args.models if name == FUNNEL or model not in CHAINS_ALONE]
    for seed in args.seeds:
        yield run_seed(name, models, seed, args)
        if name != BENCH:
            models = [model for model in models if model != LINEAR]


def report(records: pl.DataFrame) -> None:
    """Print a set: per model its scores and Δm, and per task its difference to LightGBM with error and verdict."""
    means = records.group_by("model", "seed", maintain_order=True).agg(pl.col("score", "seconds").mean())
    columns = pl.concat([records, means.with_columns(task=pl.lit("mean"))], how="diagonal")
    scores, table = spreads(columns, "model", "task", "score"), {}
    of_tasks = {
        str(model): dict(own.group_by("task", maintain_order=True).agg(pl.col("score").mean()).iter_rows())
        for (model,), own in records.group_by("model", maintain_order=True)
    }
    for model, cells in scores.items():
        own = records.filter(model=model)
        table[model] = cells | {"CPU s": f"{own['seconds'].to_numpy().mean():.0f}"}
        if model != REFERENCE:
            table[model]["Δm %"] = f"{multitask_gain(of_tasks[model], of_tasks[REFERENCE]).delta_m:+.2f}"
            tasks = own.group_by("task", maintain_order=True)
            table[f"{model} - {REFERENCE}"] = {str(task): compare(of_task) for (task,), of_task in tasks}
    known = records.drop_nulls("ceiling").group_by("task").agg(pl.col("ceiling").mean())
    if len(known):
        table["(ceiling)"] = {task: f"{ceiling:.4f}" for task, ceiling in known.iter_rows()}
    seeds = records["seed"].unique().sort().to_list()
    print_table(f"{records['set'][0]}: test scores, mean ± standard deviation over the seeds {seeds}", table)


def compare(own: pl.DataFrame) -> str:
    """Compare one model and task to the reference: difference, error over test rows and seeds, and verdict."""
    differences, errors = own["difference"].to_numpy(), own["error"].to_numpy()
    over_seeds = differences.var(ddof=1) / len(differences) if len(differences) > 1 else 0.0
    mean, error = differences.mean(), float(np.sqrt(np.mean(errors**2) + over_seeds))
    verdict = "=" if abs(mean) <= 2 * error else "ahead" if mean > 0 else "behind"
    return f"{mean:+.4f}({error:.4f}) {verdict}"


def main(argv: Sequence[str] | None = None) -> None:
    """Run the benchmark; the arguments are those of the command line."""
    parser = score_parser(
        "scores", __doc__, sets=dict.fromkeys((*SETS, *EXPERT_SETS)), models=dict.fromkeys((*MODELS, *EXPERTS))
    )
    parser.set_defaults(sets=None, models=None)
    parser.add_argument("--experts", action="store_true", help="the table of mixtures")
    parser.add_argument("--epochs", type=int, help="of the networks on real sets, at most (default: theirs, or 6)")
    parser.add_argument("--full", action="store_true", help="all rows of flights instead of the sample")
    args = parser.parse_args(argv)
    args.sets = args.sets or (EXPERT_SETS if args.experts else SETS[:-1])
    args.models = args.models or (EXPERTS if args.experts else MODELS)
    args.epochs = args.epochs or (6 if args.experts else None)
    path = args.output / ("experts.csv" if args.experts else "scores.csv")
    print_sets(args.sets, partial(runs, args), report, path, [])


if __name__ == "__main__":
    main()
