"""What the items that a session holds already are worth, learned on sessions that were set aside.

With x_i = log p_i of a recommender, up to a constant of the session, the next click is item i with a probability that
is proportional to exp(u_i),

    u_i = scale x_i                                                            for items that the session does not hold,
    u_i = trust scale x_i + (1 - trust) I + seen + last [i is the last click]      for its own,
    I = log sum_j exp(scale x_j)                                     over the items j that the session does not hold.

With ``trust=1`` this is a conditional logit over all items. With none, the odds of the own items against all others
would be the same in every session, however alone they stand by their scores: a nested logit, between the two.
Training cannot tell these numbers: there, other targets are known by heart. `Choices` keeps I by scale, and takes the
few items of the session one by one.

References
----------
McFadden (1978), "Modelling the Choice of Residential Location", in "Spatial Interaction Theory and Planning Models".
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import astuple, dataclass
from typing import Any, Protocol, TypeVar

import numpy as np
from scipy.interpolate import CubicHermiteSpline
from scipy.optimize import minimize

from tabmtl.sessions.ragged import UNSEEN_ITEM, Sessions, spread
from tabmtl.sessions.ranking import by_blocks, error_of_mean, log_totals, top_k

#: Clicks, and sessions, below which nothing is learned, and the most clicks that are read.
LEAST_TARGETS, LEAST_SESSIONS = 200, 20
MOST_TARGETS = 3_000
_SCALES = np.geomspace(0.1, 4, 24)
_BIN = 0.125  # of log p: values within one count as their mean
_BINS = 480  # what is exp(60) times less likely than the best item counts as that
_LEAST_TRUST = 0.01  # above 0, so that items that were not found stay so
_NEVER = -500.0  # log of 0, about
#: Ridge of the numbers, by half the squares of log(scale), seen, last and 1 - trust.
RIDGE = 1.0
#: Places of a list that judge.
TOP = 20

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
    """Numbers of the logit; by default a session's own items are worth what their scores say."""

    scale: float = 1.0
    seen: float = 0.0
    last: float = 0.0
    trust: float = 1.0

    def __post_init__(self) -> None:
        if not (all(map(math.isfinite, astuple(self))) and self.scale > 0 and 0 < self.trust <= 1):
            expected = "must be finite, scale above 0, and trust too and at most 1"
            raise ValueError(f"weights of a session's own items {expected}, got {self}")

    def weigh(self, scores: np.ndarray, sessions: Sessions, *, log_scale: bool) -> np.ndarray:
        """Weigh the scores (S, N) of all items in place, and give them.

        Scores that are log p become u. Others keep their size: they rank as u does if those of the sessions' own items
        become exp(u / scale), and those that are not positive, of items that were not found, stay.
        """
        own = OwnItems.of(sessions)
        cells = own.row, own.place
        if log_scale:
            scores *= scores.dtype.type(self.scale)
            scores[cells] = self._own_utilities(scores[cells], own, scores)
            return scores
        plain = scores[cells]
        with np.errstate(divide="ignore", invalid="ignore"):
            scaled = self.scale * np.log(np.maximum(scores, 0)) if self.trust < 1 else scores
            x = self.scale * np.log(np.maximum(plain, 0))
            times = np.exp((self._own_utilities(x, own, scaled) - x) / self.scale)  # exactly 1 if nothing was learned
        scores[cells] = np.where(plain > 0, plain * times, plain)
        return scores

    def _own_utilities(self, x: np.ndarray, own: OwnItems, scaled: np.ndarray) -> np.ndarray:
        """Compute u (m,) of own items of scaled log p x (m,); ``scaled`` (S, N) is that of all items."""
        terms = self.seen + self.last * own.last
        if self.trust == 1:
            return x + terms
        others = scaled.copy()
        others[own.row, own.place] = -np.inf
        return self.trust * x + (1 - self.trust) * log_totals(others)[own.row, 0] + terms


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
        prefixes, targets, session = read_targets(sessions)
        own, n = OwnItems.of(clicks_read(prefixes)), len(targets)
        own_x = np.empty(len(own.row))

        def look(block: np.ndarray) -> tuple[np.ndarray, ...]:
            log_p = log_shares(prefixes.take(block))
            inside = np.isin(own.row, block)
            cells = own.row[inside] - block[:1], own.place[inside]
            x, own_x[inside] = log_p[np.arange(len(block)), targets[block]].astype(float), log_p[cells]
            log_p[cells] = -np.inf
            return x, top_k(log_p, TOP + 1)[1].astype(float), _log_sums(log_p)

        x, best, others = by_blocks(look, n, n_items)
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
            others=CubicHermiteSpline(_SCALES, others[found, 0].T, others[found, 1].T),
        )

    def __len__(self) -> int:
        return len(self.x)

    def log_likelihoods(self, weights: RepeatWeights) -> np.ndarray:
        """Compute the log probability (T,) of every click."""
        return self._likelihoods(np.array(astuple(weights)))[0]

    def reciprocal_ranks(self, weights: RepeatWeights) -> np.ndarray:
        """Compute 1 / rank (T,), 0 beyond place 20; ties count against the recommender."""
        own, utility = self._utilities(np.array(astuple(weights)))
        ranks = np.count_nonzero(weights.scale * self.best >= utility[:, None], axis=1)
        ranks += np.bincount(self.own_row[own >= utility[self.own_row]], minlength=len(self))
        return np.where(ranks <= TOP, 1 / ranks, 0.0)

    def fit(self, n_free: int, chosen: np.ndarray) -> RepeatWeights:
        """Maximise the likelihood of the chosen clicks (T,), with a small ridge.

        The first ``n_free`` numbers are free, in the order of `RepeatWeights`.
        """
        start = np.array(astuple(RepeatWeights()))

        def loss(numbers: np.ndarray) -> tuple[float, np.ndarray]:
            likelihoods, gradient = self._likelihoods(numbers)
            log_scale = math.log(numbers[0])
            away = np.array([log_scale, *(numbers - start)[1:]])
            ridge, penalty = away / [numbers[0], 1, 1, 1], away @ away / 2
            return RIDGE * penalty - likelihoods[chosen].sum(), RIDGE * ridge - gradient[:, chosen].sum(axis=1)

        free = [(_SCALES[0], _SCALES[-1]), (None, None), (None, None), (_LEAST_TRUST, 1)]
        bounds = free[:n_free] + [(value, value) for value in start[n_free:]]
        scale, seen, last, trust = minimize(loss, start, jac=True, method="L-BFGS-B", bounds=bounds).x.tolist()
        return RepeatWeights(scale=scale, seen=seen, last=last, trust=trust)

    def _utilities(self, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Compute those of own items (m,) and of clicked items (T,), with the same bits for the same item."""
        scale, seen, last, trust = numbers
        own = trust * scale * self.own_x + (
            (1 - trust) * self.others(scale)[self.own_row] + seen + last * self.own_last
        )
        again = trust * scale * self.x + ((1 - trust) * self.others(scale) + seen + last * self.last)
        return own, np.where(self.seen > 0, again, scale * self.x)

    def _likelihoods(self, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Compute the log probability (T,) of every click, and its derivatives (4, T) by the numbers."""
        own, utility = self._utilities(numbers)
        scale, trust = numbers[0], numbers[3]
        others, slope = self.others(scale), self.others(scale, 1)
        parts = np.exp(own)
        total = np.exp(others) + np.bincount(self.own_row, weights=parts, minlength=len(self))

        def derivatives(x: np.ndarray, last: np.ndarray, row: np.ndarray) -> np.ndarray:
            """Of utilities of own items, (4, m)."""
            by_scale = trust * x + (1 - trust) * slope[row]
            return np.stack([by_scale, np.ones(len(x)), last, scale * x - others[row]])

        gradient = self.seen * derivatives(self.x, self.last, np.arange(len(self)))
        gradient[0] += (1 - self.seen) * self.x - np.exp(others) / total * slope
        weighed = derivatives(self.own_x, self.own_last, self.own_row) * (parts / total[self.own_row])
        for row, part in zip(gradient, weighed, strict=True):
            row -= np.bincount(self.own_row, weights=part, minlength=len(self))
        return utility - np.log(total), gradient


def read_targets(sessions: Sessions) -> tuple[Sessions, np.ndarray, np.ndarray]:
    """Take at most 3 000 next clicks, evenly spread, of items of the catalogue.

    Returns
    -------
    prefixes : Sessions
        The clicks before each of T next clicks.
    places, session : ndarray of int, shape (T,)
        Place of the clicked item in the catalogue, and number of the session.
    """
    known = np.flatnonzero(sessions.next_clicks() != UNSEEN_ITEM)
    prefixes, targets = sessions.prefixes(known[spread(len(known), MOST_TARGETS)])
    return prefixes, targets - 1, prefixes.ids.rle_id().to_numpy()


def learn_weights(choices: Choices) -> RepeatWeights:
    """Learn the weights as far as they gain clearly: let the scale free, seen items, the last click, trust."""
    return RepeatWeights() if too_few(choices.session) else keep_clear_steps(choices, len(astuple(RepeatWeights())))


def too_few(session: np.ndarray) -> bool:
    """Tell whether choices (T,), by the numbers of their sessions, are too few to learn from."""
    return len(session) < LEAST_TARGETS or len(np.unique(session)) < LEAST_SESSIONS


def keep_clear_steps(choices: _Choices[W], n_steps: int) -> W:
    """Fit weights, where each of ``n_steps`` lets more of them free, with the steps that gain clearly.

    A step is taken if, fitted on one half of the sessions and judged on the other, both ways, the mean log probability
    rises by more than two standard errors over sessions, and MRR@20 does not fall by more than one.
    """
    kept, before = 0, _judge_by_halves(choices, 0)
    for step in range(1, n_steps + 1):
        after = _judge_by_halves(choices, step)
        gained, ranked = (in_errors(new - old, choices.session) for new, old in zip(after, before, strict=True))
        if gained > 2 and ranked >= -1:
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


def in_errors(gains: np.ndarray, session: np.ndarray) -> float:
    """Divide the mean of gains (T,) by its standard error over sessions (T,); 0 where it has none."""
    error = error_of_mean(gains, session)
    return float(gains.mean() / error) if error else 0.0


def _log_sums(log_p: np.ndarray) -> np.ndarray:
    """Compute the log sums of exp(scale x) over log p (m, N), and their slopes, by scale: (m, 2, scales)."""
    found = np.zeros((len(log_p), 2, len(_SCALES)))
    found[:, 0] = _NEVER
    for row, x in zip(found, log_p, strict=True):
        top = x.max()
        if top > -np.inf:
            behind = top - x
            bins = np.fmin(behind / _BIN, _BINS).astype(np.int32)
            counts = np.bincount(bins, minlength=_BINS + 1)[:_BINS]
            some = counts > 0
            means = np.bincount(bins, weights=behind, minlength=_BINS + 1)[:_BINS][some] / counts[some]
            parts = counts[some] * np.exp(-np.outer(_SCALES, means))
            total = parts.sum(axis=1)
            row[:] = _SCALES * top + np.log(total), top - parts @ means / total
    return found
