"""Models with a preprocessor behind MLflow: raw rows of every format, and one row as in its batch."""

import datetime
import json

import mlflow
import numpy as np
import pandas as pd
import polars as pl
import pytest
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.compose import make_column_transformer
from sklearn.impute import SimpleImputer
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, OrdinalEncoder
from tracking import bodies, invoke

from tabmtl import SharedTrees
from tabmtl.serving.mlflow.serving import TableModel

FORMATS = ["dataframe_records", "dataframe_split", "inputs", "csv"]
N = 80
TABLE = pl.DataFrame(
    {
        "size": [None if i % 7 == 0 else i / 8 for i in range(N)],
        "rooms": [i % 9 for i in range(N)],
        "color": [("red", "blue", None)[i % 3] for i in range(N)],
        "is_new": [i % 4 == 0 for i in range(N)],
        "zip": [f"{i % 11:03}" for i in range(N)],
    }
)
Y = TABLE.select(price=pl.col("rooms") + pl.col("is_new") + pl.col("zip").cast(pl.Float64), late=pl.col("rooms") > 4)


@pytest.fixture(scope="module", params=["polars", "pandas", "objects"])
def model(request, serve):
    """A served model, and its raw rows."""
    steps = make_column_transformer(
        (SimpleImputer(), ["size"]),
        (make_pipeline(OneHotEncoder(handle_unknown="ignore")), ["color", "zip"]),
        (OrdinalEncoder(), ["rooms", "is_new"]),
    )
    X = TABLE if request.param == "polars" else TABLE.to_pandas()
    if request.param == "objects":  # as of a database
        X["color"] = pd.Series(TABLE["color"].to_list(), dtype=object)
    trees = SharedTrees(preprocessor=steps, n_estimators=10, n_estimators_task=5, random_state=0).fit(X, Y)
    return serve(trees, X.head(3)), X


@pytest.mark.parametrize("name", FORMATS)
def test_raw_rows_of_all_formats_have_the_answers_of_fit(model, name):
    served, X = model
    frame = TABLE.with_columns(zip=pl.lit("007")) if name == "csv" else TABLE  # as in test_wire
    rows, expected = frame.to_dicts(), served.get_raw_model().predict(frame).to_dicts()
    assert invoke(served, *bodies(rows)[name]) == (200, expected)
    assert [invoke(served, *bodies([row])[name])[1][0] for row in rows[:9]] == expected[:9]
    assert served.metadata.get_input_schema().input_names() == list(X.columns)


def test_frames_of_all_libraries_may_be_asked(model):
    served, X = model
    for rows in (TABLE, TABLE.to_pandas(), TABLE.to_arrow()):
        assert served.predict(rows).equals(TableModel(served.get_raw_model()).predict(X))
    status, message = invoke(served, json.dumps({"dataframe_records": [{"rooms": 1}]}))
    assert (status, "has no column 'size', 'color', 'is_new', 'zip'" in message) == (400, True)


class Weekday(TransformerMixin, BaseEstimator):
    """Day of the week of a column of dates, in polars or pandas."""

    def fit(self, X, y=None):
        return self

    def transform(self, X):
        days = X["day"]
        return np.column_stack([days.dt.day_of_week if isinstance(X, pd.DataFrame) else days.dt.weekday(), X["rooms"]])


@pytest.mark.parametrize("zone", [None, "Europe/Berlin"])
@pytest.mark.parametrize("library", ["polars", "pandas"])
def test_dates_arrive_as_text_and_as_dates(library, zone):
    days = pl.Series("day", [datetime.datetime(2024, 1, 1) + datetime.timedelta(hours=7 * i) for i in range(N)])
    frame = TABLE.select("rooms", days.dt.replace_time_zone(zone))
    X = frame if library == "polars" else frame.to_pandas()
    model = SharedTrees(preprocessor=Weekday(), n_estimators=10, early_stopping=False, random_state=0).fit(
        X, days.dt.weekday().cast(pl.Float64).to_frame()
    )
    served = TableModel(model)
    expected = served.predict(X)
    assert expected["day"].nunique() > 2
    texts = frame.with_columns(pl.col("day").dt.to_string("iso:strict"))
    for rows in (frame, frame.to_pandas(), texts, texts.to_pandas()):
        assert served.predict(rows).equals(expected)
    with pytest.raises(mlflow.MlflowException, match=r"column 'day' held datetimes.* in fit, and holds text now"):
        served.predict(texts.with_columns(day=pl.lit("Monday")))
    if zone is None:
        for rows in (
            frame.with_columns(pl.col("day").dt.replace_time_zone("UTC")),
            texts.with_columns(pl.col("day") + "Z"),
        ):
            with pytest.raises(mlflow.MlflowException, match="column 'day' had no time zone in fit and has "):
                served.predict(rows)
