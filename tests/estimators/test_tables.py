"""What a new estimator gets from the base: everything but fitting and answering. And what scikit-learn's tools get."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import polars as pl
import polars.selectors as cs
import pytest
from cases import quick
from conformance import MIXED, features, mixed_targets, tiny
from models_at_hand import fitted
from sklearn.base import is_classifier, is_regressor
from sklearn.utils import estimator_html_repr, get_tags

import tabmtl
from tabmtl import (
    IndependentTasks,
    IndependentTasksClassifier,
    IndependentTasksRegressor,
    SharedBottom,
)
from tabmtl.estimators.base import FromFitted
from tabmtl.estimators.tables import MultiTaskEstimator, TableState


@dataclass(frozen=True, kw_only=True)
class AveragesState(TableState):
    averages_: tuple[tuple[float, ...], ...]


@dataclass(frozen=True, kw_only=True, eq=False)
class FittedAverages:
    averages: tuple[tuple[float, ...], ...]

    def answer(self, rows, labels, how, X=None, places=None):
        found = [np.tile(average, (len(rows), 1)) for average in self.averages]
        answers = [row if row.shape[1] > 1 else row[:, 0] for row in found]
        return answers if places is None else [answers[t] for t in places]


@dataclass(kw_only=True, eq=False, repr=False)
class Averages(MultiTaskEstimator):
    """Answers the mean, or the classes' shares, whatever the row."""

    shrink: float = 0.0

    _stored: ClassVar[type] = AveragesState
    averages_ = FromFitted("averages")

    def __check_params__(self):
        if self.shrink < 0:
            raise ValueError(f"shrink must be at least 0, got {self.shrink}")

    def _fit(self, coder, rows, valid, seed):
        columns = zip(coder.labels.column_tasks, rows.batch.y.T, strict=True)
        averages = tuple(
            (float(np.nanmean(y)) * (1 - self.shrink),)
            if not task.is_classification
            else tuple(float(np.mean(y[~np.isnan(y)] == k)) for k in range(len(task.classes)))
            for task, y in columns
        )
        return {"_fitted": FittedAverages(averages=averages)}

    def _fitted_of(self, coder, parts):
        return FittedAverages(**parts)


def test_a_new_estimator_is_two_methods_and_what_they_give(tmp_path):
    X, y = features(), mixed_targets(features())
    estimator = Averages().fit(X, y)
    predicted = estimator.predict(X)
    assert predicted.schema == y.schema
    assert predicted["delay"].to_list() == pytest.approx([y["delay"].mean()] * len(X))
    assert predicted["size"].unique().to_list() == y["size"].drop_nulls().mode().to_list()
    assert estimator.score_tasks(X, y) == pytest.approx({"late": 0.5, "size": 0.5, "delay": 0.0})
    estimator.save(tmp_path / "model")
    loaded = tabmtl.load(tmp_path / "model", cls=Averages)
    assert loaded.predict(X).equals(predicted)


@pytest.mark.parametrize("cls", quick(MIXED, "SharedBottom", "RMTGB"))
def test_weights_of_any_size_give_the_model_of_order_one(cls):
    X, y = features(), mixed_targets(features())
    weight = np.random.default_rng(0).integers(1, 5, len(X)).astype(float)
    expected = tiny(cls).fit(X, y, sample_weight=weight)
    for scale in (2.0**-1020, 2.0**1020):
        found = tiny(cls).fit(X, y, sample_weight=weight * scale)
        assert found.predict(X).equals(expected.predict(X))
        assert found.score_tasks(X, y, weight * scale) == expected.score_tasks(X, y, weight)


def test_a_failed_fit_forgets_nothing_and_a_good_one_everything():
    X, y = features(), mixed_targets(features())
    estimator = Averages().fit(X, y)
    estimator.extra_ = "of another fit"
    with pytest.raises(ValueError, match="shrink"):
        estimator.set_params(shrink=-1.0).fit(X, y)
    assert estimator.extra_ == "of another fit"
    estimator.set_params(shrink=0.5).fit(X[["plain"]].to_numpy(), y["delay"])
    assert not hasattr(estimator, "extra_")
    assert not hasattr(estimator, "feature_names_in_")
    assert estimator.n_features_in_ == 1


def test_faces_have_the_types_of_scikit_learn():
    assert (is_classifier(IndependentTasks()), is_regressor(IndependentTasks())) == (False, False)
    assert is_classifier(IndependentTasksClassifier())
    assert is_regressor(IndependentTasksRegressor())
    for cls in (IndependentTasks, IndependentTasksClassifier, IndependentTasksRegressor):
        tags = get_tags(cls())
        assert tags.target_tags.required
        assert tags.target_tags.multi_output
        assert tags.target_tags.single_output
        assert tags.input_tags.allow_nan


def test_tables_of_regressions_have_no_probabilities():
    X, y = features(), mixed_targets(features())
    assert hasattr(Averages(), "predict_proba")
    assert not hasattr(Averages().fit(X, y.select("delay")), "predict_proba")
    assert not hasattr(IndependentTasksRegressor(), "predict_proba")


def test_what_a_notebook_shows():
    estimator, X, y = fitted(IndependentTasksRegressor)
    X = X.select("plain", "count", "constant").to_pandas()
    estimator.fit(X, y)
    shown = estimator_html_repr(estimator)
    assert "tasks_" in shown
    assert f">3 input columns, {len(estimator.tasks_)} tasks<" in shown
    assert "input columns" not in estimator_html_repr(tiny(IndependentTasks))
    assert (
        f"DataFrame({len(estimator.tasks_)}, 2), columns" in shown and "[&#x27;task&#x27;,&#x27;default&#x27;]" in shown
    )
    assert "shape: (" not in shown, "a frame is cut off"
    scores, name = estimator.score_tasks(X, y), estimator.tasks_[0].name
    assert f'<td style="text-align: left">{name}</td>' in estimator.tasks_._repr_html_()
    assert f">{scores[name]:.4f}<" in scores._repr_html_()
    assert ">r2<" in scores._repr_html_()
    assert repr(IndependentTasks(n_jobs=1, random_state=0)) == "IndependentTasks(n_jobs=1, random_state=0)"


def test_scores_are_asked_for_once_and_rows_read_once(monkeypatch):
    estimator, X, y = fitted(IndependentTasks)
    coder = type(estimator.coder_)
    read, calls = coder.read, []
    monkeypatch.setattr(coder, "read", lambda self, *args: calls.append(args) or read(self, *args))
    estimator.score(X, y)
    assert len(calls) == 1


def test_a_column_of_the_face_may_be_named_anything():
    X = features()
    y = pl.DataFrame({"mean": X["plain"], "a/b": X["plain"] * 2, "loss": X["plain"] > 0})
    estimator = tiny(SharedBottom).fit(X, y)
    assert estimator.predict(X).columns == y.columns
    assert list(estimator.score_tasks(X, y)) == y.columns


TABLE = pl.DataFrame({"a": [0.0, 1.0], "b": [1.0, 0.0]})
MORE = TABLE.with_columns(z=1)
RECORDS = r"X must be a frame or an array .*make it a frame by polars.DataFrame"
LEFT = r"unseen at fit time:\n- z\nTake the columns of fit: list\(model.feature_names_in_\)"
REFUSED = [
    *((TypeError, RECORDS, method, X) for method in ("predict", "fit") for X in ({"a": [1.0]}, [{"a": 1.0}])),
    (ValueError, r"missing:\n- a\nAdd the missing ones to X.", "predict", TABLE.rename({"a": "z"})),
    *((ValueError, LEFT, "predict", X) for X in (MORE, MORE.to_pandas(), MORE.lazy(), MORE.to_arrow())),
    (ValueError, "X_val and y_val belong together", "fit", {"X": TABLE, "X_val": TABLE}),
    (ValueError, "X_val and y_val belong together", "fit", {"X": TABLE, "y_val": TABLE}),
]


@pytest.mark.parametrize(("error", "message", "method", "given"), REFUSED)
def test_tables_that_do_not_fit_are_refused_with_the_cure(error, message, method, given):
    model = Averages().fit(TABLE, TABLE.rename(str.upper))
    arguments = given if isinstance(given, dict) and "X" in given else {"X": given}
    with pytest.raises(error, match=message):
        getattr(model, method)(**arguments | ({"y": [0.0, 1.0]} if method == "fit" else {}))


def test_columns_in_another_order_are_taken_by_name_whatever_polars_would_read_in_it():
    X = pl.DataFrame({"^a$": ["u", "v", "v"], "a": [0.0, 1.0, 2.0], "*": [3, 4, 5]})
    model = Averages().fit(X, pl.DataFrame({"t": [0.5, 1.5, 2.5]}))
    other = X.select(cs.by_name("*", "^a$", "a"))
    for reordered in (other, other.lazy(), other.to_pandas(), other.to_arrow()):
        assert type(model._preprocessed(reordered)) is type(reordered)
        assert model.coder_.read(reordered).x.numbers.tolist() == model.coder_.read(X).x.numbers.tolist()
        assert model.coder_.read(reordered).x.codes.tolist() == model.coder_.read(X).x.codes.tolist()
