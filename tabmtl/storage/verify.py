"""What a model's folder may hold besides parameters and trees, checked before anything is built from it.

A checksum says that a folder is whole, not who wrote it. Indices out of range read foreign memory in compiled code, and
sizes that belong to nothing fill the memory; so arrays are held against each other and against the facts.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

LONGEST_SESSION = 10_000  # clicks that a network may read: it keeps their distances, which are as many squared

_TINY, _TEXT_BUCKETS = 5e-324, 2**15
_TRANSFORMS = ("standardize", "quantile", "none")
_CONTAINERS = ("polars", "pandas", "pyarrow", "numpy")
# of arrays that torch computes with, whose operations take no other
_FLOAT32, _INT32, _INT64 = "f4", "i4", "i8"
_KINDS = {"b": "booleans", "i": "whole numbers", "iu": "whole numbers", "f": "numbers"} | {
    _FLOAT32: "32-bit numbers",
    _INT32: "32-bit whole numbers",
    _INT64: "64-bit whole numbers",
}


class _Arrays:
    """The arrays of one part of a model, each of which is asked for once."""

    def __init__(self, arrays: Mapping[str, np.ndarray], part: str) -> None:
        self.part, self.left = part, {n.partition(".")[2]: a for n, a in arrays.items() if n.partition(".")[0] == part}

    def take(
        self,
        name: str,
        kind: str,
        shape: Sequence[int | None],
        low: float = -math.inf,
        high: float = math.inf,
        *,
        missing: bool = False,
    ) -> np.ndarray:
        """An array of a kind, one of `_KINDS`, and a shape, None for any size, with values from low to high.

        With ``missing``, NaN is a value too; infinity never is.
        """
        if name not in self.left:
            raise ValueError(f"the array {self.part}.{name} is missing")
        array = self.left.pop(name)
        sizes = tuple(size if wanted is None else wanted for size, wanted in zip(array.shape, shape, strict=False))
        is_kind = array.dtype.kind in kind if kind.isalpha() else array.dtype.str[1:] == kind
        if not is_kind or array.ndim != len(shape) or array.shape != sizes:
            wanted = ", ".join("any" if size is None else str(size) for size in shape)
            raise ValueError(
                f"the array {self.part}.{name} has type {array.dtype} and shape {array.shape}, "
                f"expected {_KINDS[kind]} of shape ({wanted})"
            )
        present = array[~np.isnan(array)] if missing else array
        if present.size and not (low <= present.min() and present.max() <= high and np.isfinite(present).all()):
            raise ValueError(f"the array {self.part}.{name} has a value that is not finite, or not in {low} to {high}")
        return array

    def take_offsets(self, name: str, kind: str, size: int, total: int) -> None:
        """Where ranges start and end that share out ``total`` values."""
        offsets = self.take(name, kind, (size + 1,), 0, total)
        if offsets[0] != 0 or offsets[-1] != total or (np.diff(offsets) < 0).any():
            raise ValueError(f"the array {self.part}.{name} does not share out {total} values")

    def take_weights(self, prefix: str = "", kind: str | None = None) -> None:
        """All that begin so, of any shape and finite; their shapes are held against the network, which comes late."""
        for name in [name for name in self.left if name.startswith(prefix)]:
            self.take(name, kind or self.left[name].dtype.kind, self.left[name].shape)

    def finish(self) -> None:
        """Raise a ValueError for what nobody asked for."""
        if self.left:
            raise ValueError(f"the array {self.part}.{min(self.left)} belongs to no such model")


def check_contents(
    facts: Any, arrays: Mapping[str, np.ndarray], trees: Mapping[str, Sequence[int]], *, is_own: bool
) -> None:
    """Hold the facts, arrays and trees of a model against each other.

    Parameters
    ----------
    facts : mapping
        With the parameters and parts of an estimator.
    arrays : mapping of str to ndarray
    trees : mapping of str to sequence of int
        Per text its `tabmtl.storage.lightgbm_text.TreeShape`.
    is_own : bool
        Whether the estimator is one of this package. Of another, what was fitted is not looked at.

    Raises
    ------
    ValueError, TypeError, LookupError
        If no model of this release has such contents.
    """
    n_items = 0
    if "coder" in facts:
        _check_coder(facts["coder"], _Arrays(arrays, "coder"))
    if "catalogue" in facts:
        n_items = _check_catalogue(facts["catalogue"], _Arrays(arrays, "catalogue"))
    if not is_own:
        return
    parts = {"params", "fitted", "catalogue" if n_items else "coder"}
    _need(set(facts) == parts, f"its parts are {sorted(facts)}, expected {sorted(parts)}")
    stray = [name for name in arrays if name.partition(".")[0] not in facts]
    _need(not stray, f"the array {stray[:1]} belongs to no part")
    fitted = _Arrays(arrays, "fitted")
    if n_items:
        _check_recommender(facts, fitted, n_items)
    else:
        _check_tables(facts["fitted"], fitted, facts["coder"], trees)
    fitted.finish()


def _need(fits: bool, what: str) -> None:
    if not fits:
        raise ValueError(what)


def _texts(values: Any, what: str) -> list[str]:
    fits = isinstance(values, list | tuple) and all(isinstance(value, str) for value in values)
    _need(fits, f"{what} are no list of texts")
    return list(values)


def _check_coder(facts: dict[str, Any], arrays: _Arrays) -> None:
    features, labels = facts["features"], facts["labels"]
    _check_features(features, arrays, "features.")
    own = [name for name in _texts(facts["names"], "the columns of X") if name != facts["task_column"]]
    _need(own == list(features["names"]), f"the columns of X are {own[:5]}, the features {features['names'][:5]}")
    names = _texts(labels["names"], "the columns of y")
    arrays.take("labels.center", "f", (len(names),))
    arrays.take("labels.scale", "f", (len(names),), _TINY)
    origin, levels = labels["origin"], labels["task_levels"]
    sizes = {len(labels["dtypes"]), len(origin["dtypes"]), len(origin["categories"])}
    _need(sizes == {len(names)}, f"the columns of y are {len(names)}, their types {sizes}")
    _need(origin["container"] in _CONTAINERS and origin["ndim"] in (1, 2), f"y cannot be {origin}")
    _need(origin["ndim"] == 2 or len(names) == 1, "y is flat and has several columns")
    tasks = _texts([task["name"] for task in labels["tasks"]], "the names of the tasks")
    expected = names if levels is None else _texts(levels, "the tasks of the rows")
    _need(tasks == expected and len(set(tasks)) == len(tasks), f"the tasks are {tasks[:5]}, expected {expected[:5]}")
    _need((levels is None) == (facts["task_column"] is None) and (levels is None or len(names) == 1), "no such tasks")
    _need(all(0 <= step < len(tasks) for step in labels.get("chain", ())), "a step of the funnel is no task")
    for task in labels["tasks"]:
        classes, kinds = task["classes"], {type(label) for label in task["classes"] or ()}
        fits = classes is None if task["kind"] == "regression" else len(set(classes)) == len(classes) > 1
        _need(fits and (kinds <= {int, float} or kinds in ({str}, {bool})), f"{task['name']!r} has classes {classes}")
    arrays.finish()


def _check_features(facts: dict[str, Any], arrays: _Arrays, prefix: str = "") -> None:
    """A `FeatureCoder`."""
    numeric, categorical = _texts(facts["numeric"], "numbers"), _texts(facts["categorical"], "categories")
    names = _texts(facts["names"], "features")
    _need(sorted(names) == sorted(numeric + categorical), "the features are not the numeric and the categorical ones")
    _need(len(set(names)) == len(names) > 0, "the features are none, or not distinct")
    _need(len(facts["levels"]) == len(categorical), "the categorical columns have not one list of levels each")
    for name, levels in zip(categorical, facts["levels"], strict=True):
        _need(len(set(_texts(levels, "levels"))) == len(levels), f"the levels of {name!r} are not distinct")
    _need(facts["transform"] in _TRANSFORMS, f"numbers cannot be scaled by {facts['transform']!r}")
    flags = [type(flag) is bool for flag in facts["has_missing"]]
    _need(all(flags) and len(flags) == len(facts["bins"]) == len(numeric), "a numeric column lacks a flag or its bins")
    for name, edges in zip(numeric, facts["bins"], strict=True):
        rises = len(edges) > 1 and all(a < b for a, b in pairwise(edges))
        _need(rises and all(math.isfinite(edge) for edge in edges), f"the bins of {name!r} do not rise")
    arrays.take(f"{prefix}center", "f", (len(numeric),))
    arrays.take(f"{prefix}scale", "f", (len(numeric),), _TINY)
    knots = (len(numeric), None) if facts["transform"] == "quantile" else (0, 0)
    found = arrays.take(f"{prefix}knots", "f", knots)
    _need(found.shape[1] < 256, "there are more than 255 knots")


def _check_tables(
    facts: dict[str, Any], arrays: _Arrays, coder: dict[str, Any], trees: Mapping[str, Sequence[int]]
) -> None:
    """What was fitted on tables: trees of families, trees of tasks, or a network."""
    features, tasks = coder["features"], coder["labels"]["tasks"]
    n_features = len(features["numeric"]) + len(features["categorical"])
    widths = [len(task["classes"]) if task["kind"] == "multiclass" else 1 for task in tasks]
    expected: dict[str, tuple[int, ...]] = {}
    if "ends" in facts:
        arrays.take("counts", "i", (len(tasks),), 0)
        left = set(range(len(tasks)))
        for i, ends in enumerate(facts["ends"]):
            members = arrays.take(f"{i}.members", "i", (None,), 0, len(tasks) - 1).tolist()
            _need(left.issuperset(members) and len(set(members)) == len(members) > 0, f"family {i} has tasks of others")
            left.difference_update(members)
            _need(len(ends) == 3 + len(members), f"family {i} has {len(ends)} ensembles, expected {3 + len(members)}")
            _check_family(arrays, i, ends, widths[members[0]], n_features)
            expected[f"family{i}"] = (n_features, widths[members[0]], ends[-1], 0)
        _need(not left, f"the tasks {sorted(left)[:5]} are of no family")
    elif "tasks" in facts:
        _need(list(facts["tasks"]) == [task["name"] for task in tasks], f"there are trees of {facts['tasks'][:5]}")
        for t, width in enumerate(widths):
            expected[f"task{t}"] = (n_features, width)
    else:
        arrays.take_weights()
    _need(trees.keys() == expected.keys(), f"its trees are {sorted(trees)[:5]}, expected {sorted(expected)[:5]}")
    for name, shape in expected.items():
        found = tuple(trees[name])[: len(shape)]
        _need(found == shape, f"{name}.txt has columns, outputs, iterations and parameters {found}, expected {shape}")


def _check_family(arrays: _Arrays, i: int, ends: list[int], width: int, n_features: int) -> None:
    """A `Family` of tasks of ``width`` outputs, whose ensembles end at these iterations."""
    size = len(ends) - 3
    arrays.take(f"{i}.rounds", "i", (2 + size,), 0)
    arrays.take(f"{i}.alone", "b", (size,))
    arrays.take(f"{i}.start", "f", (size, width))
    arrays.take(f"{i}.own_start", "f", (size, width))
    arrays.take(f"{i}.theta", "f", (size,))
    arrays.take(f"{i}.checks", "f", (size, 3), missing=True)
    arrays.take(f"{i}.importances", "f", (3, n_features), 0)
    rises = all(isinstance(end, int) for end in ends) and all(a <= b for a, b in pairwise([0, *ends]))
    _need(rises, f"the ensembles of family {i} do not follow each other")


def _check_catalogue(facts: dict[str, Any], arrays: _Arrays) -> int:
    """Number of items."""
    ids = _texts(facts["ids"], "the items") if "ids" in facts else arrays.take("ids", "iu", (None,)).tolist()
    _need(len(set(ids)) == len(ids) > 0, "the items are none, or not distinct")
    _need(bool(arrays.take("counts", "i", (len(ids),), 0).any()), "no item was ever clicked")
    arrays.finish()
    return len(ids)


def _check_recommender(facts: dict[str, Any], arrays: _Arrays, n_items: int) -> None:
    names = arrays.left
    if "sizes" in names:
        sizes = arrays.take("sizes", "i", (None,), 1, len(names.get("items", ())))
        total = int(sizes.sum())
        arrays.take("lengths", "i", (len(sizes),), 1)
        arrays.take("items", "i", (total,), 1, n_items)
        arrays.take("places", "i", (total,), 0)
        if facts["params"]["time_column"] is not None:
            arrays.take("times", "f", (len(sizes),))
    elif "indptr" in names:
        total = len(arrays.take("indices", "i", (None,), 0, n_items - 1))
        arrays.take("data", "f", (total,))
        arrays.take_offsets("indptr", "i", n_items, total)
    elif "categories" in names:
        arrays.take("categories", "i", (n_items,), 0, n_items)
    elif "items.clicks" in names:
        _check_items(facts["fitted"], arrays, n_items)
        arrays.take_weights("weights.", _FLOAT32)
        length = facts["params"]["max_length"]
        _need(length <= LONGEST_SESSION, f"max_length is {length}, expected {LONGEST_SESSION} at most")


def _check_items(facts: dict[str, Any], arrays: _Arrays, n_items: int) -> None:
    """Metadata of items, inside what its encoding knows."""
    arrays.take("items.clicks", _INT64, (n_items,), 0)
    _need(set(facts["metadata"]) <= {"n_distinct_metadata_", "oracle_ceiling_"}, f"it cannot say {facts['metadata']}")
    coder, n_bags = facts["coder"], facts["items"]["n_bags"]
    _need(type(facts["items"]["shared"]) is bool, "items neither share vectors nor not")
    _need((coder is None) == (n_bags is None), "it has metadata, or an encoding of it, but not both")
    if coder is None:
        return
    table, sizes, vectors = (
        coder["table"],
        [2 + len(_texts(t, "tags")) for t in coder["tags"].values()],
        coder["vectors"],
    )
    levels = [] if table is None else [len(own) for own in table["levels"]]
    if table is not None:
        _check_features(table, arrays, "coder.")
    _need(n_bags == len(sizes) + len(_texts(coder["texts"], "texts")), f"it has {n_bags} bags")
    x_num = arrays.take("items.x_num", _FLOAT32, (None, 0 if table is None else len(table["numeric"])), missing=True)
    x_cat = arrays.take("items.x_cat", _INT32, (len(x_num), len(levels)), 0)
    for column, size in zip(x_cat.T, levels, strict=True):
        _need(column.max(initial=0) < size + 2, "an item has a category beyond the levels of its column")
    arrays.take("items.vectors", _FLOAT32, (len(x_num), sum(vectors.values())))
    arrays.take("items.row", _INT64, (n_items,), 0, len(x_num) - 1)
    for i, size in enumerate(sizes + [_TEXT_BUCKETS] * (n_bags - len(sizes))):
        codes = arrays.take(f"items.codes.{i}", _INT32, (None,), 0, size - 1)
        arrays.take(f"items.weights.{i}", _FLOAT32, (len(codes),), 0)
        arrays.take_offsets(f"items.offsets.{i}", _INT64, len(x_num), len(codes))
