"""Scores: over the epochs of a training, and beside a reference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from tabmtl.inspection.plots.display import COLORS, FAINT, REFERENCE, Display, better_high, put_legend_beside, tasks_of
from tabmtl.metrics.gain import MultitaskGain
from tabmtl.metrics.scores import shown_metric
from tabmtl.targets import Task

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.lines import Line2D


class HistoryDisplay(Display):
    """Scores of every task over the epochs of a fit, with the epoch of the kept weights.

    Use :meth:`from_estimator` to make it. Every task has one colour: a full line for its validation score, a dashed one
    for its training score, which is taken while the weights still move.

    Parameters
    ----------
    history : polars.DataFrame
        One row per epoch, as ``history_`` of a fitted network.
    tasks : sequence of Task
        The tasks to draw, with their metrics.
    best_iteration : int, optional
        Number of epochs whose weights were kept; marked by a vertical line.

    Attributes
    ----------
    ax_ : matplotlib Axes
    figure_ : matplotlib Figure
    lines_ : dict of str to matplotlib Line2D
        The line of every column of ``history`` that was drawn, such as ``"val/late/roc_auc"``.

    Examples
    --------
    >>> import numpy as np
    >>> from tabmtl import SharedBottom
    >>> from tabmtl.inspection.plots import HistoryDisplay
    >>> X = np.random.default_rng(0).normal(size=(100, 3))
    >>> model = SharedBottom(epochs=3, random_state=0).fit(X, X[:, :2])
    >>> display = HistoryDisplay.from_estimator(model)
    >>> sorted(display.lines_)
    ['train/y0/r2', 'train/y1/r2', 'val/y0/r2', 'val/y1/r2']
    """

    def __init__(self, history: pl.DataFrame, *, tasks: Sequence[Task], best_iteration: int | None = None) -> None:
        self.history, self.tasks, self.best_iteration = history, tasks, best_iteration

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        *,
        tasks: Sequence[str] | None = None,
        ax: Axes | None = None,
        line_kw: Mapping[str, Any] | None = None,
    ) -> HistoryDisplay:
        """Draw the training of a fitted network.

        Parameters
        ----------
        estimator : NetworkEstimator
            A fitted estimator with ``history_``; a loaded one has it too.
        tasks : sequence of str, optional
            Names of the tasks to draw; default all.
        ax : matplotlib Axes, optional
            Where to draw; default a new figure.
        line_kw : mapping, optional
            Arguments for every line, as ``Axes.plot`` takes them.

        Raises
        ------
        NotFittedError, TypeError
            If the estimator is not fitted, or has no history, because it does not train in epochs.
        ValueError
            If a task is not one of the estimator's.
        """
        shown = tasks_of(estimator, tasks, "history_", "trained in epochs, such as MultiTabNet")
        display = cls(estimator.history_, tasks=shown, best_iteration=estimator.best_iteration_)
        return display.plot(ax=ax, line_kw=line_kw)

    def plot(self, *, ax: Axes | None = None, line_kw: Mapping[str, Any] | None = None) -> HistoryDisplay:
        """Draw the curves; the arguments are those of :meth:`from_estimator`."""
        ax = self._draw_into(ax)
        epochs = self.history["epoch"].to_numpy() + 1
        self.lines_: dict[str, Line2D] = {}
        for t, task in enumerate(self.tasks):
            for part, style in (("val", "-"), ("train", "--")):
                name = f"{part}/{task.name}/{task.metric}"
                if name not in self.history.columns:
                    continue
                label = f"{task.name} ({shown_metric(task)}), {part}"
                look = {"color": COLORS[t % len(COLORS)], "linestyle": style, "label": label, **(line_kw or {})}
                # An epoch without a score is a gap in the line.
                scores = self.history[name].cast(pl.Float64).to_numpy()
                (self.lines_[name],) = ax.plot(epochs, scores, **look)
        if self.best_iteration is not None:
            ax.axvline(self.best_iteration, color=REFERENCE, linestyle=":", label=f"kept: epoch {self.best_iteration}")
        ax.set(xlabel="epoch", ylabel=better_high(map(shown_metric, self.tasks)))
        ax.locator_params(axis="x", integer=True)
        put_legend_beside(ax)
        return self


class GainDisplay(Display):
    """Bars of every task's score beside the score of its reference, with the gain written above.

    Use :meth:`from_gain` to make it.

    Parameters
    ----------
    gain : MultitaskGain
        Scores and gains, as :func:`tabmtl.multitask_gain` gives them.
    names : tuple of str, default=("multi-task", "single-task")
        Names of the scores and the reference in the legend.
    tasks : sequence of Task, optional
        Tasks of the estimator, ``tasks_``, whose metrics are written below their names.

    Attributes
    ----------
    ax_ : matplotlib Axes
    figure_ : matplotlib Figure
    bars_ : list of two matplotlib BarContainer
        Of the scores and of the reference.

    Examples
    --------
    >>> from tabmtl import multitask_gain
    >>> from tabmtl.inspection.plots import GainDisplay
    >>> display = GainDisplay.from_gain(multitask_gain({"late": 0.82}, {"late": 0.80}))
    >>> display.ax_.get_title()
    'Δm = +2.50 % over 1 of 1 tasks'
    """

    def __init__(
        self,
        gain: MultitaskGain,
        *,
        names: tuple[str, str] = ("multi-task", "single-task"),
        tasks: Sequence[Task] = (),
    ) -> None:
        self.gain, self.names, self.tasks = gain, names, tasks

    @classmethod
    def from_gain(
        cls,
        gain: MultitaskGain,
        *,
        names: tuple[str, str] = ("multi-task", "single-task"),
        tasks: Sequence[Task] = (),
        ax: Axes | None = None,
    ) -> GainDisplay:
        """Draw a gain; the arguments are those of the class and of :meth:`plot`."""
        return cls(gain, names=names, tasks=tasks).plot(ax=ax)

    def plot(self, *, ax: Axes | None = None) -> GainDisplay:
        """Draw the bars; ``ax`` is that of :meth:`HistoryDisplay.from_estimator`."""
        ax = self._draw_into(ax)
        table, width = self.gain.table, 0.4
        places = np.arange(table.height)
        pairs = zip(("score", "reference"), self.names, (-width / 2, width / 2), strict=True)
        self.bars_ = [
            ax.bar(places + shift, table[column].fill_null(np.nan).to_numpy(), width, label=name, color=color)
            for (column, name, shift), color in zip(pairs, (COLORS[0], FAINT), strict=True)
        ]
        gains = ["" if gain is None else f"{gain:+z.1f} %" for gain in table["gain_percent"]]
        ax.bar_label(self.bars_[0], gains, padding=2, fontsize="small")
        metrics = {task.name: shown_metric(task) for task in self.tasks}
        labels = [f"{name}\n{metrics[name]}" if metrics.get(name) else name for name in table["task"]]
        ax.set_xticks(places, labels, rotation=30 if table.height > 5 else 0)
        ax.set(ylabel=better_high(metrics.values()), title=str(self.gain).splitlines()[-1])
        ax.grid(visible=False, axis="x")
        ax.margins(y=0.1)
        put_legend_beside(ax)
        return self
