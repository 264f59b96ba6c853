"""MultiTab-Bench: tables whose tasks have a known correlation, degree, noise and best possible score."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import cycle, islice, pairwise
from typing import Any, TypedDict, Unpack

import numpy as np
import polars as pl

from tabmtl.synth.checks import check_count
from tabmtl.synth.multitab_truth import MultitabTruth, TaskKind, bin_edges, power_sum
from tabmtl.synth.task_vectors import checked_vectors, correlation_matrix, task_vectors

#: Degrees of the released configuration (7 tasks); other numbers of tasks cycle through them.
RELEASED_DEGREES = (1, 3, 2, 3, 4, 2, 3)

Seed = int | np.random.SeedSequence | np.random.Generator | None

_BLOCK = 2**15


@dataclass(frozen=True, kw_only=True, eq=False)
class MultitabBench:
    """Rows of a MultiTab-Bench table, and the truth behind them.

    Parameters
    ----------
    X : polars.DataFrame of shape (n_samples, n_features)
        Columns ``x0``, ``x1``, ...: Float32, or an Enum of ``"v0"``, ``"v1"``, ... for a categorical feature.
    y : polars.DataFrame of shape (n_samples, n_tasks)
        Columns ``y0``, ``y1``, ...: Float64 for regression, Int8 0/1 for binary, an Enum of ``"c0"``,
        ``"c1"``, ... (in the order of the values they are cut from) for multiclass. A null is an unlabelled
        cell.
    signal : ndarray of shape (n_samples, n_tasks)
        Labels without noise, before classes are cut and labels hidden.
    truth : MultitabTruth
        Task vectors, class borders, moments and ceilings.
    """

    X: pl.DataFrame
    y: pl.DataFrame
    signal: np.ndarray = field(repr=False)
    truth: MultitabTruth

    def draw(self, n_samples: int, *, random_state: Seed = None) -> MultitabBench:
        """Draw fresh rows from the same truth, class borders included.

        Parameters
        ----------
        n_samples : int
            Number of rows.
        random_state : int, SeedSequence, Generator or None, default=None
            Seed of the rows. The seed that drew the first rows draws others here, so test never equals train.

        Returns
        -------
        MultitabBench
            New rows, the same ``truth``.

        Raises
        ------
        ValueError
            If ``n_samples`` is no integer >= 1.
        """
        check_count("n_samples", n_samples)
        return _rows(self.truth, n_samples, np.random.default_rng(random_state).spawn(3)[2])


class MultitabOptions(TypedDict, total=False):
    """The less common arguments of `make_multitab_bench`, described there."""

    n_classes: int | Sequence[int]
    categorical: Mapping[int, int]
    missing: float | Sequence[float]
    chain: Sequence[int]
    standardize: bool
    weights: np.ndarray


def make_multitab_bench(
    n_samples: int = 10_000,
    n_features: int = 32,
    n_tasks: int = 7,
    *,
    correlation: float | Sequence | np.ndarray = 0.4,
    degrees: int | Sequence[int] | None = None,
    noise: float | Sequence[float] = 0.01,
    task_kinds: TaskKind | Sequence[TaskKind] = "regression",
    random_state: Seed = None,
    **options: Unpack[MultitabOptions],
) -> MultitabBench:
    """Draw a table of Gaussian features and tasks that are polynomials of correlated projections of them.

    x ~ N(0, I); z_i = w_i·x with unit w_i and w_i·w_j = P_ij; y_i = Σ_{k=1..d_i} z_i^k + σ_i ε. With P = QΛQᵀ
    and U random orthonormal rows, W = QΛ^{1/2}U, so WWᵀ = P exactly. The defaults are the released
    configuration. "Per task" below means one value for all tasks, or a sequence of ``n_tasks`` values.

    Parameters
    ----------
    n_samples, n_features, n_tasks : int
        Size of the table; ``n_features >= n_tasks``, else no W reaches P.
    correlation : float or array-like of shape (n_tasks, n_tasks), default=0.4
        P: ρ between all tasks, -1/(n_tasks - 1) <= ρ <= 1, or a full correlation matrix. Labels correlate
        less than P where degrees exceed 1: see ``truth.correlation``. Not read when ``weights`` is given.
    degrees : int or sequence of int, optional
        d_i, per task. Default: 1, 3, 2, 3, 4, 2, 3, cycled (or cut) to ``n_tasks``.
    noise : float or sequence of float, default=0.01
        σ_i, per task, in units of the label before standardising.
    task_kinds : {"regression", "binary", "multiclass"} or sequence of these, default="regression"
        Kind, per task. Classes are cut at quantiles of y_i over the rows of this call, so their sizes differ
        by one row at most (before labels are hidden).
    random_state : int, SeedSequence, Generator or None, default=None
        Seed of all randomness; no global generator is touched.

    Other Parameters
    ----------------
    n_classes : int or sequence of int, default=3
        Number of classes, per task; read for multiclass tasks.
    categorical : mapping of int to int, default={}
        Position of a feature -> number of equal-probability bins that replace it. Level names are shuffled,
        by the position and the number of bins alone, so that every call agrees. Labels follow the uncut
        values.
    missing : float or sequence of float, default=0.0
        Share of labels hidden completely at random, per task, each cell on its own.
    chain : sequence of int, default=()
        Positions of tasks along a funnel, such as (click, conversion): each is labelled only where the one
        before it is positive (and so on up the chain), whether or not that label itself is hidden by
        ``missing``. All but the last are binary.
    standardize : bool, default=False
        Shift and scale every label by its population mean and standard deviation.
    weights : ndarray of shape (n_tasks, n_features), optional
        ``truth.W`` of an earlier call: rows of the same tasks, never the same rows, even under its seed.
        Class borders are cut anew; :meth:`MultitabBench.draw` keeps them, and every other argument.

    Returns
    -------
    MultitabBench
        Frames ``X`` and ``y``, the ``signal``, and the ``truth``.

    Raises
    ------
    ValueError
        If there are more tasks than features, the correlation is out of range or no correlation matrix, a length is not
        ``n_tasks``, or a value is out of its range; the message gives the expected and the given value.

    References
    ----------
    Sinodinos, Wei and Armanfard, AAAI 2026, arXiv 2511.09970. Full P, classes, categorical features, missing
    labels and ceilings are ours.

    Examples
    --------
    Train and test from the same truth, the last two tasks a funnel:

    >>> from tabmtl.synth import make_multitab_bench
    >>> kinds = ["regression", "binary", "binary"]
    >>> train = make_multitab_bench(2_000, 8, 3, task_kinds=kinds, chain=[1, 2], random_state=0)
    >>> test = train.draw(500, random_state=1)
    >>> train.y["y1"].value_counts(sort=True)["count"].to_list(), train.y["y2"].null_count(), test.X.shape
    ([1000, 1000], 1000, (500, 8))
    >>> train.truth.score_ceiling.round(2).tolist()
    [1.0, 1.0, 1.0]

    >>> make_multitab_bench(random_state=0).truth.linear_score.round(3).tolist()
    [1.0, 0.667, 0.333, 0.667, 0.111, 0.333, 0.667]
    """
    for name, value in (("n_samples", n_samples), ("n_features", n_features), ("n_tasks", n_tasks)):
        check_count(name, value)
    # Three streams: a seed gives one W for any n_samples, and fresh rows never repeat the first ones.
    design, first, fresh = np.random.default_rng(random_state).spawn(3)
    law: dict[str, Any] = {"chain": (), **options}
    weights = law.pop("weights", None)
    if weights is None:
        W, rng = task_vectors(correlation_matrix(correlation, n_tasks), n_features, design), first
    else:
        W, rng = checked_vectors(weights, n_tasks, n_features), fresh
    law["chain"] = tuple(law["chain"])
    per_task = {
        "degrees": tuple(islice(cycle(RELEASED_DEGREES), n_tasks)) if degrees is None else degrees,
        "noise": noise,
        "task_kinds": task_kinds,
        "n_classes": law.get("n_classes", 3),
        "missing": law.get("missing", 0.0),
    }
    law |= {name: _spread(value, n_tasks) for name, value in per_task.items()}
    return _rows(MultitabTruth(W=W, **law), n_samples, rng)


def _spread(value: Any, n_tasks: int) -> tuple:
    return (value,) * n_tasks if np.ndim(value) == 0 else tuple(value)


def _rows(truth: MultitabTruth, n_samples: int, rng: np.random.Generator) -> MultitabBench:
    # A row of x per feature, of signal per task: the columns of a frame, contiguous, so nothing is strided.
    x = rng.standard_normal((truth.W.shape[1], n_samples), dtype=np.float32)
    signal = np.empty((len(truth.W), n_samples))
    for start in range(0, n_samples, _BLOCK):
        block = slice(start, start + _BLOCK)
        signal[:, block] = truth.W @ x[:, block].astype(float)
    for t, degree in enumerate(truth.degrees):
        signal[t] = (power_sum(signal[t], degree) - truth.location[t]) / truth.scale[t]
    values = rng.standard_normal(signal.shape)
    values *= (np.array(truth.noise) / truth.scale)[:, None]
    values += signal
    if not truth.thresholds:
        truth = dataclasses.replace(truth, thresholds=_cuts(truth, values))
    X = {f"x{j}": _feature(j, row, truth.categorical.get(j)) for j, row in enumerate(x)}
    return MultitabBench(X=pl.DataFrame(X), y=_labels(truth, values, rng), signal=signal.T, truth=truth)


def _cuts(truth: MultitabTruth, values: np.ndarray) -> tuple[tuple[float, ...], ...]:
    cuts = []
    n_samples = values.shape[1]
    for t, row in enumerate(values):
        count = truth.class_count(t)
        if count > n_samples:
            raise ValueError(f"task y{t}: {count} classes need as many rows or more, got n_samples={n_samples}")
        ranks = np.array([n_samples * k // count for k in range(1, count)], dtype=int)
        ordered = np.partition(row, np.r_[ranks - 1, ranks]) if count else row
        cuts.append(tuple(((ordered[ranks - 1] + ordered[ranks]) / 2).tolist()))
    return tuple(cuts)


def _feature(j: int, x: np.ndarray, n_bins: int | None) -> pl.Series:
    if n_bins is None:
        return pl.Series(x)
    # Shuffled by facts that every call knows: train and test then agree, under any seeds.
    shuffle = np.random.default_rng([j, n_bins]).permutation(n_bins)
    return _levels("v", n_bins, shuffle[np.searchsorted(bin_edges(n_bins), x)])


def _labels(truth: MultitabTruth, values: np.ndarray, rng: np.random.Generator) -> pl.DataFrame:
    codes = {t: np.searchsorted(cuts, values[t]) for t, cuts in enumerate(truth.thresholds) if cuts}
    missing = np.array(truth.missing)[:, None]
    shown = rng.random(values.shape, dtype=np.float32) >= missing if missing.any() else np.ones(values.shape, bool)
    reached = np.ones(values.shape[1], dtype=bool)
    for task, following in pairwise(truth.chain):
        reached &= codes[task] == 1
        shown[following] &= reached
    columns = []
    for t, kind in enumerate(truth.task_kinds):
        if kind == "multiclass":
            column = _levels("c", truth.class_count(t), codes[t])
        else:
            column = pl.Series(values[t] if kind == "regression" else codes[t].astype(np.int8))
        columns.append(pl.when(pl.Series(shown[t])).then(column).alias(f"y{t}"))
    return pl.select(columns)


def _levels(prefix: str, count: int, codes: np.ndarray) -> pl.Series:
    names = [f"{prefix}{k}" for k in range(count)]
    return pl.Series(names, dtype=pl.Enum(names)).gather(codes)
