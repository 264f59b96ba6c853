"""The table of scores of R-MTGB against three ways to use plain LightGBM, and other references, on real tables.

Run it by ``python -m benchmarks.boosting``; ``--help`` lists the options. A seed redraws the split by
the recipe of the data folder (seed 0 gives the stored one). Every method has the same number of trials: the first is
its defaults, the others are drawn from one space, alike for all methods. The validation rows choose a trial and stop
all models; the chosen one is scored on the test rows once. Where there are more than 40 000 train rows, trials see a
fifth of them, and the chosen one is fitted again on all.

Two methods have no trials: "rmtgb_default", and "independent", which is `IndependentTasks` at the best of its own four
configurations.

``boosting.csv`` is written after every method. Seconds are CPU seconds.
"""

from __future__ import annotations

import math
import time
from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import product
from typing import Any

import numpy as np
import polars as pl
from sklearn.metrics import log_loss, mean_squared_error, r2_score, roc_auc_score

from benchmarks.harness import Record, print_sets, print_table, score_parser, spread, spreads
from benchmarks.peers.lightgbm import BASELINES, fit_baseline
from benchmarks.problems import answers_of
from benchmarks.splits import Split, open_split
from tabmtl import RMTGB, IndependentTasks

SETS = ("school", "mathachieve", "star", "rand_hie", "flights", "census_kdd")
#: rmtgb_default is R-MTGB as it comes, without any search.
OURS = ("rmtgb", "rmtgb_default")
REFERENCE = "independent"
SEARCHED = (*BASELINES, "rmtgb")
RIVALS = (*BASELINES, REFERENCE)
MANY_ROWS = 40_000
LEARNING_RATE, PATIENCE = 0.05, 30
#: First trial of the baselines, and that of one model per task of a long table, with few rows each.
DEFAULTS = {"num_leaves": 31, "min_child_samples": 20, "reg_lambda": 0.0, "colsample_bytree": 0.8}
FEW_ROWS = {"num_leaves": 7, "min_child_samples": 5}

#: Name of a part to an array (n, T) of values or probabilities.
Predict = Callable[[str], np.ndarray]


def draw_settings(n: int, seed: int, cap: int) -> list[dict[str, Any]]:
    """Draw n settings by the names of R-MTGB; the first is empty and stands for the defaults of a method.

    ``cap`` is the most trees of a model, and of a block of R-MTGB that is on. The baselines use the names that they
    know.
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


def fit(method: str, split: Split, setting: dict[str, Any], seed: int, args: Namespace) -> tuple[Predict, Record]:
    """Fit a method, and return it with its cost: CPU seconds, and the most trees of any of its models."""
    start = time.process_time()
    if method not in BASELINES:
        predict = fit_ours(method, split, setting, seed, args)
        return predict, {"seconds": time.process_time() - start, "trees": None}
    few = method == "per_task" and split.data.task_column is not None
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
    model = fit_baseline(method, split.coded, params)
    trees = max(booster.current_iteration() for booster in model.boosters)
    spent = {"seconds": time.process_time() - start, "trees": trees}
    return lambda part: model.predict(split.batch(part), args.threads), spent


def fit_ours(method: str, split: Split, setting: dict[str, Any], seed: int, args: Namespace) -> Predict:
    """Fit R-MTGB or the independent tasks on the frames; an empty setting leaves R-MTGB all its defaults."""
    data = split.data
    known = {"tasks": data.tasks, "task_column": data.task_column, "n_jobs": args.threads, "random_state": seed}
    options = {**setting, "learning_rate": LEARNING_RATE, "patience": PATIENCE} if setting else {}
    model = (
        IndependentTasks(tune="all", families=("lightgbm",), **known)
        if method == REFERENCE
        else RMTGB(**known, **options)
    )
    X_val, y_val = split.frames["val"]
    model.fit(*split.frames["train"], X_val=X_val, y_val=y_val)

    def predict(part: str) -> np.ndarray:
        X, _ = split.frames[part]
        if data.task_column:
            task = split.batch(part).task
            answer = np.full((len(X), len(split.names)), np.nan)
            answer[np.arange(len(X)), task] = model.predict(X).to_numpy()
            return answer
        outputs = answers_of(model, X)
        return np.column_stack([outputs[name] for name in split.names])

    return predict


def validation_error(split: Split, output: np.ndarray) -> float:
    """Compute the error that a trial is chosen by.

    Long: RMSE over all rows. Wide: mean over the tasks of the loss (squared error, log loss) over that of the best
    constant of the train rows.
    """
    y = split.labels("val")
    if split.data.task_column:
        return math.sqrt(np.nanmean(np.square(y - output)))
    ratios = []
    for j, kind in enumerate(split.coded.kinds):
        counted = ~np.isnan(y[:, j])
        constant = np.full(counted.sum(), np.nanmean(split.labels("train")[:, j]))
        loss = log_loss if kind == "binary" else mean_squared_error
        ratios.append(loss(y[counted, j], output[counted, j]) / loss(y[counted, j], constant))
    return float(np.mean(ratios))


def score_test(split: Split, output: np.ndarray) -> tuple[float, dict[str, float]]:
    """Return the error of the test rows, and scores by name.

    Long: RMSE over all rows, and the mean of the tasks' RMSE. Wide: 1 - mean score, and the score of every task: ROC
    AUC or R².
    """
    y = split.labels("test")
    if split.data.task_column:
        squares = np.square(y - output)
        observed = ~np.isnan(squares).all(axis=0)
        per_task = np.sqrt(np.nanmean(squares[:, observed], axis=0))
        return math.sqrt(np.nanmean(squares)), {"mean task RMSE": float(per_task.mean())}
    scores = {}
    for j, (name, kind) in enumerate(zip(split.names, split.coded.kinds, strict=True)):
        counted = ~np.isnan(y[:, j])
        score = roc_auc_score if kind == "binary" else r2_score
        scores[name] = float(score(y[counted, j], output[counted, j]))
    return 1 - float(np.mean(list(scores.values()))), scores


def run(name: str, method: str, seed: int, args: Namespace) -> list[Record]:
    """Search and score one method on one split: return a record per score, and one named "error"."""
    split = open_split(name, seed, args.folder)
    is_big = len(split.coded.train) > MANY_ROWS
    searched = split.thinned(seed) if is_big else split
    settings = draw_settings(args.trials if method in SEARCHED else 1, seed, args.trees)
    facts: Record = {"set": name, "method": method, "seed": seed}
    best, best_error, tuning = 0, math.inf, 0.0
    predict, cost = None, {}
    for trial, setting in enumerate(settings if len(settings) > 1 else []):
        tried, spent = fit(method, searched, setting, seed, args)
        error = validation_error(searched, tried("val"))
        tuning += spent["seconds"]
        if error < best_error:
            best, best_error, predict, cost = trial, error, tried, spent
    if is_big or predict is None:
        predict, cost = fit(method, split, settings[best], seed, args)
    error, scores = score_test(split, predict("test"))
    print(f"{name} {method} seed {seed}: error {error:.4f}, {cost['seconds'] + tuning:.1f} s", flush=True)
    facts = {**facts, "trial": best, **cost, "tuning_seconds": tuning, "train_rows": len(split.coded.train)}
    return [{**facts, "score": key, "value": value} for key, value in {**scores, "error": error}.items()]


def runs(args: Namespace, name: str) -> Iterator[list[Record]]:
    """Yield records of all methods and seeds."""
    return (run(name, method, seed, args) for method, seed in product(args.methods, args.seeds))


def report(records: pl.DataFrame) -> None:
    """Print a set: scores and errors of all methods, and R-MTGB against the baselines, seed by seed."""
    known = [method for method in (*RIVALS, *OURS) if method in records["method"]]
    by_method = pl.concat([records.filter(method=method) for method in known])
    table = spreads(by_method, "score", "method", "value")
    fits = by_method.filter(score="error")
    for column in ("seconds", "tuning_seconds"):
        means = fits.group_by("method", maintain_order=True).agg(pl.col(column).mean())
        table[column.replace("_", " ")] = {method: f"{mean:.1f}" for method, mean in means.iter_rows()}
    seeds = records["seed"].unique().sort().to_list()
    print_table(f"{records['set'][0]}: test rows, mean ± standard deviation over the seeds {seeds}", table)
    errors = {method: dict(fits.filter(method=method).select("seed", "value").iter_rows()) for method in known}
    for ours, rival in product(OURS, RIVALS):
        if {ours, rival} <= errors.keys():
            print(compare(ours, rival, errors))


def compare(ours: str, rival: str, errors: dict[str, dict[int, float]]) -> str:
    """Describe the error of a method relative to another, over the seeds that both have."""
    seeds = sorted(errors[ours].keys() & errors[rival].keys())
    if not seeds:
        return f"{ours} and {rival} have no seed in common"
    apart = np.array([errors[ours][seed] - errors[rival][seed] for seed in seeds])
    return f"error of {ours} - {rival}: {spread(apart)}, lower in {(apart < 0).sum()} of {len(seeds)} seeds"


def main(argv: Sequence[str] | None = None) -> None:
    """Run the comparison; the arguments are those of the command line."""
    parser = score_parser("boosting", __doc__, seeds=range(5), sets=SETS, methods=(*RIVALS, *OURS))
    parser.add_argument("--trials", type=int, default=8, help="settings tried per method and seed (default: 8)")
    parser.add_argument("--trees", type=int, default=500, help="most trees of a model or block (default: 500)")
    parser.add_argument("--threads", type=int, default=1, help="of LightGBM (default: 1)")
    args = parser.parse_args(argv)
    print_sets(args.sets, partial(runs, args), report, args.output / "boosting.csv", [])


if __name__ == "__main__":
    main()
