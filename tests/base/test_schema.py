"""Words to the user: a warning about columns and tasks is given once in a process."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import numpy as np
import polars as pl
import pytest

from tabmtl import FewLabelsWarning, IdColumnWarning, SharedTrees, compare
from tabmtl.base.schema import TabmtlWarning, unsaid, warn_about, warn_user

RNG = np.random.default_rng(0)
X = pl.DataFrame({"a": RNG.normal(size=300), "name": [f"n{row}" for row in range(300)]})
Y = pl.DataFrame({"y": X["a"] + RNG.normal(size=300), "few": [*RNG.normal(size=9), *[None] * 291]})


def trees(n_estimators: int = 1) -> SharedTrees:
    return SharedTrees(n_estimators=n_estimators, n_estimators_task=5, random_state=0)


@contextmanager
def all_said() -> Iterator[list[warnings.WarningMessage]]:
    with warnings.catch_warnings(record=True, action="always") as found:
        yield found


def test_fits_of_parts_of_a_table_warn_of_a_column_once():
    with all_said() as found:
        for n in (300, 250, 200):
            trees().fit(X[:n], Y[:n])
        compare([trees(), trees(2)], X, Y, random_state=0)
    told = [each.category for each in found if each.category in (IdColumnWarning, FewLabelsWarning)]
    assert sorted(told, key=str) == [FewLabelsWarning, IdColumnWarning]
    assert {each.filename for each in found} == {__file__}
    with all_said() as found:
        trees().fit(X.rename({"name": "other"}), Y)
    assert [each.category for each in found] == [IdColumnWarning]


def test_other_names_other_words_and_other_categories_are_other_warnings():
    with all_said() as found:
        for names, message, category in [
            (["x1"], "x1 has 1,000 values", TabmtlWarning),
            (["x1"], "x1 has 20 values", TabmtlWarning),
            (["x2"], "x2 has 20 values", TabmtlWarning),
            (["x1"], "x1 is empty", TabmtlWarning),
            (["x1"], "x1 has 1,000 values", IdColumnWarning),
        ]:
            warn_about(names, message, category)
    assert [str(each.message) for each in found] == [
        "x1 has 1,000 values",
        "x2 has 20 values",
        "x1 is empty",
        "x1 has 1,000 values",
    ]


def test_a_warning_that_was_raised_or_left_unsaid_is_still_to_come():
    with unsaid():
        warn_about(["x"], "x is empty")
        warn_user("y is empty")
    for _ in range(2):
        with warnings.catch_warnings(action="error"), pytest.raises(TabmtlWarning):
            warn_about(["x"], "x is empty")
    with all_said() as found:
        warn_about(["x"], "x is empty")
        warn_about(["x"], "x is empty")
    assert [str(each.message) for each in found] == ["x is empty"]


def test_a_warning_that_a_filter_hides_counts_as_given():
    with warnings.catch_warnings(action="ignore"):
        warn_about(["x"], "x is empty")
    with all_said() as found:
        warn_about(["x"], "x is empty")
    assert not found


def test_threads_lose_no_warning_and_leave_filters_as_they_are():
    def warn(t: int) -> None:
        for name in range(50):
            warn_about([f"x{name}"], f"column of {t} threads is empty")
            with unsaid():
                warn_user(f"thread {t} says nothing")
            warn_user(f"thread {t} says something")

    with all_said() as found:
        state = warnings.filters, warnings.showwarning
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(warn, range(8)))
        assert (warnings.filters, warnings.showwarning) == state
    said = Counter(str(each.message).partition(" ")[0] for each in found)
    assert said == {"column": 50, "thread": 400}
