"""The display of a Pareto front: what it draws, and what it refuses to draw."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from tabmtl.tuning import ParetoDisplay

matplotlib = pytest.importorskip("matplotlib")

TRIALS = pl.DataFrame(
    {
        "trial": [0, 1, 4, 5],
        "dominated": [False, True, False, False],
        "score/late": [0.8, 0.6, 0.7, 0.75],
        "score/delay": [0.2, 0.1, 0.4, 0.3],
        "param/dropout": [0.0, 0.1, 0.2, 0.3],
    }
)
FRONT = TRIALS.filter(~pl.col("dominated")).drop("dominated")


def offsets(points) -> list[list[float]]:
    return np.asarray(points.get_offsets()).tolist()


def labels(legend) -> list[str]:
    return [text.get_text() for text in legend.get_texts()]


def test_the_front_is_drawn_and_joined_by_what_it_reaches():
    display = ParetoDisplay.from_front(FRONT)
    assert list(display.axes_) == [("late", "delay")]
    assert offsets(display.points_["late", "delay"]) == [[0.8, 0.2], [0.7, 0.4], [0.75, 0.3]]
    assert display.dominated_ == {}
    (line,) = display.ax_.get_lines()
    assert (line.get_drawstyle(), line.get_xdata().tolist()) == ("steps-pre", [0.7, 0.75, 0.8])
    assert (display.ax_.get_xlabel(), display.ax_.get_ylabel()) == ("score of late", "score of delay")
    assert display.figure_ is display.ax_.figure


def test_dominated_trials_are_grey_and_apart():
    display = ParetoDisplay.from_front(TRIALS)
    assert offsets(display.points_["late", "delay"]) == offsets(
        ParetoDisplay.from_front(FRONT).points_["late", "delay"]
    )
    behind = display.dominated_["late", "delay"]
    assert offsets(behind) == [[0.6, 0.1]]
    red, green, blue, _ = behind.get_facecolor()[0]
    assert red == green == blue
    assert labels(display.ax_.get_legend()) == ["dominated", "Pareto front"]


def test_reference_and_chosen_trial_are_marked():
    display = ParetoDisplay.from_front(TRIALS, reference={"delay": 0.25}, chosen=TRIALS.filter(trial=4))
    (dotted,) = (line for line in display.ax_.get_lines() if line.get_linestyle() == ":" and len(line.get_ydata()))
    assert dotted.get_ydata() == [0.25, 0.25]
    assert offsets(display.ax_.collections[-1]) == [[0.7, 0.4]]
    assert labels(display.ax_.get_legend()) == ["dominated", "Pareto front", "reference", "trial 4"]
    assert ParetoDisplay.from_front(TRIALS, chosen=4).chosen == 4


def test_many_tasks_have_a_panel_for_every_pair():
    display = ParetoDisplay.from_front(WIDE)
    assert list(display.axes_) == [("late", "delay"), ("late", "size"), ("delay", "size")]
    assert sorted(map(id, display.figure_.axes)) == sorted(map(id, display.axes_.values()))
    assert not display.ax_.get_lines(), "a front of three tasks is no line of two"
    assert not ParetoDisplay.from_front(WIDE, tasks=["size", "late"]).ax_.get_lines()
    said = {pair: (ax.get_xlabel(), ax.get_ylabel()) for pair, ax in display.axes_.items()}
    assert said == {
        ("late", "delay"): ("", "score of delay"),
        ("late", "size"): ("score of late", "score of size"),
        ("delay", "size"): ("score of delay", ""),
    }
    known = ParetoDisplay.from_front(FRONT, metrics={"late": "roc_auc"})
    assert (known.ax_.get_xlabel(), known.ax_.get_ylabel()) == ("late (roc_auc)", "score of delay")
    display.figure_.canvas.draw()


def test_a_pair_is_drawn_into_given_axes():
    ax = matplotlib.figure.Figure().subplots()
    display = ParetoDisplay.from_front(FRONT, tasks=["delay", "late"], ax=ax, scatter_kw={"color": "k"})
    assert display.ax_ is ax
    assert offsets(display.points_["delay", "late"])[0] == [0.2, 0.8]
    assert display.points_["delay", "late"].get_facecolor()[0].tolist() == [0, 0, 0, 1]


WIDE = FRONT.with_columns(pl.lit(0.5).alias("score/size"))
EARLY = {"tasks": ["late", "early"], "reference": {"soon": 1}}
REFUSED = [
    (FRONT, EARLY, r"tasks of the front, \['late', 'delay'\], got \['early', 'soon'\]"),
    (FRONT, {"tasks": ["late"]}, "2 to 6 different tasks"),
    (FRONT, {"tasks": ["late", "late"]}, "2 to 6 different tasks"),
    (FRONT, {"chosen": 1}, r"no trial 1 in the front; its trials are \[0, 4, 5\]"),
    (FRONT.clear(), {}, "no trial to draw"),
    (WIDE, {"ax": 1}, "one ax cannot hold 3 pairs"),
]


@pytest.mark.parametrize(("front", "options", "message"), REFUSED)
def test_what_is_refused(front, options, message):
    with pytest.raises(ValueError, match=message):
        ParetoDisplay.from_front(front, **options)
