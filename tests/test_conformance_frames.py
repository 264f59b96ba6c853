"""Every estimator gives the same answers whatever the frame, and answers in the container of y."""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from conformance import (
    ESTIMATORS,
    FREE,
    MIXED,
    answers,
    features,
    fitted,
    mixed_targets,
    same,
    targets_for,
    tiny,
)
from polars.testing import assert_frame_equal

every_estimator = pytest.mark.parametrize("cls", ESTIMATORS, ids=lambda cls: cls.__name__)
every_free_estimator = pytest.mark.parametrize("cls", FREE, ids=lambda cls: cls.__name__)
every_mixed = pytest.mark.parametrize("cls", MIXED, ids=lambda cls: cls.__name__)

#: The same features as polars has them, in other containers and dtypes.
CONTAINERS = {
    "lazy": lambda X: X.lazy(),
    "pyarrow": lambda X: X.to_arrow(),
    "pandas": lambda X: X.to_pandas(),
    "pandas-arrow": lambda X: X.to_pandas(use_pyarrow_extension_array=True),
    "pandas-object": lambda X: X.to_pandas().astype({"text": object, "flag": object}),
    "pandas-nullable": lambda X: X.to_pandas().convert_dtypes(),
    "pandas-category": lambda X: X.to_pandas().astype({"text": "category"}),
    "polars-categorical": lambda X: X.cast({"text": pl.Categorical}),
    "polars-enum": lambda X: X.cast({"text": pl.Enum(["unused", "red", "green", "blue"])}),
    "polars-nan": lambda X: X.with_columns(pl.col("holes").fill_null(float("nan"))),
}


@pytest.mark.parametrize("container", CONTAINERS)
@every_estimator
def test_features_mean_the_same_in_every_container(cls, container):
    estimator, X, y = fitted(cls)
    said = answers(estimator, X)
    other = CONTAINERS[container](X)
    assert same(said, answers(estimator, other))
    assert same(said, answers(tiny(cls).fit(other, y), other))
    assert estimator.score_tasks(other, y) == estimator.score_tasks(X, y)


@every_estimator
def test_arrays_mean_the_same_as_frames(cls):
    X = features().select("plain", "holes", "count", "constant")
    y = targets_for(cls, features())
    array = X.to_numpy()
    from_array = tiny(cls).fit(array, y)
    assert not hasattr(from_array, "feature_names_in_")
    said = answers(from_array, array)
    assert same(said, answers(from_array, array.tolist()))
    assert same(said, answers(from_array, np.asfortranarray(array)))
    assert same(said, answers(tiny(cls).fit(X, y), X))
    mixed = features().select("plain", "text").to_pandas().to_numpy(dtype=object)
    assert same(
        answers(tiny(cls).fit(mixed, y), mixed),
        answers(tiny(cls).fit(features().select("plain", "text"), y), features().select("plain", "text")),
    )


@every_estimator
def test_frames_without_names_are_silent(cls):
    X, y = pd.DataFrame(features().select("plain", "count").to_numpy()), targets_for(cls, features())
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        tiny(cls).fit(X, y).predict(X)


@every_estimator
def test_columns_named_as_categories_are_categories(cls):
    X, y = features().select("plain", "count"), targets_for(cls, features())
    by_name = tiny(cls, categorical_features=["count"]).fit(X, y)
    by_place = tiny(cls, categorical_features=[1]).fit(X, y)
    by_type = tiny(cls).fit(X.cast({"count": pl.String}), y)
    said = answers(by_name, X)
    assert same(said, answers(by_place, X))
    assert same(said, answers(by_type, X.cast({"count": pl.String})))
    with pytest.raises(ValueError, match="colour"):
        tiny(cls, categorical_features=["colour"]).fit(X, y)


@every_estimator
def test_targets_come_back_in_their_container(cls):
    X = features()
    y = targets_for(cls, X)
    predicted = tiny(cls).fit(X, y).predict(X)
    assert isinstance(predicted, pl.DataFrame)
    assert predicted.schema == y.schema
    assert sum(predicted.null_count().row(0)) == 0

    index = pd.Index(np.arange(len(X)) + 1000, name="row")
    pandas_X, pandas_y = X.to_pandas().set_index(index), y.to_pandas().set_index(index)
    in_pandas = tiny(cls).fit(pandas_X, pandas_y).predict(pandas_X)
    assert isinstance(in_pandas, pd.DataFrame)
    assert in_pandas.index.equals(index)
    assert in_pandas.dtypes.tolist() == pandas_y.dtypes.tolist()
    assert_frame_equal(pl.from_pandas(in_pandas), predicted)

    in_arrow = tiny(cls).fit(X, y.to_arrow()).predict(X)
    assert isinstance(in_arrow, pa.Table)
    assert_frame_equal(pl.from_arrow(in_arrow), predicted)


@every_free_estimator
def test_flat_targets_come_back_flat(cls):
    X = features()
    y = targets_for(cls, X)[:, 0]
    series = tiny(cls).fit(X, y).predict(X)
    assert isinstance(series, pl.Series)
    assert (series.name, series.dtype) == (y.name, y.dtype)
    in_pandas = tiny(cls).fit(X.to_pandas(), y.to_pandas()).predict(X.to_pandas())
    assert isinstance(in_pandas, pd.Series)
    assert in_pandas.name == y.name
    full = y.fill_null(strategy="backward").fill_null(strategy="forward")
    array = tiny(cls).fit(X, full.to_numpy()).predict(X)
    assert isinstance(array, np.ndarray)
    assert array.shape == (len(X),)
    one_column = tiny(cls).fit(X, y.to_frame()).predict(X)
    assert (one_column.columns, one_column.shape) == ([y.name], (len(X), 1))
    assert one_column.to_series().equals(series)


@every_mixed
def test_labels_keep_their_type(cls):
    X, y = features(), mixed_targets(features())
    typed = y.select(
        flag=pl.col("late") == "late",
        enum=pl.col("size").cast(pl.Enum(["small", "medium", "large"])),
        category=pl.col("size").cast(pl.Categorical),
        level=pl.col("size").replace_strict({"small": 7, "medium": 1, "large": 3}, return_dtype=pl.Int16),
        short=pl.col("delay").cast(pl.Float32),
        whole=pl.col("delay").round().cast(pl.Int32),
    )
    tasks = {"level": "multiclass", "whole": "regression"}
    estimator = tiny(cls, tasks=tasks).fit(X, typed)
    predicted = estimator.predict(X)
    expected = dict(typed.schema) | {"whole": pl.Float64()}
    assert dict(predicted.schema) == expected
    for name in ("flag", "enum", "category", "level"):
        assert set(predicted[name].cast(pl.String)) <= set(typed[name].drop_nulls().cast(pl.String))
    probabilities = estimator.predict_proba(X)
    assert list(probabilities) == ["flag", "enum", "category", "level"]
    assert estimator.tasks_[3].classes == (1, 3, 7)
    for task in estimator.tasks_[:4]:
        p = probabilities[task.name]
        assert p.shape == (len(X), len(task.classes))
        np.testing.assert_allclose(p.sum(axis=1), 1)
        assert [task.classes[k] for k in p.argmax(axis=1)] == predicted[task.name].to_list()


@every_mixed
def test_an_array_of_objects_holds_mixed_targets(cls):
    X, y = features(), mixed_targets(features())
    array = y.to_pandas().to_numpy(dtype=object)
    from_array, from_frame = tiny(cls).fit(X, array), tiny(cls).fit(X, y)
    assert [task.kind for task in from_array.tasks_] == ["binary", "multiclass", "regression"]
    predicted = from_array.predict(X)
    assert predicted.dtype == object
    for j, name in enumerate(y.columns):
        assert predicted[:, j].tolist() == from_frame.predict(X)[name].to_list()


@every_free_estimator
def test_probabilities_take_the_form_of_the_face(cls):
    estimator, X, y = fitted(cls)
    if cls._target_kind == "regression":
        assert not hasattr(estimator, "predict_proba")
        return
    probabilities = estimator.predict_proba(X)
    if cls._target_kind == "classification":
        assert isinstance(probabilities, list)
        probabilities = dict(zip(y.columns, probabilities, strict=True))
        assert [classes.tolist() for classes in estimator.classes_] == [list(task.classes) for task in estimator.tasks_]
    assert {name: p.shape for name, p in probabilities.items()} == {"late": (len(X), 2), "size": (len(X), 3)}
    flat = tiny(cls).fit(X, y["size"])
    assert isinstance(flat.predict_proba(X), np.ndarray)
    assert flat.classes_.tolist() == sorted(flat.classes_) if cls._target_kind else not hasattr(flat, "classes_")
