"""A recommender from outside of the package: it keeps the promises, and the checks name those that it breaks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pytest

from tabmtl.sessions.catalogue import Catalogue
from tabmtl.sessions.ragged import Sessions
from tabmtl.sessions.recommender import Recommender, SessionState
from tabmtl.testing import check_recommender, recommender_checks


@dataclass(kw_only=True, eq=False, repr=False)
class Rare(Recommender):
    """The items that were clicked least."""

    _stored: ClassVar[type] = SessionState

    def _fit(self, sessions: Sessions, catalogue: Catalogue) -> dict[str, Any]:
        return {}

    def _scores(self, sessions: Sessions) -> np.ndarray:
        return np.tile((1 / (1 + self.item_counts_)).astype(np.float32), (len(sessions), 1))


class Crowded(Rare):
    """Looks at the other sessions."""

    def _scores(self, sessions: Sessions) -> np.ndarray:
        return super()._scores(sessions) * np.float32(len(sessions))


class Unseeded(Rare):
    """Draws from a global generator."""

    def _fit(self, sessions: Sessions, catalogue: Catalogue) -> dict[str, Any]:
        np.random.normal()
        return {}


class ByEnd(Rare):
    """Answers the newest session first."""

    def _read(self, sessions: Any) -> Sessions:
        read = super()._read(sessions)
        return read.take(np.argsort(read.ends())[::-1])


class Forgetful(Rare):
    """Answers by parameters that were set after fit."""

    def _in_force(self) -> Forgetful:
        return self

    def _scores_of(self, sessions: Sessions, exclude_seen: bool) -> np.ndarray:
        scores = super()._scores_of(sessions, exclude_seen)
        return scores if self.repeats else scores[:, ::-1].copy()


def test_an_own_recommender_keeps_the_promises():
    check_recommender(Rare())


@pytest.mark.parametrize(
    ("cls", "promise"),
    [
        (Crowded, "a session alone gets what it gets among others"),
        (Unseeded, "the same seed gives the same bits and leaves the global generators alone"),
        (ByEnd, "sessions are answered in the order given"),
        (Forgetful, "a fitted recommender answers as it was fitted"),
    ],
)
def test_a_broken_promise_is_named(cls, promise):
    checks = {check.__name__: check for check in recommender_checks(cls())}
    with pytest.raises(AssertionError, match=f"{cls.__name__} fails .*; promised is: {promise}"):
        checks[f"check_{promise.replace(' ', '_')}"]()
