"""All displays: matplotlib is optional, and imported to draw only."""

import os
import subprocess
import sys

import polars as pl
import pytest
from sklearn.exceptions import NotFittedError

from tabmtl import RMTGB, IndependentTasks, MMoE, MultiTabNet, MultiTaskEnsemble, multitask_gain
from tabmtl.inspection.plots import (
    ExpertUsageDisplay,
    GainDisplay,
    HistoryDisplay,
    ImportanceDisplay,
    LeaderboardDisplay,
)
from tabmtl.targets import Task
from tabmtl.tuning import ParetoDisplay

USAGE = pl.DataFrame({"level": [1], "gate": ["a"], "expert": ["own"], "weight": [1.0], "dead": [False]})
BOARD = pl.DataFrame({"model": ["x"], "task": ["a"], "score": [0.5], "standard_error": [0.1], "weight": [1.0]})
FALLS = pl.DataFrame({"task": ["a"], "feature": ["x"], "importance": [0.1]})
FRONT = pl.DataFrame({"trial": [0], "score/a": [0.5], "score/b": [0.4]})


@pytest.mark.parametrize(
    "draw",
    [
        lambda model: HistoryDisplay.from_estimator(model),
        lambda model: GainDisplay.from_gain(multitask_gain({"a": 0.5}, {"a": 0.4})),
        lambda model: ExpertUsageDisplay(USAGE, USAGE).plot(),
        lambda model: ParetoDisplay.from_front(FRONT),
        lambda model: ImportanceDisplay.from_importances(FALLS),
        lambda model: LeaderboardDisplay(BOARD, tasks=[Task(name="a", kind="regression")]).plot(),
    ],
)
def test_without_matplotlib_the_extra_is_named(draw, model, monkeypatch):
    display = draw(model)
    assert display.figure_.axes
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match=rf"{type(display).__name__} draws with matplotlib.*tabmtl\[plot\]"):
        draw(model)


RED = {"color": "red"}
DRAWN = [
    (HistoryDisplay, "model", {"tasks": ["delay"], "line_kw": RED}, lambda d: d.lines_["val/delay/r2"].get_color()),
    (ExpertUsageDisplay, "mixture", {"level": 2}, lambda d: "red" if d.axes_ == {2: d.ax_} else d.axes_),
    (
        LeaderboardDisplay,
        "ensemble",
        {"tasks": ["late"], "errorbar_kw": RED},
        lambda d: d.points_["late"][0].get_c(),
    ),
    (ImportanceDisplay, "boosted", {"tasks": ["late"], "bar_kw": RED}, lambda d: d.bars_["late"][0].get_facecolor()),
]


@pytest.mark.parametrize(("display", "estimator", "options", "color"), DRAWN)
def test_chosen_tasks_are_drawn_into_given_axes_as_one_likes(display, estimator, options, color, request):
    import matplotlib

    ax = matplotlib.figure.Figure().subplots()
    drawn = display.from_estimator(request.getfixturevalue(estimator), ax=ax, **options)
    assert (drawn.ax_, drawn.figure_) == (ax, ax.figure)
    assert matplotlib.colors.to_rgb(color(drawn)) == (1, 0, 0)


BOTH = r"\['late', 'delay'\], got \['early'\]"
REFUSED = [
    (HistoryDisplay, MultiTabNet(), {}, NotFittedError, "not fitted"),
    (HistoryDisplay, "trees", {}, TypeError, "trained in epochs.*IndependentTasks.*no history_"),
    (HistoryDisplay, "model", {"tasks": ["early"]}, ValueError, BOTH),
    (ExpertUsageDisplay, MMoE(), {}, NotFittedError, "not fitted"),
    (ExpertUsageDisplay, "model", {}, TypeError, "such as MMoE.*got SharedBottom, .* no expert_utilisation_"),
    (ExpertUsageDisplay, "mixture", {"level": 3}, ValueError, r"expected a level of PLE, one of \[1, 2\], got 3"),
    (ExpertUsageDisplay, "mixture", {"ax": 1}, ValueError, r"cannot hold the levels \[1, 2\]: choose one by level="),
    (ImportanceDisplay, RMTGB(), {}, NotFittedError, "not fitted"),
    (ImportanceDisplay, "model", {}, TypeError, "needs trees, and a SharedBottom has none: say .*permutation_imp"),
    (ImportanceDisplay, "boosted", {"tasks": ["laet"]}, ValueError, "does not have: \\['laet'\\]; near is 'late'"),
    (ImportanceDisplay, "boosted", {"ax": 1}, ValueError, "one ax cannot hold 4 tasks: choose one by tasks="),
    (ImportanceDisplay, "boosted", {"max_features": 0}, ValueError, "max_features must be at least 1, got 0"),
    (LeaderboardDisplay, MultiTaskEnsemble(), {}, NotFittedError, "not fitted"),
    (LeaderboardDisplay, "model", {}, TypeError, "leaderboard, MultiTaskEnsemble, got SharedBottom.*no leaderboard_"),
    (LeaderboardDisplay, "ensemble", {"tasks": ["early"]}, ValueError, BOTH),
    (LeaderboardDisplay, "ensemble", {"ax": 1}, ValueError, "one ax cannot hold 2 tasks: choose one by tasks="),
    (LeaderboardDisplay, "ensemble", {"tasks": []}, ValueError, "there is no task to draw"),
]


@pytest.mark.parametrize(("display", "estimator", "options", "error", "message"), REFUSED)
def test_what_cannot_be_drawn_is_refused(display, estimator, options, error, message, request, table):
    if estimator == "trees":
        estimator = IndependentTasks(early_stopping=False, random_state=0).fit(table[0], table[1]["delay"])
    elif isinstance(estimator, str):
        estimator = request.getfixturevalue(estimator)
    with pytest.raises(error, match=message):
        display.from_estimator(estimator, **options)


@pytest.mark.all_faces
def test_importing_plots_leaves_matplotlib_alone():
    code = "import sys, tabmtl.inspection.plots; assert 'matplotlib' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.all_faces  # starts processes
@pytest.mark.parametrize("draw", ["GainDisplay.from_gain(gain)", "draw_figures(compared)"])
def test_settings_of_a_backend_outlive_the_first_drawing(draw, tmp_path):
    """The backend of notebooks turns on interactive mode when it is loaded, without which they show no plots."""
    (tmp_path / "notebook.py").write_text(
        "import matplotlib\nfrom matplotlib.backends.backend_agg import *\nmatplotlib.interactive(True)\n"
    )
    code = (
        "import matplotlib, polars as pl\n"
        "from types import SimpleNamespace\n"
        "from tabmtl import Task, multitask_gain\n"
        "from tabmtl.inspection.comparison.figures import draw_figures\n"
        "from tabmtl.inspection.plots import GainDisplay\n"
        "gain, task = multitask_gain({'a': 0.5}, {'a': 0.4}), Task(name='a', kind='regression')\n"
        "names = {'difference': 0.1, 'difference_low': 0.0, 'difference_high': 0.2}\n"
        "rows = pl.DataFrame({'model': ['x'], 'task': ['a'], **names})\n"
        "compared = SimpleNamespace(frame=rows, models={}, calibration=rows.clear(), tasks=[task], reference='')\n"
        f"{draw}\n"
        "assert matplotlib.is_interactive()\n"
        "assert matplotlib.rcParams['axes.grid'] is False"
    )
    path = os.pathsep.join([str(tmp_path), *filter(None, sys.path)])
    options = {"MPLBACKEND": "module://notebook", "PYTHONPATH": path}
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, **options})
