"""What a target holds: inferred, declared, and the errors that name the task."""

from __future__ import annotations

import re
import warnings
from datetime import date
from decimal import Decimal

import numpy as np
import pandas as pd
import polars as pl
import pytest
from sklearn.metrics import accuracy_score

from tabmtl.base.schema import TabmtlWarning, told
from tabmtl.columns import Date, Number
from tabmtl.encode import LabelCoder
from tabmtl.metrics import make_task_metric
from tabmtl.targets import Task

NAN = float("nan")

KINDS = [
    ([True, False, None], "binary", (False, True)),
    (["a", "b", None], "binary", ("a", "b")),
    (["a", "b", "c"], "multiclass", ("a", "b", "c")),
    (pl.Series(["a", "b", "c"], dtype=pl.Categorical), "multiclass", ("a", "b", "c")),
    (pl.Series(["a", "b"], dtype=pl.Enum(["c", "b", "a"])), "binary", ("b", "a")),
    ([0.0, 1.0, None], "binary", (0.0, 1.0)),
    ([0.0, 1.0, NAN], "binary", (0.0, 1.0)),
    ([0.0, 2.0, NAN], "regression", None),
    ([0.5, 1.0], "regression", None),
    ([4, 9, None], "binary", (4, 9)),
    ([Decimal("1.5"), Decimal("2.5")], "regression", None),
    ([Decimal(0), Decimal(1)], "binary", (0.0, 1.0)),
]


@pytest.mark.parametrize(("labels", "kind", "classes"), KINDS)
def test_inferred_kinds(labels, kind, classes):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        (task,) = LabelCoder.fit(pl.Series("t", labels)).tasks
    assert task == Task(name="t", kind=kind, classes=classes, metric=task.metric)


@pytest.mark.parametrize(("n", "kind"), [(3, "multiclass"), (20, "multiclass"), (21, "regression")])
def test_ambiguous_integers_warn_with_the_cure(n, kind):
    with pytest.warns(TabmtlWarning, match=rf"task 't' holds {n} distinct whole numbers.*tasks={{'t': '{kind}'}}"):
        (task,) = LabelCoder.fit(pl.Series("t", range(n))).tasks
    assert task.kind.name == kind
    if kind == "regression":
        told.clear()
        with pytest.warns(TabmtlWarning, match=r"or tasks=\{'t': 'poisson'\} for counts$"):
            LabelCoder.fit(pl.Series("t", range(n)))
    with pytest.warns(TabmtlWarning, match="make -1 a null if it marks a missing label, and say which it is: tasks="):
        LabelCoder.fit(pl.Series("t", range(-1, n)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert LabelCoder.fit(pl.Series("t", range(n)), tasks={"t": "regression"}).tasks[0].kind.name == "regression"
        assert LabelCoder.fit(pl.Series("t", range(n)), force="classification").tasks[0].kind.name == "multiclass"
        category = pd.Series(range(n), name="t").astype("category")
        assert LabelCoder.fit(category).tasks[0].kind.name == "multiclass"


HOLED = [[1, 2, 3, 1], [4, 9, 4, 4], [*range(30)]]


@pytest.mark.parametrize("labels", HOLED, ids=["multiclass", "binary", "regression"])
def test_whole_floats_with_a_hole_are_whole_numbers_where_the_library_has_no_null(labels):
    holed = [*map(float, labels), NAN]
    with warnings.catch_warnings(action="ignore", category=TabmtlWarning):
        (expected,) = LabelCoder.fit(pl.Series("t", labels)).tasks
    is_sure = expected.kind.name == "binary"
    for y in (pd.Series(holed, name="t"), pd.DataFrame({"t": holed}, dtype="float32"), np.array(holed)):
        told.clear()
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            (task,) = LabelCoder.fit(y).tasks
        assert (task.kind, task.classes) == (expected.kind, expected.classes)
        assert [f"tasks={{{task.name!r}: {task.kind.name!r}}}" in str(each.message) for each in said] == [True] * (
            not is_sure
        )
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert LabelCoder.fit(y, tasks={task.name: "regression"}).tasks[0].kind.name == "regression"
            assert LabelCoder.fit(y, force="regression").tasks[0].kind.name == "regression"
            assert LabelCoder.fit(y, force="classification").tasks[0].is_classification


@pytest.mark.parametrize(
    "y",
    [
        pl.Series([1.0, 2.0, 3.0, None, NAN]),
        pd.Series([1.0, 2.0, 3.0]),
        pd.Series([1.0, 2.0, 3.0, None], dtype="Float64"),
        pd.Series([1.0, 2.5, 3.0, None]),
        np.array([1.0, 2.0, 3.0]),
    ],
)
def test_other_floats_are_numbers(y):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert LabelCoder.fit(y).tasks[0].kind.name == "regression"
        # a weight of zero takes a label away, and the library held all of them
        weight = [1.0, 1.0, 0.0, *[1.0] * (len(y) - 3)]
        assert LabelCoder.fit(y, weight).tasks[0].kind.name == "regression"


def test_numbers_as_text_warn_with_the_cure():
    texts = [*map(str, range(24)), "?", None]
    says = r"task 'y' is text, so each of its 25 values is a class.*except '\?'.* numbers of them.*tasks={'y': 'multicl"
    for y in (pl.DataFrame({"y": texts}), pd.Series(texts, dtype="str"), np.array(texts, dtype=object)):
        told.clear()
        with pytest.warns(TabmtlWarning, match=says):
            assert LabelCoder.fit(y).tasks[0].kind.name == "multiclass"
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            LabelCoder.fit(y, tasks={"y": "multiclass"})
            LabelCoder.fit(y, force="classification")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        LabelCoder.fit(pl.Series(texts[:20]))
        LabelCoder.fit(pd.Series(texts, dtype="category"))
        LabelCoder.fit(pl.Series([f"item {text}" for text in texts]))


@pytest.mark.parametrize("text", ["{},48", "{}.5%", "{}.06.2022"])
def test_dates_and_numbers_in_another_writing_warn_with_the_cure(text):
    y = pl.DataFrame({"y": [text.format(day) for day in range(10, 30)]})
    with pytest.warns(TabmtlWarning, match="task 'y' is text, .* in another writing; read them, in a frame") as caught:
        LabelCoder.fit(y)
    cure = re.search(r" by (y.*), with (Number|Date) of tabmtl.columns, or say", str(caught[0].message))
    with warnings.catch_warnings(action="error"):
        read = eval(cure[1], {"y": y, "pl": pl, "Number": Number, "Date": Date})
        assert LabelCoder.fit(read).tasks[0].kind.name == "regression"
        LabelCoder.fit(y, tasks={"y": "multiclass"})


def test_declared_beats_inferred():
    y = pl.DataFrame({"a": [1.0, 2.0, 3.0], "b": [1, 0, 1], "c": ["x", "y", "x"]})
    declared = {"a": "multiclass", "b": Task(name="b", kind="regression", weight=2.0)}
    tasks = LabelCoder.fit(y, tasks=declared).tasks
    assert [task.kind.name for task in tasks] == ["multiclass", "regression", "binary"]
    assert tasks[1].weight == 2
    assert LabelCoder.fit(y, tasks={"a": "multiclass"}, force="classification").tasks[1].kind.name == "binary"
    # names for the columns of an array
    named = LabelCoder.fit(np.array([[0.5], [1.5]]), tasks=[Task(name="price", kind="regression")])
    assert named.names == ("price",)


ERRORS = [
    ([None, None], ValueError, "has no observed label"),
    ([NAN, NAN], ValueError, "has no observed label"),
    ([1.5, np.inf], ValueError, "label is infinite; replace it"),
    (["a", None, "a"], ValueError, "only one class, 'a'"),
    ([5, 5], ValueError, "only one class, 5"),
    ([date(2020, 1, 1)] * 2, TypeError, "neither classes nor numbers; cast them"),
    ([[1], [2]], TypeError, "neither classes nor numbers; give every label a column of its own"),
]


@pytest.mark.parametrize(("labels", "error", "message"), ERRORS)
def test_errors_name_the_task(labels, error, message):
    with pytest.raises(error, match=rf"task 'late'.*{message}"):
        LabelCoder.fit(pl.DataFrame({"fine": ["u", "v"] * 2, "late": [*labels, *labels][:4]}))


def test_declarations_that_do_not_fit():
    y = pl.DataFrame({"a": ["x", "y", "z"], "b": [0.5, 1.5, 2.5]})
    for tasks, message in (
        ({"c": "binary"}, r"tasks declares tasks that y does not have: \['c'\]"),
        ({"a": Task(name="b", kind="binary")}, "task 'b' under 'a'"),
        ({"a": "binary"}, "task 'a' is binary, but its labels have 3 classes"),
        ({"a": "regression"}, "task 'a' is a regression task, but its labels are text \\(String\\)"),
        ({"a": Task(name="a", kind="binary", classes=("x", "y"))}, r"labels \['z'\] are not among its classes"),
    ):
        with pytest.raises(ValueError, match=message):
            LabelCoder.fit(y, tasks=tasks)
    with pytest.raises(ValueError, match="Unknown label type: task 'b' holds continuous numbers"):
        LabelCoder.fit(y, force="classification")
    with pytest.raises(ValueError, match=r"task 'a' holds text .*a regressor expects numbers.*the mixed estimator"):
        LabelCoder.fit(y, force="regression")
    for kind, force in (("multiclass", "regression"), ("regression", "classification")):
        with pytest.raises(ValueError, match=rf"'a' is declared '{kind}'.*for {force} alone; use the mixed"):
            LabelCoder.fit(y, tasks={"a": kind}, force=force)
    with pytest.raises(ValueError, match="task_column needs one target"):
        LabelCoder.fit(y, task_levels=["u", "v"])


@pytest.mark.parametrize(
    ("kind", "metric", "words"),
    [
        ("binary", "auc", "'y': metric 'auc' does not fit binary tasks; choose one of .'roc_auc', .*'roc_auc'"),
        ("binary", ("roc_auc", "f2"), "'y': metric 'f2' does not fit binary tasks"),
        ("binary", "ndcg", "'y': metric 'ndcg' does not fit binary tasks; .*'ndcg@10'"),
        ("regression", "roc_auc", "does not fit regression tasks; choose one of .'r2'"),
        ("multiclass", "f1", "does not fit multiclass tasks; .*'f1_macro'"),
        ("gamma", "d2_poisson", "choose one of .'d2_gamma', 'neg_mean_gamma"),
        ("quantiles:0.2:0.8", "d2_pinbal", "'d2_pinball'"),
    ],
)
def test_an_unknown_metric_fails_where_it_is_written(kind, metric, words):
    with pytest.raises(ValueError, match=words):
        Task(name="y", kind=kind, metric=metric)


def test_metrics_by_group_and_of_ones_own_are_known():
    own = make_task_metric(accuracy_score, name="hits")
    assert Task(name="y", kind="binary", metric=("ndcg@3", "gauc", own)).more_metrics == ("gauc", "hits")
