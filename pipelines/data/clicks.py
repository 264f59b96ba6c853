"""Click logs: a real log with its item table, and clicks split in time, for a recommender."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import polars as pl

from tabmtl import sessions, tuning
from tabmtl.pipelines.data import files
from tabmtl.pipelines.data.declared import DataSource, read_declared
from tabmtl.pipelines.datasets.base import PARTS

_SCORES = ("recall@20", "mrr@20", "ndcg@20")


@dataclass(frozen=True, kw_only=True)
class ClickColumns:
    """The item table of a click log, and the names of its columns.

    Parameters
    ----------
    items : Path, optional
        Parquet or CSV file of the item table, one row an item.
    session_column : str
        Column that names the session.
    item_column : str
        Column that names the item.
    order_column : str, optional
        Column that orders the clicks of a session.
    """

    items: Path | None = None
    session_column: str = "session_id"
    item_column: str = "item_id"
    order_column: str | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class ClickRows(files.PartedRows):
    """Clicks of sessions in parts, and the items.

    Parameters
    ----------
    name : str
    parts : dict of str to polars.DataFrame
        "train", "val" and "test", one after the other in time; or "all".
    items : polars.DataFrame or None
    facts : dict
        Parameters of recommenders that follow from the log: its columns.
    origin : str
        The options that gave them, as one types them.
    goes_on : bool
        Whether `fit` lets a fitted recommender go on by these clicks.
    """

    items: pl.DataFrame | None
    origin: str
    goes_on: bool = False
    unit: ClassVar[str] = "clicks"

    @property
    def sizes(self) -> dict[str, int]:
        """Clicks of every part."""
        return {part: len(clicks) for part, clicks in self.parts.items()}

    @property
    def identity(self) -> dict[str, Any]:
        """Facts that tell these clicks from others, as JSON, besides the values that an objective learns from."""
        from tabmtl.encode.read import checksum

        test = checksum(self.parts["test"]) if "test" in self.parts else None
        return {"data": self.name, "rows": self.sizes, "columns": self.facts_as_json, "test": test}

    def describe(self) -> str:
        """Return one line on the clicks and items."""
        items = "no item table" if self.items is None else f"{self.items.height:,} items"
        return f"{self.name}: {files.describe_sizes(self.sizes, self.unit)}, in order of time; {items}"

    def fit(self, estimator: Any) -> None:
        """Fit on the train sessions; the validation sessions stop the fit, or are learned too where a model goes on."""
        if self.goes_on:
            learned = [self.parts[part] for part in ("train", "val") if part != self.judged]
            estimator.partial_fit(pl.concat(learned), items=self.items)
            return
        estimator.fit(self.parts["train"], items=self.items, clicks_val=self.parts["val"])

    def for_model(self, model: Any) -> ClickRows:
        """Return the clicks by which a fitted recommender goes on."""
        return replace(self, goes_on=True)

    def scores(self, estimator: Any, part: str) -> dict[str, float | None]:
        """Return recall, MRR and NDCG of 20 items, over all next clicks."""
        return self.table(estimator, part).select(_SCORES).row(0, named=True)

    def table(self, estimator: Any, part: str) -> pl.DataFrame:
        """Return the scores, by the number of training clicks of the target."""
        return estimator.evaluate(self.parts[part])

    def metrics(self, table: pl.DataFrame, part: str) -> dict[str, float | None]:
        """Return the scores of a `table` by ``<part>/<metric>``, as they are logged."""
        return {f"{part}/{name}": value for name, value in table.select(_SCORES).row(0, named=True).items()}

    def objective(self, estimator: Any, *, per_task: bool, search_space: Mapping[str, Any]) -> tuning.Objective:
        """Make the objective of a search: fit on the train sessions alone, score the validation sessions."""
        if per_task:
            raise ValueError("a recommender is tuned by one number, MRR@20: take --objective mean")
        clicks = {"clicks_val": self.parts["val"], "items": self.items}
        return tuning.session_objective(estimator, self.parts["train"], **clicks, search_space=search_space)

    def log_fitted(self, callback: Any, estimator: Any) -> None:
        """Log the facts of a finished fit; recommenders have no reference."""
        callback.log_fitted(estimator, self.parts["train"], X_val=self.parts["val"])


def open_clicks(source: DataSource, columns: ClickColumns, *, whole: bool = False) -> ClickRows:
    """Read a click log, and split it in time.

    Parameters
    ----------
    source : DataSource
    columns : ClickColumns
    whole : bool, default=False
        All clicks as one part "all".

    Raises
    ------
    ValueError, OSError
        If a file cannot be read, a column is not there, or a part would be empty.
    """
    log = files.read_file(Path(source.data))
    facts = _columns(log, columns, source.time_column)
    source, declared = read_declared(source)
    if source.target:
        raise ValueError(f"--tasks {source.tasks}: a click log has no targets: leave [tasks] out")
    if declared and columns.items is None:
        raise ValueError("--column declares columns of the item table: name its file by --items")
    items = None if columns.items is None else files.read_file(columns.items)
    if items is not None and declared:
        files.known(items, declared, "--column")
        facts["columns"] = declared
    parts = {"all" if whole else "train": log}
    if source.test_share and not whole:
        parts = _cut(parts, "test", source.test_share, facts)
    if not whole:
        parts = _cut(parts, "val", source.val_share / (1 - source.test_share), facts)
    return ClickRows(name=Path(source.data).stem, parts=parts, items=items, facts=facts, origin=source.as_typed)


def _columns(log: pl.DataFrame, columns: ClickColumns, time_column: str | None) -> dict[str, Any]:
    """Return the columns of a log, as parameters of a recommender."""
    names = {name: value for name, value in asdict(columns).items() if name != "items"}
    names["time_column"] = "time" if time_column is None and "time" in log.columns else time_column
    typed = [column for column in log.columns if column.endswith((":token", ":float"))]
    if typed and names["session_column"] not in log.columns:
        raise ValueError(
            f"--session-column: there is no column {names['session_column']!r}; names with types, as RecBole has them, "
            f"are given in full, such as --session-column user_id:token --item-column item_id:token: known are "
            f"{', '.join(log.columns)}"
        )
    for name, value in names.items():
        files.known(log, [value], f"--{name.replace('_', '-')}")
    return names


def _cut(parts: Mapping[str, pl.DataFrame], name: str, share: float, facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parts, with the newest share of the train sessions as another one."""
    in_time = {column: facts[column] for column in ("session_column", "time_column")}
    train, newest = sessions.temporal_split(parts["train"], test_size=share, **in_time)
    cut = {**parts, "train": train, name: newest}
    return {part: cut[part] for part in PARTS if part in cut}
