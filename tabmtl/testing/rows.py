"""Promises about rows: each is answered alike in any company, and any values are taken."""

from __future__ import annotations

import warnings

import numpy as np
import polars as pl
from numpy.testing import assert_allclose

from tabmtl.base.schema import FewLabelsWarning, TabmtlWarning
from tabmtl.testing.comparisons import answers, answers_by_parts, finite, largest_gap, same
from tabmtl.testing.promises import of_each_model, raises
from tabmtl.testing.subject import Subject
from tabmtl.testing.tables import features

#: Rows, or batches of rows, that are asked one after the other.
ALONE = 40


class Rows(Subject):
    """Promises about rows: each is answered alike in any company, and any values are taken."""

    @of_each_model
    def check_a_row_is_answered_alike_in_any_batch(self) -> None:
        estimator, X, _ = self.fitted()
        everywhere = answers(estimator, X)
        for size in (1, 2, 7, 8, 31):
            asked = X[: ALONE * size]
            whole, joined = [a[: len(asked)] for a in everywhere], answers_by_parts(estimator, asked, size)
            alike = all(np.array_equal(a, b) for a, b in zip(whole, joined, strict=True) if a.dtype.kind != "f")
            assert alike, f"in batches of {size} rows, labels differ from those of all rows together"
            gap = largest_gap(whole, joined)
            assert gap <= 1e-6, f"in batches of {size} rows, answers differ by {gap:.1e}; allowed is 1e-6"

    @of_each_model
    def check_a_row_is_answered_alike_in_any_order_and_beside_any_row(self) -> None:
        estimator, X, _ = self.fitted()
        order = np.random.default_rng(0).permutation(len(X))
        whole = answers(estimator, X)
        assert largest_gap([a[order] for a in whole], answers(estimator, X[order])) <= 1e-6
        strange = X.with_columns(plain=pl.lit(1e9), holes=pl.lit(None, dtype=pl.Float64), text=pl.lit("violet"))
        beside = answers(estimator, pl.concat([strange, X]))
        assert largest_gap(whole, [a[len(X) :] for a in beside]) <= 1e-6
        many = answers(estimator, pl.concat([X] * 20))
        assert largest_gap([np.concatenate([a] * 20) for a in whole], many) <= 1e-6

    def check_no_rows_have_no_answers(self) -> None:
        estimator, X, y = self.fitted()
        some = answers(estimator, X[:2])
        for none in (answers(estimator, X[:0]), answers(estimator, X[:0].to_pandas())):
            assert [own.shape for own in none] == [(0, *own.shape[1:]) for own in some]
            assert [own.dtype.kind for own in none] == [own.dtype.kind for own in some]
        assert estimator.predict(X[:0]).schema == estimator.predict(X).schema
        asked = y.columns[-1:]
        assert estimator.predict(X[:0], tasks=asked).schema == estimator.predict(X[:2], tasks=asked).schema
        with raises(ValueError, "0 sample"):
            estimator.score_tasks(X[:0], y[:0])

    @of_each_model
    def check_tasks_that_are_asked_for_are_answered_as_among_all(self) -> None:
        estimator, X, y = self.fitted()
        asked, whole = [y.columns[-1], y.columns[0]], dict(zip(y.columns, estimator.__answers__(X), strict=True))
        for n in (1, 7, len(X)):
            for names in (asked, asked[:1]):
                gap = largest_gap([whole[name][:n] for name in names], estimator.__answers__(X[:n], names))
                assert gap <= 1e-6, f"{n} rows are answered otherwise for {names} alone, by {gap:.1e}; allowed is 1e-6"
        predicted, flat = estimator.predict(X, tasks=asked), estimator.predict(X, tasks=asked[1])
        assert predicted.schema == estimator.predict(X).select(asked).schema
        assert (flat.name, flat.dtype) == (asked[1], predicted.dtypes[1])
        with raises(ValueError, f"near is '{asked[0]}'"):
            estimator.predict(X, tasks=[asked[0][:-1]])
        with raises(ValueError, "more than once"):
            estimator.predict(X, tasks=asked[:1] * 2)

    @of_each_model
    def check_missing_values_are_answered_anywhere(self) -> None:
        estimator, X, y = self.fitted()
        for name, dtype in X.schema.items():
            typed = answers(estimator, X.with_columns(pl.lit(None, dtype).alias(name)))
            assert finite(typed)
            assert same(typed, answers(estimator, X.with_columns(pl.lit(None).alias(name))))
        assert finite(answers(estimator, X.clear(3)))
        assert finite(self.said(X.with_columns(plain=pl.lit(None)), y))

    @of_each_model
    def check_unseen_levels_are_answered_alike(self) -> None:
        estimator, X, _ = self.fitted()
        violet, brown = (answers(estimator, X.with_columns(text=pl.lit(level))) for level in ("violet", "brown"))
        assert finite(violet)
        assert same(violet, brown)

    def check_constant_columns_and_outliers_are_taken(self) -> None:
        X = features().with_columns(level=pl.lit("only"), yes=pl.lit(True), zero=pl.lit(0))
        huge = X["plain"].scatter([3, 4], [1e300, -1e300])
        y = self.targets(X)
        with warnings.catch_warnings(action="ignore", category=TabmtlWarning):
            estimator = self.fresh().fit(X.with_columns(plain=huge), y)
            assert finite(self.said(X.select("level"), y))
        assert finite(answers(estimator, X))
        assert finite(answers(estimator, X.with_columns(plain=pl.lit(-1e300))))

    def check_a_task_with_labels_on_one_percent_of_rows_is_learned(self) -> None:
        X = features(1_000)
        y = self.targets(X)
        rare = y.columns[0]
        labelled = y.with_row_index("row").drop_nulls(rare)
        kept = labelled.group_by(rare, maintain_order=True).head(5)["row"].head(10)  # five of each class
        y = y.with_columns(pl.when(pl.int_range(pl.len()).is_in(kept.implode())).then(pl.col(rare)))
        with warnings.catch_warnings(action="ignore", category=FewLabelsWarning):
            estimator = self.fresh().fit(X, y)
        assert finite(answers(estimator, X))
        with warnings.catch_warnings(action="ignore", category=TabmtlWarning):
            assert set(estimator.score_tasks(X, y)) == set(y.columns)

    def check_scores_are_those_of_the_tasks(self) -> None:
        estimator, X, y = self.fitted()
        scores = estimator.score_tasks(X, y)
        assert list(scores) == y.columns
        score = estimator.score(X, y)
        assert score <= 1
        if self.takes_classes and self.takes_numbers:
            assert_allclose(score, np.mean(list(scores.values())), rtol=1e-6)
