"""Extremely randomised trees of one task (Geurts et al. 2006), grown by scikit-learn and kept as LightGBM's text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Any

import numpy as np
from sklearn import config_context
from sklearn.tree import ExtraTreeRegressor

from tabmtl.base.schema import Columns
from tabmtl.base.storage.lightgbm_text import TreeText, constant_tree
from tabmtl.estimators.boosted.border import plain_names
from tabmtl.models.independent.rows import Sample

_MOST_TREES = 1_000  # of all outputs, which have trees of their own in LightGBM's text
_LEAST_SHARE = 1e-3  # of the rows in a leaf, which bounds the size of a forest of many rows
_MISSING_LEFT, _MISSING_RIGHT = 10, 8  # LightGBM's decision types of numbers where NaN is missing
#: Smallest leaves that are tried, the surest first, and the share of columns that a split may see.
LEAVES = (8, 3, 1)
SETTING = {"max_features": 0.5}


class Forest:
    """A growing forest, each tree on a bootstrap sample of the rows or of their groups.

    A leaf answers the mean of its rows, which is the share of a class for classes; there squared errors choose the
    splits that Gini's impurity chooses. Levels of categories are numbers in the order of their codes.

    Parameters
    ----------
    rows : Sample
    means : ndarray of shape (n, width)
        Labels as means, as `tabmtl.targets.Kind` has them.
    seed : int
    places : ndarray of int
        Columns that the trees read.
    min_samples_leaf : int
    **setting
        Other parameters of scikit-learn's ``ExtraTreeRegressor``.
    """

    def __init__(
        self,
        rows: Sample,
        means: np.ndarray,
        seed: int,
        places: np.ndarray,
        *,
        min_samples_leaf: int,
        **setting: Any,
    ) -> None:
        self._weight, self._means, self._rng = rows.weight, means, np.random.default_rng(seed)
        self._x, self._places = rows.x[:, places], places
        self._setting = {"min_samples_leaf": max(min_samples_leaf, int(len(rows) * _LEAST_SHARE)), **setting}
        self._unit = np.arange(len(rows)) if rows.group is None else np.unique(rows.group, return_inverse=True)[1]
        # scikit-learn looks for gaps, and checks what is known to be fine, in one step, as long as a small tree
        self._has_gaps = bool(np.isnan(self._x).any())
        self._trees: list[Any] = []

    def grow(self, n_trees: int) -> None:
        """Grow until there are so many trees, or the most that fit."""
        most = max(1, min(n_trees, _MOST_TREES // self._means.shape[1]))
        # checks of every tree would take as long as a small tree; sums of large numbers may overflow in them
        with config_context(assume_finite=True, skip_parameter_validation=True), np.errstate(all="ignore"):
            while len(self._trees) < most:
                self._grow_one()

    def _grow_one(self) -> None:
        rng, n_units = self._rng, int(self._unit.max()) + 1
        drawn = np.bincount(rng.integers(0, n_units, n_units), minlength=n_units)[self._unit].astype(np.float64)
        seen = np.flatnonzero(drawn)
        weight = drawn[seen] if self._weight is None else drawn[seen] * self._weight[seen]
        model = ExtraTreeRegressor(random_state=int(rng.integers(2**31)), **self._setting)
        fitted = model.fit(self._x[seen], self._means[seen], sample_weight=weight, check_input=self._has_gaps)
        self._trees.append(fitted.tree_)

    def means(self, x: np.ndarray) -> np.ndarray:
        """Return the mean answer (n, width) of all trees to other rows."""
        x = x[:, self._places]
        total = np.zeros((len(x), self._means.shape[1]))
        for tree in self._trees:
            total += tree.predict(x).reshape(total.shape)
        return total / len(self._trees)

    def trees(self, share: float) -> Iterator[str]:
        """Yield the trees as those of LightGBM, whose mean is a share of an answer."""
        for tree in self._trees:
            yield from _as_text(tree, self._places, share / len(self._trees))


def joined(forests: Sequence[Forest], columns: Columns, width: int) -> TreeText:
    """Return the mean of forests as a model of LightGBM, whose raw scores are means."""
    texts = chain.from_iterable(forest.trees(1 / len(forests)) for forest in forests)
    return TreeText.joined(_header(columns), texts, width)


def _header(columns: Columns) -> str:
    """Return the header of LightGBM's text of a model over columns."""
    names = plain_names([*columns.numeric, *columns.categorical])
    infos = " ".join(["none"] * len(names))
    return f"max_feature_idx={len(names) - 1}\nlabel_index=0\nfeature_names={' '.join(names)}\nfeature_infos={infos}"


def _as_text(tree: Any, places: np.ndarray, factor: float) -> Iterator[str]:
    """Return LightGBM's trees of all outputs of a tree of scikit-learn, its answers times a factor."""
    is_leaf = tree.children_left < 0
    values = tree.value[:, :, 0] * factor  # (nodes, width)
    if is_leaf[0]:
        yield from (constant_tree(value) for value in values[0])
        return
    inner, leaves = np.flatnonzero(~is_leaf), np.flatnonzero(is_leaf)
    number = np.empty(len(is_leaf), dtype=np.int64)
    number[inner], number[leaves] = np.arange(len(inner)), ~np.arange(len(leaves))
    left, right = tree.children_left[inner], tree.children_right[inner]
    weight = tree.weighted_n_node_samples
    spread = weight * tree.impurity
    # rows are float32: between two neighbours of this type all numbers divide them alike, and nine digits tell one
    low = tree.threshold[inner].astype(np.float32)
    low = np.where(low > tree.threshold[inner], np.nextafter(low, np.float32(-np.inf)), low)
    between = (low.astype(np.float64) + np.nextafter(low, np.float32(np.inf))) / 2
    split = {
        "num_leaves": [len(leaves)],
        "num_cat": [0],
        "split_feature": places[tree.feature[inner]],
        "split_gain": [f"{value:.2g}" for value in (spread[inner] - spread[left] - spread[right]).clip(min=0)],
        "threshold": [f"{value:.9g}" for value in between.tolist()],
        "decision_type": np.where(tree.missing_go_to_left[inner], _MISSING_LEFT, _MISSING_RIGHT),
        "left_child": number[left],
        "right_child": number[right],
    }
    nothing = np.zeros(len(inner), dtype=np.int64)
    counts = {"leaf_weight": np.zeros(len(leaves), dtype=np.int64), "leaf_count": tree.n_node_samples[leaves]}
    inside = {"internal_value": nothing, "internal_weight": nothing, "internal_count": tree.n_node_samples[inner]}
    before, after = _lines(split), _lines(counts | inside | {"is_linear": [0], "shrinkage": [1]})
    for own in values.T:
        yield "\n".join([before, _lines({"leaf_value": own[leaves]}), after])


def _lines(values: dict[str, Any]) -> str:
    return "\n".join(f"{key}={' '.join(map(str, np.asarray(row).tolist()))}" for key, row in values.items())
