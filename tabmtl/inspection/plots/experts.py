"""Use of the experts: a heat map of gate weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from tabmtl.inspection.plots.display import MARKED, Display, tasks_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.image import AxesImage

_FEW = 24  # gates or experts of a level, up to which weights are written into large cells


class ExpertUsageDisplay(Display):
    """Heat map of the mean weight of every expert in every gate, one panel per level.

    Use :meth:`from_estimator` to make it. Gates of tasks are the upper rows; gates of groups, shared gates and
    self-gates are the lower ones. A hatched cell is an expert that the gate may not see, which differs from a weight of
    0. Dead experts are marked on the axis. All panels have one scale, which starts at 0.

    Parameters
    ----------
    utilisation, experts : polars.DataFrame
        ``expert_utilisation_`` and ``experts_`` of a fitted mixture of experts, or some of their levels.
    tasks : sequence of str, optional
        Names of the gates that are drawn first.
    name : str, optional
        Name for the titles, such as that of the estimator.

    Attributes
    ----------
    axes_ : dict of int to matplotlib Axes
        By level.
    images_ : dict of int to matplotlib AxesImage
        By level: mean weights (n_gates, n_experts), masked where a gate does not see an expert.
    figure_ : matplotlib Figure
    ax_ : matplotlib Axes
        Of the lowest level.

    Examples
    --------
    >>> import numpy as np
    >>> from tabmtl import PLE
    >>> from tabmtl.inspection.plots import ExpertUsageDisplay
    >>> X = np.random.default_rng(0).normal(size=(100, 3))
    >>> model = PLE(n_shared_experts=1, n_task_experts=1, epochs=1, random_state=0).fit(X, X[:, :2])
    >>> display = ExpertUsageDisplay.from_estimator(model, level=2)
    >>> [label.get_text() for label in display.ax_.get_xticklabels()]
    ['(shared) 0', 'y0 0', 'y1 0']
    >>> display.images_[2].get_array().mask.tolist()
    [[False, False, True], [False, True, False]]
    """

    def __init__(
        self, utilisation: pl.DataFrame, experts: pl.DataFrame, *, tasks: Sequence[str] = (), name: str | None = None
    ) -> None:
        self.utilisation, self.experts, self.tasks, self.name = utilisation, experts, tasks, name

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        *,
        level: int | None = None,
        ax: Axes | None = None,
        include_values: bool | None = None,
        im_kw: Mapping[str, Any] | None = None,
    ) -> ExpertUsageDisplay:
        """Draw the use of the experts of a fitted network.

        Parameters
        ----------
        estimator : MixtureEstimator
            A fitted mixture of experts, such as `MMoE`, `PLE` or `HoME`; a loaded one too.
        level : int, optional
            The level to draw, 1 being nearest to the input; default all.
        ax : matplotlib Axes, optional
            Where to draw one level; default a new figure, which grows with the number of gates and experts.
        include_values : bool, optional
            Whether to write the weights into the cells; default if no level has more than 24
            experts or gates.
        im_kw : mapping, optional
            Arguments for the heat maps, as ``Axes.imshow`` takes them, such as ``cmap`` and ``vmax``.

        Raises
        ------
        NotFittedError, TypeError
            If the estimator is not fitted, or has no experts.
        ValueError
            If it has no such level, or one ``ax`` is given for several levels.
        """
        tasks = tasks_of(estimator, None, "expert_utilisation_", "with experts, such as MMoE, PLE or HoME")
        utilisation, experts = estimator.expert_utilisation_, estimator.experts_
        levels = experts["level"].unique().sort().to_list()
        if level is not None and level not in levels:
            raise ValueError(f"expected a level of {type(estimator).__name__}, one of {levels}, got {level!r}")
        if level is not None:
            utilisation, experts = utilisation.filter(level=level), experts.filter(level=level)
        display = cls(utilisation, experts, tasks=[task.name for task in tasks], name=type(estimator).__name__)
        return display.plot(ax=ax, include_values=include_values, im_kw=im_kw)

    def plot(
        self, *, ax: Axes | None = None, include_values: bool | None = None, im_kw: Mapping[str, Any] | None = None
    ) -> ExpertUsageDisplay:
        """Draw the heat maps; the arguments are those of :meth:`from_estimator`."""
        levels = self.experts["level"].unique().sort().to_list()
        if ax is not None and len(levels) > 1:
            raise ValueError(f"one ax cannot hold the levels {levels}: choose one by level=, or leave ax out")
        gates = {level: self._gates(level) for level in levels}
        n_gates = [len(names) for names in gates.values()]
        n_experts = max(self.experts["level"].value_counts()["count"].to_list())
        few = max(*n_gates, n_experts) <= _FEW
        width, height = (0.5, 0.3) if few else (0.22, 0.2)
        size = (2.5 + max(3.5, width * n_experts), height * sum(n_gates) + 1.8 * len(levels))
        ratios = {"height_ratios": n_gates, "hspace": 0.06}
        panels = self._new_axes(len(levels), figsize=size, gridspec_kw=ratios) if ax is None else [ax]
        self._draw_into(panels[0])
        self.axes_ = dict(zip(levels, panels, strict=True))
        look = {"vmin": 0.0, "vmax": self.utilisation["weight"].max(), "aspect": "auto", **(im_kw or {})}
        self.images_ = {level: self._draw_level(level, gates[level], few, look) for level in levels}
        if include_values or (include_values is None and few):
            for level in levels:
                _write_values(self.axes_[level], self.images_[level])
        bar = self.figure_.colorbar(self.images_[levels[0]], ax=panels, fraction=0.05, pad=0.02, aspect=40)
        bar.set_label("mean gate weight")
        return self

    def _gates(self, level: int) -> list[str]:
        """Return the gates of a level, those of tasks first."""
        gates = self.utilisation.filter(level=level)["gate"].unique(maintain_order=True).to_list()
        return [gate for gate in self.tasks if gate in gates] + [gate for gate in gates if gate not in self.tasks]

    def _draw_level(self, level: int, gates: list[str], few: bool, look: Mapping[str, Any]) -> AxesImage:
        ax, used = self.axes_[level], self.utilisation.filter(level=level)
        experts = self.experts.filter(level=level)
        names, dead = experts["expert"].to_list(), experts["dead"].to_list()
        weights = np.ma.masked_all((len(gates), len(names)))
        for gate, expert, weight in used.select("gate", "expert", "weight").iter_rows():
            weights[gates.index(gate), names.index(expert)] = weight
        ax.patch.set(facecolor="0.93", edgecolor="0.75", hatch="////")
        ax.grid(visible=False)
        image = ax.imshow(weights, **look)
        labels = [f"{name} (dead)" if gone else name for name, gone in zip(names, dead, strict=True)]
        slant = {"rotation": 45, "ha": "right", "rotation_mode": "anchor"} if few else {"rotation": 90}
        ax.set_xticks(np.arange(len(names)), labels, fontsize="small", **slant)
        for label, gone in zip(ax.get_xticklabels(), dead, strict=True):
            label.set_color(MARKED if gone else "black")
        ax.set_yticks(np.arange(len(gates)), gates, fontsize="small")
        n_tasks = sum(gate in self.tasks for gate in gates)
        if 0 < n_tasks < len(gates):
            ax.axhline(n_tasks - 0.5, color="white", linewidth=4)
        hidden = " (hatched: not seen by the gate)" if np.ma.is_masked(weights) else ""
        ax.set(ylabel="gate", xlabel=f"expert{hidden}")
        start = f"{self.name}, level" if self.name else "level"
        ax.set_title(f"{start} {level}: {sum(dead)} of {len(dead)} experts dead", fontsize="medium")
        return image


def _write_values(ax: Axes, image: AxesImage) -> None:
    """Write the weights into their cells, in a colour that stands out."""
    weights: Any = np.ma.asarray(image.get_array())
    for (row, column), weight in np.ma.ndenumerate(weights):
        red, green, blue, _ = image.cmap(image.norm(weight))
        dark = 0.3 * red + 0.6 * green + 0.1 * blue < 0.5
        color = "white" if dark else "black"
        ax.text(column, row, f"{weight:.2f}", ha="center", va="center", color=color, fontsize="small")
