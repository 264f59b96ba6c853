"""Folds and the split for early stopping share out tasks of which hardly any row is positive."""

import numpy as np
import polars as pl
import pytest

from tabmtl.base.schema import TabmtlWarning
from tabmtl.model_selection.folds import MultiTaskKFold
from tabmtl.model_selection.stratify import train_valid_split
from tabmtl.targets import Task

N_ROWS = 20_000


def rare_labels(rng, n, n_positive, n_labelled=None):
    """Labels 0 and 1 with a given number of 1, the others missing."""
    y = np.full(n, np.nan)
    y[: n_labelled or n] = 0
    y[:n_positive] = 1
    return rng.permutation(y)


def rare_targets(seed, n=N_ROWS):
    """Tasks with 20 and 5 positive rows beside a frequent one, classes with a rare one, and a sparse regression."""
    rng = np.random.default_rng(seed)
    columns = {
        "fraud": rare_labels(rng, n, 20, n),
        "death": rare_labels(rng, n, 5, int(0.7 * n)),
        "click": rare_labels(rng, n, n // 5, int(0.9 * n)),
        "band": rng.choice([0.0, 1.0, 2.0], size=n, p=[0.9, 0.095, 0.005]),
        "delay": np.where(rng.random(n) < 0.8, np.nan, rng.normal(size=n)),
    }
    return pl.DataFrame(columns, nan_to_null=True)


def shares(folds, labels):
    """BinnedRows of a label in the test rows of each fold."""
    positive = (labels == 1).fill_null(False).to_numpy()
    return [int(positive[test].sum()) for _, test in folds]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("grouped", [False, True])
def test_wide_folds_share_out_every_positive_row(seed, grouped):
    y = rare_targets(seed)
    groups = np.random.default_rng(100 + seed).permutation(N_ROWS) // 5 if grouped else None
    folds = list(MultiTaskKFold(5, random_state=seed, tasks={"band": "multiclass"}).split(y, y, groups=groups))
    assert shares(folds, y["fraud"]) == [4] * 5
    assert shares(folds, y["death"]) == [1] * 5
    assert max(shares(folds, y["click"])) - min(shares(folds, y["click"])) <= (10 if grouped else 2)
    sizes = [len(test) for _, test in folds]
    assert max(sizes) - min(sizes) <= 5


@pytest.mark.parametrize("n_positive", [7, 11, 23])
def test_shares_differ_by_one_row_at_most(n_positive):
    rng = np.random.default_rng(n_positive)
    y = pl.DataFrame({"fraud": rare_labels(rng, 5_000, n_positive), "late": rare_labels(rng, 5_000, 1_500, 3_000)})
    y = y.fill_nan(None)
    for groups in (None, rng.permutation(5_000) // 2):
        counts = shares(list(MultiTaskKFold(5, random_state=0).split(y, y, groups=groups)), y["fraud"])
        assert max(counts) - min(counts) == 1


@pytest.mark.parametrize("grouped", [False, True])
def test_long_folds_share_out_the_positive_rows_of_every_task(grouped):
    rng = np.random.default_rng(0)
    n_positive = {"a": 5, "b": 20, "c": 5, "d": 2_000}
    parts = [
        pl.DataFrame({"shop": shop, "fraud": rare_labels(rng, 5_000, count)}) for shop, count in n_positive.items()
    ]
    table = pl.concat(parts).sample(fraction=1, shuffle=True, seed=0)
    groups = rng.permutation(N_ROWS) // 4 if grouped else None
    splitter = MultiTaskKFold(5, random_state=0, task_column="shop")
    folds = list(splitter.split(table.select("shop"), table["fraud"], groups=groups))
    for shop in "abc":
        own = table.select(pl.when(pl.col("shop") == shop).then("fraud"))["fraud"]
        assert shares(folds, own) == [n_positive[shop] // 5] * 5


def test_tasks_that_share_their_positive_rows_are_shared_out_as_well():
    rng = np.random.default_rng(0)
    fraud = rare_labels(rng, N_ROWS, 20)
    charge = np.zeros(N_ROWS)
    charge[rng.choice(np.flatnonzero(fraud), 5, replace=False)] = 1
    y = pl.DataFrame({"fraud": fraud, "charge": charge, "copy": fraud})
    folds = list(MultiTaskKFold(5, random_state=0).split(y, y))
    assert [shares(folds, y[name]) for name in y.columns] == [[4] * 5, [1] * 5, [4] * 5]


@pytest.mark.parametrize("groups", [None, np.repeat(np.arange(N_ROWS // 10), 10)])
def test_fewer_positive_rows_than_folds_are_said(groups):
    rng = np.random.default_rng(0)
    y = pl.DataFrame({"fraud": rare_labels(rng, N_ROWS, 4), "late": rare_labels(rng, N_ROWS, 2_000)})
    with pytest.warns(TabmtlWarning, match=r"not each of the 5 folds.*task 'fraud' class 1\.0 \(4 rows\); use fewer"):
        folds = list(MultiTaskKFold(5, random_state=0).split(y, y, groups=groups))
    assert sorted(shares(folds, y["fraud"])) == [0, 1, 1, 1, 1]


def test_positive_rows_of_fewer_groups_than_folds_are_said():
    fraud = np.zeros(1_000)
    fraud[:20] = 1
    y = pl.DataFrame({"fraud": fraud})
    with pytest.warns(TabmtlWarning, match=r"task 'fraud' class 1\.0 \(20 rows\).*smaller groups"):
        folds = list(MultiTaskKFold(5, random_state=0).split(y, y, groups=np.arange(1_000) // 10))
    assert sorted(shares(folds, y["fraud"])) == [0, 0, 0, 10, 10]


@pytest.mark.parametrize("fraction", [0.05, 0.1, 0.2, 0.5])
@pytest.mark.parametrize("seed", range(3))
def test_both_sides_of_the_split_keep_positive_rows(fraction, seed):
    targets = rare_targets(seed)
    binary = {name: Task(name=name, kind="binary", classes=(0, 1)) for name in ("fraud", "death", "click")}
    band = Task(name="band", kind="multiclass", classes=(0, 1, 2))
    tasks = [*binary.values(), band, Task(name="delay", kind="regression")]
    y = targets.to_numpy()
    train, valid = train_valid_split(y, tasks, fraction, np.random.default_rng(seed))
    assert (y[valid, 0] == 1).sum() == 20 * fraction
    assert (y[valid, 1] == 1).sum() == pytest.approx(max(1, 5 * fraction), abs=0.5)
    assert (y[train, 1] == 1).sum() + (y[valid, 1] == 1).sum() == 5
    assert len(valid) == pytest.approx(N_ROWS * fraction, abs=3)


def test_both_sides_of_the_split_keep_positive_rows_of_every_long_task():
    rng = np.random.default_rng(0)
    tasks = [Task(name=name, kind="binary", classes=(0, 1)) for name in "abc"]
    y = np.concatenate([rare_labels(rng, 5_000, count) for count in (2, 5, 50)])[:, None]
    task = np.repeat([0, 1, 2], 5_000)
    for fraction, expected in ((0.1, [1, 1, 5]), (0.3, [1, 2, 15])):
        valid = train_valid_split(y, tasks, fraction, np.random.default_rng(1), task)[1]
        counts = [int(y[valid][task[valid] == t].sum()) for t in range(3)]
        assert counts == pytest.approx(expected, abs=1) and counts[0] == 1 and counts[2] == expected[2]
