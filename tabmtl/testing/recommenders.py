"""Checks of the promises of every recommender."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
from polars.testing import assert_frame_equal
from sklearn.base import clone
from sklearn.exceptions import NotFittedError

from tabmtl.synth import make_sessions
from tabmtl.testing.comparisons import parameters_of
from tabmtl.testing.promises import named_checks, raises
from tabmtl.testing.storage import copies_of, reload, with_other_global_seeds

if TYPE_CHECKING:
    from tabmtl.sessions.recommender import Recommender

#: Set where a recommender has the parameter; on the CPU, the bits of two runs can be compared.
_SETTINGS: dict[str, Any] = {"device": "cpu", "n_jobs": 1, "random_state": 0}
_N_ITEMS = 60
_LISTED = ["rank", "item_id", "score"]
_EARLY = pl.col("time").max().over("session_id") < pl.col("time").quantile(0.8)
_LATER = ("later " + pl.col("item_id")).alias("item_id")


def check_recommender(recommender: Recommender) -> None:
    """Check that a recommender keeps the promises of `recommender_checks`.

    Parameters
    ----------
    recommender : Recommender
        As for `recommender_checks`.

    Raises
    ------
    AssertionError
        At the first promise that is not kept, with the name of the check.
    """
    for check in recommender_checks(recommender):
        check()


def recommender_checks(recommender: Recommender) -> list[Callable[[], None]]:
    """Checks of a recommender, for ``pytest.mark.parametrize``.

    Parameters
    ----------
    recommender : Recommender
        Not fitted, with small options: the checks fit copies of it about twenty times, on 400 sessions of
        `tabmtl.synth.make_sessions`, whose item table has the columns category, subcategory, brand, price, tags and
        name. They set the columns of the log and the seed.

    Returns
    -------
    checks : list of callables without arguments
        Each has a ``__name__`` that states the promise, and raises an AssertionError if it is broken.
    """
    return named_checks([_Every(recommender)], type(recommender).__name__)


class Recommending:
    """A recommender under check, and a log that it can fit; a check is a method of a subclass."""

    def __init__(self, model: Recommender) -> None:
        self.model = model
        log = make_sessions(400, _N_ITEMS, n_categories=5, n_subcategories=2, random_state=0)
        self.items = log.items
        self.train, self.test = log.split()

    def fresh(self, **params: Any) -> Any:
        """Return an unfitted copy with the settings of the checks; it ignores those that it does not have."""
        known = self.model.get_params(deep=False)
        return clone(self.model).set_params(**{n: v for n, v in (_SETTINGS | params).items() if n in known})

    @cached_property
    def fitted(self) -> Any:
        """A copy that is fitted once for all checks, which do not change it."""
        return self.fresh().fit(self.train, items=self.items)

    def scores(self, model: Any, log: Any = None) -> pl.DataFrame:
        """Return the scores of all items for sessions, by default those of test, sorted by session and item."""
        found = model.recommend(self.test if log is None else log, k=model.n_items_)
        return found.sort(model.session_column, model.item_column).drop("rank")

    def same(self, model: Any) -> bool:
        """Tell whether a recommender gives the scores of the fitted one bit for bit."""
        return self.scores(model).equals(self.scores(self.fitted))


class _Every(Recommending):
    """Promises of every recommender, with one fit for them all: parameters, bits of a fit, and lists."""

    def check_parameters_are_kept_and_cloned(self) -> None:
        model = self.fresh()
        params = parameters_of(model)
        assert parameters_of(clone(model)) == params
        model.fit(self.train, items=self.items)
        assert parameters_of(model) == params
        assert model.set_params(session_column="visit") is model
        assert parameters_of(model) == params | {"session_column": "visit"}
        with raises(ValueError, "colour"):
            model.set_params(colour="red")

    def check_a_failed_fit_leaves_the_recommender_as_it_was(self) -> None:
        model, clicks, items = copy.deepcopy(self.fitted), self.train, self.items
        for given in (clicks.drop("item_id"), clicks.head(0), clicks.with_columns(time=pl.lit(None, pl.Datetime))):
            with raises(ValueError, "click log"):
                model.fit(given, items=items)
        with raises(ValueError, "item table"):
            model.fit(clicks, items=items.drop("item_id"))
        assert self.same(model)

    def check_fit_again_equals_a_first_fit(self) -> None:
        model = self.fresh().fit(self.train.head(600), items=self.items)
        model.recommend(self.test, k=3)
        assert self.same(model.fit(self.train, items=self.items))

    def check_the_same_seed_gives_the_same_bits_and_leaves_the_global_generators_alone(self) -> None:
        def scores() -> pl.DataFrame:
            model = self.fresh().fit(self.train, items=self.items)
            model.evaluate(self.test)
            return self.scores(model)

        first, second = with_other_global_seeds(scores)
        assert second.equals(first)

    def check_it_goes_on_with_new_items_alike_in_files_and_stays_if_that_fails(self) -> None:
        old, new = self.train.filter(_EARLY), self.train.filter(~_EARLY)
        some, later = self.items["item_id"][::9], pl.concat([self.items, self.items[::9].with_columns(_LATER)])
        new = pl.concat([new, new.filter(pl.col("item_id").is_in(some.implode())).with_columns(_LATER)])
        model = self.fresh().fit(old, items=self.items)
        before = self.scores(model)
        with TemporaryDirectory() as folder:
            copies = copies_of(model, Path(folder, "model"))
        for given in (new.drop("item_id"), new.head(0), new.with_columns(time=pl.lit(None, pl.Datetime))):
            with raises(ValueError, "click log"):
                model.partial_fit(given, items=later)
        assert self.scores(model).equals(before)
        try:
            model.partial_fit(new, items=later)
        except NotImplementedError as error:
            assert "fit again" in str(error), "an error that names the cure"
            return
        clicks = dict(pl.concat([old, new])["item_id"].value_counts().iter_rows())
        counts = dict(zip(model.item_ids_.to_list(), model.item_counts_.tolist(), strict=True))
        assert counts == {item: clicks.get(item, 0) for item in later["item_id"]}
        assert self.scores(model)["score"].is_finite().all()
        for how, other in copies.items():
            assert self.scores(other.partial_fit(new, items=later)).equals(self.scores(model)), how

    def check_copies_and_files_give_the_same_bits(self) -> None:
        model, test = self.fitted, self.test
        with TemporaryDirectory() as folder:
            copies = copies_of(model, Path(folder, "first"))
            copies["load again"] = reload(copies["load"], Path(folder, "second"))
        for how, other in copies.items():
            assert type(other) is type(model), how
            assert parameters_of(other) == parameters_of(model), how
            assert other.item_ids_.equals(model.item_ids_), how
            assert other.item_counts_.tolist() == model.item_counts_.tolist(), how
            assert other.repeat_weights_ == model.repeat_weights_, how
            assert self.same(other), how
            assert other.evaluate(test, k=[1, 20]).equals(model.evaluate(test, k=[1, 20])), how

    def check_a_fitted_recommender_answers_as_it_was_fitted(self) -> None:
        model = copy.deepcopy(self.fitted)
        others: dict[str, Any] = {"session_column": "visit", "item_column": "sku", "time_column": None}
        for name, value in model.get_params(deep=False).items():
            if name in model.search_space and isinstance(value, str):
                others[name] = next(each for each in model.search_space[name]["choices"] if each != value)
            elif name not in _SETTINGS and isinstance(value, int | float):
                others[name] = not value if isinstance(value, bool) else 1 if isinstance(value, int) else value / 2
        model.set_params(**others)
        for found, expected in zip(self._asked(model), self._asked(self.fitted), strict=True):
            assert found.equals(expected)

    def _asked(self, model: Any) -> tuple[pl.DataFrame, pl.DataFrame]:
        return model.recommend(self.test, k=9), model.evaluate(self.test)

    def check_before_fit_nothing_is_answered(self) -> None:
        model = self.fresh()
        for ask in (model.recommend, model.rank, model.evaluate, model.score):
            with raises(NotFittedError, ""):
                ask(self.test)
        for ask in (model.similar, model.save):
            with raises(NotFittedError, ""):
                ask("i07")

    def check_any_library_gives_the_same_and_gets_its_own(self) -> None:
        expected, test = self.fitted.recommend(self.test, k=5), self.test
        conversions: list[Callable[[pl.DataFrame], Any]] = [pl.DataFrame.to_pandas, pl.DataFrame.to_arrow]
        for convert in (*conversions, pl.DataFrame.lazy):
            model = self.fresh().fit(convert(self.train), items=convert(self.items))
            found = model.recommend(convert(test), k=5)
            assert type(found) is (pl.DataFrame if convert is pl.DataFrame.lazy else type(convert(test)))
            assert_frame_equal(pl.DataFrame(found), expected, check_exact=True)
            assert_frame_equal(model.evaluate(convert(test)), self.fitted.evaluate(test))

    def check_a_log_may_have_an_order_only(self) -> None:
        by_end = self.train.sort(pl.col("time").max().over("session_id"), "session_id", "time").drop("time")
        by_row = self.fresh(time_column=None).fit(by_end, items=self.items)
        place = pl.int_range(pl.len()).over("session_id")
        numbered = by_end.with_columns(place=place).sort(pl.col("session_id").rle_id(), -pl.col("place"))
        by_order = self.fresh(time_column=None, order_column="place").fit(numbered, items=self.items)
        expected = self.scores(by_row, self.test.drop("time"))
        assert self.scores(by_order, self.test.with_columns(place=place).reverse()).equals(expected)

    def check_ranks_count_from_one_and_scores_fall(self) -> None:
        n, longest = self.test["session_id"].n_unique(), self.fitted.recommend(self.test, k=500)
        assert longest.columns == ["session_id", *_LISTED]
        assert longest.select("session_id", "item_id").is_unique().all()
        assert longest["score"].is_finite().all()
        assert (np.diff(longest["score"].to_numpy().reshape(n, -1), axis=1) <= 0).all()
        for k in (1, 7, _N_ITEMS, 500):
            found = self.fitted.recommend(self.test, k=k)
            assert found["rank"].to_list() == list(range(1, min(k, _N_ITEMS) + 1)) * n
            assert found.equals(longest.filter(pl.col("rank") <= k))

    def check_sessions_are_answered_in_the_order_given(self) -> None:
        shuffled = self.test.sample(fraction=1, shuffle=True, seed=1)
        for log in (self.test, shuffled, shuffled.with_columns(pl.col("time").dt.truncate("1d"))):
            names = self.fitted.recommend(log, k=2)["session_id"].unique(maintain_order=True)
            assert names.equals(log["session_id"].unique(maintain_order=True))
        assert_frame_equal(self.scores(self.fitted, shuffled), self.scores(self.fitted), rel_tol=1e-5, abs_tol=1e-6)

    def check_a_session_alone_gets_what_it_gets_among_others(self) -> None:
        some = self.test["session_id"].unique().sort()[:25]
        alone = pl.concat([self.scores(self.fitted, self.test.filter(session_id=name)) for name in some])
        among = self.scores(self.fitted).filter(pl.col("session_id").is_in(some.implode()))
        largest: Any = among["score"].abs().max()  # float32 rounds a sum by the size of what it adds up
        assert_frame_equal(alone, among, rel_tol=1e-5, abs_tol=1e-6 * max(largest, 1.0))

    def check_sessions_and_items_may_be_new(self) -> None:
        log = pl.DataFrame({"session_id": [-1, -1, -2], "item_id": ["new", "i00", "newer"], "time": [1.0, 2.0, 3.0]})
        found = self.fitted.recommend(log, k=_N_ITEMS)
        assert found["session_id"].to_list() == [-1] * _N_ITEMS + [-2] * _N_ITEMS
        assert found["score"].is_finite().all()
        ranking = self.fitted.rank(log.with_columns(session_id=0))
        assert np.isfinite(ranking.ranks).tolist() == [True, False]
        assert ranking.counts[1] == 0

    def check_similar_items_are_others(self) -> None:
        found, every = self.fitted.similar("i07", 5), self.fitted.similar("i07", k=500)
        assert found.columns == _LISTED
        assert found["rank"].to_list() == [1, 2, 3, 4, 5]
        assert (every["score"].diff().drop_nulls() <= 0).all()
        assert sorted(every["item_id"]) == sorted(set(self.items["item_id"]) - {"i07"})
        assert every[:5].equals(found)
