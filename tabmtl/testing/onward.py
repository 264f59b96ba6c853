"""Promises of estimators that go on from what they have learned."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import polars as pl

from tabmtl.estimators.network import NetworkEstimator
from tabmtl.testing.comparisons import answers, finite, same
from tabmtl.testing.promises import raises
from tabmtl.testing.storage import copies_of, with_other_global_seeds
from tabmtl.testing.subject import Subject
from tabmtl.testing.tables import features


class Onward(Subject):
    """Promises of an estimator with ``partial_fit``."""

    def more(self) -> tuple[pl.DataFrame, pl.DataFrame]:
        """Make rows that the fit has not seen."""
        X = features(60, seed=1)
        return X, self.targets(X)

    def check_it_goes_on_alike_again_and_from_copies_and_files(self) -> None:
        estimator, X, _ = self.fitted()
        said, more = answers(estimator, X), self.more()
        with TemporaryDirectory() as folder:
            copies = copies_of(estimator, Path(folder))
        first, again = with_other_global_seeds(lambda: answers(self.fitted()[0].partial_fit(*more), X))
        assert same(first, again)
        assert not same(said, first), "new rows change no answer"
        assert same(said, answers(estimator, X)), "a copy that goes on changes the other one"
        for how, other in copies.items():
            assert same(first, answers(other.partial_fit(*more), X)), how

    def check_an_unfitted_estimator_begins_by_its_rows(self) -> None:
        X, y = self.table()
        estimator = self.fresh().partial_fit(X, y)
        assert finite(answers(estimator, X))
        assert [task.name for task in estimator.tasks_] == y.columns
        assert finite(answers(estimator.partial_fit(*self.more()), X))

    def check_a_partial_fit_that_fails_leaves_the_estimator_as_it_was(self) -> None:
        estimator, X, y = self.fitted()
        said, known = answers(estimator, X), sorted(vars(estimator))
        wrong = y.with_columns(pl.lit("never").alias(y.columns[0]))
        for rows, labels in ((X.drop("plain"), y), (X.with_columns(plain=pl.lit("a")), y), (X, wrong), (X[:7], y)):
            with raises((ValueError, TypeError), "plain|never|numbers|samples"):
                estimator.partial_fit(rows, labels)
            assert same(said, answers(estimator, X)) and sorted(vars(estimator)) == known

    def check_levels_that_are_new_become_known_to_networks(self) -> None:
        estimator, X, _ = self.fitted()
        rows, labels = self.more()
        names = estimator.feature_names_in_.tolist()
        if not isinstance(estimator, NetworkEstimator):
            return
        estimator.partial_fit(rows.with_columns(text=pl.lit("violet")), labels)
        assert estimator.feature_names_in_.tolist() == names
        unseen, new = (answers(estimator, X.with_columns(text=pl.lit(text))) for text in ("mauve", "violet"))
        assert not same(unseen, new), "violet is read as unseen"
