"""Walk many rows down the trees of LightGBM's text at once: a set of rows is a string of bits, and a split an "and".

LightGBM walks row by row, and waits at every split for memory and for the outcome of a comparison. Here all trees take
a step together. The rows at a node are bits, and those of them that go left are these bits and the bits of the node's
condition, which many nodes share. So 64 rows take one instruction, some ten times faster than a walk row by row. The
leaves are the same, and sums over trees have the same bits.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Self

import lightgbm as lgb
import numpy as np

from tabmtl.base.storage.lightgbm_text import TreeText
from tabmtl.estimators.asked import part_of
from tabmtl.estimators.boosted.link import Link

#: Fewer rows are walked by LightGBM: they are not worth the reading of the text.
LEAST_ROWS = 256
_MOST_THREADS = 4  # of LightGBM, which is as fast with more
_MOST_LEAVES = 256  # of a tree
_MANY_THRESHOLDS = 64  # of a column, which are not compared with every row
_ROWS = 1_024  # that are walked together
_ADDED = 32  # trees whose values are added together, while they are in the cache
_TREES, _BITS = 512, 1 << 24  # that are walked together at most, and bits at their leaves
_ZERO = 1e-35  # LightGBM takes smaller numbers for 0
# bits of a decision type
_CATEGORY, _DEFAULT_LEFT, _MISSING, _MISSING_ZERO = 1, 2, 12, 4

Lines = Sequence[dict[str, str]]


@dataclass(frozen=True, eq=False)
class _Level:
    """Nodes of one depth, of several trees: their conditions, and what their left children, then the right ones are."""

    condition: np.ndarray
    inner: np.ndarray
    leaf: np.ndarray
    place: np.ndarray


class Walk:
    """Trees that rows walk down; `of` says whether they are fit for it.

    Attributes
    ----------
    n_leaves : ndarray of int, shape (M,)
        Leaves of every tree.
    """

    def __init__(self, lines: Lines) -> None:
        self.n_leaves = np.array([int(own["num_leaves"]) for own in lines], dtype=np.int64)
        self._values = _read(lines, "leaf_value", np.float64)  # of all trees, and the first of each
        self._first_leaf = np.cumsum([0, *self.n_leaves], dtype=np.int64)[:-1]
        self._first = np.cumsum([0, *(self.n_leaves - 1)])
        self._tree = np.repeat(np.arange(len(lines)), self.n_leaves - 1)
        self._left, self._right = _read(lines, "left_child", np.int64), _read(lines, "right_child", np.int64)
        self._conditions = _Conditions(lines)
        self._parts = [*self._cut()]

    @classmethod
    def of(cls, trees: Sequence[str]) -> Self | None:
        """Read trees as `TreeText.cut` gives them; None if LightGBM walks them as well, or in another way."""
        lines = [dict(line.split("=", 1) for line in tree.splitlines()) for tree in trees]
        if any(int(own["num_leaves"]) > _MOST_LEAVES or own.get("is_linear", "0") != "0" for own in lines):
            return None
        if not lines or (_read(lines, "decision_type", np.int64) & _MISSING == _MISSING_ZERO).any():
            return None
        return cls(lines)

    def find(self, matrix: np.ndarray) -> np.ndarray:
        """Find the leaves (n, M) of rows of `tree_matrix`, counted in each tree."""
        found = np.empty((len(matrix), len(self.n_leaves)), dtype=np.int64)
        for rows, trees, leaf in self._leaves(matrix):
            found[rows, trees] = leaf[:, : rows.stop - rows.start].T
        return found

    def sums(self, matrix: np.ndarray, output: np.ndarray, n_outputs: int) -> np.ndarray:
        """Sum the values of the leaves of rows of `tree_matrix` by the output (M,) of every tree: (n_outputs, n)."""
        found = np.zeros((n_outputs, len(matrix)))
        for rows, trees, leaf in self._leaves(matrix):
            n, own, first = rows.stop - rows.start, output[trees], self._first_leaf[trees, None]
            for into in np.unique(own).tolist():
                of_output = np.flatnonzero(own == into)
                for start in range(0, len(of_output), _ADDED):
                    some = of_output[start : start + _ADDED]
                    values = self._values.take(leaf[some] + first[some], mode="clip")
                    values[0, :n] += found[into, rows]
                    # one tree after the other, as there are many columns
                    found[into, rows] = np.add.reduce(values, axis=0)[:n]
        return found

    def vector_sums(self, matrix: np.ndarray, values: Sequence[np.ndarray]) -> np.ndarray:
        """Sum other values of the leaves, of which each tree has (L, C): (n, C)."""
        found = np.zeros((len(matrix), values[0].shape[1]))
        for rows, trees, leaf in self._leaves(matrix):
            for own, each in zip(leaf[:, : rows.stop - rows.start], values[trees], strict=True):
                found[rows] += each.take(own, axis=0)
        return found

    def _cut(self) -> Iterator[tuple[slice, int, list[_Level]]]:
        """Cut the trees into parts whose leaves fit the cache, with their levels."""
        start, n = 0, len(self.n_leaves)
        while start < n:
            width = 1 << int(self.n_leaves[start : start + _TREES].max() - 1).bit_length()
            end = min(n, start + min(_TREES, _BITS // (width * _ROWS)))
            yield slice(start, end), width, [*self._levels(start, end)]
            start = end

    def _levels(self, start: int, end: int) -> Iterator[_Level]:
        nodes = self._first[start:end][self.n_leaves[start:end] > 1]
        while len(nodes):
            child, tree = np.append(self._left[nodes], self._right[nodes]), np.tile(self._tree[nodes], 2)
            inner, leaf = np.flatnonzero(child >= 0), np.flatnonzero(child < 0)
            place = ~child[leaf] * (end - start) + tree[leaf] - start
            yield _Level(self._conditions.number[nodes], inner, leaf, place)
            nodes = self._first[tree[inner]] + child[inner]

    def _leaves(self, matrix: np.ndarray) -> Iterator[tuple[slice, slice, np.ndarray]]:
        """Yield the leaves (m, k) of some trees for some rows, all trees in their order for the same rows.

        Rows are filled up to whole words.
        """
        for start in range(0, len(matrix), _ROWS):
            some = matrix[start : start + _ROWS]
            goes_left = self._conditions.bits(some)
            for trees, width, levels in self._parts:
                at_leaf = np.zeros((width, trees.stop - trees.start, goes_left.shape[1]), dtype=np.uint64)
                _step_down(levels, goes_left, at_leaf.reshape(-1, goes_left.shape[1]))
                yield slice(start, start + len(some)), trees, _numbers(at_leaf)


def _step_down(levels: Sequence[_Level], goes_left: np.ndarray, at_leaf: np.ndarray) -> None:
    """Let rows, as bits, go down trees to their leaves."""
    n_words = goes_left.shape[1]
    here = np.full((len(levels[0].condition) if levels else 0, n_words), np.uint64(2**64 - 1))
    for level in levels:
        below = np.empty((2, len(here), n_words), dtype=np.uint64)
        np.bitwise_and(here, goes_left.take(level.condition, axis=0), out=below[0])
        np.bitwise_xor(here, below[0], out=below[1])
        children = below.reshape(-1, n_words)
        at_leaf[level.place] = children.take(level.leaf, axis=0)
        here = children.take(level.inner, axis=0)


def _numbers(at_leaf: np.ndarray) -> np.ndarray:
    """Return the number of the leaf of every row, (m, rows) uint8, given the rows at each of them as bits."""
    width, m, n_words = at_leaf.shape
    found = np.zeros((m, 8 * n_words), dtype=np.uint64)  # of eight rows each
    for bit in reversed(range(width.bit_length() - 1)):
        low, high = np.split(at_leaf, 2)
        has_bit = np.bitwise_or.reduce(high, axis=0).view(np.uint8)
        found |= np.unpackbits(has_bit, axis=1, bitorder="little").view(np.uint64) << np.uint64(bit)
        at_leaf = low | high if bit else low
    return found.view(np.uint8)


@dataclass(frozen=True, eq=False)
class _Group:
    """Conditions of one column and decision type: their places, and thresholds, or for each which levels go left."""

    places: slice
    feature: int
    kind: int
    thresholds: np.ndarray


class _Conditions:
    """What decides whether a row goes left, of all nodes, each condition once.

    Attributes
    ----------
    n : int
        Number of conditions.
    number : ndarray of int
        The condition of every node.
    """

    def __init__(self, lines: Lines) -> None:
        feature, kind = _read(lines, "split_feature", np.int64), _read(lines, "decision_type", np.int64)
        threshold = _read(lines, "threshold", np.float64)
        is_category = (kind & _CATEGORY) > 0
        numbers: dict[bytes, int] = {}
        threshold[is_category] = [numbers.setdefault(own, len(numbers)) for own in _sets(lines)]
        sets = [np.flatnonzero(np.unpackbits(np.frombuffer(own, np.uint8), bitorder="little")) for own in numbers]
        low = threshold.astype(np.float32)
        # rows are float32: they are below a threshold if they are below the next lower one of this type
        threshold = np.where(low > threshold, np.nextafter(low, np.float32(-np.inf)), low)
        values, place = np.unique(threshold, return_inverse=True)
        keys = (16 * feature + kind) * len(values) + place
        found, first, self.number = np.unique(keys, return_index=True, return_inverse=True)
        self.n, self._groups = len(found), list[_Group]()
        column = found // max(len(values), 1)
        starts = np.flatnonzero(np.diff(column, prepend=-1)).tolist()
        for start, end in pairwise([*starts, len(found)]):
            nodes = first[start:end]
            own = feature[nodes[0]].item(), kind[nodes[0]].item()
            decides = threshold[nodes]
            if is_category[nodes[0]]:
                decides = _table([sets[int(number)] for number in decides])
            self._groups.append(_Group(slice(start, end), *own, decides))

    def bits(self, matrix: np.ndarray) -> np.ndarray:
        """Return which rows of a matrix go left by every condition, as bits: (D, words) uint64."""
        found = np.zeros((self.n, -(-len(matrix) // 64)), dtype=np.uint64)
        columns = np.array(matrix.T, dtype=np.float32, order="C")
        columns[np.abs(columns) <= _ZERO] = 0
        for group in self._groups:
            x, into = columns[group.feature], found[group.places]
            if not group.kind & _CATEGORY and len(into) >= _MANY_THRESHOLDS:
                _mark_below(x, group, into)
                continue
            goes_left = _is_in(x, group) if group.kind & _CATEGORY else _is_below(x, group)
            packed = np.packbits(goes_left, axis=1, bitorder="little")
            into.view(np.uint8)[:, : packed.shape[1]] = packed
        return found


def _table(sets: Sequence[np.ndarray]) -> np.ndarray:
    """Return which levels are in each set, (k, levels + 1)."""
    is_in = np.zeros((len(sets), 2 + max(own.max(initial=0) for own in sets)), dtype=bool)
    for row, own in zip(is_in, sets, strict=True):
        row[own] = True
    return is_in


def _is_in(x: np.ndarray, group: _Group) -> np.ndarray:
    # the last column is of no set: missing, negative and unknown levels go right
    last = group.thresholds.shape[1] - 1
    return group.thresholds.take(np.where((x >= 0) & (x < last), x, last).astype(np.int64), axis=1)


def _is_below(x: np.ndarray, group: _Group) -> np.ndarray:
    is_missing = np.isnan(x)
    if not group.kind & _MISSING:  # LightGBM takes what is missing for 0 here
        return np.where(is_missing, np.float32(0), x) <= group.thresholds[:, None]
    goes_left = x <= group.thresholds[:, None]
    if group.kind & _DEFAULT_LEFT and is_missing.any():
        goes_left |= is_missing
    return goes_left


def _mark_below(x: np.ndarray, group: _Group, into: np.ndarray) -> None:
    """Set the bits of `_is_below`, given zeros: a row is below the thresholds from a first one on, which rise."""
    if not group.kind & _MISSING:
        x = np.where(np.isnan(x), np.float32(0), x)
    elif group.kind & _DEFAULT_LEFT:
        x = np.where(np.isnan(x), np.float32(-np.inf), x)
    first = np.searchsorted(group.thresholds, x)  # what is missing is above all
    (row,) = np.nonzero(first < len(into))
    place = first[row] * into.shape[1] + (row >> 6)
    np.bitwise_or.at(into.reshape(-1), place, np.uint64(1) << (row & 63).astype(np.uint64))
    np.bitwise_or.accumulate(into, axis=0, out=into)


def _read(lines: Lines, key: str, dtype: type) -> np.ndarray:
    """Return the values of all trees on a line, one tree after the other."""
    return np.fromstring(" ".join(own.get(key, "") for own in lines), dtype=dtype, sep=" ")


def _sets(lines: Lines) -> Iterator[bytes]:
    """Yield the levels that go left by every split of levels, as bits."""
    for own in lines:
        if own["num_cat"] == "0":
            continue
        words = np.array(own["cat_threshold"].split(), dtype=np.uint32)
        for start, end in pairwise(map(int, own["cat_boundaries"].split())):
            yield words[start:end].tobytes().rstrip(b"\0")


def booster_of(text: TreeText) -> lgb.Booster:
    """Return LightGBM's own form of a model, read once."""
    return part_of(text, "booster", lambda: lgb.Booster(model_str=text))


def rewritten(text: TreeText) -> TreeText:
    """Return a model as LightGBM writes it, which is shorter."""
    return TreeText(booster_of(text).model_to_string())


def predict(text: TreeText, matrix: np.ndarray, n_threads: int) -> np.ndarray:
    """Return what LightGBM predicts for rows of `tree_matrix`, bit for bit; many rows walk together."""
    if walks_together(matrix, n_threads) and (known := part_of(text, "walk", lambda: _walk_of(text))):
        walk, link = known
        output = np.arange(len(walk.n_leaves)) % link.width
        return link.answers(walk.sums(matrix, output, link.width))
    return np.asarray(booster_of(text).predict(matrix, num_threads=n_threads))


def _walk_of(text: TreeText) -> tuple[Walk, Link] | tuple[()]:
    """Return the trees of a model and its link; nothing where LightGBM walks them."""
    link = Link.of(text)
    walk = link and Walk.of(text.cut()[1])
    return (walk, link) if walk and link else ()


def walks_together(matrix: np.ndarray, n_threads: int) -> bool:
    """Return whether there are rows enough to walk together faster than LightGBM's threads walk them."""
    return len(matrix) >= LEAST_ROWS and n_threads <= _MOST_THREADS
