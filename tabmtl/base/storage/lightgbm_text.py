"""LightGBM's model text, checked to the letter before LightGBM reads it.

LightGBM trusts its text: a child, a feature or a category out of range reads foreign memory, a cycle never ends, and a
malformed number ends the process, because an error in its parallel region cannot be caught. So nothing passes but the
grammar of its format v4, as ``Booster.model_to_string`` writes it, and `TreeText.joined`, by which trees of others
become a model.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from typing import NamedTuple, NoReturn, Self

import numpy as np

MOST_LEAVES = 131_072  # LightGBM's own limit of num_leaves
MOST_OUTPUTS = 100_000
DEEPEST = 4_096  # splits above a leaf: SHAP values recurse by them, and take memory by their square

_COUNT, _INDEX, _CHILD = rb"\d{1,10}+", rb"\d{1,9}+", rb"-?+\d{1,6}+"
_NUMBER = rb"-?+\d{1,25}+(?:\.\d{1,25}+)?+(?:e[+-]\d\d\d?+)?+"
_NUMBER_OR = rb"-?+(?:%b|\d{1,25}+(?:\.\d{1,25}+)?+(?:e[+-]\d\d\d?+)?+)"
_LIMIT, _ANY = _NUMBER_OR % b"inf", _NUMBER_OR % b"inf|nan"
# the lines of a tree in LightGBM's order: the form of their values, and the things that have one value each
_LINES = {
    "num_leaves": (rb"[1-9]\d{0,5}+", "tree"),
    "num_cat": (rb"\d{1,6}+", "tree"),
    "split_feature": (_INDEX, "node"),
    "split_gain": (_ANY, "node"),
    "threshold": (_LIMIT, "node"),
    "decision_type": (rb"\d\d?+", "node"),
    "left_child": (_CHILD, "node"),
    "right_child": (_CHILD, "node"),
    "leaf_value": (_NUMBER, "leaf"),
    "leaf_weight": (_ANY, "leaf"),
    "leaf_count": (_COUNT, "leaf"),
    "internal_value": (_ANY, "node"),
    "internal_weight": (_ANY, "node"),
    "internal_count": (_COUNT, "node"),
    "cat_boundaries": (_INDEX, "boundary"),
    "cat_threshold": (_COUNT, "word"),
    "is_linear": (rb"[01]", "tree"),
    "leaf_const": (_NUMBER, "linear leaf"),
    "num_features": (_INDEX, "linear leaf"),
    "leaf_features": (_INDEX, "coefficient"),
    "leaf_coeff": (_NUMBER, "coefficient"),
    "shrinkage": (_NUMBER, "tree"),
}
_LENGTH, _COLUMN = "has too many or too few values", "names a column beyond max_feature_idx"
_PREDICTED = ("leaf_value", "leaf_const", "leaf_coeff")
_TREE = re.compile(b"".join(b"(?:%b=([^\n]*+)\n)?" % key.encode() for key in _LINES) + b"\n\n")
_ROWS = {key: re.compile(rb"(?:%b[ \n])*" % value) for key, (value, _) in _LINES.items()}
# decision_type: 1 for categories, 2 if missing values go left, and 4 or 8 for the values that count as missing
_NUMERIC, _CATEGORICAL = (0, 2, 4, 6, 8, 10), (1, 5, 9)

_NAME, _BOUND = rb"[\w.+\x80-\xff-]+", rb"-?(?:\d+(?:\.\d+)?(?:e[+-]\d+)?|inf)"
_INFO = rb"(?:none|\[%b:%b\]|-?\d+(?::-?\d+)*)" % (_BOUND, _BOUND)
_ONE_OUTPUT = (
    *(b"regression", b"regression_l1", b"huber", b"fair", b"poisson", b"quantile", b"mape", b"gamma", b"tweedie"),
    *(b"binary", b"cross_entropy", b"cross_entropy_lambda"),
)
_OBJECTIVE = b"|".join([b"multiclass", b"multiclassova", *_ONE_OUTPUT])
# the lines of the header: the rest of each after its name
_HEADER = {
    b"tree": rb"",
    b"version": rb"=v4",
    b"num_class": rb"=[1-9]\d{0,5}",
    b"num_tree_per_iteration": rb"=[1-9]\d{0,5}",
    b"label_index": rb"=\d{1,9}",
    b"max_feature_idx": rb"=\d{1,9}",
    b"feature_names": rb"=%b(?: %b)*" % (_NAME, _NAME),
    b"feature_infos": rb"=%b(?: %b)*" % (_INFO, _INFO),
    b"tree_sizes": rb"=(?:\d{1,12}(?: \d{1,12})*)?",
    b"objective": rb"=(?:%b)(?: sqrt| [a-z_]+:\d+(?:\.\d+)?(?:e[+-]\d+)?)*" % _OBJECTIVE,
    b"average_output": rb"",
    b"monotone_constraints": rb"=(?:-1|0|1)(?: (?:-1|0|1))*",
}
_OPTIONAL = (b"objective", b"average_output", b"monotone_constraints")
_FOOTER = re.compile(
    rb"end of trees\n(?:\nfeature_importances:\n(?:%b=\d+\n)*)?" % _NAME
    + rb'(?:\nparameters:\n(?:\[\w+: [^"\\\x00-\x1f]*\]\n)*\n?end of parameters\n)?'
    + rb"\npandas_categorical:(?:null|\[\])\n*"
)


class TreeShape(NamedTuple):
    """Numbers of columns, outputs, iterations and parameters of a model."""

    n_features: int
    width: int
    n_iterations: int
    n_params: int


class TreeText(str):
    """LightGBM's text of a model: a header, a block of lines for every tree, and lines that no prediction reads."""

    @classmethod
    def joined(cls, header: str, trees: Iterable[str], width: int, objective: str = "") -> Self:
        """Join trees to a model of ``width`` outputs.

        Parameters
        ----------
        header : str
            Header of a model over the same features.
        trees : iterable of str
            As `cut` gives them: a tree for every output, round after round.
        width : int
        objective : str, optional
            LightGBM's objective, which names the link: "regression", "binary sigmoid:1", "multiclass num_class:3".
        """
        blocks = [f"Tree={i}\n{tree}\n\n\n" for i, tree in enumerate(trees)]
        sizes = " ".join(str(len(block.encode())) for block in blocks)
        head = ["tree", "version=v4", f"num_class={width}", f"num_tree_per_iteration={width}"]
        for names in (("max_feature_idx", "label_index"), ("feature_names", "feature_infos")):
            head += [line for line in header.splitlines() if line.partition("=")[0] in names]
        head += [f"objective={objective}"] if objective else []
        end = "end of trees\n\nparameters:\nend of parameters\n\npandas_categorical:null\n"
        return cls("\n".join([*head, f"tree_sizes={sizes}", "", "".join(blocks)]) + end)

    @classmethod
    def mean(cls, texts: Sequence[TreeText]) -> Self:
        """Return the model whose raw scores are the mean of those of several over the same features and outputs."""
        header, _ = texts[0].cut()
        trees = (scale_tree(tree, 1 / len(texts)) for text in texts for tree in text.cut()[1])
        return cls.joined(header, trees, int(texts[0].first("num_class")[0]), " ".join(texts[0].first("objective")))

    def cut(self) -> tuple[str, list[str]]:
        """Cut the text to its header and its trees."""
        header, *trees = self.partition("end of trees")[0].split("Tree=")
        return header, [tree.partition("\n")[2].strip() for tree in trees]

    def first(self, key: str) -> list[str]:
        """Return the values of the first line of a key."""
        return self.partition(f"\n{key}=")[2].partition("\n")[0].split()

    @cached_property
    def shape(self) -> TreeShape:
        """Shape of the trees by `check_trees`; a ValueError if LightGBM never wrote this text."""
        return check_trees(self.encode())


def constant_tree(value: float) -> str:
    """Return a tree of one leaf."""
    return f"num_leaves=1\nnum_cat=0\nleaf_value={float(value)!r}\nis_linear=0\nshrinkage=1"


def is_constant(tree: str) -> bool:
    """Return whether a tree has one leaf."""
    return tree.startswith("num_leaves=1\n")


def scale_tree(tree: str, factor: float) -> str:
    """Return a tree times a factor."""
    return _with_values(tree, lambda key, values: map(float(factor).__mul__, map(float, values)))


def shift_tree(tree: str, summand: float) -> str:
    """Return a tree plus a constant."""
    return _with_values(tree, lambda key, values: map(float(summand).__add__, map(float, values)))


def fill_tree(tree: str, leaves: Sequence[float]) -> str:
    """Return a tree with other values of its leaves; those inside it become unknown."""
    return _with_values(tree, lambda key, values: leaves if key == "leaf_value" else [0] * len(values))


def _with_values(tree: str, change: Callable[[str, list[str]], Iterable[float]]) -> str:
    lines = tree.splitlines()
    for i, line in enumerate(lines):
        key, _, values = line.partition("=")
        if key in ("leaf_value", "internal_value"):
            lines[i] = f"{key}={' '.join(map(repr, change(key, values.split())))}"
    return "\n".join(lines)


def check_trees(content: bytes) -> TreeShape:
    """Check LightGBM's model text by its grammar, and check that its trees are trees.

    Raises
    ------
    ValueError
        If LightGBM never wrote this; it names the line, and the tree.
    """
    head, _, _ = content.partition(b"\n\n")
    header, starts = _read_header(head), [len(head) + 2]
    rows: list[Sequence[bytes | None]] = []
    for size in header[b"tree_sizes"].split():
        first, start, end = b"Tree=%d\n" % len(rows), starts[-1], starts[-1] + int(size)
        found = _TREE.fullmatch(content, start + len(first), end) if content.startswith(first, start) else None
        if found is None:
            _refuse_block(content, len(rows), start, end)
        rows.append(found.groups())
        starts.append(end)
    if not _FOOTER.fullmatch(content, starts[-1]):
        raise ValueError(f"line {_line(content, starts[-1])}: the text after the trees is not LightGBM's")
    width, n_features = int(header[b"num_class"]), int(header[b"max_feature_idx"]) + 1
    if len(rows) % width:
        raise ValueError(f"there are {len(rows)} trees, no multiple of num_class={width}")
    if rows:
        _Trees(content, starts, rows).check(n_features)
    return TreeShape(n_features, width, len(rows) // width, content.count(b"\n[", starts[-1]))


def _read_header(head: bytes) -> dict[bytes, bytes]:
    """Return the values of the header by name."""
    header: dict[bytes, bytes] = {}
    for number, line in enumerate(head.split(b"\n"), start=1):
        name, sign, value = line.partition(b"=")
        if name in header or name not in _HEADER or not re.fullmatch(_HEADER[name], sign + value):
            raise ValueError(f"line {number}: the header cannot hold {_shown(line)}")
        header[name] = value
    missing = [name.decode() for name in _HEADER if name not in header and name not in _OPTIONAL]
    if missing:
        raise ValueError(f"the header lacks {missing[0]}")
    _check_outputs(header)
    n_features = int(header[b"max_feature_idx"]) + 1
    for name in (b"feature_names", b"feature_infos", b"monotone_constraints"):
        found = header[name].count(b" ") + 1 if name in header else n_features
        if found != n_features:
            raise ValueError(f"{name.decode()} has {found} entries, max_feature_idx + 1 is {n_features}")
    return header


def _check_outputs(header: dict[bytes, bytes]) -> None:
    """Check that the three numbers of outputs agree; else LightGBM writes past its memory."""
    width = header[b"num_class"]
    name, *options = header.get(b"objective", b"").split(b" ")
    fits = header[b"num_tree_per_iteration"] == width and int(width) <= MOST_OUTPUTS
    if name in _ONE_OUTPUT:
        fits = fits and width == b"1"
    elif name:
        named = [option for option in options if b"num_class" in option]
        fits = fits and width != b"1" and named == [b"num_class:" + width]
    if not fits:
        shown = [b"%b=%b" % (key, header[key]) for key in (b"num_tree_per_iteration", b"objective") if key in header]
        raise ValueError(f"{b' and '.join(shown).decode()} do not go with num_class={width.decode()}")


def _line(content: bytes, place: int) -> int:
    return content.count(b"\n", 0, place) + 1


def _shown(line: bytes) -> str:
    return repr(line[:40].decode(errors="replace"))


def _refuse_block(content: bytes, tree: int, start: int, end: int) -> NoReturn:
    """Name the first line of a block that no tree can have."""
    number = _line(content, start)
    first, *lines = content[start:end].split(b"\n")
    if first != b"Tree=%d" % tree:
        raise ValueError(f"line {number}: expected 'Tree={tree}', by tree_sizes, got {_shown(first)}")
    for offset, line in enumerate(lines, start=1):
        if line and line.partition(b"=")[0].decode(errors="replace") not in _LINES:
            raise ValueError(f"line {number + offset} (tree {tree}): a tree cannot hold {_shown(line)}")
    raise ValueError(f"line {number} (tree {tree}): lines are missing or out of order, or tree_sizes is wrong")


class _Trees:
    """All T trees of a text: the start of each, and its lines of `_LINES`, None for a missing line."""

    def __init__(self, content: bytes, starts: Sequence[int], rows: Sequence[Sequence[bytes | None]]) -> None:
        self.content, self.starts = content, starts
        self.lines = dict(zip(_LINES, zip(*rows, strict=True), strict=True))
        for key in ("leaf_features", "leaf_coeff"):  # leaves without features leave more than one space behind
            self.lines[key] = tuple(row and b" ".join(filter(None, row.split(b" "))) for row in self.lines[key])
        self.joined = {key: b"\n".join([*filter(None, rows), b""]) for key, rows in self.lines.items()}

    def check(self, n_features: int) -> None:
        """Raise a ValueError that names the first bad line, and its tree."""
        for key in _LINES:
            self._check_grammar(key)
        for key, (_, thing) in _LINES.items():
            if thing == "tree":
                self._refuse(self._counts(key) != 1, key, _LENGTH)
        leaves, sets = self._values("num_leaves"), self._values("num_cat")
        self._refuse(leaves > MOST_LEAVES, "num_leaves", f"is above {MOST_LEAVES}")
        self._check_lengths(leaves, sets)
        # of the nodes of all trees, one tree after the other: their trees, and their numbers in these
        self.owner, self.number = _places(leaves - 1)
        self._check_children(leaves)
        self._check_categories(sets)
        self._refuse(self._values("split_feature") >= n_features, "split_feature", _COLUMN, self.owner)
        owner, _ = _places(self._counts("leaf_features"))
        self._refuse(self._values("leaf_features") >= n_features, "leaf_features", _COLUMN, owner)

    def _values(self, key: str, dtype: type = np.int64) -> np.ndarray:
        """Return the values of all trees on a line, one tree after the other."""
        return np.fromstring(self.joined[key], dtype=dtype, sep=" ") if self.joined[key] else np.zeros(0, dtype)

    def _counts(self, key: str) -> np.ndarray:
        """Count the values of every tree on a line: (T,)."""
        return np.array([row.count(b" ") + 1 if row else 0 for row in self.lines[key]])

    def _refuse(self, bad: np.ndarray, key: str, what: str, owner: np.ndarray | None = None) -> None:
        """Refuse the first bad tree, of (T,), or the tree of the first bad value, given the trees of all values."""
        if bad.any():
            tree = int(np.argmax(bad)) if owner is None else int(owner[np.argmax(bad)])
            place = self.content.find(b"\n%b=" % key.encode(), self.starts[tree], self.starts[tree + 1])
            line = _line(self.content, self.starts[tree] if place < 0 else place + 1)
            raise ValueError(f"line {line} (tree {tree}): {key} {what}")

    def _check_grammar(self, key: str) -> None:
        pattern, joined = _ROWS[key], self.joined[key]
        if not pattern.fullmatch(joined):
            bad = [row is not None and row != b"" and not pattern.fullmatch(row + b"\n") for row in self.lines[key]]
            self._refuse(np.array(bad), key, "has an invalid value")
        if key in _PREDICTED and b"e+" in joined:
            owner, _ = _places(self._counts(key))
            self._refuse(~np.isfinite(self._values(key, np.float64)), key, "is not finite", owner)

    def _check_lengths(self, leaves: np.ndarray, sets: np.ndarray) -> None:
        """Check for one value per thing; trees of one leaf may lack lines that no prediction reads."""
        linear = self._values("is_linear")
        sizes = {"tree": 1, "node": leaves - 1, "leaf": leaves, "linear leaf": linear * leaves}
        sizes |= {"boundary": np.where(sets > 0, sets + 1, 0)}
        for key, (_, thing) in _LINES.items():
            found = self._counts(key)
            lacking = (leaves == 1) & (found == 0) & (key in ("leaf_weight", "leaf_count"))
            self._refuse((found != sizes[thing]) & ~lacking, key, _LENGTH)
            if key == "cat_boundaries":
                sizes["word"] = self._check_boundaries(sets)
            if key == "num_features":
                owner, _ = _places(found)
                sizes["coefficient"] = np.bincount(owner, weights=self._values(key), minlength=len(leaves))
        lacks = np.array([row is None for row in self.lines["left_child"]])
        self._refuse((linear > 0) & lacks, "left_child", "is missing")

    def _check_boundaries(self, sets: np.ndarray) -> np.ndarray:
        """Check that the sets of categories of every tree lie one after the other; return where the last ends: (T,)."""
        some = np.flatnonzero(sets)
        tree, number = _places(sets[some] + 1)
        ends = self._values("cat_boundaries")
        bad = np.where(number == 0, ends != 0, np.diff(ends, prepend=0) < 0)
        self._refuse(bad, "cat_boundaries", "does not divide cat_threshold", some[tree])
        last = np.zeros_like(sets)
        last[some] = ends[np.cumsum(sets[some] + 1) - 1]
        return last

    def _check_children(self, leaves: np.ndarray) -> None:
        """Check that every other node, and every leaf, is the child of one node before it, and none lies too deep."""
        child = np.concatenate([self._values("left_child"), self._values("right_child")])
        owner, number = np.tile(self.owner, 2), np.tile(self.number, 2)
        fits = np.where(child < 0, ~child < leaves[owner], (number < child) & (child < leaves[owner] - 1))
        # places of a tree of L leaves: its L - 1 nodes, then its leaves
        first = np.cumsum(leaves - 1) - (leaves - 1)
        place = 2 * first[owner] + owner + np.where(child < 0, leaves[owner] - 2 - child, child)
        again = np.bincount(place[fits], minlength=1)[np.where(fits, place, 0)] > 1
        bad = (~fits | again).reshape(2, -1)
        for key, row in zip(("left_child", "right_child"), bad, strict=True):
            self._refuse(row, key, "makes no tree: a node or leaf is out of range, or has two parents", self.owner)
        left, right = child.reshape(2, -1)
        level = first[leaves > 1]
        for _ in range(DEEPEST):
            below = np.concatenate([left[level], right[level]])
            level = (first[np.tile(self.owner[level], 2)] + below)[below > 0]
            if not len(level):
                return
        self._refuse(level >= 0, "left_child", f"makes a tree deeper than {DEEPEST}", self.owner[level])

    def _check_categories(self, sets: np.ndarray) -> None:
        """Check that the splits by category of every tree have its sets of categories, one each and in order."""
        kinds = self._values("decision_type")
        named = np.isin(kinds, _CATEGORICAL)
        self._refuse(~named & ~np.isin(kinds, _NUMERIC), "decision_type", "is of no known kind", self.owner)
        found = np.bincount(self.owner[named], minlength=len(sets))
        self._refuse(found != sets, "num_cat", "is not the number of splits by category")
        owner, number = _places(sets)
        values = self.joined["threshold"].split()
        nodes = np.flatnonzero(named).tolist()
        bad = [values[node] != b"%d" % expected for node, expected in zip(nodes, number.tolist(), strict=True)]
        self._refuse(np.array(bad, dtype=bool), "threshold", "does not count the splits by category", owner)


def _places(sizes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return tree and number in it of all values, given how many each tree has, one tree after the other."""
    owner = np.repeat(np.arange(len(sizes)), sizes)
    return owner, np.arange(len(owner)) - (np.cumsum(sizes) - sizes)[owner]
