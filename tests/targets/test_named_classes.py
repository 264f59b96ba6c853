"""Kinds that name classes: the positive one of two, and all in their order."""

import numpy as np
import pandas as pd
import polars as pl
import pytest
from cases import later
from conformance import tiny
from polars.testing import assert_frame_equal

from tabmtl import SharedTrees, SharedTreesClassifier, Task
from tabmtl.targets import Binary, Focal, Ordinal, find_kind

N = 120
X = pl.DataFrame({"a": np.arange(N) % 11 / 11, "b": np.arange(N) % 7 / 7})
RARE = pl.Series(np.arange(N) % 11 == 0)
PAID = pl.select(pl.when(RARE).then(pl.lit("fraud")).otherwise(pl.lit("ok"))).to_series()
SIZE = pl.Series(["S", "M", "L"] * (N // 3))


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("binary:fraud", Binary(positive="fraud")),
        ("binary:a:b", Binary(positive="a:b")),
        ("focal:fraud", Focal(positive="fraud")),
        ("focal:1:fraud", Focal(1.0, positive="fraud")),
        ("focal:1", Focal(1.0)),
        ("ordinal:S<M<L", Ordinal(("S", "M", "L"))),
        ("ordinal: S < M", Ordinal(("S", "M"))),
    ],
)
def test_texts_of_kinds(text, kind):
    assert find_kind(text) == kind == find_kind(str(kind))
    assert kind.fitted() == find_kind(str(kind.fitted())) and not Task(name="t", kind=kind.fitted()).names_classes
    assert Task(name="t", kind=kind).names_classes == (kind != Focal(1.0))


@pytest.mark.parametrize(
    ("labels", "kind", "classes"),
    [
        (PAID, "binary:fraud", ("ok", "fraud")),
        (PAID, "binary:ok", ("fraud", "ok")),
        (PAID, "focal:1:fraud", ("ok", "fraud")),
        (PAID.cast(pl.Categorical), "binary:fraud", ("ok", "fraud")),
        (PAID.cast(pl.Enum(["fraud", "ok", "void"])), "binary:fraud", ("ok", "fraud")),
        (RARE, "binary:False", (True, False)),
        (RARE, "binary:false", (True, False)),
        (RARE, "binary:1", (False, True)),
        (RARE.cast(pl.Int8), "binary:0", (1, 0)),
        (RARE.cast(pl.Float64), "binary:0", (1.0, 0.0)),
        (SIZE, "ordinal:S<M<L", ("S", "M", "L")),
        (SIZE, "ordinal:S<M<L<XL", ("S", "M", "L", "XL")),
        (pl.Series(np.arange(N) % 3), "ordinal:2<1<0", (2, 1, 0)),
    ],
)
@pytest.mark.parametrize("library", later(["polars", "pandas"], "pandas"))
def test_answers_are_those_of_declared_classes(labels, kind, classes, library):
    y, rows = labels.alias("t").to_frame(), X
    y, rows = (y, rows) if library == "polars" else (y.to_pandas(), rows.to_pandas())
    named = tiny(SharedTrees, tasks={"t": kind}).fit(rows, y)
    plain = Task(name="t", kind=find_kind(kind).fitted(), classes=classes)
    declared = tiny(SharedTrees, tasks=[plain]).fit(rows, y)
    assert named.tasks_ == declared.tasks_ and named.tasks_[0].classes == classes
    assert np.array_equal(named.predict_proba(rows)["t"], declared.predict_proba(rows)["t"])
    if library == "polars":
        assert_frame_equal(named.predict(rows), declared.predict(rows))
        assert set(named.predict(rows)["t"].to_list()) <= set(labels.to_list())
    else:
        pd.testing.assert_frame_equal(named.predict(rows), declared.predict(rows))


def test_undeclared_classes_stay_sorted():
    assert tiny(SharedTrees).fit(X, PAID.alias("t").to_frame()).tasks_[0].classes == ("fraud", "ok")
    face = tiny(SharedTreesClassifier).fit(X, PAID.to_numpy())
    assert face.classes_.tolist() == ["fraud", "ok"]
    named = tiny(SharedTreesClassifier, tasks={"t": "binary:fraud"}).fit(X, PAID.alias("t"))
    assert named.classes_.tolist() == ["ok", "fraud"]
    assert np.array_equal(named.predict(X), named.classes_[named.predict_proba(X).argmax(1)])


def test_a_long_table_has_one_positive_class():
    rows = X.with_columns(shop=pl.Series(["u", "v"] * (N // 2)))
    model = tiny(SharedTrees, tasks={"t": "binary:fraud"}, task_column="shop").fit(rows, PAID.alias("t").to_frame())
    assert [task.classes for task in model.tasks_] == [("ok", "fraud")] * 2


@pytest.mark.parametrize("kind", ["binary:fraud", Binary(positive="fraud"), Task(name="t", kind="binary:fraud")])
def test_a_file_keeps_the_declaration(kind, reloaded):
    model = tiny(SharedTrees, tasks={"t": kind}).fit(X, PAID.alias("t").to_frame())
    found = reloaded(model)
    assert found.tasks == model.tasks and found.tasks_ == model.tasks_
    assert np.array_equal(found.predict_proba(X)["t"], model.predict_proba(X)["t"])
    again = found.fit(X, PAID.alias("t").to_frame())
    assert again.tasks_[0].classes == ("ok", "fraud")


def test_files_of_plain_kinds_name_nothing_new(tmp_path):
    tiny(SharedTrees, tasks=[Task(name="t", kind="binary")]).fit(X, PAID.alias("t").to_frame()).save(tmp_path / "m")
    (facts,) = (tmp_path / "m").glob("model-*.json")
    assert b'"kind":"binary"' in facts.read_bytes().replace(b": ", b":") and b"positive" not in facts.read_bytes()


@pytest.mark.parametrize(
    ("kind", "labels", "words"),
    [
        ("binary:frad", PAID, r"'t' is binary:frad, .* the classes \['fraud', 'ok'\]; near is 'fraud'; name one"),
        ("binary:2", RARE, r"'t' is binary:2, but its labels have the classes \[False, True\]; name one"),
        ("focal:frad", PAID, "'t' is focal:2.0:frad, .*near is 'fraud'"),
        ("binary:S", SIZE, "'t' is binary:S, but its labels have 3 classes"),
        ("ordinal:S<M", SIZE, r"labels \['L'\] are not among its classes \['S', 'M'\]"),
        ("ordinal:S<M", pl.Series([1, 2] * 60), "'t' is ordinal:S<M, but its labels are Int64; name each"),
        (Task(name="t", kind="ordinal:S<M<L", classes=("S", "M")), SIZE, r"have the classes \['S', 'M'\]; name each"),
        ("binary:", PAID, "kind must be 'binary', or name the positive class as in 'binary:fraud'"),
        ("ordinal:S", SIZE, "must be different classes, the lowest first, such as 'ordinal:S<M<L', got 'S'"),
        ("ordinal:S<M<S", SIZE, "must be different classes"),
    ],
)
def test_classes_that_do_not_fit_are_named(kind, labels, words):
    with pytest.raises(ValueError, match=words):
        tiny(SharedTrees, tasks={"t": kind}).fit(X, labels.alias("t").to_frame())


def test_classes_that_partial_fit_lists_keep_the_declared_order():
    model = tiny(SharedTrees, tasks={"t": "binary:fraud"})
    model.partial_fit(X, PAID.alias("t").to_frame(), classes={"t": ["fraud", "ok"]})
    assert model.tasks_[0].classes == ("ok", "fraud")
