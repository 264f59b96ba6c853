"""The display of drift: the largest on top, what has drifted marked, the others as they are."""

import polars as pl
import pytest
from matplotlib.colors import to_hex

from tabmtl.inspection.plots import DriftDisplay
from tabmtl.inspection.plots.display import COLORS, FAINT, MARKED

FOUND = pl.DataFrame(
    {
        "kind": ["column", "column", "prediction", "prediction"],
        "name": ["a", "b", "late", "delay"],
        "psi": [0.02, 0.4, 0.3, None],
        "is_drift": [False, True, None, None],
        "why": ["", "distribution, unseen", "answers to learned rows are no measure", "too few rows"],
    }
)


def test_the_largest_is_on_top_and_what_has_drifted_is_marked():
    display = DriftDisplay.from_frame(FOUND)
    assert [label.get_text() for label in display.ax_.get_yticklabels()] == [
        "b (distribution, unseen)",
        "prediction of late",
        "a",
    ]
    colors = [to_hex(bar.get_facecolor()).upper() for bar in display.bars_]
    assert colors == [MARKED, FAINT, COLORS[0]]
    assert display.ax_.get_title() == "1 more left out" and display.ax_.get_ylim() == (2.5, -0.5)
    named = [text.get_text() for text in display.ax_.get_legend().get_texts()]
    assert sorted(named) == [".1: some drift", ".25: much drift", "drifted", "not drifted", "not judged"]
    display.figure_.canvas.draw()


def test_few_lines_and_a_fitted_model(model, table):
    display = DriftDisplay.from_estimator(model, table[0].with_columns(pl.col("a") + 9), max_lines=1, ignore=["c"])
    assert [label.get_text() for label in display.ax_.get_yticklabels()] == ["a (distribution)"]
    with pytest.raises(ValueError, match="max_lines must be"):
        DriftDisplay(FOUND, max_lines=0)
