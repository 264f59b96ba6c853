"""What the items that a session holds already are worth, learned on sessions that were set aside.

With x_i = log p_i of a recommender, up to a constant of the session, the next click is item i with a probability that
is proportional to exp(u_i),

    u_i = scale x_i + seen [i in the session] + last [i is the last click].

This is a conditional logit over all items. Training cannot tell these numbers: there, other targets are known by heart.
The likelihood needs the sum of exp(scale x_i) over the items that a session does not hold: `Choices` keeps it by scale,
and takes the few items of the session one by one.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import numpy as np
from scipy.interpolate import CubicHermiteSpline
from scipy.optimize import minimize

from tabmtl.sessions.ragged import Sessions, spread
from tabmtl.sessions.ranking import block_size, top_k

#: Clicks, and sessions, below which nothing is learned, and the most clicks that are read.
LEAST_TARGETS, LEAST_SESSIONS = 200, 20
MOST_TARGETS = 3_000
_SCALES = np.geomspace(0.1, 4, 24)
_BIN = 0.125  # of log p: values within one count as their mean
_BINS = 480  # what is exp(60) times less likely than the best item counts as that
_NEVER = -700.0  # log of 0, about
RIDGE = 1.0  #: of the three numbers, by half their squares, that of log(scale) for the scale
TOP = 20  #: places of a list that judge

W = TypeVar("W")


class _Choices(Protocol[W]):
    """Choices (T,) of sessions, to which weights are fitted in steps."""

    @property
    def session(self) -> np.ndarray: ...
    def fit(self, step: int, chosen: np.ndarray, /) -> W: ...
    def log_likelihoods(self, weights: W, /) -> np.ndarray: ...
    def reciprocal_ranks(self, weights: W, /) -> np.ndarray: ...


@dataclass(frozen=True, kw_only=True)
class RepeatWeights:
    """Numbers of the conditional logit; by default a session's own items are worth what their scores say."""

    scale: float = 1.0
    seen: float = 0.0
    last: float = 0.0

    def __post_init__(self) -> None:
        if not all(map(math.isfinite, (self.scale, self.seen, self.last))) or self.scale <= 0:
            raise ValueError(f"weights of a session's own items must be finite, and scale above 0, got {self}")

    def weigh(self, scores: np.ndarray, sessions: Sessions, *, log_scale: bool) -> np.ndarray:
        """Weigh the scores (S, N) of all items in place, and give them.

        Scores that are log p become u. Others keep their size: they rank as u does if those of the sessions' own items
        are multiplied, and those that are not positive, of items that were not found, stay.
        """
        own = OwnItems.of(sessions)
        terms = (self.seen + self.last * own.last).astype(scores.dtype)
        if log_scale:
            scores *= scores.dtype.type(self.scale)
            scores[own.row, own.place] += terms
        else:
            plain = scores[own.row, own.place]
            scores[own.row, own.place] = np.where(plain > 0, plain * np.exp(terms / self.scale), plain)
        return scores


@dataclass(frozen=True, kw_only=True, eq=False)
class OwnItems:
    """The items of sessions, each once: number of the session, place in the catalogue, whether it is the last click."""

    row: np.ndarray
    place: np.ndarray
    last: np.ndarray

    @classmethod
    def of(cls, sessions: Sessions) -> OwnItems:
        """Collect the items that the catalogue holds; after a last click on another item, none is the last."""
        row, place = sessions.known_clicks()
        width = int(place.max(initial=0)) + 1
        row, place = np.divmod(np.unique(row * width + place), width)
        return cls(row=row, place=place, last=sessions.last_items()[row] == place + 1)


@dataclass(frozen=True, kw_only=True, eq=False)
class Choices:
    """Next clicks of set-aside sessions as choices among all items, by all that the weights of own items need.

    Attributes
    ----------
    session : ndarray of int64, shape (T,)
        Number of the session of every choice.
    x, seen, last : ndarray of float64, shape (T,)
        Log p of the clicked item; 1 where the session held it; 1 where it was the last click.
    own_row, own_x, own_last : ndarray, shape (m,)
        Choice, log p, and mark of the last click of every item that a session held, if it was found.
    best : ndarray of float64, shape (T, 21)
        Greatest log p among the other items.
    others : CubicHermiteSpline
        Log sum of exp(scale x) over the other items (T,), by scale.
    """

    session: np.ndarray
    x: np.ndarray
    seen: np.ndarray
    last: np.ndarray
    own_row: np.ndarray
    own_x: np.ndarray
    own_last: np.ndarray
    best: np.ndarray
    others: CubicHermiteSpline

    @classmethod
    def of(
        cls,
        sessions: Sessions,
        n_items: int,
        log_shares: Callable[[Sessions], np.ndarray],
        clicks_read: Callable[[Sessions], Sessions],
    ) -> Choices:
        """Collect at most 3 000 next clicks, evenly spread, of items that were found.

        Parameters
        ----------
        sessions : Sessions
        n_items : int
        log_shares : callable
            Gives log p (S, N) of sessions, minus infinity for items that were not found; the array is changed.
        clicks_read : callable
            Gives the clicks of sessions whose items are the sessions' own.
        """
        prefixes, targets = sessions.prefixes(spread(sessions.count_prefixes(), MOST_TARGETS))
        session = prefixes.ids.rle_id().to_numpy()
        known = np.flatnonzero(targets)
        prefixes, targets, session = prefixes.take(known), targets[known] - 1, session[known]
        own, n = OwnItems.of(clicks_read(prefixes)), len(targets)
        x, own_x, best = np.empty(n), np.empty(len(own.row)), np.empty((n, min(TOP + 1, n_items)))
        others = np.empty((2, len(_SCALES), n))
        size = block_size(n_items)
        for start in range(0, n, size):
            block = np.arange(start, min(start + size, n))
            log_p = log_shares(prefixes.take(block))
            inside = slice(*np.searchsorted(own.row, (start, start + size)))
            cells = own.row[inside] - start, own.place[inside]
            x[block], own_x[inside] = log_p[block - start, targets[block]], log_p[cells]
            log_p[cells] = -np.inf
            best[block] = top_k(log_p, TOP + 1)[1]
            others[:, :, block] = np.stack([_log_sums(row) for row in log_p], axis=2)
        found = np.isfinite(x)
        kept = found[own.row] & np.isfinite(own_x)
        clicked = own.place == targets[own.row]
        return cls(
            session=session[found],
            x=x[found],
            seen=np.bincount(own.row[clicked], minlength=n)[found].astype(float),
            last=np.bincount(own.row[clicked & own.last], minlength=n)[found].astype(float),
            own_row=(np.cumsum(found) - 1)[own.row[kept]],
            own_x=own_x[kept],
            own_last=own.last[kept].astype(float),
            best=best[found],
            others=CubicHermiteSpline(_SCALES, others[0][:, found], others[1][:, found]),
        )

    def __len__(self) -> int:
        return len(self.x)

    def log_likelihoods(self, weights: RepeatWeights) -> np.ndarray:
        """Compute the log probability (T,) of every click."""
        return self._likelihoods(np.array([weights.scale, weights.seen, weights.last]))[0]

    def reciprocal_ranks(self, weights: RepeatWeights) -> np.ndarray:
        """Compute 1 / rank (T,), 0 beyond place 20; ties count against the recommender."""
        own, utility = self._utilities(np.array([weights.scale, weights.seen, weights.last]))
        ranks = np.count_nonzero(weights.scale * self.best >= utility[:, None], axis=1)
        ranks += np.bincount(self.own_row[own >= utility[self.own_row]], minlength=len(self))
        return np.where(ranks <= TOP, 1 / ranks, 0.0)

    def fit(self, n_free: int, chosen: np.ndarray) -> RepeatWeights:
        """Maximise the likelihood of the chosen clicks (T,), with a small ridge.

        ``n_free`` numbers are free: the scale, then what seen items are worth, then what the last click is.
        """

        def loss(numbers: np.ndarray) -> tuple[float, np.ndarray]:
            likelihoods, gradient = self._likelihoods(numbers)
            log_scale = math.log(numbers[0])
            ridge = np.array([log_scale / numbers[0], *numbers[1:]])
            penalty = (log_scale**2 + numbers[1:] @ numbers[1:]) / 2
            return RIDGE * penalty - likelihoods[chosen].sum(), RIDGE * ridge - gradient[:, chosen].sum(axis=1)

        start = (1.0, 0.0, 0.0)
        free = [(_SCALES[0], _SCALES[-1]), (None, None), (None, None)]
        bounds = free[:n_free] + [(value, value) for value in start[n_free:]]
        scale, seen, last = minimize(loss, start, jac=True, method="L-BFGS-B", bounds=bounds).x.tolist()
        return RepeatWeights(scale=scale, seen=seen, last=last)

    def _utilities(self, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Compute those of own items (m,) and of clicked items (T,), with the same bits for the same item."""
        scale, seen, last = numbers
        own = scale * self.own_x + (seen + last * self.own_last)
        return own, scale * self.x + (seen * self.seen + last * self.last)

    def _likelihoods(self, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Compute the log probability (T,) of every click, and its derivatives (3, T) by scale, seen and last."""
        own, utility = self._utilities(numbers)
        n, scale = len(self), numbers[0]
        others, own = np.exp(self.others(scale)), np.exp(own)
        total = others + np.bincount(self.own_row, weights=own, minlength=n)
        share = own / total[self.own_row]
        mean_x, seen, last = (
            np.bincount(self.own_row, weights=share * part, minlength=n) for part in (self.own_x, 1.0, self.own_last)
        )
        mean_x += others / total * self.others(scale, 1)
        return utility - np.log(total), np.stack([self.x - mean_x, self.seen - seen, self.last - last])


def learn_weights(choices: Choices) -> RepeatWeights:
    """Learn the weights as far as they gain clearly: let the scale free, then seen items, then the last click."""
    return RepeatWeights() if too_few(choices.session) else keep_clear_steps(choices, 3)


def too_few(session: np.ndarray) -> bool:
    """Tell whether choices (T,), by the numbers of their sessions, are too few to learn from."""
    return len(session) < LEAST_TARGETS or len(np.unique(session)) < LEAST_SESSIONS


def keep_clear_steps(choices: _Choices[W], n_steps: int) -> W:
    """Fit weights, where each of ``n_steps`` lets more of them free, with the steps that gain clearly.

    A step is taken if, fitted on one half of the sessions and judged on the other, both ways, the mean log probability
    rises by more than two standard errors over sessions, and MRR@20 does not fall.
    """
    kept, before = 0, _judge_by_halves(choices, 0)
    for step in range(1, n_steps + 1):
        after = _judge_by_halves(choices, step)
        if _gains_clearly(after[0] - before[0], choices.session) and after[1].mean() >= before[1].mean():
            kept, before = step, after
    return choices.fit(kept, np.ones(len(choices.session), dtype=bool))


def _judge_by_halves(choices: _Choices[Any], step: int) -> tuple[np.ndarray, np.ndarray]:
    """Compute log probabilities and reciprocal ranks (T,) by weights that are fitted on the other half of sessions."""
    likelihoods, ranks = np.empty(len(choices.session)), np.empty(len(choices.session))
    for half in (0, 1):
        judged = choices.session % 2 == half
        weights = choices.fit(step, ~judged)
        likelihoods[judged] = choices.log_likelihoods(weights)[judged]
        ranks[judged] = choices.reciprocal_ranks(weights)[judged]
    return likelihoods, ranks


def _gains_clearly(gains: np.ndarray, session: np.ndarray) -> bool:
    """Tell whether the mean of gains (T,) is more than two standard errors, over sessions (T,), above 0."""
    mean = gains.mean()
    error = math.sqrt(np.square(np.bincount(session, weights=gains - mean)).sum()) / len(gains)
    return bool(mean > 2 * error)


def _log_sums(x: np.ndarray) -> np.ndarray:
    """Compute the log sum of exp(scale x) over items (N,), and its slope, by scale: (2, scales)."""
    top = x.max()
    if not top > -np.inf:
        return np.stack([np.full(len(_SCALES), _NEVER), np.zeros(len(_SCALES))])
    behind = top - x
    bins = np.fmin(behind / _BIN, _BINS).astype(np.int32)
    counts = np.bincount(bins, minlength=_BINS + 1)[:_BINS]
    some = counts > 0
    counts, means = counts[some], np.bincount(bins, weights=behind, minlength=_BINS + 1)[:_BINS][some] / counts[some]
    parts = counts * np.exp(-np.outer(_SCALES, means))
    total = parts.sum(axis=1)
    return np.stack([_SCALES * top + np.log(total), top - parts @ means / total])
