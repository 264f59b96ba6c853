"""Metrics of one's own: a function of labels and answers, with intervals by its influences."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from numbers import Real
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from tabmtl.base.schema import describe_error
from tabmtl.metrics.metric import Metric

if TYPE_CHECKING:
    from tabmtl.targets import Task

Response = Literal["predict", "predict_proba"]

#: Parts of the rows that are left out in turn to find influences, each with one call of the function.
_PARTS = 400
_FARTHEST = 200  # of them, the rows with the largest errors or the farthest labels, each by itself
_ERRORS = 20  # other rows by their errors, before their answers


class TaskMetric(str):
    """Name of a metric that knows its function, as `make_task_metric` makes it; a file keeps the name alone.

    Attributes
    ----------
    function : callable
    sign : {1, -1}
    response_method : {"predict", "predict_proba"}
    bounds : tuple of float
        The least and the greatest value of the function.
    options : dict
        Further arguments of the function.
    """

    __slots__ = ("bounds", "function", "options", "response_method", "sign")

    function: Callable[..., float]
    sign: Literal[1, -1]
    response_method: Response
    bounds: tuple[float, float]
    options: Mapping[str, Any]

    def __new__(cls, name: str, **facts: Any) -> TaskMetric:
        found = super().__new__(cls, name)
        for attribute, value in facts.items():
            setattr(found, attribute, value)
        return found

    def __reduce__(self) -> Any:
        return partial(TaskMetric, **{name: getattr(self, name) for name in self.__slots__}), (str(self),)

    def of(self, task: Task) -> Metric:
        """Return the metric of a task; raise a ValueError if its kind has no such answers, or the name already."""
        if self in task.kind.metrics:
            raise ValueError(
                f"task {task.name!r}: {str(self)!r} is the name of a metric of {task.kind} tasks; give "
                "make_task_metric another name"
            )
        if self.response_method == "predict_proba" and not task.is_classification:
            raise ValueError(
                f"task {task.name!r}: the metric {str(self)!r} takes probabilities, which a {task.kind} task has none "
                "of; make it with response_method='predict'"
            )
        low, high = (bound * self.sign for bound in self.bounds[:: self.sign])
        return Metric(
            score=partial(self._score, task),
            influence=partial(self._influence, task),
            sign=self.sign,
            compares="classes" if task.is_classification else "rows",
            worst=low,
            best=high,
            of_positive=self.response_method == "predict_proba",
        )

    def _score(self, task: Task, y: np.ndarray, answers: np.ndarray, *, sample_weight: np.ndarray | None) -> float:
        """Return the value of the function."""
        labels, found = self._as_given(task, y, answers)
        weights: dict[str, Any] = {}
        if _takes_weight(self.function):
            weights["sample_weight"] = sample_weight
        elif sample_weight is not None and np.ptp(sample_weight) > 0:
            raise ValueError(
                f"task {task.name!r}: the metric {str(self)!r} takes no sample_weight, and rows have weights; give its "
                "function a parameter sample_weight, or leave the weights out"
            )
        try:
            return float(self.function(labels, found, **weights, **self.options))
        except Exception as error:
            raise ValueError(f"task {task.name!r}: the metric {str(self)!r} failed: {describe_error(error)}") from error

    def _as_given(self, task: Task, y: np.ndarray, answers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return labels as y of fit has them, and what the function takes beside them."""
        if not task.is_classification:
            return y, task.decide(answers)
        if self.response_method == "predict_proba":
            found = answers[:, 1] if task.is_binary else answers
        else:
            found = task.decide(answers)
        if task.classes is None:
            return y, found
        classes = np.array(task.classes)
        return classes[y], classes[found] if self.response_method == "predict" else found

    def _influence(self, task: Task, y: np.ndarray, answers: np.ndarray, weight: np.ndarray) -> np.ndarray:
        """Return the influences of the rows, those of rows that are alike together, by leaving them out.

        This is the jackknife; of many rows, those with about the same label and answer have one influence.
        """
        is_plain = not np.ptp(weight)
        whole = self._score(task, y, answers, sample_weight=None if is_plain else weight)
        influence, total = np.zeros(len(y)), weight.sum()
        for rows in _alike(task, y, answers):
            kept = np.ones(len(y), dtype=bool)
            kept[rows] = False
            rest = total - weight[rows].sum()
            if rest > 0:
                own = None if is_plain else weight[kept]
                moved = (whole - self._score(task, y[kept], answers[kept], sample_weight=own)) * rest / total
                influence[rows] = moved * weight[rows] / weight[rows].sum()
        return self.sign * np.nan_to_num(influence)  # parts without which there is no score


def make_task_metric(
    function: Callable[..., float],
    *,
    greater_is_better: bool = True,
    name: str | None = None,
    response_method: Response = "predict",
    bounds: tuple[float, float] = (-math.inf, math.inf),
    **options: Any,
) -> TaskMetric:
    """Make a metric of a task of a function, in the manner of scikit-learn's ``make_scorer``.

    Give it as ``Task(metric=...)``, alone or among names of others. A file keeps its name, and no code: give it again
    to `tabmtl.load`, or the loaded tasks have the default metric of their kind in its place, with a warning.

    Parameters
    ----------
    function : callable
        ``function(labels, answers, **options)`` of the rows that count, which returns a number. Labels are those of y.
        If it has a parameter ``sample_weight``, it gets the weights of the rows, or None.
    greater_is_better : bool, default=True
        False for a loss, whose sign the score turns.
    name : str, optional
        Default the name of the function, behind ``neg_`` for a loss.
    response_method : {"predict", "predict_proba"}, default="predict"
        What the answers are: predictions, or probabilities, of two classes those of the second (n,), of K classes
        (n, K).
    bounds : tuple of float, default=(-inf, inf)
        The least and the greatest value that the function can have; intervals stay between them.
    **options
        Further arguments of the function.

    Returns
    -------
    TaskMetric
        A text, the name, that knows the function.

    Raises
    ------
    TypeError
        If the function cannot be called.
    ValueError
        If the name is none, or another argument does not fit.

    Notes
    -----
    Intervals are those of the jackknife, as of all metrics here (see `tabmtl.metrics.intervals`): the function is
    called once without each of up to 400 parts of the rows, whose rows have about the same label and answer.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.metrics import fbeta_score
    >>> from tabmtl import SharedTrees, Task
    >>> from tabmtl.metrics import make_task_metric
    >>> f2 = make_task_metric(fbeta_score, name="f2", bounds=(0, 1), beta=2)
    >>> X = np.random.default_rng(0).normal(size=(300, 2))
    >>> late = Task(name="y0", kind="binary", metric=(f2, "roc_auc"))
    >>> model = SharedTrees(tasks=[late], n_estimators=20, random_state=0).fit(X, X[:, :1] > 0)
    >>> model.score_intervals(X, X[:, :1] > 0)["metric"].to_list()
    ['f2', 'roc_auc']
    """
    if not callable(function):
        raise TypeError(f"function must be callable, as function(labels, answers), got {function!r}")
    if response_method not in ("predict", "predict_proba"):
        raise ValueError(f"response_method must be 'predict' or 'predict_proba', got {response_method!r}")
    if not (
        isinstance(bounds, list | tuple)
        and len(bounds) == 2
        and all(isinstance(bound, Real) for bound in bounds)
        and bounds[0] < bounds[1]
    ):
        raise ValueError(f"bounds must be the least and the greatest value, such as (0, 1), got {bounds!r}")
    if name is None:
        name = ("" if greater_is_better else "neg_") + getattr(function, "__name__", "")
    if not name.isidentifier():
        raise ValueError(
            f"name must be a word such as 'profit', which files and logs can hold, got {name!r}; pass one as name="
        )
    return TaskMetric(
        name,
        function=function,
        sign=1 if greater_is_better else -1,
        response_method=response_method,
        bounds=(float(bounds[0]), float(bounds[1])),
        options=options,
    )


def _takes_weight(function: Callable[..., float]) -> bool:
    try:
        return "sample_weight" in inspect.signature(function).parameters
    except ValueError:  # of a function in C without a signature
        return False


def _alike(task: Task, y: np.ndarray, answers: np.ndarray) -> Iterator[np.ndarray]:
    """Yield the numbers of rows with about the same label and answer, all rows in at most `_PARTS` parts."""
    if len(y) <= _PARTS:
        yield from np.arange(len(y))[:, None]
    elif task.is_classification:
        found, own = task.decide(answers), answers[np.arange(len(y)), y]
        present = np.unique(y)
        for label in present:
            rows = np.flatnonzero(y == label)
            order = np.lexsort([own[rows], found[rows]])
            yield from np.array_split(rows[order], min(len(rows), _PARTS // len(present)))
    else:
        values = task.decide(answers)
        error = y - values
        far = np.maximum(*(np.argsort(np.argsort(np.abs(each))) for each in (error, y - np.median(y))))
        order = np.argsort(-far, kind="stable")
        yield from order[:_FARTHEST, None]
        rest = order[_FARTHEST:]
        for rows in np.array_split(rest[np.argsort(error[rest], kind="stable")], _ERRORS):
            by_value = rows[np.argsort(values[rows], kind="stable")]
            yield from np.array_split(by_value, (_PARTS - _FARTHEST) // _ERRORS)
