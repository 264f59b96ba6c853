"""Labels of a frame to numbers and back: kinds are inferred or declared, null is unlabelled, wide and long meet."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import polars as pl

from tabmtl.encode.frames import Origin, read_targets, read_weights, write_targets
from tabmtl.schema import Kind, TabmtlWarning, Task

DeclaredTasks = Mapping[str, Kind | Task] | Sequence[Task]

_MAX_INFERRED_CLASSES = 20


@dataclass(frozen=True, kw_only=True)
class LabelCoder:
    """Fitted reading of the targets.

    ``encode`` gives an array (n, C) of float64: class indices for classification, own units for regression, NaN =
    unlabelled. C is the number of tasks T in the wide layout and 1 in the long one, where ``task_levels`` names
    the tasks that the rows belong to and all tasks share one kind.

    Attributes
    ----------
    tasks : tuple of Task
        In the order of y's columns (wide) or sorted by name (long).
    origin : Origin
    names : tuple of str
        Columns of y.
    dtypes : tuple of polars DataType
        Of the predictions, per column of y.
    center, scale : ndarray of shape (C,)
        Mean and standard deviation of the labelled rows of a regression target; 0 and 1 for classes.
    task_levels : tuple of str, or None
        Long layout: the tasks' names.
    """

    tasks: tuple[Task, ...]
    origin: Origin
    names: tuple[str, ...]
    dtypes: tuple[pl.DataType, ...]
    center: np.ndarray
    scale: np.ndarray
    task_levels: tuple[str, ...] | None = None

    @classmethod
    def fit(
        cls,
        y: Any,
        sample_weight: Any = None,
        *,
        tasks: DeclaredTasks | None = None,
        force: str | None = None,
        task_levels: Sequence[str] | None = None,
    ) -> LabelCoder:
        """Learn the kinds, classes and scales of the targets.

        Parameters
        ----------
        y : frame, series or array
            The targets; null and NaN are unlabelled.
        sample_weight : array of shape (n,) or (n, T), or frame, optional
            Labels of weight 0 are unlabelled.
        tasks : mapping of name to kind or Task, or sequence of Task, optional
            Declared kinds; they beat inferred ones. A sequence names the columns of an array by position.
        force : {"classification", "regression"}, optional
            Kind of every task that is not declared.
        task_levels : sequence of str, optional
            Long layout: the names of the tasks that the rows of the one target belong to.

        Raises
        ------
        ValueError
            If a task has no observed label, an infinite label or a single class, or a declaration does not fit.
        """
        frame, origin = read_targets(y)
        frame = _rename(frame, origin, tasks)
        declared = _declared(tasks, frame.columns)
        frame, _ = _without_weightless(frame, sample_weight)
        fitted = [_fit_task(frame[name], declared.get(name), force) for name in frame.columns]
        if task_levels is not None and len(fitted) != 1:
            raise ValueError(
                f"task_column needs one target, one label a row; y has {len(fitted)}: {frame.columns}"
            )
        coder = cls(
            tasks=tuple(fitted),
            origin=origin,
            names=tuple(frame.columns),
            dtypes=tuple(_output_dtype(frame[task.name], task) for task in fitted),
            center=np.zeros(len(fitted)),
            scale=np.ones(len(fitted)),
        )
        values = coder._encode_columns(frame)
        for j, task in enumerate(fitted):
            if task.kind == "regression":
                coder.center[j], coder.scale[j] = _center_and_scale(values[:, j])
        if task_levels is None:
            return coder
        long_tasks = tuple(replace(fitted[0], name=level) for level in task_levels)
        return replace(coder, tasks=long_tasks, task_levels=tuple(task_levels))

    def encode(self, y: Any, sample_weight: Any = None) -> tuple[np.ndarray, np.ndarray | None]:
        """Labels as numbers, and their weights.

        Frames are matched by name, arrays by position.

        Returns
        -------
        values : ndarray of float64, shape (n, C)
            NaN = unlabelled; a label of weight 0 is unlabelled.
        weight : ndarray of shape (n, C), or None without sample weights
            0 where unlabelled.

        Raises
        ------
        ValueError
            If a target is missing, or holds an infinite value or a label that fit did not see.
        """
        frame, origin = read_targets(y)
        if origin.ndim == 2 and origin.named and self.origin.named:
            missing = [name for name in self.names if name not in frame.columns]
            if missing:
                raise ValueError(f"y lacks the targets {missing}; it has {frame.columns}")
            frame = frame.select(self.names)
        elif frame.width != len(self.names):
            raise ValueError(f"y has {frame.width} targets, expected {len(self.names)}: {list(self.names)}")
        frame = frame.rename(dict(zip(frame.columns, self.names, strict=True)))
        frame, weight = _without_weightless(frame, sample_weight)
        values = self._encode_columns(frame)
        return values, None if weight is None else np.where(np.isnan(values), 0.0, weight)

    def _encode_columns(self, frame: pl.DataFrame) -> np.ndarray:
        pairs = zip(frame.iter_columns(), self.column_tasks(), strict=True)
        return np.column_stack([_encode_column(series, task) for series, task in pairs])

    def column_tasks(self) -> tuple[Task, ...]:
        """One task per column of y: in the long layout the tasks differ in name only."""
        if self.task_levels is None:
            return self.tasks
        return (replace(self.tasks[0], name=self.names[0]),)

    def standardize(self, values: np.ndarray) -> np.ndarray:
        """Encoded labels in training units, float32."""
        return ((values - self.center) / self.scale).astype(np.float32)

    def outputs(self, scores: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Raw scores (n, width) per column of y as probabilities (n, K), or values (n,) in own units."""
        results = []
        for j, (score, task) in enumerate(zip(scores, self.column_tasks(), strict=True)):
            score = score.astype(np.float64)
            if task.kind == "regression":
                results.append(score[:, 0] * self.scale[j] + self.center[j])
            elif task.kind == "binary":
                positive = 1 / (1 + np.exp(-np.clip(score[:, 0], -700, 700)))
                results.append(np.column_stack([1 - positive, positive]))
            else:
                exponent = np.exp(score - score.max(axis=1, keepdims=True))
                results.append(exponent / exponent.sum(axis=1, keepdims=True))
        return results

    def decode(self, outputs: Sequence[np.ndarray], index: Any = None) -> Any:
        """Outputs per column of y as predictions in y's container, with its names and dtypes.

        Parameters
        ----------
        outputs : sequence of ndarray
            Probabilities (n, K) or values (n,), as `outputs` gives them.
        index : pandas Index, optional
            Row labels of the answer where y was pandas.
        """
        columns = []
        for output, task, name, dtype in zip(
            outputs, self.column_tasks(), self.names, self.dtypes, strict=True
        ):
            if task.is_classification:
                labels = pl.Series(name, list(task.classes or ()))
                columns.append(labels.gather(np.argmax(output, axis=1)).cast(dtype))
            else:
                columns.append(pl.Series(name, output).cast(dtype))
        return write_targets(pl.DataFrame(columns), self.origin, index)

    def to_state(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """The coder as JSON-able facts and arrays."""
        facts = {
            "tasks": [asdict(task) for task in self.tasks],
            "origin": asdict(self.origin),
            "names": self.names,
            "dtypes": [_describe_dtype(dtype) for dtype in self.dtypes],
            "task_levels": self.task_levels,
        }
        return facts, {"center": self.center, "scale": self.scale}

    @classmethod
    def from_state(cls, facts: dict[str, Any], arrays: dict[str, np.ndarray]) -> LabelCoder:
        """The coder that `to_state` described."""
        origin = Origin(**{**facts["origin"], "dtypes": tuple(facts["origin"]["dtypes"])})
        levels = facts["task_levels"]
        return cls(
            tasks=tuple(Task(**task) for task in facts["tasks"]),
            origin=origin,
            names=tuple(facts["names"]),
            dtypes=tuple(_dtype_of(*description) for description in facts["dtypes"]),
            task_levels=None if levels is None else tuple(levels),
            **arrays,
        )


def _rename(frame: pl.DataFrame, origin: Origin, tasks: DeclaredTasks | None) -> pl.DataFrame:
    """Give unnamed targets the names a declaration has for them."""
    if tasks is None or origin.named:
        return frame
    names = list(tasks) if isinstance(tasks, Mapping) else [task.name for task in tasks]
    positional = not isinstance(tasks, Mapping) or (frame.width == 1 and len(names) == 1)
    if positional and len(names) == frame.width:
        return frame.rename(dict(zip(frame.columns, names, strict=True)))
    return frame


def _without_weightless(frame: pl.DataFrame, sample_weight: Any) -> tuple[pl.DataFrame, np.ndarray | None]:
    """The labels that count, null in place of those of weight 0, and the weights (n, C)."""
    weight = read_weights(sample_weight, frame.height, frame.columns)
    if weight is None:
        return frame, None
    weight = np.broadcast_to(weight.reshape(frame.height, -1), frame.shape)
    columns = [
        pl.select(pl.when(pl.Series(weight[:, j] > 0)).then(series).alias(series.name)).to_series()
        for j, series in enumerate(frame.iter_columns())
    ]
    return pl.DataFrame(columns), weight


def _declared(tasks: DeclaredTasks | None, columns: Sequence[str]) -> dict[str, Task]:
    if tasks is None:
        return {}
    if isinstance(tasks, Mapping):
        entries = {
            name: task if isinstance(task, Task) else Task(name=name, kind=task)
            for name, task in tasks.items()
        }
    else:
        entries = {task.name: task for task in tasks}
    unknown = [name for name in entries if name not in columns]
    if unknown:
        raise ValueError(f"tasks declares {unknown}, which y does not have; y has {list(columns)}")
    return entries


def _present(series: pl.Series) -> pl.Series:
    """The labelled values of a target."""
    series = series.drop_nulls()
    return series.drop_nans() if series.dtype.is_float() else series


def _fit_task(series: pl.Series, declared: Task | None, force: str | None) -> Task:
    """Kind and classes of one target."""
    name = series.name
    present = _present(series)
    if present.dtype.is_temporal() or not (
        _is_text(present) or present.dtype.is_numeric() or present.len() == 0
    ):
        raise TypeError(
            f"task {name!r}: labels of type {series.dtype} are neither classes nor numbers; cast them"
        )
    if present.len() == 0:
        raise ValueError(
            f"task {name!r} has no observed label: every value is missing (null or NaN); drop the task"
        )
    if present.dtype.is_float() and present.is_infinite().any():
        raise ValueError(f"task {name!r}: a label is infinite; replace it by null or a finite number")
    if declared is not None:
        return _with_classes(declared, present)
    if force == "regression" or (force is None and _looks_numeric(present)):
        return _with_classes(Task(name=name, kind="regression"), present)
    if force == "classification" and present.dtype.is_float() and not _is_whole(present):
        raise ValueError(
            f"Unknown label type: task {name!r} holds continuous numbers, and a classifier expects classes; "
            "use a regressor or the mixed estimator"
        )
    classes = _classes(present)
    return _with_classes(Task(name=name, kind="binary" if len(classes) == 2 else "multiclass"), present)


def _is_text(series: pl.Series) -> bool:
    return series.dtype in (pl.String, pl.Categorical, pl.Enum, pl.Boolean)


def _is_whole(series: pl.Series) -> bool:
    return bool((series == series.round()).all())


def _looks_numeric(present: pl.Series) -> bool:
    """Whether an undeclared target is a regression target."""
    if _is_text(present):
        return False
    values = present.unique()
    if present.dtype.is_float():
        return not set(values.to_list()) <= {0.0, 1.0}
    if len(values) <= 2:
        return False
    is_regression = len(values) > _MAX_INFERRED_CLASSES
    kind = "regression" if is_regression else "multiclass"
    warnings.warn(
        f"task {present.name!r} holds {len(values)} distinct whole numbers and was taken for {kind}; "
        f"say which it is: tasks={{{present.name!r}: {kind!r}}}",
        TabmtlWarning,
        stacklevel=2,
    )
    return is_regression


def _classes(present: pl.Series) -> tuple:
    values = present.cast(pl.String) if present.dtype in (pl.Categorical, pl.Enum) else present
    return tuple(values.unique().sort().to_list())


def _with_classes(task: Task, present: pl.Series) -> Task:
    """Complete a task by the classes its labels show, or check the declared ones."""
    if task.kind == "regression":
        if _is_text(present) and present.dtype != pl.Boolean:
            raise ValueError(
                f"task {task.name!r} is a regression task, but its labels are {present.dtype}; got text"
            )
        return task
    seen = _classes(present)
    if task.classes is not None:
        unknown = [label for label in seen if label not in task.classes]
        if unknown:
            raise ValueError(
                f"task {task.name!r}: labels {unknown} are not among its classes {list(task.classes)}"
            )
    elif len(seen) == 1:
        raise ValueError(
            f"task {task.name!r} has one single class, {seen[0]!r}, among its labels; a classifier needs at "
            "least two classes: drop the task, or declare its classes"
        )
    elif task.kind == "binary" and len(seen) != 2:
        raise ValueError(
            f"task {task.name!r} is binary, but its labels have {len(seen)} classes: {list(seen[:10])}"
        )
    return replace(task, classes=task.classes or seen)


def _encode_column(series: pl.Series, task: Task) -> np.ndarray:
    if not task.is_classification:
        if _is_text(series) and series.dtype != pl.Boolean:
            raise ValueError(f"task {task.name!r} expects numbers, got labels of type {series.dtype}")
        values = series.cast(pl.Float64).to_numpy()
        if np.isinf(values).any():
            raise ValueError(
                f"task {task.name!r}: a label is infinite; replace it by null or a finite number"
            )
        return values
    classes = pl.Series(list(task.classes or ()))
    if series.dtype in (pl.Categorical, pl.Enum):
        series = series.cast(pl.String)
    if series.dtype.is_float():
        series = series.fill_nan(None)
    if series.dtype == pl.Null or series.null_count() == len(series):
        return np.full(len(series), np.nan)
    if (classes.dtype == pl.String) != (series.dtype == pl.String):
        raise ValueError(
            f"task {task.name!r}: labels are {series.dtype}, expected ones like {classes.to_list()[:5]}"
        )
    codes = series.replace_strict(
        classes, np.arange(float(len(classes))), default=None, return_dtype=pl.Float64
    )
    unknown = series.filter(codes.is_null() & series.is_not_null())
    if len(unknown):
        raise ValueError(
            f"task {task.name!r}: the label {unknown[0]!r} was not seen in fit; expected one of {classes.to_list()}"
        )
    return codes.to_numpy()


def _center_and_scale(values: np.ndarray) -> tuple[float, float]:
    present = values[~np.isnan(values)]
    scale = float(present.std())
    return float(present.mean()), scale if scale > 0 and np.isfinite(scale) else 1.0


def _output_dtype(series: pl.Series, task: Task) -> pl.DataType:
    if task.is_classification:
        return series.dtype
    return pl.Float32() if series.dtype == pl.Float32 else pl.Float64()


def _describe_dtype(dtype: pl.DataType) -> tuple[str, list[str] | None]:
    name = str(type(dtype).__name__)
    return name, dtype.categories.to_list() if isinstance(dtype, pl.Enum) else None


def _dtype_of(name: str, categories: list[str] | None) -> pl.DataType:
    if categories is not None:
        return pl.Enum(categories)
    dtype = getattr(pl, name, None)
    if not (isinstance(dtype, type) and issubclass(dtype, pl.DataType)):
        raise ValueError(f"unknown label dtype {name!r}")
    return dtype()
