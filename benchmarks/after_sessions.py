"""Recommenders that go on with a click log, step by step: the part ``sessions`` of `benchmarks.after`."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from benchmarks.datasets import ClickLog, load_sessions
from tabmtl.sessions import STAN, M2TRec, SequentialRules

SETS = ("complete_journey", "diginetica")
#: Steps to learn before the first answer, and steps to answer.
FIRST, ANSWERED = 4, 3
#: Days of a step where there are times, of which every third basket is taken; where there is an order only, sessions of
#: a step, most of a day of them.
WEEK, THIRD, DAY = 7, 3, 1_500
#: Sessions that are answered in a step, spread over it.
JUDGED = 250
K = 20

Way = Callable[[Any, Sequence[pl.DataFrame], Callable[[Sequence[pl.DataFrame]], pl.DataFrame]], Any]


def open_steps(name: str, folder: Path | None, seed: int) -> tuple[ClickLog, list[pl.DataFrame]]:
    """Read the steps of a log; a seed begins where the one before it ends."""
    n = FIRST + ANSWERED
    if name == "complete_journey":
        data = load_sessions(name, folder, train_days=330, test_days=28)
        clicks = data.clicks.drop("split").filter(pl.col("session_id").rle_id() % THIRD == 0)
        begin = pl.lit(clicks["time"].min()) + timedelta(days=WEEK * n * seed)
        step = ((pl.col("time") - begin).dt.total_days() // WEEK).alias("step")
    else:
        data = load_sessions(name, folder)
        clicks = data.clicks.drop("split")
        step = (pl.col("session_id").rle_id().cast(pl.Int64) - DAY * n * seed) // DAY
    numbered = clicks.with_columns(step=step)
    return data, [numbered.filter(step=number).drop("step") for number in range(n)]


def listed_in(items: pl.DataFrame) -> Callable[[Sequence[pl.DataFrame]], pl.DataFrame]:
    """Return the function of steps to the rows of their items: a shop lists what it has sold so far."""
    return lambda steps: items.join(pl.concat(steps).select("item_id").unique(), on="item_id", how="semi")


WAYS: dict[str, Way] = {
    "as fitted": lambda model, *_: model,
    "partial_fit each step": lambda model, steps, listed: model.partial_fit(steps[-1], items=listed(steps)),
    "fitted anew each step": lambda model, steps, listed: model.fit(pl.concat(steps), items=listed(steps)),
}


def some_sessions(step: pl.DataFrame) -> pl.DataFrame:
    """Take at most 250 sessions of a step, evenly spread."""
    names = step["session_id"].unique(maintain_order=True)
    chosen = np.linspace(0, len(names) - 1, min(len(names), JUDGED)).astype(np.int64)
    return step.filter(pl.col("session_id").is_in(names.gather(chosen).implode()))


def sessions(folder: Path | None, seed: int) -> Iterator[tuple[str, str, str, float]]:
    """Yield the mean scores of the steps, and CPU seconds, of every recommender and way."""
    for name in SETS:
        data, steps = open_steps(name, folder, seed)
        listed, columns = listed_in(data.items), dict[str, Any](data.columns)
        models = [SequentialRules(**columns), STAN(**columns)]
        models.append(M2TRec(categories=data.categories[:1], random_state=seed, n_jobs=1, **columns))
        for plain in models:
            label, start = f"{type(plain).__name__}, {name}", time.process_time()
            fitted = plain.fit(pl.concat(steps[:FIRST]), items=listed(steps[:FIRST]))
            yield label, next(iter(WAYS)), "CPU s of fit", time.process_time() - start
            for way, go_on in WAYS.items():
                model, seconds, found = deepcopy(fitted), 0.0, []
                for today in range(FIRST, len(steps)):
                    if today > FIRST:
                        start = time.process_time()
                        model = go_on(model, steps[:today], listed)
                        seconds += time.process_time() - start
                    ranking = model.rank(some_sessions(steps[today]), k=K)
                    found.append((ranking.mrr(K), ranking.recall(K)))
                mrr, recall = np.mean(found, axis=0)
                yield label, way, f"MRR@{K}", float(mrr)
                yield label, way, f"hit rate@{K}", float(recall)
                yield label, way, "CPU s", seconds
