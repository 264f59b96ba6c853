"""What a fitted model keeps of the rows of its fit, and how far others are from them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl

from tabmtl.base.params import Names, check_at_least, check_known, check_share, listed_names
from tabmtl.base.schema import Batch, counted
from tabmtl.columns.kind import RowError
from tabmtl.columns.sequence import Sequences
from tabmtl.columns.text import Texts
from tabmtl.encode import TableCoder
from tabmtl.encode.drift.compare import LEAST_ROWS, Limits, compare
from tabmtl.encode.drift.profile import Profile, Source, sample_size
from tabmtl.encode.drift.readings import Answers, Reading, read_answers, read_columns, read_tasks, without_own
from tabmtl.encode.read import take_rows
from tabmtl.estimators.model import Asking, Model
from tabmtl.estimators.rows import FitRows, FrameRows, draw

#: Encodes rows, and returns them with the answers to them.
Read = Callable[[Any], tuple[Batch, Answers]]


def drift(
    model: Model, read: Read, X: Any, *, reference: Any, size: float, alpha: float, ignore: str | Names
) -> pl.DataFrame:
    """Compare rows with those that a model keeps the profile of; see `MultiTaskEstimator.drift`."""
    check_at_least("size", size, low=0)
    check_share("alpha", alpha)
    limits, coder = Limits(size=size, alpha=alpha), model.coder
    tasks = [task.name for task in model.tasks]
    known = [*coder.features.names, *filter(None, [coder.task_column])]
    ignored = listed_names("ignore must be the name of a column or task", ignore)
    check_known("ignore names columns or tasks", ignored, [*known, *tasks], "the model")
    profile = model.profile if reference is None else _profile_of(model, read, reference)
    if profile is None:
        raise ValueError(
            "this model keeps no profile of the rows of its fit, as one of an earlier release does not: fit it "
            "again, or give rows to compare with, as in drift(X, reference=X_before)"
        )
    counts, n_rows = 0 * profile.counts, 0
    for block in _blocks(X, "X"):
        try:
            batch, answers = read(block)
        except RowError as error:
            raise error.at(n_rows + error.row, None) from error
        counts += profile.count(_read_columns(coder, batch), read_answers(model.tasks, answers))
        n_rows += len(batch)
    _check_rows(n_rows, "X")
    compared = dict.fromkeys(profile.names[: profile.n_columns])
    columns = [name for name in known if name in compared and name not in (*ignored, coder.time_column)]
    return compare(profile, counts, columns, [name for name in tasks if name not in ignored], limits)


def _profile_of(model: Model, read: Read, reference: Any) -> Profile:
    batches, several = zip(*map(read, _blocks(reference, "reference")), strict=True)
    batch = Batch.join(batches)
    _check_rows(len(batch), "reference")
    outputs = [np.concatenate(own) for own in zip(*(answers.outputs for answers in several), strict=True)]
    found = _read_columns(model.coder, batch), read_answers(model.tasks, Answers(outputs, batch.task))
    return Profile.learn(*found, of_columns="reference", of_answers="reference")


def _read_columns(coder: TableCoder, batch: Batch) -> Iterator[Reading]:
    features, column = coder.features, coder.task_column
    yield from read_columns(batch.x, features.columns, features.origins_by_form)
    if column is not None:
        yield read_tasks(column, batch.task, len(coder.labels.tasks))


def drawn(coder: TableCoder, rows: FitRows, least: int) -> Batch:
    """Return some rows of a fit, with levels as new rows have them, where the memory holds all rows.

    A level of fewer rows than ``least`` has no place of its own; 0 is for rows that are new.
    """
    batch = rows.drawn(sample_size(coder.features.columns)).unlabelled()
    if least and isinstance(rows, FrameRows) and rows.frame is not None:
        return as_new(coder, batch, rows.batch, least)
    return batch


def as_new(coder: TableCoder, batch: Batch, known: Batch, least: int) -> Batch:
    """Return some rows of a fit, given all, with levels as if the fit had not known each row."""
    features = coder.features
    shared = [own.names for own in features.coders.values() if isinstance(own, Texts | Sequences)]
    names = {*features.names}.difference(*shared)
    return replace(batch, x=without_own(batch.x, known.x, features.origins_by_form, names, least))


def asking(batch: Batch, how: Any, *, are_learned: bool) -> Asking:
    """Return what asks a model for the answers to some rows, by parameters of how to compute them."""
    batch = batch.unlabelled()
    return lambda model: [Answers(model.of_method(batch, how), batch.task, are_learned)]


def profiled(model: Model, batch: Batch, asked: Asking | None) -> Model:
    """Return a model with the profile of some rows of its fit, and of answers to some, if they can be asked."""
    profile = Profile.learn(_read_columns(model.coder, batch), of_columns="fit", of_answers="unseen")
    for found in () if asked is None else asked(model):
        source: Source = "learned" if found.are_learned else "unseen"
        profile = profile.with_answers(read_answers(model.tasks, found), source)
    return replace(model, profile=profile)


def following(model: Model, profile: Profile | None, how: Any, X: Any, batch: Batch) -> Model:
    """Return a model with a profile, and with the answers to some rows that it has learned, of tasks that this lacks.

    Parameters
    ----------
    model : Model
    profile : Profile or None
    how : object
        Parameters of how to compute answers.
    X : frame
        The rows behind the preprocessor.
    batch : Batch
        The same rows, encoded.
    """
    if profile is None:
        return model
    known = {*profile.names[profile.n_columns :]}
    places = draw(len(batch), sample_size(model.coder.features.columns))
    X = take_rows(X.collect() if isinstance(X, pl.LazyFrame) else X, places)
    batch = batch.rows(places).unlabelled()
    read = read_answers(model.tasks, Answers(model.of_method(batch, how, X), batch.task))
    return replace(model, profile=profile.with_answers([own for own in read if own.name not in known], "learned"))


def _blocks(X: Any, what: str) -> Iterator[Any]:
    """Return blocks of rows, in memory; raise a ValueError if they are too few."""
    if isinstance(X, Iterator):
        return X
    X = X.collect() if isinstance(X, pl.LazyFrame) else X
    if hasattr(X, "__len__"):  # what is no container is refused where it is read
        _check_rows(len(X), what)
    return iter([X])


def _check_rows(n: int, what: str) -> None:
    if n < LEAST_ROWS:
        raise ValueError(
            f"drift compares distributions, and {what} has {counted(n, 'row')}: give {LEAST_ROWS} or more, such as "
            "those of a day"
        )
