"""What a model relies on: bars of the features, by task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from tabmtl.base.params import check_count, check_known
from tabmtl.inspection.importances import gain_importances
from tabmtl.inspection.plots.display import COLORS, REFERENCE, Display

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.container import BarContainer


class ImportanceDisplay(Display):
    """Bars of the most important features, one panel per task.

    Use :meth:`from_importances` for what :func:`tabmtl.permutation_importances` measured, with 95 % intervals,
    and :meth:`from_estimator` for the gain of boosted trees. Every panel has its own order.

    Parameters
    ----------
    importances : frame of polars or pandas
        One row per task and feature: ``task``, ``feature``, ``importance``; perhaps ``metric``, and ``low`` and
        ``high``, the bounds of an interval. A frame of your own works too, such as of mean absolute SHAP values.
    tasks : sequence of str, optional
        Names of the tasks to draw; default all.
    max_features : int, default=10
        Draw the highest importances of a task only; the title says how many features are left out.
    label : str, optional
        Label of the axis; default: the fall of the task's metric, or "importance" without ``metric``.

    Attributes
    ----------
    axes_ : dict of str to matplotlib Axes
        By task.
    bars_ : dict of str to matplotlib BarContainer
        By task, from the highest importance, on top, to the lowest. A task whose importances are undefined has none.
    ax_ : matplotlib Axes
        Of the first task.
    figure_ : matplotlib Figure

    Examples
    --------
    >>> import numpy as np
    >>> from tabmtl import SharedTrees
    >>> from tabmtl.inspection.plots import ImportanceDisplay
    >>> X = np.random.default_rng(0).normal(size=(200, 3))
    >>> model = SharedTrees(n_estimators=20, random_state=0).fit(X, X[:, 1:])
    >>> display = ImportanceDisplay.from_estimator(model)
    >>> {task: ax.get_yticklabels()[0].get_text() for task, ax in display.axes_.items()}
    {'y0': 'x1', 'y1': 'x2'}
    """

    def __init__(
        self,
        importances: Any,
        *,
        tasks: Sequence[str] | None = None,
        max_features: int = 10,
        label: str | None = None,
    ) -> None:
        check_count("max_features", max_features)
        importances = pl.DataFrame(importances)
        known = importances["task"].unique(maintain_order=True).to_list()
        self.tasks = known if tasks is None else [*tasks]
        check_known("tasks names tasks", self.tasks, known, "the frame")
        self.importances, self.max_features, self.label = importances, max_features, label

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        *,
        tasks: Sequence[str] | None = None,
        max_features: int = 10,
        ax: Axes | None = None,
        bar_kw: Mapping[str, Any] | None = None,
    ) -> ImportanceDisplay:
        """Draw the gain of the trees of a fitted model.

        Parameters
        ----------
        estimator : SharedTrees, RMTGB or IndependentTasks
        tasks, max_features
            As in :meth:`tabmtl.inspection.plots.HistoryDisplay.from_estimator`, with the same errors, and in the class.
        ax : matplotlib Axes, optional
            Where to draw one task; default a new figure.
        bar_kw : mapping, optional
            Arguments for the bars, as ``Axes.barh`` takes them.

        Raises
        ------
        ValueError
            If one ``ax`` is given for several tasks, or there is no task to draw.
        """
        drawn = cls(gain_importances(estimator, tasks=tasks), max_features=max_features, label="share in the gain")
        return drawn.plot(ax=ax, bar_kw=bar_kw)

    @classmethod
    def from_importances(
        cls,
        importances: Any,
        *,
        tasks: Sequence[str] | None = None,
        max_features: int = 10,
        label: str | None = None,
        ax: Axes | None = None,
        bar_kw: Mapping[str, Any] | None = None,
    ) -> ImportanceDisplay:
        """Draw measured importances; the arguments are those of the class and of :meth:`from_estimator`."""
        return cls(importances, tasks=tasks, max_features=max_features, label=label).plot(ax=ax, bar_kw=bar_kw)

    def plot(self, *, ax: Axes | None = None, bar_kw: Mapping[str, Any] | None = None) -> ImportanceDisplay:
        """Draw the panels; the arguments are those of :meth:`from_estimator`."""
        n_features = self.importances["feature"].n_unique()
        height = 1.2 + 0.25 * min(n_features, self.max_features)
        self.axes_ = self._panels_of(self.tasks, ax, height=height)
        self.bars_ = {name: self._draw_task(name, bar_kw or {}) for name in self.tasks}
        return self

    def _draw_task(self, name: str, options: Mapping[str, Any]) -> BarContainer:
        ax, found = self.axes_[name], self.importances.filter(task=name)
        rows = found.drop_nulls("importance").sort("importance", descending=True, maintain_order=True)
        rows, left_out = rows.head(self.max_features), rows.height - self.max_features
        places, widths = np.arange(rows.height), rows["importance"].to_numpy()
        look: dict[str, Any] = {"color": COLORS[0], "error_kw": {"ecolor": REFERENCE, "capsize": 2}, **options}
        if "low" in rows.columns:
            ends = [rows["importance"] - rows["low"], rows["high"] - rows["importance"]]
            look = {"xerr": np.stack([end.fill_null(np.nan).to_numpy() for end in ends]), **look}
        bars = ax.barh(places, widths, **look)
        ax.set_yticks(places, rows["feature"].to_list(), fontsize="small")
        ax.set_ylim(max(rows.height, 1) - 0.5, -0.5)
        ax.axvline(0, color=REFERENCE, linewidth=0.8)
        more = f", {left_out} more left out" if left_out > 0 else ""
        title = f"{name}{more}" if rows.height else f"{name}: undefined"
        ax.set_title(title, fontsize="medium")
        measured = f"fall of {found['metric'][0]}" if "metric" in found.columns else "importance"
        ax.set_xlabel(measured if self.label is None else self.label, fontsize="small")
        return bars
