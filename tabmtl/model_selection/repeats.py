"""Find rows with equal features, which a split has to keep together if they are one thing, such as a patient.

Equal rows tell more of each other than their features do, so a score on some of them flatters a model that learned from
the others. But in a table of few distinct rows chance makes rows equal, and a split that keeps them together would
validate on cells of the table that training never sees.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Self

import numpy as np

from tabmtl.base.schema import Batch, warn_user
from tabmtl.columns.ragged import Ragged, ranges
from tabmtl.encode.read import read_groups

_BLOCK_ROWS = 2_048  # rows hashed at a time: the block stays in the cache
_MOST_FOUND = 0.05  # share of the validation rows that may equal training rows
_MOST_KEPT = 2**20  # keys of rows that a model remembers
_LEAST_ASKED = 10  # fewer rows do not tell whether most are known
_CHOOSING = np.uint64(2**16 - 1)  # bits of a key that choose whether it is kept; those of the features alone


def number_groups(values: Sequence[Any]) -> np.ndarray:
    """Number groups (n,) from 0, in the order of their first rows."""
    number: dict[Any, int] = {}
    return np.array([number.setdefault(value, len(number)) for value in values], dtype=np.int64)


def groups_of_rows(groups: Any, X: Any, batch: Batch) -> np.ndarray | None:
    """Number the groups of rows as `fit` takes them, given the rows as they came; without any, group equal rows."""
    return group_equal_rows(batch) if groups is None else number_groups(read_groups(groups, X, len(batch)))


def group_equal_rows(batch: Batch) -> np.ndarray | None:
    """Group the rows of a long table by their features, if equal rows are one thing under several tasks.

    They are, if they rarely share their task: at most half as often as if chance dealt the tasks. Where chance makes
    the rows themselves equal, they share it more often, and every row stands alone. Only labelled rows are counted.

    Parameters
    ----------
    batch : Batch
        Of n rows.

    Returns
    -------
    group : ndarray of int, shape (n,), or None
        Number of each row's group, from 0. None if no rows belong together: in the wide layout, where all rows differ,
        where chance makes them equal, and where the labelled rows of a task would be one group.
    """
    if batch.task is None:
        return None
    group = np.unique(feature_keys(batch), return_inverse=True)[1]
    labelled = ~np.isnan(batch.y[:, 0])
    return group if belong_together(group[labelled], batch.task[labelled]) else None


def warn_of_shared_groups(
    name: str, values: Sequence[Any], judging: Sequence[Any], part: Literal["val", "test"]
) -> None:
    """Warn if groups, named as an error names them, have values of X in the rows that judge: X_val or X_test."""
    groups = set(judging)
    shared = len(groups.intersection(values))
    if shared:
        harm = {"val": "early stopping judges by groups that it", "test": "models are judged by groups that they"}[part]
        warn_user(
            f"{shared} of the {len(groups)} groups in {name} of X_{part} are in X too, so {harm} learned "
            f"from; split by groups, or leave X_{part} and y_{part} out"
        )


def warn_of_shared_rows(batch: Batch, valid: Batch) -> None:
    """Warn if validation rows equal training rows more often than chance makes rows equal.

    That is, if more than 5 % of the validation rows have the features of a training row, and either these are one thing
    under several tasks, see `group_equal_rows`, or at most half that share of the training rows equal one another.

    Parameters
    ----------
    batch, valid : Batch
        Training and validation rows.
    """
    keys, valid_keys = feature_keys(batch), feature_keys(valid)
    distinct, counts = np.unique(keys, return_counts=True)
    found = np.isin(valid_keys, distinct)
    if found.mean() <= _MOST_FOUND:
        return
    is_chance = found.mean() < 2 * counts[counts > 1].sum() / len(batch)
    if is_chance and batch.task is not None:
        group = np.unique(np.append(keys, valid_keys), return_inverse=True)[1]
        is_chance = not belong_together(group, np.append(batch.task, valid.task))
    if not is_chance:
        warn_user(
            f"{found.sum()} of the {len(valid)} rows of X_val have the features of a row of X; if they are the same "
            "things, such as one patient under two tasks, early stopping judges by rows that it learned from: split "
            "by things, as MultiTaskKFold does with groups, or give fit groups instead of X_val and y_val"
        )


def belong_together(group: np.ndarray, task: np.ndarray) -> bool:
    """Tell whether equal rows of a long table, by their group, share their task too rarely for chance."""
    sizes = np.bincount(group)
    if sizes.max() == 1:
        return False
    n_tasks = int(task.max()) + 1
    cells = np.unique(group * n_tasks + task)  # of group and task
    size, n_groups = np.unique(sizes[sizes > 0], return_counts=True)
    share = np.bincount(task) / len(task)
    # a group of size s meets 1 - (1 - p)^s of a task with the share p of the rows
    expected = n_groups @ (size - (1 - (1 - share) ** size[:, None]).sum(axis=1))
    alone = (np.bincount(cells % n_tasks) == 1) & (np.bincount(task) > 1)
    return bool(2 * (len(group) - len(cells)) <= expected and not alone.any())


@dataclass(frozen=True, eq=False)
class SeenRows:
    """Rows that a fit has learned from, by hashes, in the memory of its process: neither files nor pickles have them.

    At most a million are kept. Of more rows every second is kept, or every fourth and so on, chosen by the hash of its
    features, so that a row asked about later is known to be among those chosen or not.

    Parameters
    ----------
    parts : tuple of (tuple of str, ndarray of uint64)
        Columns of y that a call has learned, and the sorted keys of its rows that occur once with these labels. In a
        table of few distinct rows, new ones equal others.
    every : int, default=1
        A power of two: keys are those that it divides.
    """

    parts: tuple[tuple[tuple[str, ...], np.ndarray], ...] = ()
    every: int = 1

    @classmethod
    def of(cls, batch: Batch, columns: Sequence[str]) -> Self:
        """Return the rows of a batch with labels, whose columns of y have these names."""
        return cls.unknown().and_of(batch, columns)

    @classmethod
    def unknown(cls) -> Self:
        """Return no rows, for a model whose fit is not known."""
        return cls()

    def and_of(self, batch: Batch, columns: Sequence[str]) -> Self:
        """Return these rows and those of a batch with labels, of other columns perhaps."""
        keys = labelled_keys(batch)
        keys, counts = np.unique(keys[_divides(self.every, keys)], return_counts=True)
        known, every = dict(self.parts), self.every
        known[tuple(columns)] = np.union1d(known.get(tuple(columns), keys[:0]), keys[counts == 1])
        while sum(map(len, known.values())) > _MOST_KEPT:
            every *= 2
            known = {names: own[_divides(every, own)] for names, own in known.items()}
        return type(self)((*known.items(),), every)

    def refuse(self, batch: Batch, columns: Sequence[str], method: str) -> None:
        """Raise a ValueError if most rows of a batch with labels, which a method is to learn from, are among them.

        Rows that were learned with a column that the batch lacks are not found again. Where not all rows are kept, the
        share is that of the rows that would be, and of fewer than ten nothing is known.
        """
        is_asked = is_seen = np.zeros(len(batch), dtype=bool)
        for names, known in self.parts:
            if len(known) and {*names} <= {*columns}:
                keys = labelled_keys(replace(batch, y=batch.y[:, [columns.index(name) for name in names]]))
                is_asked = _divides(self.every, keys)  # the same rows, whatever their labels
                is_seen = is_seen | (known[np.minimum(np.searchsorted(known, keys), len(known) - 1)] == keys)
        n_asked, n_seen = int(is_asked.sum()), int(is_seen.sum())
        if 2 * n_seen > n_asked and (self.every == 1 or n_asked >= _LEAST_ASKED):
            found = n_seen if self.every == 1 else f"about {round(n_seen / n_asked * len(batch))}"
            raise ValueError(
                f"{method} needs rows that fit has not seen, since answers to its own rows are surer than those to new "
                f"ones, and {found} of the {len(batch)} rows are of fit; set rows aside before fit, such as by "
                "train_test_split, and give those"
            )

    def __reduce__(self) -> Any:
        return SeenRows.unknown, ()


def labelled_keys(batch: Batch) -> np.ndarray:
    """Hash the features, labels and task of every row, (n,) uint64; the lowest bits are of the features alone."""
    labels = np.ascontiguousarray(batch.y, dtype=np.float64) + 0.0
    labels[np.isnan(labels)] = np.nan
    keys = feature_keys(batch)
    choosing = _mixed(keys) & _CHOOSING
    for column in labels.view(np.uint64).T:
        keys = _mixed(keys) + column
    if batch.task is not None:
        keys = _mixed(keys) + batch.task.astype(np.uint64)
    return (_mixed(keys) & ~_CHOOSING) | choosing


def _divides(every: int, keys: np.ndarray) -> np.ndarray:
    return keys & np.uint64(every - 1) == 0


def feature_keys(batch: Batch) -> np.ndarray:
    """Hash the features of every row, (n,) uint64; equal rows have equal keys, and others all but surely not."""
    plain, ragged = batch.x.plain(), sum(batch.x.ragged().values(), ())
    n_columns = sum(part.shape[1] for part in plain.values())
    factors = np.random.default_rng(0).integers(2**63, size=n_columns, dtype=np.uint64) * np.uint64(2) + np.uint64(1)
    keys = np.empty(len(batch), dtype=np.uint64)
    for start in range(0, len(batch), _BLOCK_ROWS):
        rows = slice(start, start + _BLOCK_ROWS)
        bits = np.column_stack([_bits(part[rows]) for part in plain.values()]).astype(np.uint64)
        keys[rows] = _mixed(bits + factors) @ factors
        for several in ragged:
            keys[rows] = _mixed(keys[rows]) + _ragged_keys(several.rows(rows))
    return keys


def _bits(values: np.ndarray) -> np.ndarray:
    """Return the bits of values, which are the same for equal ones."""
    if values.dtype.kind == "f":
        values = values + np.float32(0)  # -0.0 is 0.0
        values[np.isnan(values)] = np.nan
    return values.view(np.uint32)


def _mixed(bits: np.ndarray) -> np.ndarray:
    bits = bits * np.uint64(0x9E3779B97F4A7C15)
    return bits ^ (bits >> np.uint64(32))


def _ragged_keys(rows: Ragged) -> np.ndarray:
    """Hash entries and their places in a row, (n,) uint64."""
    keys = ranges(0, rows.lengths).astype(np.uint64)
    for part in rows.flat().values():
        for column in np.column_stack([_bits(part)]).T:
            keys = _mixed(keys + np.uint64(1)) + column
    total = np.concatenate([np.zeros(1, np.uint64), np.cumsum(_mixed(keys))])  # beyond 64 bits it begins anew
    return total[rows.offsets[1:]] - total[rows.offsets[:-1]] + rows.lengths.astype(np.uint64)
