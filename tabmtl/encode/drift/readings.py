"""What is read of encoded rows and of answers to them, so that their distributions can be compared."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from tabmtl.base.schema import FIRST_LEVEL, MISSING, UNSEEN, Columns
from tabmtl.columns import Features
from tabmtl.columns.kind import Form
from tabmtl.columns.ragged import Bags, Entries, Ragged
from tabmtl.targets import Task

#: Stands for the entries of a row whose list is empty.
EMPTY = -1.0
_DIRECTIONS = 4  # in which vectors are measured


class Reading(NamedTuple):
    """One feature of n rows, or one number of the answers to them.

    Attributes
    ----------
    name : str
        The column of the user, or the task.
    feature : str
        Which of several it is; empty if it is the only one.
    n_codes : int
        Number of codes, as in `tabmtl.base.schema.Columns`; 0 if values are numbers, NaN where missing.
    values : ndarray of float64, shape (m,)
        One for each row; of lists, one for each entry.
    weight : ndarray of shape (m,), or None
        Weights of the entries of lists. Those of a row sum to 1, so that shares of entries vary no more than those of
        rows, of which each has one value: the covariance of weights w with the mean p is at most diag(p) - pp'.
    """

    name: str
    feature: str
    n_codes: int
    values: np.ndarray
    weight: np.ndarray | None = None


class Answers(NamedTuple):
    """Answers to rows, not calibrated.

    Attributes
    ----------
    outputs : sequence of ndarray
        Of every column of y; NaN in rows that have none.
    task : ndarray of int64, shape (n,), or None
        Long layout: the task of every row.
    are_learned : bool
        Whether the model has learned the rows, so that it is surer of them than of others. Where another fit answers in
        its place, as of a fold, there are answers of both sorts: new ones are unlike both, if they have drifted.
    """

    outputs: Sequence[np.ndarray]
    task: np.ndarray | None
    are_learned: bool = False


def read_columns(x: Features, columns: Columns, origins: Mapping[Form, Sequence[str]]) -> Iterator[Reading]:
    """Read the features of n rows, by the columns of the frame behind them."""
    sizes = dict(zip(columns.categorical, columns.cardinalities, strict=True))
    named: tuple[tuple[Form, tuple[str, ...], Any], ...] = (
        ("numbers", columns.numeric, x.numbers),
        ("codes", columns.categorical, x.codes),
    )
    for form, names, matrix in named:
        for name, origin, values in zip(names, origins[form], matrix.T, strict=True):
            feature = "" if name == origin else name.removeprefix(f"{origin}: ")
            yield Reading(origin, feature, sizes[name] if form == "codes" else 0, values.astype(np.float64))
    for origin, bags, size in zip(origins["bags"], x.bags, columns.bag_sizes, strict=True):
        yield from _read_lists(origin, "entries", size, bags, bags.codes, bags.weights)
        yield _read_lengths(origin, bags)
    for origin, entries, column in zip(origins["sequences"], x.sequences, columns.sequences, strict=True):
        size = column.size if column.item is None else sizes[column.item]
        yield from _read_sequence(origin, entries, (size, *column.label_sizes))
    start = 0
    for origin, width in zip(dict.fromkeys(origins["vectors"]), columns.vector_widths, strict=True):
        vectors: Any = x.vectors
        yield from _read_vectors(origin, vectors[:, start : start + width])
        start += width


def without_own(
    x: Features, known: Features, origins: Mapping[Form, Sequence[str]], names: Collection[str], least: int
) -> Features:
    """Encode some rows as if the fit that learned their levels had not known them, each by itself.

    Levels that just so many rows have, themselves among them, are then unseen. Without this, no row of fit has an
    unseen level, and others as good have some.

    Parameters
    ----------
    x, known : Features
        The rows, and all that the fit has learned from.
    origins : mapping of str to sequence of str
        The columns behind the features of every form.
    names : collection of str
        Columns whose levels are learned from them alone.
    least : int
        Rows that a level needs, not to count as unseen.
    """
    codes = x.codes.copy()
    for j, origin in enumerate(origins["codes"]):
        if origin in names:
            codes[:, j] = _unseen_alone(codes[:, j], known.codes[:, j], least)
    pairs = zip(origins["bags"], x.bags, known.bags, strict=True)
    bags = [
        replace(own, codes=_unseen_alone(own.codes, all_.codes, least)) if origin in names else own
        for origin, own, all_ in pairs
    ]
    return replace(x, codes=codes, bags=tuple(bags))


def _unseen_alone(codes: np.ndarray, known: np.ndarray, least: int) -> np.ndarray:
    counts = np.bincount(known, minlength=FIRST_LEVEL)
    becomes = np.where(counts <= least, UNSEEN, np.arange(len(counts))).astype(codes.dtype)
    becomes[:FIRST_LEVEL] = MISSING, UNSEEN
    return becomes[codes]


def read_tasks(column: str, task: np.ndarray, n_tasks: int) -> Reading:
    """Read the tasks of the rows of a long table, -1 where one is unseen."""
    return Reading(column, "", FIRST_LEVEL + n_tasks, np.where(task < 0, UNSEEN, task + FIRST_LEVEL).astype(np.float64))


def read_answers(tasks: Sequence[Task], answers: Answers) -> Iterator[Reading]:
    """Read the answers for every task, of those rows that have some.

    Of two classes it is the probability of the second; of more the most probable one, and its probability.
    """
    outputs, own, _ = answers
    for t, task in enumerate(tasks):
        output = outputs[t] if own is None else outputs[0][own == t]
        lacks = np.isnan(output)
        output = output[~(lacks if output.ndim == 1 else lacks.any(axis=1))]
        if not task.is_classification:
            levels = output[None] if output.ndim == 1 else output.T
            for k, values in enumerate(levels):
                yield Reading(task.name, "" if len(levels) == 1 else f"level {task.kind.levels[k]}", 0, values)
        elif output.shape[1] == 2:
            yield Reading(task.name, "", 0, output[:, 1])
        else:
            codes = FIRST_LEVEL + output.argmax(axis=1)
            yield Reading(task.name, "class", FIRST_LEVEL + output.shape[1], codes.astype(np.float64))
            yield Reading(task.name, "probability", 0, output.max(axis=1, initial=0.0))


def _read_lists(
    origin: str, feature: str, n_codes: int, rows: Ragged, codes: np.ndarray, weight: np.ndarray
) -> Iterator[Reading]:
    n_empty = int((rows.lengths == 0).sum())
    values = np.concatenate([codes, np.full(n_empty, EMPTY)])
    yield Reading(origin, feature, n_codes, values, np.concatenate([weight, np.ones(n_empty)]))


def _read_lengths(origin: str, rows: Bags | Entries) -> Reading:
    """Read the number of entries; a missing list holds the code of missing values alone."""
    lengths = rows.lengths.astype(np.float64)
    one = np.flatnonzero(lengths == 1)
    lengths[one[rows.codes[rows.offsets[one]] == MISSING]] = np.nan
    return Reading(origin, "length", 0, lengths)


def _read_sequence(origin: str, rows: Entries, sizes: Sequence[int]) -> Iterator[Reading]:
    """Read a sequence, whose entries and labels have so many codes, and the lists beside it."""
    lengths = rows.lengths
    weight = np.repeat(1 / np.maximum(lengths, 1), lengths)
    yield from _read_lists(origin, "entries", sizes[0], rows, rows.codes, weight)
    yield _read_lengths(origin, rows)
    labels = () if rows.labels is None else rows.labels.T
    for k, codes in enumerate(labels):
        yield from _read_lists(origin, f"labels {k + 1}", sizes[k + 1], rows, codes, weight)
    row = np.repeat(np.arange(len(rows)), lengths)
    for k, values in enumerate(() if rows.numbers is None else rows.numbers.T):
        sums = np.bincount(row, np.nan_to_num(values), minlength=len(rows))
        counts = np.bincount(row, ~np.isnan(values), minlength=len(rows))
        means = np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)
        yield Reading(origin, f"mean of numbers {k + 1}", 0, means)


def _read_vectors(origin: str, vectors: np.ndarray) -> Iterator[Reading]:
    """Read the norms of vectors (n, d), and their places in some directions, always the same random ones."""
    vectors = vectors.astype(np.float64)
    yield Reading(origin, "norm", 0, np.linalg.norm(vectors, axis=1))
    signs = np.random.default_rng(0).choice([-1.0, 1.0], size=(_DIRECTIONS, vectors.shape[1]))
    for k, places in enumerate(signs @ vectors.T):
        yield Reading(origin, f"direction {k + 1}", 0, places)
