"""What `benchmarks.stored_answers` stores of verbs: what a fitted model of every family does after its fit.

A case is a family and a verb: rows go on, tasks come and go, decisions are learned, rows drift, some tasks or one row
are asked, files are written and read. Of a fit it keeps the history, the weights and all that a file holds, and it
reads dates, lists and histories.
"""

from __future__ import annotations

import datetime
import warnings
from collections.abc import Callable, Iterator
from copy import deepcopy
from functools import cache, partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import polars as pl

import tabmtl
from tabmtl.schema import TabmtlWarning
from tabmtl.testing import answers, features, mixed_targets

Arrays = dict[str, np.ndarray]
#: One of each family.
FAMILIES = ("MMoE", "SharedTrees", "RMTGB", "IndependentTasks", "MultiTaskEnsemble")
_ROWS = 400


def frame_arrays(frame: pl.DataFrame) -> list[np.ndarray]:
    """Return the columns of a frame as numbers or text."""
    return [
        column.to_numpy().astype(float) if column.dtype.is_numeric() else column.cast(pl.String).to_numpy().astype(str)
        for column in frame
    ]


def numbered(arrays: list[np.ndarray]) -> Arrays:
    """Name arrays by their position; labels are text."""
    return {f"{i}": a.astype(str) if a.dtype == object else a for i, a in enumerate(arrays)}


@cache
def fitted(name: str, make: Callable[..., Any]) -> Any:
    """Fit a wide table; the model is not to be changed."""
    X = features(_ROWS)
    return make(name).fit(X, mixed_targets(X))


def new_rows() -> tuple[pl.DataFrame, pl.DataFrame]:
    """Return rows that no fit has seen, with labels."""
    X = features(200, seed=1)
    return X, mixed_targets(X, seed=1)


def went_on(model: Any) -> Any:
    """Go on with new rows, twice."""
    X, y = new_rows()
    return model.partial_fit(X, y).partial_fit(X[:50], y[:50])


def grew(model: Any) -> Any:
    """Add a task, and remove an older one."""
    X, _ = new_rows()
    price = (X["plain"] + X["count"]).alias("price")
    return model.add_task(X, price.to_frame()).remove_task("size")


def decided(model: Any) -> Any:
    """Calibrate, choose thresholds, and learn intervals."""
    X, y = new_rows()
    return model.calibrate(X, y).tune_thresholds(X, y).conformalize(X, y)


#: By name: a method that an estimator has if it can, and what is done.
VERBS: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "goes on": ("partial_fit", went_on),
    "tasks": ("add_task", grew),
    "decides": ("calibrate", decided),
}


def after(name: str, make: Callable[..., Any], verb: str) -> Arrays:
    """Return what a model answers after a verb; with decisions, its labels and intervals too."""
    model = VERBS[verb][1](deepcopy(fitted(name, make)))
    X, y = features(150, seed=3), mixed_targets(features(150, seed=3))
    found = answers(model, X)
    if verb == "decides":
        found += frame_arrays(model.predict_interval(X, level=0.8).select(pl.selectors.numeric()))
        found += frame_arrays(model.score_intervals(X, y).select(pl.selectors.numeric()))
    return numbered(found)


def asked(name: str, make: Callable[..., Any]) -> Arrays:
    """Ask for some tasks, for single rows, and how far rows have drifted."""
    model, (X, y) = fitted(name, make), new_rows()
    found = [np.concatenate([model.answer(X[i : i + 1])[t] for i in range(9)]) for t in range(3)]
    found += [*model.answer(X, ["delay"]), *model.answer(X[:1], ["size", "late"])]
    found += frame_arrays(model.predict(X, tasks=["size", "late"]))
    found += frame_arrays(model.drift(X.with_columns(pl.col("plain") + 1)).select(pl.selectors.numeric()))
    return numbered([*found, np.array([*model.score_tasks(X, y).values()])])


def learned(name: str, make: Callable[..., Any]) -> Arrays:
    """Return what a fit has learned beside its answers: history, weights, importances, and the files of the model."""
    model = fitted(name, make)
    history = getattr(model, "history_", pl.DataFrame())
    found = frame_arrays(history.select(pl.selectors.numeric() - pl.selectors.contains("seconds")))
    found += [model.weights_[key] for key in sorted(getattr(model, "weights_", None) or ())]
    found += frame_arrays(model.importances_) if hasattr(model, "importances_") else []
    with TemporaryDirectory() as folder:
        model.save(folder)
        files = sorted(str(file.relative_to(folder)) for file in Path(folder).rglob("*") if file.is_file())
        found += [np.array(files), *answers(tabmtl.load(folder), new_rows()[0])]
    return numbered(found)


def read(name: str, make: Callable[..., Any]) -> Arrays:
    """Fit dates, lists and a history, and answer other rows."""

    def table(n: int, seed: int) -> pl.DataFrame:
        rng, X = np.random.default_rng(seed), features(n, seed=seed)
        days = [datetime.datetime(2024, 1, 1) + datetime.timedelta(hours=int(h)) for h in rng.integers(0, 9_000, n)]
        tags = [rng.choice(["red", "green", "blue"], rng.integers(0, 4)).tolist() for _ in range(n)]
        seen = [rng.integers(0, 9, rng.integers(0, 6)).tolist() for _ in range(n)]
        return X.with_columns(when=pl.Series(days), tags=pl.Series(tags), seen=pl.Series(seen, dtype=pl.List(pl.Int64)))

    X = table(_ROWS, 0)
    model = make(name, sequence_features={"seen": None}).fit(X, mixed_targets(X))
    return numbered(answers(model, table(150, 1)))


def cases(make: Callable[..., Any]) -> Iterator[tuple[str, Callable[[], Arrays]]]:
    """Yield the cases of all families by name; ``make`` takes the name of a class, and parameters."""

    def quietly(case: Callable[[], Arrays]) -> Arrays:
        with warnings.catch_warnings(action="ignore", category=TabmtlWarning):
            return case()

    for name in FAMILIES:
        verbs = [verb for verb, (method, _) in VERBS.items() if hasattr(make(name), method)]
        own = {f"{name} {verb}": partial(after, name, make, verb) for verb in verbs}
        own |= {f"{name}, {case.__name__}": partial(case, name, make) for case in (asked, learned, read)}
        yield from ((title, partial(quietly, case)) for title, case in own.items())
