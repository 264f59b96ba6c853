"""Base of all displays: their one style, axes to draw into, and the tasks of an estimator.

The colours are those of Okabe and Ito (2008), "Color Universal Design", without yellow, which is faint on white: people
who do not tell red from green can tell them apart.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from sklearn.utils.validation import check_is_fitted

from tabmtl.base.params import near
from tabmtl.targets import Task

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


#: Colours of tasks, in turn; of what is to be seen first; and of what stands behind.
COLORS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#000000")
MARKED, FAINT, REFERENCE = "#D55E00", "#BBBBBB", "#666666"

_LONGEST_LEGEND = 20  # entries of a column
_MOST_ABREAST = 3  # panels
_STYLE: Any = {
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "grid.color": "#E6E6E6",
    "grid.linewidth": 0.8,
}


class Display:
    """Base of the displays, with their axes and figure."""

    ax_: Axes
    figure_: Figure

    def close(self) -> None:
        """Close the figure: no notebook shows it, and its memory is freed."""
        from matplotlib import pyplot

        pyplot.close(self.figure_)

    def _draw_into(self, ax: Axes | None) -> Axes:
        """Return the given axes, or new ones."""
        if ax is None:
            (ax,) = self._new_axes()
        self.ax_, self.figure_ = ax, ax.figure  # type: ignore[assignment]
        return ax

    def _new_axes(self, n_panels: int = 1, **options: Any) -> list[Axes]:
        """Make axes below each other in a new figure, row by row with ``ncols``; options go to ``pyplot.subplots``."""
        check_matplotlib(type(self).__name__)
        pyplot = load_pyplot()
        with pyplot.rc_context(_STYLE):
            return list(pyplot.subplots(n_panels, squeeze=False, layout="constrained", **options)[1].flat)

    def _panels_of(self, tasks: Sequence[str], ax: Axes | None, *, height: float) -> dict[str, Axes]:
        """Return a panel for every task by name, in a new figure or the one given, and set the axes of the first."""
        if not tasks:
            raise ValueError("there is no task to draw: name some by tasks=, or leave it out for all")
        if ax is not None and len(tasks) > 1:
            raise ValueError(f"one ax cannot hold {len(tasks)} tasks: choose one by tasks=, or leave ax out")
        if ax is not None:
            panels = [ax]
        else:
            n_columns = min(len(tasks), _MOST_ABREAST)
            n_rows = -(-len(tasks) // n_columns)
            panels = self._new_axes(n_rows, ncols=n_columns, figsize=(2 + 3 * n_columns, height * n_rows))
            for panel in panels[len(tasks) :]:
                panel.remove()
        panels = panels[: len(tasks)]
        self._draw_into(panels[0])
        return dict(zip(tasks, panels, strict=True))


def check_matplotlib(what: str) -> None:
    """Raise an ImportError with the cure where matplotlib is missing, which something draws with."""
    if find_spec("matplotlib") is None:
        raise ImportError(f"{what} draws with matplotlib, which is missing: pip install 'tabmtl[plot]'")


def load_pyplot() -> Any:
    """Import pyplot with its backend, which may change settings for good: a later ``rc_context`` would take them back.

    That of notebooks turns on interactive mode, without which no figure is shown.
    """
    from matplotlib import pyplot

    pyplot.draw_if_interactive()  # loads the backend; there is nothing to draw in it yet
    return pyplot


def put_legend_beside(ax: Axes) -> None:
    """Put the legend to the right of the axes, where it covers nothing."""
    n_entries = len(ax.get_legend_handles_labels()[1])
    ax.legend(
        loc="upper left",
        bbox_to_anchor=(1.01, 1.0),
        borderaxespad=0.0,
        ncols=-(-n_entries // _LONGEST_LEGEND),
        frameon=False,
        fontsize="small",
    )


def better_high(metrics: Iterable[str | None]) -> str:
    """Return the label of an axis of scores, given their metrics."""
    named = dict.fromkeys(metric for metric in metrics if metric is not None)
    return f"{', '.join(named) or 'score'} (higher is better)"


def tasks_of(estimator: Any, names: str | Sequence[str] | None, attribute: str, expected: str) -> list[Task]:
    """Return the tasks of these names, all by default, of a fitted estimator with an attribute."""
    check_is_fitted(estimator)
    if not hasattr(estimator, attribute):
        raise TypeError(f"expected an estimator {expected}, got {type(estimator).__name__}, which has no {attribute}")
    return tasks_named(estimator.tasks_, names, "the estimator")


def tasks_named(tasks: Sequence[Task], names: str | Sequence[str] | None, owner: str) -> list[Task]:
    """Return the tasks of these names, all by default; the owner is named in errors."""
    known = {task.name: task for task in tasks}
    names = [names] if isinstance(names, str) else names
    unknown = [name for name in names or () if name not in known]
    if unknown:
        raise ValueError(f"expected tasks of {owner}, {list(known)}, got {unknown}{near(unknown[0], known)}")
    return [known[name] for name in (known if names is None else names)]
