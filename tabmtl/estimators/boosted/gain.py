"""Gain of every feature for each output of trees, by the values of their leaves."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tabmtl.encode import TableCoder


def feature_gains(trees: Sequence[str], n_features: int, values: np.ndarray | None = None) -> np.ndarray:
    """Return how far the splits on each feature part the values of the leaves: the variance that they explain.

    A split sends the shares p and q of the rows of its tree left and right, where the leaves have the mean values l and
    r. It adds ``p q / (p + q) (l - r)²``. All splits of a tree add up to the variance of its values over its rows. For
    a squared error without a penalty, that is LightGBM's gain by the number of rows, times the squared learning rate.

    Parameters
    ----------
    trees : sequence of str
        Blocks of LightGBM's text, as `TreeText.cut` gives them.
    n_features : int
    values : ndarray of shape (L, C), optional
        Values of all leaves, tree after tree; default: those of the text, of one output.

    Returns
    -------
    gains : ndarray of shape (n_features, C)
    """
    lines = [dict(line.split("=", 1) for line in tree.splitlines()) for tree in trees]

    def read(key: str, of_one_leaf: str = "") -> np.ndarray:
        return np.array(" ".join(own.get(key) or of_one_leaf for own in lines).split(), dtype=np.float64)

    leaves = read("num_leaves").astype(np.int64)
    values = read("leaf_value")[:, None] if values is None else values
    tree = np.repeat(np.arange(len(leaves)), leaves - 1)
    # a tree of m leaves has 2 m - 1 places: those of its splits, then those of its leaves
    first = np.cumsum(2 * leaves - 1) - (2 * leaves - 1)
    number = np.arange(len(tree)) - np.repeat(np.cumsum(leaves - 1) - (leaves - 1), leaves - 1)
    split, root = first[tree] + number, first[tree]
    rows, sums = np.zeros((2 * leaves - 1).sum()), np.zeros(((2 * leaves - 1).sum(), values.shape[1]))
    of_leaf = np.delete(np.arange(len(rows)), split)
    rows[of_leaf] = read("leaf_count", of_one_leaf="0")
    sums[of_leaf] = rows[of_leaf, None] * values
    child = np.stack([read("left_child"), read("right_child")]).astype(np.int64)
    below = first[tree] + np.where(child < 0, leaves[tree] - 2 - child, child)
    for each in _by_number(number):  # the children of a split have higher numbers
        rows[split[each]], sums[split[each]] = rows[below[:, each]].sum(axis=0), sums[below[:, each]].sum(axis=0)
    left, right = sums[below] / np.maximum(rows[below], 1)[..., None]
    shares = rows[below].prod(axis=0) / np.maximum(rows[split] * rows[root], 1)
    gains = np.zeros((n_features, values.shape[1]))
    np.add.at(gains, read("split_feature").astype(np.int64), shares[:, None] * (left - right) ** 2)
    return gains


def gain_shares(gains: np.ndarray, coder: TableCoder) -> np.ndarray:
    """Return gains (..., F) of encoded columns by the columns of X that they come from, (..., P), as shares of all."""
    places = [coder.names.index(name) for name in coder.features.origins]
    shares = np.zeros((*gains.shape[:-1], len(coder.names)))
    np.add.at(shares.T, places, gains.T / max(gains.sum(), np.finfo(float).tiny))
    return shares


def _by_number(number: np.ndarray) -> list[np.ndarray]:
    """Return the places of equal numbers, those of the highest first."""
    order = np.argsort(-number, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(number[order])) + 1)
