"""Gains keep the sign of the difference, are null where they say nothing, and print as a table."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tabmtl.base.schema import TabmtlWarning
from tabmtl.metrics.gain import multitask_gain

SCORE = st.floats(-2.0, 2.0).filter(lambda value: abs(value) >= 0.01)


@given(st.dictionaries(st.text(max_size=5), st.tuples(SCORE, SCORE), min_size=1, max_size=5))
def test_gain_has_the_sign_of_the_difference(pairs):
    gain = multitask_gain({t: a for t, (a, _) in pairs.items()}, {t: b for t, (_, b) in pairs.items()})
    assert gain.table["task"].to_list() == list(pairs)
    for (score, reference), row in zip(pairs.values(), gain.table.iter_rows(named=True), strict=True):
        assert row["difference"] == score - reference
        assert np.sign(row["gain_percent"]) == np.sign(score - reference)
        assert row["gain_percent"] == pytest.approx(100 * (score - reference) / abs(reference))
    assert (gain.n_tasks, gain.n_defined) == (len(pairs), len(pairs))
    assert gain.delta_m == pytest.approx(np.mean(gain.table["gain_percent"].to_numpy()))


def test_gain_is_null_beside_a_tiny_reference_and_a_missing_score():
    scores = {"a": 0.5, "b": 0.3, "c": None, "d": math.nan, "e": -0.1}
    reference = {"a": 0.4, "b": 0.005, "c": 0.2, "d": None, "e": -0.2}
    with pytest.warns(TabmtlWarning) as caught:
        gain = multitask_gain(scores, reference)
    assert [str(warning.message).split(":")[0] for warning in caught] == ["task 'b'", "task 'c'", "task 'd'"]
    gains = gain.table["gain_percent"].to_list()
    assert gains[1:4] == [None] * 3
    assert (gains[0], gains[4]) == (pytest.approx(25.0), pytest.approx(50.0))
    assert gain.table["difference"].to_list()[1] == pytest.approx(0.295)
    assert gain.table["difference"].to_list()[2:4] == [None, None]
    assert (gain.n_tasks, gain.n_defined, gain.delta_m) == (5, 2, pytest.approx(37.5))


def test_gain_without_a_defined_task_is_nan():
    with pytest.warns(TabmtlWarning):
        gain = multitask_gain({"a": None}, {"a": 0.5})
    assert math.isnan(gain.delta_m)
    assert str(gain).endswith("Δm = undefined over 0 of 1 tasks")


def test_gain_of_other_tasks_or_of_a_mean_is_refused():
    with pytest.raises(ValueError, match=r"\['b'\] in scores only and \['c'\] in reference only"):
        multitask_gain({"a": 1.0, "b": 1.0}, {"a": 1.0, "c": 1.0})
    with pytest.raises(TypeError, match=r"reference must map tasks to their scores, as score_tasks.*got 0\.5"):
        multitask_gain({"a": 1.0}, 0.5)


def test_gain_prints_an_aligned_table():
    with pytest.warns(TabmtlWarning):
        lines = str(multitask_gain({"cancelled": 0.81, "x": 0.2}, {"cancelled": 0.8, "x": 0.001})).splitlines()
    assert lines == [
        "     task   score  reference  gain %  difference",
        "cancelled  0.8100     0.8000   +1.25     +0.0100",
        "        x  0.2000     0.0010       -     +0.1990",
        "Δm = +1.25 % over 1 of 2 tasks",
    ]
