"""Models of any scikit-learn estimator: their fit, their answers, and their errors with the task and the cure."""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any

import narwhals.stable.v2 as nw
import numpy as np
import polars as pl
import polars.selectors as cs
from sklearn.base import BaseEstimator, clone
from sklearn.utils.validation import has_fit_parameter

from tabmtl.columns.values import type_of
from tabmtl.encode import FeatureCoder, take_rows
from tabmtl.estimators.tables import MultiTaskEstimator
from tabmtl.models.independent.rows import TaskRows
from tabmtl.targets import Task
from tabmtl.training.watch import Watch

_ROUNDING = 1e-6  # by which a probability may lie beyond 0 and 1


@dataclass(frozen=True, kw_only=True, eq=False)
class Foreign:
    """An estimator that is not LightGBM, fitted or not, and its task.

    Attributes
    ----------
    task : Task
    base : estimator
    features : FeatureCoder
        Of X, which tells the kinds of its columns.
    task_column : str, optional
        Column of X that the estimator does not get.
    seed : int, default=0
        Of a fit, for an estimator that has none.
    """

    task: Task
    base: BaseEstimator
    features: FeatureCoder
    task_column: str | None = None
    seed: int = 0

    def __str__(self) -> str:
        return str(self.base)

    def fit(self, X: Any, given: TaskRows, watch: Watch) -> Foreign:
        """Return a clone that is fitted on the rows of its task, with their labels, weights, groups and times."""
        task, base, rows = self.task, self.base, given.rows
        X = self._rows_of(X, given.numbers)
        y = _labels(task)[rows.y.astype(np.int64)] if task.is_classification else rows.y
        options = {} if rows.weight is None else {"sample_weight": rows.weight}
        if options and not has_fit_parameter(base, "sample_weight"):
            what = "it" if rows.of_class is None else "it and class_weight of the task"
            raise ValueError(f"task {task.name!r}: {type(base).__name__}.fit takes no sample_weight; leave {what} out")
        if rows.group is not None and has_fit_parameter(base, "groups"):
            options["groups"] = rows.group
        if rows.time is not None and isinstance(base, MultiTaskEstimator):
            options["time"] = rows.time
        model = clone(base)
        unset = [name for name, value in model.get_params().items() if value is None and name.endswith("random_state")]
        model.set_params(**dict.fromkeys(unset, self.seed))
        with self._explained("be fitted"):
            if watch.is_limited and isinstance(model, MultiTaskEstimator) and model.time_limit is None:
                return replace(self, base=_fit_within(model, watch.left, X, y, **options))
            return replace(self, base=model.fit(X, y, **options))

    def go_on(self, model: BaseEstimator, X: Any, given: TaskRows) -> Foreign:
        """Return a copy of a fitted estimator that has learned from rows of X too, by a ``partial_fit`` of its own.

        Raises
        ------
        ValueError
            If it has none.
        """
        task, name, rows = self.task, type(model).__name__, given.rows
        if not hasattr(model, "partial_fit"):
            raise ValueError(
                f"task {task.name!r}: {name} has no partial_fit, so it cannot go on; fit again with all rows, or leave "
                f"{'classifier' if task.is_classification else 'regressor'} out, since the models of families can"
            )
        y = _labels(task)[rows.y.astype(np.int64)] if task.is_classification else rows.y
        options = {} if rows.weight is None else {"sample_weight": rows.weight}
        model, X = deepcopy(model), self._rows_of(X, given.numbers)  # a failed call must not change it
        with self._explained("go on"):
            return replace(self, base=model.partial_fit(X, y, **options))

    def answer(self, X: Any, n: int, rows: np.ndarray | None = None) -> np.ndarray:
        """Return values (n,) or probabilities (n, K) of the fitted estimator for n rows of X, by default for all."""
        task, estimator = self.task, self.base
        gives_shares = task.is_classification and hasattr(estimator, "predict_proba")
        ask = "predict_proba" if gives_shares else "predict"
        with self._explained("predict"):
            answer = getattr(estimator, ask)(for_numpy(X) if rows is None else self._rows_of(X, rows))
            columns = estimator.classes_ if gives_shares else ()
        source = f"the answer of {type(estimator).__name__}.{ask}"
        if not task.is_classification:
            return check_answer(task, answer, (n,), source)
        probabilities = np.zeros((n, len(task.classes or ())))
        if gives_shares:
            places = _places(task, columns, (np.size(columns),), f"{type(estimator).__name__}.classes_")
            probabilities[:, places] = check_answer(task, answer, (n, len(places)), source)
        else:
            probabilities[np.arange(n), _places(task, answer, (n,), source)] = 1
        return probabilities

    def _rows_of(self, X: Any, rows: Any) -> Any:
        """Take rows of X in its own container, without the task column."""
        X = take_rows(for_numpy(X), rows)
        if self.task_column is None or not nw.dependencies.is_into_dataframe(X):
            return X
        return nw.from_native(X, eager_only=True).drop(self.task_column).to_native()

    @contextmanager
    def _explained(self, does: str) -> Iterator[None]:
        """Name the task and the cure in errors of the estimator, which gets X as it is given."""
        try:
            yield
        except Exception as error:
            if isinstance(self.base, MultiTaskEstimator) or isinstance(error, MemoryError | OSError):
                raise  # a model of ours has read X, and names the column itself
            name, cure = type(self.base).__name__, self._cure("contains NaN" in str(error))
            kind = TypeError if isinstance(error, TypeError) else ValueError
            raise kind(
                f"task {self.task.name!r}: {name} cannot {does}: {str(error).rstrip(' .')};\n"
                f"it gets X as it is given{cure}"
            ) from error

    def _cure(self, has_gaps: bool) -> str:
        """Say which columns of X an estimator may not read, and what to put before it."""
        name, values = type(self.base).__name__, self.features.values
        lists = [column for column, held in values.items() if isinstance(type_of(held), pl.List)]
        texts = [column for column, held in values.items() if held == "free text"]
        categories = [column for column, held in values.items() if held == "text"]
        cure = ""
        for what, columns, how in (
            ("dates", self.features.dates, "make numbers of them before it, such as the day of the week"),
            ("lists", lists, "make numbers of them before it, such as their length"),
            ("free text", texts, "put a TfidfVectorizer() for each before it"),
        ):
            if columns:
                cure += f", with {what} in {[*columns[:5]]}; {how}"
        if categories:
            rest = "SimpleImputer()" if has_gaps else "'passthrough'"
            return (
                f"{cure}, with categories in {[*categories[:5]]}; put an encoder before it: make_pipeline("
                "make_column_transformer((OneHotEncoder(handle_unknown='ignore'), [*those columns]), "
                f"remainder={rest}), {name}())"
            )
        if has_gaps and not cure:
            return f", with its missing values; fill them before it: make_pipeline(SimpleImputer(), {name}())"
        return cure


def check_answer(task: Task, answer: Any, shape: tuple[int, ...], source: str) -> np.ndarray:
    """Return the answer of foreign code to a task as floats.

    Raises
    ------
    ValueError
        Unless it has the shape, and holds finite values, or probabilities; the message names the source.
    """
    try:
        found = np.asarray(answer, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"task {task.name!r}: {source} is no array of numbers of shape {shape}: {error}") from error
    if found.shape != shape:
        of_many = "a probability of every class" if task.is_classification else "a value of every level"
        raise ValueError(
            f"task {task.name!r}: {source} has the shape {found.shape}, expected {shape}: "
            f"{of_many if len(shape) == 2 else 'a value'} for each row"
        )
    is_bad = ~np.isfinite(found)
    if task.is_classification:
        is_bad |= (found < -_ROUNDING) | (found > 1 + _ROUNDING)
    if is_bad.any():
        row, *_ = np.argwhere(is_bad)[0]
        expected = "probabilities from 0 to 1" if task.is_classification else "finite numbers"
        raise ValueError(f"task {task.name!r}: {source} holds {found[is_bad][0]} in row {row}, expected {expected}")
    return found


def for_numpy(X: Any) -> Any:
    """Return X as other estimators can read it: collected, with integers of 128 bits as floats."""
    X = X.collect() if isinstance(X, pl.LazyFrame) else X
    # a selector, because cast takes a name like "^a$" for a pattern
    wide = cs.by_dtype(pl.Int128, pl.UInt128)
    return X.with_columns(wide.cast(pl.Float64)) if isinstance(X, pl.DataFrame) else X


def _labels(task: Task) -> np.ndarray:
    """Return the classes of a task as other estimators get them: their codes, where numpy has no type for them."""
    classes = [*(task.classes or ())]
    labels = np.array(classes)
    return labels if labels.dtype != object and labels.tolist() == classes else np.arange(len(classes))


def _places(task: Task, labels: Any, shape: tuple[int, ...], source: str) -> list[int]:
    """Return the places of labels of another estimator among the classes of a task."""
    places = {label: k for k, label in enumerate(_labels(task).tolist())}
    found = np.asarray(labels, dtype=None if isinstance(labels, np.ndarray) else object)
    if found.shape != shape:
        raise ValueError(f"task {task.name!r}: {source} has the shape {found.shape}, expected {shape}: a class each")
    for label in found.tolist():
        if not isinstance(label, Hashable) or label not in places:
            raise ValueError(f"task {task.name!r}: {source} holds {label!r:.200}, expected classes: {[*places][:10]}")
    return [places[label] for label in found.tolist()]


def _fit_within(model: MultiTaskEstimator, seconds: float, X: Any, y: Any, **options: Any) -> MultiTaskEstimator:
    """Fit a model within the time that is left of the fit around it, which is none of its own parameters."""
    model.set_params(time_limit=max(seconds, 1e-3)).fit(X, y, **options)
    model.set_params(time_limit=None)
    model._fitted_params["time_limit"] = None
    return model
