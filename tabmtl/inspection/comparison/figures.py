"""Pictures of a comparison, as SVG that goes into a page."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from html import escape
from io import StringIO
from typing import Any

import polars as pl

from tabmtl.inspection.comparison.page import Figure
from tabmtl.inspection.plots import (
    CalibrationDisplay,
    ComparisonDisplay,
    ExpertUsageDisplay,
    HistoryDisplay,
    LeaderboardDisplay,
)
from tabmtl.inspection.plots.display import Display, check_matplotlib, load_pyplot
from tabmtl.targets import Task

_MOST_PANELS, _MOST_CURVES = 12, 6

_STYLE: Any = {
    "svg.fonttype": "none",  # text stays text: it can be searched and read aloud
    "text.parse_math": False,  # a dollar in the name of a task is no formula
    "font.size": 9,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "axes.edgecolor": "0.5",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "savefig.transparent": True,
}


def draw_figures(comparison: Any) -> list[Figure]:
    """Draw differences, calibration, learning curves, mixtures of ensembles and the use of experts.

    Parameters
    ----------
    frame, models, calibration, tasks, reference
        Of the comparison.

    Raises
    ------
    ImportError
        If matplotlib is missing.
    """
    check_matplotlib("the report")
    with load_pyplot().rc_context(_STYLE):
        return [
            *_differences(comparison.frame, comparison.tasks, comparison.reference),
            *_calibration(comparison.calibration, comparison.tasks),
            *(figure for name, model in comparison.models.items() for figure in _inside(name, model)),
        ]


def _differences(frame: pl.DataFrame, tasks: Sequence[Task], reference: str) -> Iterator[Figure]:
    drawn = frame.drop_nulls("difference")
    caption = (
        f"Score of each model minus that of {reference} on the same rows, with joint 95 % intervals. A triangle marks "
        "an interval that leaves 0 out: up is ahead, down behind."
    )
    if shown := _among(tasks, drawn):
        display = ComparisonDisplay(drawn, tasks=shown[:_MOST_PANELS], reference=reference).plot()
        yield _figure("Differences, task by task", caption + _left_out(shown, _MOST_PANELS), display)


def _calibration(calibration: pl.DataFrame, tasks: Sequence[Task]) -> Iterator[Figure]:
    caption = (
        "Mean answers beside means of what came, in up to ten bins of equally many rows to test. On the dotted line "
        "they agree: a model below it answers too high, above it too low. Of a task with two classes it is the "
        "probability of the second, of one with more that of the class answered."
    )
    if shown := _among(tasks, calibration):
        display = CalibrationDisplay(calibration, tasks=shown[:_MOST_PANELS]).plot()
        yield _figure("Calibration", caption + _left_out(shown, _MOST_PANELS), display)


def _among(tasks: Sequence[Task], rows: pl.DataFrame) -> list[Task]:
    named = set(rows["task"])
    return [task for task in tasks if task.name in named]


def _inside(name: str, model: Any) -> Iterator[Figure]:
    """Draw what only some models have: curves, weights of a mixture, experts."""
    if hasattr(model, "history_"):
        some = [task.name for task in model.tasks_[:_MOST_CURVES]]
        display: Display = HistoryDisplay.from_estimator(model, tasks=some)
        _move_legend(display)
        caption = (
            "Scores after every epoch: full lines on the rows for early stopping, dashed lines in training, while the "
            "weights still move. The dotted line marks the weights that were kept."
            f"{_left_out(model.tasks_, _MOST_CURVES)}"
        )
        yield _figure(f"Learning curves: {name}", caption, display)
    if hasattr(model, "leaderboard_"):
        some = [task.name for task in model.tasks_[:_MOST_PANELS]]
        display = LeaderboardDisplay.from_estimator(model, tasks=some)
        caption = (
            "Scores of the candidates on rows that they did not learn from, with standard errors, and their weights in "
            f"the mixture, the last row.{_left_out(model.tasks_, _MOST_PANELS)}"
        )
        yield _figure(f"Candidates: {name}", caption, display)
    if hasattr(model, "expert_utilisation_"):
        caption = "Mean weight that the gate of each task gives each expert, over rows to fit."
        yield _figure(f"Use of experts: {name}", caption, ExpertUsageDisplay.from_estimator(model))


def _left_out(tasks: Sequence[Task], most: int) -> str:
    return f" The first {most} of {len(tasks)} tasks are shown." if len(tasks) > most else ""


def _move_legend(display: Display) -> None:
    """Move the legend of the axes beside them, where it covers no curve."""
    legend = display.ax_.get_legend()
    if legend is not None:
        legend.remove()
    display.figure_.set_size_inches(9, 3.6)
    handles, labels = display.ax_.get_legend_handles_labels()
    display.figure_.legend(handles, labels, loc="outside right upper", fontsize="small", frameon=False)


def _figure(heading: str, caption: str, display: Display) -> Figure:
    """Save a display as SVG, and close it."""
    from matplotlib import rc_context

    text = StringIO()
    with rc_context({"svg.hashsalt": heading}):  # no two figures of a page share the id of a clip path
        display.figure_.savefig(text, format="svg", metadata={"Date": None})
    display.close()
    svg = text.getvalue()
    svg = svg[svg.index("<svg") :]
    used = set(re.findall(r"#([^\"')]+)", svg))
    svg = re.sub(r' id="([^"]+)"', lambda found: found[0] if found[1] in used else "", svg)
    return Figure(heading, caption, svg.replace("<svg ", f'<svg role="img" aria-label="{escape(heading)}" ', 1))
