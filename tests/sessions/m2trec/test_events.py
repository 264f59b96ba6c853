"""M2TRec weighs the clicks that it learns to predict by their events."""

from __future__ import annotations

import re
from functools import cache
from typing import Any

import numpy as np
import polars as pl
import pytest
from recommenders import ITEMS, TEST, TRAIN, all_scores, fitted, tiny

from tabmtl.base.schema import TabmtlWarning
from tabmtl.sessions import M2TRec


def with_events(log: pl.DataFrame) -> pl.DataFrame:
    """Every third row is a purchase, and every seventh row has no event."""
    row = pl.int_range(pl.len())
    return log.with_columns(
        event=pl.when(row % 7 == 0).then(None).when(row % 3 == 0).then(pl.lit("buy")).otherwise(pl.lit("view"))
    )


@cache
def weighted() -> M2TRec:
    """Purchases weigh three times; not to be changed."""
    return fit(with_events(TRAIN), event_weights={"buy": 3.0})


def fit(log: pl.DataFrame, **params: Any) -> M2TRec:
    return tiny("M2TRec", **{"event_column": "event"} | params).fit(log, items=ITEMS)


def test_equal_weights_are_none():
    log = with_events(TRAIN)
    expected = all_scores(fitted("M2TRec"), TEST)
    for params in ({}, {"event_weights": {}, "event_column": None}, {"event_weights": {"buy": 1}}):
        assert all_scores(fit(log, **params), TEST).equals(expected)
    every = log.with_columns(event=pl.lit("buy"))
    assert all_scores(fit(every, event_weights={"buy": 4}), TEST).equals(expected)  # weights are relative to their mean


@pytest.mark.parametrize("dtype", [pl.Categorical, pl.Int8, pl.Boolean])
def test_events_may_be_text_or_whole_numbers(dtype):
    log, expected = with_events(TRAIN), all_scores(weighted(), TEST)
    assert not expected.equals(all_scores(fitted("M2TRec"), TEST))
    number = pl.col("event").replace_strict({"buy": 1, "view": 0}).cast(pl.Int8)
    typed = log.with_columns(pl.col("event") if dtype == pl.Categorical else number).cast({"event": dtype})
    name = {pl.Int8: "1", pl.Boolean: "true"}.get(dtype, "buy")
    assert all_scores(fit(typed, event_weights={name: 3}), TEST).equals(expected)


def test_events_are_read_in_fit_only(reloaded):
    model = weighted()
    loaded = reloaded(model)
    assert loaded.event_weights == {"buy": 3.0}
    assert all_scores(loaded, TEST).equals(all_scores(model, TEST))
    assert model.evaluate(TEST).equals(loaded.evaluate(TEST))
    again = tiny("M2TRec", event_column="event", event_weights={"buy": 3.0})
    again.fit(with_events(TRAIN), items=ITEMS, clicks_val=TEST)  # validation clicks need no event


def test_what_weighs_more_is_predicted_more():
    """After a, half of the clicks go to b, and half to c; those to c are purchases."""
    n = 200
    items = [item for session in range(n) for item in ("a", "bc"[session % 2])]
    log = pl.DataFrame({"session_id": np.repeat(np.arange(n), 2), "item_id": items, "time": np.arange(2 * n)})
    log = log.with_columns(event=pl.when(pl.col("item_id") == "c").then(pl.lit("buy")).otherwise(pl.lit("view")))
    gaps = []
    for weight in (1.0, 9.0, 0.0):
        model = tiny("M2TRec", categories=(), columns=None, epochs=40, pooling="last", event_column="event")
        model.set_params(dropout=0.0, early_stopping=False, learning_rate=0.02, repeats=False)
        model.set_params(event_weights={"buy": weight}).fit(log)
        scores = dict(model.recommend(["a"], k=3).select("item_id", "score").iter_rows())
        gaps.append(scores["c"] - scores["b"])
    assert abs(gaps[0]) < 0.3
    assert gaps[1] == pytest.approx(np.log(9), abs=0.5)
    assert gaps[2] < -3


MAPS = "event_weights must map names of events, as text, to weights, such as {'buy'"
REFUSED: list[tuple[Any, str | None, type[Exception], str]] = [
    ({"buy": 3}, None, ValueError, "event_weights={'buy': 3} needs the column that names events: give event_column"),
    ({"buy": 3}, "kind", ValueError, "the click log has no column 'kind'; its"),
    ({"buy": 3}, "time", TypeError, "'time' must name events by text or whole num"),
    (["buy"], "event", TypeError, MAPS),
    ({1: 3}, "event", TypeError, MAPS),
    ({"buy": "3"}, "event", ValueError, "event_weights['buy'] must be a number of at least 0, got '3'"),
    ({"buy": np.inf}, "event", ValueError, "event_weights['buy'] must be a finite number, got inf"),
    ({"buy": 1e307}, "event", ValueError, "event_weights['buy'] must be 0, or from 1.2e-38 to 3.4e38, got 1e+307"),
    ({"buy": 1e-310, "view": 1e-310}, "event", ValueError, "event_weights['buy'] must be 0, or from 1.2e-38"),
    ({"buy": 0, "view": 0, "": 0}, "event", ValueError, "every click to predict has the weight 0"),
]


@pytest.mark.parametrize(("weights", "column", "error", "message"), REFUSED)
def test_weights_that_cannot_be_used_are_refused(weights, column, error, message):
    log = with_events(TRAIN).with_columns(pl.col("event").fill_null(""))
    with pytest.raises(error, match=re.escape(message)):
        fit(log, event_weights=weights, event_column=column)


def test_an_event_that_no_click_has_is_a_warning():
    with pytest.warns(TabmtlWarning, match=r"\['Buy'\], which no click in 'event' has; .* \['buy', 'view'\]") as caught:
        fit(with_events(TRAIN), event_weights={"Buy": 3}, epochs=1)
    assert [warning.filename for warning in caught] == [__file__]
