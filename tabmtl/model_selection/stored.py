"""Set rows of a disk aside: by random keys, so that which rows they are does not depend on how rows lie in files."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tabmtl.encode.cache import StoredRows
from tabmtl.encode.shards import row_keys
from tabmtl.model_selection.repeats import belong_together, feature_keys

MOST_VALID_ROWS = 1_000_000  # more would take memory and time, and judge no better
_JUDGED_ROWS = 200_000
_BLOCK_ROWS = 262_144


def split_stored(rows: StoredRows, fraction: float, seed: int) -> tuple[StoredRows, StoredRows]:
    """Split rows in two parts, to train and to validate on.

    Groups stay together, and so do equal rows of a long table if they are one thing under several tasks (see
    `tabmtl.model_selection.repeats`). Unlike `train_valid_split`, this does not look at labels: with few rows of a
    class, one part may have none.

    Parameters
    ----------
    rows : StoredRows
        All rows of a cache.
    fraction : float
        Share of the rows, or groups, to validate on; of many rows fewer, about `MOST_VALID_ROWS`.
    seed : int

    Returns
    -------
    train, valid : StoredRows

    Raises
    ------
    ValueError
        If a task has no label to train on, or there is none to validate on.
    """
    valid = _lowest(_units(rows), min(fraction, MOST_VALID_ROWS / len(rows)), seed)
    train, held = rows.choose(~valid), rows.choose(valid)
    lost = np.flatnonzero((train.n_labels == 0) & (rows.n_labels > 0))
    cure = "give X_val and y_val, set early_stopping=False, or take another random_state"
    if len(lost):
        name = rows.cache.coder.labels.tasks[lost[0]].name
        raise ValueError(
            f"task {name!r} has {rows.n_labels[lost[0]]} labels, all of them in rows that were set aside; {cure}"
        )
    if not held.n_labels.any():
        raise ValueError(f"none of the {len(held)} rows that were set aside has a label; {cure}")
    return train, held


def at_most(rows: StoredRows) -> StoredRows:
    """Return all rows of a cache, of many about `MOST_VALID_ROWS` random ones."""
    if len(rows) <= MOST_VALID_ROWS:
        return rows
    return rows.choose(_lowest(_numbers(rows), MOST_VALID_ROWS / len(rows), 0))


def _lowest(units: Sequence[int] | np.ndarray, share: float, seed: int) -> np.ndarray:
    """Return which of n units have a key in the lowest share, (n,) bool."""
    bound = np.uint64(min(int(share * 2**64), 2**64 - 1))
    chosen = np.empty(len(units), dtype=bool)
    for start in range(0, len(units), _BLOCK_ROWS):
        some = np.asarray(units[start : start + _BLOCK_ROWS])
        chosen[start : start + len(some)] = row_keys(some, seed) <= bound
    return chosen


def _numbers(rows: StoredRows) -> range:
    """Return the numbers of this rank's rows."""
    return range(rows.cache.start, rows.cache.start + len(rows.cache))


def _units(rows: StoredRows) -> Sequence[int] | np.ndarray:
    """Return a number of the unit of every row of this rank, (n,): rows of one unit are set aside together."""
    arrays = rows.cache.arrays
    if "group" in arrays:
        return arrays["group"]
    if "task" not in arrays:
        return _numbers(rows)
    keys = np.concatenate([feature_keys(batch) for batch in rows.batches()])
    # whole groups of equal rows, though not all of them
    judged = np.flatnonzero(_lowest(keys, min(1.0, _JUDGED_ROWS / len(rows)), 0))
    judged = judged[~np.isnan(arrays["y"][judged, 0])]
    found = rows.group.gather((keys[judged], arrays["task"][judged].astype(np.int64)))
    judged_keys, task = (np.concatenate(part) for part in zip(*found, strict=True))
    if not len(judged_keys):
        return _numbers(rows)
    group = np.unique(judged_keys, return_inverse=True)[1]
    return keys if belong_together(group, task) else _numbers(rows)
