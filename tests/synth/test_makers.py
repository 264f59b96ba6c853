"""What all makers keep: a seed fixes everything, generators are drawn from, and wrong arguments are named."""

import math

import numpy as np
import pytest

from tabmtl.synth import make_funnel, make_histories, make_multitab_bench, make_outlier_tasks, make_sessions

#: The maker, its options, the frames that it makes.
FUNNEL = (make_funnel, {"n_rows": 500, "n_users": 50, "n_items": 30}, ("X", "y", "expected"))
BENCH = (make_multitab_bench, {"n_samples": 500, "n_features": 6, "n_tasks": 3, "missing": 0.2}, ("X", "y"))
BINNED = (make_multitab_bench, BENCH[1] | {"categorical": {1: 4}}, ("X", "y"))
HISTORIES = (make_histories, {"n_rows": 500, "n_items": 30}, ("X", "y", "expected", "expected_without"))
SESSIONS = (make_sessions, {"n_sessions": 300, "n_items": 60}, ("clicks", "items", "births"))
OUTLIERS = (
    make_outlier_tasks,
    {"n_train": 40, "n_test": 30, "n_features": 3, "n_tasks": 5, "outlier_kind": "own", "target": "classification"},
    ("X", "y", "X_test", "y_test"),
)
every_maker = pytest.mark.parametrize(
    ("make", "options", "frames"),
    [FUNNEL, HISTORIES, BENCH, BINNED, SESSIONS, OUTLIERS],
)


def equal(first, second, frames):
    return [getattr(first, name).equals(getattr(second, name)) for name in frames]


@every_maker
def test_a_seed_fixes_everything_and_leaves_the_global_generator_alone(make, options, frames):
    state = np.random.get_state()[1].copy()
    first, second, other = (make(**options, random_state=seed) for seed in (7, 7, 8))
    np.testing.assert_array_equal(state, np.random.get_state()[1])
    assert all(equal(first, second, frames))
    assert not any(equal(first, other, frames))


@every_maker
def test_a_generator_is_drawn_from(make, options, frames):
    rng = np.random.default_rng(0)
    made = make(**options, random_state=rng)
    assert all(equal(made, make(**options, random_state=0), frames))
    first, second = (made.draw(50, random_state=rng) for _ in range(2))
    if isinstance(first, tuple):
        assert not first[0].equals(second[0])
    else:
        assert not equal(first, second, frames)[0]


@every_maker
def test_draw_checks_its_rows(make, options, frames):
    with pytest.raises(ValueError, match=r"n_\w+ must be an integer >= 1, got 0"):
        make(**options, random_state=0).draw(0)


SKEWED = [[1, 0.9, 0], [0.9, 1, 0.9], [0, 0.9, 1]]
REFUSALS = {
    make_funnel: [
        ({"skw": 1.0}, "make_funnel has no argument skw"),
        ({"n_rows": 0}, "n_rows must be an integer >= 1, got 0"),
        ({"n_users": 0}, "n_users must be an integer >= 1, got 0"),
        ({"n_items": 2.5}, "n_items must be an integer >= 1, got 2.5"),
        ({"n_categories": 0}, "n_categories must be an integer >= 1, got 0"),
        ({"n_brands": -1}, "n_brands must be an integer >= 1, got -1"),
        ({"click_rate": 0}, "click_rate must lie between 0 and 1, got 0"),
        ({"conversion_rate": math.nan}, "conversion_rate must lie between 0 and 1, got nan"),
        ({"like_rate": 1}, "like_rate must lie between 0 and 1, got 1"),
        ({"long_view_rate": -0.1}, "long_view_rate must lie between 0 and 1, got -0.1"),
        ({"conversion_rate": 0.1}, "of all impressions and must be below click_rate=0.1, got 0.1"),
        ({"unclicked": "drop"}, "unclicked must be one of zero, null, got 'drop'"),
        ({"shared": 1.1}, r"shared must lie in \[0, 1\], got 1.1"),
        ({"group_correlation": -2}, r"group_correlation must lie in \[-1, 1\], got -2"),
        ({"selection": 1.5}, r"selection must lie in \[-0.28, 1\] for shared=0.6 and .*=0.0, got 1.5"),
        ({"selection": -0.5}, r"selection must lie in \[-0.28, 1\] .*, got -0.5"),
        ({"selection": math.nan}, "selection must lie in .*, got nan"),
        ({"spread": 11}, r"spread must lie in \[0, 10\], got 11"),
        ({"interaction": -0.1}, r"interaction must lie in \[0, 1\], got -0.1"),
        ({"position_bias": math.inf}, r"position_bias must lie in \[0, 10\], got inf"),
        ({"skew": -1}, r"skew must lie in \[0, 10\], got -1"),
        ({"missing": math.nan}, r"missing must lie in \[0, 1\], got nan"),
    ],
    make_histories: [
        ({"n_rows": 0}, "n_rows must be an integer >= 1, got 0"),
        ({"n_items": 2.5}, "n_items must be an integer >= 1, got 2.5"),
        ({"n_groups": 31}, "n_groups must be at most n_items=30, got 31"),
        ({"mean_length": -1}, r"mean_length must lie in \[0, 1000\], got -1"),
        ({"strength": math.nan}, r"strength must lie in \[0, 10\], got nan"),
        ({"half_life": -1}, r"half_life must lie in \[0, inf\], got -1"),
        ({"missing": 1.5}, r"missing must lie in \[0, 1\], got 1.5"),
    ],
    make_multitab_bench: [
        ({"standardise": True}, "standardise"),
        ({"n_features": 2}, "n_features must be at least n_tasks, got 2 features for 3 tasks"),
        ({"n_samples": 0}, "n_samples must be an integer >= 1, got 0"),
        ({"n_tasks": 2.5}, "n_tasks must be an integer >= 1, got 2.5"),
        ({"correlation": -0.6}, r"correlation must lie in \[-0.5, 1\] for 3 tasks, got -0.6"),
        ({"correlation": 1.01}, r"in \[-0.5, 1\] for 3 tasks, got 1.01"),
        ({"correlation": math.nan}, "got nan"),
        ({"correlation": np.eye(2)}, r"of shape \(3, 3\), got shape \(2, 2\)"),
        ({"correlation": SKEWED}, "positive semidefinite, got the eigenvalue -0.27"),
        ({"correlation": np.eye(3) + 0.1 * np.eye(3, k=1)}, "symmetric, got mirrored entries 0.1 apart"),
        ({"correlation": 2 * np.eye(3)}, "ones on its diagonal, got"),
        ({"correlation": np.diag([1, 1, np.inf])}, "must be finite"),
        ({"degrees": 0}, "task y0: degrees must be an integer >= 1, got 0"),
        ({"degrees": [1, 2, 2.5]}, "task y2: degrees must be an integer >= 1, got 2.5"),
        ({"degrees": [1, 2]}, "degrees must hold 3 values, one per task, got 2"),
        ({"noise": [0.1, -1, 0]}, "task y1: noise must be a finite number >= 0, got -1"),
        ({"noise": [0.1] * 4}, "noise must hold 3 values, one per task, got 4"),
        ({"noise": math.inf}, "task y0: noise must be a finite number >= 0, got inf"),
        ({"task_kinds": "ordinal"}, "task y0: task_kinds must be 'regression', 'binary'"),
        ({"task_kinds": ["binary"]}, "task_kinds must hold 3 values, one per task, got 1"),
        ({"task_kinds": "multiclass", "n_classes": 2}, "task y0: n_classes must be an integer >= 3"),
        (
            {"task_kinds": "multiclass", "n_samples": 2},
            "3 classes need as many rows or more, got n_samples=2",
        ),
        ({"missing": 1.0}, r"task y0: missing must be a rate in \[0, 1\), got 1.0"),
        ({"missing": [0.1, 0.1]}, "missing must hold 3 values, one per task, got 2"),
        ({"categorical": {5: 3}}, r"categorical: a feature lies in 0..4, got 5"),
        ({"categorical": {1: 1}}, "feature x1 needs an integer >= 2 of bins, got 1"),
        ({"chain": [0, 3]}, r"positions 0..2, got \(0, 3\)"),
        ({"chain": [0, 0]}, "chain must name different tasks"),
        ({"chain": [0, 1]}, "task y0: a task that others of the chain wait for must be 'binary'"),
        ({"weights": np.eye(3)}, r"weights must have the shape \(3, 5\)"),
        ({"weights": np.ones((3, 5))}, "rows of length 1"),
    ],
    make_sessions: [
        ({"skw": 1.0}, "make_sessions has no argument skw"),
        ({"n_sessions": 0}, "n_sessions must be an integer >= 1, got 0"),
        ({"n_items": 2.5}, "n_items must be an integer >= 1, got 2.5"),
        ({"n_categories": 0}, "n_categories must be an integer >= 1, got 0"),
        ({"n_categories": 61}, "n_categories must be at most n_items=60, got 61"),
        ({"n_subcategories": 101}, "n_subcategories must be at most 100, got 101"),
        ({"n_brands": -1}, "n_brands must be an integer >= 1, got -1"),
        ({"n_tags": 0}, "n_tags must be an integer >= 1, got 0"),
        ({"cold_share": -0.1}, r"cold_share must lie in \[0, 1\], got -0.1"),
        (
            {"cold_share": 0.9},
            "cold_share must leave an item .* 10 categories: at most 0.833 .*, got 0.9",
        ),
        ({"repeat_rate": 1.1}, r"repeat_rate must lie in \[0, 1\], got 1.1"),
        ({"idiosyncratic": math.nan}, r"idiosyncratic must lie in \[0, 5\], got nan"),
        ({"metadata_noise": 2}, r"metadata_noise must lie in \[0, 1\], got 2"),
        ({"missing": -1}, r"missing must lie in \[0, 1\], got -1"),
        ({"test_share": 0}, r"test_share must lie in \[0.001, 0.999\], got 0"),
        ({"mean_length": 1.5}, r"mean_length must lie in \[2, 100\], got 1.5"),
        ({"n_days": 0}, r"n_days must lie in \[0.01, 10000\], got 0"),
        ({"stickiness": 1.5}, r"stickiness must lie in \[0, 1\], got 1.5"),
        ({"skew": 6}, r"skew must lie in \[0, 5\], got 6"),
        ({"price_affinity": math.inf}, r"price_affinity must lie in \[0, 10\], got inf"),
    ],
    make_outlier_tasks: [
        ({"comon": 0.5}, "comon"),
        ({"n_train": 0}, "n_train must be an integer >= 1, got 0"),
        ({"n_test": -1}, "n_test must be an integer >= 0, got -1"),
        ({"n_features": 2.0}, "n_features must be an integer >= 1, got 2.0"),
        ({"n_tasks": 0}, "n_tasks must be an integer >= 1, got 0"),
        ({"n_outliers": -1}, "n_outliers must be an integer >= 0, got -1"),
        ({"n_outliers": 5}, "n_outliers must be below n_tasks=5, got 5"),
        ({"outlier_kind": "odd"}, "outlier_kind must be one of shared, own, .*, noisy, got 'odd'"),
        ({"target": "binary"}, "target must be one of regression, classification, got 'binary'"),
        ({"target": "classification", "outlier_kind": "shifted"}, "outlier_kind='shifted' is defined for"),
        ({"target": "classification", "outlier_kind": "noisy"}, "outlier_kind='noisy' is defined for"),
        ({"strength": 1.1}, r"strength must lie in \[0, 1\], got 1.1"),
        ({"common": math.nan}, r"common must lie in \[0, 1\], got nan"),
        ({"noise": math.inf}, "noise must be a finite number >= 0, got inf"),
        ({"n_train": 1, "n_test": 0, "target": "classification"}, "target='classification': none of 1000 draws"),
    ],
}
SMALL = {
    make_funnel: FUNNEL[1] | {"group_correlation": 0.0},
    make_histories: HISTORIES[1],
    make_multitab_bench: {"n_samples": 10, "n_features": 5, "n_tasks": 3},
    make_sessions: SESSIONS[1],
    make_outlier_tasks: {"n_train": 40, "n_test": 30, "n_features": 3, "n_tasks": 5},
}


@pytest.mark.parametrize(
    ("make", "options", "message"), [(make, *case) for make, cases in REFUSALS.items() for case in cases]
)
def test_wrong_arguments_say_what_was_expected_and_what_came(make, options, message):
    with pytest.raises((TypeError, ValueError), match=message):
        make(**SMALL[make] | {"random_state": 0} | options)
