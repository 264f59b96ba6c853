"""Sequential rules: items that were clicked soon after the last item, or after the last few.

Kamehkhosh et al., 2017, "A Comparison of Frequent Pattern Techniques and a Deep Learning Method for Session-Based
Recommendation", TempRec workshop at RecSys.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import polars as pl
from scipy import sparse

from tabmtl.base.params import Count, WholeShare
from tabmtl.base.storage.stored import Stored
from tabmtl.sessions.catalogue import Catalogue
from tabmtl.sessions.popularity import fill_with_popularity
from tabmtl.sessions.ragged import Sessions
from tabmtl.sessions.recommender import Recommender, SessionState

# a click x later weighs 1 / x^power
_POWERS = {"div": 1, "div_squared": 2, "same": 0}


@dataclass(frozen=True, kw_only=True, eq=False)
class RuleTable:
    """R as the arrays of a sparse matrix: from ``offsets[a]`` on, the items that follow item a, and their weights."""

    offsets: Annotated[np.ndarray, Stored("i", "N+1", offsets="m")]
    items: Annotated[np.ndarray, Stored("i", "m", low=0, below="N")]
    weights: Annotated[np.ndarray, Stored("f4", "m")]

    @cached_property
    def matrix(self) -> sparse.csr_array:
        """R itself."""
        n_items = len(self.offsets) - 1
        return sparse.csr_array((self.weights, self.items, self.offsets), shape=(n_items, n_items))


@dataclass(frozen=True, kw_only=True, eq=False)
class RulesState(SessionState):
    """Fitted attributes that the file of `SequentialRules` keeps."""

    _rules: RuleTable


@dataclass(kw_only=True, eq=False, repr=False)
class SequentialRules(Recommender):
    """Sequential rules, SR.

    Wherever item b follows item a in a training session, at most ``steps`` clicks later,

        R[a, b] += w(pos_b - pos_a),    score(i) = sum_{x < n_last} decay^x R[item x clicks back, i],

    where the weight w(x) is 1 / x ("div"), 1 / x^2 ("div_squared") or 1 ("same"). SR as published reads the last click
    alone, ``n_last=1``. An item may follow itself. Items that the catalogue does not hold are left out of the session
    before clicks are counted. Items that follow none of those read come after all others, by popularity, with scores in
    [-1, 0).

    Parameters
    ----------
    steps : int, default=10
        An item follows another if it is clicked at most this many clicks later.
    n_last : int, default=10
        Newest clicks of the session that are read.
    decay : float in (0, 1], default=0.5
        Weight of a click relative to the one after it, above 0 and at most 1.
    weighting : {"div", "div_squared", "same"}, default="div"
        The weight w of an item by how many clicks later it follows.

    References
    ----------
    Kamehkhosh et al. (2017), "A Comparison of Frequent Pattern Techniques and a Deep Learning Method for Session-Based
    Recommendation", TempRec workshop at RecSys.

    Examples
    --------
    >>> import polars as pl
    >>> from tabmtl.sessions import SequentialRules
    >>> log = pl.DataFrame({"session_id": [1, 1, 1], "item_id": ["a", "b", "c"], "time": [0, 1, 2]})
    >>> model = SequentialRules().fit(log)
    >>> model.recommend(log.head(1), k=2).select("item_id", "score").rows()
    [('b', 1.0), ('c', 0.5)]
    """

    steps: Count = 10
    n_last: Count = 10
    decay: WholeShare = 0.5
    weighting: Literal["div", "div_squared", "same"] = "div"

    search_space: ClassVar[dict[str, Any]] = {
        "steps": {"low": 2, "high": 30, "log": True},
        "n_last": {"low": 1, "high": 20, "log": True},
        "decay": {"low": 0.1, "high": 1.0},
        "weighting": {"choices": tuple(_POWERS)},
    }

    _stored: ClassVar[type] = RulesState

    def _fit(self, sessions: Sessions, catalogue: Catalogue) -> dict[str, Any]:
        return self._with_rules(sparse.csr_array((len(catalogue), len(catalogue)), dtype=np.float64), sessions)

    def _go_on(self, sessions: Sessions, catalogue: Catalogue, metadata: pl.DataFrame | None) -> dict[str, Any]:
        rules = self._rules.matrix.astype(np.float64)
        rules.resize((len(catalogue), len(catalogue)))
        return self._with_rules(rules, sessions)

    def _with_rules(self, rules: sparse.csr_array, sessions: Sessions) -> dict[str, Any]:
        """Add the rules of sessions to a table of them."""
        owner, items = np.repeat(np.arange(len(sessions)), sessions.lengths), sessions.items - 1
        n_steps = min(self.steps, int(sessions.lengths.max()) - 1)
        with self._watch.steps(n_steps, "step", lambda rules: f"{rules.nnz} rules") as shown:
            for step in range(1, n_steps + 1):
                together = owner[step:] == owner[:-step]
                pairs = (items[:-step][together], items[step:][together])
                weights = np.full(len(pairs[0]), float(step) ** -_POWERS[self.weighting])
                rules = rules + sparse.csr_array((weights, pairs), shape=rules.shape)
                if shown(rules):
                    break
        rules = rules.astype(np.float32)
        return {"_rules": RuleTable(offsets=rules.indptr, items=rules.indices, weights=rules.data)}

    def _scores(self, sessions: Sessions) -> np.ndarray:
        read = sessions.without_unseen().last(self.n_last)
        back = np.repeat(read.offsets[1:], read.lengths) - 1 - np.arange(len(read.items))
        weights = np.power(self.decay, back).astype(np.float32)
        clicks = sparse.csr_array((weights, read.items - 1, read.offsets), shape=(len(read), self.n_items_))
        return fill_with_popularity((clicks @ self._rules.matrix).toarray(), self._catalogue.counts)
