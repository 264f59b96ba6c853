"""Equal rows of a long table, and rows that a given split has on both sides."""

from dataclasses import replace

import numpy as np
import pytest

from tabmtl.base.schema import Batch, TabmtlWarning
from tabmtl.columns import Features
from tabmtl.model_selection import repeats
from tabmtl.model_selection.repeats import SeenRows, group_equal_rows, warn_of_shared_rows

RNG = np.random.default_rng(0)


def rows(x_num, task=None, x_cat=None) -> Batch:
    n = len(x_num)
    codes = np.zeros((n, 0), dtype=np.int32) if x_cat is None else x_cat.astype(np.int32)
    y = np.zeros((n, 1))
    return Batch(
        x=Features(numbers=x_num.astype(np.float32), codes=codes), y=y, task=None if task is None else np.asarray(task)
    )


def patients(n=500):
    """Two rows a patient, under two tasks, in any order."""
    x = np.repeat(RNG.normal(size=(n, 3)), 2, axis=0)
    order = RNG.permutation(2 * n)
    return rows(x[order], np.tile([0, 1], n)[order]), np.repeat(np.arange(n), 2)[order]


def test_rows_of_a_patient_belong_together():
    batch, patient = patients()
    group = group_equal_rows(batch)
    assert group.max() == patient.max()
    assert len(np.unique(group * 1_000 + patient)) == patient.max() + 1


def test_numbers_and_codes_both_tell_rows_apart():
    x, cat = np.repeat(RNG.normal(size=(50, 1)), 4, axis=0), np.tile([[2], [2], [3], [3]], (50, 1))
    group = group_equal_rows(rows(x, np.tile([0, 1], 100), cat))
    np.testing.assert_array_equal(group[::2], group[1::2])
    assert group.max() == 99


def test_missing_and_signed_zero_are_equal_to_themselves():
    x = np.repeat(RNG.normal(size=(50, 2)), 2, axis=0)
    x[:2, 0], x[2, 0], x[3, 0] = np.nan, 0.0, -0.0
    group = group_equal_rows(rows(x, np.tile([0, 1], 50)))
    np.testing.assert_array_equal(group[::2], group[1::2])


@pytest.mark.parametrize("n_tasks", [2, 10, 100])
@pytest.mark.parametrize("n_columns", [1, 3, 6, 9])
def test_rows_that_chance_makes_equal_stand_alone(n_columns, n_tasks):
    x = RNG.integers(0, 2, (2_000, n_columns))
    assert group_equal_rows(rows(x, RNG.integers(0, n_tasks, 2_000))) is None


def test_repeats_within_tasks_stand_alone():
    """As pupils of a school do, whom the school's own columns make equal."""
    school = RNG.integers(0, 20, 1_000)
    assert group_equal_rows(rows(np.column_stack([school * 1.5, RNG.integers(0, 9, 1_000)]), school)) is None


def test_rows_without_repeats_or_tasks_stand_alone():
    x = RNG.normal(size=(100, 2))
    assert group_equal_rows(rows(x, np.tile([0, 1], 50))) is None
    assert group_equal_rows(rows(np.repeat(x, 2, axis=0))) is None


def test_a_task_that_would_be_one_group_lets_all_rows_stand_alone():
    batch, _ = patients()
    x = np.append(batch.x.numbers, np.ones((9, 3)), axis=0)
    assert group_equal_rows(rows(x, np.append(batch.task, [2] * 9))) is None


def test_a_split_that_divides_patients_is_told():
    batch, patient = patients()
    with pytest.warns(TabmtlWarning, match=r"\d\d of the 200 rows of X_val have the features of a row of X"):
        warn_of_shared_rows(batch.rows(np.arange(800)), batch.rows(np.arange(800, 1_000)))
    warn_of_shared_rows(batch.rows(patient < 400), batch.rows(patient >= 400))


def test_validation_rows_that_were_left_in_the_training_rows_are_told():
    x = RNG.normal(size=(300, 2))
    with pytest.warns(TabmtlWarning, match="50 of the 50 rows"):
        warn_of_shared_rows(rows(x), rows(x[:50]))


@pytest.mark.parametrize("n_columns", [3, 9])
@pytest.mark.parametrize("task", [None, np.tile([0, 1], 500)])
def test_rows_that_chance_makes_equal_are_not_told(n_columns, task, recwarn):
    x = RNG.integers(0, 2, (1_000, n_columns))
    batch = rows(x, task)
    warn_of_shared_rows(batch.rows(np.arange(800)), batch.rows(np.arange(800, 1_000)))
    assert not recwarn.list


@pytest.mark.parametrize(("most", "found"), [(2**20, "6000 of the 10000"), (5_000, r"about [56]\d{3} of the 10000")])
def test_rows_that_were_learned_are_known_again_by_few_of_them(most, found, monkeypatch):
    monkeypatch.setattr(repeats, "_MOST_KEPT", most)
    batches = [rows(RNG.normal(size=(6_000, 2))) for _ in range(9)]
    seen = SeenRows.of(batches[0], ["a"])
    for batch in batches[1:]:
        seen = seen.and_of(batch, ["b"])
    assert sum(len(keys) for _, keys in seen.parts) <= most
    new = rows(RNG.normal(size=(4_000, 2)))
    for batch in (batches[0], batches[8]):
        with pytest.raises(ValueError, match=f"calibrate .* {found}"):
            seen.refuse(_two_columns(Batch.join([new, batch])), ["a", "b"], "calibrate")
    seen.refuse(_two_columns(Batch.join([new, batches[8].rows(np.arange(2_000))])), ["a", "b"], "calibrate")


def _two_columns(batch: Batch) -> Batch:
    return replace(batch, y=np.column_stack([batch.y, batch.y]))


def test_too_few_rows_to_know_again_are_taken(monkeypatch):
    monkeypatch.setattr(repeats, "_MOST_KEPT", 500)
    batch = rows(RNG.normal(size=(6_000, 2)))
    SeenRows.of(batch, ["a"]).refuse(batch.rows(np.arange(20)), ["a"], "calibrate")
