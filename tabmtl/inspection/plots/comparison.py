"""Scores of compared models, their differences to a reference, and their calibration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import polars as pl

from tabmtl.base.params import check_choice
from tabmtl.inspection.plots.display import COLORS, MARKED, REFERENCE, Display, tasks_named, tasks_of
from tabmtl.metrics.calibration import calibration_of
from tabmtl.metrics.scores import shown_metric
from tabmtl.targets import Task

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.container import ErrorbarContainer
    from matplotlib.lines import Line2D


#: Looks of differences above 0, below 0, and with 0 in their interval: told apart by shape too.
_LOOKS = {"ahead": ("^", COLORS[0]), "behind": ("v", MARKED), "level": ("o", REFERENCE)}
_MARKERS = "osD^vP*X"


class ComparisonDisplay(Display):
    """Differences of compared models to their reference, or their scores, with 95 % intervals: one panel per task.

    Use :meth:`from_comparison` to make it. Intervals of differences hold together, as in the frame of a `Comparison`. A
    triangle up is a model ahead of the reference, and a triangle down a model behind it: the interval leaves 0 out.

    Parameters
    ----------
    frame : polars.DataFrame
        One row per model and task, as ``frame`` of a `Comparison`. A panel leaves out models without a score of its
        task.
    tasks : sequence of Task
        The tasks to draw, with their metrics.
    reference : str
        Name of the reference, the model that others are compared with.

    Attributes
    ----------
    axes_ : dict of str to matplotlib Axes
        By task.
    points_ : dict of str to list of matplotlib ErrorbarContainer
        By task: those of the models, in the order of the frame.
    ax_ : matplotlib Axes
        Of the first task.
    figure_ : matplotlib Figure

    Examples
    --------
    >>> import numpy as np
    >>> from tabmtl import IndependentTasks, SharedTrees, compare
    >>> from tabmtl.inspection.plots import ComparisonDisplay
    >>> X = np.random.default_rng(0).normal(size=(200, 3))
    >>> models = {"alone": IndependentTasks(families=("lightgbm",)), "together": SharedTrees(n_estimators=50)}
    >>> comparison = compare(models, X, X[:, :2] + X[:, 2:], random_state=0)
    >>> display = ComparisonDisplay.from_comparison(comparison)
    >>> list(display.axes_), [label.get_text() for label in display.ax_.get_yticklabels()]
    (['y0', 'y1'], ['together'])
    """

    def __init__(self, frame: pl.DataFrame, *, tasks: Sequence[Task], reference: str) -> None:
        self.frame, self.tasks, self.reference = frame, tasks, reference

    @classmethod
    def from_comparison(
        cls,
        comparison: Any,
        *,
        tasks: Sequence[str] | None = None,
        values: Literal["difference", "score"] = "difference",
        ax: Axes | None = None,
        errorbar_kw: Mapping[str, Any] | None = None,
    ) -> ComparisonDisplay:
        """Draw a comparison.

        Parameters
        ----------
        comparison : Comparison
        tasks : sequence of str, optional
            Names of the tasks to draw; default all.
        values : {"difference", "score"}, default="difference"
        ax : matplotlib Axes, optional
            Where to draw one task; default a new figure.
        errorbar_kw : mapping, optional
            Arguments for the points and their intervals, as ``Axes.errorbar`` takes them.

        Raises
        ------
        ValueError
            If a task is unknown, one ``ax`` is given for several tasks, or there is no task to draw.
        """
        shown = tasks_named(comparison.tasks, tasks, "the comparison")
        display = cls(comparison.frame, tasks=shown, reference=comparison.reference)
        return display.plot(values=values, ax=ax, errorbar_kw=errorbar_kw)

    def plot(
        self,
        *,
        values: Literal["difference", "score"] = "difference",
        ax: Axes | None = None,
        errorbar_kw: Mapping[str, Any] | None = None,
    ) -> ComparisonDisplay:
        """Draw the panels; the arguments are those of :meth:`from_comparison`."""
        check_choice("values", values, ("difference", "score"))
        rows = self.frame if values == "score" else self.frame.filter(pl.col("model") != self.reference)
        n_lines = rows["model"].n_unique()
        self.axes_ = self._panels_of([task.name for task in self.tasks], ax, height=1.1 + 0.28 * n_lines)
        self.points_: dict[str, list[ErrorbarContainer]] = {}
        for task in self.tasks:
            own, panel = rows.filter(task=task.name), self.axes_[task.name]
            self.points_[task.name] = _draw_intervals(panel, own, values, errorbar_kw or {})
            of = f"minus {self.reference}" if values == "difference" else "(higher is better)"
            panel.set_xlabel(f"{shown_metric(task)} {of}", fontsize="small")
            panel.set_title(task.name, fontsize="medium")
        return self


class CalibrationDisplay(Display):
    """Answers of models beside what came: one panel per task, one line per model.

    Answers on the dotted line agree with what came. Use :meth:`from_estimator` for one model, before and after
    `calibrate`, say, and :meth:`from_comparison` for several.

    Parameters
    ----------
    calibration : polars.DataFrame
        As ``calibration`` of a `Comparison`, or some of its rows: answers and what came in bins of equally many rows.
    tasks : sequence of Task
        The tasks to draw.

    Attributes
    ----------
    axes_ : dict of str to matplotlib Axes
        By task.
    lines_ : dict of (str, str) to matplotlib Line2D
        By task and model.
    ax_ : matplotlib Axes
        Of the first task.
    figure_ : matplotlib Figure

    Examples
    --------
    >>> import numpy as np
    >>> from tabmtl import IndependentTasks, compare
    >>> from tabmtl.inspection.plots import CalibrationDisplay
    >>> X = np.random.default_rng(0).normal(size=(200, 3))
    >>> comparison = compare([IndependentTasks()], X, X[:, 0] + X[:, 1] > 0, random_state=0)
    >>> list(CalibrationDisplay.from_comparison(comparison).lines_)
    [('y', 'IndependentTasks')]
    """

    def __init__(self, calibration: pl.DataFrame, *, tasks: Sequence[Task]) -> None:
        self.calibration, self.tasks = calibration, tasks

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        X: Any,
        y: Any,
        *,
        tasks: str | Sequence[str] | None = None,
        name: str | None = None,
        ax: Axes | None = None,
    ) -> CalibrationDisplay:
        """Draw the calibration of a fitted model on labelled rows.

        Parameters
        ----------
        estimator : MultiTaskEstimator
        X, y : as in ``score_tasks``
            Rows that neither ``fit`` nor ``calibrate`` has seen.
        tasks : str or sequence of str, optional
            Names of the tasks to draw; default all.
        name : str, optional
            Of the line in the legend; default that of the class.
        ax : matplotlib Axes, optional
            Where to draw one task, such as ``ax_`` of another display; default a new figure.

        Raises
        ------
        NotFittedError, TypeError
            If the estimator is not fitted, or none of tables.
        ValueError
            If a task is not one of the estimator's, or one ``ax`` is given for several.
        """
        shown = tasks_of(estimator, tasks, "score_tasks", "of tables, such as SharedTrees")
        bins = calibration_of(estimator.__labelled_answers__(X, y))
        named = bins.select(pl.lit(type(estimator).__name__ if name is None else name).alias("model"), pl.all())
        return cls(named, tasks=shown).plot(ax=ax)

    @classmethod
    def from_comparison(
        cls, comparison: Any, *, tasks: Sequence[str] | None = None, ax: Axes | None = None
    ) -> CalibrationDisplay:
        """Draw the calibration of a comparison; arguments and errors are those of `ComparisonDisplay`."""
        shown = tasks_named(comparison.tasks, tasks, "the comparison")
        return cls(comparison.calibration, tasks=shown).plot(ax=ax)

    def plot(self, *, ax: Axes | None = None) -> CalibrationDisplay:
        """Draw the panels; ``ax`` is that of :meth:`from_estimator`."""
        self.axes_ = self._panels_of([task.name for task in self.tasks], ax, height=2.9)
        self.lines_: dict[tuple[str, str], Line2D] = {}
        models = self.calibration["model"].unique(maintain_order=True).to_list()
        for task in self.tasks:
            own = self.calibration.filter(task=task.name)
            n_before = len(self.axes_[task.name].get_legend_handles_labels()[1])
            for i, model in enumerate(models, start=n_before):
                bins, panel = own.filter(model=model), self.axes_[task.name]
                look: dict[str, Any] = {
                    "color": COLORS[i % len(COLORS)],
                    "marker": _MARKERS[i % len(_MARKERS)],
                    "markersize": 4,
                    "linewidth": 1.2,
                }
                (line,) = panel.plot(bins["predicted"], bins["observed"], label=model, **look)
                self.lines_[task.name, model] = line
            _draw_frame(self.axes_[task.name], task, own)
        handles, labels = self.ax_.get_legend_handles_labels()
        if ax is None:
            self.figure_.legend(handles, labels, loc="outside lower center", ncols=4, fontsize="small", frameon=False)
        else:
            for legend in [*self.figure_.legends]:  # of a display that was drawn here before
                legend.remove()
            ax.legend(fontsize="small")
        return self


def _draw_intervals(ax: Axes, rows: pl.DataFrame, values: str, options: Mapping[str, Any]) -> list[ErrorbarContainer]:
    """Draw a line per model, from above in the order of the rows."""
    low, high = ("difference_low", "difference_high") if values == "difference" else ("low", "high")
    points = []
    for place, row in enumerate(rows.iter_rows(named=True)):
        value = np.nan if row[values] is None else row[values]
        margins = [[0.0 if row[low] is None else value - row[low]], [0.0 if row[high] is None else row[high] - value]]
        marker, color = _LOOKS[verdict(row)] if values == "difference" else ("o", COLORS[0])
        look = {"fmt": marker, "color": color, "markersize": 6, "capsize": 2, **options}
        points.append(ax.errorbar([value], [place], xerr=np.maximum(margins, 0), **look))
    ax.set_yticks(np.arange(rows.height), rows["model"].to_list(), fontsize="small")
    ax.set_ylim(rows.height - 0.5, -0.5)
    ax.tick_params(axis="x", labelsize="small")
    ax.locator_params(axis="x", nbins=5)
    if values == "difference":
        ax.axvline(0, color=REFERENCE, linestyle=":", zorder=0)
    return points


def verdict(row: Mapping[str, Any]) -> Literal["ahead", "behind", "level"]:
    """Return "ahead" or "behind" where the interval of a difference leaves 0 out, else "level"."""
    if row["difference_low"] is not None and row["difference_low"] > 0:
        return "ahead"
    if row["difference_high"] is not None and row["difference_high"] < 0:
        return "behind"
    return "level"


def _draw_frame(ax: Axes, task: Task, bins: pl.DataFrame) -> None:
    """Name the axes, and draw the line of agreement."""
    second = f"{task.name}={task.classes[1]}" if task.is_binary and task.classes else task.name
    x, y = task.kind.calibration_axes
    ends = [bound for name in ("predicted", "observed") for bound in (bins[name].min(), bins[name].max())]
    known = [end for end in ends if isinstance(end, float)]
    if known:
        ax.plot([min(known), max(known)], [min(known), max(known)], color=REFERENCE, linestyle=":", zorder=0)
    ax.set_xlabel(x.format(second), fontsize="small")
    ax.set_ylabel(y.format(second), fontsize="small")
    ax.tick_params(labelsize="small")
    ax.locator_params(nbins=5)
    ax.set_title(task.name, fontsize="medium")
