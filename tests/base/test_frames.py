"""Frames about a model print whole, and are frames of polars."""

import pickle

import polars as pl
import pytest
from models_at_hand import fitted

from tabmtl import SharedTrees
from tabmtl.base.frames import Whole


def test_all_columns_and_rows_are_printed():
    frame = pl.DataFrame({f"a column of number {k}": [f"a text of length {k}" + "." * k] * 30 for k in range(20)})
    whole = Whole(frame)
    assert "…" in str(frame)
    assert "…" not in f"{whole}{whole!r}" and str(whole).count("a text") == 600
    assert whole.equals(frame) and pickle.loads(pickle.dumps(whole)).equals(frame)
    assert type(whole.filter(pl.lit(True))) is pl.DataFrame


@pytest.mark.parametrize("name", ["rounds_", "drift", "score_intervals"])
def test_what_an_estimator_tells_prints_whole(name):
    model, X, y = fitted(SharedTrees)
    asked = {"drift": lambda: model.drift(X), "score_intervals": lambda: model.score_intervals(X, y)}
    found = asked[name]() if name in asked else getattr(model, name)
    assert isinstance(found, Whole) and "…" not in str(found)
