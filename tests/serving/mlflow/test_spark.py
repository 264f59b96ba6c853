"""A logged model in Spark: right answers by names and by positions of columns that types do not tell apart."""

import shutil
import sys

import mlflow
import numpy as np
import polars as pl
import pytest

from tabmtl import SharedBottom
from tabmtl.serving.mlflow import save_model

pytest.importorskip("pyspark", reason="Spark is not installed: pip install pyspark")
from pyspark.sql import SparkSession
from pyspark.sql.functions import struct

pytestmark = [
    pytest.mark.all_faces,
    pytest.mark.skipif(shutil.which("java") is None, reason="Spark needs Java, which is not on the PATH"),
]

COLUMNS = ["width", "shop", "height", "depth"]  # as in fit: not sorted, and numbers beside texts


@pytest.fixture(scope="module")
def spark():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYSPARK_PYTHON", sys.executable)
        patch.setenv("POLARS_MAX_THREADS", "1")
        options = dict.fromkeys(["spark.driver.host", "spark.driver.bindAddress"], "127.0.0.1")
        options["spark.ui.enabled"] = "false"
        session = SparkSession.builder.master("local[1]").config(map=options).getOrCreate()
        yield session
        session.stop()


def test_both_spellings_score_the_right_columns(spark, tmp_path):
    x = np.random.default_rng(0).normal(size=(200, 3))
    X = pl.DataFrame({"width": x[:, 0], "shop": np.where(x[:, 1] > 0, "a", "b"), "height": x[:, 1], "depth": x[:, 2]})
    y = pl.DataFrame({"volume": 3 * x[:, 0] - x[:, 1], "large": x[:, 2] > 0})
    model = SharedBottom(hidden=(8,), epochs=2, n_jobs=1, device="cpu", random_state=0).fit(X, y)
    save_model(model, tmp_path / "model")
    udf = mlflow.pyfunc.spark_udf(spark, str(tmp_path / "model"), env_manager="local")

    rows = spark.createDataFrame(X.with_columns(index=pl.int_range(200)).to_pandas())
    for answer in (udf(*COLUMNS), udf(struct(*COLUMNS)), udf(struct(*reversed(COLUMNS)))):
        found = pl.from_pandas(rows.select("index", answer.alias("to")).orderBy("index").select("to.*").toPandas())
        expected = model.predict(X)
        assert found.columns == expected.columns
        np.testing.assert_allclose(found["volume"], expected["volume"], rtol=0, atol=1e-6)
        assert found["large"].to_list() == expected["large"].to_list()
    mixed_up = model.predict(X.rename({"width": "height", "height": "width"}))
    assert np.abs(mixed_up["volume"] - expected["volume"]).max() > 0.1, "columns that are mixed up would be noticed"

    options = {"result_type": "array<double>", "params": {"method": "predict_proba"}}
    udf = mlflow.pyfunc.spark_udf(spark, str(tmp_path / "model"), env_manager="local", **options)
    found = rows.select("index", udf(*COLUMNS).alias("to")).orderBy("index").toPandas()["to"]
    np.testing.assert_allclose(np.stack(found), model.predict_proba(X)["large"], rtol=0, atol=1e-6)
