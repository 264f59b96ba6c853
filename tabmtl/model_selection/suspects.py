"""Warn of data whose scores would mislead: leaks of a target into the features, and tasks of few labels.

The leaks are looked for on at most 1 000 rows, so that they cost a small part of any fit.
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl
from scipy.stats import rankdata

from tabmtl.base.schema import (
    UNSEEN,
    Batch,
    Columns,
    ConstantFeatureWarning,
    FewLabelsWarning,
    FrequentClassWarning,
    IndexMismatchWarning,
    PerfectFeatureWarning,
    RandomSplitWarning,
    TargetInFeaturesWarning,
    listed,
    warn_about,
    warn_user,
)
from tabmtl.columns.cures import by_column, by_kind, by_time
from tabmtl.columns.date import Dates
from tabmtl.columns.tags import Tags, items_of
from tabmtl.encode import FeatureCoder, LabelCoder, TableCoder
from tabmtl.encode.read import library_of, take_rows
from tabmtl.encode.tasks import DeclaredTasks, names_classes
from tabmtl.encode.write import ORDERED
from tabmtl.metrics.scores import metrics_of_positive
from tabmtl.targets import Task

_ROWS = 1_000  # looked at for leaks
_LISTED = 10  # names in a warning
_TOO_GOOD = 0.999  # AUC or R² of one feature
_LEAST_LABELS, _LEAST_POSITIVES = 20, 10
_LEAST_ROWS = 200  # whose split by time would tell more than chance
_MOST_CANDIDATES = 3  # features a task that are looked at closely
# of lists that are a history: values of the other column, lists of several, and shares of lists and of their items
_LEAST_LEVELS, _LEAST_LISTS, _LEAST_REPEATED, _LEAST_KNOWN = 10, 50, 0.2, 0.95
_ROWS_PER_LEVEL = 20  # fewer, and the mean of a level fits its rows by chance


def warn_of_index(X: Any, y: Any, name: str) -> None:
    """Warn if X and y are of pandas and label their rows differently: rows are aligned by position."""
    if {library_of(X), library_of(y)} != {"pandas"}:
        return
    if len(X) == len(y) and not X.index.equals(y.index):
        warn_user(
            f"y{name} has another pandas index than X{name}, and rows are aligned by position; if the rows of one were "
            f"sorted or sampled, say y{name}.loc[X{name}.index], else y{name}.set_axis(X{name}.index)",
            IndexMismatchWarning,
        )


def dates_of(features: FeatureCoder) -> tuple[str, ...]:
    """Return the features that are dates of all rows, by which these could be split."""
    gaps = dict(zip(features.columns.numeric, features.columns.has_missing, strict=True))
    dates = [name for coder in features.coders.values() if isinstance(coder, Dates) for name in coder.names]
    return tuple(name for name in dates if not gaps[f"{name}: elapsed"])


def warn_of_random_split(dates: Sequence[str], n: int) -> None:
    """Warn that n rows are split at random, if they have dates in columns of these names."""
    if dates and n >= _LEAST_ROWS:
        names = listed([repr(name) for name in dates], 3)
        warn_about(
            dates,
            f"rows are set aside at random, and X holds dates in {names}: if the rows to come are later ones, say "
            f"{by_time(dates[0])}, and the newest rows judge",
            RandomSplitWarning,
        )


def warn_of_suspects(coder: TableCoder, batch: Batch) -> None:
    """Warn of what makes the scores of training rows misleading, all but `warn_of_index`."""
    tasks = coder.labels.tasks
    _warn_of_targets(coder.features.names, coder.labels.names if coder.labels.origin.named else ())
    _warn_of_few_labels(batch, tasks)
    _warn_of_constants(batch, coder.features)
    _warn_of_perfect_features(batch, tasks, coder.features)


def warn_of_frequent_classes(
    labels: LabelCoder,
    declared: DeclaredTasks,
    tasks: Sequence[Task],
    y: np.ndarray,
    judging: Mapping[str, Sequence[str]] | None = None,
) -> None:
    """Warn of scores of the positive class of two, where this is the more frequent one, and nothing names it.

    A class 1, or True, is positive for everybody, and so is the last one of a type that has an order.

    Parameters
    ----------
    labels : LabelCoder
    declared : mapping or sequence of Task, or None
        Tasks as the estimator was given them.
    tasks : sequence of Task
        Those of a long table share their kind and metrics.
    y : ndarray of shape (n, C)
        Labels as the coder reads them.
    judging : mapping of str to sequence of str, optional
        Scores by task; by default, the metrics of the tasks that depend on the positive class.
    """
    for c, (column, task, own) in enumerate(zip(labels.names, tasks, y.T, strict=False)):
        is_ordered = isinstance(labels.dtypes[c], pl.Enum) or labels.origin.dtypes[c] == ORDERED
        scores = metrics_of_positive(task) if judging is None else judging.get(task.name, ())
        if not (scores and task.is_binary and task.classes) or is_ordered or names_classes(declared, column):
            continue
        rare, frequent = task.classes
        if frequent == 1 or (own == 1).sum() <= (own == 0).sum():
            continue
        to_rare, to_frequent = (by_kind(column, f"{task.kind}:{label}") for label in (rare, frequent))
        warn_about(
            [column],
            f"task {column!r}: {listed(scores)} {'is' if len(scores) == 1 else 'are'} of {frequent!r}, the more "
            f"frequent class, which is the positive one since it is sorted behind {rare!r}; say {to_rare}, or "
            f"{to_frequent} if that is meant",
            FrequentClassWarning,
        )


def warn_of_histories(coder: TableCoder, X: Any, said: Container[str]) -> None:
    """Hint at lists that are read as tags, which nobody has said, and look like histories of a column of categories.

    They hold values of exactly one such column, and many of them a value twice, as no plain tags do. Up to 1 000 rows
    are looked at.
    """
    tags = [own.names for own in coder.features.coders.values() if isinstance(own, Tags)]
    found = [name for names in tags for name in names if name not in said]
    levels = {name: known for name, known in coder.levels.items() if len(known) >= _LEAST_LEVELS}
    if not found or not levels:
        return
    head = X.head(_ROWS) if isinstance(X, pl.LazyFrame) else take_rows(X, np.arange(min(_ROWS, len(X))))
    some = coder.read_frame(head).lazy().collect()
    for name in found:
        lists = some[name].alias("lists").drop_nulls().list.drop_nulls()
        lists = lists.filter(lists.list.len() > 1)
        repeats: Any = (lists.list.n_unique() < lists.list.len()).mean()
        if len(lists) < _LEAST_LISTS or repeats < _LEAST_REPEATED:
            continue
        items = items_of(lists)[0]
        of = [item for item, known in levels.items() if items.is_in(known).sum() >= _LEAST_KNOWN * len(items)]
        if len(of) == 1:
            warn_about(
                [name],
                f"column {name!r} is read as tags, whose order tells nothing, yet its lists hold values of {of[0]!r}, "
                f"in {repeats:.0%} of them one twice; if they are what came before, newest last, say "
                f"{by_column([name], f'sequence:{of[0]}')}, and otherwise {by_column([name], 'tags')}",
            )


def _warn_of_targets(features: Sequence[str], targets: Sequence[str]) -> None:
    """Warn if a target is a feature too, by its name."""
    both = [name for name in targets if name in features]
    if both:
        warn_about(
            both,
            f"X holds the targets {both[:_LISTED]} as features, from which models read the answer; say "
            f"{by_column(both, 'ignore')}, or rename the features if they are something else, such as earlier values",
            TargetInFeaturesWarning,
        )


def _warn_of_constants(batch: Batch, features: FeatureCoder) -> None:
    """Warn once of all features of numbers or codes that have one value in all rows, or none."""
    origins, tell = features.origins_by_form, set[str]()
    for name, own in zip(origins["numbers"], batch.x.numbers.T, strict=True):
        # first in a few rows, which tell most apart
        if not all((part == part[0]).all() or np.isnan(part).all() for part in (own[:_ROWS], own)):
            tell.add(name)
    for name, own in zip(origins["codes"], batch.x.codes.T, strict=True):
        if own[0] == UNSEEN or not all((part == part[0]).all() for part in (own[:_ROWS], own)):  # rare levels share one
            tell.add(name)
    tell.update(name for form in ("bags", "sequences", "vectors") for name in origins[form])
    for kind in features.coders.values():
        tell.update(*kind.together())
    found = [name for name in features.names if name not in tell]
    if found:
        one = len(found) == 1
        subject, has, it, was = ("feature", "has", "it", "it was") if one else ("features", "have", "them", "they were")
        warn_about(
            found,
            f"the {subject} {listed([*map(repr, found)])} {has} one value in all rows, or none, so that nothing is "
            f"learned from {it}; say {by_column(found, 'ignore')}, or look at how {was} read",
            ConstantFeatureWarning,
        )


def _warn_of_few_labels(batch: Batch, tasks: Sequence[Task]) -> None:
    """Warn of tasks with fewer than 20 labelled rows, or fewer than 10 of the rarer class of two.

    A task without any has labels in an earlier fit, from which this one begins.
    """
    n_tasks = len(tasks)
    task = np.broadcast_to(np.arange(n_tasks), batch.y.shape) if batch.task is None else batch.task[:, None]
    labelled = ~np.isnan(batch.y)
    counts = np.bincount(task[labelled], minlength=n_tasks)
    positive = np.bincount(task[labelled], batch.y[labelled] == 1, minlength=n_tasks)
    rarer = np.minimum(positive, counts - positive)
    found = {
        task.name: f"{task.name!r} ({counts[t]} rows)"
        if counts[t] < _LEAST_LABELS
        else f"{task.name!r} ({rarer[t]:.0f} of a class)"
        for t, task in enumerate(tasks)
        if 0 < counts[t] < _LEAST_LABELS or (counts[t] and task.is_binary and rarer[t] < _LEAST_POSITIVES)
    }
    if found:
        warn_about(
            [*found],
            f"tasks with fewer than {_LEAST_LABELS} labelled rows, or {_LEAST_POSITIVES} of each of two classes: "
            f"{listed([*found.values()], _LISTED)}; no score of them is reliable: gather labels, or read "
            "score_intervals",
            FewLabelsWarning,
        )


def _warn_of_perfect_features(batch: Batch, tasks: Sequence[Task], features: FeatureCoder) -> None:
    """Warn of features that predict a task by themselves, with an AUC or an R² above 0.999 on the labelled rows.

    Numbers are compared by their ranks, so any rising or falling function of a target is found; a missing one counts as
    the median. Categories answer the mean of their level. Tasks of many classes are not looked at.
    """
    chosen = np.random.default_rng(0).choice(len(batch), min(_ROWS, len(batch)), replace=False)
    rows = batch.rows(chosen)
    y = rows.wide_labels(len(tasks))
    judged = [
        t
        for t, task in enumerate(tasks)
        if (task.width == 1 or not task.is_classification) and _is_judged(y[:, t], task)
    ]
    if not judged:
        return
    y, judged_tasks = y[:, judged], [tasks[t] for t in judged]
    found = [
        *_perfect_numbers(rows.x.numbers, y, judged_tasks, features.columns),
        *_perfect_levels(rows.x.codes, y, judged_tasks, features.columns),
    ]
    if found:
        said = [f"{name!r} predicts {task!r} ({score})" for name, task, score in found[:_LISTED]]
        origin = dict(zip((*features.columns.numeric, *features.columns.categorical), features.origins, strict=True))
        names = sorted({origin[name] for name, _, _ in found})
        warn_about(
            names,
            f"features that alone predict a task: {', '.join(said)}, on the labelled rows; if they are known only "
            f"together with the target, say {by_column(names[:_LISTED], 'ignore')}",
            PerfectFeatureWarning,
        )


def _is_judged(y: np.ndarray, task: Task) -> bool:
    """Return whether a task has enough labels among the rows that no feature predicts them by chance."""
    present = y[~np.isnan(y)]
    if task.is_binary:
        return min(present.sum(), len(present) - present.sum()) >= _LEAST_POSITIVES
    return len(present) >= _LEAST_LABELS and float(np.ptp(present)) > 0


def _perfect_numbers(
    x: np.ndarray, y: np.ndarray, tasks: Sequence[Task], columns: Columns
) -> Iterator[tuple[str, str, str]]:
    if not len(columns.numeric):
        return
    x = np.where(np.isnan(x), np.nan_to_num(_medians(x)), x)
    ranks = rankdata(x, axis=0) - (len(x) + 1) / 2
    labelled = ~np.isnan(y)
    centred, counts = np.zeros_like(y), labelled.sum(axis=0)
    for t, task in enumerate(tasks):
        own = y[labelled[:, t], t]
        centred[labelled[:, t], t] = _normed(own if task.is_binary else rankdata(own))
    # the squared correlation of all ranks with all targets, by three products of matrices
    variance = np.square(ranks).T @ labelled - np.square(ranks.T @ labelled) / counts
    squared = np.square(ranks.T @ centred) / np.where(variance > 0, variance, np.inf)
    for t, task in enumerate(tasks):
        rows = labelled[:, t]
        share = y[rows, t].mean()
        # what divides two classes has at least a third of the correlation that evenly spread ranks have
        least = share * (1 - share) if task.is_binary else 0.9
        for j in np.argsort(-squared[:, t])[:_MOST_CANDIDATES]:
            if squared[j, t] > least:
                score, strength = _strength(rankdata(x[rows, j]), y[rows, t], task)
                if strength > _TOO_GOOD:
                    yield columns.numeric[j], task.name, f"{score} {strength:.4f}"


def _strength(ranks: np.ndarray, y: np.ndarray, task: Task) -> tuple[str, float]:
    """Return name and value of the score of a feature, given its ranks, whether it rises or falls with the labels."""
    if task.is_binary:
        positive = y.sum()
        auc = (ranks @ y - positive * (positive + 1) / 2) / (positive * (len(y) - positive))
        return "AUC", max(auc, 1 - auc)
    return "R²", float(_normed(ranks) @ _normed(rankdata(y))) ** 2


def _perfect_levels(
    codes: np.ndarray, y: np.ndarray, tasks: Sequence[Task], columns: Columns
) -> Iterator[tuple[str, str, str]]:
    labelled = ~np.isnan(y)
    centred = np.zeros_like(y)
    for t in range(len(tasks)):
        centred[labelled[:, t], t] = _normed(y[labelled[:, t], t])
    for j, name in enumerate(columns.categorical):
        levels, code = np.unique(codes[:, j], return_inverse=True)
        if len(levels) * _ROWS_PER_LEVEL > len(codes):
            continue
        is_level = (code[:, None] == np.arange(len(levels))).astype(np.float64)
        explained = (np.square(is_level.T @ centred) / np.maximum(is_level.T @ labelled, 1)).sum(axis=0)
        for t in np.flatnonzero(explained > _TOO_GOOD).tolist():
            yield name, tasks[t].name, f"R² {explained[t]:.4f}"


def _medians(x: np.ndarray) -> np.ndarray:
    """Return the median of the present values of every column, NaN where there is none."""
    present = np.sort(x, axis=0)  # NaN last
    counts = (~np.isnan(x)).sum(axis=0)
    return present[np.maximum(counts - 1, 0) // 2, np.arange(x.shape[1])]


def _normed(values: np.ndarray) -> np.ndarray:
    """Return values centred and of length 1, or zeros where they are constant."""
    centred = values - values.mean()
    length = np.sqrt(centred @ centred)
    return centred / length if length > 0 else centred
