"""The display of importances: which features it draws, in which order, and what it leaves out."""

import numpy as np
import polars as pl
import pytest

from tabmtl import gain_importances
from tabmtl.inspection.plots import ImportanceDisplay

FALLS = pl.DataFrame(
    {
        "task": ["late", "late", "late", "delay", "delay", "delay"],
        "feature": ["a", "b", "c"] * 2,
        "metric": ["roc_auc"] * 3 + ["r2"] * 3,
        "importance": [0.1, 0.3, -0.05, None, None, None],
        "low": [0.0, None, -0.1, None, None, None],
        "high": [0.2, None, 0.0, None, None, None],
    }
)


def test_every_task_has_its_highest_importances_with_intervals():
    display = ImportanceDisplay.from_importances(FALLS, max_features=2)
    assert list(display.axes_) == ["late", "delay"]
    ax = display.axes_["late"]
    assert [label.get_text() for label in ax.get_yticklabels()] == ["b", "a"]
    assert [bar.get_width() for bar in display.bars_["late"]] == [0.3, 0.1]
    first, second = display.bars_["late"].errorbar.lines[2][0].get_segments()
    assert not len(first)  # without an interval
    np.testing.assert_allclose(second[:, 0], [0, 0.2], atol=1e-12)
    assert (ax.get_title(), ax.get_xlabel()) == ("late, 1 more left out", "fall of roc_auc")
    assert ax.get_ylim()[0] > ax.get_ylim()[1]  # the highest is on top
    assert (display.axes_["delay"].get_title(), len(display.bars_["delay"])) == ("delay: undefined", 0)
    display.figure_.canvas.draw()


def test_the_gain_of_trees_is_drawn_without_measuring(boosted):
    display = ImportanceDisplay.from_estimator(boosted, tasks=["early", "late"])
    assert list(display.axes_) == ["early", "late"]
    widths = [bar.get_width() for bar in display.bars_["early"]]
    expected = gain_importances(boosted).filter(task="early")["importance"].sort(descending=True).to_list()
    assert (widths, display.ax_.get_xlabel()) == (expected, "share in the gain")


def test_a_frame_without_a_metric_has_the_label_of_the_caller():
    plain = FALLS.drop("metric", "low", "high")
    labels = [
        ImportanceDisplay.from_importances(frame, tasks=["late"], **own).ax_.get_xlabel()
        for frame, own in ((plain.to_pandas(), {}), (plain, {"label": "|SHAP|"}), (FALLS, {"label": "points of AUC"}))
    ]
    assert labels == ["importance", "|SHAP|", "points of AUC"]


def test_tasks_that_a_frame_lacks_are_named():
    with pytest.raises(ValueError, match=r"tasks that the frame does not have: \['laet'\]; near is 'late'"):
        ImportanceDisplay.from_importances(FALLS, tasks=["laet"])
