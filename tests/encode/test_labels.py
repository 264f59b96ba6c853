"""Labels to numbers and back, in the types and containers they came in."""

from __future__ import annotations

import pickle
from copy import deepcopy
from dataclasses import fields

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from forging import through_file
from hypothesis import given
from hypothesis import strategies as st

from tabmtl.base.storage.stored import take_apart
from tabmtl.encode import LabelCoder
from tabmtl.targets import Task

NAN = float("nan")


def outputs_of(coder: LabelCoder, values: np.ndarray) -> list[np.ndarray]:
    """What a perfect model would answer: certain probabilities, or the values."""
    columns = []
    for task, column in zip(coder.column_tasks, values.T, strict=True):
        if task.is_classification:
            columns.append(np.eye(len(task.classes))[np.nan_to_num(column).astype(int)])
        else:
            columns.append(np.nan_to_num(column))
    return columns


def come_back(y, **options) -> object:
    """Labels encoded, answered perfectly, and decoded; through a saved coder."""
    coder = LabelCoder.fit(y, **options)
    facts, coder = take_apart(coder).facts, through_file(coder)
    assert take_apart(coder).facts == facts
    values, weight = coder.encode(y)
    assert weight is None
    return coder.decode(outputs_of(coder, values))


POLARS = [
    pl.Series("k", ["no", "yes", "no"]),
    pl.Series("k", ["", "\0", "x" * 3000]),
    pl.Series("k", ["b", "a", "c"], dtype=pl.Categorical),
    pl.Series("k", ["b", "a", "b"], dtype=pl.Enum(["unused", "b", "a"])),
    pl.Series("k", [True, False, True]),
    pl.Series("k", [3, 7, 3], dtype=pl.Int8),
    pl.Series("k", [0, 2**63, 0], dtype=pl.UInt64),
    pl.Series("k", [0, 2**100, 0], dtype=pl.Int128),
    pl.Series("k", [0.0, 1.0, 0.0]),
    pl.Series("k", [0.0, 1.0, 0.0], dtype=pl.Float32),
    pl.Series("k", [0.25, 1.5, -3.0]),
    pl.Series("k", [0.25, 1.5, -3.0], dtype=pl.Float32),
]


@pytest.mark.parametrize("y", POLARS, ids=lambda s: f"{s.dtype}-{s[0]}")
@pytest.mark.parametrize("flat", [True, False])
def test_labels_of_polars_come_back_as_they_went_in(y, flat):
    y = y if flat else y.to_frame()
    answer = come_back(y)
    assert type(answer) is type(y)
    assert answer.equals(y)
    assert (answer.dtype == y.dtype and answer.name == "k") if flat else answer.schema == y.schema


PANDAS = [
    pd.Series(["no", "yes", "no"], dtype="str"),
    pd.Series(["no", "yes", "no"], dtype=object),
    pd.Series(["no", "yes", "no"], dtype="string[python]"),
    pd.Series(["no", "yes", "no"], dtype="string[pyarrow]"),
    pd.Series(["no", "yes", "no"], dtype=pd.ArrowDtype(pa.large_string())),
    pd.Series(["no", "yes", "no"], dtype="category"),
    pd.Series(pd.Categorical(["b", "a", "b"], categories=["unused", "b", "a"], ordered=True)),
    pd.Series(pd.Categorical([3, 1, 3], categories=[7, 3, 1])),
    pd.Series(pd.Categorical([0.5, 1.5, 0.5])),
    pd.Series(pd.Categorical([True, False, True])),
    pd.Series([True, False, True]),
    pd.Series([True, False, True], dtype="boolean"),
    pd.Series([True, False, True], dtype=pd.ArrowDtype(pa.bool_())),
    pd.Series([3, 1, 3], dtype="uint8"),
    pd.Series([3, 1, 3], dtype="Int64"),
    pd.Series([3, 1, 3], dtype=pd.ArrowDtype(pa.int32())),
    pd.Series([0.0, 1.0, 0.0]),
    pd.Series([0.5, 1.5, 2.5], dtype="float32"),
    pd.Series([0.5, 1.5, 2.5], dtype="Float64"),
    pd.Series([0.5, 1.5, 2.5], dtype=pd.ArrowDtype(pa.float64())),
]


@pytest.mark.parametrize("y", PANDAS, ids=lambda s: f"{s.dtype}-{s[0]}")
@pytest.mark.parametrize("flat", [True, False])
def test_labels_of_pandas_come_back_as_they_went_in(y, flat):
    if flat:
        pd.testing.assert_series_equal(come_back(y), y)
    else:
        pd.testing.assert_frame_equal(come_back(y.to_frame("k")), y.to_frame("k"))


@pytest.mark.parametrize("holes", [None, NAN, pd.NA])
@pytest.mark.parametrize("y", PANDAS, ids=lambda s: f"{s.dtype}-{s[0]}")
def test_a_hole_changes_no_other_label(y, holes):
    if y.dtype in (np.dtype("bool"), np.dtype("uint8")):
        pytest.skip("cannot hold a hole")
    if holes is pd.NA and isinstance(y.dtype, np.dtype) and y.dtype.kind == "f":
        holes = NAN
    holed = pd.concat([y, pd.Series([holes], dtype=y.dtype)], ignore_index=True)
    pd.testing.assert_series_equal(come_back(holed)[:3], y)
    assert np.isnan(LabelCoder.fit(holed).encode(holed)[0][3, 0])


ARRAYS = [
    np.array(["no", "yes", "no"]),
    np.array(["no", "yes", "no"], dtype=object),
    np.array([True, False, True]),
    np.array([3, 1, 3], dtype=np.int16),
    np.array([0.0, 1.0, 0.0], dtype=np.float16),
    np.array([0.5, 1.5, 2.5], dtype=np.float32),
    np.array([0.5, 1.5, 2.5]),
    np.array([0.5, 1.5, 2.5], dtype=np.longdouble),
]


@pytest.mark.parametrize("y", ARRAYS, ids=lambda a: str(a.dtype))
def test_labels_of_arrays_come_back_as_they_went_in(y):
    answer = come_back(y)
    np.testing.assert_array_equal(answer, y)
    assert answer.dtype == y.dtype
    assert come_back(np.column_stack([y, y])).shape == (3, 2)


def test_targets_of_pyarrow_may_have_a_zero_byte_in_their_name():
    y = pa.table({"a\0": [0.5, 1.5], "\0": ["u", "v"]})
    assert come_back(y).equals(y)


@pytest.mark.parametrize("y", [pl.DataFrame(), pd.DataFrame(index=range(3)), pa.table({}), np.empty((3, 0))])
def test_targets_without_a_column_are_refused(y):
    with pytest.raises(ValueError, match=r"y has no column|Found array with 0 feature"):
        LabelCoder.fit(y)


def test_labels_of_pyarrow_come_back_as_they_went_in():
    y = pa.table({"s": ["a", None, "b"], "b": [True, False, None], "f": [0.5, 1.5, None], "i": [1, 2, None]})
    answer = come_back(y)
    assert answer.schema.types == y.schema.types
    assert answer.slice(0, 1).to_pylist() == y.slice(0, 1).to_pylist()


@given(
    st.lists(st.none() | st.text(st.characters(exclude_categories=["Cs"]), max_size=4), min_size=2, max_size=30).filter(
        lambda v: len(set(v) - {None}) > 1
    )
)
def test_codes_are_the_same_whatever_the_frame(labels):
    expected = None
    for y in (
        pl.Series(labels, dtype=pl.String),
        pl.Series(labels, dtype=pl.Categorical),
        pl.Series(labels, dtype=pl.Enum(sorted(set(labels) - {None}))),
        pd.Series(labels, dtype=object),
        pd.Series(labels, dtype="category"),
        pd.Series(labels, dtype="str"),
        pa.chunked_array([pa.array(labels, pa.string())]),
        np.array(labels, dtype=object),
    ):
        coder = LabelCoder.fit(y)
        assert coder.tasks[0].classes == tuple(sorted(set(labels) - {None}))
        found = coder.encode(y)[0]
        expected = found if expected is None else expected
        np.testing.assert_array_equal(found, expected)


ORDERED = [
    pl.Series("size", ["small", None, "large", "medium"], dtype=pl.Enum(["none", "small", "medium", "large"])),
    pd.Series(pd.Categorical(["small", None, "large", "medium"], ["none", "small", "medium", "large"], ordered=True)),
]


@pytest.mark.parametrize("y", ORDERED, ids=["polars", "pandas"])
def test_ordered_categories_keep_their_order(y):
    coder = LabelCoder.fit(y)
    assert coder.tasks[0].classes == ("small", "medium", "large")
    np.testing.assert_array_equal(coder.encode(y)[0][:, 0], [0, NAN, 2, 1])
    assert list(coder.decode([np.eye(3)])) == ["small", "medium", "large"]
    declared = Task(name=coder.names[0], kind="multiclass", classes=("medium", "large", "small"))
    assert LabelCoder.fit(y, tasks=[declared] if coder.names == ("y",) else {"size": declared}).tasks == (declared,)


def test_ordered_numbers_keep_their_order_and_unordered_categories_have_none():
    y = pd.DataFrame(
        {"a": pd.Categorical([3, 1, 2], [2, 3, 1], ordered=True), "b": pd.Categorical([3, 1, 2], [2, 3, 1])}
    )
    tasks = LabelCoder.fit(y).tasks
    assert [task.classes for task in tasks] == [(2, 3, 1), (1, 2, 3)]


def test_declared_classes_fix_the_order_and_may_be_unseen():
    classes = np.array(["yes", "no", "maybe"])
    for y in (
        pl.Series("t", ["no", "yes", None]),
        pl.Series("t", ["no", "yes", None], dtype=pl.Enum(["no", "yes"])),
        pd.Series(["no", "yes", None], name="t", dtype="category"),
        pd.Series(["no", "yes", None], name="t", dtype=object),
    ):
        coder = LabelCoder.fit(y, tasks=[Task(name="t", kind="multiclass", classes=classes)])
        assert coder.encode(y)[0][:2, 0].tolist() == [1, 0]
        assert list(coder.decode([np.eye(3)])) == ["yes", "no", "maybe"]
        through_file(coder)
    numbers = Task(name="t", kind="multiclass", classes=np.array([2, 1, 0]))
    coder = LabelCoder.fit(pd.Series([0.0, 1.0, NAN], name="t"), tasks=[numbers])
    assert through_file(coder).tasks[0].classes == (2, 1, 0)
    assert coder.encode([0, 1, 2])[0].ravel().tolist() == [2, 1, 0]


def test_validation_labels_may_have_another_type():
    coder = LabelCoder.fit(np.array([True, False]))
    for y in ([1, 0], [1.0, 0.0], pl.Series([True, False]), pd.Series([1, 0], dtype="Int64")):
        assert coder.encode(y)[0].ravel().tolist() == [1, 0]
    coder = LabelCoder.fit(pl.Series([0, 2**62 + 1], dtype=pl.Int64))
    assert coder.encode(pl.Series([2**62 + 1], dtype=pl.UInt64))[0].item() == 1
    with pytest.raises(ValueError, match="was not seen in fit"):
        coder.encode(pl.Series([2**62], dtype=pl.UInt64))
    assert np.isnan(coder.encode(pl.Series([None, None]))[0]).all()


def test_encoding_names_what_does_not_fit():
    y = pl.DataFrame({"a": ["x", "y", "x"], "b": [0.5, 1.5, 2.5]})
    coder = LabelCoder.fit(y)
    for other, message in (
        (pl.DataFrame({"a": ["x"]}), r"y lacks the targets \['b'\]"),
        (np.zeros((2, 3)), "y has 3 targets, expected 2"),
        (pl.DataFrame({"a": ["q"], "b": [1.0]}), "task 'a': the label 'q' was not seen in fit; expected one of"),
        (pl.DataFrame({"a": [1], "b": [1.0]}), "task 'a': labels are Int64, expected ones like"),
        (pl.DataFrame({"a": ["x"], "b": ["1"]}), "task 'b' expects numbers, got labels of type String"),
        (pl.DataFrame({"a": ["x"], "b": [np.inf]}), "task 'b': a label is infinite"),
    ):
        with pytest.raises(ValueError, match=message):
            coder.encode(other)
    # matched by name, extra columns ignored
    values, _ = coder.encode(pl.DataFrame({"b": [9.0], "z": [1], "a": ["y"]}))
    assert values.tolist() == [[1, 9]]


@pytest.mark.parametrize("name", ["*", "^.*$", "^a$", "", "a b", "\0"])
def test_target_names_are_only_names(name):
    y = pl.DataFrame({"a": ["x", "y", None], name: [1.5, float("nan"), 2.5], f"{name} ": [3, 4, 3]})
    coder = LabelCoder.fit(y, [1.0, 1.0, 2.0])
    assert [task.kind.name for task in coder.tasks] == ["binary", "regression", "binary"]
    values, _ = coder.encode(y, [1.0, 1.0, 2.0])
    np.testing.assert_array_equal(values, [[0, 1.5, 0], [1, NAN, 1], [NAN, 2.5, 0]])
    assert coder.decode(outputs_of(coder, values)).columns == y.columns


def test_weight_zero_is_an_absent_label():
    y = pl.DataFrame({"a": ["x", "y", "odd", "x"], "b": [1.0, 2.0, 1e9, None]})
    weight = np.array([[1.0, 1], [2, 3], [0, 0], [1, 1]])
    coder = LabelCoder.fit(y, weight)
    assert coder.tasks[0].classes == ("x", "y")
    assert coder.center[1] == pytest.approx(1.5)
    values, weights = coder.encode(y, weight)
    np.testing.assert_array_equal(values, [[0, 1], [1, 2], [NAN, NAN], [0, NAN]])
    np.testing.assert_array_equal(weights, [[1, 1], [2, 3], [0, 0], [1, 0]])
    np.testing.assert_array_equal(coder.encode(y, [1, 1, 0, 1])[0], values)
    with pytest.raises(ValueError, match="task 'b' has no observed label"):
        LabelCoder.fit(y, pl.DataFrame({"b": [0.0] * 4, "a": [1.0] * 4}))


def test_regression_is_trained_in_standard_units_and_answered_in_its_own():
    y = pl.Series("t", [10.0, 20.0, None, 30.0])
    coder = LabelCoder.fit(y)
    standard = coder.standardize(coder.encode(y)[0])
    assert standard.dtype == np.float32
    np.testing.assert_allclose(standard[[0, 1, 3], 0], [-1.2247449, 0, 1.2247449], rtol=1e-6)
    assert coder.decode(coder.outputs([standard[[0, 1, 3]]])).to_list() == pytest.approx([10, 20, 30], rel=1e-6)
    constant = LabelCoder.fit(pl.Series([7.5, 7.5]))
    assert constant.outputs([np.zeros((1, 1))])[0].tolist() == [7.5]


def test_what_is_kept_of_the_classes_is_not_copied():
    y = pl.DataFrame({"a": ["u", None, "v"], "b": [0.5, 1.0, 2.0]})
    coder = LabelCoder.fit(y)
    outputs = [np.array([[0.2, 0.8]]), np.array([3.0])]
    said = coder.decode(outputs)
    assert said.to_dicts() == [{"a": "v", "b": 3.0}]
    for copied in (deepcopy(coder), pickle.loads(pickle.dumps(coder))):
        assert vars(copied).keys() == {field.name for field in fields(LabelCoder)}
        assert copied.decode(outputs).equals(said)


def test_scores_become_probabilities_without_overflow():
    y = pl.DataFrame({"b": ["n", "y", "n"], "m": ["u", "v", "w"]})
    binary, multi = LabelCoder.fit(y).outputs([np.array([[0.0], [1e4], [-1e4]]), np.array([[1e4, 0, -1e4], [1, 1, 1]])])
    np.testing.assert_allclose(binary, [[0.5, 0.5], [0, 1], [1, 0]], atol=1e-12)
    np.testing.assert_allclose(multi, [[1, 0, 0], [1 / 3] * 3], atol=1e-12)


def test_long_layout_gives_every_task_the_kind_of_the_one_target():
    coder = LabelCoder.fit(pl.Series("passed", [True, False]), task_levels=["s1", "s2", "s3"])
    assert [(task.name, task.kind.name) for task in coder.tasks] == [(f"s{i}", "binary") for i in (1, 2, 3)]
    assert [task.name for task in coder.column_tasks] == ["passed"]
    copied = through_file(coder)
    assert copied.task_levels == ("s1", "s2", "s3")
    assert copied.decode([np.eye(2)]).to_list() == [False, True]
