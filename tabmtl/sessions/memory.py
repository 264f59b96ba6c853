"""What nearest-session recommenders remember: the training sessions, and which of them share items with others."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np

from tabmtl.sessions.log import Sessions, offsets_of


@dataclass(frozen=True, kw_only=True, eq=False)
class Pairs:
    """Rows, sessions to continue, and training sessions that share items with them: (m,), sorted by row and session.

    ``weight`` sums the weights of the shared items; ``back`` is how many clicks ago the latest of them was, ``place``
    where the training session has its last click on one, and ``length`` the number n of clicks of the row.
    """

    row: np.ndarray
    session: np.ndarray
    weight: np.ndarray
    back: np.ndarray
    place: np.ndarray
    length: np.ndarray

    def take(self, index: np.ndarray) -> Pairs:
        """Some of the pairs, by number."""
        return Pairs(**{field.name: getattr(self, field.name)[index] for field in fields(self)})


class Memory:
    """The training sessions: the items that each holds, and for each item the sessions that hold it, old to new.

    ``lengths`` (S,) counts clicks. ``sizes`` (S,) counts the different items, whose codes ``items`` and latest
    ``places`` stand session by session, (m,). ``times`` (S,), of the last clicks, may be None.
    """

    def __init__(self, arrays: dict[str, np.ndarray], n_items: int) -> None:
        self.arrays, self.times = arrays, arrays.get("times")
        self.lengths, self.sizes = arrays["lengths"], arrays["sizes"]
        self.items, self.places = arrays["items"], arrays["places"]
        self.size, self.offsets = len(self.sizes), offsets_of(self.sizes)
        by_item = np.argsort(self.items, kind="stable")
        self.holders = np.repeat(np.arange(self.size), self.sizes)[by_item]
        self.holder_places = self.places[by_item]
        self.n_holders = np.bincount(self.items, minlength=n_items + 1)  # by code
        self.holder_ends = np.cumsum(self.n_holders)


def last_clicks(sessions: Sessions) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Session, item and place, from 0, of the last click on every item of a session, by session and item."""
    owner = np.repeat(np.arange(len(sessions)), sessions.lengths)
    order = np.lexsort((sessions.items, owner))  # stable: clicks on one item stay in their order
    items, place = sessions.items[order], order - sessions.offsets[owner]
    last = np.flatnonzero(np.diff(owner, append=-1) | np.diff(items, append=0))
    return owner[last], items[last], place[last]
