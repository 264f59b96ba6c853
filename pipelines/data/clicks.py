"""Clicks of sessions: read by name or from a file, split in time, and what a recommender does with them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import polars as pl

from tabmtl.pipelines.content import content_of
from tabmtl.pipelines.data.files import (
    ClickColumns,
    DataSource,
    Part,
    check_shares,
    known,
    read_file,
    read_rows,
    readable,
    same_rows,
    say,
)

if TYPE_CHECKING:
    from tabmtl.tuning import Objective

_SCORES = ("recall@20", "mrr@20", "ndcg@20")


@dataclass(frozen=True, kw_only=True, eq=False)
class ClickRows:
    """Clicks of sessions in parts, and the items.

    Parameters
    ----------
    name : str
    parts : dict of str to polars.DataFrame
        "train", "val" and "test", one after the other in time.
    items : polars.DataFrame or None
    facts : dict
        Parameters of recommenders that follow from the log: its columns, and ``categories``.
    origin : str
        The options that gave them, as one types them.
    """

    name: str
    parts: dict[Part, pl.DataFrame]
    items: pl.DataFrame | None
    facts: dict[str, Any]
    origin: str = ""
    unit: ClassVar[str] = "clicks"

    @property
    def sizes(self) -> dict[Part, int]:
        """Clicks of every part."""
        return {part: len(clicks) for part, clicks in self.parts.items()}

    @property
    def identity(self) -> dict[str, Any]:
        """What tells these clicks from others, as JSON."""
        frames = self.parts if self.items is None else {**self.parts, "items": self.items}
        content = {name: content_of(frame) for name, frame in frames.items()}
        return {"data": self.name, "rows": self.sizes, "columns": self.facts, "content": content}

    def describe(self) -> str:
        """One line on the clicks and items."""
        items = "no item table" if self.items is None else f"{self.items.height:,} items"
        return f"{self.name}: {say(self.sizes, self.unit)}, in order of time; {items}"

    def fit(self, estimator: Any) -> None:
        """Fit on the train sessions; the validation sessions stop the fit."""
        estimator.fit(self.parts["train"], items=self.items, clicks_val=self.parts["val"])

    def scores(self, estimator: Any, part: Part) -> dict[str, float | None]:
        """Recall, MRR and NDCG of 20 items, over all next clicks."""
        return self.table(estimator, part).select(_SCORES).row(0, named=True)

    def table(self, estimator: Any, part: Part) -> pl.DataFrame:
        """The scores, by how often the target was clicked in training."""
        return estimator.evaluate(self.parts[part])

    def metrics(self, table: pl.DataFrame, part: Part) -> dict[str, float | None]:
        """The scores of a `table` by ``<part>/<metric>``, as they are logged."""
        return {f"{part}/{name}": value for name, value in table.select(_SCORES).row(0, named=True).items()}

    def objective(self, estimator: Any, *, per_task: bool, search_space: Mapping[str, Any]) -> Objective:
        """What a trial of a search does."""
        from tabmtl.tuning import session_objective

        if per_task:
            raise ValueError("a recommender is tuned by one number, MRR@20: take --objective mean")
        clicks = {"clicks_val": self.parts["val"], "items": self.items}
        return session_objective(estimator, self.parts["train"], **clicks, search_space=search_space)

    def log_fitted(self, callback: Any, estimator: Any, reference: Any = None) -> None:
        """Log what is known when training is over; there is no reference of recommenders."""
        callback.log_fitted(estimator, self.parts["train"], X_val=self.parts["val"])

    def example(self) -> pl.DataFrame:
        """Some clicks as they will come."""
        return self.parts["train"].head(5)


def named_clicks(source: DataSource) -> ClickRows:
    """Clicks of a log by name: its own test sessions, and the newest of its train sessions to stop on."""
    from tabmtl.pipelines.datasets import load_sessions

    with readable(source.data):
        data = load_sessions(source.data, folder=source.folder)
    parts = _newest({"train": data.part("train"), "test": data.part("test")}, source.val_share, data.columns)
    facts = {**data.columns, "categories": data.categories}
    return ClickRows(name=source.data, parts=parts, items=data.items, facts=facts, origin=same_rows(source))


def clicks_of_file(source: DataSource, columns: ClickColumns, *, whole: bool = False) -> ClickRows:
    """Clicks of a file, split in time; with ``whole``, all as one part "all".

    Raises
    ------
    ValueError, OSError
        If a file cannot be read, a column is not there, or a part would be empty.
    """
    from tabmtl.sessions import temporal_split

    log = read_rows(Path(source.data))
    names: dict[str, str | None] = {"session": columns.session_column, "item": columns.item_column}
    time = columns.time_column or ("time" if "time" in log.columns else None)
    names |= {"time": time, "order": columns.order_column}
    for kind, name in names.items():
        known(log, [name] if name else [], f"--{kind}-column")
    facts = {f"{kind}_column": name for kind, name in names.items()}
    items = None if columns.items is None else read_file(columns.items)
    parts: dict[Part, pl.DataFrame] = {"all": log}
    if not whole:
        check_shares(source)
        parts = {"train": log}
        if source.test_share:
            train, test = temporal_split(log, test_size=source.test_share, **_in_time(facts))
            parts = {"train": train, "test": test}
        parts = _newest(parts, source.val_share / (1 - source.test_share), facts)
    return ClickRows(name=Path(source.data).stem, parts=parts, items=items, facts=facts, origin=same_rows(source))


def _newest(parts: Mapping[Part, pl.DataFrame], share: float, facts: Mapping[str, Any]) -> dict[Part, pl.DataFrame]:
    """The parts, with the newest share of the train sessions as "val"."""
    from tabmtl.sessions import temporal_split

    train, val = temporal_split(parts["train"], test_size=share, **_in_time(facts))
    return {"train": train, "val": val, **{part: clicks for part, clicks in parts.items() if part != "train"}}


def _in_time(facts: Mapping[str, Any]) -> dict[str, Any]:
    return {name: facts[name] for name in ("session_column", "time_column")}
