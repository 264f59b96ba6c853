"""Convert the labels of a frame to numbers and back, with null for unlabelled, in the wide and the long layout."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Annotated, Any, ClassVar

import numpy as np
import polars as pl
import polars.selectors as cs

from tabmtl.base.forks import check_pool
from tabmtl.base.params import check_known
from tabmtl.base.schema import warn_about
from tabmtl.base.storage.stored import POSITIVE, Stored
from tabmtl.columns.category import describe_numbers
from tabmtl.columns.cures import by_kind
from tabmtl.columns.kind import LeanPickle
from tabmtl.columns.writing import by_reading, written_as
from tabmtl.encode.read import read_targets, read_weights
from tabmtl.encode.tasks import DeclaredTasks, check_type, declared_tasks, fit_task
from tabmtl.encode.write import ORDERED, Origin, write_targets
from tabmtl.targets import Task
from tabmtl.targets.classes import class_values
from tabmtl.targets.decisions import Decisions
from tabmtl.targets.decisions.conformal import Conformal, check_level
from tabmtl.targets.funnel import settle_funnel, with_steps_before
from tabmtl.targets.kind import Units


class Answers(list[np.ndarray]):
    """Answers per column of y, of which all predictions are made.

    Parameters
    ----------
    outputs : sequence of ndarray
        Probabilities (n, K), values (n,) or quantiles (n, L).
    own_task : ndarray of int, shape (n,), or None
        Long layout: the task of every row.
    """

    def __init__(self, outputs: Sequence[np.ndarray], own_task: np.ndarray | None = None) -> None:
        super().__init__(outputs)
        self.own_task = own_task


@dataclass(frozen=True, kw_only=True, eq=False)
class LabelCoder(LeanPickle):
    """Fitted encoding of the targets.

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
        Of the labelled rows, as the units of the kind say; 0 and 1 for classes.
    task_levels : tuple of str, or None
        Long layout: the tasks' names.
    chain : tuple of int
        Indices of the steps of a funnel, in order; see :func:`tabmtl.targets.funnel.settle_funnel`.
    decisions : Decisions or None
        What the model has learned after its fit, of rows that it had not seen.
    """

    #: Fields that files of earlier releases lack.
    later_fields: ClassVar[tuple[str, ...]] = ("decisions",)

    tasks: tuple[Task, ...]
    origin: Origin
    names: Annotated[tuple[str, ...], Stored(shape="C", distinct=True)]
    dtypes: Annotated[tuple[pl.DataType, ...], Stored(shape="C")]
    center: Annotated[np.ndarray, Stored("f8", "C")]
    scale: Annotated[np.ndarray, Stored("f8", "C", low=POSITIVE)]
    task_levels: Annotated[tuple[str, ...], Stored(distinct=True)] | None = None
    chain: tuple[int, ...] = ()
    decisions: Decisions | None = None

    def __post_init__(self) -> None:
        found, expected = tuple(task.name for task in self.tasks), self.task_levels or self.names
        if found != expected:
            raise ValueError(f"the tasks are {found[:5]}, expected {expected[:5]}")
        if len(self.names) != 1 and (self.task_levels is not None or self.origin.ndim == 1):
            raise ValueError(f"y has the columns {self.names[:5]}, expected one")
        if not all(0 <= step < len(self.tasks) for step in self.chain):
            raise ValueError(f"the steps of the funnel are {self.chain}, expected numbers below {len(self.tasks)}")
        for task in self.tasks:
            if task.kind.answer == "probabilities" and not 1 < len(class_values(task.name, task.classes)) == len(
                set(task.classes or ())
            ):
                raise ValueError(f"task {task.name!r} has the classes {task.classes}, expected several distinct ones")
        if self.decisions is not None:
            self.decisions.check(self.tasks)

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
            Declared kinds; they override inferred ones. A sequence names the columns of an array by position.
        force : {"classification", "regression"}, optional
            Kind of every task that is not declared.
        task_levels : sequence of str, optional
            Long layout: the names of the tasks that the rows of the one target belong to.

        Raises
        ------
        ValueError
            If a task has no observed label, an infinite or a huge label, or a single class, or a declaration does not
            fit.
        """
        frame, origin = read_labels(y)
        frame = name_targets(frame, origin, tasks)
        declared = declared_tasks(tasks, frame.columns)
        maybe_whole = _holed_floats(frame, origin)
        frame, _ = without_weightless(frame, sample_weight)
        coder = cls.learn(
            frame, origin, declared=declared, force=force, task_levels=task_levels, maybe_whole=maybe_whole
        )
        return coder.scaled([*coder._encode_columns(frame).T])

    def scaled(self, values: Sequence[np.ndarray]) -> LabelCoder:
        """Return labels whose columns have the centers and the scales of values."""
        center, scale = np.zeros(len(values)), np.ones(len(values))
        for j, (task, own) in enumerate(zip(self.column_tasks, values, strict=True)):
            if task.kind.units != "own":
                center[j], scale[j] = center_and_scale(own, task.kind.units)
        return replace(self, center=center, scale=scale)

    @classmethod
    def learn(
        cls,
        labels: pl.DataFrame,
        origin: Origin,
        *,
        declared: Mapping[str, Task],
        force: str | None,
        task_levels: Sequence[str] | None,
        maybe_whole: Sequence[str] = (),
    ) -> LabelCoder:
        """Learn kinds and classes, and leave the scales to the caller.

        Parameters
        ----------
        labels : polars DataFrame
            Per target all values that occur, as often as may be.
        origin : Origin
        declared : mapping of str to Task
        force, task_levels
            As in `fit`.
        maybe_whole : sequence of str, default=()
            Targets of floats that were whole numbers before some went missing, if what is left is whole.
        """
        fitted = [
            fit_task(
                series,
                declared.get(series.name),
                force,
                categories=categories,
                is_ordered=dtype == ORDERED,
                may_be_whole=series.name in maybe_whole,
            )
            for series, dtype, categories in zip(labels.iter_columns(), origin.dtypes, origin.categories, strict=True)
        ]
        if force is None:
            _warn_of_text([task for task in fitted if task.name not in declared], labels, origin)
        if task_levels is not None and len(fitted) != 1:
            raise ValueError(f"task_column needs one target, one label a row; y has {len(fitted)}: {labels.columns}")
        coder = cls(
            tasks=tuple(fitted),
            origin=replace(origin, categories=with_unseen(origin.categories, fitted)),
            names=tuple(labels.columns),
            dtypes=tuple(task.kind.dtype(labels[task.name], task.classes) for task in fitted),
            center=np.zeros(len(fitted)),
            scale=np.ones(len(fitted)),
        )
        if task_levels is None:
            return coder
        long_tasks = tuple(replace(fitted[0], name=level) for level in task_levels)
        return replace(coder, tasks=long_tasks, task_levels=tuple(task_levels))

    def beside(
        self, y: Any, sample_weight: Any = None, *, tasks: DeclaredTasks | None = None, force: str | None = None
    ) -> tuple[LabelCoder, pl.DataFrame, pl.DataFrame | None]:
        """Learn the targets of a wide table that stand beside those known.

        Parameters
        ----------
        y, sample_weight, tasks, force : as in `fit`
            Targets that are known may be among those of y; array columns are numbered on.

        Returns
        -------
        coder : LabelCoder
            Of the known targets, and of the new ones behind them.
        labels : polars DataFrame of shape (n, T)
            Of all targets of the coder, null where y has none.
        weight : polars DataFrame of shape (n, T), or None

        Raises
        ------
        ValueError
            If y has no new target, comes from another library than y of fit, or a target does not fit; see `fit`.
        """
        frame, origin = read_labels(y)
        if not origin.named and not tasks:
            frame = frame.rename(dict(zip(frame.columns, _numbered_on(self.names, frame.width), strict=True)))
        frame = name_targets(frame, origin, tasks)
        new = [name for name in frame.columns if name not in self.names]
        if not new:
            raise ValueError(
                f"y holds no new target, for the model has {frame.columns} already; give the new one another name, or "
                "part with the old one by remove_task"
            )
        if origin.container != self.origin.container:
            raise ValueError(
                f"y comes from {origin.container}, and y of fit from {self.origin.container}, in which predictions go "
                f"back; give the targets {new} as {self.origin.container} has them"
            )
        maybe_whole = _holed_floats(frame, origin)
        declared = declared_tasks(tasks, new)
        labelled, _ = without_weightless(frame, sample_weight)
        labelled = pl.DataFrame({name: labelled[name] for name in new})
        own = origin.of([frame.columns.index(name) for name in new])
        added = self.learn(labelled, own, declared=declared, force=force, task_levels=None, maybe_whole=maybe_whole)
        coder = self._joined(added.scaled([*added._encode_columns(labelled).T]))
        return coder, *_in_columns_of(coder, frame, read_weights(sample_weight, frame.height, frame.columns))

    def _joined(self, other: LabelCoder) -> LabelCoder:
        """Return the coder of the targets of both, those of the other behind."""
        return replace(
            self,
            tasks=self.tasks + other.tasks,
            origin=self.origin.beside(other.origin),
            names=self.names + other.names,
            dtypes=self.dtypes + other.dtypes,
            center=np.concatenate([self.center, other.center]),
            scale=np.concatenate([self.scale, other.scale]),
            decisions=None if self.decisions is None else self.decisions.of(_behind(self.tasks, len(other.tasks))),
        )

    def with_levels(self, levels: Sequence[str]) -> LabelCoder:
        """Return the coder of a long table whose rows may belong to further tasks, which come behind those known."""
        return replace(
            self,
            tasks=self.tasks + tuple(replace(self.tasks[0], name=level) for level in levels),  # without its thresholds
            task_levels=(*(self.task_levels or ()), *levels),
            decisions=None if self.decisions is None else self.decisions.of(_behind(self.tasks, len(levels))),
        )

    def without(self, name: str) -> LabelCoder:
        """Return the coder without one of several tasks.

        Raises
        ------
        ValueError
            If the task is a step of a funnel.
        """
        names = [task.name for task in self.tasks]
        t = names.index(name)
        if t in self.chain:
            steps = [names[step] for step in self.chain]
            raise ValueError(
                f"task {name!r} is a step of the funnel {steps}, whose steps answer by each other; fit again without it"
            )
        kept = [place for place in range(len(names)) if place != t]
        own: dict[str, Any] = {
            "decisions": None if self.decisions is None else self.decisions.of(kept),
            "chain": tuple(step - (step > t) for step in self.chain),
        }
        if self.task_levels is None:
            return replace(self.of(kept), **own)
        levels = tuple(self.task_levels[place] for place in kept)
        return replace(self, **own, tasks=tuple(self.tasks[place] for place in kept), task_levels=levels)

    def encode(self, y: Any, sample_weight: Any = None) -> tuple[np.ndarray, np.ndarray | None]:
        """Encode labels as numbers, with their weights.

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
            If a target is missing, or holds an infinite or a huge value, or an unseen label.
        """
        frame, weight = without_weightless(self.targets_of(y), sample_weight)
        values = settle_funnel(self._encode_columns(frame), self.tasks, self.chain)
        if weight is None:
            return values, None
        values = np.where(weight > 0, values, np.nan)  # a label that a funnel sets may have weight 0
        return values, np.where(np.isnan(values), 0.0, weight)

    def targets_of(self, y: Any) -> pl.DataFrame:
        """Return the targets of fit in their order: frames are matched by name, arrays by position."""
        frame, origin = read_labels(y)
        if origin.ndim == 2 and origin.named and self.origin.named:
            missing = [name for name in self.names if name not in frame.columns]
            if missing:
                raise ValueError(
                    f"y lacks the targets {missing}; it has {frame.columns}; give nulls for a target without labels"
                )
            frame = pl.DataFrame({name: frame[name] for name in self.names})
        elif frame.width != len(self.names):
            raise ValueError(f"y has {frame.width} targets, expected {len(self.names)}: {list(self.names)}")
        for name, labels in zip(self.names, frame.iter_columns(), strict=True):
            check_type(name, labels)
        return frame.rename(dict(zip(frame.columns, self.names, strict=True)))

    def _encode_columns(self, frame: pl.DataFrame) -> np.ndarray:
        pairs = zip(frame.iter_columns(), self.column_tasks, strict=True)
        # a name like "^a$" would be a pattern
        columns = [task.kind.encode(series.alias(""), task.name, task.classes) for series, task in pairs]
        return np.column_stack(columns)

    @cached_property
    def column_tasks(self) -> tuple[Task, ...]:
        """One task per column of y: in the long layout the tasks differ in name only."""
        if self.task_levels is None:
            return self.tasks
        return (replace(self.tasks[0], name=self.names[0]),)  # without its thresholds

    def places(self, tasks: str | Sequence[str]) -> tuple[int, ...]:
        """Return the numbers of the columns of y with the names of some tasks.

        Raises
        ------
        ValueError, TypeError
            If there are none, one is unknown or named twice, or the table is long.
        """
        names = [tasks] if isinstance(tasks, str) else tasks
        if not isinstance(names, Sequence) or not all(isinstance(name, str) for name in names):
            raise TypeError(f"tasks must be the name of a task or a sequence of names, got {tasks!r}")
        known = {task.name: place for place, task in enumerate(self.tasks)}
        if not names:
            raise ValueError(f"tasks is empty; name some of {[*known]}, or leave it out for all")
        if self.task_levels is not None:
            raise ValueError(
                f"tasks={tasks!r} is for wide tables: a row of a long one is answered for its own task only; leave "
                "tasks out, and give the rows of the tasks that are to be answered"
            )
        check_known("tasks names tasks", names, [*known], "y of fit")
        twice = [name for name, count in Counter(names).items() if count > 1]
        if twice:
            raise ValueError(f"tasks names {twice} more than once; name each task once")
        return tuple(known[name] for name in names)

    def of(self, places: Sequence[int], *, is_flat: bool = False) -> LabelCoder:
        """Return the encoding of some columns of a wide y, in this order, without what intervals are made of.

        Parameters
        ----------
        places : sequence of int
            Numbers of the columns.
        is_flat : bool, default=False
            Whether the one column is decoded flat, whatever y of fit was.
        """
        decisions = None if self.decisions is None else replace(self.decisions.of(places), conformal=None)
        return replace(
            self,
            tasks=tuple(self.tasks[t] for t in places),
            origin=replace(self.origin.of(places), ndim=1 if is_flat else self.origin.ndim),
            names=tuple(self.names[t] for t in places),
            dtypes=tuple(self.dtypes[t] for t in places),
            center=self.center[[*places]],
            scale=self.scale[[*places]],
            chain=tuple(places.index(t) for t in self.chain if t in places),
            decisions=decisions,
        )

    def deciding(self, places: tuple[int, ...]) -> tuple[int, ...]:
        """Return columns, and behind them the steps of a funnel whose calibrated answers bound theirs."""
        learned = () if self.decisions is None else self.decisions.calibrators
        is_calibrated = any(learned[t] is not None for t in (self.chain if learned else ()))
        return with_steps_before(places, self.chain) if is_calibrated else places

    def standardize(self, values: np.ndarray) -> np.ndarray:
        """Return encoded labels in training units, float32."""
        return ((values - self.center) / self.scale).astype(np.float32)

    def outputs(self, scores: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Turn raw scores (n, width) per column of y into probabilities (n, K), or values (n,) in own units."""
        parts = zip(scores, self.column_tasks, self.center, self.scale, strict=True)
        with np.errstate(over="ignore"):  # 1 / (1 + inf) is 0
            return [task.kind.answers(score.astype(np.float64), own, unit, np) for score, task, own, unit in parts]

    def decided(self, outputs: Sequence[np.ndarray], own_task: np.ndarray | None = None) -> Answers:
        """Return answers, which are outputs behind the calibrators of the model; steps of a funnel stay in order.

        Parameters
        ----------
        outputs : sequence of ndarray
            As `outputs` gives them.
        own_task : ndarray of int, shape (n,), optional
            Long layout: the task of every row; a negative one is of no task, and its row stays as it is.
        """
        found = Answers(outputs, own_task)
        learned = () if self.decisions is None else self.decisions.calibrators
        calibrators = {t: calibrator for t, calibrator in enumerate(learned) if calibrator is not None}
        for t, calibrator in calibrators.items():
            if self.task_levels is None:
                found[t] = calibrator(found[t])
            elif len(rows := np.flatnonzero(self._checked(found[0], own_task) == t)):
                found[0] = found[0].astype(np.float64)  # a copy
                found[0][rows] = calibrator(found[0][rows])
        for before, after in itertools.pairwise(self.chain if calibrators.keys() & set(self.chain) else ()):
            taken = np.minimum(found[before][:, 1], found[after][:, 1])  # a step comes after the one before it
            found[after] = np.column_stack([1 - taken, taken])
        return found

    def decode(self, outputs: Sequence[np.ndarray], index: Any = None) -> Any:
        """Turn outputs per column of y into predictions in y's container, with its names and dtypes.

        Parameters
        ----------
        outputs : Answers, or sequence of ndarray
            Probabilities (n, K) or values (n,), as `decided` gives them.
        index : pandas Index, optional
            Row labels of the answer where y was pandas.
        """
        columns = {}
        parts = zip(self.column_tasks, outputs, self._classes, self.names, self.dtypes, strict=True)
        for task, output, classes, name, dtype in parts:
            found = self._decide(task, output, getattr(outputs, "own_task", None))
            if classes is None:
                columns[name] = pl.Series(found, dtype=dtype)
            else:
                columns[name] = classes[pl.Series(found.astype(np.uint32))].cast(dtype)  # by which polars looks up
        return write_targets(pl.DataFrame(columns), self.origin, index)

    def intervals(
        self,
        outputs: Sequence[np.ndarray],
        level: float,
        groups: Any = None,
        joint: bool = False,
        places: Sequence[int] | None = None,
    ) -> pl.DataFrame:
        """Name what holds the labels of rows: ``<task>_low`` and ``<task>_high`` of numbers, ``<task>_set`` of classes.

        Parameters
        ----------
        outputs : Answers, or sequence of ndarray
            As `decided` gives them.
        level : float
        groups : sequence of length n, optional
            Group of every row.
        joint : bool, default=False
            Whether all numbers of a row are held together.
        places : sequence of int, optional
            Numbers of the columns of y that the outputs are of; all by default.

        Raises
        ------
        ValueError
            If nothing was learned of intervals, or groups are lacking or in vain, or labels are too few for the level.
        """
        conformal = self.conformal
        check_level(level)
        learned = [task for task, own in zip(self.tasks, conformal.tasks, strict=True) if own is not None]
        if joint and (self.task_levels is not None or all(task.is_classification for task in learned)):
            raise ValueError(
                "joint=True holds the numbers of a row together, and conformalize was given none; leave it out"
                if self.task_levels is None
                else "joint=True holds the numbers of a row together, and a row of a long table has one; leave it out"
            )
        group = None if groups is None else conformal.numbers(groups)
        own_task = self._checked(outputs[0], getattr(outputs, "own_task", None)) if self.task_levels else None
        found = conformal.spans(self.tasks, outputs, level, places, group=group, own_task=own_task, joint=joint)
        columns: dict[str, pl.Series] = {}
        for column, span in zip(range(len(self.names)) if places is None else places, found, strict=True):
            name, classes, dtype = self.names[column], self._classes[column], self.dtypes[column]
            if span is not None and classes is None:
                bounds = {"low": span.low, "high": span.high}
                columns |= {f"{name}_{side}": pl.Series(own, nan_to_null=True) for side, own in bounds.items()}
            elif span is not None and classes is not None:
                check_pool()
                row, label = np.nonzero(span.classes)
                labels = classes[pl.Series(label.astype(np.uint32))].cast(dtype)
                sets = pl.DataFrame({"row": row, "set": labels}).group_by("row").agg("set")
                every = pl.DataFrame({"row": np.arange(len(span.classes))})
                columns[f"{name}_set"] = every.join(sets, on="row", how="left", maintain_order="left")["set"]
        return pl.DataFrame(columns)

    def check_conformal(self, places: Sequence[int], *, joint: bool) -> None:
        """Raise a ValueError if there are no intervals of some columns of a wide y, or none that hold together."""
        held = self.conformal.tasks
        lacking = [self.names[t] for t in places if held[t] is None]
        if lacking:
            raise ValueError(
                f"conformalize was not given the tasks {lacking}; leave them out of tasks, or name them there"
            )
        classes = [self.names[t] for t in places if joint and self.tasks[t].is_classification]
        if classes:
            raise ValueError(f"joint=True holds numbers together, and {classes} have classes; leave them out of tasks")

    @property
    def conformal(self) -> Conformal:
        """Scores that intervals are made of; a ValueError if none were learned."""
        found = None if self.decisions is None else self.decisions.conformal
        if found is None or not any(found.tasks):
            raise ValueError(
                "intervals need labelled rows that fit has not seen: call conformalize(X, y) with such rows first"
            )
        return found

    def _decide(self, task: Task, output: np.ndarray, own_task: np.ndarray | None) -> np.ndarray:
        """Return the labels (n,) that answers to a column of y predict, in the long layout those of each row's task."""
        found = task.decide(output)
        if self.task_levels is None or all(each.thresholds is None for each in self.tasks):
            return found
        own_task = self._checked(output, own_task)
        for t, each in enumerate(self.tasks):
            if each.thresholds is not None and len(rows := np.flatnonzero(own_task == t)):
                found[rows] = each.decide(output[rows])
        return found

    def _checked(self, output: np.ndarray, own_task: np.ndarray | None) -> np.ndarray:
        """Return the tasks of the rows of a long table; raise a ValueError if they are not given."""
        if own_task is None and len(output):
            raise ValueError(f"decisions of {self.names[0]!r} differ by task; give the tasks of rows beside answers")
        return np.zeros(0, dtype=np.intp) if own_task is None else own_task

    def in_frames(self) -> LabelCoder:
        """Return a coder that decodes answers as polars frames, whatever y of fit was."""
        return replace(self, origin=replace(self.origin, container="polars", ndim=2))

    def probabilities(self, outputs: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
        """Name the probabilities (n,) of every class, of classification tasks only; see `probability_names`.

        Parameters
        ----------
        outputs : sequence of ndarray
            As `outputs` gives them.
        """
        names = probability_names(self.column_tasks)
        return {
            name: values
            for own, output in zip(names, outputs, strict=True)
            for name, values in zip(own, output.T, strict=bool(own))
        }

    def quantiles(self, outputs: Sequence[np.ndarray]) -> tuple[pl.DataFrame, Origin]:
        """Name the quantiles of every level ``<task>_q<level>``, of tasks with several; return the container too.

        Parameters
        ----------
        outputs : sequence of ndarray
            As `outputs` gives them.
        """
        columns, places = {}, []
        for j, (task, output, name) in enumerate(zip(self.column_tasks, outputs, self.names, strict=True)):
            for level, values in zip(task.kind.levels, output.T, strict=bool(task.kind.levels)):
                columns[f"{name}_q{level}"] = pl.Series(values, dtype=self.dtypes[j])
                places.append(j)
        dtypes = tuple(self.origin.dtypes[j] for j in places)
        origin = replace(self.origin, ndim=2, dtypes=dtypes, categories=(None,) * len(places))
        return pl.DataFrame(columns), origin

    @cached_property
    def _classes(self) -> tuple[pl.Series | None, ...]:
        """Class labels per column of y, None of a regression."""
        tasks = self.column_tasks
        return tuple(class_values(task.name, task.classes) if task.is_classification else None for task in tasks)


def probability_names(tasks: Sequence[Task]) -> list[list[str]]:
    """Return the names ``<task>=<class>`` of the probabilities of every task; none for a regression.

    Raises
    ------
    ValueError
        If two of them have one name.
    """
    names = [[f"{task.name}={label}" for label in task.classes or ()] for task in tasks]
    counts = Counter(itertools.chain.from_iterable(names))
    twice = next((name for name, count in counts.items() if count > 1), None)
    if twice is not None:
        raise ValueError(f"two probabilities would be called {twice!r}, <task>=<class>; rename a task or a class")
    return names


def _in_columns_of(
    coder: LabelCoder, frame: pl.DataFrame, weight: np.ndarray | None
) -> tuple[pl.DataFrame, pl.DataFrame | None]:
    """Return labels and weights in the columns of a coder: null, and of weight 1, where y has none."""
    pairs = zip(coder.names, coder.dtypes, strict=True)
    nulls = {name: pl.Series([None] * frame.height, dtype=dtype) for name, dtype in pairs}
    labels = pl.DataFrame({name: frame[name] if name in frame.columns else nulls[name] for name in coder.names})
    if weight is None:
        return labels, None
    columns = np.broadcast_to(weight.reshape(frame.height, -1), frame.shape)
    given = dict(zip(frame.columns, columns.T, strict=True))
    return labels, pl.DataFrame({name: given.get(name, np.ones(frame.height)) for name in coder.names})


def _behind(tasks: Sequence[Task], n: int) -> list[int | None]:
    """Return the places of tasks, and of n new ones behind them."""
    return [*range(len(tasks)), *[None] * n]


def _numbered_on(names: Sequence[str], n: int) -> list[str]:
    """Return the names of n columns of an array, as `read_targets` numbers them, behind known ones."""
    return list(itertools.islice((name for i in itertools.count(len(names)) if (name := f"y{i}") not in names), n))


def read_labels(y: Any) -> tuple[pl.DataFrame, Origin]:
    """Read the columns of y, decimals as floats, and remember their container."""
    frame, origin = read_targets(y)
    return frame.with_columns(cs.decimal().cast(pl.Float64)), origin


def name_targets(frame: pl.DataFrame, origin: Origin, tasks: DeclaredTasks | None) -> pl.DataFrame:
    """Name unnamed targets as in the declaration."""
    if tasks is None or origin.named:
        return frame
    names = list(tasks) if isinstance(tasks, Mapping) else [task.name for task in tasks]
    positional = not isinstance(tasks, Mapping) or (frame.width == 1 and len(names) == 1)
    if positional and len(names) == frame.width:
        return frame.rename(dict(zip(frame.columns, names, strict=True)))
    return frame


def _holed_floats(frame: pl.DataFrame, origin: Origin) -> list[str]:
    """Return the floats with missing values whose library makes floats of whole numbers for lack of a null."""
    return [
        series.name
        for series, dtype in zip(frame.iter_columns(), origin.dtypes, strict=True)
        if origin.container in ("pandas", "numpy") and dtype.startswith("float") and series.alias("").is_nan().any()
    ]


def _warn_of_text(tasks: Sequence[Task], labels: pl.DataFrame, origin: Origin) -> None:
    """Warn of classes of text that are nearly all numbers, or dates or numbers in another writing."""
    are_categories = dict(zip(labels.columns, origin.categories, strict=True))
    for task in tasks:
        if labels[task.name].dtype != pl.String or are_categories[task.name] is not None:
            continue
        classes = pl.Series(task.classes, dtype=pl.String).sort()
        found, kinds = describe_numbers(classes), written_as(classes)
        if kinds is not None:
            found = "dates or numbers in another writing"
            cure = by_reading(task.name, kinds[0])
        elif found is not None:
            cure = "if they are quantities, make numbers of them, and null where there is none"
        if found is not None:
            warn_about(
                [task.name],
                f"task {task.name!r} is text, so each of its {len(task.classes or ())} values is a class, yet they are "
                f"{found}; {cure}, or say that they are classes: {by_kind(task.name, 'multiclass')}",
            )


def without_weightless(frame: pl.DataFrame, sample_weight: Any) -> tuple[pl.DataFrame, np.ndarray | None]:
    """Return the labels, null where the weight is 0, and the weights (n, C)."""
    weight = read_weights(sample_weight, frame.height, frame.columns)
    if weight is None:
        return frame, None
    weight = np.broadcast_to(weight.reshape(frame.height, -1), frame.shape)
    columns = {
        series.name: pl.select(pl.when(pl.Series(weight[:, j] > 0)).then(series)).to_series()
        for j, series in enumerate(frame.iter_columns())
    }
    return pl.DataFrame(columns), weight


def with_unseen(categories: Sequence[tuple | None], tasks: Sequence[Task]) -> tuple[tuple | None, ...]:
    """Add declared classes to the categories of pandas that lack them."""
    return tuple(
        values if values is None else (*values, *(label for label in task.classes or () if label not in values))
        for values, task in zip(categories, tasks, strict=True)
    )


def center_and_scale(values: np.ndarray, units: Units) -> tuple[float, float]:
    """Return what is subtracted from the present values, and what they are divided by."""
    present = values[~np.isnan(values)]
    center, scale = float(present.mean()), float(present.std())
    if scale == 0:
        farthest = float(np.abs(present - center).max())  # the squares of tiny numbers are 0
        scale = farthest * float((present / farthest).std()) if farthest > 0 else 1.0
    return in_units(center, scale or 1.0, units)


def in_units(mean: float, deviation: float, units: Units) -> tuple[float, float]:
    """Return center and scale, given mean and standard deviation; the mean square is the sum of their squares."""
    return (mean, deviation) if units == "standardized" else (0.0, math.hypot(mean, deviation))
