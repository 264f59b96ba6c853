"""Rows as they come over the wire: MLflow's own reading of every format, then ours, without a server."""

import json
from datetime import datetime

import mlflow
import numpy as np
import polars as pl
import pytest
import recommenders
from conformance import features, long_table, mixed_targets, tiny
from models_at_hand import fitted
from tracking import JSON, bodies, invoke

from tabmtl import RMTGB, SharedBottom, SharedTrees
from tabmtl.serving.mlflow import pandas_view
from tabmtl.serving.mlflow.serving import TableModel

FORMATS = ["dataframe_records", "dataframe_split", "inputs", "csv"]


@pytest.fixture(scope="module")
def model(serve):
    """A served network, and its features."""
    estimator, X, _ = fitted(SharedBottom)
    return serve(estimator), X


@pytest.fixture(scope="module")
def coded(serve):
    """A served network whose categories are whole numbers, halves, and text that looks like numbers."""
    rng = np.random.default_rng(0)
    X = features().with_columns(half=rng.integers(0, 3, 120) / 2, zip=pl.Series(["01", "1", "None"] * 40))
    categories = dict.fromkeys(["count", "half"], "category")
    y = mixed_targets(X).with_columns(delay=pl.lit(1.0) * X["half"] * 100 + X["count"])
    return serve(tiny(SharedBottom, columns=categories, epochs=5).fit(X, y)), X


@pytest.mark.parametrize("name", FORMATS)
def test_all_formats_have_one_answer(model, name):
    served, X = model
    rows = X.to_dicts()
    assert any(row["text"] is None for row in rows)
    assert any(row["holes"] is None for row in rows)
    expected = served.get_raw_model().predict(X).to_dicts()
    assert invoke(served, *bodies(rows)[name]) == (200, expected)
    for method in ("", None):
        body = {"dataframe_records": rows, "params": {"method": method}}
        assert invoke(served, json.dumps(body)) == (200, expected)


def test_a_request_may_name_its_tasks(model):
    served, X = model
    estimator, rows = served.get_raw_model(), X.to_dicts()
    expected = estimator.predict(X, tasks=["delay", "late"]).to_dicts()
    for tasks, answers in [("delay, late", expected), ("", estimator.predict(X).to_dicts())]:
        found = invoke(served, json.dumps({"dataframe_records": rows, "params": {"tasks": tasks}}))
        assert found == (200, answers)
    found = served.predict(X, params={"method": "predict_proba", "tasks": "late"})
    np.testing.assert_array_equal(found.to_numpy(), estimator.predict_proba(X, tasks="late"))


def test_a_served_model_that_learns_on_reads_and_decodes_by_what_it_has_learned():
    X = pl.DataFrame({"n": np.arange(120.0), "code": ["1", "2"] * 60})
    y = pl.DataFrame({"a,b": ["u", "v"] * 60, "late": ["yes", "no"] * 60})
    model = tiny(SharedBottom, tasks={"a,b": "multiclass"}, columns={"code": "category"}).fit(X, y)
    served = TableModel(model)
    assert list(served.predict(X, {"tasks": '"a,b"'})) == ["a,b"]
    new = X.with_columns(code=pl.lit("3"))
    joins = {"classes": {"a,b": ["w"]}}
    model.partial_fit(new, y.with_columns(pl.lit("w").alias("a,b")), **joins)
    model.add_task(X, pl.DataFrame({"more": X["n"]}))
    wired = X.with_columns(code=pl.lit("3.0"))
    assert served.predict(wired).to_dict("list") == model.predict(new).to_dict(as_series=False)
    found = served.predict(wired, {"method": "predict_proba", "tasks": '"a,b"'})
    assert list(found) == ["a,b=u", "a,b=v", "a,b=w"]
    np.testing.assert_array_equal(found.to_numpy(), model.predict_proba(new, tasks="a,b"))


@pytest.mark.parametrize("name", FORMATS)
def test_categories_of_numbers_and_booleans_keep_their_levels(coded, name):
    served, X = coded
    X = X.with_columns(flag=pl.when(pl.int_range(120) % 5 > 0).then("flag"), half=pl.col("half").replace(0.5, None))
    # a CSV file cannot tell the text "None" from a null, nor "01" from 1 where it is made
    rows = X.drop("zip").with_columns(zip=pl.lit("01")).to_dicts()
    expected = served.get_raw_model().predict(X.with_columns(zip=pl.lit("01")))
    assert expected["delay"].n_unique() > 100
    status, found = invoke(served, *bodies(rows)[name])
    assert (status, found) == (200, expected.to_dicts())


@pytest.mark.parametrize("name", FORMATS)
def test_dates_are_text_and_durations_seconds(serve, name):
    when = pl.datetime_range(datetime(2024, 1, 1), datetime(2024, 2, 1), "7h", eager=True, time_zone="Europe/Berlin")
    frame = pl.DataFrame({"when": when, "day": when.dt.date(), "at": when.dt.time(), "took": when - when[0]})
    y = pl.DataFrame({"delay": when.dt.weekday() + np.random.default_rng(0).normal(size=len(when))})
    served = serve(SharedTrees(n_estimators=5, n_estimators_task=5, random_state=0).fit(frame, y))
    view = pandas_view(frame, served.metadata.signature)
    assert view["took"].dtype == float
    assert TableModel(served.get_raw_model()).predict(view).equals(served.predict(frame))
    expected = served.get_raw_model().predict(frame).to_dicts()
    assert invoke(served, *bodies(view.to_dict("records"))[name]) == (200, expected)
    status, said = invoke(served, *bodies([view.iloc[0].to_dict() | {"day": "soon"}])[name])
    assert (status, "column 'day' held datetimes in fit, and holds text now, such as ['soon']" in said) == (400, True)


@pytest.mark.parametrize("column", ["when", "day"])
def test_a_moment_with_a_zone_is_refused_where_fit_had_none(serve, column):
    when = pl.datetime_range(datetime(2024, 1, 1), datetime(2024, 2, 1), "7h", eager=True)
    frame = pl.DataFrame({"when": when, "day": when.dt.date()})
    y = pl.DataFrame({"delay": when.dt.weekday() + np.random.default_rng(0).normal(size=len(when))})
    estimator = SharedTrees(n_estimators=5, n_estimators_task=5, random_state=0).fit(frame, y)
    zoned = frame.with_columns(pl.col(column).cast(pl.Datetime("us")).dt.replace_time_zone("Europe/Berlin"))
    said = f"column {column!r} had no time zone in fit and has "
    for rows in (zoned, zoned.to_pandas()):
        with pytest.raises(TypeError, match=said):
            estimator.predict(rows)
    served = serve(estimator)
    rows = pandas_view(frame, served.metadata.signature).head(3).to_dict("records")
    for text in ("2024-01-02T10:00:00+02:00", "2024-01-02 10:00Z"):
        for body in bodies([*rows, rows[0] | {column: text}]).values():
            status, message = invoke(served, *body)
            assert (status, f"{said}one now, such as in {text!r}; write" in message) == (400, True), message


def test_columns_come_in_any_order_and_further_ones_are_left_out(coded):
    served, X = coded
    table, rows = TableModel(served.get_raw_model()), X.head(3).to_pandas()
    expected = table.predict(rows)
    for other in (rows[rows.columns[::-1]], rows.assign(further=[object()] * 3)[["further", *rows.columns[::-1]]]):
        assert table.predict(other).equals(expected)
    twice = rows.assign(further=0).rename(columns={"further": "half"})
    with pytest.raises(mlflow.MlflowException, match="every column needs a name of its own"):
        table.predict(twice)


def test_a_level_called_none_stays_a_level(coded):
    served, X = coded
    rows = X.filter(zip="None").head(2)
    for name in FORMATS[:3]:
        assert invoke(served, *bodies(rows.to_dicts())[name]) == (200, served.get_raw_model().predict(rows).to_dicts())


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("changes", [{"text": "purple"}, dict.fromkeys(features(1).columns)])
def test_nulls_and_unseen_levels_are_answered(model, name, changes):
    served, X = model
    row = X.row(0, named=True) | changes
    expected = served.get_raw_model().predict(pl.DataFrame([row], schema=X.schema))
    assert invoke(served, *bodies([row])[name]) == (200, expected.to_dicts())


@pytest.mark.parametrize("flag", ["true", "True", "TRUE", "1", 1, 1.0, True])
def test_a_boolean_may_be_written_in_many_ways(model, flag):
    served, X = model
    row = X.row(0, named=True) | {"flag": flag}
    expected = served.get_raw_model().predict(X.head(1).with_columns(flag=True))
    assert invoke(served, json.dumps({"dataframe_records": [row]})) == (200, expected.to_dicts())


GONE = object()
NO_TEXT = "column 'text': argument must be a string or a number"
REFUSED = [
    ({"holes": GONE, "flag": GONE}, {}, "the input has no column 'holes', 'flag'; give all 7 columns by name"),
    ({"plain": "tall"}, {}, "Failed to convert column plain"),
    ({"plain": [1]}, {}, "Failed to convert column plain"),
    ({"plain": float("inf")}, {}, "column 'plain' holds an infinite value"),
    ({"text": ["red"]}, {}, "column 'text' was categorical in fit and is now List"),
    ({"text": {"a": 1}}, {}, NO_TEXT),
    ({}, {"method": "fit"}, "method"),
    ({}, {"method": 3}, "method"),
    ({}, {"tasks": 3}, "tasks"),
    ({}, {"tasks": "late,dely"}, "'dely'"),
    ({}, {"tasks": "late, late"}, "tasks names ['late'] more than once"),
    ({}, {"tasks": "late\ndelay"}, "the parameter tasks must be names of tasks separated by commas"),
    ({}, {"tasks": "late,delay", "method": "predict_proba"}, "'delay' is regression; leave it out of tasks"),
    ({}, {"tasks": "late", "method": "predict_quantiles"}, "'late' is binary; leave it out of tasks"),
]


@pytest.mark.parametrize(("changes", "params", "said"), REFUSED)
def test_a_row_that_does_not_fit_is_refused(model, changes, params, said):
    served, X = model
    row = {name: value for name, value in (X.row(0, named=True) | changes).items() if value is not GONE}
    split = {"columns": list(row), "data": [list(row.values())]}
    for body in ({"dataframe_records": [row]}, {"dataframe_split": split}):
        status, message = invoke(served, json.dumps(body | {"params": params}))
        assert (status, said in message) == (400, True), message


@pytest.mark.parametrize("form", ["dataframe_records", "instances"])
def test_a_record_without_a_key_that_another_has_is_refused(model, form):
    served, X = model
    first, second, third = X.head(3).to_dicts()
    for name in ("plain", "text"):
        lacking = {key: value for key, value in second.items() if key != name}
        said = f"record 2 of the 3 {form} lacks {name!r}, which others have; write null"
        status, message = invoke(served, json.dumps({form: [first, lacking, third]}))
        assert (status, said in message) == (400, True), message
        with pytest.raises(mlflow.MlflowException, match="record 2 of the 3 records lacks"):
            TableModel(served.get_raw_model()).predict([first, lacking, third])
    # pairs of columns as long as each other, which MLflow would put beside each other
    status, message = invoke(served, json.dumps({form: [first, {}]}))
    assert (status, f"record 2 of the 2 {form} lacks 'plain', " in message) == (400, True), message
    further = [first, second | {"further": 1}]
    expected = served.get_raw_model().predict(X.head(2)).to_dicts()
    assert invoke(served, json.dumps({"dataframe_records": further})) == (200, expected)


@pytest.mark.parametrize("body", ["[1]", "{", "3", '{"dataframe_records": 3}', '{"dataframe_records": []}'])
def test_a_request_of_another_form_is_left_to_mlflow(model, body):
    assert invoke(model[0], body)[0] == 400


def test_a_row_of_few_values_is_refused(model):
    served, X = model
    split = {"columns": X.columns, "data": [list(X.row(0)), list(X.row(1))[:-1]]}
    status, message = invoke(served, json.dumps({"dataframe_split": split}))
    assert (status, "row 2 of dataframe_split has 6 of 7 values; write null" in message) == (400, True), message


def test_rows_without_names_are_told_to_have_names(model):
    served, X = model
    for key in ("instances", "inputs"):
        status, message = invoke(served, json.dumps({key: [[1.0] * X.width] * 2}))
        assert status == 400
        assert "the input has no column 'plain', 'holes', 'heavy'" in message
        assert "not instances" in message
        # MLflow reads text in them as the type of the first column
        assert invoke(served, json.dumps({key: [list(row) for row in X.head(2).rows()]}))[0] == 400


@pytest.fixture(scope="module", params=["named", "numbered"])
def long(request, serve):
    """A served network of the long layout, its features, and whether its tasks are whole numbers."""
    X, y = long_table()
    if request.param == "numbered":
        X = X.with_columns(school=pl.col("school").replace_strict({"east": 1, "north": 20, "west": 3}))
    return serve(tiny(SharedBottom, task_column="school").fit(X, y)), X, request.param == "numbered"


@pytest.mark.parametrize("name", FORMATS)
def test_a_row_is_answered_for_its_own_task(long, name):
    model, X, numbered = long
    assert {column.name: column.required for column in model.metadata.signature.inputs}["school"]
    status, found = invoke(model, *bodies(X.to_dicts())[name])
    assert (status, [row["grade"] for row in found]) == (200, model.get_raw_model().predict(X).to_list())
    row = X.row(0, named=True)
    for unknown, said in ((7 if numbered else "south", "the task '7'" if numbered else "the task 'south'"), (None, "")):
        status, message = invoke(model, *bodies([row | {"school": unknown}])[name])
        assert status == 400
        assert f"task_column 'school': {said}" in message
    row.pop("school")
    status, message = invoke(model, *bodies([row])[name])
    assert (status, "the input has no column 'school'" in message) == (400, True)


def test_an_unknown_task_is_shared_where_the_estimator_says_so(serve):
    estimator, X, _ = fitted(RMTGB, "long", unknown_task="shared")
    row = X.row(0, named=True) | {"school": "south"}
    expected = estimator.predict(pl.DataFrame([row], schema=X.schema)).to_list()
    assert invoke(serve(estimator), json.dumps({"dataframe_records": [row]})) == (200, [{"grade": expected[0]}])


@pytest.fixture(scope="module")
def clicks():
    return recommenders.TEST.head(40)


@pytest.fixture(scope="module")
def untyped(serve):
    """A served recommender that was logged without an example: its sessions and times are text to MLflow."""
    return serve(recommenders.fitted("M2TRec"))


@pytest.mark.parametrize("form", ["M2TRec", "VSKNN", "Popularity"])
def test_sessions_are_answered_by_frames_of_recommendations(serve, form, clicks):
    estimator = recommenders.fitted(form)
    model = serve(estimator, clicks.head(3))
    inputs = {column.name: str(column.type) for column in model.metadata.signature.inputs}
    assert inputs == {"session_id": "DataType.long", "item_id": "DataType.string", "time": "DataType.datetime"}
    found = model.predict(clicks.to_pandas(), params={"k": 3})
    expected = estimator.recommend(clicks, k=3).with_columns(pl.col("score").cast(pl.Float64))
    assert found.to_dict("list") == expected.to_dict(as_series=False)
    unseen = model.predict(clicks.to_pandas(), params={"k": 1000, "exclude_seen": True})
    assert len(unseen) == len(estimator.recommend(clicks, k=1000, exclude_seen=True))


@pytest.mark.parametrize("times", ["iso", "zulu", "seconds", "datetime"])
@pytest.mark.parametrize("name", FORMATS)
def test_times_may_be_text_or_seconds(untyped, clicks, name, times):
    written = {
        "iso": clicks["time"].dt.to_string("iso:strict"),
        "zulu": clicks["time"].dt.to_string("%Y-%m-%dT%H:%M:%S%.6fZ"),
        "seconds": clicks["time"].dt.epoch("us") / 1e6,
        "datetime": clicks["time"].dt.to_string("%Y-%m-%d %H:%M:%S%.6f"),
    }
    rows = clicks.with_columns(written[times].alias("time")).to_dicts()
    status, found = invoke(untyped, *bodies(rows)[name])
    expected = untyped.get_raw_model().recommend(clicks)
    assert status == 200
    assert [str(row["session_id"]) for row in found] == expected["session_id"].cast(pl.String).to_list()
    assert [row["item_id"] for row in found] == expected["item_id"].to_list()
    np.testing.assert_allclose([row["score"] for row in found], expected["score"].to_numpy(), rtol=1e-5)


REFUSED_CLICKS = [
    *(
        ({name: None}, {}, f"the column {name!r} of the log given as sessions is missing")
        for name in ("session_id", "item_id", "time")
    ),
    ({"time": "noon"}, {}, "the time column 'time' must hold seconds or ISO 8601 dates, got 'noon'"),
    ({"item_id": 3}, {}, "the items of the log given as sessions in 'item_id' are Int64"),
    ({"item_id": GONE}, {}, "the input has no column 'item_id'"),
    ({}, {"k": 0}, "k must be at least 1, got 0"),
    ({}, {"k": "many"}, "Invalid parameters"),
]


@pytest.mark.parametrize(("changes", "params", "said"), REFUSED_CLICKS)
def test_clicks_that_do_not_fit_are_named(untyped, clicks, changes, params, said):
    row = clicks.with_columns(pl.col("time").dt.to_string("iso:strict")).row(0, named=True) | changes
    row = {name: value for name, value in row.items() if value is not GONE}
    known = bodies([row]) if None in row.values() else {}
    for body, form in [(json.dumps({"dataframe_records": [row], "params": params}), JSON), *known.values()]:
        status, message = invoke(untyped, body, form)
        assert (status, said in message) == (400, True), message


def test_the_view_of_clicks_fits_models_without_an_example(untyped, clicks):
    found = untyped.predict(pandas_view(clicks, untyped.metadata.signature), params={"k": 2})
    assert found["item_id"].tolist() == untyped.get_raw_model().recommend(clicks, k=2)["item_id"].to_list()


@pytest.mark.parametrize("name", FORMATS[:2])
def test_lists_are_arrays_of_json(served_lists, name):
    served, X = served_lists
    rows = X.to_dicts()
    assert any(row["tags"] is None for row in rows)
    status, found = invoke(served, *bodies(rows)[name])
    assert (status, found) == (200, served.get_raw_model().predict(X).to_dicts())
    assert invoke(served, *bodies(rows[:1])[name]) == (200, found[:1])


@pytest.fixture(scope="module")
def served_lists(serve):
    """A served model of tags, whole numbers as tags, vectors, and sequences of whole numbers with lists beside them."""
    size = np.arange(60)
    tags = [None if k % 7 == 0 else ["b", "a", "c"][: k % 4] for k in size]
    lists = {"tags": tags, "codes": [[*range(k % 3)] for k in size], "vector": [[k / 2, 1.0] for k in size]}
    lists |= {"past": [[*range(-(k % 3), 2)] for k in size], "seen": [[*range(k % 4)] for k in size]}
    lists |= {"hours": [[k / 2 for k in own] for own in lists["past"]], "event": [["x"] * (k % 4) for k in size]}
    X = pl.DataFrame({"size": size, "item": size % 3, **lists})
    y = pl.DataFrame({"answer": size / 8 + X["codes"].list.len().to_numpy()})
    columns = {"past": "sequence:item", "hours": "sequence:past", "seen": "sequence", "event": "sequence:seen"}
    model = SharedTrees(n_estimators=5, n_estimators_task=5, min_child_samples=2, random_state=0, columns=columns)
    return serve(model.fit(X, y)), X
