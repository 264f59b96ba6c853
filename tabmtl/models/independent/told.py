"""What a fit of models of single tasks tells: scores of configurations, lines of progress, and warnings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl

from tabmtl.base.schema import listed, warn_user
from tabmtl.base.storage.lightgbm_text import TreeText
from tabmtl.estimators.mixing.judged import leaderboard
from tabmtl.models.independent.choice import FEW_ROWS, Grown
from tabmtl.models.independent.mixture import Mixed
from tabmtl.models.independent.quantiles import GrownQuantiles
from tabmtl.targets import Task
from tabmtl.training.watch import describe_score

_MIXTURE = "IndependentTasks"  # in the table of scores


def score_table(
    tasks: Mapping[int, Task], names: Sequence[str], judged: Mapping[int, Mapping[str, tuple[float | None, bool]]]
) -> pl.DataFrame:
    """Return the score of every task and configuration, null where no label judged it."""
    none = (None, False)
    scores = {name: [judged.get(t, {}).get(name, none)[0] for t in tasks] for name in names}
    schema = {"task": pl.String} | dict.fromkeys(names, pl.Float64)
    return pl.DataFrame({"task": [task.name for task in tasks.values()], **scores}, schema=schema)


def scores_of(tried: Mapping[int, Mapping[str, Any]]) -> dict[int, dict[str, tuple[float | None, bool]]]:
    """Return the score of every task and configuration, and whether it is lost."""
    return {t: {name: (one.score, one.is_lost) for name, one in grown.items()} for t, grown in tried.items()}


def best_name(scores: pl.DataFrame, names: Sequence[str]) -> str:
    """Return the configuration with the highest mean score."""
    means = scores.select(pl.mean(*names).fill_null(0.0)).row(0)
    return names[means.index(max(means))]


def board_of(tasks: Mapping[int, Task], done: Mapping[int, Mixed]) -> pl.DataFrame:
    """Return the table of scores of all families and of their mixtures."""
    return leaderboard([line for t, own in done.items() for line in own.lines(tasks[t], _MIXTURE)])


def describe_tried(found: tuple[Task, Mapping[str, Grown | GrownQuantiles]]) -> str:
    """Describe the trees of a task by all configurations, before they are grown on all rows."""
    task, tried = found
    scores = {name: grown.score for name, grown in tried.items() if grown.score is not None}
    said = describe_score(task, max(scores.values(), default=None))
    return f"{said} ({', '.join(f'{name} {score:.4f}' for name, score in scores.items())})" if len(scores) > 1 else said


def describe_model(found: tuple[Task, Any]) -> str:
    """Describe the fitted model of a task."""
    task, model = found[0], getattr(found[1], "model", found[1])
    made = f"LightGBM, {len(model.cut()[1])} trees" if isinstance(model, TreeText) else str(model)
    return f"{task.name}  {made}"


def warn_of_folds(tune: str | Sequence[str], scores: pl.DataFrame) -> None:
    """Warn where no task was judged by rows set aside, so that configurations by name had no effect."""
    if tune in ((), [], "all") or scores.drop("task").count().sum_horizontal().item():
        return
    warn_user(
        f"tune={tune!r} had no effect, because no rows set aside judged its configurations: folds chose the trees of "
        "all tasks; leave tune out, give X_val and y_val, or set families=('lightgbm',) for tasks of at least "
        f"{FEW_ROWS} labels"
    )


def warn_of_lost(tasks: Sequence[Task]) -> None:
    """Warn of tasks whose scores are those of a guess."""
    if not tasks:
        return
    warn_user(
        f"tasks {listed([repr(task.name) for task in tasks])}: in the folds, the shares of their classes predict them "
        "better than trees do, so a constant answers, with a ROC AUC of .5; label more rows, or add features that tell"
    )
