"""Base of all displays: axes to draw into, and the tasks of an estimator."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from sklearn.utils.validation import check_is_fitted

from tabmtl.schema import Task

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


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
        try:
            from matplotlib import pyplot
        except ImportError as error:
            cure = "matplotlib, which is missing: pip install 'tabmtl[plot]'"
            raise ImportError(f"{type(self).__name__} draws with {cure}") from error
        return list(pyplot.subplots(n_panels, squeeze=False, layout="constrained", **options)[1].flat)


def tasks_of(estimator: Any, names: Sequence[str] | None, attribute: str, expected: str) -> list[Task]:
    """Return the tasks of these names, all by default, of a fitted estimator with an attribute."""
    check_is_fitted(estimator)
    if not hasattr(estimator, attribute):
        raise TypeError(f"expected an estimator {expected}, got {type(estimator).__name__}, which has no {attribute}")
    known = {task.name: task for task in estimator.tasks_}
    unknown = [name for name in names or () if name not in known]
    if unknown:
        raise ValueError(f"expected tasks of the estimator, {list(known)}, got {unknown}")
    return [known[name] for name in (known if names is None else names)]
