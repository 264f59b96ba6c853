"""Rows of a table with their targets: read by name or from a file, split, and what a model does with them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, get_args

import numpy as np
import polars as pl

from tabmtl.pipelines.content import content_of
from tabmtl.pipelines.data.files import (
    PARTS,
    DataSource,
    Part,
    check_shares,
    known,
    read_rows,
    readable,
    same_rows,
    say,
)
from tabmtl.pipelines.terminal import near
from tabmtl.schema import Kind

if TYPE_CHECKING:
    from tabmtl.tuning import Objective

_KINDS: tuple[Kind, ...] = get_args(Kind)
_TEXT = (pl.String, pl.Categorical, pl.Enum)
_PLAIN = {"transform": "none", "min_frequency": 1}  # encoding of features that no model reads


@dataclass(frozen=True, kw_only=True, eq=False)
class TableRows:
    """Rows of a table with their targets, in parts.

    Parameters
    ----------
    name : str
    parts : dict of str to (X, y)
        "train", "val" and, where there are such rows, "test".
    facts : dict
        Parameters of estimators that follow from the table: ``tasks`` and ``task_column``.
    split : str
        How the parts were made.
    origin : str
        The options that gave them, as one types them.
    """

    name: str
    parts: dict[Part, tuple[pl.DataFrame, Any]]
    facts: dict[str, Any]
    split: str = "stored with the set"
    origin: str = ""
    unit: ClassVar[str] = "rows"

    @property
    def sizes(self) -> dict[Part, int]:
        """Rows of every part."""
        return {part: len(X) for part, (X, _) in self.parts.items()}

    @property
    def targets(self) -> list[str]:
        """Columns that are learned."""
        _, y = next(iter(self.parts.values()))
        return y.columns if isinstance(y, pl.DataFrame) else [y.name]

    @property
    def identity(self) -> dict[str, Any]:
        """What tells these rows from others, as JSON."""
        X, _ = next(iter(self.parts.values()))
        return {
            "data": self.name,
            "split": self.split,
            "rows": self.sizes,
            "columns": {"features": X.columns, "targets": self.targets, **self.facts},
            "categories": [name for name, dtype in X.schema.items() if dtype in _TEXT],
            "content": {part: content_of(X.hstack(pl.DataFrame(y))) for part, (X, y) in self.parts.items()},
        }

    def describe(self) -> str:
        """One line on the rows and columns."""
        X, targets = next(iter(self.parts.values()))[0], self.targets
        tasks = f"{len(targets)} targets" if len(targets) > 1 else f"the target {targets[0]}"
        long = self.facts.get("task_column")
        tasks = f"{tasks} of {X[long].n_unique()} tasks in one column" if long else tasks
        return f"{self.name}: {say(self.sizes, self.unit)}; {X.width} features, {tasks}"

    def check_features(self) -> None:
        """Raise an error that names a column which no model takes, such as one of dates."""
        from tabmtl.encode import FeatureCoder

        X, _ = self.parts["train"]
        FeatureCoder.fit(X.head(1).drop([self.facts["task_column"]] if self.facts["task_column"] else []))

    def fit(self, estimator: Any) -> None:
        """Fit on the train rows; the validation rows stop the fit."""
        X_val, y_val = self.parts["val"]
        estimator.fit(*self.parts["train"], X_val=X_val, y_val=y_val)

    def scores(self, estimator: Any, part: Part) -> dict[str, float | None]:
        """Score of every task."""
        return estimator.score_tasks(*self.parts[part])

    def table(self, estimator: Any, part: Part) -> pl.DataFrame:
        """Scores and their confidence intervals, one row a task."""
        table = estimator.score_intervals(*self.parts[part])
        return table.select("task", "metric", "score", low="low", high="high", labelled="n_labelled")

    def metrics(self, table: pl.DataFrame, part: Part) -> dict[str, float | None]:
        """The scores of a `table` by ``<part>/<task>/<metric>``, as they are logged."""
        return {f"{part}/{row['task']}/{row['metric']}": row["score"] for row in table.iter_rows(named=True)}

    def objective(self, estimator: Any, *, per_task: bool, search_space: Mapping[str, Any]) -> Objective:
        """What a trial of a search does."""
        from tabmtl.tuning import objective

        X_val, y_val = self.parts["val"]
        watched = {"X_val": X_val, "y_val": y_val}
        return objective(estimator, *self.parts["train"], **watched, per_task=per_task, search_space=search_space)

    def log_fitted(self, callback: Any, estimator: Any, reference: Any = None) -> None:
        """Log what is known when training is over."""
        X_val, y_val = self.parts["val"]
        callback.log_fitted(estimator, *self.parts["train"], X_val=X_val, y_val=y_val, reference=reference)

    def example(self) -> pl.DataFrame:
        """Some rows as they will come."""
        return self.parts["train"][0].head(5)


def named_table(source: DataSource) -> TableRows:
    """Rows of a data set, with the split that is stored with it.

    Raises
    ------
    ValueError, OSError
        If an option does not fit the set, or its table is not where it should be.
    """
    from tabmtl.pipelines.datasets import load

    if source.full and source.data != "flights":
        raise ValueError(f"--full is about flights: all rows of {source.data} are read anyway")
    # the folder alone would choose all rows of flights
    folder = None if source.data == "flights" and not source.full else source.folder
    data = load(source.data, folder=folder, **({"full": True} if source.full else {}))
    kinds = _targets(source.target, [*data.tasks])
    for name in kinds:
        if name not in data.tasks:
            raise ValueError(f"{source.data} has no target {name!r}: {near(name, [*data.tasks])}")
    tasks = {name: kinds.get(name) or kind for name, kind in data.tasks.items() if not kinds or name in kinds}
    with readable(source.data):
        parts = {part: data.part(part) for part in PARTS}
    for part, (X, y) in parts.items():
        X = _with_categories(X, source)
        kept = y.select(list(tasks)) if isinstance(y, pl.DataFrame) else y
        parts[part] = X.drop(known(X, source.drop, "--drop")), kept
    return TableRows(
        name=source.data, parts=parts, facts={"tasks": tasks, "task_column": data.task_column}, origin=same_rows(source)
    )


def table_of_file(source: DataSource, *, whole: bool = False) -> TableRows:
    """Rows of a file; without a column that says the split, it is drawn.

    Parameters
    ----------
    source : DataSource
    whole : bool, default=False
        All rows as one part "all".

    Raises
    ------
    ValueError, OSError
        If the file cannot be read, a column is not there, or the split cannot be made.
    """
    frame = read_rows(Path(source.data))
    kinds = _targets(source.target, frame.columns)
    if not kinds:
        raise ValueError(f"--target is to name the columns of {source.data} to learn: {', '.join(frame.columns)}")
    targets = known(frame, kinds, "--target")
    if source.task_column and len(targets) > 1:
        raise ValueError(f"a long table has one --target, which every row's own task fills; got {len(targets)}")
    named = {"--task-column": source.task_column, "--split-column": source.split_column}
    for option, name in named.items():
        known(frame, [name] if name else [], option)
    frame = _with_categories(frame, source)
    unused = [*targets, *known(frame, source.drop, "--drop"), *([source.split_column] if source.split_column else [])]
    X, y = frame.drop(unused), frame.select(targets)
    labels = y.to_series() if source.task_column else y
    facts = {"tasks": {name: kind for name, kind in kinds.items() if kind}, "task_column": source.task_column}
    if whole:
        parts: dict[Part, np.ndarray] = {"all": np.arange(len(X))}
        split = "none"
    elif source.split_column:
        parts = _stored_split(frame[source.split_column], source)
        split = f"by the column {source.split_column}"
    else:
        parts = _drawn_split(X, labels, facts, source)
        split = f"drawn: {source.val_share:g} val and {source.test_share:g} test by seed {source.split_seed}"
    chosen = {part: (X[rows], labels[rows]) for part, rows in parts.items()}
    return TableRows(name=Path(source.data).stem, parts=chosen, facts=facts, split=split, origin=same_rows(source))


def _with_categories(frame: pl.DataFrame, source: DataSource) -> pl.DataFrame:
    """The frame, with the columns that hold categories as text."""
    chosen = frame.select(known(frame, source.categorical, "--categorical"))
    for name, dtype in chosen.schema.items():
        if dtype.is_nested() or dtype == pl.Binary:
            raise ValueError(f"--categorical {name}: the column has type {dtype}, which holds no categories")
    return frame.with_columns(column.cast(pl.String) for column in chosen.iter_columns())


def _targets(texts: list[str], columns: Sequence[str]) -> dict[str, Kind | None]:
    """Names of the targets, and their kinds where they are said."""
    found: dict[str, Kind | None] = {}
    for text in texts:
        name, _, said = text.rpartition("=")
        kind = next((kind for kind in _KINDS if kind == said), None)
        if not kind and text not in columns and name in columns:
            raise ValueError(f"--target {text}: unknown kind {said!r}: {near(said, _KINDS)}")
        name = name if kind else text
        if name in found:
            raise ValueError(f"--target names {name!r} twice")
        found[name] = kind
    return found


def _stored_split(column: pl.Series, source: DataSource) -> dict[Part, np.ndarray]:
    values = set(column.unique().to_list())
    unknown = sorted(map(str, values - {*PARTS}))
    if unknown or not {"train", "val"} <= values:
        raise ValueError(
            f"--split-column {source.split_column}: expected train, val and perhaps test in every row, got "
            f"{', '.join(sorted(map(str, values))[:6])}"
        )
    return {part: np.flatnonzero((column == part).to_numpy()) for part in PARTS if part in values}


def _drawn_split(X: pl.DataFrame, y: Any, facts: Mapping[str, Any], source: DataSource) -> dict[Part, np.ndarray]:
    """Parts that each hold labels of every task and class, where there are rows enough."""
    from tabmtl.encode import TableCoder
    from tabmtl.model_selection.folds import train_valid_split

    check_shares(source)
    if source.split_seed < 0:
        raise ValueError(f"--split-seed must be at least 0, got {source.split_seed}")
    long = facts["task_column"]
    # features have no say in it, and those that are dropped later may hold what no model takes
    frame = pl.DataFrame({"": np.arange(len(X)), **({long: X[long]} if long else {})})
    coder = TableCoder.fit(frame, y, None, **facts, force=None, categorical="from_dtype", encoding=_PLAIN)
    batch, tasks = coder.read(frame, y), coder.labels.tasks
    rng = np.random.default_rng(source.split_seed)
    parts: dict[Part, np.ndarray] = {"train": np.arange(len(X))}
    left = 1.0
    for part, share in {"test": source.test_share, "val": source.val_share}.items():
        if share:
            rows = parts["train"]
            own = None if batch.task is None else batch.task[rows]
            kept, drawn = train_valid_split(batch.y[rows], tasks, share / left, rng, own)
            parts |= {"train": rows[kept], part: rows[drawn]}
            left -= share
    return {part: parts[part] for part in PARTS if part in parts}
