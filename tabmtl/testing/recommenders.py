"""Checks of the promises of every recommender."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import polars as pl
from polars.testing import assert_frame_equal
from sklearn.base import clone
from sklearn.exceptions import NotFittedError

from tabmtl.schema import TabmtlWarning
from tabmtl.sessions.recommender import Recommender
from tabmtl.synth import make_sessions
from tabmtl.testing.comparisons import parameters_of
from tabmtl.testing.promises import named_checks, raises, warns
from tabmtl.testing.storage import copies_of, reload

#: Set where a recommender has the parameter; on the CPU, the bits of two runs can be compared.
_SETTINGS: dict[str, Any] = {"device": "cpu", "n_jobs": 1, "random_state": 0}
_N_ITEMS = 60
_LISTED = ["rank", "item_id", "score"]
_NAMES = {"session_id": "visit", "item_id": "sku", "time": "when"}


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


class _Subject:
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


class _Kept(_Subject):
    """Promises about parameters, and about the bits of a fit: in a second fit, in copies and in files."""

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

    def check_the_catalogue_counts_the_clicks(self) -> None:
        model, clicks = self.fresh(), dict(self.train["item_id"].value_counts().iter_rows())
        assert model.fit(self.train, items=self.items) is model
        counts = dict(zip(model.item_ids_.to_list(), model.item_counts_.tolist(), strict=True))
        assert counts == {item: clicks.get(item, 0) for item in self.items["item_id"]}
        assert model.n_items_ == len(counts)

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
        import torch

        def states() -> Any:
            legacy: Any = np.random.get_state()
            return random.getstate(), legacy[1].tolist(), legacy[2:], torch.get_rng_state().tolist()

        before = states()
        self.fresh().fit(self.train, items=self.items).evaluate(self.test)
        assert states() == before, "a global generator has moved"
        random.seed(1)
        np.random.seed(1)
        with torch.random.fork_rng():
            torch.manual_seed(1)
            assert self.same(self.fresh().fit(self.train, items=self.items))

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


class _Lists(_Subject):
    """Promises about the lists of recommendations, and about ranks."""

    def check_any_library_gives_the_same_and_gets_its_own(self) -> None:
        expected, test = self.fitted.recommend(self.test, k=5), self.test
        conversions: list[Callable[[pl.DataFrame], Any]] = [pl.DataFrame.to_pandas, pl.DataFrame.to_arrow]
        for convert in (*conversions, pl.DataFrame.lazy):
            model = self.fresh().fit(convert(self.train), items=convert(self.items))
            found = model.recommend(convert(test), k=5)
            assert type(found) is (pl.DataFrame if convert is pl.DataFrame.lazy else type(convert(test)))
            assert_frame_equal(pl.DataFrame(found), expected, check_exact=True)
            assert_frame_equal(model.evaluate(convert(test)), self.fitted.evaluate(test))

    def check_columns_may_have_other_names(self) -> None:
        model = self.fresh(**{f"{old.partition('_')[0]}_column": new for old, new in _NAMES.items()})
        model.fit(self.train.rename(_NAMES), items=self.items.rename({"item_id": "sku"}))
        found = model.recommend(self.test.rename(_NAMES), k=5)
        assert found.columns == ["visit", "rank", "sku", "score"]
        assert found.rename({"visit": "session_id", "sku": "item_id"}).equals(self.fitted.recommend(self.test, k=5))

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
        assert_frame_equal(alone, among, rel_tol=1e-5, abs_tol=1e-6)

    def check_only_candidates_are_recommended_and_their_scores_stay(self) -> None:
        chosen, full = self.items["item_id"].gather_every(9), self.fitted.recommend(self.test, k=_N_ITEMS)
        expected = full.filter(pl.col("item_id").is_in(chosen.implode())).drop("rank")
        for candidates in (chosen, chosen.to_list(), chosen.to_numpy(), chosen.to_pandas(), set(chosen)):
            assert self.fitted.recommend(self.test, candidates=candidates).drop("rank").equals(expected)
        assert self.fitted.recommend(self.test, candidates=[]).is_empty()

    def check_own_items_are_recommended_unless_they_are_excluded(self) -> None:
        clicked, on = self.test.select("session_id", "item_id").unique(), ["session_id", "item_id"]
        full = self.fitted.recommend(self.test, k=_N_ITEMS)
        assert len(full.join(clicked, on=on)) == len(clicked)
        found = self.fitted.recommend(self.test, k=_N_ITEMS, exclude_seen=True)
        assert found.drop("rank").equals(full.join(clicked, on=on, how="anti").drop("rank"))
        assert found.group_by("session_id").agg(pl.col("rank").max() == pl.len())["rank"].all()

    def check_sessions_and_items_may_be_new(self) -> None:
        log = pl.DataFrame({"session_id": [-1, -1, -2], "item_id": ["new", "i00", "newer"], "time": [1.0, 2.0, 3.0]})
        found = self.fitted.recommend(log, k=_N_ITEMS)
        assert found["session_id"].to_list() == [-1] * _N_ITEMS + [-2] * _N_ITEMS
        assert found["score"].is_finite().all()
        ranking = self.fitted.rank(log.with_columns(session_id=0))
        assert np.isfinite(ranking.ranks).tolist() == [True, False]
        assert ranking.counts[1] == 0

    def check_no_session_gets_no_answer_of_the_same_type(self) -> None:
        for convert in (pl.DataFrame.to_pandas, pl.DataFrame.to_arrow, pl.DataFrame.lazy, pl.DataFrame.clone):
            none, some = (self.fitted.recommend(convert(log), k=5) for log in (self.test.clear(), self.test))
            assert type(none) is type(some)
            assert len(none) == 0
            assert pl.DataFrame(none).schema == pl.DataFrame(some).schema

    def check_a_list_of_items_is_a_session(self) -> None:
        clicked = ["i07", "nobody", "i30", "i07", "i12"]
        log = pl.DataFrame({"session_id": 0, "item_id": clicked, "time": np.arange(5.0)})
        lists = [clicked, tuple(clicked), np.array(clicked), pl.Series(clicked), pl.Series(clicked).to_pandas()]
        for options in ({}, {"exclude_seen": True}, {"candidates": ["i00", "i01", "i12"]}):
            expected = self.fitted.recommend(log, 7, **options).drop("session_id")
            assert expected.columns == _LISTED
            assert all(self.fitted.recommend(items, 7, **options).equals(expected) for items in lists)
        for unknown in ([], ["nobody"]):
            found = self.fitted.recommend(unknown, k=_N_ITEMS)
            assert found["rank"].to_list() == list(range(1, _N_ITEMS + 1))
            assert found["score"].is_finite().all()

    def check_similar_items_are_others(self) -> None:
        found, every = self.fitted.similar("i07", 5), self.fitted.similar("i07", k=500)
        assert found.columns == _LISTED
        assert found["rank"].to_list() == [1, 2, 3, 4, 5]
        assert (every["score"].diff().drop_nulls() <= 0).all()
        assert sorted(every["item_id"]) == sorted(set(self.items["item_id"]) - {"i07"})
        assert every[:5].equals(found)

    def check_ranks_are_those_of_the_recommendations(self) -> None:
        a, b, c = self.fitted.recommend(self.test.head(1), k=_N_ITEMS)["item_id"][:_N_ITEMS:25]
        log = pl.DataFrame({"session_id": 0, "item_id": [a, b, a, c], "time": [1.0, 2.0, 3.0, 4.0]})
        for excluded in (False, True):
            ranking = self.fitted.rank(log, exclude_seen=excluded, k=_N_ITEMS)
            for n, (item, rank) in enumerate(zip([b, a, c], ranking.ranks, strict=True), start=1):
                listed = self.fitted.recommend(log[:n], k=_N_ITEMS, exclude_seen=excluded)
                own = listed.filter(item_id=item)["score"]
                # where two items are equal but for rounding, one more or less
                assert np.isinf(rank) if own.is_empty() else abs((listed["score"] >= own[0]).sum() - rank) <= 1
                known = listed.filter(pl.col("score").is_finite())
                assert len(known) == _N_ITEMS - (log[:n]["item_id"].n_unique() if excluded else 0)
        assert np.isinf(ranking.ranks).tolist() == [False, True, False]  # a is among the clicks before it
        assert abs(self.fitted.evaluate(log, _N_ITEMS, exclude_seen=True)[f"recall@{_N_ITEMS}"][0] - 2 / 3) < 1e-9

    def check_buckets_add_up_to_all(self) -> None:
        table = self.fitted.evaluate(self.test, k=[5, 20])
        assert table["bucket"].to_list() == ["all", "0", "1-5", "6-20", "21-100", ">100"]
        total, parts = table.row(0, named=True), table[1:].filter(pl.col("n_targets") > 0)
        assert total["n_targets"] == len(self.test) - self.test["session_id"].n_unique() == parts["n_targets"].sum()
        for name in (f"{metric}@{k}" for metric in ("recall", "mrr", "ndcg") for k in (5, 20)):
            assert abs(total[name] - (parts[name] * parts["n_targets"]).sum() / total["n_targets"]) < 1e-12
        assert 0 < total["coverage@5"] <= total["coverage@20"] <= 1
        for k in (20, [20], np.int64(20)):
            assert self.fitted.evaluate(self.test, k=k)["mrr@20"][0] == self.fitted.score(self.test)


class _Refusals(_Subject):
    """Promises about errors and warnings."""

    def check_before_fit_nothing_is_answered(self) -> None:
        model = self.fresh()
        for ask in (model.recommend, model.rank, model.evaluate, model.score):
            with raises(NotFittedError, ""):
                ask(self.test)
        for ask in (model.similar, model.save):
            with raises(NotFittedError, ""):
                ask("i07")

    def check_what_cannot_be_asked_is_named(self) -> None:
        model, test = self.fitted, self.test
        for k in (0, -1, 2.5, "3", None, True):
            with raises(ValueError, "k must be"):
                model.recommend(test, k=k)
        cure = "add_items adds them" if hasattr(model, "add_items") else "leave them out, or fit again with an item"
        refused: list[tuple[Callable[..., Any], Any, type[Exception], str]] = [
            (model.recommend, [1, 2], TypeError, "items of the list given as sessions are Int64, those of the c"),
            (model.recommend, ["i07", None], ValueError, "holds a missing item at place 1: leave it out"),
            *((model.recommend, some, TypeError, "must be a polars, pandas or pyarrow") for some in ("i07", {"i"}, 7)),
            (self._choose, ["i00", "no"], ValueError, rf"candidates names \['no'\], which .* does not hold: {cure}"),
            (self._choose, "i00", TypeError, "candidates must be a list or series of items, got 'i00': put it"),
            (self._choose, [3], TypeError, "candidates are Int64"),
            (model.similar, "no", ValueError, r"item names \['no'\], which the catalogue does not hold: "),
            *((model.similar, item, TypeError, "those of the catalogue String: cast") for item in (7, ["i07"], None)),
            (model.evaluate, ["i07"], TypeError, "the click log must be a polars, pandas or pyarrow frame, got list"),
            (model.evaluate, test.unique("session_id"), ValueError, "no session of this log has two clicks"),
            (model.rank, test.clear(), ValueError, "^the click log has no row$"),
            (lambda k: model.rank(test, k=k), 0, ValueError, "k must be at least 1, got 0"),
            (lambda k: model.similar("i07", k), 0, ValueError, "k must be at least 1, got 0"),
            (lambda k: model.evaluate(test, k), [20, 0], ValueError, "k must be at least 1, got 0"),
            (lambda k: model.evaluate(test, k), [], ValueError, "one length"),
        ]
        for call, given, error, message in refused:
            with raises(error, message):
                call(given)

    def _choose(self, candidates: Any) -> Any:
        return self.fitted.recommend(self.test, candidates=candidates)

    def check_the_log_that_does_not_fit_is_named(self) -> None:
        test = self.test
        for log, error in (
            (test.drop("time"), ValueError),
            (test.with_columns(time=None), ValueError),
            (test.with_columns(item_id=pl.lit(3, pl.Int64)), TypeError),
        ):
            with raises(error, "the log given as sessions"):
                self.fitted.recommend(log)
            with raises(error, "the log given as clicks_val"):
                self.fresh().fit(self.train, items=self.items, clicks_val=log)
        with raises(ValueError, "^the log given as clicks_val has no row$"):
            self.fresh().fit(self.train, items=self.items, clicks_val=test.clear())
        with warns(TabmtlWarning, "sessions of clicks_val are named like sessions of clicks"):
            self.fresh(epochs=1).fit(self.train, items=self.items, clicks_val=self.train.tail(200))

    def check_names_of_columns_are_text_and_differ(self) -> None:
        clicks = self.train.rename({"session_id": "rank"})
        for name in ("rank", "item_id"):
            with raises(ValueError, "must differ, and be none of 'rank', 'score' and 'probability', got"):
                self.fresh(session_column=name).fit(clicks, items=self.items)
        for name in ("session_column", "item_column"):
            with raises(TypeError, f"^{name} must be the name of a column, a text, got "):
                self.fresh(**{name: None}).fit(self.train, items=self.items)


class _Every(_Kept, _Lists, _Refusals):
    """Promises of every recommender, with one fit for them all."""
