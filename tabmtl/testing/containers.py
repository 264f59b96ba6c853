"""Promises about containers of features, targets, weights and groups: what they hold means the same in each."""

from __future__ import annotations

import warnings

import numpy as np
import polars as pl
from numpy.testing import assert_allclose
from polars.testing import assert_frame_equal

from tabmtl.base.schema import PerfectFeatureWarning, TabmtlWarning
from tabmtl.columns import Category
from tabmtl.testing.comparisons import answers, same
from tabmtl.testing.subject import Subject
from tabmtl.testing.tables import features


class Containers(Subject):
    """Promises about containers of features, targets, weights and groups."""

    def check_features_mean_the_same_in_every_container(self) -> None:
        self.means_the_same_in_every_container()

    def check_arrays_mean_the_same_as_frames(self) -> None:
        X = features().select("plain", "holes", "count", "constant")
        y = self.targets(features())
        array = X.to_numpy()
        from_array = self.fresh().fit(array, y)
        assert not hasattr(from_array, "feature_names_in_")
        said = answers(from_array, array)
        assert same(said, answers(from_array, array.tolist()))
        assert same(said, answers(from_array, np.asfortranarray(array)))
        assert same(said, self.said(X, y))
        mixed = features().select("plain", "text")
        assert same(self.said(mixed.to_pandas().to_numpy(dtype=object), y), self.said(mixed, y))

    def check_frames_without_names_are_silent(self) -> None:
        X, y = features().select("plain", "count").to_pandas(), self.targets(features())
        X.columns = [0, 1]
        with warnings.catch_warnings(action="error", category=UserWarning):
            warnings.simplefilter("ignore", PerfectFeatureWarning)  # the targets are made of the features
            self.fresh().fit(X, y).predict(X)

    def check_columns_in_another_order_are_taken_by_name(self) -> None:
        estimator, X, y = self.fitted()
        other = X.select(reversed(X.columns))
        for frame in (other, other.to_pandas()):
            assert same(answers(estimator, frame), answers(estimator, X))
        assert estimator.score_tasks(other, y) == estimator.score_tasks(X, y)

    def check_columns_named_as_categories_are_categories(self) -> None:
        X, y = features().select("plain", "count"), self.targets(features())
        said = self.said(X, y, columns={"count": "category"})
        assert same(said, self.said(X, y, columns={"count": Category()}))
        with warnings.catch_warnings(action="ignore", category=TabmtlWarning):  # of whole numbers as text
            assert same(said, self.said(X.cast({"count": pl.String}), y))
        self.refuse(X, y, "near is 'count'", columns={"coumt": "category"})

    def check_targets_come_back_in_their_container(self) -> None:
        estimator, X, y = self.fitted()
        predicted = estimator.predict(X)
        assert isinstance(predicted, pl.DataFrame)
        assert predicted.schema == y.schema
        assert sum(predicted.null_count().row(0)) == 0

        pandas_X = X.to_pandas().set_axis(np.arange(len(X)) + 1000).rename_axis("row")
        pandas_y = y.to_pandas().set_index(pandas_X.index)
        in_pandas = self.fresh().fit(pandas_X, pandas_y).predict(pandas_X)
        assert type(in_pandas) is type(pandas_y)
        assert in_pandas.index.identical(pandas_X.index)
        assert in_pandas.dtypes.tolist() == pandas_y.dtypes.tolist()
        assert_frame_equal(pl.from_pandas(in_pandas), predicted)

        arrow_y = y.to_arrow()
        in_arrow = self.fresh().fit(X, arrow_y).predict(X)
        assert type(in_arrow) is type(arrow_y)
        assert_frame_equal(pl.DataFrame(in_arrow), predicted)

    def check_weights_come_in_three_forms(self) -> None:
        X, y = self.table()
        weight = np.random.default_rng(1).integers(1, 4, size=len(X)).astype(float)
        said = self.said(X, y, weight)
        per_task = np.column_stack([weight] * y.shape[1])
        frame = pl.DataFrame(per_task, schema=y.columns).select(reversed(y.columns))
        series = pl.Series(weight)
        for form in (weight.tolist(), series, series.to_pandas(), per_task, frame, frame.to_pandas()):
            assert same(said, self.said(X, y, form))
        assert not same(said, self.said(X, y))

    def check_weights_are_normalised_for_every_task(self) -> None:
        X, y = self.table()
        weight = np.random.default_rng(1).integers(1, 4, size=y.shape).astype(float)
        scaled = weight * 2.0 ** np.arange(y.shape[1])
        assert same(self.said(X, y, weight), self.said(X, y, scaled))

    def check_weights_count_in_scores(self) -> None:
        estimator, X, y = self.fitted()
        half = np.arange(len(X)) % 2
        X_half, y_half = X.gather_every(2, 1), y.gather_every(2, 1)
        weighted, expected = estimator.score_tasks(X, y, half), estimator.score_tasks(X_half, y_half)
        assert_frame_equal(pl.DataFrame(weighted), pl.DataFrame(expected), rel_tol=1e-6)
        score = estimator.score(X, y, sample_weight=half)
        assert_allclose(score, estimator.score(X_half, y_half), rtol=1e-6)

    def check_groups_are_an_array_or_a_column(self) -> None:
        X, y = self.table()
        owners = X.with_columns(owner=pl.int_range(len(X)) // 3)
        estimator = self.fresh(columns={"owner": "ignore"}).fit(owners, y, groups="owner")
        said = answers(estimator, X)
        assert same(said, answers(estimator, owners))
        assert same(said, answers(self.fresh().fit(X, y, groups=owners["owner"].to_numpy()), X))

    def check_times_are_an_array_or_a_column(self) -> None:
        X, y = self.table()
        dated = X.with_columns(day=pl.date(2024, 1, 1) + pl.duration(days=pl.int_range(len(X)) * 7 % 40))
        said = answers(self.fresh(columns={"day": "ignore"}).fit(dated, y, time="day"), X)
        assert same(said, answers(self.fresh().fit(X, y, time=dated["day"].to_numpy()), X))
