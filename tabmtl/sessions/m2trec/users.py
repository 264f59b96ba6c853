"""The last clicks of a user's earlier sessions, which stand before the clicks of a session."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated

import numpy as np
import polars as pl

from tabmtl.columns.ragged import offsets_of, ranges
from tabmtl.sessions.log import code_items
from tabmtl.sessions.ragged import UNSEEN_ITEM, Sessions
from tabmtl.storage.stored import Stored


@dataclass(frozen=True, kw_only=True, eq=False)
class UserClicks:
    """The newest clicks of each user, by the end of their sessions.

    Attributes
    ----------
    ids : polars.Series of length U
        Users, each once.
    users : ndarray of int64, shape (m,)
        Place of the user of each click in ``ids``; sorted.
    items : ndarray of int32, shape (m,)
        Code of the clicked item, from 1; of one user, older clicks come first.
    ends : ndarray of float64, shape (m,)
        Time of the last click of the session of each click.
    """

    ids: Annotated[pl.Series, Stored(shape="U", distinct=True)]
    users: Annotated[np.ndarray, Stored("i8", "u", low=0, below="U")]
    items: Annotated[np.ndarray, Stored("i4", "u", low=1, below="N+1")]
    ends: Annotated[np.ndarray, Stored("f8", "u")]

    @classmethod
    def of(cls, sessions: Sessions, before: UserClicks | None = None, *, all_new: bool = False) -> UserClicks:
        """Collect all clicks on known items of the sessions of known users, with those of users from before.

        The log may hold some of the latter itself, which are left out, unless all its sessions are new.
        """
        assert sessions.users is not None
        assert sessions.times is not None
        ids, codes = _code(sessions.users, before)
        owner = np.repeat(np.arange(len(sessions)), sessions.lengths)
        known = (codes[owner] >= 0) & (sessions.items != UNSEEN_ITEM)
        owner, items = owner[known], sessions.items[known]
        users, ends = codes[owner], sessions.times[sessions.offsets[1:] - 1][owner]
        if before is not None:
            first = np.full(len(ids), np.inf)
            if not all_new:
                np.minimum.at(first, codes[codes >= 0], sessions.times[sessions.offsets[:-1]][codes >= 0])
            older = before.ends < first[before.users]
            users = np.concatenate([before.users[older], users])
            items = np.concatenate([before.items[older], items])
            ends = np.concatenate([before.ends[older], ends])
        order = np.lexsort((ends, users))  # stable: the clicks of a session stay together
        return cls(ids=ids, users=users[order], items=items[order], ends=ends[order])

    def newest(self, n: int) -> UserClicks:
        """Keep the last n clicks of each user."""
        ends = np.searchsorted(self.users, self.users, side="right")
        kept = ends - np.arange(len(self.users)) <= n
        return replace(self, users=self.users[kept], items=self.items[kept], ends=self.ends[kept])

    def precede(self, sessions: Sessions, n: int) -> Sessions:
        """Give each session the last n clicks of its user's sessions that ended before its first click."""
        assert sessions.users is not None
        assert sessions.times is not None
        codes = _code(sessions.users, self)[1]
        starts = sessions.times[sessions.offsets[:-1]]
        moments, place = np.unique(np.concatenate([self.ends, starts]), return_inverse=True)
        keys = self.users * len(moments) + place[: len(self.ends)]
        first = np.searchsorted(keys, codes * len(moments))
        last = np.searchsorted(keys, codes * len(moments) + place[len(self.ends) :])
        first = np.where(codes < 0, last, np.maximum(first, last - n))
        past = Sessions(
            ids=sessions.ids,
            offsets=offsets_of(last - first),
            items=self.items[ranges(first, last - first)],
            times=None,
        )
        return replace(sessions, past=past)


def _code(users: pl.Series, before: UserClicks | None) -> tuple[pl.Series, np.ndarray]:
    """List users from before and new ones, and look up the places of users (S,) among them; -1 is none."""
    new = users.drop_nulls().unique(maintain_order=True)
    if before is None:
        ids = new.alias("user")
    elif new.is_empty():
        return before.ids, np.full(len(users), -1)
    else:
        unknown = new.filter(code_items(new, before.ids, "the users") == 0)
        ids = pl.concat([before.ids.to_frame("user"), unknown.to_frame("user")], how="vertical_relaxed")["user"]
    return ids, code_items(users, ids, "the users").to_numpy().astype(np.int64) - 1
