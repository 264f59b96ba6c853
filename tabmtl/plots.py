"""Plots in scikit-learn's Display style: keep the numbers, draw them again.

matplotlib is imported to draw only; without it that raises an ImportError which names the extra.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
from sklearn.utils.validation import check_is_fitted

from tabmtl.checks import check_count
from tabmtl.gain import MultitaskGain
from tabmtl.schema import Task

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.container import BarContainer
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D


class _Display:
    """What was drawn into."""

    ax_: Axes
    figure_: Figure

    def _draw_into(self, ax: Axes | None) -> Axes:
        """The given axes, or new ones."""
        if ax is None:
            try:
                from matplotlib import pyplot
            except ImportError as error:
                cure = "matplotlib, which is missing: pip install 'tabmtl[plot]'"
                raise ImportError(f"{type(self).__name__} draws with {cure}") from error
            ax = pyplot.subplots(layout="constrained")[1]
        self.ax_, self.figure_ = ax, ax.figure  # type: ignore[assignment]
        return ax


class HistoryDisplay(_Display):
    """Scores of every task over the epochs of a fit, with the epoch whose weights were kept.

    Better made by :meth:`from_estimator`. Every task has one colour: a full line for its validation score, a dashed one
    for its training score, which is taken while the weights still move.

    Parameters
    ----------
    history : polars.DataFrame
        One row an epoch, as ``history_`` of a fitted network.
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
    >>> from tabmtl.plots import HistoryDisplay
    >>> X = np.random.default_rng(0).normal(size=(100, 3))
    >>> model = SharedBottom(epochs=3, random_state=0).fit(X, X[:, :2])
    >>> display = HistoryDisplay.from_estimator(model)
    >>> sorted(display.lines_)
    ['train/y0/r2', 'train/y1/r2', 'val/y0/r2', 'val/y1/r2']
    """

    lines_: dict[str, Line2D]

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
            If the estimator is not fitted, or keeps no history, because it is not trained in epochs.
        ValueError
            If a task is not one of the estimator's.
        """
        shown = _tasks_of(estimator, tasks, "history_", "trained in epochs, such as MultiTabNet")
        display = cls(estimator.history_, tasks=shown, best_iteration=estimator.best_iteration_)
        return display.plot(ax=ax, line_kw=line_kw)

    def plot(self, *, ax: Axes | None = None, line_kw: Mapping[str, Any] | None = None) -> HistoryDisplay:
        """Draw the curves; the arguments are those of :meth:`from_estimator`."""
        ax = self._draw_into(ax)
        epochs = self.history["epoch"].to_numpy() + 1
        self.lines_ = {}
        for t, task in enumerate(self.tasks):
            for part, style in (("val", "-"), ("train", "--")):
                name = f"{part}/{task.name}/{task.metric}"
                if name not in self.history.columns:
                    continue
                label = f"{task.name} ({task.metric}), {part}"
                look = {"color": f"C{t % 10}", "linestyle": style, "label": label, **(line_kw or {})}
                # An epoch without a score is a gap in the line.
                scores = self.history[name].cast(pl.Float64).to_numpy()
                (self.lines_[name],) = ax.plot(epochs, scores, **look)
        if self.best_iteration is not None:
            ax.axvline(self.best_iteration, color="0.6", linestyle=":", label=f"kept: epoch {self.best_iteration}")
        ax.set(xlabel="epoch", ylabel="score (higher is better)")
        ax.legend(fontsize="small")
        return self


class GainDisplay(_Display):
    """Bars of every task's score beside the score of its reference, with the gain written above.

    Better made by :meth:`from_gain`.

    Parameters
    ----------
    gain : MultitaskGain
        Scores and gains, as :func:`tabmtl.multitask_gain` gives them.
    names : tuple of str, default=("multi-task", "single-task")
        What the legend calls the scores and the reference.

    Attributes
    ----------
    ax_ : matplotlib Axes
    figure_ : matplotlib Figure
    bars_ : list of two matplotlib BarContainer
        Of the scores and of the reference.

    Examples
    --------
    >>> from tabmtl import multitask_gain
    >>> from tabmtl.plots import GainDisplay
    >>> display = GainDisplay.from_gain(multitask_gain({"late": 0.82}, {"late": 0.80}))
    >>> display.ax_.get_title()
    'Δm = +2.50 % over 1 of 1 tasks'
    """

    bars_: list[BarContainer]

    def __init__(self, gain: MultitaskGain, *, names: tuple[str, str] = ("multi-task", "single-task")) -> None:
        self.gain, self.names = gain, names

    @classmethod
    def from_gain(
        cls, gain: MultitaskGain, *, names: tuple[str, str] = ("multi-task", "single-task"), ax: Axes | None = None
    ) -> GainDisplay:
        """Draw a gain; the arguments are those of the class and of :meth:`plot`."""
        return cls(gain, names=names).plot(ax=ax)

    def plot(self, *, ax: Axes | None = None) -> GainDisplay:
        """Draw the bars; ``ax`` is that of :meth:`HistoryDisplay.from_estimator`."""
        ax = self._draw_into(ax)
        table, width = self.gain.table, 0.4
        places = np.arange(table.height)
        pairs = zip(("score", "reference"), self.names, (-width / 2, width / 2), strict=True)
        self.bars_ = [
            ax.bar(places + shift, table[column].fill_null(np.nan).to_numpy(), width, label=name)
            for column, name, shift in pairs
        ]
        gains = ["" if gain is None else f"{gain:+.1f} %" for gain in table["gain_percent"]]
        ax.bar_label(self.bars_[0], gains, padding=2, fontsize="small")
        ax.set_xticks(places, table["task"].to_list(), rotation=30 if table.height > 5 else 0)
        ax.set(ylabel="score (higher is better)", title=str(self.gain).splitlines()[-1])
        ax.margins(y=0.1)
        ax.legend(fontsize="small")
        return self


class OutlierTaskDisplay(_Display):
    """Bars of the tasks' outlier scores, and beside each what validation rows say of it.

    Better made by :meth:`from_estimator`. The score is a weight that was learned, no verdict. The check beside it is by
    how many per cent the validation loss of the task changes with the weight of a normal task instead: far above 0,
    the task does need its own; about 0, the weight means nothing. It is left out without validation labels.

    Parameters
    ----------
    outliers : polars.DataFrame
        One row a task, as ``outlier_score_`` of a fitted `RMTGB`; tasks without a score are left out.
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
    >>> from tabmtl.plots import OutlierTaskDisplay
    >>> from tabmtl.synth import make_outlier_tasks
    >>> bench = make_outlier_tasks(n_tasks=5, n_outliers=1, random_state=0)
    >>> model = RMTGB(task_column="task", random_state=0).fit(bench.X, bench.y)
    >>> display = OutlierTaskDisplay.from_estimator(model)
    >>> [display.ax_.get_yticklabels()[0].get_text()] == [*bench.outliers]
    True
    """

    bars_: BarContainer

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
            As in :meth:`HistoryDisplay.from_estimator`, with the same errors, and in the class.
        bar_kw : mapping, optional
            Arguments for the bars, as ``Axes.barh`` takes them.

        Raises
        ------
        ValueError
            If none of the tasks has a score, because block 2 has no trees.
        """
        names = [task.name for task in _tasks_of(estimator, tasks, "outlier_score_", "with outlier scores, RMTGB")]
        outliers = estimator.outlier_score_.filter(pl.col("task").is_in(names))
        return cls(outliers, max_tasks=max_tasks).plot(ax=ax, bar_kw=bar_kw)

    def plot(self, *, ax: Axes | None = None, bar_kw: Mapping[str, Any] | None = None) -> OutlierTaskDisplay:
        """Draw the bars; the arguments are those of :meth:`from_estimator`."""
        scored = self.outliers.drop_nulls("outlier_score").sort("outlier_score", descending=True, maintain_order=True)
        if scored.is_empty():
            raise ValueError(
                "no outlier scores, as block 2 has no trees: it needs three tasks of one loss, n_estimators_outlier "
                "above 0, and a validation loss that falls with it (early_stopping=False grows it anyway)"
            )
        shown, ax = scored.head(self.max_tasks), self._draw_into(ax)
        places = np.arange(shown.height)[::-1]
        self.bars_ = ax.barh(places, shown["outlier_score"].to_numpy(), **(bar_kw or {}))
        ax.axvline(0.5, color="0.6", linestyle=":")
        left_out = self.outliers.height - shown.height
        ax.set(xlim=(0, 1), xlabel="outlier score: a weight, no verdict", yticks=places, yticklabels=shown["task"])
        ax.set_title("outlier scores" + f": the {shown.height} highest, {left_out} tasks left out" * (left_out > 0))
        change = (shown["check_loss_if_normal"] / shown["check_loss"] - 1).fill_null(np.nan).to_numpy() * 100
        checks = [f"{value:+.1f} %" if np.isfinite(value) else "" for value in change]
        right = ax.secondary_yaxis("right")
        right.set(yticks=places, yticklabels=checks, ylabel="validation loss with a normal task's weight")
        ax.tick_params(axis="y", labelsize="small")
        right.tick_params(axis="y", labelsize="small")
        return self


def _tasks_of(estimator: Any, names: Sequence[str] | None, attribute: str, expected: str) -> list[Task]:
    """The tasks of these names, all by default, of a fitted estimator with an attribute."""
    check_is_fitted(estimator)
    if not hasattr(estimator, attribute):
        raise TypeError(f"expected an estimator {expected}, got {type(estimator).__name__}, which has no {attribute}")
    known = {task.name: task for task in estimator.tasks_}
    unknown = [name for name in names or () if name not in known]
    if unknown:
        raise ValueError(f"expected tasks of the estimator, {list(known)}, got {unknown}")
    return [known[name] for name in (known if names is None else names)]
