"""The display of who uses which expert: what it draws, and what it says when it cannot."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import polars as pl
import pytest

from tabmtl.inspection.plots import ExpertUsageDisplay

matplotlib = pytest.importorskip("matplotlib")


def usage(n_gates: int, n_experts: int, level: int = 1) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Gates that see all experts alike."""
    names = pl.DataFrame({"expert": [f"expert {e}" for e in range(n_experts)]})
    experts = names.select(pl.lit(level).alias("level"), "expert", pl.lit(False).alias("dead"))
    gates = pl.DataFrame({"gate": [f"task {g}" for g in range(n_gates)]})
    used = gates.join(names, how="cross").with_columns(pl.lit(level).alias("level"), weight=1 / n_experts)
    return used, experts


def x_labels(display: ExpertUsageDisplay, level: int = 1) -> list[str]:
    return [label.get_text() for label in display.axes_[level].get_xticklabels()]


def gates(display: ExpertUsageDisplay, level: int = 1) -> list[str]:
    return [label.get_text() for label in display.axes_[level].get_yticklabels()]


def test_every_level_has_a_panel_with_the_weights_of_the_estimator(mixture):
    display = ExpertUsageDisplay.from_estimator(mixture)
    assert list(display.axes_) == list(display.images_) == [1, 2]
    for level, image in display.images_.items():
        drawn = {
            (gates(display, level)[g], x_labels(display, level)[e]): weight
            for (g, e), weight in np.ma.ndenumerate(image.get_array())
        }
        used = mixture.expert_utilisation_.filter(level=level)
        assert drawn == {(gate, expert): w for gate, expert, w in used["gate", "expert", "weight"].iter_rows()}
    assert display.ax_ is display.axes_[1] and display.figure_ is display.ax_.figure
    assert mixture.expert_utilisation_["gate"][0] == "(shared)"
    assert gates(display, 1) == ["late", "delay", "(shared)"]  # tasks come before others
    assert gates(display, 2) == ["late", "delay"]
    # all panels have one scale
    scales = [image.get_clim() for image in display.images_.values()]
    assert scales == [(0, mixture.expert_utilisation_["weight"].max())] * 2
    (bar,) = set(display.figure_.axes) - set(display.axes_.values())
    assert bar.get_ylabel() == "mean gate weight"
    assert ExpertUsageDisplay.from_estimator(mixture, im_kw={"vmax": 1}).images_[2].get_clim() == (0, 1)


def test_an_expert_that_a_gate_may_not_see_is_no_zero(mixture):
    display = ExpertUsageDisplay.from_estimator(mixture, level=2, im_kw={"interpolation": "nearest"})
    assert x_labels(display, 2) == ["(shared) 0", "(shared) 1", "late 0", "delay 0"]
    hidden = [[False, False, False, True], [False, False, True, False]]
    np.testing.assert_array_equal(display.images_[2].get_array().mask, hidden)
    image = display.images_[2]
    assert image.cmap(image.norm(image.get_array()))[0, 3, 3] == 0  # see-through, so that the hatches show
    assert display.axes_[2].patch.get_hatch()
    assert "hatched: not seen" in display.axes_[2].get_xlabel()


def test_a_weight_of_zero_is_drawn_and_nothing_is_said_of_hatches():
    used, experts = usage(2, 3)
    display = ExpertUsageDisplay(used.with_columns(weight=pl.Series([0.0, 0.5, 0.5] * 2)), experts).plot()
    assert not np.ma.is_masked(display.images_[1].get_array())
    assert [text.get_text() for text in display.ax_.texts] == ["0.00", "0.50", "0.50"] * 2
    assert [text.get_color() for text in display.ax_.texts] == ["white", "black", "black"] * 2  # they stand out
    assert display.ax_.get_xlabel() == "expert"


def test_dead_experts_are_marked_and_counted():
    used, experts = usage(2, 3)
    dead = experts.with_columns(dead=pl.Series([False, True, False]))
    display = ExpertUsageDisplay(used, dead, name="MMoE").plot()
    assert x_labels(display) == ["expert 0", "expert 1 (dead)", "expert 2"]
    colours = [matplotlib.colors.to_rgba(label.get_color()) for label in display.ax_.get_xticklabels()]
    assert colours[0] == colours[2] != colours[1]
    assert display.ax_.get_title() == "MMoE, level 1: 1 of 3 experts dead"


def test_values_are_written_if_cells_are_few_or_on_demand():
    assert len(ExpertUsageDisplay(*usage(2, 24)).plot().ax_.texts) == 48
    assert not ExpertUsageDisplay(*usage(2, 25)).plot().ax_.texts
    assert not ExpertUsageDisplay(*usage(25, 2)).plot().ax_.texts
    assert not ExpertUsageDisplay(*usage(2, 2)).plot(include_values=False).ax_.texts
    assert len(ExpertUsageDisplay(*usage(1, 30)).plot(include_values=True).ax_.texts) == 30


@pytest.mark.parametrize("shape", [(2, 3), (5, 60), (60, 3)])
def test_names_are_legible_however_many(shape):
    used, experts = usage(*shape)
    more = [pl.concat(pair) for pair in zip((used, experts), usage(*shape, level=2), strict=True)]
    display = ExpertUsageDisplay(*more).plot()
    display.figure_.canvas.draw()
    for ax in display.axes_.values():
        rows = [label.get_window_extent() for label in ax.get_yticklabels()]
        assert all(above.y0 >= below.y1 for above, below in pairwise(rows))
        distance = np.diff(ax.transData.transform([(0, 0), (1, 0)])[:, 0])
        assert distance >= ax.get_xticklabels()[0].get_fontsize() / 72 * display.figure_.dpi
    outside = [ax.get_tightbbox() for ax in display.figure_.axes]
    assert all(box.x0 >= 0 and box.y0 >= 0 and box.x1 <= display.figure_.bbox.x1 for box in outside)
