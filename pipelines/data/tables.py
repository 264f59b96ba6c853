"""Tables: a real set with its roles, and rows with their targets, split into parts for a model."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from tabmtl import tuning
from tabmtl.base.schema import RandomSplitWarning
from tabmtl.pipelines.data import files
from tabmtl.pipelines.datasets import NAMES, load
from tabmtl.pipelines.datasets.base import PARTS
from tabmtl.pipelines.terminal import near, without_classes

if TYPE_CHECKING:
    from tabmtl.base.schema import Batch
    from tabmtl.metrics.intervals import ScoreInterval
    from tabmtl.targets import Task

TEXT = (pl.String, pl.Categorical, pl.Enum)
_LEAST_LISTS = 0.1  # share of the values of a column of lists in CSV that hold the sign between items
_PLAIN = {"transform": "none", "min_frequency": 1}  # encoding of features that no model reads


@dataclass(frozen=True, kw_only=True)
class DataSource(files.RowSource):
    """A data set by name, or a file, with its targets and features.

    Parameters
    ----------
    target : list of str
        COLUMN or COLUMN=KIND, repeatable: binary:fraud, focal, multiclass, ordinal:'S<M<L', regression, huber, gamma,
        quantile:.9, quantiles:.1:.5:.9, poisson, tweedie:1.7.
    task_column : str, optional
        Column that names each row's task, in a long table.
    categorical : list of str
        Column of numbers that are categories; may be repeated.
    text : list of str
        Column of free text, or none; may be repeated.
    drop : list of str
        Column to leave out, such as an id; may be repeated.
    metric : list of str
        TARGET=SCORE; may be repeated: the first is watched.
    class_weight : list of str
        TARGET=balanced, TARGET=CLASS:WEIGHT; may be repeated.
    monotone : list of str
        TARGET=COLUMN:1 must not fall with it, :-1 not rise.
    list_separator : str, optional
        Sign between the items of a list in CSV, such as ``|``.
    no_dates : bool
        Read dates of a CSV file as text.
    """

    target: list[str] = field(default_factory=list)
    task_column: str | None = None
    categorical: list[str] = field(default_factory=list)
    text: list[str] = field(default_factory=list)
    drop: list[str] = field(default_factory=list)
    metric: list[str] = field(default_factory=list)
    class_weight: list[str] = field(default_factory=list)
    monotone: list[str] = field(default_factory=list)
    list_separator: str | None = None
    no_dates: bool = False


class ScoredTables(files.PartedRows):
    """Base of rows of tables: the check of their features, and how their scores are shown and logged."""

    def check_features(self) -> None:
        """Raise an error that names a column which no model accepts, such as one of dates."""
        from tabmtl.columns.cures import library_of
        from tabmtl.encode.features import find_kinds

        X, categorical = self.example().head(1), self.facts.get("categorical_features", "from_dtype")
        features = X.select(pl.exclude(self.facts["task_column"] or []))
        texts = self.facts.get("text_features", ())
        # no values: lists of a row or two tell little
        find_kinds(features.schema, categorical, library_of(X), () if isinstance(texts, str) else texts)

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
            name: task if isinstance(task, str) else [str(task.kind), task.metric, *_limits_as_text(task)]
            for name, task in self.facts["tasks"].items()
        }
        return {
            "data": self.name,
            "split": self.split,
            "rows": self.sizes,
            "columns": {"features": X.columns, "targets": self.targets, **self.facts, "tasks": declared},
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
        dates = listed([name for name, dtype in X.schema.items() if dtype.is_temporal()])
        lists = listed([name for name, dtype in X.schema.items() if dtype.is_nested()])
        named = "; ".join(f"{what}: {names}" for what, names in (("dates", dates), ("lists", lists)) if names)
        n_features = X.width - len(self.facts.get("drop", ()))
        features = f"{n_features} features{f' ({named})' if named else ''}"
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
        watched = {} if estimator.learns_all_rows else self._watched
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
        learns_all = self.goes_on or estimator.learns_all_rows
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
        both = [model.answer_labelled(*self.parts[part], **rows) for model in (estimator, reference)]
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
        return self.parts["train"][0].drop(self.facts.get("drop", ())).head(5)

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
    is_set = source.data in NAMES
    frame, tasks, task_column, named = (_read_set if is_set else _read_table)(source)
    split_column = "split" if is_set else source.split_column
    check_roles(source, tasks, task_column)
    frame = _with_categories(frame, source)
    y = frame.select(list(tasks))
    facts: dict[str, Any] = {"tasks": declared_tasks(source, tasks, y.schema, y), "task_column": task_column}
    judging = source.group_column if _are_by_group(facts["tasks"].values()) else None
    unused = {*tasks, *files.known(frame, source.drop, "--drop"), *files.known(frame, [split_column], "--split-column")}
    facts |= {"drop": [judging]} if judging in unused else {}  # which scores read, and the estimator leaves out
    X = frame.drop(unused - {judging})
    labels = y.to_series() if task_column else y
    if whole:
        parts = {"all": np.arange(len(X))}
        split = "none"
    elif split_column:
        parts = _stored_split(frame[split_column])
        split = "stored with the set" if is_set else f"by the column {split_column}"
    else:
        marks = files.known(frame, [source.group_column], "--group-column")
        marks = [*marks, *files.known(frame, [source.time_column], "--time-column")]
        parts = _drawn_split(X.with_columns(frame[name] for name in marks), labels, facts, source)
        split = _describe_draw(source)
    if source.group_column:
        named = frame[source.group_column]
    groups = {} if named is None else {part: named[rows] for part, rows in parts.items()}
    times = {} if not source.time_column else {part: frame[source.time_column][rows] for part, rows in parts.items()}
    return TableRows(
        name=Path(source.data).stem,
        parts={part: (X[rows], labels[rows]) for part, rows in parts.items()},
        facts=facts | text_facts(source, X),
        split=split,
        origin=source.as_typed,
        groups=groups,
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


def _read_set(source: DataSource) -> Read:
    """Read features, chosen targets and split of a set, the kinds of the targets, no task column, and the groups."""
    if source.full and source.data != "flights":
        raise ValueError(f"--full applies to flights only: all rows of {source.data} are read anyway")
    data = load(source.data, folder=source.folder, full=source.full)
    kinds = _kinds(source.target, [*data.tasks])
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


def _read_table(source: DataSource) -> Read:
    """Read the columns of a file, the kinds of the targets where declared, and the task column."""
    from tabmtl.scale.paths import is_csv

    frame = files.read_file(Path(source.data), dates=False)
    tasks, task_column = read_roles(source, frame, source.data)
    others = (*tasks, task_column, *source.categorical, *source.text, *source.drop)
    if source.list_separator:
        if not is_csv(source.data):
            raise ValueError(f"--list-separator reads lists of CSV, and {source.data} holds its own: leave it out")
        frame = _with_lists(frame, source, (*others, source.group_column, source.time_column, source.split_column))
    if not source.no_dates:
        plain = [name for name in others if name != source.time_column]  # which may be dropped, and is read
        frame = (_with_dates if is_csv(source.data) else _without_dates)(frame, plain)
    return frame, tasks, task_column, None


def _with_lists(frame: pl.DataFrame, source: DataSource, others: Sequence[str | None]) -> pl.DataFrame:
    """Return a frame of CSV with text read as lists, in all columns but some; say where text with the sign stays text.

    A column holds lists if at least a tenth of its values has the sign between items. Free text, unless an option names
    it, does not.
    """
    from tabmtl.base.schema import warn_user
    from tabmtl.columns.tags import split_texts
    from tabmtl.columns.text import is_free_text, spread_rows

    sign = str(source.list_separator)
    texts = [own for own in frame.iter_columns() if own.dtype == pl.String and own.name not in others]
    holds = (own.alias("text").drop_nulls().str.contains(sign, literal=True) for own in texts)
    shares = {own.name: each.sum() / max(len(each), 1) for own, each in zip(texts, holds, strict=True)}
    held = [
        own
        for own in texts
        if shares[own.name] >= _LEAST_LISTS and (source.text or not is_free_text(own[spread_rows(len(own))]))
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
            "are free text; confirm it by --text or --categorical, or write lists to Parquet"
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


def _without_dates(frame: pl.DataFrame, others: Sequence[str | None]) -> pl.DataFrame:
    """Return a frame of Parquet, whose types are what somebody chose; name the text that is a date."""
    from tabmtl.base.schema import warn_user
    from tabmtl.columns.cures import by_dates
    from tabmtl.columns.date_text import find_text_dates

    for name, kind in find_text_dates(frame).items():
        if name not in others:
            warn_user(
                f"column {name!r} is text, so each of its values is a category, yet they are {kind.partition(' ')[0]}; "
                f"{by_dates('polars', name, kind)}; or say --no-dates"
            )
    return frame


def read_roles(source: DataSource, frame: pl.DataFrame, name: str) -> tuple[dict[str, str | None], str | None]:
    """Return the kinds of the targets of a frame, None where not declared, and the task column."""
    tasks = _kinds(source.target, frame.columns)
    if not tasks:
        raise ValueError(f"--target must name the columns of {name} to learn: {', '.join(frame.columns)}")
    files.known(frame, tasks, "--target")
    if source.task_column and len(tasks) > 1:
        raise ValueError(f"a long table has one --target, which every row's own task fills; got {len(tasks)}")
    files.known(frame, [source.task_column], "--task-column")
    return tasks, source.task_column


def _kinds(texts: list[str], columns: Sequence[str]) -> dict[str, str | None]:
    """Return the names of the targets, with their kinds where declared."""
    from tabmtl.targets import KINDS

    found: dict[str, str | None] = {}
    for text in texts:
        # a class may hold the sign too, as in a=ordinal:x=1<x=2
        splits = [(text[:i], text[i + 1 :]) for i, sign in enumerate(text) if sign == "="]
        declaring = [(name, kind) for name, kind in splits if kind.partition(":")[0] in KINDS]
        name, declared = [("", text), *splits, *declaring][-1]
        kind = declared if declaring else None
        if kind:
            _find_kind(text, kind)
        elif text not in columns and name in columns:
            raise ValueError(f"--target {text}: unknown kind {declared!r}: {near(declared, [*KINDS])}")
        name = name if kind else text
        if name in found:
            raise ValueError(f"--target names {name!r} twice")
        found[name] = kind
    return found


def _find_kind(text: str, kind: str) -> None:
    """Raise a ValueError unless a kind takes the parameters that --target gives it."""
    from tabmtl.targets import find_kind

    try:
        find_kind(kind)
    except ValueError as error:
        raise ValueError(f"--target {text}: {error}") from None


def declared_tasks(
    source: DataSource, tasks: Mapping[str, str | None], schema: Mapping[str, pl.DataType], y: pl.DataFrame | None
) -> dict[str, str | Task]:
    """Return what the options declare of the targets: their kinds, and tasks where other options name them.

    Parameters
    ----------
    source : DataSource
    tasks : mapping of str to str or None
        Kinds of the targets, None where not declared.
    schema : mapping of str to DataType
        Types of the columns.
    y : polars.DataFrame or None
        The labels, which tell the kinds of targets that a task is named of; None where no row is read.

    Raises
    ------
    ValueError
        If there is no such target, no such metric of its kind, or its weights of classes do not fit.
    """
    from tabmtl.targets import Task

    kinds = {name: kind for name, kind in tasks.items() if kind}
    metrics = _by_target("--metric", "NAME", source.metric, [*tasks])
    weights = _by_target("--class-weight", "balanced, or TARGET=CLASS:WEIGHT", source.class_weight, [*tasks])
    bounds = _by_target("--monotone", "COLUMN:1, or TARGET=COLUMN:-1", source.monotone, [*tasks])
    options = dict.fromkeys(bounds, "--monotone") | dict.fromkeys(weights, "--class-weight")
    options |= dict.fromkeys(metrics, "--metric")
    unknown = [name for name in options if name not in kinds]
    if unknown and y is None:
        option, name = options[unknown[0]], unknown[0]
        raise ValueError(f"{option} {name}=...: declare the kind too, such as --target {name}=binary")
    if unknown and y is not None:
        from tabmtl.encode import LabelCoder

        kinds |= {task.name: str(task.kind) for task in LabelCoder.fit(y.select(unknown)).column_tasks}
    found: dict[str, str | Task] = {name: kind for name, kind in tasks.items() if kind}
    for name in options:
        metric = _read_metrics(name, kinds[name], metrics.get(name, []))
        weight = _read_class_weight(name, schema[name], weights.get(name, []), y)
        signs = _read_monotone(name, kinds[name], bounds.get(name, []))
        try:
            found[name] = Task(name=name, kind=kinds[name], metric=metric, class_weight=weight, monotone=signs)
        except ValueError as error:
            raise ValueError(f"--class-weight {name}={weights[name][0]}: {error}") from None
    return found


def _by_target(option: str, form: str, texts: Sequence[str], targets: Sequence[str]) -> dict[str, list[str]]:
    """Return the values of an option by target."""
    found: dict[str, list[str]] = {}
    for text in texts:
        name, _, value = text.rpartition("=")
        if not (name and value):
            raise ValueError(f"{option} takes TARGET={form}, got {text!r}")
        if name not in targets:
            raise ValueError(f"{option} {text}: there is no target {name!r}: {near(name, targets)}")
        found.setdefault(name, []).append(value)
    return found


def _read_metrics(name: str, kind: str, metrics: Sequence[str]) -> Sequence[str] | None:
    """Return the metrics of a target; raise a ValueError unless targets of its kind have them."""
    for i, metric in enumerate(metrics):
        if metric in metrics[:i]:
            raise ValueError(f"--metric names {metric!r} of {name!r} twice")
        _check_metric(name, kind, metric)
    return metrics or None


def _read_class_weight(
    name: str, dtype: pl.DataType, texts: Sequence[str], y: pl.DataFrame | None
) -> str | dict[Any, float] | None:
    """Return the weights of classes of a target, whose labels are of a type, and in `y` where rows are read."""
    if not texts or [*texts] == ["balanced"]:
        return texts[0] if texts else None
    found: dict[Any, float] = {}
    for text in texts:
        label, _, weight = text.rpartition(":")
        is_known = dtype == pl.Boolean and label.lower() in ("true", "false")
        try:
            value = label if dtype in TEXT else label.lower() == "true" if is_known else float(label)
            number = float(weight)
        except ValueError:
            seen = "" if y is None else f", such as {y[name].drop_nulls().unique().sort().head(3).to_list()}"
            raise ValueError(
                f"--class-weight {name}={text}: expected {name}=balanced alone, or {name}=CLASS:WEIGHT, and labels are "
                f"{dtype}{seen}"
            ) from None
        if value in found:
            raise ValueError(f"--class-weight names the class {label} of {name!r} twice")
        found[value] = number
    return found


def _read_monotone(name: str, kind: str, texts: Sequence[str]) -> dict[str, int] | None:
    """Return the columns with which a target is monotone, and their signs; raise a ValueError for what is none."""
    from tabmtl.targets import Task

    found: dict[str, int] = {}
    for text in texts:
        column, _, sign = text.rpartition(":")
        if not column or sign not in ("1", "-1"):
            raise ValueError(f"--monotone {name}={text}: expected {name}=COLUMN:1 or {name}=COLUMN:-1")
        if column in found:
            raise ValueError(f"--monotone names the column {column!r} of {name!r} twice")
        found[column] = int(sign)
    try:
        return Task(name=name, kind=kind, monotone=found).monotone
    except ValueError as error:
        raise ValueError(f"--monotone {name}={texts[0]}: {error}") from None


def _limits_as_text(task: Task) -> list[str]:
    """Return the weights of classes of a task and its monotone columns, as those of a study: none where none are."""
    return [str(each) for each in (task.class_weight, task.monotone) if each is not None]


def _check_metric(name: str, kind: str, metric: str) -> None:
    """Raise a ValueError unless targets of this kind have the metric."""
    from tabmtl.metrics.metric import find_metric, near_metric
    from tabmtl.targets import find_kind

    known = find_kind(kind).metrics
    if find_metric(known, metric) is None:
        hint = near_metric(metric, known)
        raise ValueError(f"--metric {name}={metric}: {name} is {kind}, whose metrics are {', '.join(known)}{hint}")


def check_roles(source: DataSource, targets: Iterable[str], task_column: str | None) -> None:
    """Raise a ValueError if a column to drop, or that of groups or times, has another role."""
    roles = dict.fromkeys(targets, "a target") | ({task_column: "the task column"} if task_column else {})
    asked = [*(("--drop", name) for name in source.drop), ("--group-column", source.group_column)]
    asked.append(("--time-column", source.time_column))
    for option, name in asked:
        if name in roles:
            raise ValueError(f"{option} names {name!r}, which is {roles[name]}: leave one of the two out")


def text_facts(source: DataSource, features: pl.DataFrame) -> dict[str, Any]:
    """Return the parameter of estimators that names the columns of free text, if an option does."""
    if not source.text:
        return {}
    texts = (
        []
        if source.text == ["none"] and "none" not in features.columns
        else [*files.known(features, source.text, "--text")]
    )
    for name in texts:
        if features.schema[name] not in TEXT or name in source.categorical:
            what = "which --categorical names too" if name in source.categorical else "which holds no text"
            raise ValueError(f"--text names {name!r}, {what}: leave it out of one of the two")
    return {"text_features": texts}


def _with_categories(frame: pl.DataFrame, source: DataSource) -> pl.DataFrame:
    """Return the frame with its categorical columns as text."""
    chosen = frame.select(files.known(frame, source.categorical, "--categorical"))
    for name, dtype in chosen.schema.items():
        if dtype.is_nested() or dtype == pl.Binary:
            raise ValueError(f"--categorical {name}: the column has type {dtype}, which holds no categories")
    # text that is named a category is no free text
    types = [pl.Categorical if column.dtype == pl.String else pl.String for column in chosen.iter_columns()]
    return frame.with_columns(column.cast(kind) for column, kind in zip(chosen.iter_columns(), types, strict=True))


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
    coder = TableCoder.fit(frame, y, None, **roles, force=None, categorical="from_dtype", encoding=_PLAIN)
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
