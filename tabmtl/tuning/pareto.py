"""The trials of a search with one objective per task, and the Pareto front among them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import TYPE_CHECKING, Any

import polars as pl

from tabmtl.inspection.plots.display import COLORS, FAINT, MARKED, REFERENCE, Display, put_legend_beside

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.collections import PathCollection

_SCORE = "score/"  # of the columns of tabmtl.tuning.pareto_front
_MOST_TASKS = 6


class ParetoDisplay(Display):
    """Scores of two tasks against each other, for every trial on the Pareto front, one panel per pair of tasks.

    Use :meth:`from_front` to make it. Up and to the right is better. Dominated trials are grey, if the frame holds
    them. A line joins the front of two tasks: the front reaches all points below it. With more tasks there is no
    line, as a trial that is behind in one panel is ahead in another.

    Parameters
    ----------
    front : polars.DataFrame
        One row per trial: ``trial``, ``score/<task>`` for every task and, if it holds dominated trials, ``dominated``.
    tasks : sequence of str
        Names of the tasks to draw, at least two.
    reference : mapping of str to float, optional
        Task to a score, such as that of a single-task model; a dotted line each.
    chosen : int, optional
        Number of a trial, which is marked.
    metrics : mapping of str to str, optional
        Task to the name of its score.

    Attributes
    ----------
    axes_ : dict of (str, str) to matplotlib Axes
        By the tasks of x and y.
    points_ : dict of (str, str) to matplotlib PathCollection
        The front, in the order of the frame.
    dominated_ : dict of (str, str) to matplotlib PathCollection
        The dominated trials, where there are any.
    figure_ : matplotlib Figure
    ax_ : matplotlib Axes
        Of the first pair.

    Examples
    --------
    >>> import polars as pl
    >>> from tabmtl.tuning import ParetoDisplay
    >>> front = pl.DataFrame({"trial": [3, 8], "score/late": [0.80, 0.70], "score/delay": [0.20, 0.40]})
    >>> display = ParetoDisplay.from_front(front, reference={"late": 0.75}, chosen=8)
    >>> display.ax_.get_xlabel(), display.ax_.get_ylabel(), len(display.points_["late", "delay"].get_offsets())
    ('score of late', 'score of delay', 2)
    """

    axes_: dict[tuple[str, str], Axes]
    points_: dict[tuple[str, str], PathCollection]
    dominated_: dict[tuple[str, str], PathCollection]

    def __init__(
        self,
        front: pl.DataFrame,
        *,
        tasks: Sequence[str],
        reference: Mapping[str, float] | None = None,
        chosen: int | None = None,
        metrics: Mapping[str, str] | None = None,
    ) -> None:
        self.front, self.tasks, self.reference, self.chosen = front, tasks, reference, chosen
        self.metrics = metrics or {}

    @classmethod
    def from_front(
        cls,
        front: pl.DataFrame,
        *,
        tasks: Sequence[str] | None = None,
        reference: Mapping[str, float] | None = None,
        chosen: int | pl.DataFrame | None = None,
        metrics: Mapping[str, str] | None = None,
        ax: Axes | None = None,
        scatter_kw: Mapping[str, Any] | None = None,
    ) -> ParetoDisplay:
        """Draw a front.

        Parameters
        ----------
        front : polars.DataFrame
            From :func:`tabmtl.tuning.pareto_front`; with ``dominated=True`` it has the other trials too.
        tasks : sequence of str, optional
            Names of the tasks to draw; default all, at most six.
        reference : mapping of str to float, optional
            Task to a score, a dotted line each; other tasks have none.
        chosen : int or polars.DataFrame, optional
            Number of a trial to mark, or a row from :func:`tabmtl.tuning.choose_point`.
        metrics : mapping of str to str, optional
            Task to the name of its score, for the axes.
        ax : matplotlib Axes, optional
            Where to draw one pair; default a new figure.
        scatter_kw : mapping, optional
            Arguments for the points of the front, as ``Axes.scatter`` takes them.

        Raises
        ------
        ValueError
            If the frame holds less than two tasks or no trial, a task or trial is not in it, there are too many tasks,
            or one ``ax`` is given for several pairs.
        """
        known = [name.removeprefix(_SCORE) for name in front.columns if name.startswith(_SCORE)]
        unknown = [name for name in {**dict.fromkeys(tasks or ()), **(reference or {})} if name not in known]
        if unknown:
            raise ValueError(f"expected tasks of the front, {known}, got {unknown}")
        shown = known if tasks is None else list(tasks)
        if not 2 <= len(set(shown)) == len(shown) <= _MOST_TASKS:
            raise ValueError(f"pairs are drawn of 2 to {_MOST_TASKS} different tasks, got {shown}: name some by tasks")
        trial: int | None = chosen["trial"].item() if isinstance(chosen, pl.DataFrame) else chosen
        if trial is not None and trial not in front["trial"]:
            raise ValueError(f"there is no trial {trial!r} in the front; its trials are {front['trial'].to_list()}")
        display = cls(front, tasks=shown, reference=reference, chosen=trial, metrics=metrics)
        return display.plot(ax=ax, scatter_kw=scatter_kw)

    def plot(self, *, ax: Axes | None = None, scatter_kw: Mapping[str, Any] | None = None) -> ParetoDisplay:
        """Draw the panels; the arguments are those of :meth:`from_front`."""
        if self.front.is_empty():
            raise ValueError("the front has no trial to draw: none is complete")
        pairs = list(combinations(self.tasks, 2))
        if ax is not None and len(pairs) > 1:
            raise ValueError(f"one ax cannot hold {len(pairs)} pairs of tasks: choose two by tasks=, or leave ax out")
        panels = self._panels() if ax is None else {pairs[0]: ax}
        self._draw_into(panels[pairs[0]])
        self.axes_, self.points_, self.dominated_ = panels, {}, {}
        for pair in pairs:
            self._draw_pair(pair, scatter_kw or {})
        if len(pairs) == 1:
            put_legend_beside(self.ax_)
        else:  # the upper right holds no panel
            self.figure_.legend(*self.ax_.get_legend_handles_labels(), loc="upper right", frameon=False)
        return self

    def _panels(self) -> dict[tuple[str, str], Axes]:
        """Make the lower triangle of a square of panels: a column for each x, a row for each y."""
        n = len(self.tasks) - 1
        size = 4.8 if n == 1 else 2.6 * n + 0.6
        axes = self._new_axes(n, ncols=n, sharex="col", sharey="row", figsize=(size, size * (0.85 if n == 1 else 1)))
        panels = {}
        for place, ax in enumerate(axes):
            row, column = divmod(place, n)
            if column > row:
                ax.remove()
            else:
                panels[self.tasks[column], self.tasks[row + 1]] = ax
        return panels

    def _draw_pair(self, pair: tuple[str, str], look: Mapping[str, Any]) -> None:
        ax, (x, y) = self.axes_[pair], (_SCORE + name for name in pair)
        best = self.front
        if "dominated" in best.columns:
            behind, best = best.filter("dominated"), best.filter(~pl.col("dominated"))
            self.dominated_[pair] = ax.scatter(behind[x], behind[y], color=FAINT, s=18, label="dominated")
        if sum(name.startswith(_SCORE) for name in best.columns) == 2:
            line = best.sort(x)
            ax.plot(line[x], line[y], drawstyle="steps-pre", color=COLORS[0], alpha=0.4, zorder=1)
        points: dict[str, Any] = {"color": COLORS[0], "s": 30, "label": "Pareto front", "zorder": 2, **look}
        self.points_[pair] = ax.scatter(best[x], best[y], **points)
        given = self.reference or {}
        for name, draw in zip(pair, (ax.axvline, ax.axhline), strict=True):
            if name in given:
                draw(given[name], color=REFERENCE, linestyle=":", linewidth=1)
        if given:
            ax.plot([], [], color=REFERENCE, linestyle=":", linewidth=1, label="reference")
        if self.chosen is not None:
            mark = self.front.filter(trial=self.chosen)
            ax.scatter(mark[x], mark[y], marker="*", s=160, color=MARKED, zorder=3, label=f"trial {self.chosen}")
        if pair[1] == self.tasks[-1]:
            ax.set_xlabel(self._label(pair[0]))
        if pair[0] == self.tasks[0]:
            ax.set_ylabel(self._label(pair[1]))

    def _label(self, task: str) -> str:
        metric = self.metrics.get(task)
        return f"score of {task}" if metric is None else f"{task} ({metric})"
