"""Promises of estimators that take new tasks, and part with tasks."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import polars as pl

from tabmtl.testing.comparisons import answers, finite, same
from tabmtl.testing.promises import raises
from tabmtl.testing.storage import copies_of
from tabmtl.testing.subject import Subject
from tabmtl.testing.tables import features


class Growing(Subject):
    """Promises of an estimator with ``add_task``."""

    def later(self) -> tuple[pl.DataFrame, pl.DataFrame]:
        """Make rows that the fit has not seen, with labels of new tasks."""
        X = features(80, seed=2)
        return X, self.targets(X).rename(lambda name: f"new {name}")

    def check_a_new_task_leaves_the_answers_of_the_others(self) -> None:
        estimator, X, y = self.fitted()
        said, (rows, labels) = estimator.__answers__(X), self.later()
        assert all(
            np.array_equal(*pair) for pair in zip(said, estimator.add_task(rows, labels).__answers__(X), strict=False)
        )
        grown = answers(estimator, X)
        assert finite(grown)
        assert [task.name for task in estimator.tasks_] == [*y.columns, *labels.columns]
        with TemporaryDirectory() as folder:
            for how, other in copies_of(estimator, Path(folder)).items():
                assert same(grown, answers(other, X)), how
        again = self.fitted()[0].add_task(rows, labels)
        assert same(grown, answers(again, X)), "the same call gives another answer"

    def check_a_task_that_goes_leaves_the_answers_of_the_others(self) -> None:
        estimator, X, _ = self.fitted()
        rows, labels = self.later()
        names = [task.name for task in estimator.add_task(rows, labels).tasks_]
        said = dict(zip(names, estimator.__answers__(X), strict=True))
        gone = [labels.columns[0]] if self.is_funnel else [estimator.tasks_[0].name, labels.columns[0]]
        for name in gone:
            estimator.remove_task(name)
            del said[name]
        assert [task.name for task in estimator.tasks_] == [*said]
        assert all(np.allclose(a, b, atol=1e-6) for a, b in zip(said.values(), estimator.__answers__(X), strict=True))

    def check_a_call_that_fails_leaves_the_estimator_as_it_was(self) -> None:
        estimator, X, y = self.fitted()
        said, known = answers(estimator, X), sorted(vars(estimator))
        rows, labels = self.later()
        for where, what, words in (
            (rows, self.targets(rows), y.columns[0]),
            (rows.drop("plain"), labels, "plain"),
            (rows, labels.select(pl.all().replace_strict({}, default=None)), labels.columns[0]),
            (rows[:7], labels, "samples"),
        ):
            with raises((ValueError, TypeError), words):
                estimator.add_task(where, what)
            assert same(said, answers(estimator, X))
            assert sorted(vars(estimator)) == known
        with raises(ValueError, "no task 'never'"):
            estimator.remove_task("never")
