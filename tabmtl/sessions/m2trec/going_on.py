"""M2TRec goes on: a network with rows for new items and levels takes the old weights, and passes over new sessions."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl

from tabmtl.sessions.catalogue import Catalogue, Growth, warn_of_undescribed
from tabmtl.sessions.categories import ItemCategories
from tabmtl.sessions.m2trec.fitting import Fitting
from tabmtl.sessions.m2trec.index import ItemIndex
from tabmtl.sessions.m2trec.item_features import ItemCoder
from tabmtl.sessions.m2trec.items import KnownItems
from tabmtl.sessions.m2trec.network import M2TRecNetwork
from tabmtl.sessions.m2trec.new_items import NewItems, report_new_items, warn_of_equals
from tabmtl.sessions.m2trec.validation import Validation
from tabmtl.sessions.ragged import Sessions
from tabmtl.sessions.repeats import RepeatWeights

#: Learning rate of a pass over new sessions, relative to that of a fit (docs/lab.md, "Going on").
PASS_RATE = 0.25


class GoingOn(Fitting):
    """Fitting that begins at what a model has learned.

    It is one pass over all new sessions, and what was measured in fit stays: the strength of the directed path, and the
    worth of new items and of own items. The latter is learned anew of ``clicks_val``; and of the new sessions, before
    the pass, if nothing is known of it yet.

    Parameters
    ----------
    log, catalogue, valid
        As of `Fitting`; the catalogue has the new items behind the others.
    model : M2TRec
        Fitted; its parameters hold.
    growth : Growth
    """

    def __init__(self, log: Sessions, catalogue: Catalogue, valid: Sessions | None, model: Any, growth: Growth) -> None:
        self.model, self.growth, self._taught, self._new = model, growth, valid, log
        self.before = model._fitted
        super().__init__(
            log, catalogue, None, model, epochs=1, early_stopping=False, learning_rate=PASS_RATE * model.learning_rate
        )

    def _read_items(self, clicks: np.ndarray) -> tuple[ItemCoder | None, KnownItems]:
        coder, known, metadata = self.before.coder, self.before.items, self.growth.metadata
        n_new = len(clicks) - self.growth.n_known
        if coder is None:
            if metadata is not None and metadata.width:
                raise ValueError(
                    f"this model was fitted without metadata, and the item table has {metadata.columns}: leave these "
                    "columns out, or fit again"
                )
            return None, known.extended(n_new, None, None).clicked(clicks)
        if metadata is None:
            warn_of_undescribed(n_new)
            metadata = pl.DataFrame({name: pl.Series([None] * n_new, dtype=pl.Null) for name in coder.features.names})
        else:
            clicked = metadata.filter(pl.Series(clicks[self.growth.n_known :] > 0, dtype=pl.Boolean))
            coder = coder.extended(clicked, self.options.columns, self.options.min_frequency)
        self._metadata = metadata
        return coder, known.extended(n_new, *coder.encode(metadata, self.options.columns)).clicked(clicks)

    def _network(self) -> M2TRecNetwork:
        network = super()._network()
        before = self.before.items.own_rows
        own = np.pad(before, (0, len(self.known.clicks) - len(before)))[self.known.own_rows > 0]
        network.load_grown(self.before.weights, self.before.coder, own)
        return network

    def _leaves_path_out(self, validation: Validation | None) -> bool:
        return not getattr(self.model, "directed_strength_", 0)

    def _set_strength(self, network: M2TRecNetwork, validation: Validation | None) -> dict[str, float]:
        return {}

    def _look_at_metadata(self) -> dict[str, Any]:
        return {}

    def _learn_repeats(self, index: ItemIndex) -> RepeatWeights:
        if not self.options.repeats:
            return super()._learn_repeats(index)
        known = self.model._repeats
        if self._taught is not None:
            return self._repeats_on(self._taught.at_least(2), index)
        if known != RepeatWeights():
            return known
        hidden = NewItems.hidden().values(self.before.items)
        before = self.before.index(index.unit_vectors.device, known).revalued(*hidden)
        return self._repeats_on(self.growth.known(self._new.at_least(2)), before)

    def _measure_new_items(self, index: ItemIndex) -> tuple[NewItems, pl.DataFrame]:
        new = self.before.new_items.capped(index.scores_by, self.known, self.options.max_new_share)
        report = report_new_items(index.scores_by, self.known, new, self.model.new_item_report_)
        joined = np.arange(len(self.catalogue)) >= self.growth.n_known
        warn_of_equals(self.known, joined & (self.known.clicks == 0), "added")
        return new, report

    def _read_categories(self) -> tuple[ItemCategories, ...]:
        if self.coder is None:
            return ()
        before = self.before.categories
        return tuple(each.extended(self._metadata[each.name]).counting(self._new) for each in before)

    def run(self) -> dict[str, Any]:
        """Train, and return the fitted attributes by name; the pass adds its line to ``history_``."""
        attributes = self.model._learned() | super().run()
        before = self.model.history_
        new = attributes["history_"].with_columns(pl.col("epoch") + len(before))
        history = pl.concat([before, new], how="diagonal")
        return attributes | {"history_": history, "best_iteration_": len(history)}
