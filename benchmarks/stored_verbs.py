"""What `benchmarks.stored_answers` stores of verbs: what a fitted model of every family does after its fit.

A case is a model, a table and a verb: rows go on, tasks come and go, decisions are learned, rows drift, some tasks or
one row are asked, files are written and read. Of a fit it keeps all that it tells, and the names of its files, which
have their checksums. Tables are wide, long, or have the steps of a funnel; some have dates, lists and histories.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable, Iterable, Iterator
from copy import deepcopy
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any

import numpy as np
import polars as pl

from benchmarks.stored_forms import FUNNELS, Arrays, Case, folder_of, joined, loaded, made, names_of, told
from tabmtl.testing import answers, features, long_table, mixed_targets
from tabmtl.testing.long import LABELS
from tabmtl.testing.subject import STEPS

Rows = tuple[pl.DataFrame, Any]
#: One of each family.
FAMILIES = ("MMoE", "SharedTrees", "RMTGB", "IndependentTasks", "MultiTaskEnsemble")
LONG_FAMILIES = FAMILIES[:4]
#: Verbs that a model has if it has a method.
METHODS = {"goes on": "partial_fit", "begins": "partial_fit", "tasks": "remove_task"}
NO_FUNNEL: dict[str, Any] = {"task_chain": None, "tasks": None}


def funnel_rows(n: int, seed: int) -> Rows:
    """Make rows with both steps of a funnel, whose second is taken by some of those that have taken the first."""
    X, rng = features(n, seed), np.random.default_rng(seed)
    y = mixed_targets(X, seed)
    is_taken = X["count"].to_numpy() + 20 * rng.normal(size=n) > 25
    second = pl.when(pl.col("late") != "late").then(pl.Series(np.where(is_taken, "on time", "late")))
    return X, y.with_columns(second.alias(STEPS[1]))


def passed_rows(n: int, seed: int) -> Rows:
    """Make a long table with a binary label."""
    X, y = long_table(n, seed)
    return X, LABELS["binary"](y)


def varied_rows(n: int, seed: int) -> Rows:
    """Make rows with dates, tags, free text, vectors and a history of what a column holds, which may be missing."""
    rng, X = np.random.default_rng(seed), features(n, seed=seed)
    days = [datetime.datetime(2024, 1, 1) + datetime.timedelta(hours=int(h)) for h in rng.integers(0, 9_000, n)]
    words = np.array(["the", "train", "was", "delayed", "by", "snow", "on", "our", "northern", "line"])
    read = X.with_columns(
        when=pl.Series(days),
        written=pl.Series([day.strftime("%d.%m.%Y") for day in days]),
        tags=pl.Series([rng.choice(["red", "green", "blue"], rng.integers(0, 4)).tolist() for _ in range(n)]),
        remark=pl.Series([" ".join(rng.choice(words, 7)) for _ in range(n)]),
        place=pl.Series(rng.normal(size=(n, 3)).tolist(), dtype=pl.List(pl.Float64)),
        item=pl.Series(rng.integers(0, 9, n)),
        seen=pl.Series([rng.integers(0, 9, rng.integers(0, 6)).tolist() for _ in range(n)], dtype=pl.List(pl.Int64)),
    )
    return read, mixed_targets(X, seed)


#: By name: how rows are made of a number and a seed, and what models need to read them.
TABLES: dict[str, tuple[Callable[[int, int], Rows], dict[str, Any]]] = {
    "wide": (lambda n, seed: (features(n, seed), mixed_targets(features(n, seed), seed)), NO_FUNNEL),
    "funnel": (funnel_rows, {}),
    "long": (long_table, {"task_column": "school"} | NO_FUNNEL),
    "long, binary": (passed_rows, {"task_column": "school"} | NO_FUNNEL),
    "varied": (varied_rows, {"columns": {"seen": "sequence:item"}} | NO_FUNNEL),
}


@dataclass(frozen=True, eq=False)
class Subject:
    """A form of an estimator, and the kind of tables that it learns."""

    name: str
    table: str = "wide"
    params: dict[str, Any] = field(default_factory=dict)

    def rows(self, n: int, seed: int) -> Rows:
        """Make rows with their labels."""
        return TABLES[self.table][0](n, seed)

    def fresh(self) -> Any:
        """Return an unfitted model."""
        return made(self.name, **TABLES[self.table][1] | self.params)

    @cached_property
    def fitted(self) -> Any:
        """A model that is fitted once for all verbs, and not to be changed."""
        return self.fresh().fit(*self.rows(400, 0))

    def copy(self) -> Any:
        """Return a copy of the fitted model, which a verb may change."""
        return deepcopy(self.fitted)

    def can(self, verb: str) -> bool:
        """Tell whether the model has a verb."""
        return hasattr(self.fresh(), METHODS[verb]) if verb in METHODS else True

    def new_task(self) -> Rows:
        """Make rows that no fit has seen, with labels of a new task; the steps of a funnel leave room for two."""
        if self.table.startswith("long"):
            X, y = self.rows(120, 2)
            return X.with_columns(school=pl.lit("south")), y
        X, _ = self.rows(200, 1)
        price = (X["plain"] + X["count"]).alias("price")
        return X, pl.DataFrame([price, (price > 30).alias("dear")])


def answered(model: Any, subject: Subject) -> Arrays:
    """Return what a model answers to rows that it has not seen."""
    return joined(answers=answers(model, subject.rows(150, 3)[0]))


def goes_on(subject: Subject) -> Arrays:
    """Go on with new rows, twice."""
    (X, y), model = subject.rows(200, 1), subject.copy()
    return answered(model.partial_fit(X, y).partial_fit(X[:50], y[:50]), subject)


def begins(subject: Subject) -> Arrays:
    """Begin with some rows, and go on with others."""
    return answered(subject.fresh().partial_fit(*subject.rows(200, 0)).partial_fit(*subject.rows(100, 1)), subject)


def tasks(subject: Subject) -> Arrays:
    """Add tasks, if the model takes some, and part with another one; a funnel keeps its steps."""
    model, found = subject.copy(), {}
    if hasattr(model, "add_task"):
        model.add_task(*subject.new_task())
        found = joined(grown=answers(model, subject.rows(150, 3)[0]))
    is_long, X = subject.table.startswith("long"), subject.rows(150, 3)[0]
    model.remove_task("north" if is_long else "price" if subject.table == "funnel" else "size")
    X = X.filter(pl.col("school") != "north") if is_long else X
    return found | joined(answers=answers(model, X), tasks=[task.name for task in model.tasks_])


def decides(subject: Subject) -> Arrays:
    """Calibrate, choose thresholds, and learn intervals; return labels, intervals and scores with their errors."""
    (X, y), (asked_X, asked_y), model = subject.rows(200, 1), subject.rows(150, 3), subject.copy()
    if any(task.is_classification for task in model.tasks_):
        model.calibrate(X, y).tune_thresholds(X, y)
    model.conformalize(X, y)
    ways = {"each": False} if subject.table.startswith("long") else {"each": False, "joint": True}
    intervals = {way: model.predict_interval(asked_X, level=0.8, joint=joint) for way, joint in ways.items()}
    scores = model.score_intervals(asked_X, asked_y)
    found = joined(intervals=intervals, scores=scores, thresholds=getattr(model, "thresholds_", None))
    return answered(model, subject) | found


def asked(subject: Subject) -> Arrays:
    """Ask for some tasks and for single rows, how far rows have drifted, and for scores."""
    model, (X, y) = subject.fitted, subject.rows(200, 1)
    moved = X.with_columns(pl.col("plain") + 1)
    found = joined(
        single=[answers(model, X[i : i + 1]) for i in range(9)],
        drift=model.drift(moved),
        compared=model.drift(moved, reference=X),
        scores=model.score_tasks(X, y),
    )
    if subject.table.startswith("long"):
        return found | joined(north=answers(model, X.filter(school="north")))
    steps = STEPS if subject.table == "funnel" else ("late", "size")
    some = {"some": ["delay", *steps[::-1]], "one": steps[-1:]}
    found |= joined(**{name: model.predict(X, tasks=list(names)) for name, names in some.items()})
    found |= joined(probabilities=model.predict_proba(X[:3], tasks=list(steps)))
    return found | (joined(given=model.score_tasks(X, y, given=steps[0])) if subject.table == "funnel" else {})


def learned(subject: Subject) -> Arrays:
    """Return what a fit tells beside its answers, and the names of the files of the model."""
    files = folder_of(subject.fitted)
    return told(subject.fitted) | joined(folder=names_of(files, subject.fitted)) | answered(loaded(files), subject)


#: What is done to a subject, by name.
VERBS: dict[str, Callable[[Subject], Arrays]] = {
    "goes on": goes_on,
    "begins": begins,
    "tasks": tasks,
    "decides": decides,
    "asked": asked,
    "learned": learned,
}


def read(name: str) -> Arrays:
    """Fit dates, lists and a history, and answer other rows."""
    subject = Subject(name, "varied")
    return answered(subject.fitted, subject)


def verbs_of(subject: Subject, verbs: Iterable[str] = VERBS) -> dict[str, Case]:
    """Return the verbs that a subject has."""
    return {verb: partial(VERBS[verb], subject) for verb in verbs if subject.can(verb)}


def cases() -> Iterator[tuple[str, Case]]:
    """Yield the cases of all families, and of funnels, by name."""
    for name in FAMILIES:
        yield from ((f"wide: {name} {verb}", case) for verb, case in verbs_of(Subject(name)).items())
        yield f"wide: {name} reads dates and lists", partial(read, name)
    for name in LONG_FAMILIES:
        yield from ((f"long: {name} {verb}", case) for verb, case in verbs_of(Subject(name, "long")).items())
        yield f"long: {name} decides on classes", partial(decides, Subject(name, "long, binary"))
    for name in FUNNELS:
        yield from ((f"funnel: {name} {verb}", case) for verb, case in verbs_of(Subject(name, "funnel")).items())
