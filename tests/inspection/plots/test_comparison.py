"""Displays of a comparison: what is drawn where, and what is refused."""

import numpy as np
import polars as pl
import pytest
from compared import comparison

from tabmtl import SharedTrees
from tabmtl.inspection.plots import CalibrationDisplay, ComparisonDisplay
from tabmtl.testing import features, mixed_targets


def test_differences_are_drawn_against_the_reference():
    display = comparison().plot()
    assert list(display.axes_) == ["late", "delay <min>", "kind"]
    ax = display.axes_["delay <min>"]
    assert [label.get_text() for label in ax.get_yticklabels()] == ["constant", "a <b>", "experts"]
    assert ax.get_xlabel() == "r2 minus linear"
    drawn = [line.lines[0].get_xdata()[0] for line in display.points_["delay <min>"]]
    expected = comparison().frame.filter(pl.col("model") != "linear", task="delay <min>")["difference"]
    assert np.array_equal(drawn, expected.fill_null(np.nan), equal_nan=True)


def test_the_verdict_is_a_shape():
    display = comparison().plot(tasks=["delay <min>"])
    assert display.points_["delay <min>"][0].lines[0].get_marker() == "v"
    frame = comparison().frame.with_columns(
        difference_low=pl.lit(0.1), difference_high=pl.lit(0.3), difference=pl.lit(0.2)
    )
    display = ComparisonDisplay(frame, tasks=comparison().tasks, reference="linear").plot()
    assert {points.lines[0].get_marker() for points in display.points_["late"]} == {"^"}


def test_scores_are_drawn_of_all_models_into_given_axes():
    from matplotlib.figure import Figure

    ax = Figure().subplots()
    display = comparison().plot(tasks=["kind"], values="score", ax=ax)
    assert display.ax_ is ax and len(display.points_["kind"]) == 4
    assert ax.get_xlabel() == "roc_auc (higher is better)"


def test_calibration_has_a_line_for_every_model():
    display = CalibrationDisplay.from_comparison(comparison())
    assert list(display.lines_) == [
        (task, model) for task in display.axes_ for model in ("linear", "constant", "experts")
    ]
    bins = comparison().calibration.filter(model="linear", task="late")
    assert display.lines_["late", "linear"].get_ydata().tolist() == bins["observed"].to_list()
    assert display.axes_["late"].get_xlabel() == "probability of late=yes"


def test_calibration_of_one_model_before_and_after():
    X = features(300)
    y = mixed_targets(X)
    model = SharedTrees(n_estimators=5, n_estimators_task=5, random_state=0).fit(X[:100], y[:100])
    assert list(CalibrationDisplay.from_estimator(model, X[200:], y[200:]).lines_) == [
        (task, "SharedTrees") for task in y.columns
    ]
    before = CalibrationDisplay.from_estimator(model, X[200:], y[200:], tasks=["late"], name="before")
    model.calibrate(X[100:200], y[100:200])
    after = CalibrationDisplay.from_estimator(model, X[200:], y[200:], tasks=["late"], name="after", ax=before.ax_)
    lines = [*before.lines_.values(), *after.lines_.values()]
    assert lines[0].get_color() != lines[1].get_color()
    assert not np.array_equal(lines[0].get_xdata(), lines[1].get_xdata())
    assert [text.get_text() for text in before.ax_.get_legend().get_texts()] == ["before", "after"]
    with pytest.raises(ValueError, match="near is 'late'"):
        CalibrationDisplay.from_estimator(model, X, y, tasks=["lat"])


@pytest.mark.parametrize("cls", [ComparisonDisplay, CalibrationDisplay])
def test_mistakes_are_told(cls):
    with pytest.raises(ValueError, match=r"expected tasks of the comparison, .* got \['lat'\]"):
        cls.from_comparison(comparison(), tasks=["lat"])
    with pytest.raises(ValueError, match="there is no task to draw"):
        cls.from_comparison(comparison(), tasks=[])
    with pytest.raises(ValueError, match="one ax cannot hold 3 tasks"):
        cls.from_comparison(comparison(), ax=object())
    with pytest.raises(ValueError, match="values must be one of"):
        comparison().plot(values="scores")
