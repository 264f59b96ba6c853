"""Out-of-fold scores of the candidates of an ensemble."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from tabmtl.inspection.plots.display import COLORS, MARKED, Display, better_high, tasks_of
from tabmtl.metrics.scores import shown_metric
from tabmtl.targets import Task

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.container import ErrorbarContainer


class LeaderboardDisplay(Display):
    """Out-of-fold scores of every candidate with standard errors, and its weight: one panel per task.

    Use :meth:`from_estimator` to make it. The last row of a panel is the mixture, and a dotted line marks its score.
    This score is somewhat optimistic, because the weights were chosen on the same rows. A candidate that was left out
    has a line without a point.

    Parameters
    ----------
    leaderboard : polars.DataFrame
        One row per candidate and task, as ``leaderboard_`` of a fitted `MultiTaskEnsemble`. Rows of the mixture have no
        weight.
    tasks : sequence of Task
        The tasks to draw, with their metrics.

    Attributes
    ----------
    axes_ : dict of str to matplotlib Axes
        By task.
    points_ : dict of str to matplotlib ErrorbarContainer
        By task: scores of the candidates, in the order of the leaderboard; NaN where undefined.
    ax_ : matplotlib Axes
        Of the first task.
    figure_ : matplotlib Figure

    Examples
    --------
    >>> import numpy as np
    >>> from tabmtl import IndependentTasks, MultiTaskEnsemble, SharedTrees
    >>> from tabmtl.inspection.plots import LeaderboardDisplay
    >>> X, noise = np.random.default_rng(0).normal(size=(2, 200, 3))
    >>> candidates = {"alone": IndependentTasks(families=("lightgbm",)), "together": SharedTrees(n_estimators=20)}
    >>> model = MultiTaskEnsemble(models=candidates, n_folds=2, random_state=0).fit(X, X[:, :2] + noise[:, :2])
    >>> display = LeaderboardDisplay.from_estimator(model)
    >>> list(display.axes_), [label.get_text() for label in display.ax_.get_yticklabels()]
    (['y0', 'y1'], ['alone', 'together', 'LinearStack', 'MultiTaskEnsemble'])
    """

    def __init__(self, leaderboard: pl.DataFrame, *, tasks: Sequence[Task]) -> None:
        self.leaderboard, self.tasks = leaderboard, tasks

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        *,
        tasks: Sequence[str] | None = None,
        ax: Axes | None = None,
        errorbar_kw: Mapping[str, Any] | None = None,
    ) -> LeaderboardDisplay:
        """Draw the leaderboard of a fitted ensemble.

        Parameters
        ----------
        estimator : MultiTaskEnsemble
        tasks
            As in :meth:`tabmtl.inspection.plots.HistoryDisplay.from_estimator`, with the same errors.
        ax : matplotlib Axes, optional
            Where to draw one task; default a new figure.
        errorbar_kw : mapping, optional
            Arguments for the points and their errors, as ``Axes.errorbar`` takes them.

        Raises
        ------
        ValueError
            If one ``ax`` is given for several tasks, or there is no task to draw.
        """
        shown = tasks_of(estimator, tasks, "leaderboard_", "with a leaderboard, MultiTaskEnsemble")
        return cls(estimator.leaderboard_, tasks=shown).plot(ax=ax, errorbar_kw=errorbar_kw)

    def plot(self, *, ax: Axes | None = None, errorbar_kw: Mapping[str, Any] | None = None) -> LeaderboardDisplay:
        """Draw the panels; the arguments are those of :meth:`from_estimator`."""
        height = 1.2 + 0.25 * self.leaderboard["model"].n_unique()
        self.axes_ = self._panels_of([task.name for task in self.tasks], ax, height=height)
        self.points_ = {task.name: self._draw_task(task, errorbar_kw or {}) for task in self.tasks}
        return self

    def _draw_task(self, task: Task, options: Mapping[str, Any]) -> ErrorbarContainer:
        ax, rows = self.axes_[task.name], self.leaderboard.filter(task=task.name)
        scores, errors = (rows[name].fill_null(np.nan).to_numpy() for name in ("score", "standard_error"))
        places, weights = np.arange(rows.height), rows["weight"].to_list()
        look: dict[str, Any] = {"fmt": "o", "markersize": 4, "capsize": 2, "color": COLORS[0], **options}
        points = ax.errorbar(scores, places, xerr=errors, **look)
        ax.set_yticks(places, rows["model"].to_list(), fontsize="small")
        ax.set_ylim(rows.height - 0.5, -0.5)
        right = ax.secondary_yaxis("right")
        shown = ["" if weight is None else f"{weight:.2f}" for weight in weights]
        right.set_yticks(places, shown, fontsize="small")
        right.set_ylabel("weight", fontsize="small")
        for place in np.flatnonzero([weight is None for weight in weights]):
            ax.plot(scores[place], place, "D", color=MARKED, zorder=3)
            ax.axvline(scores[place], color=MARKED, linestyle=":", zorder=0)
            ax.get_yticklabels()[place].set_color(MARKED)
        ax.set_title(task.name, fontsize="medium")
        ax.set_xlabel(better_high([shown_metric(task)]), fontsize="small")
        return points
