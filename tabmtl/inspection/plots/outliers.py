"""Outlier scores of tasks, beside a check on validation rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from tabmtl.base.params import check_count
from tabmtl.inspection.plots.display import COLORS, REFERENCE, Display, tasks_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes


class OutlierTaskDisplay(Display):
    """Bars of the tasks' outlier scores, each beside its check on validation rows.

    Use :meth:`from_estimator` to make it. The score is a learned weight, not a verdict. The check beside it is the
    change of the task's validation loss, in per cent, if it gets the weight of a normal task. Far above 0, the task
    needs its own weight; near 0, the weight means nothing. Without validation labels there is no check.

    Parameters
    ----------
    outliers : polars.DataFrame
        One row per task, as ``outlier_score_`` of a fitted `RMTGB`; tasks without a score are left out.
    max_tasks : int, default=30
        Draw the highest scores only; the title says how many tasks are left out.

    Attributes
    ----------
    ax_ : matplotlib Axes
    figure_ : matplotlib Figure
    bars_ : matplotlib BarContainer
        From the highest score, on top, to the lowest.

    Examples
    --------
    >>> from tabmtl import RMTGB
    >>> from tabmtl.inspection.plots import OutlierTaskDisplay
    >>> from tabmtl.synth import make_outlier_tasks
    >>> bench = make_outlier_tasks(100, n_tasks=5, n_outliers=1, random_state=0)
    >>> model = RMTGB(task_column="task", random_state=0).fit(bench.X, bench.y)
    >>> display = OutlierTaskDisplay.from_estimator(model)
    >>> [display.ax_.get_yticklabels()[0].get_text()] == [*bench.outliers]
    True
    """

    def __init__(self, outliers: pl.DataFrame, *, max_tasks: int = 30) -> None:
        check_count("max_tasks", max_tasks)
        self.outliers, self.max_tasks = outliers, max_tasks

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        *,
        tasks: Sequence[str] | None = None,
        max_tasks: int = 30,
        ax: Axes | None = None,
        bar_kw: Mapping[str, Any] | None = None,
    ) -> OutlierTaskDisplay:
        """Draw the outlier scores of a fitted R-MTGB.

        Parameters
        ----------
        estimator : RMTGB
        tasks, ax, max_tasks
            As in :meth:`tabmtl.inspection.plots.HistoryDisplay.from_estimator`, with the same errors, and in the class.
        bar_kw : mapping, optional
            Arguments for the bars, as ``Axes.barh`` takes them.

        Raises
        ------
        ValueError
            If none of the tasks has a score, because stage 2 has no trees.
        """
        names = [task.name for task in tasks_of(estimator, tasks, "outlier_score_", "with outlier scores, RMTGB")]
        outliers = estimator.outlier_score_.filter(pl.col("task").is_in(names))
        return cls(outliers, max_tasks=max_tasks).plot(ax=ax, bar_kw=bar_kw)

    def plot(self, *, ax: Axes | None = None, bar_kw: Mapping[str, Any] | None = None) -> OutlierTaskDisplay:
        """Draw the bars; the arguments are those of :meth:`from_estimator`."""
        scored = self.outliers.drop_nulls("outlier_score").sort("outlier_score", descending=True, maintain_order=True)
        if scored.is_empty():
            raise ValueError(
                "no outlier scores, as stage 2 has no trees: it needs three tasks of one loss, n_estimators_outlier "
                "above 0, and a validation loss that falls with it (early_stopping=False grows it anyway)"
            )
        shown, ax = scored.head(self.max_tasks), self._draw_into(ax)
        places = np.arange(shown.height)[::-1]
        self.bars_ = ax.barh(places, shown["outlier_score"].to_numpy(), **{"color": COLORS[0], **(bar_kw or {})})
        ax.axvline(0.5, color=REFERENCE, linestyle=":")
        left_out = self.outliers.height - shown.height
        ax.set(xlim=(0, 1), xlabel="outlier score: a weight, no verdict", yticks=places, yticklabels=shown["task"])
        ax.set_title("outlier scores" + f": the {shown.height} highest, {left_out} tasks left out" * (left_out > 0))
        change = (shown["check_loss_if_normal"] / shown["check_loss"] - 1).fill_null(np.nan).to_numpy() * 100
        checks = [f"{value:+z.1f} %" if np.isfinite(value) else "" for value in change]
        right = ax.secondary_yaxis("right")
        right.set(yticks=places, yticklabels=checks, ylabel="validation loss with a normal task's weight")
        ax.tick_params(axis="y", labelsize="small")
        right.tick_params(axis="y", labelsize="small")
        return self
