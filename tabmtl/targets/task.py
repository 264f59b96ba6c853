"""One target: its name, the kind of its values, and its score."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field, is_dataclass, replace
from functools import cached_property
from numbers import Real
from sys import float_info
from typing import Any, ClassVar

import numpy as np

from tabmtl.base.params import check_known, near
from tabmtl.base.schema import Columns, html_table, is_unicode, warn_user
from tabmtl.base.storage.named import own_classes
from tabmtl.base.storage.stored import own_metrics
from tabmtl.metrics.metric import find_metric, near_metric
from tabmtl.targets.binary import Binary
from tabmtl.targets.focal import Focal
from tabmtl.targets.gamma import Gamma
from tabmtl.targets.huber import Huber
from tabmtl.targets.kind import NEVER, Kind
from tabmtl.targets.multiclass import Multiclass
from tabmtl.targets.ordinal import Ordinal
from tabmtl.targets.poisson import Poisson
from tabmtl.targets.quantile import Quantile
from tabmtl.targets.quantiles import Quantiles
from tabmtl.targets.regression import Regression
from tabmtl.targets.tweedie import Tweedie

#: The kinds that a name declares.
KINDS: dict[str, Kind] = {
    cls.name: cls()
    for cls in (Binary, Focal, Multiclass, Ordinal, Regression, Huber, Quantile, Quantiles, Poisson, Gamma, Tweedie)
}
own_classes.update({name: type(kind) for name, kind in KINDS.items()})


def find_kind(text: str) -> Kind:
    """Return the kind that a text declares: its name, and after a colon what its `Kind.from_text` takes.

    Raises
    ------
    ValueError
        If there is no such kind, or it does not take the parameters.

    Examples
    --------
    >>> find_kind("tweedie:1.7")
    Tweedie(power=1.7)
    >>> find_kind("binary:fraud").positive
    'fraud'
    """
    name, colon, parameters = str(text).partition(":")
    if name not in KINDS:
        raise ValueError(f"kind must be one of {[*KINDS]}, or a Kind of your own, got {text!r}{near(name, KINDS)}")
    return type(KINDS[name]).from_text(parameters) if colon else KINDS[name]


@dataclass(frozen=True, kw_only=True)
class Task:
    """One target: its name, the kind of its values, and its score.

    Parameters
    ----------
    name : str
        Name of the target, equal to its column of ``y``.
    kind : str or Kind
        Kind of the values: "binary", "focal", "multiclass", "ordinal", "regression", "huber", "quantile", "quantiles",
        "poisson", "gamma" or "tweedie". "quantile:0.9" has another level than 0.5, "quantiles:0.25:0.75" others than
        0.1, 0.5 and 0.9, "tweedie:1.7" another power than 1.5, "huber:0.5" another delta than 1, "focal:1" another
        gamma than 2. "binary:fraud", "focal:fraud" and "focal:1:fraud" name the positive class, "ordinal:S<M<L" the
        classes from the lowest on, each by its text. The attribute is a :class:`~tabmtl.targets.Kind`, whose text is
        the same; that of a fitted task names no class, which ``classes`` does.
    classes : tuple, optional
        The class labels in the order of the columns of ``predict_proba``. Left out, they are learned from the
        labels in ``fit``: in the order of an ordered category (of pandas, or an Enum of polars), else sorted. For a
        binary task, the second is the positive class: fraud, for the kind "binary:fraud". Of ordered classes the lowest
        comes first.
    metric : str or sequence of str, optional
        Name of the score in :mod:`tabmtl.metrics.scores`; the default is that of the kind: ROC AUC of classes (macro
        one-vs-rest of many), the quadratic kappa of ordered classes, R² of regressions, and D², the explained share of
        the loss, of other numbers. Metrics by group, such as "gauc" and "ndcg@10" (:mod:`tabmtl.metrics.groups`), need
        the ``groups`` of fit. Of several names the first is the score that is watched, and becomes the attribute; the
        others are only reported. `make_task_metric` makes a metric of a function of one's own or of scikit-learn.
    weight : float, default=1.0
        Factor of the task's loss in training. Must be finite and not negative.
    monotone : mapping of str to {-1, 0, 1}, optional
        Columns of numbers with which the answer must not fall (1) or not rise (-1), all else being equal: the number,
        or the probability of the second class. `IndependentTasks` alone keeps it; other estimators refuse the task.
    class_weight : "balanced" or mapping of class to number, optional
        Factors of the weights of labels in training, by class; classes left out have 1, so ``{"yes": 10.0}`` weighs the
        positive class of two. "balanced" is n / (K count), of n labels and K classes, as scikit-learn has it. Scores
        do not know it. Probabilities are those of classes that come as often as their weights say. The attribute holds
        pairs of class and weight.

    more_metrics : sequence of str, default=()
        The other scores; ``metric`` of several names sets them. The one of ``metric`` is left out.

    Attributes
    ----------
    thresholds : tuple of float, or None
        Probabilities at which a fitted model answers classes, as ``tune_thresholds`` has set them. Of two classes, that
        of the second from which on it is the answer; without it, the more probable class is. Of K ordered classes,
        K - 1: an answer rises by a class as long as the probability of the classes above it reaches the next of them;
        without them, it is the median.

    Raises
    ------
    ValueError
        If the kind is unknown, the classes or a metric do not fit the kind, the weight is not a finite number >= 0,
        that of a class is not above 0 or it is no class, the name or a class is no valid Unicode, or a sign of
        ``monotone`` is another number, or the kind takes none.
    """

    #: Fields that files of earlier releases lack.
    later_fields: ClassVar[tuple[str, ...]] = ("monotone", "class_weight", "more_metrics", "thresholds")

    name: str
    kind: Kind
    classes: tuple | None = None
    metric: str | None = None
    weight: float = 1.0
    monotone: dict[str, int] | None = field(default=None, hash=False)
    class_weight: str | tuple[tuple[Any, Any], ...] | None = None
    more_metrics: tuple[str, ...] = ()
    thresholds: tuple[float, ...] | None = field(default=None, init=False, compare=False)

    def __init__(
        self,
        *,
        name: str,
        kind: str | Kind,
        classes: tuple | None = None,
        metric: str | Sequence[str] | None = None,
        weight: float = 1.0,
        monotone: Mapping[str, int] | None = None,
        class_weight: Any = None,
        more_metrics: Sequence[str] = (),
    ) -> None:
        if isinstance(kind, Kind):
            if not is_dataclass(kind):
                raise TypeError(f"task {name!r}: {type(kind).__name__} is no dataclass; write @dataclass(frozen=True)")
        else:
            try:
                kind = find_kind(kind)
            except ValueError as error:
                raise ValueError(f"task {name!r}: {error}") from None
        if not 0 <= weight < float("inf"):
            raise ValueError(f"task {name!r}: weight must be a finite number >= 0, got {weight!r}")
        classes = None if classes is None else tuple(classes)
        for text in (name, *(classes or ())):
            if isinstance(text, str) and not (text.isascii() or is_unicode(text)):
                raise ValueError(f"task {name!r}: {text!r} is no valid Unicode; rename it")
        if classes is not None:
            kind.check(name, classes)
        bounds = _signs(name, kind, {} if monotone is None else monotone)
        values: dict[str, Any] = {"name": name, "kind": kind, "classes": classes, "weight": weight}
        values["metric"], *values["more_metrics"] = _read_metrics(name, metric, more_metrics)
        _check_metrics(name, kind, (values["metric"], *values["more_metrics"]))
        values["more_metrics"] = tuple(values["more_metrics"])
        values["monotone"] = bounds
        values["class_weight"] = _read_class_weight(name, kind, classes, class_weight)
        values["thresholds"] = None
        for attribute, value in values.items():
            object.__setattr__(self, attribute, value)

    @classmethod
    def of_file(cls, **facts: Any) -> Task:
        """Return a task that a file describes.

        A metric that neither the kind knows nor `load` was given is left out, with a warning.
        """
        thresholds = facts.pop("thresholds", None)
        given, task = own_metrics.get(), cls(**facts | {"metric": None, "more_metrics": ()})
        if given is None:  # no file, but what one would hold
            return cls(**facts).at(thresholds)
        named = _read_metrics(task.name, facts.get("metric"), facts.get("more_metrics", ()))
        known: list[str] = []
        for name in filter(None, named):
            found = name if _has_metric(task.kind, name) else given.get(name)
            known += [] if found is None else [found]
            if found is None and name not in given:
                given[name] = None  # which says it once
                warn_user(
                    f"task {task.name!r}: the file names the metric {name!r}, which {task.kind} tasks do not have, so "
                    "it is left out; give it again: load(path, metrics=[...])"
                )
        if any(named) and not known:
            known = [next(iter(task.kind.metrics))]
        facts["metric"], facts["more_metrics"] = known or None, ()
        return cls(**facts).at(thresholds)

    @cached_property
    def names_classes(self) -> bool:
        """Whether the classes, or the positive one of two, are declared."""
        return self.classes is not None or self.kind != self.kind.fitted()

    @cached_property
    def is_classification(self) -> bool:
        """Whether the target holds class labels."""
        return self.kind.answer == "probabilities"

    @cached_property
    def is_binary(self) -> bool:
        """Whether the target holds two classes, with one score."""
        return self.is_classification and self.width == 1

    @cached_property
    def width(self) -> int:
        """Number of raw scores a model gives for this task: one, or several where there are more than two classes."""
        return self.kind.width(self.classes)

    def at(self, thresholds: Sequence[float] | None) -> Task:
        """Return the task with thresholds, or without.

        Raises
        ------
        ValueError
            If the kind takes none, or they are others than one probability for each class but the first.
        """
        found = copy(self)
        object.__setattr__(found, "thresholds", _read_thresholds(self, thresholds))
        return found

    def judged_by(self, metric: str | Sequence[str]) -> Task:
        """Return the task as other metrics judge it, at the same thresholds."""
        first, *others = [metric] if isinstance(metric, str) else metric
        return replace(self, metric=first, more_metrics=tuple(others)).at(self.thresholds)

    def decide(self, answers: np.ndarray) -> np.ndarray:
        """Return the labels (n,) that answers predict: classes at the thresholds, if there are any."""
        return self.kind.decide(answers) if self.thresholds is None else self.kind.decide(answers, self.thresholds)

    def check_monotone(self, columns: Columns) -> None:
        """Raise a ValueError if `monotone` names an unknown column, or one of categories, which have no order."""
        signs = self.monotone or {}
        known = [*columns.numeric, *columns.categorical]
        for name in signs:
            parts = [part for part in known if part.startswith(f"{name}: ")]
            if parts and name not in known:
                raise ValueError(
                    f"task {self.name!r}: monotone names the column {name!r}, which is read in parts; name one of "
                    f"these, such as {parts[0]!r}: {parts}"
                )
        check_known(f"task {self.name!r}: monotone names columns", signs, known, "the model")
        coded = [name for name in columns.categorical if name in signs]
        if coded:
            raise ValueError(
                f"task {self.name!r}: monotone needs columns of numbers, and {coded[0]!r} holds categories, which have "
                "no order; leave it out, or make numbers of it"
            )


def _read_metrics(name: str, metric: Any, more: Sequence[str]) -> list[str | None]:
    """Return the name of the metric that is watched, and those of the others; raise a ValueError for anything else."""
    is_one = metric is None or isinstance(metric, str)
    given = ((more,) if isinstance(more, str) else more) if is_one else metric
    is_sequence = isinstance(given, list | tuple) and (is_one or len(given) > 0)  # a set has no first
    if not (is_sequence and all(isinstance(each, str) for each in given)):
        raise ValueError(
            f"task {name!r}: {'more_metrics' if is_one else 'metric'} must be the name of a score, or a tuple of "
            f"several, such as ('roc_auc', 'average_precision'), got {given!r}; wrap a function, such as that of a "
            "scorer, by make_task_metric"
        )
    found = [metric, *(each for each in given if each != metric)] if is_one else [*given]
    twice = next((each for i, each in enumerate(found) if each in found[:i]), None)
    if twice is not None:
        raise ValueError(f"task {name!r}: metric names {twice!r} twice; leave one of them out")
    return found


def _has_metric(kind: Kind, metric: str) -> bool:
    """Return whether a metric judges a kind: one of its own, or a function of `make_task_metric`."""
    return hasattr(metric, "response_method") or find_metric(kind.metrics, metric) is not None


def _check_metrics(name: str, kind: Kind, metrics: Sequence[str | None]) -> None:
    """Raise a ValueError for a metric that the kind of a task does not have."""
    for metric in metrics:
        if metric is not None and not _has_metric(kind, metric):
            raise ValueError(
                f"task {name!r}: metric {metric!r} does not fit {kind} tasks; choose one of {list(kind.metrics)}"
                f"{near_metric(metric, kind.metrics)}"
            )


def _read_thresholds(task: Task, given: Any) -> tuple[float, ...] | None:
    """Return thresholds as a tuple; raise a ValueError unless they fit the kind and the classes of a task."""
    if given is None:
        return None
    if not task.kind.takes_thresholds:
        raise ValueError(
            f"task {task.name!r}: thresholds are for two classes, or for ordered ones, and a {task.kind} task has "
            f"others, got {given!r}"
        )
    expected = len(task.classes or ()) - 1
    is_sequence = isinstance(given, list | tuple) and len(given) == expected
    if not (is_sequence and all(isinstance(each, Real) and 0 <= float(each) <= NEVER for each in given)):
        raise ValueError(f"task {task.name!r}: thresholds must be {expected} numbers from 0 to 1, got {given!r}")
    return tuple(map(float, given))


def _signs(name: str, kind: Kind, monotone: Mapping[str, int]) -> dict[str, int] | None:
    """Return the signs of the columns with which a task is monotone, other than 0; raise an error for others."""
    if not isinstance(monotone, Mapping) or not all(isinstance(column, str) for column in monotone):
        raise TypeError(
            f"task {name!r}: monotone must map columns of X to 1 or -1, such as {{'age': 1}}, got {monotone!r}"
        )
    for column, sign in monotone.items():
        if isinstance(sign, bool) or sign not in (-1, 0, 1):
            raise ValueError(
                f"task {name!r}: monotone must be 1 for a column with which the answer must not fall, -1 where it must "
                f"not rise, or 0, got {sign!r} for {column!r}"
            )
    found = {column: int(sign) for column, sign in monotone.items() if sign}
    if found and not kind.takes_monotone:
        raise ValueError(
            f"task {name!r}: LightGBM cannot keep answers to {kind} tasks monotone; leave monotone out, or declare "
            "another kind"
        )
    return found or None


def refuse_monotone(tasks: Sequence[Task], method: str) -> None:
    """Raise a ValueError for a task that is monotone in a column, which a method cannot promise."""
    for task in tasks:
        if task.monotone:
            raise ValueError(
                f"task {task.name!r} has monotone={task.monotone}, which {method} cannot promise; fit "
                "IndependentTasks, or leave monotone out"
            )


def _read_class_weight(
    name: str, kind: Kind, classes: tuple | None, given: Any
) -> str | tuple[tuple[Any, Any], ...] | None:
    """Return weights of classes as pairs; raise a ValueError unless they fit the kind and the classes of a task."""
    found: str | tuple[tuple[Any, Any], ...] | None
    if given is None or (isinstance(given, str) and given == "balanced"):
        found = given
    else:
        pairs = [*given.items()] if isinstance(given, Mapping) else given
        if not isinstance(pairs, list | tuple) or not all(isinstance(pair, tuple) and len(pair) == 2 for pair in pairs):
            raise ValueError(
                f"task {name!r}: class_weight must be 'balanced', or map classes to numbers above 0, such as "
                f"{{'yes': 10.0}}, got {given!r}"
            )
        found = tuple((label.item() if isinstance(label, np.generic) else label, weight) for label, weight in pairs)
    if found is not None and kind.answer != "probabilities":
        raise ValueError(
            f"task {name!r}: class_weight is for tasks of classes, and a {kind} task has none, got {given!r}; weigh "
            "rows by sample_weight, or the whole task by weight"
        )
    for label, weight in found if isinstance(found, tuple) else ():
        if isinstance(weight, bool) or not (isinstance(weight, Real) and not weight <= 0 and weight <= float_info.max):
            raise ValueError(
                f"task {name!r}: the weight of the class {label!r} must be a finite number above 0, got {weight!r}; to "
                "learn nothing of a class, make its labels null"
            )
        if classes is not None and label not in classes:
            hint = near(label, [known for known in classes if isinstance(known, str)])
            raise ValueError(
                f"task {name!r}: class_weight names the class {label!r}, which its labels lack{hint}; expected one of "
                f"{list(classes)}"
            )
    return tuple((label, float(weight)) for label, weight in found) or None if isinstance(found, tuple) else found


class Tasks(tuple[Task, ...]):
    """The tasks of a fitted estimator, which a notebook shows as a table."""

    def _repr_html_(self) -> str:
        rows = [
            (
                each.name,
                str(each.kind),
                "" if each.classes is None else ", ".join(map(str, each.classes)),
                ", ".join(filter(None, (each.metric, *each.more_metrics))),
            )
            for each in self
        ]
        return html_table(("task", "kind", "classes", "metric"), rows)


def kind_blocks(tasks: Sequence[Task]) -> Iterator[tuple[Kind, list[int]]]:
    """Yield the tasks by kind: those of one score together, and each of several by itself."""
    blocks: dict[tuple[Kind, int | None], list[int]] = {}
    for t, task in enumerate(tasks):
        blocks.setdefault((task.kind, t if task.width > 1 else None), []).append(t)
    for (kind, _), columns in blocks.items():
        yield kind, columns
