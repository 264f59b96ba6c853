"""Preprocessors in front of models: files are answered as frames, and teach no model that has one."""

import datetime

import numpy as np
import polars as pl
import pytest
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler

from tabmtl import SharedTrees
from tabmtl.scale import Shards, predict_file, score_files

RNG, N = np.random.default_rng(0), 120
TABLE = pl.DataFrame(
    {
        "rooms": RNG.integers(0, 9, N),
        "is_new": RNG.random(N) < 0.5,
        "zip": [f"{i:03}" for i in RNG.integers(0, 40, N)],
    }
)
Y = TABLE.select(sold=pl.when(pl.int_range(N) % 5 > 0).then(pl.col("rooms") > 4), price=pl.col("rooms") + 0.5)


def test_the_file_of_dates_and_codes_is_read_as_the_frame_of_fit(tmp_path):
    days = [datetime.date(2024, 1, 1) + datetime.timedelta(days=int(i)) for i in RNG.integers(0, 300, N)]
    X = TABLE.with_columns(day=pl.Series(days))
    parts = FunctionTransformer(lambda X: X.with_columns(pl.col("day").dt.weekday(), pl.col("zip").str.head(1)))
    model = SharedTrees(preprocessor=parts, n_estimators=4, n_estimators_task=5, random_state=0).fit(X, Y)
    X.hstack(Y).write_csv(tmp_path / "new.csv")
    predict_file(model, tmp_path / "new.csv", tmp_path / "answers.parquet")
    assert pl.read_parquet(tmp_path / "answers.parquet").equals(model.predict(X))
    assert score_files(model, tmp_path / "new.csv").equals(model.score_intervals(X, Y))
    with pytest.raises(ValueError, match="column 'day' held dates in fit, and holds text now"):
        model.predict(X.with_columns(day=pl.lit("soon")))


def test_what_is_refused_names_the_cure(tmp_path):
    TABLE.hstack(Y).write_parquet(tmp_path / "x.parquet")
    with pytest.raises(TypeError, match="X is Shards"):
        SharedTrees(preprocessor=StandardScaler()).fit(Shards(tmp_path / "x.parquet"), "sold")
    with pytest.raises(TypeError, match=r"pipeline\[-1\]\.set_params\(preprocessor=pipeline\[:-1\]\)"):
        score_files(make_pipeline(StandardScaler(), SharedTrees()), tmp_path / "x.parquet")
