"""Border to LightGBM: options, binned rows, trees grown on gradients from outside, several ensembles as one model."""

from __future__ import annotations

import re
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Annotated, Any, ClassVar

import lightgbm as lgb
import numpy as np
from scipy.sparse import csr_array

from tabmtl.params import Count, Jobs, NonNegative, Positive, Share, WholeShare, check_count
from tabmtl.processes.forks import count_threads
from tabmtl.processes.ranks import ALONE, Ranks
from tabmtl.schema import FIRST_LEVEL, Batch, Columns, warn_user
from tabmtl.storage.lightgbm_text import TreeText
from tabmtl.storage.stored import Stored

#: With fewer rows, none are set aside for early stopping.
ROWS_TO_SPLIT = 50

#: Most logits that a leaf adds, before the learning rate: LightGBM's ``max_delta_step``. It floors the hessian of a
#: leaf at 1 / LONGEST_STEP of its gradient. A Newton step of rows whose class has the probability p is 1 / p, so a few
#: rows of a rare class would send every row of their leaf out of reach.
LONGEST_STEP = 20.0

_ZERO = 1e-35  # LightGBM takes smaller numbers for 0
_BINNED_ROWS = 200_000  # of all ranks of a group, from which bins are made; LightGBM's own number for one process
_NO_TREES = "max_feature_idx=0\nlabel_index=0\nfeature_names=x\nfeature_infos=[0:1]"
_MINUTES = 2  # that LightGBM's network waits for a rank
_PLACES = 1 << 16  # of the table that finds a leaf by its value
_ASTRAY = 0.25  # share by which the loss of a refit must be higher before it is dropped

#: Gradients and hessians (width, n) float32 from raw scores (width, n).
Gradients = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]


#: Number of leaves that LightGBM takes.
Leaves = Annotated[int, partial(check_count, low=2, high=131_072)]


@dataclass(kw_only=True, eq=False, repr=False)
class LightGBMOptions:
    """Parameters of the estimators on LightGBM.

    Parameters
    ----------
    learning_rate : float, default=0.05
        Factor of every tree.
    num_leaves : int, default=16
        Maximum number of leaves of a tree.
    min_child_samples : int, default=20
        Least rows of a leaf; LightGBM may count them by the sum of hessians, so roughly.
    colsample_bytree : float in (0, 1], default=1.0
        Share of the columns that every tree sees, drawn anew.
    reg_lambda : float, default=0.1
        L2 penalty of the leaf values. It bounds the values of leaves whose hessian nearly vanishes.
    early_stopping : bool, default=True
        Stop on validation rows. Without X_val and y_val, fit sets ``validation_fraction`` of the rows aside.
    validation_fraction : float in (0, 1), default=0.15
        Share of the rows that early stopping sets aside.
    patience : int, default=30
        Rounds without a better validation score that end the training.
    n_jobs : int, optional
        Threads of LightGBM, as scikit-learn counts them; more than one pays from about 50 000 rows.
    """

    learning_rate: Positive = 0.05
    num_leaves: Leaves = 16
    min_child_samples: Count = 20
    colsample_bytree: WholeShare = 1.0
    reg_lambda: NonNegative = 0.1
    early_stopping: bool = True
    validation_fraction: Share = 0.15
    patience: Count = 30
    n_jobs: Jobs = None

    search_space: ClassVar[dict[str, Any]] = {
        "learning_rate": {"low": 0.01, "high": 0.2, "log": True},
        "num_leaves": {"low": 4, "high": 128, "log": True},
        "min_child_samples": {"low": 5, "high": 100, "log": True},
        "colsample_bytree": {"low": 0.3, "high": 1.0},
        "reg_lambda": {"low": 0.0, "high": 10.0},
    }

    @property
    def _n_threads(self) -> int:
        return count_threads(self.n_jobs)

    def _tree_options(self) -> dict[str, Any]:
        """Return the options that LightGBM knows by the same names."""
        names = ("learning_rate", "num_leaves", "min_child_samples", "colsample_bytree", "reg_lambda")
        return {name: getattr(self, name) for name in names}


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


def dataset(batch: Batch, columns: Columns, **options: Any) -> lgb.Dataset:
    """Return rows as a data set of LightGBM, given its other arguments."""
    n_numeric = len(columns.numeric)
    categorical = list(range(n_numeric, n_numeric + len(columns.categorical)))
    matrix = tree_matrix(batch)
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
    names = _plain_names([*columns.numeric, *columns.categorical])
    label = np.zeros(len(batch), dtype=np.float32)  # a subset demands labels; gradients come from outside
    return dataset(batch, columns, label=label, reference=reference, feature_name=names, params=options).construct()


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
    carrier = lgb.Booster(model_str=_join_text(_NO_TREES, [], 1))
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


def least_level_rows(n_rows: int) -> int:
    """Return how many rows a level of a category must have to be split on: LightGBM's 100, or a tenth of few rows."""
    return max(1, min(100, n_rows // 10))


def small_limits(params: Mapping[str, Any], n_rows: int) -> dict[str, Any]:
    """Return LightGBM's parameters of trees, with its limits on small leaves and groups scaled to few rows."""
    least = max(1, min(params["min_child_samples"], n_rows // 10))
    return {
        **params,
        "min_child_samples": least,
        "num_leaves": max(2, min(params["num_leaves"], 2 * n_rows // least)),  # beyond, memory is kept for nothing
        "min_data_per_group": least_level_rows(n_rows),
        "cat_smooth": min(10, n_rows / 100),
        "cat_l2": min(10, n_rows / 100),
    }


def is_worse(losses: Sequence[np.ndarray], others: Sequence[np.ndarray]) -> bool:
    """Return whether the losses of all labels sum to a quarter more than the others, and that beyond a standard error.

    It judges a refit by the labels that chose its rounds: beside the fit without them, only one that went astray is so.
    """
    before = np.concatenate(others)
    excess = np.concatenate(losses) - before
    return bool(excess.sum() > max(_ASTRAY * before.sum(), np.sqrt(np.square(excess).sum())))


def is_astray(losses: Sequence[np.ndarray], found: Sequence[np.ndarray], task: str | None = None) -> bool:
    """Return whether a fit of all rows is to be dropped, with a warning that names the task, if it is of one.

    Both are losses of the labels that chose the rounds, in a list by task: of that fit, and of the one without their
    rows.
    """
    if not is_worse(losses, found):
        return False
    after, before = np.concatenate(losses), np.concatenate(found)
    warn_user(
        f"{'' if task is None else f'task {task!r}: '}the fit of all rows has the mean loss {after.mean():.3g} on the "
        f"{len(after)} labels that chose its rounds, and the fit without their rows has {before.mean():.3g}; the "
        "latter is kept, which has not learned from these labels. With a larger reg_lambda or a smaller "
        "learning_rate the former may hold"
    )
    return True


class Ensemble:
    """A growing ensemble of one or several outputs.

    Parameters
    ----------
    params : dict
        LightGBM's parameters, without objective and number of classes.
    data : lightgbm.Dataset
        The rows to grow on.
    valid : lightgbm.Dataset, optional
        Rows whose scores are followed.
    width : int, default=1
        Number of outputs; every round grows one tree for each.
    target : ndarray of shape (n,), optional
        Fit this by squared error instead of gradients from outside; a fifth faster, as the hessian is constant. Then
        the data serves no other ensemble that still grows.
    """

    def __init__(
        self,
        params: Mapping[str, Any],
        data: lgb.Dataset,
        valid: lgb.Dataset | None = None,
        *,
        width: int = 1,
        target: np.ndarray | None = None,
    ) -> None:
        self.width, self._data, self._has_target = width, data, target is not None
        self.rounds = 0
        if target is not None:
            data.set_label(target.astype(np.float32))
            # else a first round without a split becomes a tree of the mean
            data.set_init_score(np.zeros(len(target)))
        own = {"objective": "none" if target is None else "regression", "metric": "None", "num_class": width}
        if data.num_data() * params.get("bagging_fraction", 1.0) < 1:
            own["bagging_freq"] = 0  # LightGBM draws no row, and ends
        self.booster = lgb.Booster({**params, **own}, data)
        if valid is not None:
            self.booster.add_valid(valid, "valid")

    def update(self, gradients: Gradients) -> None:
        """Grow one round of trees, on the gradients at the current scores or on the target.

        A round without any split does not count in ``rounds``.
        """

        def objective(scores: np.ndarray, _: lgb.Dataset) -> tuple[np.ndarray, np.ndarray]:
            gradient, hessian = gradients(self._by_output(scores))
            return (gradient[0], hessian[0]) if self.width == 1 else (gradient.T, hessian.T)

        self.rounds += not self.booster.update(fobj=None if self._has_target else objective)

    def scores(self, *, of_valid: bool = False) -> np.ndarray:
        """Return raw scores (width, n) of the rows grown on, or of the followed ones; valid until the next round."""
        found: list[np.ndarray] = []

        def keep(scores: np.ndarray, _: lgb.Dataset) -> tuple[str, float, bool]:
            found.append(scores)
            return "kept", 0.0, False

        (self.booster.eval_valid if of_valid else self.booster.eval_train)(keep)
        return self._by_output(found[0])

    def roll_back(self, rounds: int) -> None:
        """Roll back to `rounds` rounds."""
        for _ in range(self.rounds - rounds):
            self.booster.rollback_one_iter()
        self.rounds = min(self.rounds, rounds)

    def finish(self, n_ensembles: int = 1) -> Grown:
        """Return the grown trees as `n_ensembles` ensembles; other ensembles may use the data then."""
        if self._has_target:
            self._data.set_field("init_score", None)
        header, trees = _split_text(self.booster.model_to_string(num_iteration=-1))
        size = self.width // n_ensembles
        ensembles: list[list[str]] = [[] for _ in range(n_ensembles)]
        # LightGBM keeps trees of one leaf, of value 0, from a first round without a split
        for i, tree in enumerate(trees[len(trees) - self.rounds * self.width :]):
            ensembles[i % self.width // size].append(tree)
        gains = self.booster.feature_importance("gain")
        return Grown(rounds=self.rounds, header=header, ensembles=ensembles, gains=gains)

    def _by_output(self, scores: np.ndarray) -> np.ndarray:
        return scores[None] if self.width == 1 else scores.T


@dataclass(frozen=True, kw_only=True)
class Grown:
    """Finished ensembles as LightGBM's text.

    Attributes
    ----------
    rounds : int
    header : str
        Text before the trees of a model.
    ensembles : list of list of str
        Their trees, round after round.
    gains : ndarray of shape (n_features,)
        Total gain of all splits on every feature.
    """

    rounds: int
    header: str
    ensembles: list[list[str]]
    gains: np.ndarray


@dataclass(frozen=True, kw_only=True, eq=False)
class Forest:
    """Several ensembles over the same features in one LightGBM model, one after the other.

    Attributes
    ----------
    offsets : ndarray of int64, shape (E + 1,)
        Ensemble e has the iterations from ``offsets[e]`` up to ``offsets[e + 1]``.
    text : TreeText
        LightGBM's text of the whole, which `Ensemble` wrote.
    """

    offsets: Annotated[np.ndarray, Stored("i8", "E+1", offsets="R")]
    text: Annotated[TreeText, Stored(shape="F K R 0")]

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @classmethod
    def join(cls, grown: Sequence[Grown], width: int) -> Forest:
        """Join all ensembles over the same features, each with ``width`` outputs, to one model."""
        ensembles = [trees for each in grown for trees in each.ensembles]
        offsets = np.cumsum([0, *(len(trees) // width for trees in ensembles)], dtype=np.int64)
        text = _join_text(grown[0].header, [tree for trees in ensembles for tree in trees], width)
        return cls(offsets=offsets, text=TreeText(text))

    @cached_property
    def booster(self) -> lgb.Booster:
        """The model of all ensembles."""
        return lgb.Booster(model_str=self.text)

    @cached_property
    def abreast(self) -> lgb.Booster:
        """The ensembles as outputs of one model, the shorter ones filled up with trees of one leaf, of value 0."""
        header, trees = _split_text(self.text)
        ensembles = [self._own(trees, ensemble) for ensemble in range(len(self))]
        longest = max(map(len, ensembles))
        filled = [own + [_constant_tree(0)] * (longest - len(own)) for own in ensembles]
        rounds = range(0, longest, self.width)
        dealt = [tree for first in rounds for own in filled for tree in own[first : first + self.width]]
        return lgb.Booster(model_str=_join_text(header, dealt, self.width * len(self)))

    @cached_property
    def width(self) -> int:
        """Number of outputs of every ensemble."""
        # without the booster, which single rows do not need
        return int(self.text.partition("\nnum_tree_per_iteration=")[2].partition("\n")[0])

    def predict(self, ensemble: int, matrix: np.ndarray, n_threads: int = 1) -> np.ndarray:
        """Return raw scores (width, n) of one ensemble for rows of `tree_matrix`."""
        start, end = self._range(ensemble)
        if start == end:
            return np.zeros((self.width, len(matrix)))
        scores = self.booster.predict(
            matrix, start_iteration=start, num_iteration=end - start, raw_score=True, num_threads=n_threads
        )
        return np.asarray(scores).reshape(len(matrix), self.width).T

    def predict_row(self, row: np.ndarray) -> np.ndarray:
        """Return raw scores (n_ensembles, width, 1) of all ensembles for one row (1, p), bit-equal to `predict`.

        Calls LightGBM once, because a call takes as long as some hundred trees. Many rows are slower this way: the
        trees of one ensemble stay in the processor's cache from row to row, those of all ensembles do not.
        """
        scores = self.abreast.predict(row, num_iteration=-1, raw_score=True, num_threads=1)
        return np.asarray(scores).reshape(len(self), self.width, 1)

    def export(self, factors: Mapping[int, float], start: Sequence[float], objective: str) -> lgb.Booster:
        """Return a weighted sum of ensembles and a constant as one plain model.

        Parameters
        ----------
        factors : mapping of int to float
            Ensembles to sum, with the factor of their trees.
        start : sequence of float, length width
            The constant of every output.
        objective : str
            LightGBM's objective, which names the link: "regression", "binary sigmoid:1", "multiclass num_class:3".
        """
        header, trees = _split_text(self.text)
        kept = [_constant_tree(value) for value in start]
        for ensemble, factor in factors.items():
            kept += [_scale_tree(tree, factor) for tree in self._own(trees, ensemble)]
        return lgb.Booster(model_str=_join_text(header, kept, self.width, objective))

    def _range(self, ensemble: int) -> tuple[int, int]:
        return int(self.offsets[ensemble]), int(self.offsets[ensemble + 1])

    def _own(self, trees: list[str], ensemble: int) -> list[str]:
        """Return the trees of one ensemble."""
        start, end = self._range(ensemble)
        return trees[self.width * start : self.width * end]


class VectorEnsemble:
    """A growing ensemble of trees whose leaves are known, so that they can get a value for every output.

    LightGBM finds the splits on one gradient; its own leaf values are ignored.

    Parameters
    ----------
    params, data, valid
        As those of `Ensemble`.
    rows : Batch
        The rows of ``data``.
    valid_rows : Batch, optional
        The rows of ``valid``.
    """

    def __init__(
        self,
        params: Mapping[str, Any],
        data: lgb.Dataset,
        rows: Batch,
        valid: lgb.Dataset | None = None,
        valid_rows: Batch | None = None,
    ) -> None:
        self._trees = Ensemble(params, data, valid)
        self._rows = [rows] if valid_rows is None else [rows, valid_rows]
        self._before = [np.zeros(len(rows)) for rows in self._rows]
        self._highest = 0.0  # bound of all scores

    @property
    def rounds(self) -> int:
        """Trees grown so far."""
        return self._trees.rounds

    def grow(self, gradient: np.ndarray, hessian: np.ndarray) -> tuple[int, list[np.ndarray]] | None:
        """Grow one tree on a gradient and a hessian (n,), float32.

        Returns
        -------
        found : (int, list of ndarray) or None
            Number of its leaves, and the leaf (n,) int32 of every row, then those of every followed row; None if
            nothing could be split.
        """
        rounds = self.rounds
        self._trees.update(lambda _: (gradient[None], hessian[None]))
        if self.rounds == rounds:
            return None
        booster = self._trees.booster
        text = booster.model_to_string(num_iteration=1, start_iteration=booster.current_iteration() - 1)
        values = np.array(text.partition("\nleaf_value=")[2].partition("\n")[0].split(), dtype=np.float64)
        self._highest += float(np.abs(values).max())
        return len(values), [self._find_leaves(i, values) for i in range(len(self._rows))]

    def finish(self) -> Grown:
        """Return the grown trees."""
        return self._trees.finish()

    def _find_leaves(self, followed: int, values: np.ndarray) -> np.ndarray:
        """Find the leaf of all rows by the change of their scores, which costs no pass through the tree."""
        now, before = self._trees.scores(of_valid=bool(followed))[0], self._before[followed]
        found = _nearest(np.subtract(now, before, out=before), values, 1e-9 * self._highest)
        before[:] = now
        if found is not None:
            return found
        newest = self._trees.booster.current_iteration() - 1
        matrix = tree_matrix(self._rows[followed])
        leaves = self._trees.booster.predict(matrix, pred_leaf=True, start_iteration=newest, num_iteration=1)
        return np.asarray(leaves).reshape(len(matrix)).astype(np.int32)


def _nearest(changes: np.ndarray, values: np.ndarray, least_gap: float) -> np.ndarray | None:
    """Find the index of the value nearest to every change (n,); None if two values are nearer than the least gap.

    The changes serve as memory.
    """
    order = np.argsort(values)
    rising = values[order]
    gap, width = np.diff(rising).min(initial=np.inf), rising[-1] - rising[0]
    if gap <= least_gap:
        return None
    places = np.rint((rising - rising[0]) * ((_PLACES - 3) / width)).astype(np.int64) + 1
    if np.diff(places).min(initial=3) < 3:
        return order[np.searchsorted((rising[1:] + rising[:-1]) / 2, changes)].astype(np.int32)
    # a table look-up takes a tenth of the time of a search; a change is at most one place from its value
    table = np.zeros(_PLACES, dtype=np.int32)
    for step in (-1, 0, 1):
        table[places + step] = order
    changes -= rising[0]
    changes *= (_PLACES - 3) / width
    changes += 1.5
    return table.take(changes.astype(np.int32), mode="clip")


@dataclass(frozen=True, kw_only=True, eq=False)
class VectorForest:
    """Trees whose leaves have a value for every output.

    Attributes
    ----------
    values : ndarray of float64, shape (L, C)
        Values of all leaves, tree after tree.
    text : TreeText
        LightGBM's text of the trees; its own leaf values are ignored.
    """

    values: Annotated[np.ndarray, Stored("f8", "leaves outputs")]
    text: Annotated[TreeText, Stored(shape="F 1 trees 0")]

    def __post_init__(self) -> None:
        if len(self.values) != self._offsets[-1]:
            raise ValueError(f"there are values of {len(self.values)} leaves, expected {self._offsets[-1]}")

    @classmethod
    def join(cls, header: str, trees: Sequence[str], values: Sequence[np.ndarray], n_outputs: int) -> VectorForest:
        """Join grown trees and the values (leaves, C) of each; trees without any value are left out."""
        pairs = [(tree, own) for tree, own in zip(trees, values, strict=True) if own.any()]
        text = TreeText(_join_text(header, [tree for tree, _ in pairs], 1))
        return cls(values=np.concatenate([np.zeros((0, n_outputs)), *(own for _, own in pairs)]), text=text)

    @cached_property
    def booster(self) -> lgb.Booster:
        """The trees alone."""
        return lgb.Booster(model_str=self.text)

    @cached_property
    def _offsets(self) -> np.ndarray:
        """The first leaf of every tree, and the number of all: (M + 1,)."""
        leaves = [int(found) for found in re.findall(r"^num_leaves=(\d+)$", self.text, flags=re.MULTILINE)]
        return np.cumsum([0, *leaves], dtype=np.int64)

    def __len__(self) -> int:
        return len(self._offsets) - 1

    def find_leaves(self, matrix: np.ndarray, n_threads: int = 1) -> np.ndarray:
        """Find the leaves (n, M) of rows of `tree_matrix`, counted through all trees."""
        if not len(self):
            return np.zeros((len(matrix), 0), dtype=np.int64)
        leaves = np.asarray(self.booster.predict(matrix, pred_leaf=True, num_threads=n_threads))
        return leaves.reshape(len(matrix), len(self)).astype(np.int64) + self._offsets[:-1]

    def sum_values(self, leaves: np.ndarray, outputs: slice = slice(None)) -> np.ndarray:
        """Sum the values of leaves (n, M) for some outputs: (n, C).

        Trees are added one after the other, so a row has the same sum alone and among others.
        """
        values = self.values[:, outputs]
        if len(leaves) == 1:
            return np.add.accumulate(np.concatenate([np.zeros((1, values.shape[1])), values[leaves[0]]]))[-1:]
        starts = np.arange(0, leaves.size + 1, max(len(self), 1)) if len(self) else np.zeros(len(leaves) + 1, int)
        each = csr_array((np.ones(leaves.size), leaves.ravel(), starts), shape=(len(leaves), len(values)))
        return each @ values

    def export(self, outputs: slice, start: np.ndarray, scale: float, objective: str) -> lgb.Booster:
        """Return some outputs as one plain model: the constants ``start``, then the trees times ``scale``."""
        header, trees = _split_text(self.text)
        kept = [_constant_tree(value) for value in start]
        for tree, first, end in zip(trees, self._offsets[:-1], self._offsets[1:], strict=True):
            own = scale * self.values[first:end, outputs]
            if own.any():
                kept += [_with_values(tree, values) for values in own.T]
        return lgb.Booster(model_str=_join_text(header, kept, len(start), objective))


# LightGBM's text: a header of key=value lines, blocks "Tree=...", "end of trees", then lines unused by prediction.


def _split_text(text: str) -> tuple[str, list[str]]:
    header, *trees = text.partition("end of trees")[0].split("Tree=")
    return header, [tree.partition("\n")[2].strip() for tree in trees]


def _join_text(header: str, trees: Sequence[str], width: int, objective: str = "") -> str:
    kept = [line for line in header.splitlines() if line.partition("=")[0] in ("max_feature_idx", "label_index")]
    kept += [line for line in header.splitlines() if line.startswith("feature_")]
    blocks = [f"Tree={i}\n{tree}\n\n\n" for i, tree in enumerate(trees)]
    sizes = " ".join(str(len(block.encode())) for block in blocks)
    head = ["tree", "version=v4", f"num_class={width}", f"num_tree_per_iteration={width}", *kept]
    head += [f"objective={objective}"] if objective else []
    return (
        "\n".join([*head, f"tree_sizes={sizes}", "", "".join(blocks)])
        + "end of trees\n\nparameters:\nend of parameters\n\npandas_categorical:null\n"
    )


def _constant_tree(value: float) -> str:
    return f"num_leaves=1\nnum_cat=0\nleaf_value={float(value)!r}\nis_linear=0\nshrinkage=1"


def _scale_tree(tree: str, factor: float) -> str:
    lines = tree.splitlines()
    for i, line in enumerate(lines):
        key, _, values = line.partition("=")
        if key in ("leaf_value", "internal_value"):
            lines[i] = f"{key}=" + " ".join(repr(float(float(value) * factor)) for value in values.split())
    return "\n".join(lines)


def _with_values(tree: str, values: np.ndarray) -> str:
    """Replace the leaf values of a tree; those inside it become unknown."""
    lines = tree.splitlines()
    for i, line in enumerate(lines):
        key, _, old = line.partition("=")
        if key == "leaf_value":
            lines[i] = f"{key}=" + " ".join(repr(value) for value in values.tolist())
        elif key == "internal_value":
            lines[i] = f"{key}=" + " ".join(["0"] * len(old.split()))
    return "\n".join(lines)
