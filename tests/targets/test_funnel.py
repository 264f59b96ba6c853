"""Labels of a funnel: a step that was not taken ends it, and what contradicts that is counted and named."""

from __future__ import annotations

import warnings
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from forging import through_file
from hypothesis import given
from hypothesis import strategies as st

from tabmtl import TabmtlWarning
from tabmtl.encode import LabelCoder
from tabmtl.targets import Task
from tabmtl.targets.funnel import settle_funnel

NAN = float("nan")
STEPS = [Task(name=name, kind="binary", classes=(0, 1)) for name in ("click", "cart", "buy")]


def settled(values, tasks=STEPS, chain=(0, 1, 2)) -> np.ndarray:
    """Labels of a funnel, where none may be contradictory; those given stay as they were."""
    given = np.array(values, dtype=float)
    with warnings.catch_warnings(action="error"):
        found = settle_funnel(given, tasks, chain)
    np.testing.assert_array_equal(given, values)
    return found


def coder_of(y, chain, **options) -> LabelCoder:
    """A fitted coder of a funnel."""
    return replace(LabelCoder.fit(y, **options), chain=chain)


def test_a_missing_label_after_a_0_is_0_and_any_other_stays_missing():
    values = [[0, NAN, NAN], [1, NAN, NAN], [NAN, NAN, NAN], [1, 0, NAN], [NAN, 0, NAN], [NAN, 1, NAN], [1, 1, 1]]
    expected = [[0, 0, 0], [1, NAN, NAN], [NAN, NAN, NAN], [1, 0, 0], [NAN, 0, 0], [NAN, 1, NAN], [1, 1, 1]]
    np.testing.assert_array_equal(settled(values), expected)


def test_the_order_of_the_chain_counts_not_that_of_the_columns():
    values = [[NAN, NAN, 0], [NAN, 1, 1], [NAN, 0, 1]]
    np.testing.assert_array_equal(settled(values, chain=(2, 1, 0)), [[0, 0, 0], [NAN, 1, 1], [0, 0, 1]])


def test_labels_outside_the_chain_and_without_one_stay_as_they_are():
    values = [[0, NAN, NAN], [0, 1, 2.5]]
    np.testing.assert_array_equal(settled(values, chain=()), values)
    np.testing.assert_array_equal(settled([[0, 7, NAN], [1, NAN, 1]], chain=(0, 2)), [[0, 7, 0], [1, NAN, 1]])


def test_rows_against_the_order_are_counted_and_named_and_become_0():
    values = np.array([[0, 1, NAN], [0, 1, 0], [1, 1, 1], [1, 0, NAN], [NAN, 1, NAN]])
    with pytest.warns(TabmtlWarning) as caught:
        found = settle_funnel(values, STEPS, (0, 1, 2))
    (warning,) = caught
    message = str(warning.message)
    assert message.startswith("2 of 5 rows have cart=1 although click=0; they count as not 'cart'")
    assert "change task_chain, or declare tasks={name: Task(name=name, kind='binary'" in message
    np.testing.assert_array_equal(found, [[0, 0, 0], [0, 0, 0], [1, 1, 1], [1, 0, 0], [NAN, 1, NAN]])
    tasks = [Task(name="seen", kind="binary", classes=("no", "yes")), Task(name="paid", kind="binary", classes=(7, 3))]
    with pytest.warns(TabmtlWarning, match=r"1 of 1 rows have paid=3 although seen='no'"):
        settle_funnel(np.array([[0.0, 1.0]]), tasks, (0, 1))


def test_a_1_two_steps_after_a_0_is_against_the_order_too():
    values = np.array([[0, NAN, 1], [0, NAN, 1], [1, 1, 1], [1, 0, 1], [0, 1, 1], [0, 0, 1]])
    with pytest.warns(TabmtlWarning) as caught:
        found = settle_funnel(values, STEPS, (0, 1, 2))
    said = [str(warning.message).partition(";")[0] for warning in caught]  # every row once, by its own 0
    assert said == [
        "1 of 6 rows have cart=1 although click=0",
        "3 of 6 rows have buy=1 although click=0",
        "1 of 6 rows have buy=1 although cart=0",
    ]
    assert found.tolist() == [[0, 0, 0], [0, 0, 0], [1, 1, 1], [1, 0, 0], [0, 0, 0], [0, 0, 0]]


def test_a_missing_label_before_a_1_stays_missing_lest_a_step_look_too_frequent():
    rng = np.random.default_rng(0)
    click = rng.random(10_000) < 0.4
    labels = np.column_stack([click, click & (rng.random(10_000) < 0.5)]).astype(float)
    labels[rng.random(10_000) < 0.5, 0] = NAN
    found = settled(labels, chain=(0, 1))
    np.testing.assert_array_equal(found[:, 0], labels[:, 0])
    assert np.nanmean(found[:, 0]) == pytest.approx(0.4, abs=0.02)  # 0.5 with every click that a 1 of buy implies


cells = st.sampled_from([0.0, 1.0, NAN])


@given(st.lists(st.tuples(cells, cells, cells), min_size=1))
def test_settled_labels_never_rise_after_a_0_and_settle_once(rows):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TabmtlWarning)
        found = settle_funnel(np.array(rows), STEPS, (0, 1, 2))
    assert (found[:, 1:][found[:, :-1] == 0] == 0).all()
    np.testing.assert_array_equal(settled(found), found)
    untouched = np.cumsum(np.array(rows) == 0, axis=1) == 0  # before the first 0 of a row
    np.testing.assert_array_equal(found[untouched], np.array(rows)[untouched])


def test_a_label_settled_as_0_has_the_weight_of_its_row_and_a_missing_one_none():
    y = pl.DataFrame({"click": [0, 1, 1, 0, 1, None], "buy": [None, 0, 1, None, None, None]})
    values, weight = coder_of(y, (0, 1)).encode(y, np.array([3.0, 1.0, 2.0, 0.5, 2.0, 2.0]))
    np.testing.assert_array_equal(values, [[0, 0], [1, 0], [1, 1], [0, 0], [1, NAN], [NAN, NAN]])
    assert weight.tolist() == [[3, 3], [1, 1], [2, 2], [0.5, 0.5], [2, 0], [0, 0]]


def test_cells_of_weight_0_neither_count_nor_settle_others():
    y = pl.DataFrame({"click": [0, 0, 1, 0], "buy": [0, 1, 1, None]})
    weight = np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0], [0.0, 1.0]])
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # the click of row 1 does not count, so nothing contradicts its buy
        values, given_back = coder_of(y, (0, 1)).encode(y, weight)
    np.testing.assert_array_equal(values, [[0, NAN], [NAN, 1], [1, 1], [NAN, NAN]])
    assert given_back.tolist() == [[1, 0], [0, 1], [1, 1], [0, 0]]


def test_a_chain_is_settled_through_a_cell_of_weight_0():
    y = pl.DataFrame({"click": [0, 1], "cart": [0, 1], "buy": [None, 1]})
    coder = coder_of(y, (0, 1, 2), tasks={"buy": Task(name="buy", kind="binary", classes=(0, 1))})
    values, _ = coder.encode(y, np.array([[1.0, 0.0, 1.0], [1.0, 1.0, 1.0]]))
    np.testing.assert_array_equal(values, [[0, NAN, 0], [1, 1, 1]])


@pytest.mark.parametrize("dtype", [pl.String, pl.Categorical, pl.Enum(["no", "yes"])])
def test_the_second_class_of_text_is_the_step_taken(dtype):
    y = pl.DataFrame(
        {"click": ["no", "yes", "yes", "no"], "buy": [None, "no", "yes", "no"]}, schema={"click": dtype, "buy": dtype}
    )
    assert coder_of(y, (0, 1)).encode(y)[0].tolist() == [[0, 0], [1, 0], [1, 1], [0, 0]]


def test_declared_classes_say_which_is_the_step_taken():
    y = pl.DataFrame({"click": ["click", "none", "none"], "buy": ["sold", None, None]})
    tasks = [
        Task(name="click", kind="binary", classes=("none", "click")),
        Task(name="buy", kind="binary", classes=("unsold", "sold")),
    ]
    assert coder_of(y, (0, 1), tasks=tasks).encode(y)[0].tolist() == [[1, 1], [0, 0], [0, 0]]


def test_the_chain_is_in_the_state_of_the_coder():
    y = pl.DataFrame({"buy": [None, 0, 1], "click": [0, 1, 1]})
    again = through_file(coder_of(y, (1, 0)))
    assert again.chain == (1, 0)
    assert again.encode(y)[0].tolist() == [[0, 0], [0, 1], [1, 1]]
