"""A new task with few labels: added to models that stand, or learned alone; a part of `benchmarks.after`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import lightgbm as lgb
import numpy as np
import polars as pl

from benchmarks.problems import Case, answers_of, open_case, score_answers
from tabmtl import IndependentTasks, MMoE, MultiTaskEnsemble, SharedBottom, SharedTrees
from tabmtl.extras import ScaLearn

#: Sets, and the task that comes later.
LATER = {"star": "read3", "gss_abortion": "absingle", "census_kdd": "income_50k"}
#: Rows that the models that stand have learned, and numbers of labels of the new task, which are among them.
KNOWN, TESTED, LABELS = 3_000, 3_000, (50, 300, 1_000)
HEADS = {"head": None, "ScaLearn": ScaLearn(), "ScaLearn, uniform": ScaLearn(uniform=True)}
STANDING: dict[str, tuple[Callable[..., Any], tuple[str, ...]]] = {
    "SharedBottom": (SharedBottom, (*HEADS,)),
    "MMoE": (MMoE, (*HEADS,)),
    "SharedTrees": (SharedTrees, ("head",)),
}


def task(folder: Path | None, seed: int) -> Iterator[tuple[str, str, str, float]]:
    """Yield scores of the new task, by set and number of labels."""
    for name, new in LATER.items():
        case = open_case(name, seed, folder)
        rows, standing = few_rows(case, new), {}
        for model, (make, _) in STANDING.items():
            others = {each: kind for each, kind in case.tasks.items() if each != new}
            own = rows["known"][1].select(others.keys())
            kept = own.select(pl.any_horizontal(pl.all().is_not_null())).to_series()
            standing[model] = make(tasks=others, random_state=seed).fit(rows["known"][0].filter(kept), own.filter(kept))
        X, y = rows["labelled"]
        for n in LABELS:
            for way, score in ways(standing, (X[:n], y[:n].select(new)), rows["test"], case.tasks[new], seed):
                yield f"{name} {new}, {n} labels", way, "score", score
            X_known, y_known = rows["known"]
            is_seen = pl.col(new).is_not_null().cum_sum() <= n
            anew = MultiTaskEnsemble(tasks=case.tasks, random_state=seed)
            anew.fit(X_known, y_known.with_columns(pl.when(is_seen).then(pl.col(new))))
            score = scored(anew, rows["test"], case.tasks[new])
            yield f"{name} {new}, {n} labels", "MultiTaskEnsemble anew, all tasks", "score", score


def few_rows(case: Case, new: str) -> dict[str, tuple[pl.DataFrame, pl.DataFrame]]:
    """Return the rows that are known, those of them that have a label of the new task, and those to test."""
    X, y = (part[:KNOWN] for part in case.train)
    has = y[new].is_not_null()
    X_test, y_test = (part.filter(case.test[1][new].is_not_null())[:TESTED] for part in case.test)
    return {"known": (X, y), "labelled": (X.filter(has), y.filter(has)), "test": (X_test, y_test.select(new))}


def scored(model: Any, test: tuple[pl.DataFrame, pl.DataFrame], kind: Any) -> float:
    """Return the score of a model on the one target of some rows."""
    (task,) = test[1].columns
    return score_answers({task: kind}, test[1], answers_of(model, test[0]))[task]


def ways(
    standing: dict[str, Any],
    labelled: tuple[pl.DataFrame, pl.DataFrame],
    test: tuple[pl.DataFrame, pl.DataFrame],
    kind: Any,
    seed: int,
) -> Iterator[tuple[str, float]]:
    """Yield the score of every way to learn a task of some rows."""
    X, y = labelled
    tasks = {y.columns[0]: kind}

    def score(model: Any) -> float:
        return scored(model, test, kind)

    yield "SharedBottom of the task alone", score(SharedBottom(tasks=tasks, random_state=seed).fit(X, y))
    yield "IndependentTasks", score(IndependentTasks(tasks=tasks, random_state=seed).fit(X, y))
    yield "LightGBM on transform", score(OnFeatures(standing["SharedBottom"], tasks, seed).fit(X, y))
    for name, (_, methods) in STANDING.items():
        for method in methods:
            yield (
                f"{name}.add_task, {method}",
                score(deepcopy(standing[name]).add_task(X, y, head=HEADS[method], tasks=tasks)),
            )


class OnFeatures:
    """LightGBM on what a fitted network computes of the rows."""

    def __init__(self, network: Any, tasks: dict[str, Any], seed: int) -> None:
        self._network, self._seed = network, seed
        ((self._name, kind),) = tasks.items()
        self._is_number = str(kind) == "regression"

    def fit(self, X: pl.DataFrame, y: pl.DataFrame) -> OnFeatures:
        """Fit trees of the defaults."""
        make = lgb.LGBMRegressor if self._is_number else lgb.LGBMClassifier
        self._model = make(random_state=self._seed, verbose=-1, n_jobs=1)
        self._model.fit(self._network.transform(X), y.to_series().to_numpy())
        return self

    def answer_tasks(self, X: pl.DataFrame) -> dict[str, np.ndarray]:
        """Return values, or probabilities of the second class (n,)."""
        features = self._network.transform(X)
        predict: Any = self._model.predict if self._is_number else self._model.predict_proba
        found = predict(features)
        return {self._name: found if self._is_number else found[:, 1]}
