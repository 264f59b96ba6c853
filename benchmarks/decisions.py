"""Decisions, intervals, scores by user and splits by time on real tables: what each is worth.

Run it by ``python -m benchmarks.decisions``; ``--help`` lists the options. A seed draws the rows to fit, to decide by
and to test, whole days or households on one side. Every model has its defaults. Each set asks one thing:

=================  ==================================================================================================
cancelled          cost of 1 000 flights of other days, where a cancelled flight that nobody foresaw costs 20 times a
                   false alarm: by the more probable class, at the threshold of the costs' ratio, at that tuned on
                   other days, and this after a sigmoid calibration
income             F1 of incomes above 50 000 in the census: by the more probable class, and at the tuned threshold
arr_delay          delays of flights of other days at level 0.9: coverage, mean width, and the interval score
                   (Gneiting and Raftery, JASA 102, 2007; lower is better) of conformal intervals, of conformalized
                   quantiles, and of the quantiles as they are
funnel             GAUC by user, NDCG@10 and the AUC of conversions given a click on generated impressions
complete_journey   GAUC by household of five departments of the next basket, by its last purchases
rf1                RMSE of river levels 48 hours ahead on the newest fifth of the hours, where rows set aside are drawn
                   at random, by weeks, or are the newest, beside the forecast "as now"
=================  ==================================================================================================

Where MAPIE is installed (``pip install mapie``), it makes intervals of the same answers in the same run, and the
largest difference of a bound is printed. Three draws prove little.
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from sklearn.metrics import f1_score

import tabmtl
from benchmarks.columns import open_journey
from benchmarks.datasets import load
from benchmarks.harness import Record, print_sets, print_table, score_parser, spreads
from benchmarks.splits import time_blocks, units_of
from tabmtl.metrics.scores import mean_score
from tabmtl.synth import make_funnel

MODELS = ("SharedTrees", "IndependentTasks", "SharedBottom")
#: Rows to fit, to decide by, and to test.
ROWS = (6_000, 4_000, 8_000)
#: What a cancelled flight costs that nobody foresaw, in false alarms.
MISSED = 20.0
LEVEL = 0.9
LEVELS = "quantiles:0.05:0.25:0.5:0.75:0.95"
#: A row of rf1 is an hour; its features reach 60 hours back, and its targets 48 ahead.
GAP, WEEK, RIVER_ROWS = 108, 168, 3_000
AS_NOW, AHEAD = "as now", "_48H"

Part = tuple[pl.DataFrame, pl.DataFrame]
Found = Iterator[tuple[str, str, float]]


def parts_of(X: pl.DataFrame, y: pl.DataFrame, unit: np.ndarray, seed: int) -> list[Part]:
    """Draw the three parts of a table; of a unit, all rows are in one."""
    rng, unit = np.random.default_rng([seed, 35]), np.unique(unit, return_inverse=True)[1]
    share = rng.permutation(unit.max() + 1)[unit] / (unit.max() + 1)
    bounds = np.cumsum([0, *ROWS]) / sum(ROWS)
    parts = []
    for k, most in enumerate(ROWS):
        rows = rng.permutation(np.flatnonzero((share >= bounds[k]) & (share < bounds[k + 1])))[:most]
        parts.append((X[np.sort(rows)], y[np.sort(rows)]))
    return parts


def dataset(name: str, folder: Path | None, seed: int) -> tuple[list[Part], dict[str, Any]]:
    """Return the parts of a set, and the kinds of its targets."""
    data = load(name, folder, full=True)
    X, y = pl.collect_all([data.features, data.targets])
    y = y.with_columns(pl.col(pl.Float32).cast(pl.Float64))  # whose rounding MAPIE refuses
    return parts_of(X, y, units_of(data), seed), dict(data.tasks)


def cancelled(make: Callable[..., Any], folder: Path | None, seed: int) -> Found:
    """Yield what cancelled flights cost."""
    (fit, known, new), tasks = dataset("flights", folder, seed)
    model = make(tasks={name: tasks[name] for name in ("cancelled", "dep_del15")}, random_state=seed)
    model.fit(fit[0], fit[1].select("cancelled", "dep_del15"))
    label = new[1]["cancelled"].to_numpy()
    costs = {(1, 0): MISSED, (0, 1): 1.0}

    def at_ratio(model: Any) -> np.ndarray:
        return model.predict_proba(new[0])["cancelled"][:, 1] >= 1 / (1 + MISSED)

    def cost(found: np.ndarray) -> float:
        return float(1_000 * np.where(label == 1, MISSED * (found == 0), found == 1).mean())

    yield "nothing is foreseen", "cost", cost(np.zeros(len(label)))
    yield "more probable class", "cost", cost(model.predict(new[0])["cancelled"].to_numpy())
    yield "ratio of costs", "cost", cost(at_ratio(model))
    answers = known[0], known[1].select("cancelled", "dep_del15")
    for name in ("", "calibrated, "):
        if name:
            model.calibrate(*answers)
            yield f"{name}ratio of costs", "cost", cost(at_ratio(model))
        tuned = deepcopy(model).tune_thresholds(*answers, costs={"cancelled": costs})
        yield f"{name}tuned", "cost", cost(tuned.predict(new[0])["cancelled"].to_numpy())


def income(make: Callable[..., Any], folder: Path | None, seed: int) -> Found:
    """Yield F1 of high incomes."""
    (fit, known, new), tasks = dataset("census_kdd", folder, seed)
    model = make(tasks=tasks, random_state=seed).fit(*fit)
    label = new[1]["income_50k"]
    yield "more probable class", "F1", float(f1_score(label, model.predict(new[0])["income_50k"]))
    model.tune_thresholds(*known, metric={"income_50k": "f1"})
    yield "tuned", "F1", float(f1_score(label, model.predict(new[0])["income_50k"]))
    yield "tuned", "threshold", float(model.thresholds_["threshold"][0])


def arr_delay(make: Callable[..., Any], folder: Path | None, seed: int) -> Found:
    """Yield how often, and how closely, intervals hold delays."""
    parts, _ = dataset("flights", folder, seed)
    fit, known, new = ((X, y.select("arr_delay")) for X, y in parts)
    labelled = new[1]["arr_delay"].is_not_null()
    y = new[1]["arr_delay"].drop_nulls().to_numpy()
    rows = new[0].filter(labelled)
    for kind, name in (("regression", "conformal"), (LEVELS, "conformalized quantiles")):
        model = make(tasks={"arr_delay": kind}, random_state=seed).fit(*fit).conformalize(*known)
        found = model.predict_interval(rows, level=LEVEL)
        yield from _judged(name, y, found["arr_delay_low"].to_numpy(), found["arr_delay_high"].to_numpy())
        if kind == LEVELS:
            quantiles = model.predict_quantiles(rows)
            yield from _judged("quantiles as they are", y, *quantiles[:, [0, -1]].to_numpy().T)
        elif find_spec("mapie"):
            bounds = mapie_bounds(model, *known, rows)
            apart = np.abs(bounds - found.to_numpy()).max()
            yield "conformal", "MAPIE apart", float(apart)


def _judged(name: str, y: np.ndarray, low: np.ndarray, high: np.ndarray) -> Found:
    below, above = np.maximum(low - y, 0), np.maximum(y - high, 0)
    yield name, "coverage", float(((low <= y) & (y <= high)).mean())
    yield name, "mean width", float((high - low).mean())
    yield name, "interval score", float((high - low + 2 / (1 - LEVEL) * (below + above)).mean())


def mapie_bounds(model: Any, X: pl.DataFrame, y: pl.DataFrame, rows: pl.DataFrame) -> np.ndarray:
    """Return the bounds (n, 2) that MAPIE makes of the answers of a fitted model."""
    from mapie.regression import SplitConformalRegressor
    from sklearn.base import BaseEstimator, RegressorMixin

    class Answers(RegressorMixin, BaseEstimator):
        """Answers as a column of features."""

        def fit(self, X: Any, y: Any) -> Any:
            self.fitted_ = True
            return self

        def predict(self, X: Any) -> Any:
            return X[:, 0]

    labelled = y["arr_delay"].is_not_null()
    known = model.predict(X.filter(labelled)).to_numpy()
    outer = SplitConformalRegressor(Answers().fit(None, None), confidence_level=LEVEL, prefit=True)
    outer.conformalize(known, y["arr_delay"].drop_nulls().to_numpy())
    _, bounds = outer.predict_interval(model.predict(rows).to_numpy())
    return np.asarray(bounds)[:, :, 0]


def funnel(make: Callable[..., Any], folder: Path | None, seed: int) -> Found:
    """Yield scores by user of generated impressions."""
    log = make_funnel(60_000, n_users=3_000, n_items=500, click_rate=0.2, conversion_rate=0.04, random_state=seed)
    steps = log.y.select("click", "conversion")
    fit, new = slice(0, 40_000), slice(40_000, None)
    model = make(tasks=dict.fromkeys(steps.columns, "binary"), random_state=seed).fit(log.X[fit], steps[fit])
    by_metric = model.score_tasks(log.X[new], steps[new], groups="user").by_metric
    for task in steps.columns:
        for metric in ("roc_auc", "gauc", "ndcg@10"):
            yield task, metric, float(by_metric[task][metric])
    given = model.score_tasks(log.X[new], steps[new], given="click")
    yield "conversion given a click", "roc_auc", float(given["conversion|click"])


def complete_journey(make: Callable[..., Any], folder: Path | None, seed: int) -> Found:
    """Yield scores by household."""
    table = open_journey(folder)
    table = replace(table, X=table.X.with_columns(household=pl.Series(table.unit)))
    case = table.case(seed)
    columns = table.declared(case.train[0].columns) | {"household": "ignore"}
    model = make(tasks=case.tasks, random_state=seed, columns=columns).fit(*case.train, groups="household")
    for metric in ("roc_auc", "gauc", "ndcg@10"):
        scores = model.score_tasks(*case.test, groups="household", metric=metric)
        yield "mean of five departments", metric, mean_score(scores)


def rf1(make: Callable[..., Any], folder: Path | None, seed: int) -> Found:
    """Yield errors on the newest hours, by how rows to validate on were set aside."""
    data = load("rf1", folder)
    X, y = pl.collect_all([data.features, data.targets])
    older, newest = time_blocks(len(X), 5, GAP)[-1]
    kept = np.sort(np.random.default_rng([seed, 35]).permutation(older)[:RIVER_ROWS])
    truth = y[newest].to_numpy()

    def error(answers: np.ndarray) -> float:
        return float(np.sqrt(np.nanmean(np.square(truth - answers))))

    now = X[newest].select(name.replace(AHEAD, "") for name in y.columns).to_numpy()
    yield AS_NOW, "RMSE", error(now)
    for name, options in (("at random", {}), ("by weeks", {"groups": kept // WEEK}), ("the newest", {"time": kept})):
        model = make(tasks=data.tasks, random_state=seed).fit(X[kept], y[kept], **options)
        yield name, "RMSE", error(model.predict(X[newest]).to_numpy())


SETS: dict[str, Callable[..., Found]] = {
    each.__name__: each for each in (cancelled, income, arr_delay, funnel, complete_journey, rf1)
}


def runs(args: Namespace, name: str) -> Iterator[list[Record]]:
    """Yield the records of every model on a set."""
    for seed in args.seeds:
        for model in args.models:
            make = getattr(tabmtl, model)
            found = SETS[name](make, args.folder, seed)
            yield [
                {"set": name, "model": model, "seed": seed, "what": what, "measure": measure, "value": value}
                for what, measure, value in found
            ]


def report(records: pl.DataFrame) -> None:
    """Print the mean and the spread of every measure."""
    rows = records.with_columns(row=pl.format("{}: {}", "model", "what"))
    seeds = records["seed"].unique().sort().to_list()
    print_table(f"{records['set'][0]}; over the seeds {seeds}", spreads(rows, "row", "measure", "value"))


def main(argv: Sequence[str] | None = None) -> None:
    """Run the benchmark; the arguments are those of the command line."""
    parser = score_parser("decisions", __doc__, sets=tuple(SETS), models=MODELS)
    args = parser.parse_args(argv)
    print_sets(args.sets, partial(runs, args), report, args.output / "decisions.csv", [])


if __name__ == "__main__":
    main()
