"""How a recommender learns: its method, and with ``repeats`` the worth of own items; once, and on and on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tabmtl.estimators.source import is_source
from tabmtl.sessions.catalogue import Catalogue, Growth
from tabmtl.sessions.ragged import Sessions
from tabmtl.sessions.repeats import LEAST_TARGETS, Choices, RepeatWeights, learn_weights
from tabmtl.training.run import check_alone, running

_NO_REPEATS = "what a session's own items are worth was not learned"
_SET_ASIDE = 0.05  # share of the sessions that teach what a session's own items are worth


@dataclass(frozen=True, kw_only=True, eq=False)
class Learning:
    """A fit of a recommender, or its going on.

    Parameters
    ----------
    model : Recommender
        Its parameters, and where it goes on, what it has learned.
    method : {"fit", "partial_fit"}, default="fit"
        What the user called, for errors.
    """

    model: Any
    method: str = "fit"

    def check(self, clicks: Any) -> None:
        """Raise an error for a log of a kind that this does not learn from."""
        name = type(self.model).__name__
        reads_shards = self.model._reads_shards and self.method == "fit"
        if is_source(clicks):
            if not reads_shards:
                raise TypeError(
                    f"{name} reads a click log as one frame, not as Shards: give it polars.scan_parquet(files), or the "
                    f"newest part of it if it does not fit in memory; M2TRec reads Shards in a first fit"
                )
        else:
            cure = "give M2TRec the log as Shards, or " * reads_shards
            check_alone(f"{self.method} of {name} on a frame", f"{cure}call it outside of joined()")

    def fit(self, sessions: Sessions, catalogue: Catalogue, valid: Sessions | None) -> dict[str, Any]:
        """Learn from all sessions, and return the fitted attributes by name."""
        fitted = self.model._fit(sessions, catalogue)
        if self.model.repeats:
            fitted["_repeats"] = self._repeats_of_fit(sessions, catalogue, valid, fitted)
        return fitted

    def _repeats_of_fit(
        self, sessions: Sessions, catalogue: Catalogue, valid: Sessions | None, fitted: dict[str, Any]
    ) -> RepeatWeights:
        """Learn what a session's own items are worth, on sessions that a fit has not seen."""
        if valid is None:
            older, valid = sessions.set_newest_aside(_SET_ASIDE)
            if valid is None or valid.count_prefixes() < LEAST_TARGETS or running().watch.cuts(_NO_REPEATS):
                return RepeatWeights()
            catalogue = catalogue.counted(older)
            fitted = self.model._fit(older, catalogue)
        return learn_weights(self._choices(catalogue, fitted, valid))

    def go_on(self, sessions: Sessions, catalogue: Catalogue, valid: Sessions | None, growth: Growth) -> dict[str, Any]:
        """Add new sessions to what the model has learned, and return the fitted attributes by name.

        What own items are worth stays (docs/lab.md, "Going on"), unless there are sessions that teach it. If the model
        knows nothing of it yet, the new sessions teach it, before they are added.
        """
        model = self.model
        fitted = model._go_on(sessions, catalogue, growth.metadata)
        if not model.repeats:
            return fitted
        worth = model._repeats
        if valid is not None:
            worth = learn_weights(self._choices(catalogue, fitted, valid))
        elif worth == RepeatWeights():
            worth = learn_weights(self._choices(model._catalogue, model._learned(), growth.known(sessions)))
        return fitted | {"_repeats": worth}

    def _choices(self, catalogue: Catalogue, fitted: dict[str, Any], judged: Sessions) -> Choices:
        """Look at the next clicks of sessions as a recommender sees them that has learned this."""
        model = type(self.model)(**self.model.get_params(deep=False))
        model._set_fitted(catalogue, {name: part for name, part in fitted.items() if name != "_repeats"})
        return Choices.of(judged, len(catalogue), model._log_shares, model._clicks_read)
