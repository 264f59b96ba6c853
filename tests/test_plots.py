"""The Display classes: what they draw, and what they say when they cannot."""

from __future__ import annotations

import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from sklearn.exceptions import NotFittedError

import tabmtl
from tabmtl import RMTGB, IndependentTasks, MultiTabNet, SharedBottom, Task, multitask_gain
from tabmtl.plots import GainDisplay, HistoryDisplay, OutlierTaskDisplay

matplotlib = pytest.importorskip("matplotlib")
matplotlib.use("Agg")


@pytest.fixture(autouse=True)
def close_figures():
    from matplotlib import pyplot

    yield
    pyplot.close("all")


@pytest.fixture(scope="module")
def table() -> tuple[pl.DataFrame, pl.DataFrame]:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(120, 3))
    y = pl.DataFrame({"late": np.where(x[:, 0] > 0, "yes", "no"), "delay": x[:, 1] * 10})
    y = y.with_columns(pl.when(pl.int_range(pl.len()) > 20).then("delay"))
    return pl.DataFrame(x, list("abc")), y


@pytest.fixture(scope="module")
def model(table) -> SharedBottom:
    return SharedBottom(epochs=3, random_state=0).fit(*table)


def test_history_draws_the_numbers_of_history(model) -> None:
    display = HistoryDisplay.from_estimator(model)
    assert set(display.lines_) == {
        f"{part}/{task}" for part in ("train", "val") for task in ("late/roc_auc", "delay/r2")
    }
    for name, line in display.lines_.items():
        epochs, scores = line.get_data()
        np.testing.assert_array_equal(epochs, [1, 2, 3])
        np.testing.assert_array_equal(scores, model.history_[name].to_numpy())
    assert display.figure_ is display.ax_.figure


def test_history_marks_the_kept_epoch(model) -> None:
    display = HistoryDisplay.from_estimator(model)
    (kept,) = (line for line in display.ax_.get_lines() if line not in display.lines_.values())
    assert set(kept.get_xdata()) == {model.best_iteration_}
    assert f"kept: epoch {model.best_iteration_}" in [text.get_text() for text in display.ax_.get_legend().get_texts()]


def test_history_colours_tasks_and_styles_parts(model) -> None:
    lines = HistoryDisplay.from_estimator(model).lines_
    assert lines["val/late/roc_auc"].get_color() == lines["train/late/roc_auc"].get_color()
    assert lines["val/late/roc_auc"].get_color() != lines["val/delay/r2"].get_color()
    assert {lines[f"{part}/delay/r2"].get_linestyle() for part in ("val", "train")} == {"-", "--"}


def test_history_draws_chosen_tasks_into_given_axes(model) -> None:
    ax = matplotlib.figure.Figure().subplots()
    display = HistoryDisplay.from_estimator(model, tasks=["delay"], ax=ax, line_kw={"linewidth": 4})
    assert display.ax_ is ax
    assert set(display.lines_) == {"train/delay/r2", "val/delay/r2"}
    assert display.lines_["val/delay/r2"].get_linewidth() == 4


def test_history_without_validation_rows_draws_the_training_only(table) -> None:
    model = SharedBottom(epochs=2, early_stopping=False, random_state=0).fit(*table)
    assert set(HistoryDisplay.from_estimator(model).lines_) == {"train/late/roc_auc", "train/delay/r2"}


def test_history_of_a_loaded_model(model, tmp_path: Path) -> None:
    model.save(tmp_path / "model")
    lines = HistoryDisplay.from_estimator(tabmtl.load(tmp_path / "model")).lines_
    np.testing.assert_array_equal(lines["val/delay/r2"].get_ydata(), model.history_["val/delay/r2"])


def test_history_leaves_a_gap_where_a_score_is_undefined() -> None:
    history = pl.DataFrame({"epoch": [0, 1], "val/late/roc_auc": [None, 0.7]})
    display = HistoryDisplay(history, tasks=[Task(name="late", kind="binary", metric="roc_auc")]).plot()
    np.testing.assert_array_equal(display.lines_["val/late/roc_auc"].get_ydata(), [np.nan, 0.7])
    assert len(display.ax_.get_lines()) == 1


def test_history_refuses_what_has_no_epochs(model, table) -> None:
    with pytest.raises(NotFittedError):
        HistoryDisplay.from_estimator(MultiTabNet())
    trees = IndependentTasks(early_stopping=False, random_state=0).fit(table[0], table[1].select("delay"))
    with pytest.raises(TypeError, match=r"trained in epochs.*IndependentTasks.*no history_"):
        HistoryDisplay.from_estimator(trees)
    with pytest.raises(ValueError, match=r"\['late', 'delay'\], got \['early'\]"):
        HistoryDisplay.from_estimator(model, tasks=["early"])


def test_gain_draws_scores_beside_the_reference() -> None:
    gain = multitask_gain({"late": 0.82, "delay": 0.38}, {"late": 0.80, "delay": 0.40})
    display = GainDisplay.from_gain(gain, names=("MultiTabNet", "LightGBM"))
    heights = [[bar.get_height() for bar in bars] for bars in display.bars_]
    assert heights == [[0.82, 0.38], [0.80, 0.40]]
    texts = [text.get_text() for text in display.ax_.texts]
    assert texts == ["+2.5 %", "-5.0 %"]
    assert [text.get_text() for text in display.ax_.get_legend().get_texts()] == ["MultiTabNet", "LightGBM"]
    assert display.ax_.get_title() == "Δm = -1.25 % over 2 of 2 tasks"
    display.figure_.canvas.draw()


@pytest.mark.filterwarnings("ignore::tabmtl.schema.TabmtlWarning")
def test_gain_that_is_undefined_has_no_number() -> None:
    gain = multitask_gain({"late": None, "delay": 0.2}, {"late": 0.80, "delay": 0.001})
    display = GainDisplay.from_gain(gain, ax=matplotlib.figure.Figure().subplots())
    assert np.isnan(display.bars_[0][0].get_height())
    assert [text.get_text() for text in display.ax_.texts] == ["", ""]
    display.figure_.canvas.draw()


@pytest.fixture(scope="module")
def boosted(table) -> RMTGB:
    """Of late, which is alone, and of three delays, the last of which is turned round."""
    y = table[1].with_columns(twice=2 * pl.col("delay"), early=-pl.col("delay"))
    return RMTGB(n_estimators_outlier=40, n_estimators_task=5, random_state=0).fit(table[0], y)


def outliers(n: int, **columns) -> pl.DataFrame:
    names = [f"school {i}" for i in range(n)]
    table = pl.DataFrame({"task": names, "outlier_score": [i / n for i in range(n)], "check_loss": [0.5] * n})
    return table.with_columns(check_loss_if_normal=pl.lit(0.55)).with_columns(**columns)


def checks_of(display: OutlierTaskDisplay) -> list[str]:
    (right,) = display.ax_.child_axes
    return [label.get_text() for label in right.get_yticklabels()]


def names_of(display: OutlierTaskDisplay) -> list[str]:
    return [label.get_text() for label in display.ax_.get_yticklabels()]


def test_outliers_are_drawn_from_the_highest_score_down() -> None:
    table = outliers(4, outlier_score=pl.Series([0.3, 0.9, 0.1, 0.6]))
    display = OutlierTaskDisplay(table).plot()
    assert [bar.get_width() for bar in display.bars_] == [0.9, 0.6, 0.3, 0.1]
    assert names_of(display) == ["school 1", "school 3", "school 0", "school 2"]
    places = [bar.get_y() for bar in display.bars_]
    assert places == sorted(places, reverse=True)
    np.testing.assert_allclose(display.ax_.get_yticks(), [bar.get_y() + bar.get_height() / 2 for bar in display.bars_])
    (half,) = display.ax_.get_lines()
    assert set(half.get_xdata()) == {0.5}
    assert display.ax_.get_title() == "outlier scores"
    display.figure_.canvas.draw()


def test_outliers_have_the_measured_check_beside_them() -> None:
    """In per cent, by which a normal task's weight would change the loss; none where nothing was measured."""
    normal = pl.Series([0.5, 0.25, None, 2.0, 1.0])
    table = outliers(5, check_loss=pl.Series([0.4, 0.5, 0.5, 2.0, 0.0]), check_loss_if_normal=normal)
    display = OutlierTaskDisplay(table).plot()
    assert checks_of(display) == ["", "+0.0 %", "", "-50.0 %", "+25.0 %"]
    np.testing.assert_array_equal(display.ax_.child_axes[0].get_yticks(), display.ax_.get_yticks())
    assert display.ax_.child_axes[0].get_ylabel() == "validation loss with a normal task's weight"


def test_outliers_of_many_tasks_are_cut_and_counted() -> None:
    table = outliers(139)
    display = OutlierTaskDisplay(table).plot()
    assert names_of(display) == [f"school {i}" for i in range(138, 108, -1)]
    assert display.ax_.get_title() == "outlier scores: the 30 highest, 109 tasks left out"
    display.figure_.canvas.draw()
    boxes = [label.get_window_extent() for label in display.ax_.get_yticklabels()]
    assert all(above.y0 >= below.y1 - 1 for above, below in pairwise(boxes))  # legible: no overlap
    assert len(OutlierTaskDisplay(table, max_tasks=200).plot().bars_) == 139


def test_outliers_without_a_score_are_left_out() -> None:
    display = OutlierTaskDisplay(outliers(3, outlier_score=pl.Series([None, 0.2, 0.4]))).plot()
    assert names_of(display) == ["school 2", "school 1"]
    assert display.ax_.get_title() == "outlier scores: the 2 highest, 1 tasks left out"


def test_outliers_of_an_estimator(boosted) -> None:
    table = boosted.outlier_score_
    scores = dict(table.select("task", "outlier_score").iter_rows())
    assert scores["late"] is None
    display = OutlierTaskDisplay.from_estimator(boosted)
    assert sorted(names_of(display)) == ["delay", "early", "twice"]
    assert [bar.get_width() for bar in display.bars_] == [scores[name] for name in names_of(display)]
    losses = {
        name: normal / own - 1
        for name, own, normal in table.drop_nulls()["task", "check_loss", "check_loss_if_normal"].iter_rows()
    }
    assert checks_of(display) == [f"{100 * losses[name]:+.1f} %" for name in names_of(display)]


def test_outliers_of_chosen_tasks_in_given_axes(boosted, tmp_path: Path) -> None:
    boosted.save(tmp_path / "model")
    ax = matplotlib.figure.Figure().subplots()
    display = OutlierTaskDisplay.from_estimator(
        tabmtl.load(tmp_path / "model"), tasks=["early", "late"], max_tasks=1, ax=ax, bar_kw={"color": "red"}
    )
    assert (display.ax_, display.figure_) == (ax, ax.figure)
    assert names_of(display) == ["early"]
    assert display.bars_[0].get_facecolor() == (1, 0, 0, 1)


def test_outliers_refuse_what_has_no_scores(boosted, model) -> None:
    with pytest.raises(NotFittedError):
        OutlierTaskDisplay.from_estimator(RMTGB())
    with pytest.raises(TypeError, match=r"with outlier scores, RMTGB, got SharedBottom, which has no outlier_score_"):
        OutlierTaskDisplay.from_estimator(model)
    with pytest.raises(ValueError, match=r"\['late', 'delay', 'twice', 'early'\], got \['a', 'b'\]"):
        OutlierTaskDisplay.from_estimator(boosted, tasks=["a", "late", "b"])
    with pytest.raises(ValueError, match=r"block 2 has no trees.*n_estimators_outlier above 0.*early_stopping=False"):
        OutlierTaskDisplay.from_estimator(boosted, tasks=["late"])
    with pytest.raises(ValueError, match="max_tasks must be at least 1, got 0"):
        OutlierTaskDisplay(boosted.outlier_score_, max_tasks=0)


@pytest.mark.parametrize("name", ["HistoryDisplay", "GainDisplay", "OutlierTaskDisplay"])
def test_without_matplotlib_the_extra_is_named(name: str, model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    draw = {
        "HistoryDisplay": lambda: HistoryDisplay.from_estimator(model),
        "GainDisplay": lambda: GainDisplay.from_gain(multitask_gain({"a": 0.5}, {"a": 0.4})),
        "OutlierTaskDisplay": lambda: OutlierTaskDisplay(outliers(2)).plot(),
    }
    with pytest.raises(ImportError, match=rf"{name} draws with matplotlib.*tabmtl\[plot\]"):
        draw[name]()


def test_importing_plots_leaves_matplotlib_alone() -> None:
    code = "import sys, tabmtl.plots; assert 'matplotlib' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
