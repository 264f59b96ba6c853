"""Rows as LightGBM takes them: the matrix, its bins, and its network between processes."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import lightgbm as lgb
import numpy as np

from tabmtl.processes.ranks import ALONE, Ranks
from tabmtl.schema import FIRST_LEVEL, Batch, Columns
from tabmtl.storage.lightgbm_text import TreeText

_ZERO = 1e-35  # LightGBM takes smaller numbers for 0
_BINNED_ROWS = 200_000  # of all ranks of a group, from which bins are made; LightGBM's own number for one process
_NO_TREES = "max_feature_idx=0\nlabel_index=0\nfeature_names=x\nfeature_infos=[0:1]"
_MINUTES = 2  # that LightGBM's network waits for a rank


def tree_matrix(batch: Batch) -> np.ndarray:
    """Return encoded rows as LightGBM takes them.

    Returns
    -------
    matrix : ndarray of float32, shape (n, Fn + Fc)
        Numeric values, then codes of the levels from 0; missing and unseen are NaN.
    """
    if not batch.x.codes.shape[1]:
        return np.asarray(batch.x.numbers, dtype=np.float32)
    codes = batch.x.codes.astype(np.float32) - FIRST_LEVEL
    codes[codes < 0] = np.nan
    return np.column_stack([batch.x.numbers, codes])


def dataset(matrix: np.ndarray, columns: Columns, **options: Any) -> lgb.Dataset:
    """Return rows of `tree_matrix` as a data set of LightGBM, given its other arguments."""
    n_numeric = len(columns.numeric)
    categorical = list(range(n_numeric, matrix.shape[1]))
    if options.get("reference") is None and _is_blank(matrix, n_numeric):
        matrix = np.ones_like(matrix)  # LightGBM makes no split of these either, but does not refuse them
    return lgb.Dataset(matrix, categorical_feature=categorical, **options)


def _is_blank(matrix: np.ndarray, n_numeric: int) -> bool:
    """Return whether LightGBM refuses the columns, as of the numbers all are 0, and of the levels all are missing."""
    return all(np.isnan(level).all() for level in matrix.T[n_numeric:]) and all(
        (np.abs(number) <= _ZERO).all() for number in matrix.T[:n_numeric]
    )


def bin_rows(
    batch: Batch,
    columns: Columns,
    options: dict[str, Any],
    reference: lgb.Dataset | None = None,
    group: Ranks = ALONE,
) -> lgb.Dataset:
    """Bin rows, once for all ensembles.

    The ranks of a group make the same bins, of a common sample of their rows, each by itself. Across its network
    LightGBM would make other bins of each column from the rows of one rank, or add up histograms of unlike bins.

    Parameters
    ----------
    batch : Batch
    columns : Columns
    options : dict
        LightGBM's parameters of data.
    reference : lightgbm.Dataset, optional
        Its bins are taken instead of new ones.
    group : Ranks, optional
    """
    if group.size > 1 and reference is None:
        reference = bin_rows(_common_sample(batch, group), columns, options)
    matrix, names = tree_matrix(batch), _plain_names([*columns.numeric, *columns.categorical])
    label = np.zeros(len(matrix), dtype=np.float32)  # a subset demands labels; gradients come from outside
    data = dataset(matrix, columns, label=label, reference=reference, feature_name=names, params=options)
    return data.construct()


def bin_labelled_rows(
    batch: Batch, columns: Columns, options: dict[str, Any], reference: lgb.Dataset | None, group: Ranks
) -> tuple[Batch, lgb.Dataset]:
    """Bin the rows with a label, as `bin_rows` does, and return them too."""
    index = labelled_rows(batch, group)
    batch = batch if len(index) == len(batch.y) else batch.rows(index)
    return batch, bin_rows(batch, columns, options, reference, group)


def labelled_rows(batch: Batch, group: Ranks) -> np.ndarray:
    """Find the rows with a label; in a group one row at least, because LightGBM grows on no rank without."""
    found = np.flatnonzero(~np.isnan(batch.y).all(axis=1))
    return np.zeros(1, dtype=np.int64) if group.size > 1 and not len(found) else found


def _common_sample(batch: Batch, group: Ranks) -> Batch:
    """Return the features of 200 000 of the labelled rows of all ranks, spread evenly, or of all if there are fewer."""
    batch = batch.rows(np.flatnonzero(~np.isnan(batch.y).all(axis=1)))
    counts = group.gather(len(batch))
    n, first = min(sum(counts), _BINNED_ROWS), sum(counts[: group.rank])
    places = np.arange(n) * sum(counts) // n - first
    own = batch.rows(places[(places >= 0) & (places < len(batch))])
    return Batch.join(Batch(x=own.x).gathered(group))


@contextmanager
def network(group: Ranks) -> Iterator[None]:
    """Open LightGBM's network between the ranks of a group inside; ensembles with `network_params` grow across it."""
    if group.size == 1:
        yield
        return
    with socket.socket() as probe:
        probe.bind(("", 0))
        port = probe.getsockname()[1]
        machines = group.gather(f"{group.address()}:{port}")
    carrier = lgb.Booster(model_str=TreeText.join(_NO_TREES, [], 1))
    carrier.set_network(machines, local_listen_port=port, listen_time_out=_MINUTES, num_machines=group.size)
    try:
        yield
    finally:
        carrier.free_network()


def network_params(group: Ranks) -> dict[str, Any]:
    """Return the parameters by which trees grow on the rows of all ranks."""
    return {} if group.size == 1 else {"tree_learner": "data", "num_machines": group.size}


def _plain_names(names: Sequence[str]) -> list[str]:
    """Return different names without the signs that LightGBM's text and JSON use."""
    plain = [re.sub(r"[^\w.+-]", "_", name) or "_" for name in names]
    return plain if len(set(plain)) == len(plain) else [f"{name}_{j}" for j, name in enumerate(plain)]
