"""Mixtures of experts and their family against one LightGBM per task, on real tables and on a funnel.

    python -m benchmarks.experts [--sets ...] [--models ...] [--seeds 0 1 2] [--epochs 6]

Every network has its defaults and the same budget: at most 6 epochs, stopped on the validation rows, which choose the
best of four configurations of LightGBM too. Test rows are scored once: census_kdd with two tasks (income and marriage;
education is a feature) on its official test rows, rand_hie, gss_abortion and flights on the stored split, and "funnel"
on fresh impressions of :func:`tabmtl.synth.make_funnel`, where ESMM, AITM and APEM know the chain, HoME knows the
groups, and the true probabilities score the ceiling.

A difference to LightGBM is the mean over the seeds; its error joins that of the test rows (DeLong for AUC, paired: both
answer the same rows) with that of the seeds. "ahead" and "behind" mean more than two errors, else nothing is claimed.
"""

from __future__ import annotations

import time
from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

import tabmtl
from benchmarks.harness import Record, print_sets, print_table, score_parser, spreads
from benchmarks.scores import Problem, outputs_of, real_problem
from tabmtl import IndependentTasks
from tabmtl.metrics.intervals import score_difference
from tabmtl.synth import make_funnel

FUNNEL = "funnel"
SETS = ("census_kdd", "rand_hie", "gss_abortion", "flights", FUNNEL)
REFERENCE = "IndependentTasks"
EXPERTS = ("MMoE", "PLE", "AdaTT", "STEM", "HoME", "APEM", "ESMM", "AITM")
MODELS = (REFERENCE, "SharedBottom", *EXPERTS)
#: Groups of tasks for HoME; the other sets are one group.
GROUPS = {
    "flights": {"disruption": ["cancelled", "dep_del15"], "times": ["arr_delay", "air_time"]},
    "rand_hie": {"any": ["any_spend", "any_inpatient", "any_mental"], "amount": ["log_spend", "mdvis"]},
    "gss_abortion": {"hard": ["abdefect", "abhlth", "abrape"], "choice": ["abany", "abnomore", "abpoor", "absingle"]},
    "census_kdd": {"money": ["income_50k"], "family": ["never_married"]},
}
CHAIN = ["click", "conversion"]
#: Impressions to train on, and on fresh ones to stop and to score.
FUNNEL_ROWS, FRESH_ROWS = 100_000, 50_000


def open_set(name: str, seed: int, folder: Path | None) -> tuple[Problem, dict[str, float]]:
    """Open a set (a real one does not depend on the seed), with the ceiling of its test scores if known."""
    if name != FUNNEL:
        options: dict[str, Any] = {"census_kdd": {"college_degree": False}, "flights": {"full": True}}.get(name, {})
        return real_problem(name, folder, **options), {}
    log = make_funnel(FUNNEL_ROWS, random_state=seed)
    watched, fresh = (log.draw(FRESH_ROWS, random_state=1000 * part + seed) for part in (1, 2))
    parts = {"train": (log.X, log.y), "val": (watched.X, watched.y), "test": (fresh.X, fresh.y)}
    return Problem(**parts, tasks=log.tasks), fresh.ceiling()


def make(model: str, name: str, problem: Problem, seed: int, epochs: int) -> Any:
    """Make a model with its defaults and the known facts about the tasks of a set."""
    if model == REFERENCE:
        return IndependentTasks(tasks=problem.tasks, tune="all", random_state=seed)
    known: dict[str, Any] = {}
    if name == FUNNEL and model in ("ESMM", "AITM", "APEM"):
        known["task_chain"] = CHAIN
    if model == "HoME":
        known["task_groups"] = GROUPS.get(name) or make_funnel(10, n_users=5, n_items=5, random_state=0).task_groups
    network: Callable[..., Any] = getattr(tabmtl, model)
    return network(tasks=problem.tasks, random_state=seed, epochs=epochs, **known)


def run_seed(name: str, models: Sequence[str], seed: int, args: Namespace) -> list[Record]:
    """Fit all models on one seed; one record a model and task."""
    problem, ceiling = open_set(name, seed, args.folder)
    X, y = problem.test
    records: list[Record] = []
    reference: dict[str, np.ndarray] = {}
    for model_name in (REFERENCE, *(model for model in models if model != REFERENCE)):
        start = time.process_time()
        model = problem.fit(make(model_name, name, problem, seed, args.epochs))
        seconds = time.process_time() - start
        scores, outputs = model.score_tasks(X, y), outputs_of(model, X)
        reference = reference or outputs
        for task in model.tasks_:
            labels = y[task.name].cast(pl.Float64).to_numpy()
            difference = score_difference(task, labels, outputs[task.name], reference[task.name])
            facts = {"set": name, "model": model_name, "seed": seed, "cpu_seconds": seconds, "task": task.name}
            facts |= {"score": scores[task.name], "difference": difference.score, "error": difference.standard_error}
            records.append(facts | {"ceiling": ceiling.get(task.name)})
        print(f"{name} seed {seed} {model_name}: {model.score(X, y):.4f} ({seconds:.0f} CPU s)", flush=True)
    return records


def runs(args: Namespace, name: str) -> Iterator[list[Record]]:
    """Return an iterator of the records of all seeds; ESMM and AITM run on a funnel only."""
    models = [model for model in args.models if name == FUNNEL or model not in ("ESMM", "AITM")]
    return (run_seed(name, models, seed, args) for seed in args.seeds)


def report(records: pl.DataFrame) -> None:
    """Print a set: per model its scores, and per task its difference to LightGBM with error and verdict."""
    means = records.group_by("model", "seed", maintain_order=True).agg(pl.col("score", "cpu_seconds").mean())
    columns = pl.concat([records, means.with_columns(task=pl.lit("mean"))], how="diagonal")
    scores, table = spreads(columns, "model", "task", "score"), {}
    for model, cells in scores.items():
        own = records.filter(model=model)
        table[model] = cells | {"CPU s": f"{own['cpu_seconds'].to_numpy().mean():.0f}"}
        if model != REFERENCE:
            tasks = own.group_by("task", maintain_order=True)
            table[f"{model} - {REFERENCE}"] = {str(task): compare(of_task) for (task,), of_task in tasks}
    known = records.drop_nulls("ceiling").group_by("task").agg(pl.col("ceiling").mean())
    if len(known):
        table["(ceiling)"] = {task: f"{ceiling:.4f}" for task, ceiling in known.iter_rows()}
    seeds = records["seed"].n_unique()
    print_table(f"{records['set'][0]}: test scores, mean ± standard deviation over {seeds} seeds", table)


def compare(own: pl.DataFrame) -> str:
    """Compare one model and task to the reference: difference, error over test rows and seeds, and verdict."""
    differences, errors = own["difference"].to_numpy(), own["error"].to_numpy()
    over_seeds = differences.var(ddof=1) / len(differences) if len(differences) > 1 else 0.0
    mean, error = differences.mean(), float(np.sqrt(np.mean(errors**2) + over_seeds))
    verdict = "=" if abs(mean) <= 2 * error else "ahead" if mean > 0 else "behind"
    return f"{mean:+.4f}({error:.4f}) {verdict}"


def main(argv: Sequence[str] | None = None) -> None:
    """Run the benchmark; the arguments are those of the command line."""
    parser = score_parser("experts", __doc__, sets=SETS, models=MODELS)
    parser.add_argument("--epochs", type=int, default=6, help="of the networks, at most (default: 6)")
    args = parser.parse_args(argv)
    print_sets(args.sets, partial(runs, args), report, args.output / "experts.csv", [])


if __name__ == "__main__":
    main()
