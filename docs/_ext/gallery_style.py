"""The look of the plots that an example of the gallery draws by itself: that of the package's displays."""

from __future__ import annotations

from typing import Any

from tabmtl.inspection.plots.display import COLORS


def apply(gallery_conf: dict[str, Any], name: str) -> None:
    """Set colours that all can tell apart, and axes on two sides, before and after an example."""
    import matplotlib as mpl

    mpl.rcParams["axes.prop_cycle"] = mpl.cycler(color=COLORS)
    mpl.rcParams.update({"axes.spines.right": False, "axes.spines.top": False})
