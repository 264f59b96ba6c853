"""Several recommenders as one: a conditional logit over the best items of each.

With x_pi = log p of item i by part p, C the union of the lists of the best items of every part, and weights w_p >= 0,
the next click is item i of C with a probability that is proportional to exp(u_i),

    u_i = sum_p w_p x_pi + seen [i in the session] + last [i is the last click],

with other weights v_p >= 0 in place of w_p for the items of the session, whose scores mean something else, and with m_p
in place of the product where part p has not found the item. It is any item outside of C with a probability
that is proportional to exp(outside), for all of them together. So a click outside of C tells how much the lists hold,
and nothing about the parts. The log likelihood is concave in all numbers, which are learned on sessions that the parts
were not fitted on.

Of an item that was added after the fit, a part without ``add_items`` knows nothing, which is no evidence against the
item: there, x_pi is the mean of the parts that have found it. An item that was listed at fit and never clicked is
treated as any other: the set-aside sessions tell what it means that a part has not found it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field, fields, replace
from itertools import count
from typing import Annotated, Any, ClassVar, Self

import numpy as np
import polars as pl
from scipy.optimize import minimize
from sklearn.base import clone
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import check_is_fitted

from tabmtl.base.params import Count, RandomState, Share, check_params, near
from tabmtl.base.storage.stored import Stored
from tabmtl.estimators.base import at_once, drafted, draw_seed
from tabmtl.sessions.catalogue import Catalogue, Growth
from tabmtl.sessions.knn import STAN, VSKNN
from tabmtl.sessions.m2trec import M2TRec
from tabmtl.sessions.popularity import popularity_below_zero
from tabmtl.sessions.ragged import UNSEEN_ITEM, Sessions
from tabmtl.sessions.ranking import by_blocks, log_totals, top_k
from tabmtl.sessions.recommender import Recommender, SessionState
from tabmtl.sessions.repeats import (
    LEAST_TARGETS,
    RIDGE,
    TOP,
    OwnItems,
    RepeatWeights,
    keep_clear_steps,
    read_targets,
    too_few,
)
from tabmtl.training.run import running
from tabmtl.training.watch import Watch

_COLUMNS = ("session_column", "item_column", "time_column", "order_column")
_NO_REFIT = "the parts were not fitted again on all sessions"
_BELOW = 1e-3  # by which an item outside of the lists scores less than all inside, at least
_OUTSIDE = math.log(0.1)  # where it is not learned


def check_recommenders(name: str, value: Any) -> None:
    """Raise an error unless a value is None or a list of unfitted recommenders of this package."""
    if value is None:
        return
    if isinstance(value, str | bytes | Mapping) or not isinstance(value, Sequence) or not value:
        raise TypeError(f"{name} must be a list of recommenders, such as [M2TRec(), STAN()], or None, got {value!r}")
    for i, part in enumerate(value):
        if not isinstance(part, Recommender):
            found = f"{part!r}" if isinstance(part, type) else f"{type(part).__name__}: {part!r}"
            raise TypeError(
                f"{name}[{i}] must be a recommender of tabmtl.sessions, or derived from one, got {found}; "
                f"{name}={value!r} cannot be blended"
            )


@dataclass(frozen=True, kw_only=True, eq=False)
class BlendWeights:
    """Numbers w, v, m and ``outside`` of the conditional logit."""

    parts: Annotated[np.ndarray, Stored("f8", "P", low=0)]
    own: Annotated[np.ndarray, Stored("f8", "P", low=0)]
    missing: Annotated[np.ndarray, Stored("f8", "P")]
    outside: float

    @classmethod
    def equal(cls, n_parts: int, n_items: int) -> BlendWeights:
        """Give every part the same say; an item that it has not found counts as one of all items, taken at random."""
        parts = np.full(n_parts, 1 / n_parts)
        return cls(parts=parts, own=parts, missing=-parts * math.log(n_items), outside=_OUTSIDE)

    def mix(self, shares: np.ndarray, sessions: Sessions) -> np.ndarray:
        """Compute utilities (S, N) of log p by every part (P, S, N)."""
        utilities = self._sum(shares, self.parts)
        own = OwnItems.of(sessions)
        utilities[own.row, own.place] = self._sum(shares[:, own.row, own.place], self.own)
        return utilities

    def _sum(self, shares: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """Add the weighed log p of all parts (P, ...)."""
        total = np.zeros(shares.shape[1:], dtype=shares.dtype)
        for share, weight, missing in zip(shares, weights, self.missing, strict=True):
            found = np.isfinite(share)
            total += np.where(found, np.where(found, share, 0) * share.dtype.type(weight), share.dtype.type(missing))
        return total


@dataclass(frozen=True, kw_only=True, eq=False)
class UnionChoices:
    """Next clicks of set-aside sessions as choices among the items of the parts' lists.

    Numbers are, in this order, the weights w of the P parts, those v for the session's own items, and m; those of seen
    items and of the last click; and that of all items outside together.

    Attributes
    ----------
    session : ndarray of int64, shape (T,)
        Number of the session of every choice.
    starts : ndarray of int64, shape (T,)
        First of the candidates of every choice.
    row : ndarray of int64, shape (m,)
        Choice of every candidate, sorted.
    terms : ndarray of float64, shape (m, 3 P + 2)
        Factors of all numbers but the last.
    clicked : ndarray of int64, shape (T,)
        The candidate that was clicked; -1 for an item outside.
    some_outside : ndarray of bool, shape (T,)
        Whether there are items outside.
    n_items : int
        Size of the catalogue.
    """

    session: np.ndarray
    starts: np.ndarray
    row: np.ndarray
    terms: np.ndarray
    clicked: np.ndarray
    some_outside: np.ndarray
    n_items: int

    @classmethod
    def of(cls, sessions: Sessions, parts: Sequence[Recommender], n_items: int, k: int) -> UnionChoices:
        """Collect at most 3 000 next clicks, evenly spread, of items of the catalogue; see `Blend`."""
        prefixes, targets, session = read_targets(sessions)
        row, place, x = _find_candidates(prefixes, parts, n_items, k)
        kept, starts, row = np.unique(row, return_index=True, return_inverse=True)  # without those that have no list
        own, first = OwnItems.of(prefixes.take(kept)), np.arange(len(kept)) * n_items
        cell, own_cell, target = row * n_items + place, own.row * n_items + own.place, first + targets[kept]
        clicked = np.searchsorted(cell, target)
        is_found, seen = np.isfinite(x), np.isin(cell, own_cell)
        x = np.where(is_found, x, 0)
        weighed = [np.where(seen[:, None], 0, x), np.where(seen[:, None], x, 0), ~is_found]
        return cls(
            session=session[kept],
            starts=starts,
            row=row,
            terms=np.column_stack([*weighed, seen, np.isin(cell, own_cell[own.last])]).astype(np.float64),
            clicked=np.where(np.isin(target, cell), clicked, -1),
            some_outside=np.bincount(row, minlength=len(kept)) < n_items,
            n_items=n_items,
        )

    @property
    def n_parts(self) -> int:
        """Number of parts."""
        return self.terms.shape[1] // 3

    def weights(self, numbers: np.ndarray) -> tuple[BlendWeights, RepeatWeights]:
        """Name the numbers."""
        parts, own, missing, (seen, last, outside) = np.split(numbers, self.n_parts * np.arange(1, 4))
        weights = BlendWeights(parts=parts, own=own, missing=missing, outside=float(outside))
        return weights, RepeatWeights(seen=float(seen), last=float(last))

    def fit(self, step: int, chosen: np.ndarray) -> np.ndarray:
        """Maximise the likelihood of the chosen clicks (T,), with a small ridge towards equal weights.

        What seen items are worth is free from step 1 on, what the last click is from step 2 on, and from step 3 on the
        session's own items have weights of their own.
        """
        n_parts = self.n_parts
        equal = BlendWeights.equal(n_parts, self.n_items)
        center = np.concatenate([equal.parts, equal.own, equal.missing, [0, 0, equal.outside]])
        ridge = np.append(np.full(len(center) - 1, RIDGE), 0)
        free = np.ones(len(center), dtype=bool)
        free[n_parts : 2 * n_parts], free[-3], free[-2] = step > 2, step > 0, step > 1
        spread_out = np.eye(len(center))[:, free]
        if step < 3:
            spread_out[n_parts : 2 * n_parts, :n_parts] = np.eye(n_parts)

        def loss(some: np.ndarray) -> tuple[float, np.ndarray]:
            numbers = spread_out @ some
            away = ridge * (numbers - center)
            likelihood, slope = self._likelihood(numbers, chosen)
            return away @ (numbers - center) / 2 - likelihood, (away - slope) @ spread_out

        bounds = np.array([(0, None)] * 2 * n_parts + [(None, None)] * (n_parts + 3))[free].tolist()
        return spread_out @ minimize(loss, center[free], jac=True, method="L-BFGS-B", bounds=bounds).x

    def _likelihood(self, numbers: np.ndarray, chosen: np.ndarray) -> tuple[float, np.ndarray]:
        """Compute that of the chosen clicks (T,), and its derivatives by the numbers."""
        utilities, totals = self._utilities(numbers)
        shares = np.exp(utilities - totals[self.row]) * chosen[self.row]
        inside = self.clicked[chosen & (self.clicked >= 0)]
        # clicks outside less their probability, which is all that the candidates lack
        slope = np.append(self.terms[inside].sum(axis=0) - shares @ self.terms, shares.sum() - len(inside))
        return self.log_likelihoods(numbers)[chosen].sum(), slope

    def log_likelihoods(self, numbers: np.ndarray) -> np.ndarray:
        """Compute the log probability (T,) of every click; for one outside, that of all items there."""
        utilities, totals = self._utilities(numbers)
        return np.where(self.clicked < 0, numbers[-1], utilities[self.clicked]) - totals

    def reciprocal_ranks(self, numbers: np.ndarray) -> np.ndarray:
        """Compute 1 / rank (T,), 0 beyond place 20 and outside; ties count against the blend."""
        utilities, _ = self._utilities(numbers)
        better = utilities >= utilities[self.clicked][self.row]
        ranks = np.add.reduceat(better.astype(np.int64), self.starts)
        return np.where((self.clicked >= 0) & (ranks <= TOP), 1 / np.maximum(ranks, 1), 0.0)

    def _utilities(self, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Compute those of the candidates (m,), and the log sums (T,) of exp(utility) over all items."""
        utilities = self.terms @ numbers[:-1]
        highest = np.maximum.reduceat(utilities, self.starts)
        inside = np.log(np.add.reduceat(np.exp(utilities - highest[self.row]), self.starts)) + highest
        return utilities, np.logaddexp(inside, np.where(self.some_outside, numbers[-1], -np.inf))


@dataclass(frozen=True, kw_only=True, eq=False)
class BlendState(SessionState):
    """Fitted attributes that the file of a blend keeps; every part is a folder in its folder."""

    estimators_: dict[str, Recommender]
    _weights: BlendWeights

    def __post_init__(self) -> None:
        n_parts, n_weights = len(self.estimators_), len(self._weights.parts)
        if n_parts != n_weights or not n_parts:
            raise ValueError(f"there are {n_parts} parts and {n_weights} weights")
        ids = self._catalogue.ids
        for name, part in self.estimators_.items():
            if not part.item_ids_.equals(ids.head(part.n_items_)):
                raise ValueError(f"the part {name!r} has other items than the blend")


def _knows_new_items(blend: Blend) -> bool:
    """Tell whether a part takes new items."""
    parts = blend.estimators_.values() if hasattr(blend, "estimators_") else blend._given()
    return any(hasattr(part, "add_items") for part in parts)


@dataclass(kw_only=True, eq=False, repr=False)
class Blend(Recommender):
    """Blend of several recommenders, which trusts each as far as it foretold the newest sessions.

    The parts are fitted on the older sessions. On the newest ones a conditional logit over the best items of every part
    learns what the log probability of each part is worth, what it means that a part has not found an item, and with
    ``repeats`` what the items are worth that a session holds already; the equations are in
    :mod:`tabmtl.sessions.blend`. Then the parts are fitted on all sessions. No weight is below 0: that a part puts an
    item higher never counts against the item. A part that tells nothing beside the others gets about 0.

    Scores are log p, up to a constant of the session. Items that are in no list of a part rank below all that are;
    those that no part has found come last, by popularity. New items are scored by the parts that know ``add_items``.

    A part is named by its class, with a number from the second of a class on: ``M2TRec``, ``M2TRec2``. Its parameters
    are those of the blend too, as ``M2TRec__epochs``, for `set_params`, `get_params` and :mod:`tabmtl.tuning`.

    Parameters
    ----------
    models : sequence of recommenders, optional
        Unfitted parts; default ``[M2TRec(), STAN(), VSKNN()]``. The blend sets their columns of the log, and their
        ``random_state`` if its own is not None. It sets ``repeats=False``, because it learns the worth of own items
        itself. ``verbose`` and ``time_limit`` are those of the blend, which gives each part an equal share of the time
        that is left.
    k : int, default=100
        Length of the parts' lists.
    validation_fraction : float in (0, 1), default=0.1
        Share of the newest sessions that teach the weights if fit gets no ``clicks_val``. Fewer than 200 clicks teach
        nothing: all parts weigh the same. Sessions that teach the weights do nothing else. A part that stops early,
        such as `M2TRec`, sets some of the sessions aside that it is fitted on.
    refit : bool, default=True
        Fit the parts again, on all sessions, once the weights are known. False saves the time of these fits. With
        ``clicks_val``, the parts are fitted once, on all of the log.
    repeats : bool, default=True
        Learn what a session's own items are worth beyond what the parts say, if the gain is clear.
    random_state : int, RandomState or None, default=None
        Seed of the parts.

    Attributes
    ----------
    blend_weights_ : polars.DataFrame
        One row per part: ``part``, its name; ``weight`` of its log p; ``own``, the weight for items that the session
        holds; and ``missing``, which stands for weight times log p of items that the part has not found.
    estimators_ : dict of str to recommender
        The fitted parts by name.
    search_space : dict of str to dict
        The ranges of all parts, such as that of ``STAN__n_neighbors``.

    Examples
    --------
    >>> from tabmtl.sessions import STAN, Blend, SequentialRules
    >>> from tabmtl.synth import make_sessions
    >>> log = make_sessions(1000, 50, random_state=0)
    >>> model = Blend([STAN(), SequentialRules()]).fit(log.clicks)
    >>> model.blend_weights_["part"].to_list()
    ['STAN', 'SequentialRules']
    >>> model.recommend(log.clicks.head(4), k=3, probability=True).columns
    ['session_id', 'rank', 'item_id', 'score', 'probability']
    """

    models: Annotated[Sequence[Recommender] | None, check_recommenders] = field(default=None, kw_only=False)
    k: Count = 100
    validation_fraction: Share = 0.1
    refit: bool = True
    random_state: RandomState = None

    _log_scale: ClassVar[bool] = True
    _stored: ClassVar[type] = BlendState

    @property
    def search_space(self) -> dict[str, Any]:  # type: ignore[override]
        """The ranges of all parts."""
        spaces = {name: part.search_space for name, part in self._named().items()}
        return {f"{name}__{inner}": entry for name, space in spaces.items() for inner, entry in space.items()}

    @property
    def _reads_metadata(self) -> bool:  # type: ignore[override]
        return any(part._reads_metadata for part in self._given())

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Get the parameters.

        Parameters
        ----------
        deep : bool, default=True
            Add the parts by name, and their parameters, such as ``STAN__n_neighbors``.

        Returns
        -------
        params : dict of str to object
        """
        params = super().get_params(deep=False)
        for name, part in self._named().items() if deep else ():
            params |= {name: part} | {f"{name}__{inner}": value for inner, value in part.get_params().items()}
        return params

    def set_params(self, **params: Any) -> Self:
        """Set parameters: of the blend, of a part as ``STAN__n_neighbors=100``, or a whole part as ``STAN=VSKNN()``.

        As in scikit-learn, a part is changed in place. ``models=None`` becomes the list of the parts by default
        before one of these is changed.

        Raises
        ------
        ValueError
            If the blend has no such parameter or part; the message hints at the nearest.
        """
        known = self._get_param_names()
        own = {name: value for name, value in params.items() if name.partition("__")[0] in known}
        of_parts = {name: value for name, value in params.items() if name not in own}
        named = type(self)(params.get("models", self.models))._named()
        for head in (name.partition("__")[0] for name in of_parts):
            if head not in named:
                said = f"has no parameter {head!r}{near(head, [*known, *named])}"
                raise ValueError(f"{type(self).__name__} {said}; its parameters are {known}, its parts {[*named]}")
        super().set_params(**own)
        replaced = {name: value for name, value in of_parts.items() if name in named}
        if replaced or (of_parts and self.models is None):
            self.models = [*(named | replaced).values()]
        for name, part in (named | replaced).items():
            start = f"{name}__"
            inner = {key.removeprefix(start): value for key, value in of_parts.items() if key.startswith(start)}
            if inner:
                part.set_params(**inner)
        return self

    def _set_fitted(self, catalogue: Catalogue, fitted: dict[str, Any], params: dict[str, Any] | None = None) -> None:
        super()._set_fitted(catalogue, fitted, params)
        if params is None:  # unfitted parts are changed in place, those of fit must stay
            self._fitted_params["models"] = clone(self.models, safe=False)
        weights = {"weight": self._weights.parts, "own": self._weights.own, "missing": self._weights.missing}
        self.blend_weights_ = pl.DataFrame({"part": list(self.estimators_)} | weights)

    @at_once
    def recommend(
        self,
        sessions: Any,
        k: int = 20,
        *,
        candidates: Any = None,
        exclude_seen: bool = False,
        probability: bool = False,
    ) -> Any:
        """Recommend items for the next click of every session; see `Recommender.recommend`.

        Parameters
        ----------
        sessions, k, candidates, exclude_seen
            As in every recommender.
        probability : bool, default=False
            As in `M2TRec.recommend`.

        Returns
        -------
        recommendations : frame like ``sessions``
        """
        return self._recommend(sessions, k, candidates, exclude_seen, probability=probability)

    @available_if(_knows_new_items)
    @drafted
    def add_items(self, items: Any) -> Self:
        """Add items to the parts that know new items; see `M2TRec.add_items`."""
        check_is_fitted(self)
        added = {n: copy(part).add_items(items) for n, part in self.estimators_.items() if hasattr(part, "add_items")}
        ids = next(iter(added.values()))._catalogue.ids
        counts = np.pad(self._catalogue.counts, (0, len(ids) - len(self._catalogue)))
        found = self._learned() | {"estimators_": self.estimators_ | added}
        self._set_fitted(Catalogue(ids=ids, counts=counts), found, self._fitted_params)
        return self

    # parts

    def _given(self) -> Sequence[Recommender]:
        """Give the unfitted parts."""
        return [M2TRec(), STAN(), VSKNN()] if self.models is None else self.models

    def _named(self) -> dict[str, Recommender]:
        """Give the unfitted parts by name; fit refuses what is no recommender, which is left out here."""
        named: dict[str, Recommender] = {}
        given = self._given()
        for part in given if isinstance(given, Iterable) else ():
            if isinstance(part, Recommender):
                own = type(part).__name__
                numbered = (own if n == 1 else f"{own}{n}" for n in count(1))
                named[next(name for name in numbered if name not in named)] = part
        return named

    def __check_params__(self) -> None:
        super().__check_params__()
        for name, part in self._prepared().items():
            check_params(part, f"the part {name}")

    def _prepared(self) -> dict[str, Recommender]:
        """Copy the unfitted parts, with the columns and the seed of the blend."""
        prepared: dict[str, Recommender] = {}
        shared = {name: getattr(self, name) for name in _COLUMNS} | {"repeats": False}
        seed = None if self.random_state is None else draw_seed(self.random_state)
        for i, (name, given) in enumerate(self._named().items()):
            _check_columns(name, given, shared)
            part = clone(given).set_params(**shared)
            if seed is not None and "random_state" in part._get_param_names():
                part.set_params(random_state=(seed + i) % 2**32)
            prepared[name] = part
        return prepared

    # learning

    def _learn(
        self, sessions: Any, catalogue: Catalogue, valid: Sessions | None, growth: Growth | None = None
    ) -> dict[str, Any]:
        if growth is not None:
            return self._go_on_by_parts(sessions, catalogue, valid, growth)
        parts, older, judged = self._prepared(), sessions, valid
        if valid is None:
            older, judged = sessions.set_newest_aside(self.validation_fraction)
        weights, own = BlendWeights.equal(len(parts), len(catalogue)), RepeatWeights()
        if judged is None or judged.count_prefixes() < LEAST_TARGETS:
            fitted = _fit_parts(parts, sessions, catalogue, self._watch)
        else:
            watch = self._watch.part(1 / 2 if valid is None and self.refit else 1)
            fitted = _fit_parts(parts, older, catalogue.counted(older), watch)
            choices = UnionChoices.of(judged, list(fitted.values()), len(catalogue), self.k)
            if not too_few(choices.session):
                weights, own = choices.weights(keep_clear_steps(choices, 3 if self.repeats else 0))
            if valid is None and self.refit and not self._watch.cuts(_NO_REFIT):
                fitted.clear()  # no two fits of a part stay in memory
                fitted = _fit_parts(parts, sessions, catalogue, self._watch)
        return {"estimators_": fitted, "_weights": weights, "_repeats": own}

    def _go_on_by_parts(
        self, sessions: Sessions, catalogue: Catalogue, valid: Sessions | None, growth: Growth
    ) -> dict[str, Any]:
        """Let the parts go on; enough sessions that validate teach the weights anew (docs/lab.md, "Going on")."""
        weights, own = self._weights, self._repeats
        fitted: dict[str, Recommender] = {}
        for name, part in self.estimators_.items():
            self._watch.tell(f"{name}  {len(sessions)} new sessions")
            watch = self._watch.part(1 / (len(self.estimators_) - len(fitted)), type(part).__name__)
            with running().part(watch):
                learned = part._learn(sessions, catalogue, None, self._growth_of(part, growth))
                now = type(part)(**part.get_params(deep=False))
                now._set_fitted(catalogue, learned)
                fitted[name] = now
        if valid is not None:
            choices = UnionChoices.of(valid, list(fitted.values()), len(catalogue), self.k)
            if not too_few(choices.session):
                weights, own = choices.weights(keep_clear_steps(choices, 3 if self.repeats else 0))
        return {"estimators_": fitted, "_weights": weights, "_repeats": own}

    def _growth_of(self, part: Recommender, growth: Growth) -> Growth:
        """Give the growth of a part, which may not know items that were added since the fit."""
        n_lacking, metadata = growth.n_known - part.n_items_, growth.metadata
        if n_lacking and metadata is not None:
            metadata = pl.concat([metadata.clear(n_lacking), metadata])
        return replace(growth, n_known=part.n_items_, metadata=metadata)

    # answers

    def _cure_of_unknown(self) -> str:
        knowing = [part for part in self.estimators_.values() if hasattr(part, "add_items")]
        return knowing[0]._cure_of_unknown() if knowing else super()._cure_of_unknown()

    def _scores_of(self, sessions: Sessions, exclude_seen: bool) -> np.ndarray:
        shares = stack_shares(list(self.estimators_.values()), sessions, self.n_items_)
        scores, is_found = self._weights.mix(shares, sessions), np.isfinite(shares).any(axis=0)
        scores += np.where(is_found, np.float32(0), popularity_below_zero(self._catalogue.counts))
        self._repeats.weigh(scores, sessions, log_scale=True)
        scores = put_below(scores, in_lists(shares, self._fitted_params["k"]), self._weights.outside)
        if exclude_seen:
            scores[sessions.known_clicks()] = -np.inf
        return scores


def _find_candidates(
    sessions: Sessions, parts: Sequence[Recommender], n_items: int, k: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Find the items of the lists: session (m,), sorted, place in the catalogue, and log p by every part (m, P)."""

    def find(block: np.ndarray) -> tuple[np.ndarray, ...]:
        shares = stack_shares(parts, sessions.take(block), n_items)
        row, place = np.nonzero(in_lists(shares, k))
        return block[row], place, shares[:, row, place].T.astype(np.float64)

    rows, places, x = by_blocks(find, len(sessions), n_items * len(parts))
    return rows, places, x


def stack_shares(parts: Sequence[Recommender], sessions: Sessions, n_items: int) -> np.ndarray:
    """Compute log p (P, S, N) of all items by every part, minus infinity for those that it has not found.

    An item that was added after the fit, which some parts do not know, gets the mean of the others there.
    """
    shares = np.full((len(parts), len(sessions), n_items), -np.inf, dtype=np.float32)
    for share, part in zip(shares, parts, strict=True):
        n_known = part.n_items_
        items = np.where(sessions.items > n_known, UNSEEN_ITEM, sessions.items)
        share[:, :n_known] = part._in_force()._log_shares(replace(sessions, items=items))
    added = shares[:, :, min(part.n_items_ for part in parts) :]  # to those parts that know new items
    found = np.isfinite(added)
    means = np.where(found, added, 0).sum(axis=0) / np.maximum(found.sum(axis=0), 1)
    np.copyto(added, means, where=~found & found.any(axis=0))
    return shares


def in_lists(shares: np.ndarray, k: int) -> np.ndarray:
    """Mark the items (S, N) that are in the list of a part, by log p of every part (P, S, N)."""
    inside = np.zeros(shares.shape[1:], dtype=bool)
    for share in shares:
        items, best = top_k(share, k)
        row, place = np.nonzero(np.isfinite(best))
        inside[row, items[row, place]] = True
    return inside


def put_below(scores: np.ndarray, inside: np.ndarray, log_sum: float) -> np.ndarray:
    """Shift the scores (S, N) of items outside of the lists, so that exp(score) sums to a given number.

    Where the best of them would not be below all items of the lists, they are shifted further.
    """
    outside = np.where(inside, np.float32(-np.inf), scores)
    room = np.where(inside, scores, np.float32(np.inf)).min(axis=1) - outside.max(axis=1) - np.float32(_BELOW)
    shift = np.minimum(np.float32(log_sum) - log_totals(outside), room[:, None])
    return np.where(inside, scores, scores + shift)


def _fit_parts(
    parts: Mapping[str, Recommender], sessions: Sessions, catalogue: Catalogue, watch: Watch
) -> dict[str, Recommender]:
    """Fit copies of the parts, each in an equal share of the time that is left.

    A part that stops early sets sessions of these aside itself: on those that stopped it, it looks better than it is,
    and would get too much weight.
    """
    fitted: dict[str, Recommender] = {}
    for name, part in parts.items():
        copied = clone(part)
        watch.tell(f"{name}  {len(sessions)} sessions")
        with running().part(watch.part(1 / (len(parts) - len(fitted)), type(part).__name__)):
            copied._set_fitted(catalogue, copied._learn(sessions, catalogue, None))
        fitted[name] = copied
    return fitted


def _check_columns(name: str, part: Recommender, shared: Mapping[str, Any]) -> None:
    """Refuse a part that names other columns of the log than the blend does."""
    defaults = {each.name: each.default for each in fields(part)}
    events = getattr(part, "event_column", None)
    if events is not None:
        raise ValueError(
            f"the part {name} has event_column={events!r}, but a blend reads sessions and items only: leave it out"
        )
    for column in _COLUMNS:
        value = getattr(part, column)
        if value not in (defaults[column], shared[column]):
            raise ValueError(
                f"the part {name} has {column}={value!r}, the blend {shared[column]!r}: set it on the blend alone"
            )
