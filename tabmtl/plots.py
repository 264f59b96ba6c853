"""Plots in scikit-learn's Display style: keep the numbers, draw them again. matplotlib is imported to draw only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
from sklearn.utils.validation import check_is_fitted

from tabmtl.gain import MultitaskGain
from tabmtl.schema import Task

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.container import BarContainer
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D


class HistoryDisplay:
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

    ax_: Axes
    figure_: Figure
    lines_: dict[str, Line2D]

    def __init__(self, history: pl.DataFrame, *, tasks: Sequence[Task], best_iteration: int | None = None) -> None:
        self.history = history
        self.tasks = tasks
        self.best_iteration = best_iteration

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

        Returns
        -------
        HistoryDisplay

        Raises
        ------
        NotFittedError
            If the estimator is not fitted.
        TypeError
            If the estimator keeps no history, because it is not trained in epochs.
        ValueError
            If a task is not one of the estimator's.
        ImportError
            If matplotlib is missing.
        """
        check_is_fitted(estimator)
        if not hasattr(estimator, "history_"):
            raise TypeError(
                f"expected an estimator trained in epochs, such as MultiTabNet, got {type(estimator).__name__}, which "
                "has no history_"
            )
        known = {task.name: task for task in estimator.tasks_}
        unknown = [name for name in tasks or () if name not in known]
        if unknown:
            raise ValueError(f"expected tasks of the estimator, {list(known)}, got {unknown}")
        shown = [known[name] for name in (known if tasks is None else tasks)]
        display = cls(estimator.history_, tasks=shown, best_iteration=estimator.best_iteration_)
        return display.plot(ax=ax, line_kw=line_kw)

    def plot(self, *, ax: Axes | None = None, line_kw: Mapping[str, Any] | None = None) -> HistoryDisplay:
        """Draw the curves; the arguments are those of :meth:`from_estimator`."""
        ax = _new_axes(type(self).__name__) if ax is None else ax
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
        ax.set_xlabel("epoch")
        ax.set_ylabel("score (higher is better)")
        ax.legend(fontsize="small")
        self.ax_, self.figure_ = ax, ax.figure  # type: ignore[assignment]
        return self


class GainDisplay:
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

    ax_: Axes
    figure_: Figure
    bars_: list[BarContainer]

    def __init__(self, gain: MultitaskGain, *, names: tuple[str, str] = ("multi-task", "single-task")) -> None:
        self.gain = gain
        self.names = names

    @classmethod
    def from_gain(
        cls, gain: MultitaskGain, *, names: tuple[str, str] = ("multi-task", "single-task"), ax: Axes | None = None
    ) -> GainDisplay:
        """Draw a gain.

        Parameters
        ----------
        gain : MultitaskGain
        names : tuple of str, default=("multi-task", "single-task")
            What the legend calls the scores and the reference.
        ax : matplotlib Axes, optional
            Where to draw; default a new figure.

        Returns
        -------
        GainDisplay

        Raises
        ------
        ImportError
            If matplotlib is missing.
        """
        return cls(gain, names=names).plot(ax=ax)

    def plot(self, *, ax: Axes | None = None) -> GainDisplay:
        """Draw the bars; the argument is that of :meth:`from_gain`."""
        ax = _new_axes(type(self).__name__) if ax is None else ax
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
        ax.set_ylabel("score (higher is better)")
        ax.set_title(str(self.gain).splitlines()[-1])
        ax.margins(y=0.1)
        ax.legend(fontsize="small")
        self.ax_, self.figure_ = ax, ax.figure  # type: ignore[assignment]
        return self


def _new_axes(user: str) -> Axes:
    try:
        from matplotlib import pyplot
    except ImportError as error:
        raise ImportError(f"{user} draws with matplotlib, which is missing: pip install 'tabmtl[plot]'") from error
    return pyplot.subplots()[1]
