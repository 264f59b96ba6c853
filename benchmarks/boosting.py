"""The table of scores of R-MTGB against three ways to use plain LightGBM, on real tables.

Run it by ``python -m benchmarks.boosting``; ``--help`` lists the options. A seed redraws the split by
the recipe of the data folder (seed 0 gives the stored one). Every method has the same number of trials: the first is
its defaults, the others are drawn from one space, alike for all methods. The validation rows choose a trial and stop
all models; the chosen one is scored on the test rows once. Where there are more than 40 000 train rows, trials see a
fifth of them, and the chosen one is fitted again on all.

``trials.csv`` and ``scores.csv`` are written after every fit. A later call into the same folder adds its records, or
puts them in place of those of the same set, method and seed; the tables show all. Seconds are CPU seconds.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from sklearn.metrics import log_loss, mean_squared_error, r2_score, roc_auc_score

from benchmarks.peers.lightgbm import BASELINES, fit_baseline
from benchmarks.splits import Problem, open_problem
from tabmtl import RMTGB

SETS = ("school", "mathachieve", "star", "rand_hie", "flights", "census_kdd")
#: rmtgb_default is R-MTGB as it comes, without any search.
OURS = ("rmtgb", "rmtgb_default")
MANY_ROWS = 40_000
LEARNING_RATE, PATIENCE = 0.05, 30
#: First trial of the baselines, and what it is for one model per task of a long table, whose rows are few.
DEFAULTS = {"num_leaves": 31, "min_child_samples": 20, "reg_lambda": 0.0, "colsample_bytree": 0.8}
FEW_ROWS = {"num_leaves": 7, "min_child_samples": 5}

#: Name of a part to an array (n, T) of values or probabilities.
Predict = Callable[[str], np.ndarray]
Record = dict[str, Any]


def draw_settings(n: int, seed: int, cap: int) -> list[dict[str, Any]]:
    """Draw n settings; the first is empty and stands for the defaults of a method.

    Parameters
    ----------
    n : int
    seed : int
    cap : int
        Most trees of a model, and of a block of R-MTGB that is on.

    Returns
    -------
    list of dict
        Parameters by the names of R-MTGB; the baselines use those that they know.
    """
    rng = np.random.default_rng([seed, 1])

    def spread(low: float, high: float) -> float:
        return math.exp(rng.uniform(math.log(low), math.log(high)))

    drawn = [
        {
            "num_leaves": int(spread(4, 64)),
            "min_child_samples": int(spread(5, 101)),
            "reg_lambda": spread(1e-2, 100),
            "colsample_bytree": float(rng.uniform(0.5, 1)),
            "n_estimators_shared": int(rng.choice([0, cap])),
            "n_estimators_outlier": int(rng.choice([0, cap])),
            "n_estimators_task": cap,
        }
        for _ in range(n - 1)
    ]
    return [{}, *drawn]


def fit(
    method: str, problem: Problem, setting: dict[str, Any], seed: int, args: argparse.Namespace
) -> tuple[Predict, Record]:
    """Fit a method, and say what it cost: CPU seconds, and the most trees that one of its models has."""
    start = time.process_time()
    if method in OURS:
        return fit_rmtgb(problem, setting, seed, args), {"seconds": time.process_time() - start, "trees": None}
    few = method == "per_task" and problem.data.task_column is not None
    params = {
        **DEFAULTS,
        **(FEW_ROWS if few else {}),
        **{name: value for name, value in setting.items() if name in DEFAULTS},
        "learning_rate": LEARNING_RATE,
        "n_estimators": args.trees,
        "early_stopping_round": PATIENCE,
        "seed": seed,
        "num_threads": args.threads,
    }
    model = fit_baseline(method, problem.coded, params)
    trees = max(booster.current_iteration() for booster in model.boosters)
    spent = {"seconds": time.process_time() - start, "trees": trees}
    return lambda part: model.predict(problem.batch(part), args.threads), spent


def fit_rmtgb(problem: Problem, setting: dict[str, Any], seed: int, args: argparse.Namespace) -> Predict:
    """Fit R-MTGB on the frames; an empty setting leaves it all its defaults."""
    data = problem.data
    options = {**setting, "learning_rate": LEARNING_RATE, "patience": PATIENCE} if setting else {}
    model = RMTGB(tasks=data.tasks, task_column=data.task_column, n_jobs=args.threads, random_state=seed, **options)
    X_val, y_val = problem.frames["val"]
    model.fit(*problem.frames["train"], X_val=X_val, y_val=y_val)

    def predict(part: str) -> np.ndarray:
        X, _ = problem.frames[part]
        values = model.predict(X)
        if data.task_column:
            task = problem.batch(part).task
            answer = np.full((len(X), len(problem.names)), np.nan)
            answer[np.arange(len(X)), task] = values.to_numpy()
            return answer
        binary = [name for name, kind in data.tasks.items() if kind == "binary"]
        probabilities = model.predict_proba(X) if binary else {}
        return np.column_stack(
            [probabilities[name][:, 1] if name in binary else values[name].to_numpy() for name in problem.names]
        )

    return predict


def validation_error(problem: Problem, output: np.ndarray) -> float:
    """What a trial is chosen by.

    Long: RMSE over all rows. Wide: mean over the tasks of the loss (squared error, log loss) over that of the best
    constant of the train rows.
    """
    y = problem.labels("val")
    if problem.data.task_column:
        return math.sqrt(np.nanmean(np.square(y - output)))
    ratios = []
    for j, kind in enumerate(problem.coded.kinds):
        counted = ~np.isnan(y[:, j])
        constant = np.full(counted.sum(), np.nanmean(problem.labels("train")[:, j]))
        loss = log_loss if kind == "binary" else mean_squared_error
        ratios.append(loss(y[counted, j], output[counted, j]) / loss(y[counted, j], constant))
    return float(np.mean(ratios))


def score_test(problem: Problem, output: np.ndarray) -> tuple[float, dict[str, float]]:
    """Error of the test rows, and scores by name.

    Long: RMSE over all rows, and the mean of the tasks' RMSE. Wide: 1 - mean score, and the score of every task: ROC
    AUC or R².
    """
    y = problem.labels("test")
    if problem.data.task_column:
        squares = np.square(y - output)
        observed = ~np.isnan(squares).all(axis=0)
        per_task = np.sqrt(np.nanmean(squares[:, observed], axis=0))
        return math.sqrt(np.nanmean(squares)), {"mean task RMSE": float(per_task.mean())}
    scores = {}
    for j, (name, kind) in enumerate(zip(problem.names, problem.coded.kinds, strict=True)):
        counted = ~np.isnan(y[:, j])
        score = roc_auc_score if kind == "binary" else r2_score
        scores[name] = float(score(y[counted, j], output[counted, j]))
    return 1 - float(np.mean(list(scores.values()))), scores


def run(name: str, method: str, seed: int, args: argparse.Namespace, trials: list[Record]) -> list[Record]:
    """Search and score one method on one split.

    Parameters
    ----------
    name, method, seed, args
        Of the command line.
    trials : list of dict
        Gets a record after every trial, which is also written.

    Returns
    -------
    list of dict
        One record per score, and one of the name "error".
    """
    problem = open_problem(name, seed, args.folder)
    is_big = len(problem.coded.train) > MANY_ROWS
    searched = problem.thinned(seed) if is_big else problem
    settings = draw_settings(1 if method == "rmtgb_default" else args.trials, seed, args.trees)
    facts: Record = {"set": name, "method": method, "seed": seed}
    best, best_error, tuning = 0, math.inf, 0.0
    predict, cost = None, {}
    for trial, setting in enumerate(settings if len(settings) > 1 else []):
        tried, spent = fit(method, searched, setting, seed, args)
        error = validation_error(searched, tried("val"))
        tuning += spent["seconds"]
        trials.append({**facts, "trial": trial, **spent, "validation_error": error, **setting})
        write(trials, args.output / "trials.csv")
        if error < best_error:
            best, best_error, predict, cost = trial, error, tried, spent
    if is_big or predict is None:
        predict, cost = fit(method, problem, settings[best], seed, args)
    error, scores = score_test(problem, predict("test"))
    facts = {**facts, "trial": best, **cost, "tuning_seconds": tuning, "train_rows": len(problem.coded.train)}
    return [{**facts, "score": key, "value": value} for key, value in {**scores, "error": error}.items()]


def write(records: list[Record], path: Path) -> None:
    """Write records as CSV; a number that a record lacks is left empty."""
    pl.DataFrame(records, infer_schema_length=None).write_csv(path)


def read(path: Path) -> list[Record]:
    """Records of an earlier call, or none."""
    return pl.read_csv(path, infer_schema_length=None).to_dicts() if path.is_file() else []


def report(name: str, records: pl.DataFrame) -> None:
    """Print a set: scores and errors of all methods, and R-MTGB against the best baseline, seed by seed."""
    seeds = records["seed"].unique().sort().to_list()
    print(f"\n{name}: test rows, mean ± standard deviation over the seeds {seeds}")
    keys = records["score"].unique(maintain_order=True).to_list()
    columns: dict[str, list[str]] = {"": [*keys, "seconds", "tuning seconds"]}
    errors: dict[str, dict[int, float]] = {}
    for method in (method for method in (*BASELINES, *OURS) if method in records["method"]):
        own = records.filter(pl.col("method") == method)
        fits = own.filter(pl.col("score") == "error")
        errors[method] = dict(fits.select("seed", "value").iter_rows())
        cells = [_spread(own.filter(pl.col("score") == key)["value"].to_numpy()) for key in keys]
        columns[method] = [
            *cells,
            *(f"{np.mean(fits[column].to_numpy()):.1f}" for column in ("seconds", "tuning_seconds")),
        ]
    widths = [max(map(len, [title, *cells])) for title, cells in columns.items()]
    for row in ([*columns], *zip(*columns.values(), strict=True)):
        print("  ".join(map(str.rjust, row, widths)))
    for ours in (method for method in OURS if method in errors):
        for rival in (method for method in errors if method not in OURS):
            print(compare(ours, rival, errors))


def compare(ours: str, rival: str, errors: dict[str, dict[int, float]]) -> str:
    """Say how far the error of a method is from that of another, over the seeds that both have."""
    seeds = sorted(errors[ours].keys() & errors[rival].keys())
    if not seeds:
        return f"{ours} and {rival} have no seed in common"
    apart = np.array([errors[ours][seed] - errors[rival][seed] for seed in seeds])
    return f"error of {ours} - {rival}: {_spread(apart)}, lower in {(apart < 0).sum()} of {len(seeds)} seeds"


def _spread(values: np.ndarray) -> str:
    return f"{values.mean():.4f}" + (f" ± {values.std(ddof=1):.4f}" if len(values) > 1 else "")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the comparison; the arguments are those of the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.boosting", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--sets", nargs="+", choices=SETS, default=SETS, help="default: all")
    parser.add_argument("--methods", nargs="+", choices=(*BASELINES, *OURS), default=(*BASELINES, *OURS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2, 3, 4], help="default: 0 1 2 3 4")
    parser.add_argument("--trials", type=int, default=8, help="settings tried per method and seed (default: 8)")
    parser.add_argument("--trees", type=int, default=500, help="most trees of a model or block (default: 500)")
    parser.add_argument("--threads", type=int, default=1, help="of LightGBM (default: 1)")
    parser.add_argument("--folder", type=Path, help="the data folder; default $TABMTL_DATA")
    parser.add_argument("--output", type=Path, default=Path("benchmark_output"), help="default: ./benchmark_output")
    args = parser.parse_args(argv)
    args.output.mkdir(parents=True, exist_ok=True)
    trials, scores = read(args.output / "trials.csv"), read(args.output / "scores.csv")
    for name in args.sets:
        try:
            for method in args.methods:
                for seed in args.seeds:
                    key = (name, method, seed)
                    trials[:] = [record for record in trials if _key(record) != key]
                    fresh = run(*key, args, trials)
                    scores = [record for record in scores if _key(record) != key] + fresh
                    write(scores, args.output / "scores.csv")
                    last = fresh[-1]
                    spent = last["seconds"] + last["tuning_seconds"]
                    print(f"{name} {method} seed {seed}: error {last['value']:.4f}, {spent:.1f} s", flush=True)
        except FileNotFoundError as error:
            print(f"\nskipped: {error}")
            continue
        report(name, pl.DataFrame(scores, infer_schema_length=None).filter(pl.col("set") == name))
    return 0


def _key(record: Record) -> tuple[str, str, int]:
    return record["set"], record["method"], record["seed"]


if __name__ == "__main__":
    raise SystemExit(main())
