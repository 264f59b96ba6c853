"""Next clicks of sessions that were set aside: they score an epoch, and choose the strength of the directed path."""

from __future__ import annotations

from typing import Any

import numpy as np

from tabmtl.sessions.m2trec.index import ItemIndex
from tabmtl.sessions.m2trec.items import KnownItems
from tabmtl.sessions.m2trec.network import M2TRecNetwork
from tabmtl.sessions.ragged import Sessions
from tabmtl.sessions.ranking import Ranking, rank_next, reciprocal_ranks
from tabmtl.sessions.repeats import TOP, Choices, in_errors

MAX_VALIDATION_CLICKS = 3_000  # that are predicted after an epoch, spread over the validation log
_STRENGTHS = (0.0, 0.5, 1.0)  # the last is that of training


class Validation:
    """Next clicks of sessions that were set aside, predicted among items with training clicks.

    The items of these sessions take part too, clicked in training or not: each may be read, or be a target.

    Parameters
    ----------
    network : M2TRecNetwork
    known : KnownItems
    sessions : Sessions
        Of at least two clicks.
    options : M2TRec
    """

    def __init__(self, network: M2TRecNetwork, known: KnownItems, sessions: Sessions, options: Any) -> None:
        kept = known.clicks > 0
        kept[sessions.without_unseen().items - 1] = True
        code = np.concatenate([[0], np.cumsum(kept)]).astype(np.int32)  # of the kept items, counted anew
        self._network, self._options = network, options
        self._sessions = sessions.recoded(code)
        self._items = known.take(np.flatnonzero(kept)).on(next(network.parameters()).device)

    def __len__(self) -> int:
        """Count the targets of `rank`."""
        return min(self._sessions.count_prefixes(), MAX_VALIDATION_CLICKS)

    def rank(self) -> list[Ranking]:
        """Rank the targets, without the directed path and, if it is trained, with it."""
        index, encoder = self._index(), self._network.encoder
        is_trained = encoder.direct is not None and encoder.left_out < 1
        rankings = []
        for strength in (0.0, 1.0) if is_trained else (0.0,):
            encoder.strength = strength
            found = rank_next(index.scores, self._sessions, self._items.known.clicks, most=MAX_VALIDATION_CLICKS)
            rankings.append(found)
        encoder.strength = 1.0
        return rankings

    def choose_strength(self) -> float:
        """Find the strength of the directed path by which the targets are most likely; the least of equal ones."""
        index, encoder = self._index(), self._network.encoder
        likelihoods = []
        for strength in _STRENGTHS:
            encoder.strength = strength
            likelihoods.append(self._log_likelihood(index))
        return _STRENGTHS[int(np.argmax(likelihoods))]

    def _index(self) -> ItemIndex:
        known = self._items.known
        credited = 1 / known.clicks[known.clicks > 0].mean()  # with one click, if none
        return ItemIndex(self._network, self._items, self._options, known.bias(credited, 0.0))

    def _log_likelihood(self, index: ItemIndex) -> float:
        """Compute the log likelihood of the targets, at the best scale of the logits."""
        n_items, max_length = len(self._items.known.clicks), self._options.max_length
        choices = Choices.of(self._sessions, n_items, index.scores, lambda sessions: sessions.last(max_length))
        if not len(choices):
            return 0.0  # no target is a known item
        weights = choices.fit(1, np.ones(len(choices), dtype=bool))
        return float(choices.log_likelihoods(weights).sum())


def is_clearly_better(one: Ranking, other: Ranking) -> bool:
    """Tell whether the MRR@20 of the same targets is higher by more than two standard errors of the difference."""
    gains = reciprocal_ranks(one.ranks, TOP) - reciprocal_ranks(other.ranks, TOP)
    return in_errors(gains, one.session_numbers) > 2
