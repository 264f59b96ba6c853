"""What recommenders inherit: names of columns, lists, ranks, and errors that name what does not fit.

The methods are those of the base, which `M2TRec` and `Blend` extend; no other recommender changes them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import polars as pl
import pytest
from recommenders import tiny

from tabmtl.base.schema import TabmtlWarning
from tabmtl.testing.promises import named_checks, raises
from tabmtl.testing.recommenders import Recommending

N_ITEMS = 60
LISTED = ["rank", "item_id", "score"]
NAMES = {"session_id": "visit", "item_id": "sku", "time": "when"}


class Inherited(Recommending):
    """Promises of the base."""

    def check_the_catalogue_counts_the_clicks(self) -> None:
        model, clicks = self.fresh(), dict(self.train["item_id"].value_counts().iter_rows())
        assert model.fit(self.train, items=self.items) is model
        counts = dict(zip(model.item_ids_.to_list(), model.item_counts_.tolist(), strict=True))
        assert counts == {item: clicks.get(item, 0) for item in self.items["item_id"]}
        assert model.n_items_ == len(counts)

    def check_columns_may_have_other_names(self) -> None:
        model = self.fresh(**{f"{old.partition('_')[0]}_column": new for old, new in NAMES.items()})
        model.fit(self.train.rename(NAMES), items=self.items.rename({"item_id": "sku"}))
        found = model.recommend(self.test.rename(NAMES), k=5)
        assert found.columns == ["visit", "rank", "sku", "score"]
        assert found.rename({"visit": "session_id", "sku": "item_id"}).equals(self.fitted.recommend(self.test, k=5))

    def check_names_of_columns_are_text_and_differ(self) -> None:
        clicks = self.train.rename({"session_id": "rank"})
        for name in ("rank", "item_id"):
            with raises(ValueError, "must differ, and be none of 'rank', 'score' and 'probability', got"):
                self.fresh(session_column=name).fit(clicks, items=self.items)
        for name in ("session_column", "item_column"):
            with raises(TypeError, f"^{name} must be the name of a column, a text, got "):
                self.fresh(**{name: None}).fit(self.train, items=self.items)

    def check_only_candidates_are_recommended_and_their_scores_stay(self) -> None:
        chosen, full = self.items["item_id"].gather_every(9), self.fitted.recommend(self.test, k=N_ITEMS)
        expected = full.filter(pl.col("item_id").is_in(chosen.implode())).drop("rank")
        for candidates in (chosen, chosen.to_list(), chosen.to_numpy(), chosen.to_pandas(), set(chosen)):
            assert self.fitted.recommend(self.test, candidates=candidates).drop("rank").equals(expected)
        assert self.fitted.recommend(self.test, candidates=[]).is_empty()

    def check_own_items_are_recommended_unless_they_are_excluded(self) -> None:
        clicked, on = self.test.select("session_id", "item_id").unique(), ["session_id", "item_id"]
        full = self.fitted.recommend(self.test, k=N_ITEMS)
        assert len(full.join(clicked, on=on)) == len(clicked)
        found = self.fitted.recommend(self.test, k=N_ITEMS, exclude_seen=True)
        assert found.drop("rank").equals(full.join(clicked, on=on, how="anti").drop("rank"))
        assert found.group_by("session_id").agg(pl.col("rank").max() == pl.len())["rank"].all()

    def check_ranks_are_those_of_the_recommendations(self) -> None:
        a, b, c = self.fitted.recommend(self.test.head(1), k=N_ITEMS)["item_id"][:N_ITEMS:25]
        log = pl.DataFrame({"session_id": 0, "item_id": [a, b, a, c], "time": [1.0, 2.0, 3.0, 4.0]})
        for excluded in (False, True):
            ranking = self.fitted.rank(log, exclude_seen=excluded, k=N_ITEMS)
            for n, (item, rank) in enumerate(zip([b, a, c], ranking.ranks, strict=True), start=1):
                listed = self.fitted.recommend(log[:n], k=N_ITEMS, exclude_seen=excluded)
                own = listed.filter(item_id=item)["score"]
                # where two items are equal but for rounding, one more or less
                assert np.isinf(rank) if own.is_empty() else abs((listed["score"] >= own[0]).sum() - rank) <= 1
                known = listed.filter(pl.col("score").is_finite())
                assert len(known) == N_ITEMS - (log[:n]["item_id"].n_unique() if excluded else 0)
        assert np.isinf(ranking.ranks).tolist() == [False, True, False]  # a is among the clicks before it
        assert abs(self.fitted.evaluate(log, N_ITEMS, exclude_seen=True)[f"recall@{N_ITEMS}"][0] - 2 / 3) < 1e-9

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
            assert expected.columns == LISTED
            assert all(self.fitted.recommend(items, 7, **options).equals(expected) for items in lists)
        for unknown in ([], ["nobody"]):
            found = self.fitted.recommend(unknown, k=N_ITEMS)
            assert found["rank"].to_list() == list(range(1, N_ITEMS + 1))
            assert found["score"].is_finite().all()

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
        with pytest.warns(TabmtlWarning, match="sessions of clicks_val are named like sessions of clicks") as caught:
            self.fresh(epochs=1).fit(self.train, items=self.items, clicks_val=self.train.tail(200))
        own = [warning for warning in caught if issubclass(warning.category, TabmtlWarning)]
        assert [warning.filename for warning in own] == [__file__]

    def check_what_cannot_be_asked_is_named(self) -> None:
        model, test = self.fitted, self.test
        for k in (0, -1, 2.5, "3", None, True):
            with raises(ValueError, "k must be"):
                model.recommend(test, k=k)
        cure = "add_items adds them" if hasattr(model, "add_items") else "leave them out, or fit again with an item"
        refused: list[tuple[Callable[..., Any], Any, type[Exception], str]] = [
            (model.recommend, [1, 2], TypeError, "items of the list given as sessions are Int64, those of the c"),
            (model.recommend, ["i07", None], ValueError, "holds a missing item at place 1: leave it out"),
            (
                model.recommend,
                np.full((2, 2, 2), "i07", object),
                ValueError,
                "has 3 dimensions, expected one",
            ),
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


CHECKS = {form: named_checks([Inherited(tiny(form))], form) for form in ("Popularity", "M2TRec", "Blend")}


@pytest.mark.parametrize(
    "check",
    [pytest.param(check, id=f"{form}-{check.__name__}") for form, checks in CHECKS.items() for check in checks],
)
def test_promises(check):
    check()
