"""Promises about targets of the kinds that an estimator takes."""

from __future__ import annotations

import warnings
from unittest import TestCase

import numpy as np
import polars as pl
import polars.selectors as cs
from numpy.testing import assert_allclose
from polars.testing import assert_frame_equal

from tabmtl.base.schema import TabmtlWarning
from tabmtl.targets import Task
from tabmtl.testing.comparisons import answers, finite, same
from tabmtl.testing.promises import of_each_model, raises
from tabmtl.testing.subject import Subject
from tabmtl.testing.tables import features, hide, mixed_targets


class Free(Subject):
    """Promises of estimators that are no funnel: they take any targets of the kinds of their face."""

    def check_few_rows_are_enough_to_fit(self) -> None:
        labels = {"late": ["a", "b", None, "a"], "size": ["s", "m", "l", None], "delay": [1.5, None, -2.0, 0.7]}
        y = pl.DataFrame(labels)
        y = y if self.takes_numbers else y.drop("delay")
        y = y if self.takes_classes else y.select("delay")
        with warnings.catch_warnings(action="ignore", category=TabmtlWarning):
            assert finite(self.said(features()[:4], y))

    def check_flat_targets_come_back_flat(self) -> None:
        X = features()
        y = self.targets(X)[:, 0]
        series = self.fresh().fit(X, y).predict(X)
        assert isinstance(series, pl.Series)
        assert (series.name, series.dtype, len(series)) == (y.name, y.dtype, len(X))
        assert_frame_equal(self.fresh().fit(X, y.to_frame()).predict(X), series.to_frame())
        in_pandas = self.fresh().fit(X.to_pandas(), y.to_pandas()).predict(X.to_pandas())
        assert (type(in_pandas), in_pandas.name) == (type(y.to_pandas()), y.name)
        full = y.fill_null(strategy="backward").fill_null(strategy="forward")
        array = self.fresh().fit(X, full.to_numpy()).predict(X)
        assert isinstance(array, np.ndarray)
        assert array.shape == (len(X),)

    def check_probabilities_take_the_form_of_the_face(self) -> None:
        estimator, X, y = self.fitted()
        if not self.takes_classes:
            assert not hasattr(estimator, "predict_proba")
            return
        probabilities = estimator.predict_proba(X)
        if not self.takes_numbers:
            assert isinstance(probabilities, list)
            probabilities = dict(zip(y.columns, probabilities, strict=True))
            for classes, task in zip(estimator.classes_, estimator.tasks_, strict=True):
                assert classes.tolist() == list(task.classes)
        assert {name: p.shape for name, p in probabilities.items()} == {"late": (len(X), 2), "size": (len(X), 3)}
        flat = self.fresh().fit(X, y["size"])
        assert isinstance(flat.predict_proba(X), np.ndarray)
        if self.takes_numbers:
            assert not hasattr(flat, "classes_")
        else:
            assert flat.classes_.tolist() == sorted(flat.classes_)

    @of_each_model
    def check_weight_zero_equals_an_absent_label(self) -> None:
        X, y = self.table()
        hidden = np.random.default_rng(1).random(y.shape) >= 0.7
        absent = hide(y, hidden)
        said = self.said(X, absent, np.ones(y.shape))
        assert same(said, self.said(X, y, (~hidden).astype(float)))
        junk = absent.with_columns(cs.string().fill_null("odd"), cs.float().fill_null(1e9))
        labelled = absent.select(pl.all().is_not_null().cast(float))
        assert same(said, self.said(X, junk, labelled))


class Classifying(Subject):
    """Promises of estimators that take classes."""

    def check_one_single_class_is_named(self) -> None:
        X = features()
        self.refuse(X, pl.DataFrame({"late": ["yes"] * len(X)}), r"'late'.*class.*at least two")


class Regressing(Subject):
    """Promises of estimators that take numbers."""

    def check_one_label_is_enough_for_a_regression(self) -> None:
        X = features()[:5]
        y = pl.DataFrame({"delay": [None, 3.0, None, None, None], "size": [1.0, 2.5, 3.0, 4.0, 5.5]})
        with warnings.catch_warnings(action="ignore", category=TabmtlWarning):
            predicted = self.fresh().fit(X, y).predict(X)
            assert finite([predicted["delay"].to_numpy()])
            assert finite([self.fresh().fit(X[:1], [3.5]).predict(X)])


class Mixed(Subject):
    """Promises of estimators that mix kinds of targets."""

    def check_declarations_that_do_not_fit_are_named(self) -> None:
        X, y = self.table()
        for tasks, message in (
            ({"speed": "regression"}, "speed"),
            ({"late": Task(name="late", kind="binary", classes=("a", "b"))}, r"'late'.*classes"),
            ({"size": "binary"}, r"'size'.*binary.*3 classes"),
            ({"size": "regression"}, r"'size'.*regression"),
            ({"late": "binry"}, r"'late'.*binry"),
        ):
            self.refuse(X, y, message, tasks=tasks)

    def check_labels_that_fit_did_not_see_are_named(self) -> None:
        estimator, X, y = self.fitted()
        for changed, message in (
            ({"late": "never"}, r"'late'.*'never'.*'on time'"),
            ({"late": 1.5}, "'late'"),
            ({"delay": "long"}, "'delay'"),
        ):
            with raises(ValueError, message):
                estimator.score(X, y.with_columns(**{name: pl.lit(label) for name, label in changed.items()}))

    def check_ten_thousand_levels_are_learned(self) -> None:
        rng = np.random.default_rng(0)
        level = rng.permutation(np.repeat(np.arange(10_000), 2))
        X = pl.DataFrame({"user": pl.Series(level).cast(pl.String) + "x", "plain": rng.normal(size=len(level))})
        estimator = self.fresh(epochs=1, batch_size=2_048).fit(X, mixed_targets(X))
        assert max(estimator.coder_.features.columns.cardinalities) == 10_002
        assert finite(answers(estimator, X[:50]))

    def check_labels_keep_their_type(self) -> None:
        X, y = self.table()
        typed = y.select(
            is_late=pl.col("late") == "late",
            enum=pl.col("size").cast(pl.Enum(["small", "medium", "large"])),
            category=pl.col("size").cast(pl.Categorical),
            level=pl.col("size").replace_strict({"small": 7, "medium": 1, "large": 3}, return_dtype=pl.Int16),
            short=pl.col("delay").cast(pl.Float32),
            whole=pl.col("delay").round().cast(pl.Int32),
        )
        estimator = self.fresh(tasks={"level": "multiclass", "whole": "regression"}).fit(X, typed)
        predicted, probabilities = estimator.predict(X), estimator.predict_proba(X)
        assert predicted.schema == typed.schema | {"whole": pl.Float64()}
        assert list(probabilities) == ["is_late", "enum", "category", "level"]
        assert estimator.tasks_[3].classes == (1, 3, 7)
        for task, (name, p) in zip(estimator.tasks_, probabilities.items(), strict=False):
            assert set(predicted[name].cast(pl.String)) <= set(typed[name].drop_nulls().cast(pl.String))
            assert p.shape == (len(X), len(task.classes))
            assert_allclose(p.sum(axis=1), 1, rtol=1e-7)
            assert [task.classes[k] for k in p.argmax(axis=1)] == predicted[name].to_list()

    def check_an_array_of_objects_holds_mixed_targets(self) -> None:
        from_frame, X, y = self.fitted()
        from_array = self.fresh().fit(X, y.to_pandas().to_numpy(dtype=object))
        assert [task.kind.name for task in from_array.tasks_] == ["binary", "multiclass", "regression"]
        predicted = from_array.predict(X)
        assert predicted.dtype == object
        assert [tuple(row) for row in predicted] == from_frame.predict(X).rows()

    def check_whole_numbers_are_guessed_with_a_warning(self) -> None:
        X = features()
        y = mixed_targets(X).with_columns(stars=X["count"] % 5)
        with TestCase().assertWarnsRegex(TabmtlWarning, r"'stars' .* tasks=\{'stars': 'multiclass'\}"):
            self.fresh().fit(X, y)
        declared = self.fresh(tasks={"stars": "regression"}).fit(X, y)
        assert declared.tasks_[3] == Task(name="stars", kind="regression", metric="r2")
        assert declared.predict(X)["stars"].dtype == pl.Float64

    def check_tasks_are_declared_by_name_or_in_order(self) -> None:
        X, y = self.table()
        late = Task(name="late", kind="binary", classes=("on time", "late"), metric="accuracy", weight=2.0)
        by_name = self.fresh(tasks={"late": late, "delay": "regression"}).fit(X, y)
        assert by_name.tasks_[0] == late
        plain = self.fresh(tasks={"late": Task(name="late", kind="binary", weight=2.0)}).fit(X, y)
        assert plain.tasks_[0].classes == ("late", "on time")
        assert by_name.predict_proba(X)["late"].shape == plain.predict_proba(X)["late"].shape
        in_order = self.fresh(tasks=[late, Task(name="size", kind="multiclass"), Task(name="delay", kind="regression")])
        array = y.to_pandas().to_numpy(dtype=object)
        assert [task.name for task in in_order.fit(X, array).tasks_] == ["late", "size", "delay"]
        assert same(list(in_order.predict_proba(X).values()), list(by_name.predict_proba(X).values()))
        assert list(in_order.score_tasks(X, array)) == ["late", "size", "delay"]

    def check_a_declared_class_may_be_without_labels(self) -> None:
        X, y = self.table()
        tasks = {"late": Task(name="late", kind="multiclass", classes=("late", "lost", "on time"))}
        p = self.fresh(tasks=tasks).fit(X, y).predict_proba(X)["late"]
        assert p.shape == (len(X), 3)
        assert_allclose(p.sum(axis=1), 1)


class Network(Subject):
    """Promises of networks."""

    def check_another_seed_gives_another_network(self) -> None:
        first, X, y = self.fitted()
        assert not same(answers(first, X), self.said(X, y, random_state=1))
