"""Compare the counts of two sets of rows, and tell what differs beyond chance and by more than a stated size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import polars as pl
from scipy.special import chdtrc
from scipy.stats import hypergeom

from tabmtl.base.schema import MISSING, UNSEEN
from tabmtl.encode.drift.profile import Profile

#: Fewer rows tell nothing of a distribution.
LEAST_ROWS = 20
_LEAST_EXPECTED = 5.0  # rows of a cell: cells that expect fewer are joined
_SCHEMA: dict[str, Any] = {
    "kind": pl.String,
    "name": pl.String,
    "feature": pl.String,
    "psi": pl.Float64,
    "jensen_shannon": pl.Float64,
    "missing_of_fit": pl.Float64,
    "missing": pl.Float64,
    "unseen_of_fit": pl.Float64,
    "unseen": pl.Float64,
    "n_of_fit": pl.Int64,
    "n": pl.Int64,
    "against": pl.String,
    "p_value": pl.Float64,
    "is_drift": pl.Boolean,
    "why": pl.String,
}


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What counts as drift.

    Parameters
    ----------
    size : float
        The least population stability index. Half of it is the least change of a share of missing or unseen values.
    alpha : float
        The most probable that rows as those of fit are called drifted, in whatever column or task.
    """

    size: float
    alpha: float


class _Difference(NamedTuple):
    """A difference between two sets of rows: its p-value, and whether it is large."""

    what: str
    p_value: float
    is_large: bool


class _Part(NamedTuple):
    """One feature of both sets."""

    feature: str
    source: str
    psi: float
    jensen_shannon: float
    shares: np.ndarray  # (2, 2): missing and unseen, of fit and now
    n: tuple[int, int]
    differences: list[_Difference]
    is_judged: bool

    @property
    def p_value(self) -> float:
        """The least of its p-values."""
        return min((own.p_value for own in self.differences), default=1.0)


def compare(
    profile: Profile, counts: np.ndarray, columns: Sequence[str], tasks: Sequence[str], limits: Limits
) -> pl.DataFrame:
    """Compare counts of new rows with those of a profile.

    Parameters
    ----------
    profile : Profile
    counts : ndarray
        As `Profile.count` gives them.
    columns, tasks : sequence of str
        Those to tell of, in their order.
    limits : Limits

    Returns
    -------
    polars.DataFrame
        As `MultiTaskEstimator.drift` describes it.
    """
    kinds: Mapping[str, Sequence[str]] = {"column": columns, "prediction": tasks}
    found: dict[tuple[str, str], list[_Part]] = {(kind, name): [] for kind, names in kinds.items() for name in names}
    for j, name in enumerate(profile.names):
        kind = "column" if j < profile.n_columns else "prediction"
        if (kind, name) in found:
            before = found[kind, name]
            before.append(_compare(profile, counts, j, limits, is_first=not before))
    found = {key: _nearest(parts) for key, parts in found.items()}
    n_tests = sum(len(part.differences) for parts in found.values() for part in parts)
    return pl.DataFrame([_line(*key, parts, n_tests, limits) for key, parts in found.items()], _SCHEMA, orient="row")


def _line(kind: str, name: str, parts: Sequence[_Part], n_tests: int, limits: Limits) -> tuple[Any, ...]:
    """Return the line of a column or task, with the numbers of the feature that differs most."""
    parts = [part for part in parts if min(part.n) >= LEAST_ROWS] or parts
    if not parts:
        return (kind, name, None, *[None] * 6, 0, 0, None, None, None, "no answers of fit: give reference")
    worst = min(parts, key=lambda part: (part.p_value, -part.psi))
    if min(worst.n) < LEAST_ROWS:
        return (kind, name, worst.feature, *[None] * 6, *worst.n, worst.source, None, None, "too few rows")
    # missing values are those of the column, of which the first feature tells; unseen ones those of any of its codes
    missing, unseen = parts[0].shares[:, 0], max((part.shares[:, 1] for part in parts), key=np.ptp)
    everything = [own for part in parts for own in part.differences]
    why = dict.fromkeys(own.what for own in everything if own.is_large and own.p_value * n_tests <= limits.alpha)
    p_value = min(1.0, n_tests * min((own.p_value for own in everything), default=1.0))
    return (
        *(kind, name, worst.feature, worst.psi, worst.jensen_shannon),
        *map(float, (*missing, *unseen)),
        *(*worst.n, worst.source, p_value),
        bool(why) if worst.is_judged else None,
        ", ".join(why) if worst.is_judged else "answers to learned rows are no measure",
    )


def _nearest(parts: Sequence[_Part]) -> list[_Part]:
    """Join what is of one feature but of several sorts of rows: what differs now must differ from all of them."""
    joined: dict[str, list[_Part]] = {}
    for part in parts:
        joined.setdefault(part.feature, []).append(part)
    found = []
    for several in joined.values():
        several = [part for part in several if min(part.n) >= LEAST_ROWS] or several
        nearest = min(several, key=lambda part: part.psi)
        by_what: dict[str, list[_Difference]] = {}
        for own in (own for part in several for own in part.differences):
            by_what.setdefault(own.what, []).append(own)
        differences = [
            _Difference(what, max(own.p_value for own in each), all(own.is_large for own in each))
            for what, each in by_what.items()
            if len(each) == len(several)
        ]
        is_judged = any(part.is_judged for part in several)
        found.append(nearest._replace(differences=differences, is_judged=is_judged))
    return found


def _compare(profile: Profile, counts: np.ndarray, j: int, limits: Limits, *, is_first: bool) -> _Part:
    """Compare one feature; the missing values of a column are compared once."""
    both = np.stack([profile.counts[profile.cells(j)], counts[profile.cells(j)]])
    totals = both.sum(axis=1)
    n, feature, source = (round(totals[0]), round(totals[1])), profile.features[j], profile.sources[j]
    if min(n) < LEAST_ROWS:
        return _Part(feature, source, 0.0, 0.0, np.zeros((2, 2)), n, [], is_judged=False)
    shares, differences = both[:, [MISSING, UNSEEN]] / totals[:, None], []
    joined = _join_small(np.delete(both, UNSEEN, axis=1))
    psi, jensen_shannon = _divergences(joined)
    if joined.shape[1] > 1:
        two = joined.shape[1] == 2
        p_value = _exact(joined[:, 0], joined.sum(axis=1)) if two else _chi_square(joined)
        differences.append(_Difference("distribution", p_value, psi >= limits.size))
    for what, cell in (("missing", MISSING), ("unseen", UNSEEN)):
        if both[:, cell].any() and (is_first or cell == UNSEEN):
            is_large = abs(np.subtract(*shares[:, cell])) >= limits.size / 2
            # rows of fit that share a level are seen by each other, and so count as about half as many
            each = np.array([0.5, 1.0]) if cell == UNSEEN else np.ones(2)
            differences.append(_Difference(what, _exact(each * both[:, cell], each * n), bool(is_large)))
    return _Part(feature, source, psi, jensen_shannon, shares, n, differences, is_judged=source != "learned")


def _join_small(both: np.ndarray) -> np.ndarray:
    """Join cells (2, c) to their neighbours until each expects some rows in both sets, if these are alike.

    Where one would be left, it is two, about halves, if there are as many.
    """
    expected = both.sum(axis=0) * both.sum(axis=1).min() / max(both.sum(), 1.0)
    starts, so_far = [0], 0.0
    for cell, rows in enumerate(expected.tolist()):
        if so_far >= _LEAST_EXPECTED:
            starts.append(cell)
            so_far = 0.0
        so_far += rows
    if so_far < _LEAST_EXPECTED and len(starts) > 1:
        starts.pop()
    if len(starts) == 1:
        below = np.cumsum(expected[:-1])
        inside = np.flatnonzero((below > 0) & (below < expected.sum()))
        if len(inside):
            starts.append(1 + int(inside[np.abs(below[inside] - expected.sum() / 2).argmin()]))
    return np.add.reduceat(both, starts, axis=1)


def _divergences(both: np.ndarray) -> tuple[float, float]:
    """Return the population stability index and the Jensen-Shannon divergence, in nats, of counts (2, c)."""
    smooth = both + 0.5  # an empty cell would make the index infinite
    p, q = smooth / smooth.sum(axis=1, keepdims=True)
    middle = (p + q) / 2
    jensen_shannon = (p * np.log(p / middle) + q * np.log(q / middle)).sum() / 2
    return float(((p - q) * np.log(p / q)).sum()), float(max(jensen_shannon, 0.0))


def _chi_square(both: np.ndarray) -> float:
    """Return the p-value of Pearson's test that counts (2, c) are of one distribution."""
    expected = both.sum(axis=1, keepdims=True) * both.sum(axis=0) / both.sum()
    return float(chdtrc(both.shape[1] - 1, (np.square(both - expected) / expected).sum()))


def _exact(counts: np.ndarray, n: np.ndarray) -> float:
    """Return the p-value, both tails, of Fisher's exact test that counts (2,) of two sets of n rows have one share."""
    (of_fit, now), (n_of_fit, n_now) = counts.round().astype(int).tolist(), n.round().astype(int).tolist()
    given = n_of_fit + n_now, of_fit + now, n_now
    return min(1.0, 2 * float(min(hypergeom.cdf(now, *given), hypergeom.sf(now - 1, *given))))
