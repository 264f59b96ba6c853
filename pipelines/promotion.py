"""Whether a challenger may take the place of the champion: both on the same rows, task by task."""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import polars as pl

from tabmtl.pipelines.data import ClickColumns, DataSource, Rows, open_rows
from tabmtl.pipelines.data.files import RowSource, known
from tabmtl.pipelines.data.tables import TableRows
from tabmtl.pipelines.tracking import REFIT, ROWS

Scores = Mapping[str, float | None]


@dataclass(frozen=True, kw_only=True)
class Promotion:
    """What came of a comparison.

    Parameters
    ----------
    table : polars.DataFrame or None
        One row a task: the scores of both versions, their difference, and the verdict; None where nothing was compared.
    moved : bool
        Whether the challenger is the champion now.
    reason : str
    """

    table: pl.DataFrame | None
    moved: bool
    reason: str

    @property
    def exit_code(self) -> int:
        """0 where the challenger is the champion now, else 1."""
        return 0 if self.moved else 1


def judge(champion: Scores, challenger: Scores, margin: float, *, allow_undefined: bool = False) -> Promotion:
    """Compare the scores of two versions.

    Parameters
    ----------
    champion, challenger : mapping of str to float or None
        Of the same tasks on the same rows; higher is better, None is undefined.
    margin : float
    allow_undefined : bool, default=False
        Whether tasks without a score are passed.

    Returns
    -------
    Promotion

    Examples
    --------
    >>> found = judge({"late": 0.80, "delay": 0.40}, {"late": 0.85, "delay": 0.38}, 0.01)
    >>> found.moved, found.reason
    (False, 'The champion stays: delay falls by 0.0200, more than 0.01.')
    """
    verdicts, falls, undefined = [], [], []
    for task, before in champion.items():
        after = challenger[task]
        if before is None or after is None or math.isnan(before) or math.isnan(after):
            verdicts.append("undefined")
            undefined.append(task)
        elif before - after > margin:
            verdicts.append("falls")
            falls.append(f"{task} falls by {before - after:.4f}")
        else:
            verdicts.append("ok")
    table = pl.DataFrame(
        {"task": list(champion), "champion": list(champion.values()), "challenger": [challenger[t] for t in champion]},
        schema_overrides={"champion": pl.Float64, "challenger": pl.Float64},
    ).with_columns(difference=pl.col("challenger") - pl.col("champion"), verdict=pl.Series(verdicts))
    if falls:
        reason = f"The champion stays: {', '.join(falls)}, more than {margin:g}."
    elif undefined and not allow_undefined:
        which = ", ".join(undefined)
        reason = f"The champion stays: no score on these rows of {which}; give others, or --allow-undefined."
    else:
        reason = f"The challenger is the champion now: no task falls by more than {margin:g}."
        reason += f" Passed without a score: {', '.join(undefined)}." if undefined else ""
    return Promotion(table=table, moved=not falls and (allow_undefined or not undefined), reason=reason)


def rows_for(model: Any, source: RowSource, *, whole: bool) -> Rows:
    """The rows with the targets and columns that a model knows."""
    from tabmtl.sessions.recommender import Recommender

    is_file = Path(source.data).is_file()
    if isinstance(model, Recommender):
        names = ("session_column", "item_column", "time_column", "order_column") if is_file else ()
        columns = ClickColumns(**{name: getattr(model, name) for name in names})
        return open_rows(DataSource(**asdict(source)), columns, type(model), whole=whole)
    targets = [f"{task.name}={task.kind}" for task in model._coder.labels.column_tasks()]
    named = DataSource(**asdict(source), target=targets, task_column=model.task_column if is_file else None)
    return open_rows(named, ClickColumns(), type(model), whole=whole)


def why_unfair(tags: Mapping[str, str], source: RowSource, part: str) -> str | None:
    """What speaks against judging a version by these rows, as far as its tags tell; None if nothing does."""
    judged = source.as_typed
    if ROWS not in tags:
        unknown = "has no record of the rows that it was trained on, and may have learned from those that judge it"
        return unknown if part == "val" else None
    _, data, *split = shlex.split(tags[ROWS])
    if Path(data).name != Path(source.data).name:
        return None
    if part == "all":
        return f"was trained with {tags[ROWS]}, so it has learned from most of the rows that judge it"
    if split != shlex.split(judged)[2:]:
        return f"was trained with {tags[ROWS]}, and is judged with {judged}: it may have learned from these rows"
    if REFIT in tags:
        return f"is the refit of trial {tags[REFIT]}, which was chosen by its scores on these rows"
    return None


def score(model: Any, rows: Rows, part: str, version: str) -> dict[str, float | None]:
    """Scores of a version on a part of the rows, of which it takes the columns that it knows."""
    if not isinstance(rows, TableRows):
        return rows.scores(model, part)
    X, y = rows.parts[part]
    names = list(getattr(model, "feature_names_in_", X.columns))
    return model.score_tasks(X.select(known(X, names, f"--data, for version {version}")), y)


def check_tasks(old: Any, new: Any, champion: str, challenger: str) -> None:
    """Refuse versions whose scores are no scores of the same."""
    learned = [{task.name: (task.kind, task.metric) for task in getattr(model, "tasks_", ())} for model in (old, new)]
    if learned[0] != learned[1] or hasattr(old, "tasks_") != hasattr(new, "tasks_"):
        raise ValueError(
            f"version {challenger} learns {_list(learned[1])}, and the champion, version {champion}, learns "
            f"{_list(learned[0])}: only the same tasks by the same metrics can be compared; register one under another "
            "name"
        )


def _list(tasks: Mapping[str, tuple[str, str | None]]) -> str:
    return ", ".join(f"{name} ({kind}, {metric})" for name, (kind, metric) in tasks.items()) or "next clicks"


def table_of(scores: Scores) -> pl.DataFrame:
    """Scores as a frame: task, score."""
    return pl.DataFrame({"task": list(scores), "score": list(scores.values())}, schema_overrides={"score": pl.Float64})
