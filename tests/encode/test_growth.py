"""Coders that go on: new levels and classes come behind the known ones, and all else stays."""

from __future__ import annotations

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from forging import through_file

from tabmtl import SharedBottom
from tabmtl.encode import LabelCoder
from tabmtl.encode.new_classes import grown_labels
from tabmtl.targets import Task

WIDE = pl.DataFrame({"size": [1.0, 2.0, 4.0, 3.0], "town": ["Ulm", "Bonn", "Ulm", "Bonn"]})
LABELS = pl.DataFrame({"kind": ["a", "b", "c", "a"], "price": [1.5, 2.5, 0.5, 2.0], "yes": [True, False, True, True]})


def learned(X=WIDE, y=LABELS, **params):
    return SharedBottom(min_frequency=1, **params).__learner__().coder(X, y)


def test_known_codes_and_scales_stay():
    coder = learned()
    more = pl.DataFrame({"town": ["Aachen", None], "size": [1000.0, None]})
    grown = coder.extended(more, pl.DataFrame({"kind": ["d", "b"], "price": [99.0, None], "yes": [None, None]}))
    before, after = coder.read(WIDE, LABELS), grown.read(WIDE, LABELS)
    assert all(np.array_equal(before.x.arrays()[name], part) for name, part in after.x.arrays().items())
    assert np.array_equal(before.y, after.y) and np.array_equal(grown.labels.scale, coder.labels.scale)
    assert grown.read(more).x.codes.tolist() == [[4], [0]]
    assert grown.labels.tasks[0].classes == ("a", "b", "c", "d")
    assert through_file(grown.labels).encode(LABELS)[0].shape == (4, 3)


@pytest.mark.parametrize(
    "make",
    [
        pl.Series,
        pd.Series,
        np.array,
        lambda values: pd.Series(values, dtype="category"),
        lambda values: pl.Series(values, dtype=pl.Categorical),
        lambda values: pa.chunked_array([values]),
    ],
)
def test_a_longer_class_comes_back_whole(make):
    coder = grown_labels(LabelCoder.fit(make(["a", "b", "c"])), make(["b", "longer"]))
    found = pl.Series(list(pl.Series(np.asarray(coder.decode([np.eye(4)])).tolist())))
    assert found.to_list() == ["a", "b", "c", "longer"]


@pytest.mark.parametrize(
    ("known", "new", "expected"),
    [([1, 2, 3], [4.0, np.nan], (1, 2, 3, 4)), ([1, 2, 3], [3, 3], (1, 2, 3)), ([0.5, 1.5, 2.5], [3, 1], None)],
)
def test_numbers_stay_of_their_type(known, new, expected):
    coder = grown_labels(LabelCoder.fit(np.array(known), tasks={"y": "multiclass"}), np.array(new))
    assert coder.tasks[0].classes == (expected or (0.5, 1.5, 2.5, 1.0, 3.0))


def test_a_label_of_weight_0_and_named_classes():
    y, weight = pl.Series("y", ["a", "z"]), np.array([1.0, 0.0])
    coder = LabelCoder.fit(pl.Series("y", ["a", "b", "c"]))
    assert grown_labels(coder, y, weight).tasks == coder.tasks
    assert grown_labels(coder, y, weight, classes=["c", "q"]).tasks[0].classes == ("a", "b", "c", "q")


def test_all_tasks_of_a_long_table_take_a_class():
    X, y = pl.DataFrame({"x": [1.0, 2.0, 3.0], "task": ["s", "t", "t"]}), pl.Series("y", ["a", "b", "c"])
    coder = learned(X, y, task_column="task")
    grown = coder.extended(X[:1], pl.Series("y", ["d"]))
    assert [task.classes for task in grown.labels.tasks] == 2 * [("a", "b", "c", "d")]
    with pytest.raises(ValueError, match=r"the task 'u' is new.*add_task"):
        coder.extended(pl.DataFrame({"x": [1.0], "task": ["u"]}), y[:1])


ORDERED = pd.Series(pd.Categorical(["a", "b", "c"], ordered=True))


@pytest.mark.parametrize(
    ("coder", "y", "words"),
    [
        (LabelCoder.fit(pl.Series("y", ["a", "b"])), pl.Series("y", ["c"]), "is binary.*'c'.*'multiclass'.*fit again"),
        (
            LabelCoder.fit(np.array([1, 2, 3]), tasks={"y": "ordinal"}),
            np.array([4]),
            "is ordinal, has the classes.*fit again",
        ),
        (
            LabelCoder.fit(pl.Series("y", ["a", "b", "c"], dtype=pl.Enum(["a", "b", "c"]))),
            pl.Series("y", ["d"]),
            "Enum.*cannot hold the new class 'd'",
        ),
        (LabelCoder.fit(ORDERED), pd.Series(["d"]), "classes were declared in fit"),
        (LabelCoder.fit(np.array([1, 2, 3], dtype="i1"), tasks={"y": "multiclass"}), np.array([300]), "Int8.*300"),
        (LabelCoder.fit(np.array([1, 2, 3]), tasks={"y": "multiclass"}), np.array(["a"]), "expected ones like"),
    ],
)
def test_classes_that_cannot_join(coder, y, words):
    with pytest.raises(ValueError, match=words):
        grown_labels(coder, y).encode(y)


def test_declared_classes_are_closed():
    coder = LabelCoder.fit(pl.Series("y", ["a", "b", "c"]))
    with pytest.raises(ValueError, match="declared"):
        grown_labels(coder, pl.Series("y", ["d"]), closed=["y"])


@pytest.mark.parametrize("new", ["nobody", 7])
def test_named_classes_that_booleans_cannot_hold(new):
    coder, y = LabelCoder.fit(np.array([True, False])), np.array([True])
    with pytest.raises(ValueError, match=f"labels of fit are Boolean, which cannot hold the new class {new!r}"):
        grown_labels(coder, y, classes=[new])


@pytest.mark.parametrize(
    ("classes", "words"),
    [(["a", "b"], "must be a mapping"), ({"kinds": ["a"]}, "kinds"), ({"price": [1, 2]}, "has no classes")],
)
def test_classes_that_fit_no_task(classes, words):
    with pytest.raises(ValueError, match=words):
        SharedBottom(tasks={"price": Task(name="price", kind="regression")}).__learner__().declaring(LABELS, classes)
