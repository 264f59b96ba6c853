"""Next clicks of sessions that were set aside: they score an epoch, and choose the strength of the directed path."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from tabmtl.sessions.m2trec.index import ItemIndex
from tabmtl.sessions.m2trec.items import KnownItems
from tabmtl.sessions.m2trec.network import M2TRecNetwork
from tabmtl.sessions.ragged import UNSEEN_ITEM, Sessions, spread
from tabmtl.sessions.ranking import Ranking, block_size, rank_next

MAX_VALIDATION_CLICKS = 3_000  # that are predicted after an epoch, spread over the validation log
_STRENGTHS = (0.0, 0.5, 1.0)  # the last is that of training
_SCALES = (0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.15)  # of logits; trained ones are too sure of unseen sessions


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

    def rank(self) -> Ranking:
        """Rank the targets, with the directed path or without it: whichever gives the higher MRR@20."""
        index, encoder = self._index(), self._network.encoder
        rankings = []
        for strength in (1.0,) if encoder.direct is None else (0.0, 1.0):
            encoder.strength = strength
            found = rank_next(index.scores, self._sessions, self._items.known.clicks, most=MAX_VALIDATION_CLICKS)
            rankings.append(found)
        return max(rankings, key=lambda ranking: ranking.mrr(20))

    def choose_strength(self) -> float:
        """Find the strength of the directed path by which the targets are most likely."""
        index, encoder = self._index(), self._network.encoder
        likelihoods = []
        for strength in _STRENGTHS:
            encoder.strength = strength
            likelihoods.append(self._log_likelihood(index))
        return _STRENGTHS[int(np.argmax(likelihoods))]

    def _index(self) -> ItemIndex:
        return ItemIndex(self._network, self._items, self._options)

    def _log_likelihood(self, index: ItemIndex) -> float:
        """Compute the log likelihood of the targets that are known items, at the best of some scales of the logits."""
        sessions, size = self._sessions, block_size(len(self._items.known.clicks))
        chosen = spread(sessions.count_prefixes(), MAX_VALIDATION_CLICKS)
        totals = np.zeros(len(_SCALES))
        for start in range(0, len(chosen), size):
            prefixes, targets = sessions.prefixes(chosen=chosen[start : start + size])
            known = targets != UNSEEN_ITEM
            logits = torch.from_numpy(index.scores(prefixes)[known])
            own = logits.gather(1, torch.from_numpy(targets[known].astype(np.int64) - 1)[:, None])
            over = logits - own
            totals -= [float(torch.logsumexp(scale * over, dim=1).sum()) for scale in _SCALES]
        return float(totals.max())
