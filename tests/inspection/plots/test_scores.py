"""Displays of scores and gains: what they draw, and what they say when they cannot."""

import numpy as np
import polars as pl
import pytest

from tabmtl import Task, multitask_gain
from tabmtl.inspection.plots import GainDisplay, HistoryDisplay

matplotlib = pytest.importorskip("matplotlib")


def test_history_draws_the_numbers_of_history_and_marks_the_kept_epoch(model):
    display = HistoryDisplay.from_estimator(model)
    assert set(display.lines_) == {
        f"{part}/{task}" for part in ("train", "val") for task in ("late/roc_auc", "delay/r2")
    }
    for name, line in display.lines_.items():
        epochs, scores = line.get_data()
        np.testing.assert_array_equal(epochs, [1, 2, 3])
        np.testing.assert_array_equal(scores, model.history_[name].to_numpy())
    assert display.figure_ is display.ax_.figure
    (kept,) = (line for line in display.ax_.get_lines() if line not in display.lines_.values())
    assert set(kept.get_xdata()) == {model.best_iteration_}
    assert f"kept: epoch {model.best_iteration_}" in [text.get_text() for text in display.ax_.get_legend().get_texts()]
    lines = display.lines_
    assert lines["val/late/roc_auc"].get_color() == lines["train/late/roc_auc"].get_color()
    assert lines["val/late/roc_auc"].get_color() != lines["val/delay/r2"].get_color()
    assert {lines[f"{part}/delay/r2"].get_linestyle() for part in ("val", "train")} == {"-", "--"}


def test_history_leaves_a_gap_where_a_score_is_undefined():
    history = pl.DataFrame({"epoch": [0, 1], "val/late/roc_auc": [None, 0.7]})
    display = HistoryDisplay(history, tasks=[Task(name="late", kind="binary", metric="roc_auc")]).plot()
    np.testing.assert_array_equal(display.lines_["val/late/roc_auc"].get_ydata(), [np.nan, 0.7])
    assert len(display.ax_.get_lines()) == 1


def test_gain_draws_scores_beside_the_reference():
    gain = multitask_gain({"late": 0.82, "delay": 0.38}, {"late": 0.80, "delay": 0.40})
    display = GainDisplay.from_gain(gain, names=("MultiTabNet", "LightGBM"))
    heights = [[bar.get_height() for bar in bars] for bars in display.bars_]
    assert heights == [[0.82, 0.38], [0.80, 0.40]]
    texts = [text.get_text() for text in display.ax_.texts]
    assert texts == ["+2.5 %", "-5.0 %"]
    assert [text.get_text() for text in display.ax_.get_legend().get_texts()] == ["MultiTabNet", "LightGBM"]
    assert display.ax_.get_title() == "Δm = -1.25 % over 2 of 2 tasks"
    display.figure_.canvas.draw()


def test_metrics_are_named_legends_are_beside_and_epochs_are_whole(model):
    history = HistoryDisplay.from_estimator(model)
    assert history.ax_.get_ylabel() == "roc_auc, r2 (higher is better)"
    assert all(tick == int(tick) for tick in history.ax_.get_xticks())
    gain = multitask_gain({"late": 0.82, "delay": 0.38}, {"late": 0.80, "delay": 0.40})
    gains = GainDisplay.from_gain(gain, tasks=model.tasks_)
    assert [label.get_text() for label in gains.ax_.get_xticklabels()] == ["late\nroc_auc", "delay\nr2"]
    for display in (history, gains):
        display.figure_.canvas.draw()
        assert display.ax_.get_legend().get_window_extent().x0 >= display.ax_.bbox.x1
        assert display.ax_.get_legend().get_window_extent().x1 <= display.figure_.bbox.x1


@pytest.mark.filterwarnings("ignore::tabmtl.base.schema.TabmtlWarning")
def test_gain_that_is_undefined_has_no_number():
    gain = multitask_gain({"late": None, "delay": 0.2, "size": 0.79999}, {"late": 0.80, "delay": 0.001, "size": 0.8})
    display = GainDisplay.from_gain(gain, ax=matplotlib.figure.Figure().subplots())
    assert np.isnan(display.bars_[0][0].get_height())
    assert [text.get_text() for text in display.ax_.texts] == ["", "", "+0.0 %"]  # no minus zero
    display.figure_.canvas.draw()
