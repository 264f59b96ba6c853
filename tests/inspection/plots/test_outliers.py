"""The display of outlier scores: what it draws, and what it says when it cannot."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import polars as pl
import pytest

from tabmtl.inspection.plots import OutlierTaskDisplay

matplotlib = pytest.importorskip("matplotlib")


def outliers(n: int, **columns) -> pl.DataFrame:
    names = [f"school {i}" for i in range(n)]
    table = pl.DataFrame({"task": names, "outlier_score": [i / n for i in range(n)], "check_loss": [0.5] * n})
    return table.with_columns(check_loss_if_normal=pl.lit(0.55)).with_columns(**columns)


def checks_of(display: OutlierTaskDisplay) -> list[str]:
    (right,) = display.ax_.child_axes
    return [label.get_text() for label in right.get_yticklabels()]


def names_of(display: OutlierTaskDisplay) -> list[str]:
    return [label.get_text() for label in display.ax_.get_yticklabels()]


def test_outliers_are_drawn_from_the_highest_score_down():
    table = outliers(4, outlier_score=pl.Series([0.3, 0.9, 0.1, 0.6]))
    display = OutlierTaskDisplay(table).plot()
    assert [bar.get_width() for bar in display.bars_] == [0.9, 0.6, 0.3, 0.1]
    assert names_of(display) == ["school 1", "school 3", "school 0", "school 2"]
    places = [bar.get_y() for bar in display.bars_]
    assert places == sorted(places, reverse=True)
    np.testing.assert_allclose(display.ax_.get_yticks(), [bar.get_y() + bar.get_height() / 2 for bar in display.bars_])
    (half,) = display.ax_.get_lines()
    assert set(half.get_xdata()) == {0.5}
    assert display.ax_.get_title() == "outlier scores"
    display.figure_.canvas.draw()


def test_outliers_have_the_measured_check_beside_them():
    """In per cent, by which a normal task's weight would change the loss; none where nothing was measured."""
    normal = pl.Series([0.5, 0.25, None, 2.0, 1.0])
    table = outliers(5, check_loss=pl.Series([0.4, 0.5, 0.5, 2.0, 0.0]), check_loss_if_normal=normal)
    display = OutlierTaskDisplay(table).plot()
    assert checks_of(display) == ["", "+0.0 %", "", "-50.0 %", "+25.0 %"]
    np.testing.assert_array_equal(display.ax_.child_axes[0].get_yticks(), display.ax_.get_yticks())
    assert display.ax_.child_axes[0].get_ylabel() == "validation loss with a normal task's weight"


def test_outliers_of_many_tasks_are_cut_and_counted():
    table = outliers(139)
    display = OutlierTaskDisplay(table).plot()
    assert names_of(display) == [f"school {i}" for i in range(138, 108, -1)]
    assert display.ax_.get_title() == "outlier scores: the 30 highest, 109 tasks left out"
    display.figure_.canvas.draw()
    boxes = [label.get_window_extent() for label in display.ax_.get_yticklabels()]
    assert all(above.y0 >= below.y1 - 1 for above, below in pairwise(boxes))  # legible: no overlap
    assert len(OutlierTaskDisplay(table, max_tasks=200).plot().bars_) == 139


def test_outliers_of_an_estimator(boosted):
    table = boosted.outlier_score_
    scores = dict(table.select("task", "outlier_score").iter_rows())
    assert scores["late"] is None
    display = OutlierTaskDisplay.from_estimator(boosted)
    assert sorted(names_of(display)) == ["delay", "early", "twice"]
    assert display.ax_.get_title().endswith("outlier scores: the 3 highest, 1 tasks left out")
    assert [bar.get_width() for bar in display.bars_] == [scores[name] for name in names_of(display)]
    losses = {
        name: normal / own - 1
        for name, own, normal in table.drop_nulls()["task", "check_loss", "check_loss_if_normal"].iter_rows()
    }
    assert checks_of(display) == [f"{100 * losses[name]:+z.1f} %" for name in names_of(display)]
