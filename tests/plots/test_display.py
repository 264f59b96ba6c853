"""All displays: matplotlib is optional, and imported to draw only."""

import os
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
from tabmtl.targets import Task

OUTLIERS = pl.DataFrame({"task": ["a"], "outlier_score": [0.5], "check_loss": [1.0], "check_loss_if_normal": [1.0]})
USAGE = pl.DataFrame({"level": [1], "gate": ["a"], "expert": ["own"], "weight": [1.0], "dead": [False]})
BOARD = pl.DataFrame({"model": ["x"], "task": ["a"], "score": [0.5], "standard_error": [0.1], "weight": [1.0]})
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
def test_without_matplotlib_the_extra_is_named(draw, model, request, monkeypatch):
    assert draw(model).figure_.axes
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match=rf"{request.node.callspec.id} draws with matplotlib.*tabmtl\[plot\]"):
        draw(model)


def test_importing_plots_leaves_matplotlib_alone():
    code = "import sys, tabmtl.plots; assert 'matplotlib' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("draw", ["GainDisplay.from_gain(gain)", "draw_figures(rows, {}, rows.clear(), [task], '')"])
def test_settings_of_a_backend_outlive_the_first_drawing(draw, tmp_path):
    """The backend of notebooks turns on interactive mode when it is loaded, without which they show no plots."""
    (tmp_path / "notebook.py").write_text(
        "import matplotlib\nfrom matplotlib.backends.backend_agg import *\nmatplotlib.interactive(True)\n"
    )
    code = (
        "import matplotlib, polars as pl\n"
        "from tabmtl import Task, multitask_gain\n"
        "from tabmtl.comparison.figures import draw_figures\n"
        "from tabmtl.plots import GainDisplay\n"
        "gain, task = multitask_gain({'a': 0.5}, {'a': 0.4}), Task(name='a', kind='regression')\n"
        "names = {'difference': 0.1, 'difference_low': 0.0, 'difference_high': 0.2}\n"
        "rows = pl.DataFrame({'model': ['x'], 'task': ['a'], **names})\n"
        f"{draw}\n"
        "assert matplotlib.is_interactive()\n"
        "assert matplotlib.rcParams['axes.grid'] is False"
    )
    path = os.pathsep.join([str(tmp_path), *filter(None, sys.path)])
    options = {"MPLBACKEND": "module://notebook", "PYTHONPATH": path}
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, **options})
