"""What options, or the file of one of them, declare of targets and columns."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from tabmtl.pipelines.data import files
from tabmtl.pipelines.terminal import near

if TYPE_CHECKING:
    from tabmtl.columns.declared import Declared
    from tabmtl.targets import Task

TEXT = (pl.String, pl.Categorical, pl.Enum)
_TABLES = ("tasks", "columns")
_OF_TARGETS = ("kind", "metric", "class_weight", "monotone")


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
    column : list of str
        NAME=KIND, repeatable: number, number:, category, category:'S<M<L', date, date:%m/%d/%Y, text, tags, vector,
        sequence:ITEM, ignore; of clicks, in --items.
    tasks : Path, optional
        TOML file of [tasks] and [columns], NAME = "KIND".
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
    column: list[str] = field(default_factory=list)
    tasks: Path | None = None
    metric: list[str] = field(default_factory=list)
    class_weight: list[str] = field(default_factory=list)
    monotone: list[str] = field(default_factory=list)
    list_separator: str | None = None
    no_dates: bool = False


def read_declared(source: DataSource) -> tuple[DataSource, dict[str, Declared]]:
    """Return the source with the tasks of its file as options, and what is declared of columns, by name.

    Raises
    ------
    ValueError, OSError
        If the file cannot be read, or a declaration is none.
    """
    from tabmtl.columns.declared import DECLARED, find_declared

    said = {"tasks": {}, "columns": {}} if source.tasks is None else _read_file(source.tasks)
    columns = {name: _column_of(f"{source.tasks}: columns.{name}", each) for name, each in said["columns"].items()}
    for text in source.column:
        name, kind = _split(text, DECLARED)
        if not name:
            raise ValueError(f"--column takes NAME=KIND, such as zip=category, got {text!r}")
        if name in columns:
            raise ValueError(f"--column {text}: {name!r} is declared twice")
        columns[name] = _as_option(f"--column {text}", find_declared, kind)
    options: dict[str, list[str]] = {"target": [], "metric": [], "class_weight": [], "monotone": []}
    for name, task in said["tasks"].items():
        for option, values in _options_of(f"{source.tasks}: tasks.{name}", task).items():
            options[option] += [f"{name}={value}" for value in values]
    expanded: dict[str, Any] = {name: [*values, *getattr(source, name)] for name, values in options.items()}
    return replace(source, **expanded), columns


def _read_file(path: Path) -> dict[str, dict[str, Any]]:
    """Read the tables of tasks and of columns from a file."""
    try:
        found = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"--tasks {path} cannot be read as TOML: {error}") from None
    for name, table in found.items():
        if name not in _TABLES or not isinstance(table, dict):
            raise ValueError(f"--tasks {path}: expected the tables [tasks] and [columns], got {name!r}")
    return {name: found.get(name, {}) for name in _TABLES}


def _column_of(where: str, said: Any) -> Declared:
    """Return what a file declares of a column: a text, or a table of a kind and its options."""
    from tabmtl.columns.declared import DECLARED, find_declared

    if isinstance(said, str):
        return _as_option(where, find_declared, said)
    if not isinstance(said, dict) or said.get("kind") not in DECLARED:
        raise ValueError(f"{where}: expected a kind, or a table with one of {[*DECLARED]} as kind, got {said!r}")
    cls = DECLARED[said["kind"]]
    known = [each.name for each in fields(cls) if each.name not in cls.code_fields]
    options = {name: tuple(own) if isinstance(own, list) else own for name, own in said.items() if name != "kind"}
    for name in options:
        if name not in known:
            raise ValueError(f"{where}: a {cls.name} has no option {name!r}; {near(name, known)}")
    return _as_option(where, cls, **options)


def _options_of(where: str, said: Any) -> dict[str, list[Any]]:
    """Return what a file declares of a target as values of options."""
    table = {"kind": said} if isinstance(said, str) else said
    if not isinstance(table, dict) or not isinstance(table.get("kind"), str):
        raise ValueError(f"{where}: expected a kind such as 'binary', or a table with one as kind, got {said!r}")
    for name in table:
        if name not in _OF_TARGETS:
            raise ValueError(f"{where}: there is no option {name!r}: {near(name, _OF_TARGETS)}")
    found = {"target": [table["kind"]]}
    for name in _OF_TARGETS[1:]:
        values = table.get(name, [])
        pairs = [f"{key}:{value}" for key, value in values.items()] if isinstance(values, dict) else values
        found[name] = pairs if isinstance(pairs, list) else [pairs]
    return found


def _as_option(where: str, make: Callable[..., Declared], *values: Any, **options: Any) -> Declared:
    """Return what is declared; begin an error with the place of the declaration."""
    try:
        return make(*values, **options)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{where}: {error}") from None


def read_roles(source: DataSource, frame: pl.DataFrame, name: str) -> tuple[dict[str, str | None], str | None]:
    """Return the kinds of the targets of a frame, None where not declared, and the task column."""
    tasks = kinds_of(source.target, frame.columns)
    if not tasks:
        raise ValueError(f"--target must name the columns of {name} to learn: {', '.join(frame.columns)}")
    files.known(frame, tasks, "--target")
    if source.task_column and len(tasks) > 1:
        raise ValueError(f"a long table has one --target, which every row's own task fills; got {len(tasks)}")
    files.known(frame, [source.task_column], "--task-column")
    return tasks, source.task_column


def kinds_of(texts: list[str], columns: Sequence[str]) -> dict[str, str | None]:
    """Return the names of the targets, with their kinds where declared."""
    from tabmtl.targets import KINDS

    found: dict[str, str | None] = {}
    for text in texts:
        name, declared = _split(text, KINDS)
        kind = declared if name and declared.partition(":")[0] in KINDS else None
        if kind:
            _find_kind(text, kind)
        elif text not in columns and name in columns:
            raise ValueError(f"--target {text}: unknown kind {declared!r}: {near(declared, [*KINDS])}")
        name = name if kind else text
        if name in found:
            raise ValueError(f"--target names {name!r} twice")
        found[name] = kind
    return found


def _split(text: str, kinds: Collection[str]) -> tuple[str, str]:
    """Return a name and what is declared of it, which is a kind if there is one; no name where there is no "=".

    A class may hold the sign too, as in ``a=ordinal:x=1<x=2``.
    """
    splits = [(text[:i], text[i + 1 :]) for i, sign in enumerate(text) if sign == "="]
    declaring = [(name, kind) for name, kind in splits if kind.partition(":")[0] in kinds]
    return [("", text), *splits, *declaring][-1]


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


def check_roles(source: DataSource, columns: Iterable[str], targets: Iterable[str], task_column: str | None) -> None:
    """Raise a ValueError if a feature that is declared, or the column of groups or times, has another role."""
    roles = dict.fromkeys(targets, "a target") | ({task_column: "the task column"} if task_column else {})
    asked = [*(("--column", name) for name in columns), ("--group-column", source.group_column)]
    asked.append(("--time-column", source.time_column))
    for option, name in asked:
        if name in roles:
            raise ValueError(f"{option} names {name!r}, which is {roles[name]}: leave one of the two out")


def _check_metric(name: str, kind: str, metric: str) -> None:
    """Raise a ValueError unless targets of this kind have the metric."""
    from tabmtl.metrics.metric import find_metric, near_metric
    from tabmtl.targets import find_kind

    known = find_kind(kind).metrics
    if find_metric(known, metric) is None:
        hint = near_metric(metric, known)
        raise ValueError(f"--metric {name}={metric}: {name} is {kind}, whose metrics are {', '.join(known)}{hint}")
