"""All displays: matplotlib is optional, and imported to draw only."""

from __future__ import annotations

import subprocess
import sys

import polars as pl
import pytest

from tabmtl import multitask_gain
from tabmtl.plots import (
    ExpertUsageDisplay,
    GainDisplay,
    HistoryDisplay,
    LeaderboardDisplay,
    OutlierTaskDisplay,
    ParetoDisplay,
)
from tabmtl.schema import Task

OUTLIERS = pl.DataFrame({"task": ["a"], "outlier_score": [0.5], "check_loss": [1.0], "check_loss_if_normal": [1.0]})
USAGE = pl.DataFrame({"level": [1], "gate": ["a"], "expert": ["own"], "weight": [1.0], "dead": [False]})
BOARD = pl.DataFrame({"candidate": ["x"], "task": ["a"], "score": [0.5], "standard_error": [0.1], "weight": [1.0]})
FRONT = pl.DataFrame({"trial": [0], "score/a": [0.5], "score/b": [0.4]})


@pytest.mark.parametrize(
    "draw",
    [
        lambda model: HistoryDisplay.from_estimator(model),
        lambda model: GainDisplay.from_gain(multitask_gain({"a": 0.5}, {"a": 0.4})),
        lambda model: OutlierTaskDisplay(OUTLIERS).plot(),
        lambda model: ExpertUsageDisplay(USAGE, USAGE).plot(),
        lambda model: ParetoDisplay.from_front(FRONT),
        lambda model: LeaderboardDisplay(BOARD, tasks=[Task(name="a", kind="regression")]).plot(),
    ],
    ids=[
        "HistoryDisplay",
        "GainDisplay",
        "OutlierTaskDisplay",
        "ExpertUsageDisplay",
        "ParetoDisplay",
        "LeaderboardDisplay",
    ],
)
def test_without_matplotlib_the_extra_is_named(
    draw, model, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert draw(model).figure_.axes
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match=rf"{request.node.callspec.id} draws with matplotlib.*tabmtl\[plot\]"):
        draw(model)


def test_importing_plots_leaves_matplotlib_alone() -> None:
    code = "import sys, tabmtl.plots; assert 'matplotlib' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
