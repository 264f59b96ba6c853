"""Checks of hyper-parameters: what passes, and that a message names parameter, expectation and value."""

import re
from dataclasses import dataclass
from datetime import timedelta
from fractions import Fraction

import numpy as np
import pytest

from tabmtl.base.params import (
    check_at_least,
    check_choice,
    check_count,
    check_fields,
    check_names,
    check_nonnegative,
    check_positive,
    check_rate,
    check_share,
)

NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("check", "more", "values"),
    [
        (check_count, {}, [1, np.int32(7), 2**63 - 1]),
        (check_count, {"low": 0}, [0]),
        (check_at_least, {"low": 0}, [0]),
        (check_at_least, {"low": 2.5}, [INF]),
        (check_nonnegative, {}, [0, 1e300]),
        (check_share, {}, [0.001, np.float32(0.5)]),
        (check_share, {"whole": True}, [1]),
        (check_rate, {}, [0, np.float64(0.999)]),
        (check_positive, {}, [1e-300, Fraction(1, 3), 5]),
        (check_names, {}, [[], ("a", "b"), np.array(["a"])]),
        (check_choice, {"choices": ("scale-free", "sum")}, ["sum"]),
    ],
)
def test_good_values_pass(check, more, values):
    for value in values:
        assert check("patience", value, **more) is None


@pytest.mark.parametrize(
    ("check", "more", "expected", "values"),
    [
        (check_count, {}, "at least 1", [0]),
        (check_count, {"low": 2}, "at least 2", [1]),
        (check_count, {"low": 0}, "at least 0", [-3]),
        (check_count, {}, f"at most {2**63 - 1}", [10**29]),
        (check_count, {}, "a whole number", [3.0]),
        (check_at_least, {"low": 0}, "at least 0", [-0.5, NAN]),
        (check_nonnegative, {}, "at least 0", [-0.5, NAN]),
        (check_share, {}, "between 0 and 1", [0, 1, NAN]),
        (check_share, {"whole": True}, "above 0 and at most 1", [1.5, 0.0]),
        (check_rate, {}, "at least 0 and below 1", [1, -0.1, NAN]),
        (check_positive, {}, "a finite number above 0", [0, INF, NAN]),
        (check_choice, {"choices": ("mean", "sum")}, "one of ['mean', 'sum']", ["max"]),
        (check_choice, {"choices": ["mean"]}, "one of ['mean']", [None]),
    ],
)
def test_a_bad_value_is_named_with_what_was_expected(check, more, expected, values):
    for value in values:
        with pytest.raises(ValueError, match=f"^{re.escape(f'patience must be {expected}, got {value!r}')}$"):
            check("patience", value, **more)


def test_an_infinite_number_is_refused_where_it_would_end_as_nan():
    with pytest.raises(ValueError, match=r"^prior_labels must be finite, got inf$"):
        check_nonnegative("prior_labels", INF)


@pytest.mark.parametrize("value", ["0.5", None, True, np.True_, timedelta(1), [1], np.array([0.5]), 1j], ids=repr)
@pytest.mark.parametrize(
    ("check", "more", "expected"),
    [
        (check_count, {}, "a whole number"),
        (check_at_least, {"low": 0}, "a number of at least 0"),
        (check_share, {}, "a number between 0 and 1"),
        (check_share, {"whole": True}, "a number above 0 and at most 1"),
        (check_rate, {}, "a number of at least 0 and below 1"),
        (check_positive, {}, "a finite number above 0"),
    ],
)
def test_what_is_no_number_is_refused_by_name(check, more, expected, value):
    with pytest.raises(ValueError, match=f"^{re.escape(f'patience must be {expected}, got {value!r}')}$"):
        check("patience", value, **more)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("brand", "columns must be a sequence of columns, got 'brand': put it in a list"),
        (None, "columns must be a sequence of columns, got None: give a list; [] names none"),
        (3, "columns must be a sequence of columns, got 3: give a list; [] names none"),
        ({"brand": 1}, "columns must be a sequence of columns, got {'brand': 1}: give a list; [] names none"),
        (b"brand", "columns must be a sequence of columns, got b'brand': give a list; [] names none"),
        (["brand", 3], "columns must name columns by text, got 3"),
    ],
)
def test_names_come_in_a_list(value, message):
    with pytest.raises(TypeError, match=f"^{re.escape(message)}$"):
        check_names("columns", value)


@dataclass
class Plain:
    share: float = 0.5


@pytest.mark.parametrize("value", [NAN, INF])
def test_a_number_without_a_rule_of_its_own_is_finite(value):
    check_fields(Plain())
    with pytest.raises(ValueError, match=f"^share must be a finite number, got {value}$"):
        check_fields(Plain(value))
