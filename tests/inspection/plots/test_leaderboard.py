"""The display of a leaderboard: what it draws, and what it says when it cannot."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import polars as pl
import pytest

from tabmtl.inspection.plots import LeaderboardDisplay
from tabmtl.targets import Task

matplotlib = pytest.importorskip("matplotlib")


def names_of(ax) -> list[str]:
    return [label.get_text() for label in ax.get_yticklabels()]


def weights_of(ax) -> list[str]:
    (right,) = ax.child_axes
    return [label.get_text() for label in right.get_yticklabels()]


def ends_of(points) -> list[tuple[float, float]]:
    """The ends of the bars of error."""
    return [(ends[0, 0], ends[1, 0]) for ends in points.lines[2][0].get_segments()]


def test_every_candidate_has_its_score_error_and_weight(ensemble):
    display = LeaderboardDisplay.from_estimator(ensemble)
    assert list(display.axes_) == ["late", "delay"]
    assert display.ax_ is display.axes_["late"]
    for task, ax in display.axes_.items():
        rows = ensemble.leaderboard_.filter(task=task)
        assert names_of(ax) == rows["model"].to_list() == ["alone", "together", "LinearStack", "MultiTaskEnsemble"]
        scores, places = display.points_[task].lines[0].get_data()
        np.testing.assert_array_equal(scores, rows["score"])
        np.testing.assert_array_equal(places, ax.get_yticks())
        expected = [(score - error, score + error) for score, error in rows["score", "standard_error"].iter_rows()]
        np.testing.assert_allclose(ends_of(display.points_[task]), expected)
        assert weights_of(ax) == [*(f"{weight:.2f}" for weight in rows["weight"].head(3)), ""]
    assert display.axes_["late"].get_xlabel() == "roc_auc (higher is better)"
    display.figure_.canvas.draw()
    boxes = [label.get_window_extent() for label in display.ax_.get_yticklabels()]
    assert all(above.y0 >= below.y1 - 1 for above, below in pairwise(boxes))  # the first is on top
    first, second = (ax.get_tightbbox() for ax in display.axes_.values())
    assert first.x1 <= second.x0 + 1  # panels stand beside each other


def test_the_mixture_is_marked(ensemble):
    ax = LeaderboardDisplay.from_estimator(ensemble, tasks=["delay"]).ax_
    mixture = ensemble.leaderboard_.filter(task="delay", model="MultiTaskEnsemble")["score"].item()
    (line,) = (line for line in ax.get_lines() if line.get_linestyle() == ":")
    assert set(line.get_xdata()) == {mixture}
    colors = [label.get_color() for label in ax.get_yticklabels()]
    assert colors[-1] == line.get_color()
    assert colors[-1] not in colors[:-1]


def test_many_tasks_fill_rows_of_panels():
    names = [f"task {t}" for t in range(7)]
    columns = {"model": "alone", "score": 0.5, "standard_error": 0.1, "weight": 1.0}
    board = pl.DataFrame({"task": names}).with_columns(pl.lit(value).alias(name) for name, value in columns.items())
    display = LeaderboardDisplay(board, tasks=[Task(name=name, kind="regression") for name in names]).plot()
    assert list(display.axes_) == names
    assert display.figure_.axes == list(display.axes_.values())  # no empty panel
    assert len({ax.get_position().y0 for ax in display.axes_.values()}) == 3


def test_an_undefined_score_leaves_its_place_empty():
    board = pl.DataFrame({"model": ["alone", "MultiTaskEnsemble"], "task": ["a", "a"], "weight": [1.0, None]})
    board = board.with_columns(score=pl.lit(None, pl.Float64), standard_error=pl.lit(None, pl.Float64))
    display = LeaderboardDisplay(board, tasks=[Task(name="a", kind="regression")]).plot()
    assert np.isnan(display.points_["a"].lines[0].get_xdata()).all()
    assert names_of(display.ax_) == ["alone", "MultiTaskEnsemble"]
    display.figure_.canvas.draw()
