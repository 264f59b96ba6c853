"""What a fitted model is worth later: rows that come day by day, new tasks, and rows that drift.

Run it by ``python -m benchmarks.after``; ``--help`` lists the options. A part compares ways to go on; its table has the
measures of every way, and below them its differences to the first way of the same model, paired by seed, with half of
the 95 % interval by Student's t.

=======  ================================================================================================
flights  departures day by day. A model learns 60 days, and answers each of the next 60 before it sees its
         labels: as it was fitted, by ``partial_fit`` each day or each week, of `SharedTrees` also by their
         leaf values alone, or fitted on all days so far every 30, anew or, of networks, from the weights that
         it has. Scores are those of all 60 answered days at once, and CPU seconds those of going on. A seed
         draws the season and 60 flights a day. Month and day of the month are left out, which only name days
         that are over
task     a new task with 50, 300 and 1 000 labels, which models that have learned 3 000 rows of the others take
         by ``add_task``, or a model of it alone learns from the same rows. Scores are R² or ROC AUC
sessions click logs step by step. A recommender learns four steps, and answers 250 sessions of each of the next
         three before it sees them: as it was fitted, by ``partial_fit`` after each step, or fitted anew on all so
         far. A step is a week of every third basket of Complete Journey (simulated, says its owner), or
         1 500 sessions of Diginetica, most of a day; a seed takes other steps. The item table has what was sold
         so far. Scores are means of the steps, CPU seconds those of going on
drift    how often equal rows are called drifted: 40 draws of new rows from a table in random order, a seed,
         of 100, 1 000 and 10 000 rows, by a fit of 5 000. Shares of the draws in which any column, or any
         prediction, differs beyond chance (5 %), and in which any line is called drifted, where it must
         differ by .1 too. Models without rows set aside keep answers to learned rows, which are not judged
hits     how often it is told which of 5 or 50 columns of generated numbers has moved: 100 draws of new rows, a seed, of
         which the first column is shifted, wider, or partly missing, and the shares of draws in which that column is
         called drifted, and in which another one is
shifts   labels that have all moved: trees learn 800 generated rows of one number, and go on by 400 whose labels are
         higher by .25 to 6 standard deviations. The move of the mean answer, as a share of the shift
=======  ================================================================================================
"""

from __future__ import annotations

import time
from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from functools import partial
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

import tabmtl
from benchmarks.after_drift import drift, hits
from benchmarks.after_sessions import sessions
from benchmarks.after_shifts import shifts
from benchmarks.after_task import task
from benchmarks.datasets import load
from benchmarks.harness import Record, paired, print_sets, print_table, score_parser, spreads
from benchmarks.problems import answers_of, score_answers

#: Model, way, measure, value.
Found = Iterator[tuple[str, str, str, float]]
#: A day, or several: features, targets, and the day of every row.
Rows = tuple[pl.DataFrame, pl.DataFrame, np.ndarray]
#: What a model does when another day is over: given itself, the days so far, and how many of them it has answered.
Step = Callable[[Any, Sequence[Rows], int], Any]

NETWORKS = ("SharedBottom", "MMoE")
MODELS = (*NETWORKS, "SharedTrees", "IndependentTasks")


@dataclass(frozen=True)
class Way:
    """How models go on: a step, their parameters by then, and which of them take this way."""

    step: Step
    params: dict[str, Any] = field(default_factory=dict)
    models: tuple[str, ...] = MODELS


#: Days to learn before the first answer, days to answer, and days from the start of a season to that of the next.
FIRST, ANSWERED, SEASON = 60, 60, 100
FLIGHTS_A_DAY, WEEK, MONTH = 60, 7, 30
OVER = ("month", "day")
SECONDS = "CPU s"


def joined(days: Sequence[Rows]) -> Rows:
    """Return several days as one."""
    X, y, day = zip(*days, strict=True)
    return pl.concat(X), pl.concat(y), np.concatenate(day)


def learned(model: Any, days: Sequence[Rows]) -> Any:
    """Fit a model; of a day, all rows are set aside, or none."""
    X, y, day = joined(days)
    return model.fit(X, y, groups=day)


def _gone_on(every: int) -> Step:
    def step(model: Any, days: Sequence[Rows], n_answered: int) -> Any:
        return model if n_answered % every else model.partial_fit(*joined(days[-every:])[:2])

    return step


def _monthly(model: Any, days: Sequence[Rows], n_answered: int) -> Any:
    return model if n_answered % MONTH else learned(model, days)


WAYS = {
    "as fitted": Way(lambda model, *_: model),
    "partial_fit each day": Way(_gone_on(1)),
    "partial_fit each week": Way(_gone_on(WEEK)),
    "warm start each month": Way(_monthly, {"warm_start": True}, NETWORKS),
    "fitted anew each month": Way(_monthly),
}


def followed(model: Any, days: Sequence[Rows], step: Step) -> tuple[dict[str, np.ndarray], float]:
    """Answer the days after the first ones, each before its labels are seen: answers by task, and CPU s in between."""
    answers, seconds = [answers_of(model, days[FIRST][0])], 0.0
    for today in range(FIRST + 1, len(days)):
        start = time.process_time()
        model = step(model, days[:today], today - FIRST)
        seconds += time.process_time() - start
        answers.append(answers_of(model, days[today][0]))
    return {task: np.concatenate([own[task] for own in answers]) for task in answers[0]}, seconds


def open_days(folder: Path | None, seed: int) -> tuple[list[Rows], dict[str, str]]:
    """Read the days of a season, and the kinds of the targets."""
    data, first = load("flights", folder, full=True), SEASON * seed % (365 - FIRST - ANSWERED)
    X, y, table = pl.collect_all([data.features.drop(OVER), data.targets, data.table.select("yday")])
    rng, days = np.random.default_rng(seed), []
    for number in range(first + 1, first + 1 + FIRST + ANSWERED):
        rows = np.flatnonzero(table["yday"] == number)
        rows = np.sort(rng.permutation(rows)[:FLIGHTS_A_DAY])
        days.append((X[rows], y[rows], np.full(len(rows), number)))
    return days, data.tasks


def flights(folder: Path | None, seed: int) -> Found:
    """Yield scores and CPU seconds of every model and way."""
    days, tasks = open_days(folder, seed)
    labels = joined(days[FIRST:])[1]
    for name in MODELS:
        start = time.process_time()
        model = learned(getattr(tabmtl, name)(tasks=tasks, random_state=seed), days[:FIRST])
        yield name, next(iter(WAYS)), "CPU s of fit", time.process_time() - start
        for way, own in WAYS.items():
            if name not in own.models:
                continue
            answers, seconds = followed(deepcopy(model).set_params(**own.params), days, own.step)
            for target, score in score_answers(tasks, labels, answers).items():
                yield name, way, target, score
            yield name, way, SECONDS, seconds


PARTS: dict[str, Callable[[Path | None, int], Found]] = {
    each.__name__: each for each in (flights, task, sessions, drift, hits, shifts)
}


def runs(args: Namespace, name: str) -> Iterator[list[Record]]:
    """Yield the records of every model and seed of a part."""
    for seed in args.seeds:
        for _, own in groupby(PARTS[name](args.folder, seed), itemgetter(0)):
            facts = (
                {"model": model, "way": way, "measure": measure, "value": value} for model, way, measure, value in own
            )
            yield [{"set": name, "seed": seed, **each} for each in facts]


def report(records: pl.DataFrame) -> None:
    """Print the measures of every way, and its differences to the first way of the same model."""
    rows = records.with_columns(row=pl.format("{}: {}", "model", "way"))
    table = spreads(rows, "row", "measure", "value")
    for (_,), own in rows.group_by("model", maintain_order=True):
        first, *others = own["way"].unique(maintain_order=True)
        for way in others:
            both = own.filter(way=way).join(own.filter(way=first), on=["seed", "measure"], maintain_order="left")
            apart = both.group_by("measure", maintain_order=True).agg(pl.col("value") - pl.col("value_right"))
            cells = {measure: paired(each) for measure, each in apart.iter_rows()}
            table[f"{both['row'][0]} - {first}"] = cells
    seeds = records["seed"].unique().sort().to_list()
    print_table(f"{records['set'][0]}: mean ± standard deviation over the seeds {seeds}", table)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the benchmark; the arguments are those of the command line."""
    parser = score_parser("after", __doc__, only=tuple(PARTS))
    args = parser.parse_args(argv)
    print_sets(args.only, partial(runs, args), report, args.output / "after.csv", [])


if __name__ == "__main__":
    main()
