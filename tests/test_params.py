"""Checks of hyper-parameters: what passes, and that a message names parameter, expectation and value."""

import re
from dataclasses import dataclass
from datetime import timedelta
from fractions import Fraction

import numpy as np
import pytest

from tabmtl.params import (
    check_at_least,
    check_choice,
    check_count,
    check_fields,
    check_names,
    check_positive,
    check_rate,
    check_share,
)

NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("check", "value", "more"),
    [
        (check_count, 1, {}),
        (check_count, np.int32(7), {}),
        (check_count, 0, {"low": 0}),
        (check_count, 2**63 - 1, {}),
        (check_at_least, 0, {"low": 0}),
        (check_at_least, INF, {"low": 2.5}),
        (check_share, 0.001, {}),
        (check_share, np.float32(0.5), {}),
        (check_share, 1, {"whole": True}),
        (check_rate, 0, {}),
        (check_rate, np.float64(0.999), {}),
        (check_positive, 1e-300, {}),
        (check_positive, Fraction(1, 3), {}),
        (check_names, [], {}),
        (check_names, ("a", "b"), {}),
        (check_names, np.array(["a"]), {}),
        (check_positive, 5, {}),
        (check_choice, "sum", {"choices": ("scale-free", "sum")}),
    ],
)
def test_good_values_pass(check, value, more):
    assert check("patience", value, **more) is None


@pytest.mark.parametrize(
    ("check", "value", "more", "message"),
    [
        (check_count, 0, {}, "patience must be at least 1, got 0"),
        (check_count, 1, {"low": 2}, "patience must be at least 2, got 1"),
        (check_count, -3, {"low": 0}, "patience must be at least 0, got -3"),
        (check_count, 10**29, {}, f"patience must be at most {2**63 - 1}, got 1{'0' * 29}"),
        (check_count, 3.0, {}, "patience must be a whole number, got 3.0"),
        (check_count, True, {}, "patience must be a whole number, got True"),
        (check_count, "3", {}, "patience must be a whole number, got '3'"),
        (check_count, None, {}, "patience must be a whole number, got None"),
        (check_at_least, -0.5, {"low": 0}, "patience must be at least 0, got -0.5"),
        (check_at_least, NAN, {"low": 0}, "patience must be at least 0, got nan"),
        (check_share, 0, {}, "patience must be between 0 and 1, got 0"),
        (check_share, 1, {}, "patience must be between 0 and 1, got 1"),
        (check_share, NAN, {}, "patience must be between 0 and 1, got nan"),
        (check_share, 1.5, {"whole": True}, "patience must be above 0 and at most 1, got 1.5"),
        (check_share, 0.0, {"whole": True}, "patience must be above 0 and at most 1, got 0.0"),
        (check_rate, 1, {}, "patience must be at least 0 and below 1, got 1"),
        (check_rate, -0.1, {}, "patience must be at least 0 and below 1, got -0.1"),
        (check_rate, NAN, {}, "patience must be at least 0 and below 1, got nan"),
        (check_positive, 0, {}, "patience must be a finite number above 0, got 0"),
        (check_positive, INF, {}, "patience must be a finite number above 0, got inf"),
        (check_positive, NAN, {}, "patience must be a finite number above 0, got nan"),
        (check_choice, "max", {"choices": ("mean", "sum")}, "patience must be one of ['mean', 'sum'], got 'max'"),
        (check_choice, None, {"choices": ["mean"]}, "patience must be one of ['mean'], got None"),
    ],
)
def test_a_bad_value_is_named_with_what_was_expected(check, value, more, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        check("patience", value, **more)


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
