"""Tables in files that need not fit in memory: `tabmtl.scale.Shards` to fit, and files to stop on and to score."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import polars as pl
import polars.selectors as cs

from tabmtl.pipelines.data import files, tables
from tabmtl.pipelines.data.clicks import ClickColumns
from tabmtl.pipelines.data.declared import DataSource, check_roles, declared_tasks, read_declared, read_roles
from tabmtl.pipelines.model_choice import recommends

if TYPE_CHECKING:
    from tabmtl.metrics.intervals import ScoreInterval

#: Options of other rows, and what to say of files instead.
_NOT_OF_FILES = {
    "data": "leave one of the two out",
    "folder": "it is for named sets",
    "full": "it is for named sets",
    "split_column": "files are not split; name others by --valid-shards and --test-shards",
    "val_share": "say --set validation_fraction=..., or name other files by --valid-shards",
    "test_share": "name other files by --test-shards",
    "split_seed": "say --seed",
    "list_separator": "write lists to Parquet",
}


@dataclass(frozen=True, kw_only=True)
class TrainSource(DataSource):
    """Rows to train on: a data set by name or a file, or files that need not fit in memory.

    Parameters
    ----------
    data : str
        Data set, such as portal, or a parquet or CSV file.
    shards : list of str
        Instead of --data: files, or a glob in quotes, that need not fit in memory; may be repeated.
    valid_shards : list of str
        Such files to stop on; default some rows of --shards.
    test_shards : list of str
        Such files for the final scores; default --valid-shards.
    cache : Path, optional
        Folder for the encoded rows of --shards, which later fits use again.
    """

    data: str = ""
    shards: list[str] = field(default_factory=list)
    valid_shards: list[str] = field(default_factory=list)
    test_shards: list[str] = field(default_factory=list)
    cache: Path | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in files.asked(self):
            if self.shards and name in _NOT_OF_FILES:
                raise ValueError(f"--{name.replace('_', '-')} has no effect with --shards: {_NOT_OF_FILES[name]}")
            if not self.shards and name in ("valid_shards", "test_shards", "cache"):
                raise ValueError(f"--{name.replace('_', '-')} has no effect without --shards")


@dataclass(frozen=True, kw_only=True, eq=False)
class ShardRows(tables.ScoredTables):
    """Rows of files that are read when they are needed.

    Parameters
    ----------
    name : str
    parts : dict of str to Shards
    facts : dict
    targets : list of str
    groups : str or None
        Column of groups that are set aside together.
    time : str or None
        Column of times, the newest of which are set aside.
    """

    targets: list[str]
    groups: str | None
    time: str | None

    origin: ClassVar[None] = None  # no options of another command name these rows

    def describe(self) -> str:
        """Return one line on the rows and columns."""
        sizes = files.describe_sizes({part: shards.n_rows for part, shards in self.parts.items()}, self.unit)
        tasks = f"{len(self.targets)} targets" if len(self.targets) > 1 else f"the target {self.targets[0]}"
        n_files = len(self.parts["train"].files or ())
        return f"{self.name}: {sizes}, in {n_files} files to train on; {len(self._features)} features, {tasks}"

    def fit(self, estimator: Any) -> None:
        """Fit on the files to train on; those to stop on, if there are any, stop the fit."""
        y = self.targets[0] if self.facts["task_column"] else self.targets
        options = {"X_val": self.parts["val"], "y_val": y} if "val" in self.parts else {}
        estimator.fit(self.parts["train"], y, groups=self.groups, time=self.time, **options)

    def table(self, estimator: Any, part: str) -> pl.DataFrame:
        """Return scores and their confidence intervals, one row per task."""
        from tabmtl.scale import score_files

        return self.shown(score_files(estimator, self.parts[part].files or ()))

    def differences(self, estimator: Any, reference: Any, part: str) -> tuple[pl.DataFrame, ScoreInterval]:
        """Return the scores of two models and their differences, one row per task, and no mean.

        Files are scored in blocks, so answers of rows are not paired, and there are no intervals.
        """
        from tabmtl.metrics.intervals import ScoreInterval

        own, other = (self.table(model, part).select("task", "score") for model in (estimator, reference))
        found = own.join(other.rename({"score": "reference"}), on="task", how="left", maintain_order="left")
        return found.with_columns(difference=pl.col("score") - pl.col("reference")), ScoreInterval(*[None] * 4)

    def log_fitted(self, callback: Any, estimator: Any) -> None:
        """Log the facts of a finished fit; of the rows, some of the first block stand for all."""
        rows = self._first(1_000)
        callback.log_fitted(estimator, rows.select(cs.by_name(*self._features)), rows.select(cs.by_name(*self.targets)))

    def example(self) -> pl.DataFrame:
        """Return some rows, as an input example."""
        return self._first(5).select(cs.by_name(*self._features))

    @property
    def _features(self) -> list[str]:
        unused = (*self.targets, *self.ignored)
        return [name for name in self.parts["train"].schema.names() if name not in unused]

    def _first(self, n: int) -> pl.DataFrame:
        names = self.parts["train"].schema.names()
        _, rows = next(self.parts["train"].blocks(names, range(n)))
        return rows


def open_shards(source: TrainSource, clicks: ClickColumns, model: str) -> ShardRows:
    """Find files and their columns; no row is read.

    Parameters
    ----------
    source : TrainSource
    clicks : ClickColumns
        Without effect, so none may be set.
    model : str
        Name of the estimator.

    Raises
    ------
    ValueError, TypeError, OSError
        If there is no such file or column, files differ in their columns, or the model learns from click logs.
    """
    from tabmtl.scale import Shards

    if recommends(model):
        raise ValueError(f"--shards are files of a table, but {model} learns from a click log: say --data")
    for name in files.asked(clicks):
        raise ValueError(f"--{name.replace('_', '-')} applies to click logs only, not to --shards")
    parts = {
        part: Shards(paths, cache=None if source.cache is None else source.cache / part, dates=not source.no_dates)
        for part, paths in (("train", source.shards), ("val", source.valid_shards), ("test", source.test_shards))
        if paths
    }
    head = pl.DataFrame(schema=parts["train"].schema)
    declared, columns = read_declared(source)
    tasks, task_column = read_roles(declared, head, "the shards")
    check_roles(source, columns, tasks, task_column)
    files.known(head, columns, "--column")
    files.known(head, [source.group_column], "--group-column")
    files.known(head, [source.time_column], "--time-column")
    of_tasks = declared_tasks(declared, tasks, head.schema, None)
    facts = {"tasks": of_tasks, "task_column": task_column, "columns": columns}
    name = _name_of(source.shards)
    of_split = {"groups": source.group_column, "time": source.time_column}
    return ShardRows(name=name, parts=parts, targets=[*tasks], facts=facts, **of_split)


def _name_of(paths: Sequence[str]) -> str:
    """Return a name for files: that of the only one, or of their folder."""
    first = Path(paths[0])
    return first.stem if len(paths) == 1 and first.is_file() else first.absolute().parent.name
