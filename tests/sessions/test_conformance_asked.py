"""Whatever is asked of a recommender: no session, a list of items, a log that does not fit, and later parameters."""

from __future__ import annotations

import pickle
import warnings
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from recommenders import ITEMS, TEST, TRAIN, every_form, fitted, params_of, tiny
from sklearn.exceptions import NotFittedError

from tabmtl.schema import TabmtlWarning

READS_METADATA = ("M2TRec", "CategoryPopularity", "Blend")

#: Parameters that would change what is answered, each if the recommender has it.
OTHERS: dict[str, Any] = {
    "session_column": "visit",
    "item_column": "sku",
    "time_column": None,
    "order_column": "place",
    "category": "brand",
    "k": 1,
    "sample_size": 2,
    "weighting": "same",
    "decay": 0.1,
    "similarity": "vec",
    "idf_weight": 5.0,
    "l1": 0.1,
    "l3": 0.1,
    "n_last": 7,
    "top": 1,
    "max_length": 1,
    "new_item_share": 5.0,
    "max_new_share": 0.01,
    "temperature": None,
}


@every_form
@pytest.mark.parametrize(
    "convert", [pl.DataFrame.to_pandas, pl.DataFrame.to_arrow, pl.DataFrame.lazy, pl.DataFrame.clone]
)
def test_no_session_gets_no_answer_of_the_same_type(form, convert):
    model = fitted(form)
    found, some = model.recommend(convert(TEST.clear()), k=5), model.recommend(convert(TEST), k=5)
    assert type(found) is type(some)
    assert len(found) == 0
    if isinstance(found, pa.Table):
        assert found.schema == some.schema
    else:
        assert list(found.columns) == list(some.columns)
    if isinstance(found, pl.DataFrame):
        assert found.schema == some.schema
    if isinstance(found, pd.DataFrame):
        assert found.dtypes.equals(some.dtypes)
    assert len(model.recommend(convert(TEST.clear()), k=5, exclude_seen=True, candidates=["i00"])) == 0


CLICKED = ["i07", "nobody", "i30", "i07", "i12"]
LISTS = {
    "list": list,
    "tuple": tuple,
    "polars": pl.Series,
    "pandas": pd.Series,
    "numpy": np.array,
    "pyarrow": lambda items: pa.chunked_array([items]),
}


@every_form
@pytest.mark.parametrize("kind", LISTS)
def test_a_list_of_items_is_a_session(form, kind):
    log = pl.DataFrame({"session_id": 0, "item_id": CLICKED, "time": np.arange(5.0)})
    for options in ({}, {"exclude_seen": True}, {"candidates": ["i00", "i01", "i12"]}):
        found = fitted(form).recommend(LISTS[kind](CLICKED), 7, **options)
        assert isinstance(found, pl.DataFrame)
        assert found.equals(fitted(form).recommend(log, 7, **options).drop("session_id"))
    assert found.columns == ["rank", "item_id", "score"]


@every_form
def test_a_list_without_a_known_item_is_answered(form):
    for items in ([], ["nobody"]):
        found = fitted(form).recommend(items, k=60)
        assert found["rank"].to_list() == list(range(1, 61))
        assert found["score"].is_finite().all()


@every_form
def test_lists_of_no_items_are_refused(form):
    model = fitted(form)
    with pytest.raises(
        TypeError, match="the items of the list given as sessions are Int64, those of the catalogue Str"
    ):
        model.recommend([1, 2])
    with pytest.raises(ValueError, match="the list given as sessions holds a missing item at place 1: leave it out"):
        model.recommend(["i07", None])
    for strange in ("i07", {"i07"}, {"i07": 1}, 7):
        with pytest.raises(TypeError, match="the log given as sessions must be a polars, pandas or pyarrow frame"):
            model.recommend(strange)
    with pytest.raises(TypeError, match="the click log must be a polars, pandas or pyarrow frame, got list"):
        model.evaluate(CLICKED)


@every_form
def test_similar_items_are_others(form):
    model = fitted(form)
    found = model.similar("i07", 5)
    assert found.columns == ["rank", "item_id", "score"]
    assert found["rank"].to_list() == [1, 2, 3, 4, 5]
    assert (found["score"].diff().drop_nulls() <= 0).all()
    everything = model.similar("i07", k=500)
    assert sorted(everything["item_id"]) == sorted(set(ITEMS["item_id"]) - {"i07"})
    assert everything[:5].equals(found)
    if not form.startswith("M2TRec"):
        assert found.equals(model.recommend(["i07"], 5, exclude_seen=True))


@every_form
def test_similar_items_to_what_is_no_item_are_refused(form):
    model = fitted(form)
    with pytest.raises(ValueError, match=r"item names \['nobody'\], which the catalogue does not hold: "):
        model.similar("nobody")
    for strange in (7, ["i07"], None):
        with pytest.raises(TypeError, match="those of the catalogue String: cast"):
            model.similar(strange)
    with pytest.raises(ValueError, match="k must be at least 1, got 0"):
        model.similar("i07", 0)
    with pytest.raises(NotFittedError):
        tiny(form).similar("i07")


@every_form
def test_no_row_is_refused_where_something_is_learned_or_measured(form):
    model = fitted(form)
    for ask in (model.rank, model.evaluate, model.score):
        with pytest.raises(ValueError, match=r"^the click log has no row$"):
            ask(TEST.clear())
    with pytest.raises(ValueError, match=r"^the click log has no row$"):
        tiny(form).fit(TRAIN.clear(), items=ITEMS)
    with pytest.raises(ValueError, match=r"^the log given as clicks_val has no row$"):
        tiny(form).fit(TRAIN, items=ITEMS, clicks_val=TEST.clear())


@every_form
def test_errors_say_which_log_does_not_fit(form):
    strange = TEST.with_columns(item_id=pl.lit(3, pl.Int64))
    for log, error in (
        (TEST.drop("time"), ValueError),
        (TEST.with_columns(time=None), ValueError),
        (strange, TypeError),
    ):
        with pytest.raises(error, match="the log given as sessions") as caught:
            fitted(form).recommend(log)
        assert "click log" not in str(caught.value)
        with pytest.raises(error, match="the log given as clicks_val") as caught:
            tiny(form).fit(TRAIN, items=ITEMS, clicks_val=log)
        assert "click log" not in str(caught.value)


@every_form
def test_a_fitted_recommender_answers_as_it_was_fitted(form):
    model = pickle.loads(pickle.dumps(fitted(form)))
    others = {name: value for name, value in OTHERS.items() if name in model.get_params()}
    if "weighting" in others:
        others["decay"] = "same"
    model.set_params(**others)
    assert model.recommend(TEST, k=9).equals(fitted(form).recommend(TEST, k=9))
    assert model.evaluate(TEST).equals(fitted(form).evaluate(TEST))
    assert params_of(model) == params_of(fitted(form)) | others


@every_form
@pytest.mark.parametrize("name", ["session_column", "item_column"])
@pytest.mark.parametrize("value", [None, ["session_id"]])
def test_names_of_columns_are_text(form, name, value):
    with pytest.raises(TypeError, match=rf"^{name} must be the name of a column, a text, got "):
        tiny(form, **{name: value}).fit(TRAIN, items=ITEMS)


@every_form
def test_a_validation_log_that_repeats_sessions_is_warned_of_where_fit_is_called(form):
    with pytest.warns(TabmtlWarning, match=r"sessions of clicks_val are named like sessions of clicks") as caught:
        tiny(form, epochs=1).fit(TRAIN, items=ITEMS, clicks_val=TRAIN.tail(200))
    assert [warning.filename for warning in caught] == [__file__]


@every_form
def test_missing_metadata_is_news_for_who_reads_it(form):
    some = ITEMS.filter(pl.col("item_id") != TRAIN["item_id"][0])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", TabmtlWarning)
        tiny(form, epochs=1).fit(TRAIN, items=some)
    said = [str(warning.message) for warning in caught if "not in the item table" in str(warning.message)]
    assert len(said) == form.startswith(READS_METADATA)
    with pytest.warns(TabmtlWarning, match=r"does 'item_id' name the same things"):
        tiny(form, epochs=1).fit(TRAIN, items=ITEMS.with_columns(item_id="x" + pl.col("item_id")))
