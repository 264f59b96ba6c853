"""Nearest sessions: items that were clicked in the training sessions that share items with this one.

A session with its n clicks at positions 1 to n is compared with the ``sample_size`` newest training sessions that share
an item with it; the k most similar of them, the newer of equal ones, vote for the items that they hold. A shared item
counts once, by its latest click. Items that the catalogue does not hold are left out of the session before clicks are
counted. Items that no neighbour holds come last, by popularity, with scores in [-1, 0).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import polars as pl

from tabmtl.base.params import Count, NonNegative, Positive
from tabmtl.base.storage.stored import Stored
from tabmtl.columns.ragged import offsets_of, ranges
from tabmtl.sessions.catalogue import Catalogue
from tabmtl.sessions.popularity import fill_with_popularity
from tabmtl.sessions.ragged import Sessions
from tabmtl.sessions.recommender import Recommender, SessionState

# weight of a click with x clicks after it in a session of n
Fade = Literal["linear", "linear_0.1", "div", "div_squared", "log", "quadratic", "same"]
_FADES: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "linear": lambda x, n: 1 - x / n,
    "linear_0.1": lambda x, n: np.maximum(1 - 0.1 * x, 0),
    "div": lambda x, n: 1 / (x + 1),
    "div_squared": lambda x, n: 1 / (x + 1) ** 2,
    "log": lambda x, n: 1 / np.log10(x + 1.7),
    "quadratic": lambda x, n: (1 - x / n) ** 2,
    "same": lambda x, n: np.ones(len(x)),
}
_PAIRS = 1_000_000  # pairs of sessions, or votes of neighbours, that are held at a time, about


@dataclass(kw_only=True, eq=False)
class _Memory:
    """The training sessions, old to new, and for each item the sessions that hold it.

    The distinct items of session s stand at ``offsets[s]`` to ``offsets[s + 1]`` of ``items``, their latest places in
    the session at those of ``places``. ``lengths`` counts clicks, ``times`` are those of the last ones.
    """

    n_items: int
    offsets: Annotated[np.ndarray, Stored("i8", "S+1", offsets="m")]
    items: Annotated[np.ndarray, Stored("i4", "m", low=1, below="N+1")]
    places: Annotated[np.ndarray, Stored("i4", "m", low=0)]
    lengths: Annotated[np.ndarray, Stored("i8", "S", low=1)]
    times: Annotated[np.ndarray, Stored("f8", "S")] | None

    def __post_init__(self) -> None:
        self.sizes = np.diff(self.offsets)
        self.size = len(self.sizes)
        by_item = np.argsort(self.items, kind="stable")
        self.holders = np.repeat(np.arange(self.size), self.sizes)[by_item]
        self.holder_places = self.places[by_item]
        self.n_holders = np.bincount(self.items, minlength=self.n_items + 1)  # by code
        self.holder_ends = np.cumsum(self.n_holders)

    @classmethod
    def of(cls, sessions: Sessions, n_items: int) -> _Memory:
        """Remember sessions that are sorted by time."""
        owner, items, places = _last_clicks(sessions)
        return cls(
            n_items=n_items,
            offsets=offsets_of(np.bincount(owner, minlength=len(sessions))),
            items=items,
            places=places.astype(np.int32),
            lengths=sessions.lengths,
            times=None if sessions.times is None else sessions.times[sessions.offsets[1:] - 1],
        )

    def joined(self, new: _Memory) -> _Memory:
        """Remember other sessions too, sorted in by their times, or behind these where there are none."""
        times, order = None, np.arange(self.size + new.size)
        if self.times is not None and new.times is not None:
            times = np.concatenate([self.times, new.times])
            order = np.argsort(times, kind="stable")
            times = times[order]
        starts = np.concatenate([self.offsets[:-1], self.offsets[-1] + new.offsets[:-1]])[order]
        sizes = np.concatenate([self.sizes, new.sizes])[order]
        held = ranges(starts, sizes)
        return _Memory(
            n_items=new.n_items,
            offsets=offsets_of(sizes),
            items=np.concatenate([self.items, new.items])[held],
            places=np.concatenate([self.places, new.places])[held],
            lengths=np.concatenate([self.lengths, new.lengths])[order],
            times=times,
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class _Pairs:
    """Pairs of a session to continue and a training session that shares items with it: (m,), sorted by both.

    ``weight`` sums the weights of the shared items. ``back`` counts the clicks since the latest of them, ``place`` is
    its place in the training session, and ``length`` is the number n of clicks of the session to continue.
    """

    row: np.ndarray
    session: np.ndarray
    weight: np.ndarray
    back: np.ndarray
    place: np.ndarray
    length: np.ndarray

    def take(self, index: np.ndarray) -> _Pairs:
        """Pairs by number."""
        return _Pairs(**{name: array[index] for name, array in vars(self).items()})


@dataclass(frozen=True, kw_only=True, eq=False)
class NeighbourState(SessionState):
    """Fitted attributes that the file of a nearest-session recommender keeps."""

    _memory: _Memory

    def __post_init__(self) -> None:
        if self._memory.n_items != len(self._catalogue) or not self._memory.size:
            found = f"{self._memory.size} sessions of {self._memory.n_items} items"
            raise ValueError(f"there are {found}, expected some of {len(self._catalogue)}")


@dataclass(kw_only=True, eq=False, repr=False)
class _Neighbours(Recommender):
    """Base of the nearest-session recommenders; a subclass gives the weights of clicks, neighbours and votes."""

    n_neighbors: Count = 500
    sample_size: Count = 5000

    search_space: ClassVar[dict[str, Any]] = {
        "n_neighbors": {"low": 50, "high": 2000, "log": True},
        "sample_size": {"low": 500, "high": 10_000, "log": True},
    }

    _stored: ClassVar[type] = NeighbourState

    def _click_weights(self, back: np.ndarray, length: np.ndarray) -> np.ndarray:
        """Compute the weights (m,) of clicks with ``back`` others after them in sessions of ``length``."""
        raise NotImplementedError

    def _similarity(self, pairs: _Pairs) -> np.ndarray:
        """Compute the similarity (m,) of pairs."""
        return pairs.weight / np.sqrt(pairs.length * self._memory.lengths[pairs.session])

    def _votes(self, near: _Pairs, voter: np.ndarray, held: np.ndarray) -> np.ndarray:
        """Compute the factors (v,) of votes: of pair ``voter[j]`` for the item at ``held[j]`` of the memory."""
        raise NotImplementedError

    def _fit(self, sessions: Sessions, catalogue: Catalogue) -> dict[str, Any]:
        return {"_memory": _Memory.of(sessions, len(catalogue))}

    def _go_on(self, sessions: Sessions, catalogue: Catalogue, metadata: pl.DataFrame | None) -> dict[str, Any]:
        return {"_memory": self._memory.joined(_Memory.of(sessions, len(catalogue)))}

    def _scores(self, sessions: Sessions) -> np.ndarray:
        known = sessions.without_unseen()
        scores = np.zeros((len(known), self.n_items_), dtype=np.float32)
        for rows in self._parts_of(known):
            pairs = self._pairs(known.take(rows))
            similarity = self._similarity(pairs)
            # float32, so that rounding does not separate equal ones
            order = np.lexsort((-pairs.session, -similarity.astype(np.float32), pairs.row))
            best = order[np.arange(len(order)) - np.searchsorted(pairs.row, pairs.row) < self.n_neighbors]
            self._add_votes(scores[rows[0] : rows[-1] + 1], pairs.take(best), similarity[best])
        return fill_with_popularity(scores, self._catalogue.counts)

    def _parts_of(self, known: Sessions) -> list[np.ndarray]:
        """Split the sessions, by number, into parts whose pairs and votes fit the memory."""
        memory = self._memory
        pairs = np.minimum(memory.n_holders, self.sample_size)[known.items]
        votes = np.arange(len(known)) * int(min(self.n_neighbors, memory.size) * memory.sizes.mean() + 1)
        part = (offsets_of(pairs)[known.offsets[:-1]] + votes) // _PAIRS
        return np.split(np.arange(len(known)), np.flatnonzero(np.diff(part)) + 1) if len(known) else []

    def _pairs(self, known: Sessions) -> _Pairs:
        """Find the newest training sessions that share an item with each of these."""
        memory, lengths = self._memory, known.lengths
        row, item, place = _last_clicks(known)
        back = lengths[row] - 1 - place
        # older holders of the item are not among the newest of any session
        count = np.minimum(memory.n_holders[item], self.sample_size)
        link = ranges(memory.holder_ends[item] - count, count)
        click = np.repeat(np.arange(len(row)), count)
        pair = row[click] * memory.size + memory.holders[link]
        order = np.argsort(pair, kind="stable")
        pair, click, link = pair[order], click[order], link[order]
        first = np.flatnonzero(np.diff(pair, prepend=-1))
        owner, session = np.divmod(pair[first], memory.size)
        pairs = _Pairs(
            row=owner,
            session=session,
            weight=np.add.reduceat(self._click_weights(back, lengths[row])[click], first),
            back=np.minimum.reduceat(back[click], first),
            place=np.maximum.reduceat(memory.holder_places[link], first),
            length=lengths[owner],
        )
        age = np.searchsorted(owner, owner, side="right") - np.arange(len(owner))
        return pairs.take(np.flatnonzero(age <= self.sample_size))

    def _add_votes(self, scores: np.ndarray, near: _Pairs, similarity: np.ndarray) -> None:
        """Add the votes of the neighbours for their items to scores (rows, N)."""
        memory = self._memory
        size = memory.sizes[near.session]
        voter, held = np.repeat(np.arange(len(size)), size), ranges(memory.offsets[near.session], size)
        votes = similarity[voter] * self._votes(near, voter, held)
        cell, which = np.unique(near.row[voter] * scores.shape[1] + memory.items[held] - 1, return_inverse=True)
        scores.reshape(-1)[cell] = np.bincount(which, weights=votes, minlength=len(cell))


@dataclass(kw_only=True, eq=False, repr=False)
class VSKNN(_Neighbours):
    """V-SKNN: nearest sessions, where late clicks weigh more.

    With N(s) the k neighbours t of session s, n and |t| the numbers of clicks, p_i the latest position of item i in s,

        sim(s, t) = sum_{i in s and t} w(p_i) / sqrt(n |t|)    ("cosine"; "vec" divides by n instead),
        score(i) = (1 + idf_weight ln(S / df_i)) sum_{t in N(s) with i} sim(s, t) v(p*),

    where p* is the latest position in s that t shares, and df_i of S training sessions hold item i. Both w and v fade
    with the number x = n - p of clicks since: "linear" 1 - x / n, which is p / n; "linear_0.1" 1 - 0.1 x, 0 from x =
    10; "div" 1 / (x + 1); "div_squared" 1 / (x + 1)^2; "log" 1 / log10(x + 1.7); "quadratic" (1 - x / n)^2; "same" 1.

    The authors' package session-rec uses other names: its ``weighting`` "div" is "linear" here, and its
    ``weighting_score`` "quadratic" is "div_squared"; its ``weighting`` "quadratic" and ``weighting_score`` "div" have
    the same names. Its cosine divides by the root of the sum of w^2 instead of the root of n, which is equal for all
    neighbours; its |t| counts distinct items, and its df_i counts clicks. It leaves open which of equal neighbours
    vote; here the newer ones do.

    Parameters
    ----------
    n_neighbors : int, default=500
        Neighbours that vote.
    sample_size : int, default=5000
        Number of training sessions that are compared: the newest that share an item with the session.
    weighting : {"linear", "linear_0.1", "div", "div_squared", "log", "quadratic", "same"}, default="linear"
        The weight w of a click.
    vote_weighting : {"log", "linear", "linear_0.1", "div", "div_squared", "quadratic", "same"}, default="log"
        The factor v of a neighbour's votes.
    similarity : {"cosine", "vec"}, default="cosine"
        Similarity of two sessions. ``"vec"`` leaves the length of the training session out.
    idf_weight : float, default=0.5
        Extra weight of votes for rare items; 0 for none.

    References
    ----------
    Ludewig and Jannach (2018), "Evaluation of Session-based Recommendation Algorithms", UMUAI 28.

    Examples
    --------
    >>> import polars as pl
    >>> from tabmtl.sessions import VSKNN
    >>> log = pl.DataFrame({"session_id": [1, 1, 2, 2], "item_id": ["a", "b", "a", "c"], "time": [0, 1, 2, 3]})
    >>> VSKNN(n_neighbors=1).fit(log).recommend(log.head(1), k=3)["item_id"].to_list()
    ['c', 'a', 'b']
    """

    weighting: Fade = "linear"
    vote_weighting: Fade = "log"
    similarity: Literal["cosine", "vec"] = "cosine"
    idf_weight: NonNegative = 0.5

    search_space: ClassVar[dict[str, Any]] = _Neighbours.search_space | {
        "weighting": {"choices": tuple(_FADES)},
        "vote_weighting": {"choices": tuple(_FADES)},
        "similarity": {"choices": ("cosine", "vec")},
        "idf_weight": {"low": 0.0, "high": 5.0},
    }

    def _click_weights(self, back: np.ndarray, length: np.ndarray) -> np.ndarray:
        return _FADES[self.weighting](back, length)

    def _similarity(self, pairs: _Pairs) -> np.ndarray:
        return super()._similarity(pairs) if self.similarity == "cosine" else pairs.weight / pairs.length

    def _votes(self, near: _Pairs, voter: np.ndarray, held: np.ndarray) -> np.ndarray:
        factor, memory = _FADES[self.vote_weighting](near.back, near.length), self._memory
        return factor[voter] * (1 + self.idf_weight * np.log(memory.size / memory.n_holders[memory.items[held]]))


@dataclass(kw_only=True, eq=False, repr=False)
class STAN(_Neighbours):
    """STAN: nearest sessions, where late clicks, new neighbours and items close to the shared ones weigh more.

    With N(s) the k neighbours t of session s, n and |t| the numbers of clicks, p_i the latest position of item i in s,

        sim(s, t) = sum_{i in s and t} exp((p_i - n) / l1) / sqrt(n |t|) exp(-(T - T_t) / l2),
        score(i) = sum_{t in N(s) with i} sim(s, t) exp(-|q_t(i) - q_t| / l3),

    where q_t(i) is the latest position of item i in t, and q_t the latest of any item that s shares. T_t is the time of
    the last click of t, and T that of the newest session compared. The paper takes the time of s. It is equal for all
    neighbours and does not change their order, but after a long pause all scores would vanish.

    Parameters
    ----------
    n_neighbors : int, default=300
        Neighbours that vote.
    sample_size : int, default=5000
        Training sessions that are compared: the newest that share an item with the session.
    l1 : float, default=2.0
        Clicks of the session in which the weight of an item falls to 1 / e.
    l2 : float, default=8640000.0
        Seconds (100 days) in which the weight of a training session falls to 1 / e; unused without a ``time_column``.
    l3 : float, default=6.0
        Clicks of a neighbour in which its vote for an item falls to 1 / e.

    References
    ----------
    Garg et al. (2019), "Sequence and Time Aware Neighborhood for Session-based Recommendations", SIGIR.
    """

    n_neighbors: Count = 300
    l1: Positive = 2.0
    l2: Positive = 8_640_000.0
    l3: Positive = 6.0

    search_space: ClassVar[dict[str, Any]] = _Neighbours.search_space | {
        "l1": {"low": 0.3, "high": 10.0, "log": True},
        "l2": {"low": 43_200.0, "high": 17_280_000.0, "log": True},  # half a day to 200 days
        "l3": {"low": 0.3, "high": 30.0, "log": True},
    }

    def _click_weights(self, back: np.ndarray, length: np.ndarray) -> np.ndarray:
        return np.exp(-back / self.l1)

    def _similarity(self, pairs: _Pairs) -> np.ndarray:
        cosine = super()._similarity(pairs)
        if self._memory.times is None:
            return cosine
        times = self._memory.times[pairs.session]
        newest = times[np.searchsorted(pairs.row, pairs.row, side="right") - 1]
        return cosine * np.exp((times - newest) / self.l2)

    def _votes(self, near: _Pairs, voter: np.ndarray, held: np.ndarray) -> np.ndarray:
        return np.exp(-np.abs(self._memory.places[held] - near.place[voter]) / self.l3)


def _last_clicks(sessions: Sessions) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Find session, item and place, from 0, of the last click on every item of a session, by session and item."""
    owner = np.repeat(np.arange(len(sessions)), sessions.lengths)
    order = np.lexsort((sessions.items, owner))  # stable: clicks on one item stay in their order
    items, place = sessions.items[order], order - sessions.offsets[owner]
    last = np.flatnonzero(np.diff(owner, append=-1) | np.diff(items, append=0))
    return owner[last], items[last], place[last]
