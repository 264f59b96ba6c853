"""Truth of a MultiTab-Bench table: its law, and the closed forms that follow from it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from statistics import NormalDist
from typing import Any, Literal, get_args

import numpy as np
from numpy.polynomial import hermite_e

TaskKind = Literal["regression", "binary", "multiclass"]

_SQRT_2PI = math.sqrt(2 * math.pi)
_GRID = 2**17 + 1
_erf = np.frompyfunc(math.erf, 1, 1)

#: Rule of each field with one value per task, in words and as a test.
_RULES: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "degrees": ("an integer >= 1", lambda v: isinstance(v, (int, np.integer)) and v >= 1),
    "noise": ("a finite number >= 0", lambda v: 0 <= v < math.inf),
    "task_kinds": ("'regression', 'binary' or 'multiclass'", lambda v: v in get_args(TaskKind)),
    "n_classes": (
        "an integer >= 3 (two classes are the kind 'binary')",
        lambda v: isinstance(v, (int, np.integer)) and v >= 3,
    ),
    "missing": ("a rate in [0, 1)", lambda v: 0 <= v < 1),
}


@dataclass(frozen=True, kw_only=True, eq=False)
class MultitabTruth:
    """Law of a MultiTab-Bench table, with every moment and ceiling in closed form.

    With z_i = w_i·x ~ N(0, 1) and E[z_i z_j] = P_ij, the label of task i is y_i = Σ_{k=1..d_i} z_i^k + σ_i ε.
    In probabilists' Hermite polynomials Σ_k z^k = Σ_n a_n He_n(z), and E[He_n(z_i) He_m(z_j)] = n! P_ij^n
    when n = m, else 0. Mean, variance, covariance and ceilings below are sums over that expansion, for any
    degree.

    Parameters
    ----------
    W : ndarray of shape (n_tasks, n_features)
        Task vectors w_i, one unit row per task.
    degrees : tuple of int
        d_i, per task.
    noise : tuple of float
        σ_i, per task, in units of the label before standardising.
    task_kinds : tuple of {"regression", "binary", "multiclass"}
        Whether a task gives y_i itself or the class its value falls in.
    n_classes : tuple of int
        Number of classes per task; read for multiclass tasks only.
    missing : tuple of float
        Per task, the rate of labels hidden completely at random.
    categorical : mapping of int to int, default={}
        Position of a feature -> number of equal-probability bins it is cut into.
    chain : tuple of int, default=()
        Positions of tasks along a funnel: each is labelled only where the one before it is positive.
    standardize : bool, default=False
        Whether labels are shifted and scaled by their population mean and standard deviation.
    thresholds : tuple of tuple of float, default=()
        Per task, the increasing values that part its classes, in units of the label; empty for regression.
        The first draw fixes them.

    Raises
    ------
    ValueError
        If W has no unit rows, a field has not one value per task, or a value is out of its range.

    Notes
    -----
    The law holds before labels are hidden. That matters for a chain only: its later tasks are labelled on a
    selected part of the rows, where moments and ceilings are others.

    References
    ----------
    Sinodinos, Wei and Armanfard, AAAI 2026, arXiv 2511.09970: MultiTab-Bench. The closed forms are ours.
    """

    W: np.ndarray = field(repr=False)
    degrees: tuple[int, ...]
    noise: tuple[float, ...]
    task_kinds: tuple[TaskKind, ...]
    n_classes: tuple[int, ...]
    missing: tuple[float, ...]
    categorical: Mapping[int, int] = field(default_factory=dict)
    chain: tuple[int, ...] = ()
    standardize: bool = False
    thresholds: tuple[tuple[float, ...], ...] = field(default=(), repr=False)

    def __post_init__(self) -> None:
        if self.W.ndim != 2 or not np.allclose(np.sum(self.W**2, axis=1), 1, atol=1e-6):
            raise ValueError(
                f"W must be a matrix (n_tasks, n_features) with rows of length 1, got shape {self.W.shape}"
            )
        for name, (expected, fits) in _RULES.items():
            values = getattr(self, name)
            if len(values) != len(self.W):
                raise ValueError(f"{name} must hold {len(self.W)} values, one per task, got {len(values)}")
            for t, value in enumerate(values):
                unread = name == "n_classes" and self.task_kinds[t] != "multiclass"
                if not unread and not fits(value):
                    raise ValueError(f"task y{t}: {name} must be {expected}, got {value!r}")
        for j, bins in self.categorical.items():
            if j not in range(self.W.shape[1]):
                raise ValueError(f"categorical: a feature lies in 0..{self.W.shape[1] - 1}, got {j!r}")
            if not isinstance(bins, (int, np.integer)) or bins < 2:
                raise ValueError(f"categorical: feature x{j} needs an integer >= 2 of bins, got {bins!r}")
        self._check_chain()

    def _check_chain(self) -> None:
        inside = all(t in range(len(self.W)) for t in self.chain)
        if not inside or len(set(self.chain)) != len(self.chain):
            raise ValueError(
                f"chain must name different tasks by their positions 0..{len(self.W) - 1}, got {self.chain}"
            )
        for t in self.chain[:-1]:
            if self.task_kinds[t] != "binary":
                raise ValueError(
                    f"task y{t}: a task that others of the chain wait for must be 'binary', "
                    f"got {self.task_kinds[t]!r}; give it that kind, or put it last"
                )

    def class_count(self, task: int) -> int:
        """Return the number of classes of the task at a position; 0 for regression."""
        return {"regression": 0, "binary": 2}.get(self.task_kinds[task], int(self.n_classes[task]))

    @property
    def P(self) -> np.ndarray:
        """Cosines WWᵀ of the task vectors, which are the correlations of z: shape (n_tasks, n_tasks)."""
        return self.W @ self.W.T

    @property
    def location(self) -> np.ndarray:
        """Shifts of standardisation, shape (n_tasks,): the population means, or zeros."""
        return np.array([hermite_coefficients(d)[0] * self.standardize for d in self.degrees])

    @property
    def scale(self) -> np.ndarray:
        """Divisors of standardisation, shape (n_tasks,): the population deviations, or ones."""
        return np.sqrt(self._raw_covariance.diagonal()) if self.standardize else np.ones(len(self.W))

    @property
    def mean(self) -> np.ndarray:
        """Expected label a_0 per task, shape (n_tasks,); of a class task, of the value that is cut."""
        return np.array([hermite_coefficients(d)[0] for d in self.degrees]) - self.location

    @property
    def variance(self) -> np.ndarray:
        """Variance Σ_{n≥1} n! a_n² + σ² of the label per task, shape (n_tasks,)."""
        return self.covariance.diagonal()

    @property
    def covariance(self) -> np.ndarray:
        """Covariances Σ_{n≥1} n! a_n^(i) a_n^(j) P_ij^n (+ σ² on the diagonal), shape (n_tasks, n_tasks)."""
        return self._raw_covariance / np.outer(self.scale, self.scale)

    @property
    def correlation(self) -> np.ndarray:
        """Correlations of the labels, noise included, shape (n_tasks, n_tasks)."""
        deviation = np.sqrt(self._raw_covariance.diagonal())
        return self._raw_covariance / np.outer(deviation, deviation)

    @property
    def score_ceiling(self) -> np.ndarray:
        """The best score that any model can expect on fresh rows, per task, shape (n_tasks,).

        Regression: R² (= explained variance) of E[y | features]; 1 - σ²/Var with numeric features only, less,
        and still exact, with categorical ones. Classes: ROC AUC (macro one-vs-rest) of the true class
        probabilities given the signal, by quadrature over z on 131 073 points, to about 1e-5. With
        categorical features that is an upper bound which cannot be reached: a model sees the bins, not the
        values behind them.
        """
        return np.array([self._score(t, best=True) for t in range(len(self.W))])

    @property
    def linear_score(self) -> np.ndarray:
        """The line that any learner must beat: score of the best linear model per task, shape (n_tasks,).

        Regression: a_1²/Var, linear in numeric features and in the indicators of categorical ones. Classes:
        the AUC of ranking by ±z, one linear score per class against the rest, as if no feature were cut into
        bins.
        """
        return np.array([self._score(t, best=False) for t in range(len(self.W))])

    @property
    def _raw_covariance(self) -> np.ndarray:
        a = np.zeros((len(self.W), max(self.degrees) + 1))
        for row, degree in zip(a, self.degrees, strict=True):
            row[: degree + 1] = hermite_coefficients(degree)
        covariance = np.diag(np.square(self.noise, dtype=float))
        for n in range(1, a.shape[1]):
            covariance += math.factorial(n) * np.outer(a[:, n], a[:, n]) * self.P**n
        return covariance

    def _score(self, task: int, *, best: bool) -> float:
        if self.task_kinds[task] != "regression":
            return self._class_auc(task, best=best)
        explained = best_variance if best else linear_variance
        bins = np.array([self.categorical.get(j, 0) for j in range(self.W.shape[1])])
        return explained(self.degrees[task], self.W[task], bins) / self._raw_covariance[task, task]

    def _class_auc(self, task: int, *, best: bool) -> float:
        z = np.linspace(-9, 9, _GRID)
        weight = _density(z) * (z[1] - z[0])
        signal = (power_sum(z, self.degrees[task]) - self.location[task]) / self.scale[task]
        noise = max(self.noise[task] / self.scale[task], 1e-200)
        below = [
            np.zeros(_GRID),
            *(_cdf((cut - signal) / noise) for cut in self.thresholds[task]),
            np.ones(_GRID),
        ]
        aucs = []
        for chance in np.diff(below, axis=0):
            auc = _auc(chance if best else z, weight * chance, weight * (1 - chance))
            aucs.append(max(auc, 1 - auc))
        return float(np.mean(aucs))


def power_sum(z: np.ndarray, degree: int) -> np.ndarray:
    """Compute Σ_{k=1..degree} z^k by Horner's rule: as many products as the degree, and no power."""
    total = z.copy()
    for _ in range(degree - 1):
        total += 1
        total *= z
    return total


def hermite_coefficients(degree: int) -> np.ndarray:
    """Return a_0..a_degree with Σ_{k=1..degree} z^k = Σ_n a_n He_n(z), shape (degree + 1,)."""
    return hermite_e.poly2herme([0.0] + [1.0] * degree)


def bin_edges(n_bins: int) -> np.ndarray:
    """Return the n_bins - 1 quantiles that cut N(0, 1) into bins of equal probability."""
    return np.array([NormalDist().inv_cdf(k / n_bins) for k in range(1, n_bins)])


def best_variance(degree: int, w: np.ndarray, bins: np.ndarray) -> float:
    """Return the variance of E[Σ_k (w·x)^k | features], with feature j seen exactly (bins[j] = 0) or by its bin.

    As He_n(w·x) / n! = Σ_{|α|=n} Π_j w_j^α_j He_α_j(x_j) / α_j! for a unit w, the second moments of E[He_n |
    bins] are the coefficients of a product, over the features, of polynomials in two variables.
    """
    factorial = np.array([math.factorial(n) for n in range(degree + 1)], dtype=float)
    moments = np.diag(np.sum(w[bins == 0] ** 2) ** np.arange(degree + 1) / factorial)
    for w_j, n_bins in zip(w[bins > 0], bins[bins > 0], strict=True):
        scaled = w_j ** np.arange(degree + 1) / factorial
        feature = _bin_moments(n_bins, degree) * np.outer(scaled, scaled)
        product = np.zeros_like(moments)
        for (n, m), value in np.ndenumerate(feature):
            product[n:, m:] += value * moments[: degree + 1 - n, : degree + 1 - m]
        moments = product
    a = hermite_coefficients(degree) * factorial
    return float(a @ moments @ a - a[0] ** 2)


def linear_variance(degree: int, w: np.ndarray, bins: np.ndarray) -> float:
    """Return the variance of Σ_k (w·x)^k explained by a model linear in numeric features and indicators of bins.

    Features are independent, so each adds its own part: a_1² w_j², or the variance of E[y | bin of x_j].
    """
    a = hermite_coefficients(degree)
    total = a[1] ** 2 * np.sum(w[bins == 0] ** 2)
    for w_j, n_bins in zip(w[bins > 0], bins[bins > 0], strict=True):
        part = (a * w_j ** np.arange(degree + 1))[1:]
        total += part @ _bin_moments(n_bins, degree)[1:, 1:] @ part
    return float(total)


def _bin_moments(n_bins: int, degree: int) -> np.ndarray:
    """Return E[E[He_n(x) | bin] E[He_m(x) | bin]], shape (degree + 1, degree + 1), by ∫He_n φ = -He_{n-1} φ."""
    edges = bin_edges(n_bins)
    borders = np.zeros((n_bins + 1, degree))
    borders[1:-1] = hermite_e.hermevander(edges, degree - 1) * _density(edges)[:, None]
    given = np.hstack([np.ones((n_bins, 1)), -n_bins * np.diff(borders, axis=0)])
    return given.T @ given / n_bins


def _density(z: np.ndarray) -> np.ndarray:
    return np.exp(-0.5 * z**2) / _SQRT_2PI


def _cdf(z: np.ndarray) -> np.ndarray:
    return 0.5 * (1 + np.asarray(_erf(z / math.sqrt(2)), dtype=float))


def _auc(rank: np.ndarray, positive: np.ndarray, negative: np.ndarray) -> float:
    """Return P(a positive ranks above a negative), from the mass of each at every point; within a point, half."""
    order = np.argsort(rank, kind="stable")
    negative = negative[order]
    below = np.cumsum(negative) - negative / 2
    return float(positive[order] @ below / (positive.sum() * negative.sum()))
