"""Split rows by their time: rows that judge are newer than those that are learned, as those of the future will be.

Rows of one time stay together, so a border between two parts is a time, and the shares of the parts are met as nearly
as the times allow.
"""

from __future__ import annotations

import datetime
import numbers
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any, ClassVar, Literal

import numpy as np
from sklearn.model_selection import BaseCrossValidator
from sklearn.utils import check_consistent_length

from tabmtl.base.params import check_count
from tabmtl.base.schema import in_command, listed, warn_user
from tabmtl.encode.labels import DeclaredTasks, LabelCoder
from tabmtl.encode.read import has_column, read_groups
from tabmtl.encode.times import as_numbers, check_times_differ, describe_time, read_time, time_series
from tabmtl.model_selection.folds import read_task, warn_of_gaps
from tabmtl.model_selection.repeats import number_groups
from tabmtl.model_selection.stratify import Strata
from tabmtl.targets import Task

_MICROSECOND = datetime.timedelta(microseconds=1)  # the unit of dates that are numbers

Pair = tuple[np.ndarray, np.ndarray]


def newest_split(
    y: np.ndarray,
    tasks: Sequence[Task],
    fraction: float,
    time: np.ndarray,
    task: np.ndarray | None = None,
    group: np.ndarray | None = None,
) -> Pair:
    """Set the newest rows aside, with about a fraction of the rows that have a label.

    Where labels of a task, or of its second class, begin late, fewer rows are set aside, so that some are left to
    learn. Newest rows of groups that are learned from judge nothing: they are in neither part, and a warning counts
    them.

    Parameters
    ----------
    y : ndarray of shape (n, T)
        Encoded labels: NaN = unlabelled, class indices for classification. In the long layout (n, 1).
    tasks : sequence of Task
    fraction : float
        Part of the labelled rows to validate on, between 0 and 1 exclusive.
    time : ndarray of float, shape (n,)
    task : ndarray of int, shape (n,), optional
        Long layout: the index of every row's own task.
    group : ndarray of int, shape (n,), optional
        Number of every row's group.

    Returns
    -------
    train, valid : ndarray of int
        Sorted row numbers; every row of the second part is newer than all of the first.

    Raises
    ------
    ValueError
        If a task has labels at the newest time only, or all newest rows are of groups with older ones.

    Examples
    --------
    >>> import numpy as np
    >>> price = Task(name="price", kind="regression")
    >>> newest_split(np.arange(6.0)[:, None], [price], 0.3, np.array([1.0, 3, 2, 3, 1, 2]))
    (array([0, 2, 4, 5]), array([1, 3]))
    """
    labelled = ~np.isnan(y).all(axis=1)
    times, n = time[labelled], labelled.sum()
    found = borders(times, [(1 - fraction) * n], learnable_after(y, tasks, time, task))
    if not found:
        raise ValueError(_only_newest(y, tasks, time, task))
    train, valid = time < found[0], time >= found[0]
    if group is not None:
        known = valid & np.isin(group, group[train & labelled])
        valid &= ~known
        if not (valid & labelled).any():
            raise NoFreshRowsError(no_fresh_rows())
        warn_of_known_groups(int(known.sum()), "are set aside but judge nothing")
    return np.flatnonzero(train), np.flatnonzero(valid)


def times_of_fit(time: Any, X: Any, n: int) -> np.ndarray | None:
    """Read the times of n rows to fit, which differ; None without times."""
    if time is None:
        return None
    times = read_time(time, X, n)
    check_times_differ(times, describe_time(time))
    return times


def times_beside(
    time: Any, X: Any, n: int, judging: Any, n_judging: int, part: Literal["val", "test"] = "val"
) -> np.ndarray | None:
    """Read the times of rows that judge, if a named column has them, and warn of those that are not newer than X."""
    if not isinstance(time, str) or not has_column(judging, time):
        return None
    times = read_time(time, judging, n_judging, source=f"X_{part}")
    warn_of_older_rows(describe_time(time), read_time(time, X, n), times, part)
    return times


def borders(time: np.ndarray, older: Sequence[float], after: float = -np.inf) -> list[float]:
    """Return increasing times, each with about so many rows before it.

    Parameters
    ----------
    time : ndarray of float, shape (n,)
    older : sequence of float
        Number of rows that should be older than each border, increasing.
    after : float, optional
        All borders are newer.

    Returns
    -------
    list of float
        Fewer borders where there are fewer times, and none where all rows are of one time.
    """
    values, counts = np.unique(time, return_counts=True)
    before, is_late = np.cumsum(counts) - counts, values > after
    is_late[:1] = False  # before the oldest, there is nothing
    values, before = values[is_late], before[is_late]
    found: list[float] = []
    low, wanted = 0, older[-len(values) :] if len(values) else ()
    for j, target in enumerate(wanted):
        high = len(values) - (len(wanted) - j - 1)
        low += int(np.abs(before[low:high] - target).argmin())
        found.append(float(values[low]))
        low += 1
    return found


def forward_folds(time: np.ndarray, starts: Sequence[float], group: np.ndarray | None = None) -> list[Pair]:
    """Divide rows in blocks of time; each but the first is judged by what learned all older rows.

    Parameters
    ----------
    time : ndarray of float, shape (n,)
    starts : sequence of float
        The times at which blocks begin, increasing.
    group : ndarray of int, shape (n,), optional
        Number of every row's group. A block does not judge rows of groups with older rows.

    Returns
    -------
    list of (train, test)
        Sorted row numbers.
    """
    pairs = []
    for low, high in pairwise([*starts, np.inf]):
        train, test = time < low, (time >= low) & ((time < high) | np.isinf(high))
        if group is not None:
            test &= ~np.isin(group, group[train])
        pairs.append((np.flatnonzero(train), np.flatnonzero(test)))
    return [pair for pair in pairs if len(pair[1])]


def even_blocks(n: float, n_folds: int) -> list[float]:
    """Return the numbers of older rows of the borders of even blocks, of which the first is only learned from."""
    return [n * (j + 1) / (n_folds + 1) for j in range(n_folds)]


def learnable_after(y: np.ndarray, tasks: Sequence[Task], time: np.ndarray, task: np.ndarray | None = None) -> float:
    """Return the time after which all tasks have older labels, and those of classes older labels of two classes.

    A second class that begins at the newest time is not waited for.
    """
    strata = Strata.of(y, tasks, task)
    first = np.full(len(strata.task) + 1, np.inf)
    for codes in strata.codes[:-1]:
        np.minimum.at(first, codes, time)
    own, newest = first[:-2], time[~np.isnan(y).all(axis=1)].max()
    after = -np.inf
    for t in range(len(tasks)):
        begins = np.sort(own[strata.task[:-1] == t])
        begins = begins[np.isfinite(begins)][:2]
        waited = [begin for k, begin in enumerate(begins) if k == 0 or begin < newest]
        after = max([after, *waited])
    return after


def can_split(y: np.ndarray, tasks: Sequence[Task], time: np.ndarray, task: np.ndarray | None = None) -> bool:
    """Return whether the newest labelled rows can be set aside, and every task has older labels."""
    return bool(time[~np.isnan(y).all(axis=1)].max() > learnable_after(y, tasks, time, task))


class NoFreshRowsError(ValueError):
    """The newest rows are all of groups with older ones, so that none of them can judge."""


def no_fresh_rows() -> str:
    """Return the text of a `NoFreshRowsError`."""
    other = "name the parts by --split-column" if in_command.get() else "give X_val and y_val"
    return (
        "all of the newest rows, which were to be set aside, belong to groups that have older rows, so none judges "
        f"what is learned; {_leave_out('groups', 'time')}, or {other}"
    )


def warn_of_known_groups(n: int, what: str) -> None:
    """Warn of newer rows, of a number, whose groups have older rows, and say what becomes of them."""
    if n:
        warn_user(
            f"{n} of the newest rows {what}, because their groups have older rows, which are learned from; "
            f"{_leave_out('groups', 'time')} if that is not meant"
        )


def warn_of_older_rows(name: str, time: np.ndarray, judging: np.ndarray, part: str) -> None:
    """Warn if rows that judge, X_val or X_test, are not newer than all rows of X, by a column that errors name."""
    n = int((judging <= time.max()).sum())
    if n:
        warn_user(
            f"{n} of the {len(judging)} rows of X_{part} are not newer than all rows of X by {name}, so they tell less "
            f"of the rows to come; split by time, as MultiTaskTimeSplit does, or leave X_{part} and y_{part} out"
        )


class MultiTaskTimeSplit(BaseCrossValidator):
    """Splits forward in time: each tests on rows that are newer than all that it trains on.

    Rows are sorted by a time and cut in ``n_splits + 1`` blocks of about the same size; rows of one time stay together.
    The first split trains on the first block and tests on the second, the next trains on two blocks and tests on the
    third, and so on, as scikit-learn's ``TimeSeriesSplit`` does with rows that are sorted already. The targets may be
    of any mix and partly missing.

    Parameters
    ----------
    n_splits : int, default=5
        Number of splits, at least 1.
    time : str, optional
        The column of X with dates, datetimes or numbers. Without it, `split` takes the times.
    max_train_size : int, optional
        Train on about so many rows, the newest; by default on all that are older than the test rows.
    test_size : int, optional
        Test on about so many rows in every split; by default n / (n_splits + 1).
    gap : timedelta or float, default=0
        Leave out training rows that are less than this older than a test row: a ``datetime.timedelta`` where times are
        dates, else a number in their unit.
    tasks : mapping of name to kind or Task, or sequence of Task, optional
        Kinds of the targets, as the estimators take them. Other kinds are inferred from ``y``.
    task_column : str, optional
        Long layout: the column of X that names every row's own task.

    Examples
    --------
    >>> from datetime import date
    >>> import polars as pl
    >>> X = pl.DataFrame({"day": [date(2024, 1, d) for d in (3, 1, 2, 3, 1, 2)]})
    >>> y = pl.DataFrame({"late": ["no", "no", "yes", "yes", "yes", "no"], "delay": [0.5, 1.0, 2.0, 9.5, 4.0, 3.0]})
    >>> for train, test in MultiTaskTimeSplit(2, time="day").split(X, y):
    ...     print(train, test)
    [1 4] [2 5]
    [1 2 4 5] [0 3]
    """

    __metadata_request__split: ClassVar = {"groups": True, "time": True}

    def __init__(
        self,
        n_splits: int = 5,
        *,
        time: str | None = None,
        max_train_size: int | None = None,
        test_size: int | None = None,
        gap: datetime.timedelta | float = 0,
        tasks: DeclaredTasks | None = None,
        task_column: str | None = None,
    ) -> None:
        check_count("n_splits", n_splits)
        for name, value in (("max_train_size", max_train_size), ("test_size", test_size)):
            if value is not None:
                check_count(name, value)
        is_length = isinstance(gap, datetime.timedelta | numbers.Real) and not isinstance(gap, bool)
        if not is_length or not gap >= type(gap)(0):  # type: ignore[operator]
            raise ValueError(f"gap must be a timedelta or a number, at least 0, got {gap!r}")
        self.n_splits = n_splits
        self.time = time
        self.max_train_size = max_train_size
        self.test_size = test_size
        self.gap = gap
        self.tasks = tasks
        self.task_column = task_column

    def get_n_splits(self, X: Any = None, y: Any = None, groups: Any = None) -> int:
        """Return the number of splits; the arguments are ignored, as in scikit-learn."""
        return self.n_splits

    def split(self, X: Any, y: Any = None, groups: Any = None, time: Any = None) -> Iterator[Pair]:
        """Yield the row numbers of each split, the oldest test rows first.

        Parameters
        ----------
        X : frame or array of n rows
            Only its number of rows counts, the task column of the long layout, and columns that ``time`` and ``groups``
            name.
        y : frame (n, T), series (n,) or array of shape (n,) or (n, T)
            The targets; null and NaN are unlabelled.
        groups : array-like of shape (n,) or str, optional
            Group of each row, or the name of a column of X that holds it; rows whose group has training rows are not
            tested on.
        time : array-like of shape (n,) or str, optional
            Time of each row, or the name of a column of X; default the column that the splitter names.

        Yields
        ------
        train, test : ndarray of int
            Sorted row numbers; every test row is newer than all training rows.

        Raises
        ------
        ValueError
            If ``y`` or the times are missing, a task has no label, there are not more times than splits, the test rows
            do not fit, or ``gap`` leaves nothing to train on.

        Warns
        -----
        TabmtlWarning
            Where test or training rows lack labels of a task or one of its classes, or rows are left out for their
            groups.
        """
        if y is None:
            raise ValueError("MultiTaskTimeSplit needs the targets to look for their labels: split(X, y), got y=None")
        check_consistent_length(X, y)
        time = self.time if time is None else time
        if time is None:
            raise ValueError(
                "MultiTaskTimeSplit needs the time of every row: say MultiTaskTimeSplit(time=...), the name of a "
                "column of X, or split(X, y, time=...); rows in their order are time=numpy.arange(len(X))"
            )
        series, group = time_series(time, X, len(y)), None
        times = as_numbers(series)
        check_times_differ(times, describe_time(time))
        if groups is not None:
            group = number_groups(read_groups(groups, X, len(y)))
        levels, task = (None, None) if self.task_column is None else read_task(X, self.task_column)
        coder = LabelCoder.fit(y, tasks=self.tasks, task_levels=levels)
        strata = Strata.of(coder.encode(y)[0], coder.tasks, task)
        pairs = self._pairs(times, group, self._gap_in(series.dtype.is_temporal()))
        for part, of_what in enumerate(("rows to train on", "rows to test on")):
            counts = np.stack([strata.take(pair[part]).spread(None) for pair in pairs])
            what, cure = f"of {self.n_splits} splits, not each set of {of_what}", "use fewer splits, or merge classes"
            warn_of_gaps(counts, strata, coder.tasks, what, cure)
        yield from pairs

    def _pairs(self, time: np.ndarray, group: np.ndarray | None, gap: float) -> list[Pair]:
        n, k = len(time), self.n_splits
        older = even_blocks(n, k)
        if self.test_size is not None:
            older = [n - self.test_size * (k - j) for j in range(k)]
            if older[0] <= 0:
                raise ValueError(
                    f"{k} splits with test_size={self.test_size} need more than {k * self.test_size} rows, got {n}; "
                    "use fewer splits, or a smaller test_size"
                )
        n_times = len(np.unique(time))
        if n_times <= k:
            raise ValueError(
                f"n_splits={k} needs at least {k + 1} different times, got {n_times}; use at most {n_times - 1} splits"
            )
        found = borders(time, older)
        whole, pairs = forward_folds(time, found), forward_folds(time, found, group)
        left = sum(len(test) for _, test in whole) - sum(len(test) for _, test in pairs)
        if len(pairs) < k:
            raise ValueError(
                "all test rows of a split belong to groups with older rows, so there is none to test on; "
                f"{_leave_out('groups', 'time')}, or use fewer splits"
            )
        warn_of_known_groups(left, "are not tested on")
        return [(self._trained(time, train, time[test].min() - gap), test) for train, test in pairs]

    def _trained(self, time: np.ndarray, train: np.ndarray, last: float) -> np.ndarray:
        """Return the rows to train on: none newer than a time, and of these the newest."""
        train = train[time[train] <= last]
        if not len(train):
            raise ValueError(f"gap={self.gap!r} leaves no row to train on in the first split; take a smaller one")
        if self.max_train_size is not None and len(train) > self.max_train_size:
            first = borders(time[train], [len(train) - self.max_train_size])
            train = train[time[train] >= first[0]] if first else train
        return train

    def _gap_in(self, is_dated: bool) -> float:
        """Return the gap in the unit of times as they are read, which are dates or numbers."""
        if not self.gap:
            return 0.0
        if isinstance(self.gap, datetime.timedelta) != is_dated:
            expected = "a datetime.timedelta, since times are dates" if is_dated else "a number, as the times are"
            raise ValueError(f"gap must be {expected}, got {self.gap!r}")
        return self.gap / _MICROSECOND if isinstance(self.gap, datetime.timedelta) else float(self.gap)


def _only_newest(y: np.ndarray, tasks: Sequence[Task], time: np.ndarray, task: np.ndarray | None) -> str:
    """Return the error for labels that are all of the newest time, by the tasks that have no other ones."""
    labelled = ~np.isnan(y)
    newest = time[labelled.any(axis=1)].max()
    if task is None:
        is_late = [not (time[own] < newest).any() for own in labelled.T]
    else:
        is_late = [not (time[labelled[:, 0] & (task == t)] < newest).any() for t in range(len(tasks))]
    late = listed([repr(each.name) for each, alone in zip(tasks, is_late, strict=True) if alone])
    return (
        f"all labels of the tasks {late} are of the newest time, and the newest rows are set aside to validate on, so "
        "there is nothing to learn: give X_val and y_val, set early_stopping=False, or leave these tasks out"
    )


def _leave_out(*names: str) -> str:
    """Say that one of two arguments, or options of a command, is to be left out."""
    said = [f"--{name.removesuffix('s')}-column" if in_command.get() else name for name in names]
    return f"leave {' or '.join(said)} out"
