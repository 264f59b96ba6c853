"""Tables: a real set with its roles, and rows with their targets, split into parts for a model."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from tabmtl import tuning
from tabmtl.base.schema import RandomSplitWarning
from tabmtl.pipelines.data import files
from tabmtl.pipelines.data.declared import (
    TEXT,
    DataSource,
    check_roles,
    declared_tasks,
    kinds_of,
    read_declared,
    read_roles,
)
from tabmtl.pipelines.datasets import NAMES, load
from tabmtl.pipelines.datasets.base import PARTS
from tabmtl.pipelines.terminal import near, without_classes

if TYPE_CHECKING:
    from tabmtl.base.schema import Batch
    from tabmtl.columns.declared import Declared
    from tabmtl.metrics.intervals import ScoreInterval
    from tabmtl.targets import Task

_LEAST_LISTS = 0.1  # share of the values of a column of lists in CSV that hold the sign between items
_LISTS = ("tags", "vector", "sequence")
_PLAIN = {"transform": "none", "min_frequency": 1}  # encoding of features that no model reads


class ScoredTables(files.PartedRows):
    """Base of rows of tables: the check of their features, and how their scores are shown and logged."""

    def check_features(self) -> None:
        """Raise an error that names a column which no model accepts, such as one of dates."""
        from tabmtl.columns.reading import find_readings
        from tabmtl.encode.features import find_kinds

        schema = {name: dtype for name, dtype in self.example().schema.items() if name != self.facts["task_column"]}
        columns = {name: own for name, own in self.facts.get("columns", {}).items() if name not in self.ignored}
        schema |= {name: own.read_type for name, own in find_readings(columns, schema).items()}
        find_kinds(schema, columns)  # no values: lists of a row or two tell little

    @property
    def ignored(self) -> tuple[str, ...]:
        """Columns that are no features."""
        from tabmtl.columns.declared import ignored

        return ignored(self.facts.get("columns"))

    @staticmethod
    def shown(table: pl.DataFrame) -> pl.DataFrame:
        """Return the columns of `score_intervals` that are shown, one row per task."""
        order = ("task", "metric", "positive_class", "score", "low", "high", "labelled")
        shown = without_classes(table).rename({"n_labelled": "labelled"})
        return shown.select(name for name in order if name in shown.columns)

    def metrics(self, table: pl.DataFrame, part: str) -> dict[str, float | None]:
        """Return the scores of a `table` by ``<part>/<task>/<metric>``, as they are logged."""
        return {f"{part}/{row['task']}/{row['metric']}": row["score"] for row in table.iter_rows(named=True)}


@dataclass(frozen=True, kw_only=True, eq=False)
class TableRows(ScoredTables):
    """Rows of a table with their targets, in parts.

    Parameters
    ----------
    name : str
    parts : dict of str to (X, y)
    facts : dict
        ``tasks`` and ``task_column``.
    split : str
        How the parts were made.
    origin : str
        The options that gave them, as one types them.
    groups, times : dict of str to polars.Series
        Of a split by groups, or by time: those of every part.
    group_column : str or None
        Column of X that holds the groups, if a target is judged by group.
    list_separator : str or None
        Sign between the items of lists in the file, which models remember.
    goes_on : bool
        Whether `fit` lets a fitted model go on by these rows.
    """

    split: str
    origin: str
    groups: dict[str, pl.Series] = field(default_factory=dict)
    times: dict[str, pl.Series] = field(default_factory=dict)
    group_column: str | None = None
    list_separator: str | None = None
    goes_on: bool = False

    @property
    def sizes(self) -> dict[str, int]:
        """Rows of every part."""
        return {part: len(X) for part, (X, _) in self.parts.items()}

    @property
    def targets(self) -> list[str]:
        """Names of the target columns."""
        _, y = next(iter(self.parts.values()))
        return y.columns if isinstance(y, pl.DataFrame) else [y.name]

    @property
    def identity(self) -> dict[str, Any]:
        """Facts that tell these rows from others, as JSON, besides the values that an objective learns from."""
        from tabmtl.encode.read import checksum

        X, _ = next(iter(self.parts.values()))
        declared = {
            # weights of classes, and monotone columns, are named where there are some
            name: task
            if isinstance(task, str)
            else [str(task.kind), task.metric, *(str(own) for own in (task.class_weight, task.monotone) if own)]
            for name, task in self.facts["tasks"].items()
        }
        return {
            "data": self.name,
            "split": self.split,
            "rows": self.sizes,
            "columns": {"features": X.columns, "targets": self.targets, **self.facts_as_json, "tasks": declared},
            "categories": [name for name, dtype in X.schema.items() if dtype in TEXT],
            "test": [checksum(pl.DataFrame(rows)) for rows in self.parts.get("test", ())],
        }

    def describe(self) -> str:
        """Return one line on the rows and columns."""
        from tabmtl.base.schema import listed

        X, targets = next(iter(self.parts.values()))[0], self.targets
        tasks = f"{len(targets)} targets" if len(targets) > 1 else f"the target {targets[0]}"
        long = self.facts["task_column"]
        tasks = f"{tasks} of {X[long].n_unique()} tasks in one column" if long else tasks
        X = X.drop(self.ignored)
        dates = listed([name for name, dtype in X.schema.items() if dtype.is_temporal()])
        lists = listed([name for name, dtype in X.schema.items() if dtype.is_nested()])
        named = "; ".join(f"{what}: {names}" for what, names in (("dates", dates), ("lists", lists)) if names)
        features = f"{X.width} features{f' ({named})' if named else ''}"
        return f"{self.name}: {files.describe_sizes(self.sizes, self.unit)}; {features}, {tasks}"

    def fit(self, estimator: Any, judged: str | None = None) -> None:
        """Fit on the train rows; the validation rows stop the fit, or are learned too where they judge nothing.

        Parameters
        ----------
        estimator : estimator
        judged : {"val", "test"}, optional
            Part that will judge the fit; default `judged`.
        """
        learned = self._learned(estimator, judged or self.judged)
        X, y = (pl.concat(parts) for parts in zip(*(self.parts[part] for part in learned), strict=True))
        if self.goes_on:
            estimator.partial_fit(X, y)
            return
        watched = {} if estimator.__learns_all_rows__ else self._watched
        groups: Any = pl.concat([self.groups[part] for part in learned]) if self.groups and not watched else None
        if self.times and not watched:
            watched = {"time": pl.concat([self.times[part] for part in learned])}
        with warnings.catch_warnings(action="ignore", category=RandomSplitWarning):  # `_drawn_split` has said it
            estimator.fit(X, y, groups=self.group_column or groups, **watched)
        if self.list_separator is not None:
            from tabmtl.estimators.model import take_coder  # which loads scikit-learn

            take_coder(estimator, replace(estimator.coder_, list_separator=self.list_separator))

    def _learned(self, estimator: Any, judged: str | None) -> tuple[str, ...]:
        """Return the parts that a fit learns."""
        learns_all = self.goes_on or estimator.__learns_all_rows__
        return ("train", "val") if learns_all and judged != "val" else ("train",)

    def for_model(self, model: Any) -> TableRows:
        """Return the rows by which a fitted model goes on, with the columns that it knows."""
        parts = {part: (columns_for(model, X, "--data, for the model"), y) for part, (X, y) in self.parts.items()}
        return replace(self, parts=parts, goes_on=True)

    def learns_val(self, estimator: Any) -> bool:
        """Return whether `fit` gives an estimator the validation rows to learn."""
        return "val" in self._learned(estimator, self.judged)

    def scores(self, estimator: Any, part: str) -> dict[str, float | None]:
        """Return the score of every task."""
        return estimator.score_tasks(*self.parts[part])

    def table(self, estimator: Any, part: str) -> pl.DataFrame:
        """Return scores and their confidence intervals, one row per task."""
        return self.shown(estimator.score_intervals(*self.parts[part], groups=self.groups.get(part)))

    def differences(self, estimator: Any, reference: Any, part: str) -> tuple[pl.DataFrame, ScoreInterval]:
        """Return the scores of two models, their paired differences, one row per task, and the mean difference."""
        from tabmtl.inspection.comparison.judging import differences_at_once, differences_of
        from tabmtl.metrics.intervals import ScoreInterval
        from tabmtl.metrics.scores import score_tasks

        rows = {"groups": self.groups.get(part)}
        both = [model.__labelled_answers__(*self.parts[part], **rows) for model in (estimator, reference)]
        found, _ = differences_of(both[:1], both[1:])
        by_task, overall = differences_at_once({"": found})
        scores, references = (score_tasks(*each) for each in both)
        columns = {"task": list(scores), "score": list(scores.values()), "reference": list(references.values())}
        intervals = by_task.select("task", "difference", low="difference_low", high="difference_high")
        mean = overall.row(0)[1:5] if found else (None,) * 4
        return pl.DataFrame(columns).join(intervals, on="task", how="left", maintain_order="left"), ScoreInterval(*mean)

    def objective(self, estimator: Any, *, per_task: bool, search_space: Mapping[str, Any]) -> tuning.Objective:
        """Make the objective of a search: fit on the train rows, score the validation rows."""
        options = {**self._watched, "groups": self.group_column, "per_task": per_task, "search_space": search_space}
        return tuning.objective(estimator, *self.parts["train"], **options)

    def log_fitted(self, callback: Any, estimator: Any) -> None:
        """Log the facts of a finished fit, with scores of the validation rows if it has not learned them."""
        watched = {} if self.learns_val(estimator) else self._watched
        callback.log_fitted(estimator, *self.parts["train"], **watched)

    def example(self) -> pl.DataFrame:
        """Return some rows, as an input example."""
        return self.parts["train"][0].drop(self.ignored).head(5)

    @property
    def _watched(self) -> dict[str, Any]:
        X, y = self.parts["val"]
        return {"X_val": X, "y_val": y}


def columns_for(model: Any, X: pl.DataFrame, option: str) -> pl.DataFrame:
    """Return the columns that a fitted model knows, and those of groups that its scores read.

    Raises
    ------
    ValueError
        If X lacks one; the message begins with an option.
    """
    names = list(getattr(model, "feature_names_in_", X.columns))
    grouped = model.coder_.group_column
    names += [grouped] if grouped in X.columns and grouped not in names else []
    return X.select(files.known(X, names, option))


def open_table(source: DataSource, *, whole: bool = False) -> TableRows:
    """Read a table; the split comes from the set, from a column of a file, or is drawn.

    Parameters
    ----------
    source : DataSource
    whole : bool, default=False
        All rows of a file as one part "all".

    Raises
    ------
    ValueError, OSError
        If the table cannot be read, an option does not fit it, or the split cannot be made.
    """
    from tabmtl.columns.declared import Ignore, ignored

    is_set = source.data in NAMES
    source, columns = read_declared(source)
    frame, tasks, task_column, named = (_read_set if is_set else _read_table)(source, columns)
    split_column = "split" if is_set else source.split_column
    check_roles(source, columns, tasks, task_column)
    files.known(frame, columns, "--column")
    y = frame[[*tasks]]
    facts: dict[str, Any] = {"tasks": declared_tasks(source, tasks, y.schema, y), "task_column": task_column}
    judging = source.group_column if _are_by_group(facts["tasks"].values()) else None
    unused = {*tasks, *ignored(columns), *files.known(frame, [split_column], "--split-column")}
    columns = {name: own for name, own in columns.items() if name not in unused}
    columns |= {judging: Ignore()} if judging in unused else {}  # which scores read, and the estimator leaves out
    facts |= {"columns": columns} if columns else {}
    X = frame.drop(unused - {judging})
    labels = y.to_series() if task_column else y
    if whole:
        parts, split = {"all": np.arange(len(X))}, "none"
    elif split_column:
        split = "stored with the set" if is_set else f"by the column {split_column}"
        parts = _stored_split(frame[split_column])
    else:
        marks = files.known(frame, [source.group_column], "--group-column")
        marks += files.known(frame, [source.time_column], "--time-column")
        split, parts = _describe_draw(source), _drawn_split(X.with_columns(frame.select(marks)), labels, facts, source)
    named = frame[source.group_column] if source.group_column else named
    times = {} if not source.time_column else {part: frame[source.time_column][rows] for part, rows in parts.items()}
    return TableRows(
        name=Path(source.data).stem,
        parts={part: (X[rows], labels[rows]) for part, rows in parts.items()},
        facts=facts,
        split=split,
        origin=source.as_typed,
        groups={} if named is None else {part: named[rows] for part, rows in parts.items()},
        times=times,
        group_column=judging,
        list_separator=source.list_separator,
    )


def _describe_draw(source: DataSource) -> str:
    """Say how parts are drawn."""
    unit = f" by {source.group_column}" if source.group_column else ""
    by = f"the newest by {source.time_column}" if source.time_column else f"by seed {source.split_seed}"
    return f"drawn{unit}: {source.val_share:g} val and {source.test_share:g} test {by}"


def _are_by_group(tasks: Iterable[str | Task]) -> bool:
    """Return whether a target is judged by a metric that compares groups of rows."""
    from tabmtl.metrics.scores import is_by_group

    return any(not isinstance(task, str) and is_by_group(task) for task in tasks)


Read = tuple[pl.DataFrame, dict[str, str | None], str | None, pl.Series | None]


def _read_set(source: DataSource, columns: Collection[str]) -> Read:
    """Read features, chosen targets and split of a set, the kinds of the targets, no task column, and the groups."""
    if source.full and source.data != "flights":
        raise ValueError(f"--full applies to flights only: all rows of {source.data} are read anyway")
    data = load(source.data, folder=source.folder, full=source.full)
    kinds = kinds_of(source.target, [*data.tasks])
    for name in kinds:
        if name not in data.tasks:
            raise ValueError(f"{source.data} has no target {name!r}: {near(name, [*data.tasks])}")
    tasks: dict[str, str | None]
    tasks = {name: kinds.get(name) or kind for name, kind in data.tasks.items() if not kinds or name in kinds}
    with files.readable(source.data):
        parts = [data.features, data.targets.select(list(tasks)), data.split, data.table.select(data.groups or [])]
        *frames, groups = pl.collect_all(parts)
    named = groups.to_series() if data.groups else None
    return pl.concat(frames, how="horizontal"), tasks, None, named


def _read_table(source: DataSource, columns: Mapping[str, Declared]) -> Read:
    """Read the columns of a file, the kinds of the targets where declared, and the task column."""
    from tabmtl.scale.paths import is_csv

    frame = files.read_file(Path(source.data), dates=False)
    tasks, task_column = read_roles(source, frame, source.data)
    others = (*tasks, task_column, *columns)
    lists = [name for name, own in columns.items() if own.name in _LISTS and frame.schema.get(name) == pl.String]
    if source.list_separator:
        if not is_csv(source.data):
            raise ValueError(f"--list-separator reads lists of CSV, and {source.data} holds its own: leave it out")
        of_split = (source.group_column, source.time_column, source.split_column)
        frame = _with_lists(frame, source.list_separator, lists, {*others, *of_split} - {*lists})
    elif lists and is_csv(source.data):
        raise ValueError(f"--column {lists[0]}={columns[lists[0]]}: say by --list-separator what parts its items")
    if not source.no_dates and is_csv(source.data):
        # a column of times that is no feature is read as well
        frame = _with_dates(frame, [name for name in others if name != source.time_column])
    return frame, tasks, task_column, None


def _with_lists(frame: pl.DataFrame, sign: str, lists: Collection[str], others: Collection[str | None]) -> pl.DataFrame:
    """Return a frame of CSV with text read as lists, in all columns but some; say where text with the sign stays text.

    A column holds lists if it is declared so, or if at least a tenth of its values has the sign between items and it
    is no free text.
    """
    from tabmtl.base.schema import warn_user
    from tabmtl.columns.cures import by_column
    from tabmtl.columns.tags import split_texts
    from tabmtl.columns.text import is_free_text, spread_rows

    texts = [own for own in frame.iter_columns() if own.dtype == pl.String and own.name not in others]
    holds = (own.alias("text").drop_nulls().str.contains(sign, literal=True) for own in texts)
    shares = {own.name: each.sum() / max(len(each), 1) for own, each in zip(texts, holds, strict=True)}
    held = [
        own
        for own in texts
        if own.name in lists or (shares[own.name] >= _LEAST_LISTS and not is_free_text(own[spread_rows(len(own))]))
    ]
    if not held:
        raise ValueError(
            f"--list-separator {sign}: no column of text but free text holds it in {_LEAST_LISTS:.0%} of its values, "
            f"of {[*shares]}"
        )
    names = [own.name for own in held]
    left = [name for name, share in shares.items() if share and name not in names]
    if left:
        warn_user(
            f"the columns {left} hold {sign!r} and stay text: less than {_LEAST_LISTS:.0%} of their values do, or they "
            f"are free text; confirm it by {by_column(left, 'text')}, or another kind"
        )
    return frame.with_columns(split_texts(own, sign) for own in held)


def _with_dates(frame: pl.DataFrame, others: Sequence[str | None]) -> pl.DataFrame:
    """Return a frame of CSV with text that is a date read as such, in all columns but some; say what is lost."""
    from tabmtl.base.schema import counted, warn_user
    from tabmtl.columns.date_text import NOTHING, find_text_dates, with_dates

    found = {name: kind for name, kind in find_text_dates(frame).items() if name not in others}
    read = with_dates(frame, found)
    for name, kind in found.items():
        lost = frame[name].filter(read[name].is_null() & ~frame[name].is_in(NOTHING))
        if len(lost):
            warn_user(
                f"column {name!r} holds {kind.partition(' ')[0]}, but for {counted(len(lost), 'value')} such as "
                f"{lost[0]!r}, missing from now on: mend the file, or say --no-dates, which reads all as text"
            )
    return read


def _stored_split(column: pl.Series) -> dict[str, np.ndarray]:
    values = set(column.unique().to_list())
    if not {"train", "val"} <= values <= {*PARTS}:
        raise ValueError(
            f"--split-column {column.name}: expected train, val and perhaps test in every row, got "
            f"{', '.join(sorted(map(str, values))[:6])}"
        )
    return {part: np.flatnonzero((column == part).to_numpy()) for part in PARTS if part in values}


def _drawn_split(X: pl.DataFrame, y: Any, facts: Mapping[str, Any], source: DataSource) -> dict[str, np.ndarray]:
    """Draw parts that each hold labels of every task and class, where there are enough rows; or the newest rows."""
    from tabmtl.encode import TableCoder
    from tabmtl.encode.read import read_groups
    from tabmtl.model_selection.repeats import number_groups
    from tabmtl.model_selection.suspects import warn_of_random_split
    from tabmtl.model_selection.times import times_of_fit

    long = facts["task_column"]
    # without the features: they do not matter here, and those that are dropped later may have types no model takes
    frame = pl.DataFrame({"": np.zeros(len(X)), **({long: X[long]} if long else {})})
    declared = facts["tasks"].items()
    free = {name: each if isinstance(each, str) else replace(each, monotone=None) for name, each in declared}
    roles = {"tasks": free, "task_column": long}
    coder = TableCoder.fit(frame, y, None, **roles, force=None, columns={}, encoding=_PLAIN)
    batch = coder.read(frame, y)
    shares = {"test": source.test_share, "val": source.val_share}
    if source.group_column:
        group = number_groups(read_groups(source.group_column, X, len(X)))
        n_parts = 1 + sum(share > 0 for share in shares.values())
        if group.max() + 1 < n_parts:
            raise ValueError(
                f"--group-column {source.group_column}: expected a group for each of {n_parts} parts, got "
                f"{group.max() + 1}: name a column with smaller groups, or give the split by --split-column"
            )
        batch = replace(batch, group=group)
    batch = replace(batch, time=times_of_fit(source.time_column, X, len(X)))
    if batch.time is None:
        dates = [each.name for each in X if each.dtype in (pl.Date, pl.Datetime) and not each.null_count()]
        warn_of_random_split(dates, len(X))
    return _cut(batch, coder.labels.tasks, shares, source.split_seed)


def _cut(batch: Batch, tasks: Sequence[Task], shares: Mapping[str, float], seed: int) -> dict[str, np.ndarray]:
    """Return the row numbers of every part: the newest ones by their times, or random ones."""
    from tabmtl.model_selection.folds import train_valid_split
    from tabmtl.model_selection.times import newest_split

    rng = np.random.default_rng(seed)
    parts, left = {"train": np.arange(len(batch))}, 1.0
    for part, share in shares.items():
        if not share:
            continue
        rows = parts["train"]
        own = batch.rows(rows)
        if own.time is None:
            kept, drawn = train_valid_split(own.y, tasks, share / left, rng, own.task, own.group)
        else:
            kept, drawn = newest_split(own.y, tasks, share / left, own.time, own.task, own.group)
        parts |= {"train": rows[kept], part: rows[drawn]}
        left -= share
    return {part: parts[part] for part in PARTS if part in parts}
