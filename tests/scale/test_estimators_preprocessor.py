"""Preprocessors of files."""

import datetime

import numpy as np
import polars as pl
import pytest
from sklearn.preprocessing import (
    FunctionTransformer,
)

from tabmtl import (
    SharedTrees,
)
from tabmtl.scale import predict_file, score_files

RNG, N = np.random.default_rng(0), 120
TABLE = pl.DataFrame(
    {
        "size": [None if i % 7 == 0 else v for i, v in enumerate(RNG.normal(size=N).tolist())],
        "rooms": RNG.integers(0, 9, N),
        "color": RNG.choice(["red", "blue", None], N).tolist(),
        "is_new": RNG.random(N) < 0.5,
        "zip": [f"{i:03}" for i in RNG.integers(0, 40, N)],
    }
)
Y = pl.DataFrame(
    {
        "sold": [None if i % 5 == 0 else "yes" if v > 4 else "no" for i, v in enumerate(TABLE["rooms"])],
        "price": TABLE["rooms"] + RNG.normal(size=N),
    }
)


def test_the_file_of_dates_and_codes_is_read_as_the_frame_of_fit(tmp_path):
    days = [datetime.date(2024, 1, 1) + datetime.timedelta(days=int(i)) for i in RNG.integers(0, 300, N)]
    X = TABLE.select("zip", "is_new", "rooms", day=pl.Series(days))
    parts = FunctionTransformer(lambda X: X.with_columns(pl.col("day").dt.weekday(), pl.col("zip").str.head(1)))
    model = SharedTrees(preprocessor=parts, n_estimators=4, n_estimators_task=5, random_state=0).fit(X, Y)
    X.hstack(Y).write_csv(tmp_path / "new.csv")
    predict_file(model, tmp_path / "new.csv", tmp_path / "answers.parquet")
    assert pl.read_parquet(tmp_path / "answers.parquet").equals(model.predict(X))
    assert score_files(model, tmp_path / "new.csv").equals(model.score_intervals(X, Y))
    with pytest.raises(ValueError, match="column 'day' held dates in fit, and holds text now"):
        model.predict(X.with_columns(day=pl.lit("soon")))
