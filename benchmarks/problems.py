"""Real sets with rows to fit and to test, few labels of a task, and the models that are fitted to them beside ours."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import lightgbm as lgb
import numpy as np
import polars as pl
from scipy.special import logit
from sklearn.base import RegressorMixin, clone
from sklearn.compose import make_column_selector, make_column_transformer
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import r2_score, roc_auc_score
from sklearn.model_selection import GroupKFold, KFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from benchmarks.datasets import load
from benchmarks.peers.lightgbm import Coded, learn_coder
from benchmarks.scores import outputs_of
from benchmarks.splits import units_of
from tabmtl import distill
from tabmtl.model_selection import train_valid_split

ROWS = 20_000
#: Sets, with the tasks that are made scarce in turn.
SETS: dict[str, tuple[str, ...]] = {
    "portal": ("male", "weight"),
    "star": ("math1", "read3"),
    "rand_hie": ("any_mental", "log_spend"),
    "gss_abortion": ("absingle", "abpoor"),
    "flights": ("cancelled", "arr_delay"),
    "census_kdd": ("income_50k", "college_degree"),
    "wq": ("25400", "37880"),
    "oes10": (),
    "osales": (),
    "jura": (),
    "enb": (),
    "rf1": (),
}
FEW = {"binary": 500, "regression": 300}
#: Models of a bag.
N_BAGGED = 5
#: Folds whose models answer the rows that they have not learned.
N_TRANSFERRED = 5
#: Seeds of one bag are apart by this, so that no two bags share any.
SEED_STEP = 1_000
#: Trees without a better score of the rows set aside that end CatBoost, which stops nowhere by itself.
PATIENCE = 30
#: Probabilities beyond these count as these.
SURE = 1e-6, 1 - 1e-6


def score_answers(tasks: dict[str, Any], y: pl.DataFrame, answers: dict[str, np.ndarray]) -> dict[str, float]:
    """Score values, or probabilities of the second class, on the labelled rows: R² or ROC AUC."""
    scores: dict[str, float] = {}
    for task, kind in tasks.items():
        labels = y[task].drop_nulls()
        score = roc_auc_score if kind == "binary" else r2_score
        scores[task] = float(score(labels, answers[task][y[task].is_not_null().to_numpy()]))
    return scores


def slope_of(labels: pl.Series, answers: np.ndarray) -> float | None:
    """Return the slope of a logistic regression of labels on the log odds of probabilities: 1 if these are calibrated.

    Below 1, they are too bold. It is None where all are equal, or the labels are of one class.
    """
    known = labels.is_not_null().to_numpy()
    classes, odds = labels.drop_nulls().to_numpy(), logit(np.clip(answers[known], *SURE))
    scale = odds.std()
    if scale < 1e-9 or len(np.unique(classes)) < 2:
        return None
    line = LogisticRegression(C=np.inf, max_iter=1_000).fit(odds[:, None] / scale, classes)
    return float(line.coef_[0, 0] / scale)


class Alone:
    """A model for each task alone, on its labelled rows: the same code, without anything to share."""

    def __init__(self, make: Callable[..., Any], *, tasks: dict[str, Any], random_state: int) -> None:
        self._models = {task: make(tasks={task: kind}, random_state=random_state) for task, kind in tasks.items()}

    def fit(self, X: pl.DataFrame, y: pl.DataFrame, groups: np.ndarray | None) -> None:
        """Fit all models."""
        for task, model in self._models.items():
            labelled = y[task].is_not_null()
            own = None if groups is None else groups[labelled.to_numpy()]
            model.fit(X.filter(labelled), y.select(task).filter(labelled), groups=own)

    def answer_tasks(self, X: pl.DataFrame) -> dict[str, np.ndarray]:
        """Return the answers of all models."""
        return {task: answers_of(model, X)[task] for task, model in self._models.items()}


class Bag:
    """The average answer of models that differ in their seed."""

    def __init__(self, make: Callable[..., Any], *, tasks: dict[str, Any], random_state: int) -> None:
        self._tasks = tasks
        seeds = range(random_state, random_state + N_BAGGED * SEED_STEP, SEED_STEP)
        self._models = [make(tasks=tasks, random_state=seed) for seed in seeds]

    def fit(self, X: pl.DataFrame, y: pl.DataFrame, groups: np.ndarray | None) -> None:
        """Fit all models."""
        for model in self._models:
            model.fit(X, y, groups=groups)

    def answer_tasks(self, X: pl.DataFrame) -> dict[str, np.ndarray]:
        """Return the average answer to every task."""
        found = [answers_of(model, X) for model in self._models]
        return {task: np.mean([answers[task] for answers in found], axis=0) for task in self._tasks}


class Distilled:
    """A network that is distilled from a model of the rows with a label; the network reads all rows."""

    def __init__(self, make: Callable[..., Any], *, tasks: dict[str, Any], random_state: int) -> None:
        self.teacher, self._seed = make(tasks=tasks, random_state=random_state), random_state

    def fit(self, X: pl.DataFrame, y: pl.DataFrame, groups: np.ndarray | None) -> None:
        """Fit the model, and then the network."""
        labelled = y.select(pl.any_horizontal(pl.all().is_not_null())).to_series()
        own = None if groups is None else groups[labelled.to_numpy()]
        self.teacher.fit(X.filter(labelled), y.filter(labelled), groups=own)
        self._student = distill(self.teacher, X, random_state=self._seed)

    def answer_tasks(self, X: pl.DataFrame) -> dict[str, np.ndarray]:
        """Return the answers of the network."""
        return answers_of(self._student, X)


class CatBoost:
    """CatBoost per task with its defaults; rows set aside find the number of trees, and then all are fitted."""

    def __init__(self, *, tasks: dict[str, Any], random_state: int) -> None:
        self._tasks, self._seed = tasks, random_state

    def fit(self, X: pl.DataFrame, y: pl.DataFrame, groups: np.ndarray | None) -> None:
        """Fit a model per task."""
        from benchmarks.peers.catboost import fit_catboost, refit_catboost

        self._coder = learn_coder(X, y, self._tasks)
        rows, tasks = self._coder.read(X, y), self._coder.labels.tasks
        kept, held_out = train_valid_split(rows.y, tasks, 0.15, np.random.default_rng(self._seed), group=groups)
        data = Coded(
            train=rows.rows(kept),
            val=rows.rows(held_out),
            kinds=tuple(task.kind.name for task in tasks),
            n_numeric=rows.x.numbers.shape[1],
        )
        params = {"random_seed": self._seed, "thread_count": 1, "early_stopping_rounds": PATIENCE}
        self._models = refit_catboost(fit_catboost(data, params), rows)

    def answer_tasks(self, X: pl.DataFrame) -> dict[str, np.ndarray]:
        """Return values, or probabilities of the second class (n,), of every task."""
        from benchmarks.peers.catboost import predict_catboost

        answers = predict_catboost(self._models, self._coder.read(X))
        return {task.name: answers[:, t] for t, task in enumerate(self._coder.labels.tasks)}


class Plain:
    """LightGBM's own estimator, on text as pandas' categories."""

    def __init__(self, *, tasks: dict[str, Any], random_state: int, **options: Any) -> None:
        ((self._task, kind),) = tasks.items()
        make = lgb.LGBMRegressor if kind == "regression" else lgb.LGBMClassifier
        self._model = make(random_state=random_state, n_jobs=1, verbose=-1, **options)

    def fit(self, X: pl.DataFrame, y: pl.DataFrame, groups: np.ndarray | None) -> None:
        """Fit the rows; LightGBM has no use for groups."""
        self._levels = {name: X[name].drop_nulls().unique().sort() for name in X.select(pl.col(pl.String)).columns}
        self._model.fit(self._frame(X), y[self._task].to_numpy())

    def answer_tasks(self, X: pl.DataFrame) -> dict[str, np.ndarray]:
        """Return values, or probabilities of the second class (n,)."""
        ask = getattr(self._model, "predict_proba", self._model.predict)
        found = np.asarray(ask(self._frame(X)))
        return {self._task: found[:, 1] if found.ndim > 1 else found}

    def _frame(self, X: pl.DataFrame) -> Any:
        codes = [pl.col(name).cast(pl.Enum(levels), strict=False) for name, levels in self._levels.items()]
        return X.with_columns(codes).to_pandas()


class Transfer:
    """A model for each scored task that reads answers to the others beside the features: the simplest way to share.

    Helpers answer rows that they have not learned: those of the other folds to fit, and the mean of all to new rows.
    """

    def __init__(
        self,
        make: Callable[..., Any],
        help_by: Callable[..., Any],
        *,
        tasks: dict[str, Any],
        scored: Sequence[str],
        random_state: int,
    ) -> None:
        self._seed, self._help_by = random_state, help_by
        self._models = {task: make(tasks={task: tasks[task]}, random_state=random_state) for task in scored}
        self._read = {task: kind for task, kind in tasks.items() if {*scored} - {task}}

    def fit(self, X: pl.DataFrame, y: pl.DataFrame, groups: np.ndarray | None) -> None:
        """Fit the helpers by folds, of whole groups, and then a model of each task to its labelled rows."""
        by = KFold if groups is None else GroupKFold
        folds = by(N_TRANSFERRED, shuffle=True, random_state=self._seed).split(X, groups=groups)
        self._helpers: list[dict[str, Any]] = []
        answers = np.zeros((len(X), len(self._read)))
        for kept, held_out in folds:
            self._helpers.append({task: self._help(task, X[kept], y[kept]) for task in self._read})
            for t, helper in enumerate(self._helpers[-1].values()):
                answers[held_out, t] = helper(X[held_out])
        for task, model in self._models.items():
            labelled = y[task].is_not_null()
            own = None if groups is None else groups[labelled.to_numpy()]
            wide = self._widen(task, X, answers).filter(labelled)
            model.fit(wide, y.select(task).filter(labelled), groups=own)

    def answer_tasks(self, X: pl.DataFrame) -> dict[str, np.ndarray]:
        """Return values, or probabilities of the second class (n,), of every scored task."""
        answers = np.mean([np.column_stack([ask(X) for ask in own.values()]) for own in self._helpers], axis=0)
        return {task: answers_of(model, self._widen(task, X, answers))[task] for task, model in self._models.items()}

    def _help(self, task: str, X: pl.DataFrame, y: pl.DataFrame) -> Callable[[pl.DataFrame], np.ndarray]:
        """Fit a helper, and return what answers; the mean where all labels are one."""
        labelled = y[task].is_not_null()
        labels = y.select(task).filter(labelled)
        if labels[task].n_unique() < 2:
            mean = float(labels[task].to_numpy().mean()) if len(labels) else 0.0
            return lambda rows: np.full(len(rows), mean)
        helper = self._help_by(tasks={task: self._read[task]}, random_state=self._seed)
        helper.fit(X.filter(labelled), labels, None)
        return lambda rows: helper.answer_tasks(rows)[task]

    def _widen(self, task: str, X: pl.DataFrame, answers: np.ndarray) -> pl.DataFrame:
        """Add the answers to the other tasks as columns."""
        others = {f"answer to {name}": answers[:, t] for t, name in enumerate(self._read) if name != task}
        return X.hstack(pl.DataFrame(others))


class Scikit:
    """An estimator of scikit-learn as one would write it: levels as columns, and missing numbers as the median."""

    def __init__(self, classifier: Any, regressor: Any, *, tasks: dict[str, Any], random_state: int) -> None:
        ((self._task, kind),) = tasks.items()
        model = clone(regressor if kind == "regression" else classifier)
        if "random_state" in model.get_params():
            model.set_params(random_state=random_state)
        levels = OneHotEncoder(handle_unknown="infrequent_if_exist", min_frequency=2, sparse_output=False)
        numbers = make_pipeline(SimpleImputer(strategy="median", keep_empty_features=True), StandardScaler())
        is_level = make_column_selector(dtype_include=["object", "string", "category", "bool"])
        is_number = make_column_selector(dtype_include="number")
        self._model = make_pipeline(make_column_transformer((levels, is_level), (numbers, is_number)), model)

    def fit(self, X: pl.DataFrame, y: pl.DataFrame, groups: np.ndarray | None) -> None:
        """Fit the rows; the estimator has no use for groups."""
        self._model.fit(X.to_pandas(), y[self._task].to_numpy())

    def answer_tasks(self, X: pl.DataFrame) -> dict[str, np.ndarray]:
        """Return values, or probabilities of the second class (n,)."""
        frame = X.to_pandas()
        is_regression = isinstance(self._model[-1], RegressorMixin)
        return {self._task: self._model.predict(frame) if is_regression else self._model.predict_proba(frame)[:, 1]}


def answers_of(model: Any, X: pl.DataFrame) -> dict[str, np.ndarray]:
    """Return values, or probabilities of the second class (n,), of every task, by any model that has been fitted."""
    if hasattr(model, "answer_tasks"):
        return model.answer_tasks(X)
    return {task: found[:, 1] if found.ndim > 1 else found for task, found in outputs_of(model, X).items()}


@dataclass(frozen=True, kw_only=True)
class Case:
    """Rows to fit and to test, the kinds of the tasks, and the groups of the rows to fit."""

    train: tuple[pl.DataFrame, pl.DataFrame]
    test: tuple[pl.DataFrame, pl.DataFrame]
    tasks: dict[str, Any]
    groups: np.ndarray | None

    def scarce(self, task: str, n_labels: int, seed: int) -> Case:
        """Return the case with few labels of one task, drawn by the seed.

        There are at least two of each class, in two groups. More labels of the same seed hold all of fewer.
        """
        X, y = self.train
        labelled = np.flatnonzero(y[task].is_not_null().to_numpy())
        order = np.random.default_rng([seed, 3]).permutation(labelled)
        if self.tasks[task] != "regression":
            labels = y[task].to_numpy()[order]
            unit = order if self.groups is None else self.groups[order]
            first = []
            for label in np.unique(labels):
                own = np.flatnonzero(labels == label)
                first += [*own[np.sort(np.unique(unit[own], return_index=True)[1])[:2]]]
            order = np.concatenate([order[first], np.delete(order, first)])
        mask = pl.Series(np.isin(np.arange(len(y)), order[:n_labels]))
        return replace(self, train=(X, y.with_columns(pl.when(mask).then(pl.col(task)))))


def open_case(name: str, seed: int, folder: Path | None) -> Case:
    """Draw the rows of a seed, whole groups of them, and split them 80/20."""
    data = load(name, folder, full=True)
    X, y = pl.collect_all([data.features, data.targets])
    unit = np.unique(units_of(data), return_inverse=True)[1]
    order = np.random.default_rng(seed).permutation(unit.max() + 1)
    place = np.argsort(order)[unit]  # of the row's unit in the order
    sizes = np.bincount(place)
    n_units = max(int(np.searchsorted(np.cumsum(sizes), ROWS, side="right")), 1)
    parts = [place < round(0.8 * n_units), (place >= round(0.8 * n_units)) & (place < n_units)]
    train, test = ((X.filter(part), y.filter(part)) for part in map(pl.Series, parts))
    return Case(train=train, test=test, tasks=data.tasks, groups=unit[parts[0]] if data.groups else None)
