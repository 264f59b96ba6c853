"""How far new rows are from those of a fit: bars of columns and predictions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
from sklearn.utils.validation import check_is_fitted

from tabmtl.base.params import check_count
from tabmtl.inspection.plots.display import COLORS, FAINT, MARKED, REFERENCE, Display, put_legend_beside

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.container import BarContainer

#: The usual readings of the index: some drift, and much.
_READINGS = {0.1: (":", ".1: some drift"), 0.25: ("--", ".25: much drift")}
_LOOKS = {True: (MARKED, "drifted"), False: (COLORS[0], "not drifted"), None: (FAINT, "not judged")}


class DriftDisplay(Display):
    """Bars of the population stability index of columns and predictions, the largest on top.

    What has drifted is drawn in another colour, with the reason behind its name; lines mark the usual readings of the
    index, .1 and .25. Predictions of learned rows, which are not judged, are faint.

    Parameters
    ----------
    drift : polars.DataFrame
        As ``model.drift`` or `tabmtl.scale.drift_files` gives it.
    max_lines : int, default=20
        Draw the largest only; the title says how many are left out.

    Attributes
    ----------
    bars_ : matplotlib BarContainer
        From the largest, on top, to the smallest.
    ax_ : matplotlib Axes
    figure_ : matplotlib Figure

    Examples
    --------
    >>> import numpy as np
    >>> from tabmtl import SharedTrees
    >>> from tabmtl.inspection.plots import DriftDisplay
    >>> X = np.random.default_rng(0).normal(size=(600, 2))
    >>> model = SharedTrees(n_estimators=20, random_state=0).fit(X[:300], X[:300, 0] > 0)
    >>> display = DriftDisplay.from_estimator(model, X[300:] + [2.0, 0.0])
    >>> [label.get_text() for label in display.ax_.get_yticklabels()]
    ['x0 (distribution)', 'prediction of y (distribution)', 'x1']
    """

    def __init__(self, drift: pl.DataFrame, *, max_lines: int = 20) -> None:
        check_count("max_lines", max_lines)
        self.drift, self.max_lines = drift, max_lines

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        X: Any,
        *,
        max_lines: int = 20,
        ax: Axes | None = None,
        bar_kw: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> DriftDisplay:
        """Compare rows with those of a fit, and draw it.

        Parameters
        ----------
        estimator : fitted estimator of tables
        X : as in ``estimator.drift``
        max_lines : int, default=20
        ax : matplotlib Axes, optional
            Where to draw; default a new figure.
        bar_kw : mapping, optional
            Arguments for the bars, as ``Axes.barh`` takes them.
        options
            Further arguments of ``estimator.drift``.
        """
        check_is_fitted(estimator)
        return cls.from_frame(estimator.drift(X, **options), max_lines=max_lines, ax=ax, bar_kw=bar_kw)

    @classmethod
    def from_frame(
        cls,
        drift: pl.DataFrame,
        *,
        max_lines: int = 20,
        ax: Axes | None = None,
        bar_kw: Mapping[str, Any] | None = None,
    ) -> DriftDisplay:
        """Draw what was measured; the arguments are those of the class and of :meth:`from_estimator`."""
        return cls(drift, max_lines=max_lines).plot(ax=ax, bar_kw=bar_kw)

    def plot(self, *, ax: Axes | None = None, bar_kw: Mapping[str, Any] | None = None) -> DriftDisplay:
        """Draw the bars; the arguments are those of :meth:`from_estimator`."""
        rows = self.drift.drop_nulls("psi").sort("psi", descending=True, maintain_order=True).head(self.max_lines)
        if ax is None:
            (ax,) = self._new_axes(figsize=(7.5, 1.2 + 0.25 * max(rows.height, 1)))
        ax = self._draw_into(ax)
        verdicts = rows["is_drift"].to_list()
        labels = [_LOOKS[own][1] if verdicts.index(own) == i else "_" for i, own in enumerate(verdicts)]
        look: dict[str, Any] = {"color": [_LOOKS[own][0] for own in verdicts], "label": labels, **(bar_kw or {})}
        self.bars_: BarContainer = ax.barh(np.arange(rows.height), rows["psi"].to_numpy(), **look)
        names = [
            ("prediction of " if kind == "prediction" else "") + name + (f" ({why})" if is_drift else "")
            for kind, name, is_drift, why in rows.select("kind", "name", "is_drift", "why").iter_rows()
        ]
        ax.set_yticks(np.arange(rows.height), names, fontsize="small")
        ax.set_ylim(max(rows.height, 1) - 0.5, -0.5)
        for reading, (style, words) in _READINGS.items():
            ax.axvline(reading, color=REFERENCE, linewidth=0.8, linestyle=style, label=words)
        put_legend_beside(ax)
        ax.set_xlabel("population stability index", fontsize="small")
        left_out = self.drift.height - rows.height
        ax.set_title(f"{left_out} more left out" if left_out else "", fontsize="medium")
        return self
