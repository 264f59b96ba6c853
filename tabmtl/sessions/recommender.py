"""The contract of recommenders: every one learns from a click log, recommends, ranks and is saved alike."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any, ClassVar, Self

import numpy as np
import polars as pl
from sklearn.utils.validation import check_is_fitted

from tabmtl.base.params import check_count
from tabmtl.estimators.base import NotHere, SavableEstimator, asking_score, at_once, drafted, unfitted
from tabmtl.sessions.catalogue import Catalogue, Growth, grow_catalogue, make_catalogue
from tabmtl.sessions.learning import Learning
from tabmtl.sessions.log import Column, LogColumns, group_log, is_list, like, read_list, read_log, read_sessions
from tabmtl.sessions.ragged import Sessions
from tabmtl.sessions.ranking import Ranking, by_blocks, log_totals, rank_next, summarize, top_k
from tabmtl.sessions.repeats import RepeatWeights
from tabmtl.sessions.split import warn_of_leaks
from tabmtl.training.run import running

VALIDATION_LOG = "the log given as clicks_val"  # for errors
_AT_ONCE = ("device", "n_jobs", "verbose", "time_limit", "columns")  # take effect without a new fit


@dataclass(frozen=True, kw_only=True, eq=False)
class SessionState:
    """Fitted attributes that the file of a recommender keeps; a subclass adds those of its method."""

    _catalogue: Catalogue
    _repeats: RepeatWeights


def _refuse_plain_score(recommender: type) -> None:
    """Raise a ValueError if a score of scikit-learn, all of which judge predictions, is to judge a recommender."""
    score = asking_score()
    if score is not None:
        raise ValueError(
            f"{score.__name__} of scikit-learn judges predictions, and {recommender.__name__} gives lists: leave "
            "scoring out for MRR@20, or say scoring=lambda model, clicks: model.evaluate(clicks, 20)['recall@20'][0]"
        )


@dataclass(kw_only=True, eq=False, repr=False)
class Recommender(SavableEstimator):
    """Base of all recommenders; a subclass gives `_fit`, `_go_on`, `_scores`, `_stored`, and `_log_scale` if it holds.

    A fitted recommender answers as it was fitted, and goes on so: parameters that are set later, including names of
    columns, wait for the next fit. Only ``device`` and ``n_jobs`` take effect at once.

    Parameters
    ----------
    session_column, item_column : str, default="session_id", "item_id"
        Columns of the click log; the item table names its items by ``item_column`` too.
    time_column : str or None, default="time"
        Time of a click: a date, a datetime, or a number of seconds; numbers that can only be milliseconds or finer
        are refused. None if the log has an order only.
    order_column : str, optional
        Column of numbers, dates or datetimes that orders clicks of equal time, or all clicks of a session if there is
        no time. Clicks that are equal in both stay in the order of the rows.
    repeats : bool, default=True
        Learn what the items of a session itself are worth, and the item just clicked, beyond what their scores say:
        people come back to what they looked at, but a basket holds nothing twice. The sessions of ``clicks_val`` teach
        this. Without them, the method is first fitted without the newest 5 % of the sessions, which then teach it.
        Nothing is learned from fewer than 200 clicks, or without a clear gain. See :mod:`tabmtl.sessions.repeats`.

    Attributes
    ----------
    repeat_weights_ : dict of str to float
        Numbers ``scale``, ``seen``, ``last`` and ``trust`` that ``repeats`` learned; 1, 0, 0 and 1 if it learned
        nothing.
    """

    session_column: Column = "session_id"
    item_column: Column = "item_id"
    time_column: Column | None = "time"
    order_column: Column | None = None
    repeats: bool = True

    #: Parameters of earlier releases, with their defaults; a file may have them, if they have these.
    __gone_params__: ClassVar[dict[str, Any]] = {"warm_start": False}
    # whether scores are log p, up to a constant of the session; else they are shares of p where they are positive, and
    # items of other scores were not found
    _log_scale: ClassVar[bool] = False
    # whether columns of the item table are read, and not only the names
    _reads_metadata: ClassVar[bool] = False
    # whether a log may be given as Shards
    _reads_shards: ClassVar[bool] = False

    @drafted
    def fit(self, clicks: Any, *, items: Any = None, clicks_val: Any = None) -> Self:
        """Learn from a click log.

        Parameters
        ----------
        clicks : polars DataFrame or LazyFrame, pandas DataFrame or pyarrow Table
            One row per click, in any order. `M2TRec` also takes `tabmtl.scale.Shards`, files larger than memory.
        items : frame, optional
            The item table: one row per item, its name in ``item_column`` and metadata in other columns. Its items
            can be recommended even if they were never clicked.
        clicks_val : frame, optional
            A later log of other sessions, which are not trained on; for `M2TRec`, given as ``clicks`` are. They teach
            ``repeats``. Methods that train in epochs stop early on them, or report their scores.

        Returns
        -------
        self

        Raises
        ------
        TypeError, ValueError
            If the input does not fit; the message names the column and the cure. The recommender then stays as it was.
            In a group of several processes (`tabmtl.scale.joined`), unless the log is given as Shards.
        """
        self.__check_params__()
        _refuse_plain_score(type(self))
        Learning(model=self).check(clicks)
        names = (self.session_column, self.item_column, "rank", "score", "probability")  # columns of recommendations
        if len(set(names)) < len(names):
            raise ValueError(
                "session_column and item_column must differ, and be none of 'rank', 'score' and 'probability', got "
                f"{names[:2]}: rename the column of the log"
            )
        with running().fit(self):
            with self._opened(clicks, items, clicks_val) as (sessions, catalogue, valid, _):
                self._watch.tell(f"{len(sessions)} sessions, {sessions.n_clicks} clicks, {len(catalogue)} items")
                fitted = self._learn(sessions, catalogue, valid)
                if self.repeats:
                    worth = "  ".join(f"{key} {value:.3f}" for key, value in asdict(fitted["_repeats"]).items())
                    self._watch.tell(f"worth of a session's own items: {worth}")
            self._set_fitted(catalogue, fitted)
        return self

    @drafted
    def partial_fit(self, clicks: Any, *, items: Any = None, clicks_val: Any = None) -> Self:
        """Go on with the sessions of a new log, by the parameters of fit; an unfitted recommender is fitted.

        New items join the catalogue behind the others. Counts, rules and neighbours add the new sessions, so that the
        result is that of one fit on both logs, to rounding, but for ``repeat_weights_``, which stay; a network passes
        over the new sessions once. Every session is taken for a new one: clicks of a session that the last log began
        are a session of their own. So cut logs between sessions, as `temporal_split` does.

        Parameters
        ----------
        clicks : frame
            Rows of new sessions, with the columns of fit.
        items : frame, optional
            The item table; rows of items that the catalogue holds are not read.
        clicks_val : frame, optional
            As of `fit`: sessions that only teach ``repeats``.

        Returns
        -------
        self

        Raises
        ------
        TypeError, ValueError
            If the input does not fit; the message names the column and the cure. The recommender then stays as it was.
        NotImplementedError
            For a recommender that must learn from all sessions at once.

        Examples
        --------
        >>> import polars as pl
        >>> from tabmtl.sessions import Popularity
        >>> monday = pl.DataFrame({"session_id": [1, 1], "item_id": ["a", "b"], "time": [0, 1]})
        >>> tuesday = pl.DataFrame({"session_id": [2, 2], "item_id": ["c", "c"], "time": [9, 10]})
        >>> Popularity().fit(monday).partial_fit(tuesday).recommend(["a"], k=1)["item_id"].to_list()
        ['c']
        """
        if not hasattr(self, "_catalogue"):
            return self.fit(clicks, items=items, clicks_val=clicks_val)
        Learning(model=self, method="partial_fit").check(clicks)
        model = Recommender._in_force(self)
        model.__dict__ |= {name: value for name, value in vars(self).items() if name in _AT_ONCE}
        opened = model._opened(clicks, items, clicks_val, goes_on=True)
        with running().fit(model), opened as (sessions, catalogue, valid, growth):
            model._watch.tell(f"{len(sessions)} new sessions, {sessions.n_clicks} clicks, {len(catalogue)} items")
            fitted = model._learn(sessions, catalogue, valid, growth)
        self._set_fitted(catalogue, fitted, self._fitted_params)
        return self

    @contextmanager
    def _opened(self, clicks: Any, items: Any, clicks_val: Any, *, goes_on: bool = False) -> Iterator[Any]:
        """Read the sessions of fit, the catalogue, the sessions to validate on, and what a model that goes on needs."""
        log, growth = self._read_training_log(clicks), None
        facts: dict[str, Any] = {"items": items, "item_column": self.item_column, "described": self._reads_metadata}
        if goes_on:
            catalogue, growth = grow_catalogue(self._catalogue, log["item"], **facts)
        else:
            catalogue = make_catalogue(log["item"], **facts)
        sessions, valid = group_log(log, catalogue.ids), None
        if clicks_val is not None:
            valid = read_sessions(clicks_val, columns_of(vars(self)), catalogue.ids, VALIDATION_LOG)
            warn_of_leaks(sessions, valid)
        yield sessions, catalogue, valid, growth

    @at_once
    def recommend(self, sessions: Any, k: int = 20, *, candidates: Any = None, exclude_seen: bool = False) -> Any:
        """Recommend items for the next click of every session.

        Parameters
        ----------
        sessions : frame, or list of items
            A click log with the columns of fit; sessions and items may be new. A list, series or array of items is one
            session, the newest click last. A click on an item that the catalogue does not hold counts as a click on an
            unknown item. A log without a row has no session to answer.
        k : int, default=20
            Number of recommendations per session; fewer if there are fewer candidates.
        candidates : sequence or series of items, optional
            Recommend these only.
        exclude_seen : bool, default=False
            Leave out items that the session holds already. By default they may be recommended: people do click again.

        Returns
        -------
        recommendations : frame like ``sessions``
            Columns: the session, ``rank`` (from 1), the item, and ``score``, higher is better. Sessions are in the
            order given, that of their first rows in the log. A polars DataFrame for a LazyFrame, and for a list of
            items, without the column of the session.

        Raises
        ------
        TypeError, ValueError
            If the log or the candidates do not fit; the message names the column and the cure.
        """
        return self._recommend(sessions, k, candidates, exclude_seen)

    def similar(self, item: Any, k: int = 20) -> pl.DataFrame:
        """Find the items that are most similar to one.

        M2TRec compares the vectors of items by their cosine, metadata included. The others recommend for a session of
        this item alone, without the item: what followed it or shared its sessions, the most clicked items of its
        category, or, whatever the item, the most clicked ones.

        Parameters
        ----------
        item : str or int
            An item of the catalogue.
        k : int, default=20
            Length of the list; shorter if there are fewer other items.

        Returns
        -------
        items : polars.DataFrame
            Columns: ``rank`` (from 1), the item, and ``score``, higher is more similar.

        Raises
        ------
        TypeError, ValueError
            If the catalogue does not hold the item.
        """
        check_is_fitted(self)
        self._catalogue.codes([item], "item", self._cure_of_unknown())
        return self.recommend([item], k, exclude_seen=True)

    def rank(self, clicks: Any, *, k: int = 20, exclude_seen: bool = False) -> Ranking:
        """Rank every next click among all items of the catalogue, given the clicks before it.

        Parameters
        ----------
        clicks : frame
            A click log; every click but the first of its session is a target.
        k : int, default=20
            Length of the recommendations that are kept, for the coverage.
        exclude_seen : bool, default=False
            Leave out items that the session holds; a target among them is missed.

        Returns
        -------
        Ranking
            Ranks of the targets; ties count against the recommender. Sessions are in the order of their last clicks.

        Raises
        ------
        ValueError
            If no session has two clicks.
        """
        check_is_fitted(self)
        check_count("k", k)
        sessions = self._read_log(clicks).at_least(2)
        if not len(sessions):
            raise ValueError("no session of this log has two clicks, so there is no next click to predict")
        model = self._in_force()
        return rank_next(lambda some: model._scores_of(some, exclude_seen), sessions, self._catalogue.counts, k=k)

    def evaluate(self, clicks: Any, k: int | Sequence[int] = 20, *, exclude_seen: bool = False) -> pl.DataFrame:
        """Compute recall, MRR and NDCG at k over the full catalogue, for all targets and by their training clicks.

        Parameters
        ----------
        clicks : frame
            A click log; every click but the first of its session is a target.
        k : int or sequence of int, default=20
        exclude_seen : bool, default=False
            Leave out items that the session holds; a target among them is missed.

        Returns
        -------
        metrics : polars.DataFrame
            One row per bucket of training clicks ("all", "0", "1-5", "6-20", "21-100", ">100"): ``bucket``,
            ``n_targets``, and per k ``recall@k``, ``mrr@k``, ``ndcg@k`` and, for "all", ``coverage@k``.
        """
        ks = list(k) if isinstance(k, Iterable) and not isinstance(k, str) else [k]
        if not ks:
            raise ValueError("k must name one length of a list at least, got none")
        for value in ks:
            check_count("k", value)
        return summarize(self.rank(clicks, k=max(ks), exclude_seen=exclude_seen), ks)

    def score(self, clicks: Any) -> float:
        """Compute MRR@20 over the full catalogue; see `evaluate`."""
        return self.rank(clicks).mrr(20)

    predict = NotHere("say recommend(clicks)")

    # a subclass gives these

    def _fit(self, sessions: Sessions, catalogue: Catalogue) -> dict[str, Any]:
        """Learn, and return the fitted attributes of the method by name."""
        raise NotImplementedError

    def _scores(self, sessions: Sessions) -> np.ndarray:
        """Score every item (S, N), float32, for the click after each session."""
        raise NotImplementedError

    def _go_on(self, sessions: Sessions, catalogue: Catalogue, metadata: pl.DataFrame | None) -> dict[str, Any]:
        """Add new sessions to what was learned, and return the fitted attributes of the method by name.

        The catalogue has the items of fit and behind them the new ones, and the clicks of both logs; ``metadata`` are
        the columns of the item table for the new items alone, None without a table.
        """
        cure = "fit again on the sessions of both logs"
        raise NotImplementedError(f"{type(self).__name__} learns from all sessions at once: {cure}")

    # a subclass that sets sessions aside by itself gives `_learn` in place of `_fit` and `_go_on`

    def _learn(
        self, sessions: Any, catalogue: Catalogue, valid: Sessions | None, growth: Growth | None = None
    ) -> dict[str, Any]:
        """Learn the method and, with ``repeats``, the worth of own items; return the fitted attributes by name.

        With ``growth``, the model goes on from what it has learned.
        """
        if growth is None:
            return Learning(model=self).fit(sessions, catalogue, valid)
        return Learning(model=self).go_on(sessions, catalogue, valid, growth)

    def _clicks_read(self, sessions: Sessions) -> Sessions:
        """Give the clicks whose items are the session's own."""
        return sessions

    # shared steps

    def _read_training_log(self, clicks: Any) -> pl.DataFrame:
        """Read the log that `fit` learns from; see `read_log`."""
        return read_log(clicks, columns_of(vars(self)))

    def _recommend(
        self, sessions: Any, k: int, candidates: Any, exclude_seen: bool, *, probability: bool = False
    ) -> Any:
        """Recommend items, perhaps with their probabilities, where scores are log p; see `recommend`."""
        check_is_fitted(self)
        check_count("k", k)
        catalogue = self._catalogue
        allowed = None
        if candidates is not None:
            allowed = np.zeros(len(catalogue), dtype=bool)
            allowed[catalogue.codes(candidates, "candidates", self._cure_of_unknown()) - 1] = True
        read = self._read(sessions)
        items, scores, log_p = self._top(read, k, allowed, exclude_seen, probability=probability)
        more = {"probability": np.exp(log_p)} if probability else {}
        return self._frame(read, items, {"score": scores} | more, sessions)

    def _log_shares(self, sessions: Sessions) -> np.ndarray:
        """Compute log p (S, N) of all items, minus infinity for those that were not found."""
        scores = self._scores_of(sessions, exclude_seen=False)
        if not self._log_scale:
            with np.errstate(divide="ignore"):
                np.log(np.maximum(scores, 0, out=scores), out=scores)
            scores *= scores.dtype.type(self._repeats.scale)
        scores -= log_totals(scores)
        return scores

    @property
    def columns_(self) -> LogColumns:
        """The columns of the click log of fit, by their roles."""
        return columns_of(self._fitted_params)

    def _in_force(self) -> Self:
        """Give a recommender with these fitted attributes and the parameters of fit, which may have changed since."""
        kept = unfitted(self)
        kept.__dict__ |= {name: value for name, value in vars(self).items() if name not in self._fitted_params}
        return kept

    def _read(self, sessions: Any) -> Sessions:
        """Read the sessions that `recommend` is asked for."""
        if is_list(sessions):
            return read_list(sessions, self._catalogue.ids, "the list given as sessions")
        return self._read_log(sessions, "the log given as sessions", asked=True)

    def _read_log(self, clicks: Any, what: str = "the click log", *, asked: bool = False) -> Sessions:
        """Read a log with the columns of fit; see `read_sessions`."""
        return read_sessions(clicks, self.columns_, self._catalogue.ids, what, asked=asked)

    def _cure_of_unknown(self) -> str:
        """Say how to deal with an item that the catalogue does not hold."""
        return "leave them out, or fit again with an item table that lists them"

    def _frame(
        self,
        read: Sessions,
        items: np.ndarray,
        values: Mapping[str, np.ndarray],
        example: Any,
        names: pl.Series | None = None,
    ) -> Any:
        """Make a frame of recommendations in the library of the sessions asked for.

        It holds places (S, k) in a series of names, by default those of all items, -1 for none, and columns of their
        values. That to a list of items has no column of the session.
        """
        if names is None:
            names = self._catalogue.ids.alias(self.columns_.item)
        found = items >= 0
        owner, rank = np.nonzero(found)
        frame = pl.DataFrame({"rank": (rank + 1).astype(np.int32), names.name: names.gather(items[found])})
        frame = frame.with_columns(pl.Series(name, value[found]) for name, value in values.items())
        if is_list(example):
            return frame
        return like(frame.insert_column(0, read.ids.gather(owner).alias(self.columns_.session)), example)

    def _top(
        self, sessions: Sessions, k: int, allowed: np.ndarray | None, exclude_seen: bool, *, probability: bool = False
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Find the places in the catalogue (S, k), -1 for none, of the best items, and their scores.

        The third array (S, k) is log p among all items that may be recommended, or if that is not asked for, the
        scores again.
        """
        if not len(sessions):
            scores = np.zeros((0, k), dtype=np.float32)
            return np.zeros((0, k), dtype=np.int64), scores, scores
        model = self._in_force()

        def find(block: np.ndarray) -> tuple[np.ndarray, ...]:
            scores = model._scores_of(sessions.take(block), exclude_seen)
            if allowed is not None:
                scores[:, ~allowed] = -np.inf
            items, best = top_k(scores, k)
            return items, best, best - log_totals(scores) if probability else best

        items, best, log_p = by_blocks(find, len(sessions), len(self._catalogue))
        return np.where(np.isneginf(best), -1, items), best, log_p

    def _scores_of(self, sessions: Sessions, exclude_seen: bool) -> np.ndarray:
        """Compute scores (S, N), own items weighed; with ``exclude_seen``, minus infinity for those."""
        scores = self._repeats.weigh(self._scores(sessions), self._clicks_read(sessions), log_scale=self._log_scale)
        if exclude_seen:
            scores[sessions.known_clicks()] = -np.inf
        return scores

    def _set_fitted(self, catalogue: Catalogue, fitted: dict[str, Any], params: dict[str, Any] | None = None) -> None:
        """Set the fitted attributes; ``params`` are the parameters of fit, by default those of now."""
        self._forget()
        self._fitted_params = self.get_params(deep=False) if params is None else params
        self._catalogue = replace(catalogue, metadata=None)  # only fit reads metadata
        self.n_items_ = len(catalogue)
        self.item_ids_ = catalogue.ids
        self.item_counts_ = catalogue.counts
        self._repeats = RepeatWeights()  # unless something was learned
        self.__dict__ |= fitted
        self.repeat_weights_ = asdict(self._repeats)

    def _learned(self, state: Any = None) -> dict[str, Any]:
        """Return the fitted attributes of the method by name, as a file keeps them: its own, or those of a state.

        Public ones that this fit did not set are left out.
        """
        state = self._state() if state is None else state
        kept = {name: part for name, part in vars(state).items() if part is not None or name.startswith("_")}
        return {name: part for name, part in kept.items() if name != "_catalogue"}

    def _restore(self, state: Any) -> None:
        self._set_fitted(state._catalogue, self._learned(state))


def columns_of(params: Mapping[str, Any]) -> LogColumns:
    """Give the columns of the log that a recommender with these parameters reads."""
    return LogColumns(**{role: params[f"{role}_column"] for role in ("session", "item", "time", "order")})
