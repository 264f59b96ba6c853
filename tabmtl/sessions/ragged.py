"""Sessions as ragged arrays of item codes, and the parts that are cut out of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Protocol

import numpy as np
import polars as pl

from tabmtl.base.ranks import ALONE, Ranks
from tabmtl.columns.ragged import offsets_of, ranges

#: Code of an item that the catalogue does not hold; known items count from 1.
UNSEEN_ITEM = 0
_LEAST_TO_PART = 20  # of fewer sessions none is set aside


class AnySessions(Protocol):
    """Sessions in memory or on a disk, for what learns from all of them; see `Sessions`."""

    @property
    def group(self) -> Ranks: ...
    @property
    def has_times(self) -> bool: ...
    @property
    def n_clicks(self) -> int: ...
    @property
    def sample(self) -> Sessions: ...
    def __len__(self) -> int: ...
    def feed(self, read: Callable[..., Any], seed: int, /) -> Any: ...
    def blocks(self) -> Iterator[Sessions]: ...
    def placed(self) -> Iterator[tuple[Sessions, np.ndarray]]: ...
    def at_least(self, n: int, /) -> AnySessions: ...
    def set_newest_aside(self, share: float, /) -> tuple[AnySessions, Sessions | None]: ...
    def count_items(self, n_items: int, /) -> np.ndarray: ...


@dataclass(frozen=True, kw_only=True, eq=False)
class Sessions:
    """Sessions as ragged arrays, sorted by the time of their last click.

    Attributes
    ----------
    ids : polars.Series of length S
        Session names.
    offsets : ndarray of int64, shape (S + 1,)
        Clicks of session s are ``offsets[s]`` up to ``offsets[s + 1]``.
    items : ndarray of int32, shape (n,)
        Code of the clicked item, from 1; 0 is an item that the catalogue does not hold.
    times : ndarray of float64, shape (n,), or None
        Seconds.
    weights : ndarray of float32, shape (n,), or None
        Weight of each click as a target of training; None where all weigh the same.

    Examples
    --------
    >>> import polars as pl
    >>> from tabmtl.sessions.log import LogColumns, read_sessions
    >>> log = pl.DataFrame({"session_id": ["b", "a", "b"], "item_id": [7, 9, 8], "time": [3, 1, 2]})
    >>> sessions = read_sessions(log, LogColumns(), pl.Series([7, 8]))
    >>> sessions.ids.to_list(), sessions.offsets.tolist(), sessions.items.tolist()
    (['a', 'b'], [0, 1, 3], [0, 2, 1])
    """

    ids: pl.Series
    offsets: np.ndarray
    items: np.ndarray
    times: np.ndarray | None
    weights: np.ndarray | None = None

    group: ClassVar[Ranks] = ALONE  # who has them

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> np.ndarray:
        """Clicks of every session, (S,)."""
        return np.diff(self.offsets)

    @property
    def has_times(self) -> bool:
        """Whether the times of clicks are known."""
        return self.times is not None

    @property
    def n_clicks(self) -> int:
        """Number of the clicks."""
        return len(self.items)

    @property
    def sample(self) -> Sessions:
        """The sessions that stand for all where a few are enough: of those in memory, all."""
        return self

    def feed(self, read: Callable[..., Any], seed: int) -> Any:
        """Return what the steps of a training take, which reads examples of sessions: those of all."""
        return read(self)

    def blocks(self) -> Iterator[Sessions]:
        """Read all sessions in blocks: these."""
        yield self

    def placed(self) -> Iterator[tuple[Sessions, np.ndarray]]:
        """Read them in blocks, with the place of each in the order of time, (S,), from 0 to 1."""
        yield self, (np.arange(len(self)) + 0.5) / len(self)

    def ends(self) -> np.ndarray:
        """Give the time of the last click of every session, (S,); 0 where there are no times."""
        return np.zeros(len(self)) if self.times is None else self.times[self.offsets[1:] - 1]

    def take(self, index: np.ndarray) -> Sessions:
        """Take sessions by number, (m,)."""
        index = np.asarray(index, dtype=np.int64)
        if len(index) == len(self) and (np.diff(index) == 1).all():  # all of them, in their order
            return self
        return self._ragged(index, self.offsets[index], self.lengths[index])

    def last(self, n: int) -> Sessions:
        """Cut every session to its last n clicks."""
        lengths = self.lengths
        if lengths.max(initial=0) <= n:
            return self
        kept = np.minimum(lengths, n)
        return self._ragged(np.arange(len(self)), self.offsets[1:] - kept, kept)

    def known_clicks(self) -> tuple[np.ndarray, np.ndarray]:
        """Give the session by number and the place in the catalogue (from 0) of every click on an item of it."""
        known = self.items != UNSEEN_ITEM
        return np.repeat(np.arange(len(self)), self.lengths)[known], self.items[known] - 1

    def count_items(self, n_items: int) -> np.ndarray:
        """Count the clicks of every item of a catalogue, (N,)."""
        return np.bincount(self.items, minlength=n_items + 1)[1:]

    def last_items(self) -> np.ndarray:
        """Give the item codes (S,) of the last clicks; a session without a click has that of an unseen item."""
        return np.where(self.lengths > 0, np.append(UNSEEN_ITEM, self.items)[self.offsets[1:]], UNSEEN_ITEM)

    def without_unseen(self) -> Sessions:
        """Drop the clicks on items that the catalogue does not hold; a session may become empty."""
        kept = self.items != UNSEEN_ITEM
        before = np.concatenate([[0], np.cumsum(kept)])
        return replace(self, offsets=before[self.offsets], **self._of_clicks(kept))

    def at_least(self, n: int) -> Sessions:
        """Take the sessions of at least n clicks."""
        return self.take(np.flatnonzero(self.lengths >= n))

    def set_newest_aside(self, share: float) -> tuple[Sessions, Sessions | None]:
        """Part the newest share of the sessions from the older ones.

        Of fewer than 20 sessions, or where the newest are of one click each, none is set aside.
        """
        if len(self) < _LEAST_TO_PART:
            return self, None
        kept = len(self) - max(1, round(share * len(self)))
        older, newest = self.take(np.arange(kept)), self.take(np.arange(kept, len(self)))
        return (older, newest) if newest.count_prefixes() else (self, None)

    def next_clicks(self) -> np.ndarray:
        """Give the items of all clicks but the first of each session, none of which may be empty."""
        return np.delete(self.items, self.offsets[:-1])

    def count_prefixes(self) -> int:
        """Count the proper prefixes of at least one click."""
        return int(np.maximum(self.lengths - 1, 0).sum(dtype=np.int64))

    def prefixes(self, chosen: np.ndarray | None = None) -> tuple[Sessions, np.ndarray]:
        """Cut out every proper prefix of at least one click, session by session, and give the item clicked next.

        ``chosen`` (m,) takes some of them by number; see `spread`.

        Returns
        -------
        prefixes : Sessions
            m sessions; ids repeat.
        targets : ndarray of int32, shape (m,)
        """
        owner, length = self.prefix_owners(np.arange(self.count_prefixes()) if chosen is None else chosen)
        starts = self.offsets[owner]
        return self._ragged(owner, starts, length), self.items[starts + length]

    def prefix_owners(self, chosen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Give the session by number, and the length, of some of the `prefixes` by number, (m,)."""
        ends = np.cumsum(np.maximum(self.lengths - 1, 0), dtype=np.int64)
        owner = np.searchsorted(ends, chosen, side="right")
        return owner, self.lengths[owner] - (ends[owner] - chosen)

    def padded(self, *, newest_first: bool = False) -> np.ndarray:
        """Give item codes (S, longest) of int32, 0 behind the end of a session."""
        lengths = self.lengths
        codes = np.zeros((len(self), int(lengths.max(initial=1))), dtype=np.int32)
        place = ranges(0, lengths)
        if newest_first:
            place = np.repeat(lengths, lengths) - 1 - place
        codes[np.repeat(np.arange(len(self)), lengths), place] = self.items
        return codes

    def recoded(self, code: np.ndarray) -> Sessions:
        """Replace the codes of items by ``code`` (N + 1,)."""
        return replace(self, items=code[self.items])

    def _ragged(self, owner: np.ndarray, starts: np.ndarray, lengths: np.ndarray) -> Sessions:
        """Make sessions of ranges of these clicks."""
        return Sessions(
            ids=self.ids.gather(owner),
            offsets=offsets_of(lengths),
            **self._of_clicks(ranges(starts, lengths)),
        )

    def _of_clicks(self, chosen: np.ndarray) -> dict[str, Any]:
        """Choose clicks, by number or mask, in everything that is kept by click."""
        times, weights = (None if part is None else part[chosen] for part in (self.times, self.weights))
        return {"items": self.items[chosen], "times": times, "weights": weights}


def spread(n: int, most: int) -> np.ndarray:
    """Give the whole numbers below n, or at most ``most`` of them, evenly spread."""
    return np.arange(n) if n <= most else np.linspace(0, n - 1, most).astype(np.int64)
