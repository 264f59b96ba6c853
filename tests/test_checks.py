"""Checks of hyper-parameters: what passes, and that a message names parameter, expectation and value."""

import re

import numpy as np
import pytest

from tabmtl.checks import check_at_least, check_choice, check_count, check_positive, check_share

NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("check", "value", "more"),
    [
        (check_count, 1, {}),
        (check_count, np.int32(7), {}),
        (check_count, 0, {"low": 0}),
        (check_at_least, 0, {"low": 0}),
        (check_at_least, INF, {"low": 2.5}),
        (check_share, 0.001, {}),
        (check_share, np.float32(0.5), {}),
        (check_share, 1, {"whole": True}),
        (check_positive, 1e-300, {}),
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
