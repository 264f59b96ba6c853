"""Folds hold every task and class whatever y is, and the scorer works in scikit-learn's tools."""

import math
import pickle

import numpy as np
import pandas as pd
import polars as pl
import pytest
import sklearn
from hypothesis import given
from hypothesis import strategies as st
from sklearn.base import BaseEstimator, clone
from sklearn.model_selection import GridSearchCV, check_cv, cross_val_score, cross_validate
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

from tabmtl.base.schema import TabmtlWarning
from tabmtl.model_selection.folds import MultiTaskKFold, make_multitask_scorer
from tabmtl.targets import Task

BANDS = ["low", "mid", "high"]


class FakeMultitask(BaseEstimator):
    """Scores are its parameter, the rows it is given, and what it cannot score."""

    def __init__(self, level=0.0):
        self.level = level

    def fit(self, X, y):
        self.n_fit_ = len(X)
        return self

    def predict(self, X):
        return np.zeros(len(X))

    def score_tasks(self, X, y, sample_weight=None):
        weight = 1.0 if sample_weight is None else float(np.mean(sample_weight))
        return {"late": self.level * weight, "rows": float(len(y)), "void": None}


def some_targets(n, seed=0):
    """Mixed targets with holes and rows without any label; "yes" is in 1 % of the rows, half of them labelled."""
    rng = np.random.default_rng(seed)
    late = np.where(np.arange(n) % 100 == 7, "yes", "no")
    frame = pl.DataFrame(
        {
            "late": late,
            "band": rng.choice(BANDS, size=n, p=[0.7, 0.2, 0.1]),
            "delay": rng.normal(size=n),
        }
    )
    holes = {name: pl.Series(rng.random(n) < share) for name, share in {"band": 0.3, "delay": 0.8}.items()}
    unlabelled = pl.Series((np.arange(n) // 100) % 2 == 1)
    return frame.with_columns(
        pl.when(~unlabelled).then(pl.col("late")),
        *(pl.when(~hole & ~unlabelled).then(pl.col(name)).alias(name) for name, hole in holes.items()),
    )


CONTAINERS = {
    "polars": lambda frame: frame,
    "pandas": lambda frame: frame.to_pandas(),
    "pyarrow": lambda frame: frame.to_arrow(),
    "object array": lambda frame: frame.to_pandas().to_numpy(dtype=object),
}


def check_partition(folds, n):
    tests = np.concatenate([test for _, test in folds])
    assert np.array_equal(np.sort(tests), np.arange(n))
    for train, test in folds:
        assert np.array_equal(np.sort([*train, *test]), np.arange(n))
        assert np.all(np.diff(train) > 0) and np.all(np.diff(test) > 0)


@pytest.mark.parametrize("container", CONTAINERS)
def test_every_fold_holds_every_task_and_class(container):
    frame = some_targets(2000)
    y = CONTAINERS[container](frame)
    folds = list(MultiTaskKFold(5, random_state=0).split(np.zeros((2000, 1)), y))
    check_partition(folds, 2000)
    assert {len(test) for _, test in folds} <= set(range(396, 405))
    for _, test in folds:
        part = frame[test]
        assert part["late"].value_counts().filter(pl.col("late") == "yes")["count"].item() == 2
        assert set(part["band"].drop_nulls()) == set(BANDS)
        assert part["delay"].count() == pytest.approx(frame["delay"].count() / 5, abs=3)


def test_the_container_does_not_matter():
    frame = some_targets(800)
    folds = [
        [test.tolist() for _, test in MultiTaskKFold(3, random_state=5).split(frame, make(frame))]
        for make in CONTAINERS.values()
    ]
    assert all(fold == folds[0] for fold in folds)


@given(st.integers(0, 2**32 - 1), st.integers(2, 5), st.integers(0, 120), st.booleans())
def test_folds_are_a_partition_with_every_class_that_has_enough_rows(seed, n_splits, extra, shuffle):
    rng = np.random.default_rng(seed)
    n = 4 * n_splits + extra
    label = np.repeat(["a", "b"], [n_splits, n - n_splits]).astype(object)
    value = rng.normal(size=n)
    value[rng.permutation(n)[: n - n_splits]] = np.nan
    order = rng.permutation(n)
    y = pl.DataFrame({"label": label[order].tolist(), "value": value[order]}, nan_to_null=True)
    splitter = MultiTaskKFold(n_splits, shuffle=shuffle, random_state=seed if shuffle else None)
    folds = list(splitter.split(y, y))
    check_partition(folds, n)
    sizes = [len(test) for _, test in folds]
    assert max(sizes) - min(sizes) <= 3
    for _, test in folds:
        assert (y[test]["label"] == "a").sum() == 1
        assert y[test]["value"].count() == 1


def test_series_and_flat_arrays_are_one_task():
    labels = np.array([1.0, 0, 0, 0, 1, 0, 0, 1, 0, math.nan])
    for y in (labels, pl.Series("late", labels), pd.Series(labels)):
        for _, test in MultiTaskKFold(3, random_state=0).split(labels, y):
            assert np.nansum(labels[test]) == 1


def test_declared_kinds_beat_inferred_ones():
    y = pl.DataFrame({"stars": [1, 2, 3] * 10})
    with pytest.warns(TabmtlWarning, match="tasks="):
        list(MultiTaskKFold(2, random_state=0).split(y, y))
    for tasks in ({"stars": "multiclass"}, [Task(name="stars", kind="multiclass")]):
        for _, test in MultiTaskKFold(5, random_state=0, tasks=tasks).split(y, y):
            assert sorted(y[test]["stars"]) == [1, 1, 2, 2, 3, 3]


@given(st.integers(0, 2**32 - 1), st.integers(2, 4), st.booleans())
def test_groups_are_never_split(seed, n_splits, shuffle):
    rng = np.random.default_rng(seed)
    names = rng.permutation([f"g{i}" for i in range(n_splits + int(rng.integers(0, 20)))])
    groups = np.concatenate([names, rng.choice(names, size=60)])
    y = pl.DataFrame({"value": np.where(rng.random(len(groups)) < 0.3, np.nan, 1.0 + rng.random(len(groups)))})
    splitter = MultiTaskKFold(
        n_splits, shuffle=shuffle, random_state=seed if shuffle else None, tasks={"value": "regression"}
    )
    folds = list(splitter.split(y, y, groups=groups))
    check_partition(folds, len(groups))
    for train, test in folds:
        assert len(test)
        assert not set(groups[train]) & set(groups[test])


def test_a_column_of_x_names_the_groups():
    y = some_targets(200).select("band", "delay")
    X = pl.DataFrame({"owner": np.arange(200) % 40})
    splitter = MultiTaskKFold(3, random_state=0)
    named, given = splitter.split(X, y, groups="owner"), splitter.split(X, y, groups=X["owner"])
    for (_, test), (_, expected) in zip(named, given, strict=True):
        assert test.tolist() == expected.tolist()


def test_grouped_folds_hold_every_class_that_enough_groups_have():
    groups = np.repeat(np.arange(40), 25)
    late = np.where((groups % 8 == 3) & (np.arange(1000) % 25 == 0), "yes", "no")
    y = pl.DataFrame({"late": late, "delay": np.where(groups % 4 == 1, 1.5, np.nan)}, nan_to_null=True)
    for _, test in MultiTaskKFold(5, random_state=0).split(y, y, groups=pl.Series(groups)):
        assert len(test) == 200
        assert (y[test]["late"] == "yes").sum() == 1
        assert y[test]["delay"].count() == 50


def test_long_tables_spread_every_task():
    school = ["north", "south", "east"] * 2 + ["west"] * 50
    X = pl.DataFrame({"school": school, "x": np.arange(56.0)})
    y = pl.Series("mark", np.linspace(0.5, 9.5, 56))
    for _, test in MultiTaskKFold(2, random_state=0, task_column="school").split(X, y):
        assert sorted(set(X[test]["school"])) == ["east", "north", "south", "west"]
        assert len(test) == 28
    with pytest.raises(ValueError, match=r"that X does not have: \['town'\]; X has \['school', 'x'\]"):
        list(MultiTaskKFold(2, task_column="town").split(X, y))


def test_the_seed_decides_and_leaves_the_global_generator_alone():
    y = some_targets(800)

    def first_test(**parameters):
        return next(MultiTaskKFold(3, **parameters).split(y, y))[1].tolist()

    before = np.random.get_state()[1].tolist()
    assert first_test(random_state=1) == first_test(random_state=1) != first_test(random_state=2)
    assert first_test(shuffle=False) == first_test(shuffle=False)
    assert first_test() != first_test()
    seeded = [first_test(random_state=np.random.RandomState(4)) for _ in range(2)]
    assert seeded[0] == seeded[1]
    assert np.random.get_state()[1].tolist() == before


def test_too_few_labels_are_said_by_task_and_class():
    y = pl.DataFrame({"late": ["yes", *["no"] * 19], "delay": [0.5, 1.5, 2.5, *[None] * 17]})
    with pytest.warns(TabmtlWarning, match=r"5 folds.*task 'late' class 'yes' \(1 rows\).*task 'delay' \(3 rows\)"):
        folds = list(MultiTaskKFold(5, random_state=0).split(y, y))
    check_partition(folds, 20)


def test_errors_name_what_came_and_the_cure():
    y = pl.DataFrame({"late": ["a", "b", "a"]})
    with pytest.raises(ValueError, match="more than the 3 rows; use at most 3"):
        list(MultiTaskKFold(5).split(y, y))
    with pytest.raises(ValueError, match="more than the 2 groups"):
        list(MultiTaskKFold(3).split(y, y, groups=[1, 1, 2]))
    with pytest.raises(ValueError, match="got y=None"):
        list(MultiTaskKFold(3).split(y))
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        list(MultiTaskKFold(2).split(y, y, groups=[1, 2]))
    with pytest.raises(ValueError, match=r"groups names the column 'lat', which X lacks.*near is 'late'"):
        list(MultiTaskKFold(2).split(y, y, groups="lat"))
    with pytest.raises(ValueError, match="at least 2, got 1"):
        MultiTaskKFold(1)
    with pytest.raises(ValueError, match="no effect without shuffle"):
        MultiTaskKFold(shuffle=False, random_state=0)


def test_splitter_is_a_scikit_learn_splitter():
    splitter = MultiTaskKFold(3, random_state=0, tasks={"late": "binary"})
    assert check_cv(splitter) is splitter
    assert splitter.get_n_splits() == 3
    assert repr(splitter).startswith("MultiTaskKFold(n_splits=3, random_state=0, shuffle=True,")
    assert repr(pickle.loads(pickle.dumps(splitter))) == repr(splitter)


@pytest.mark.parametrize("container", ["polars", "pandas"])
def test_cross_validate_scores_every_task(container):
    y = CONTAINERS[container](some_targets(600))
    X = CONTAINERS[container](pl.DataFrame({"x": np.arange(600.0)}))
    results = cross_validate(
        FakeMultitask(0.5),
        X,
        y,
        cv=MultiTaskKFold(3, random_state=0),
        scoring=make_multitask_scorer(per_task=True),
        error_score="raise",
    )
    assert results["test_late"].tolist() == [0.5] * 3
    assert results["test_rows"].sum() == 600
    assert np.isnan(results["test_void"]).all()
    assert results["test_mean"] == pytest.approx((0.5 + results["test_rows"]) / 2)


def test_groups_pass_with_and_without_metadata_routing():
    y = some_targets(400)
    groups = np.arange(400) // 100
    splitter, scorer = MultiTaskKFold(4, random_state=0), make_multitask_scorer(task="rows")
    with pytest.warns(TabmtlWarning, match="not each of the 4 folds"):
        scores = cross_val_score(FakeMultitask(), y, y, cv=splitter, scoring=scorer, groups=groups)
    assert scores.tolist() == [100.0] * 4
    with sklearn.config_context(enable_metadata_routing=True):
        weighted = make_multitask_scorer(task="late").set_score_request(sample_weight=True)
        estimator = FakeMultitask(1.0)
        params = {"groups": groups, "sample_weight": np.full(400, 3.0)}
        with pytest.warns(TabmtlWarning, match="not each of the 4 folds"):
            scores = cross_val_score(estimator, y, y, cv=splitter, scoring=weighted, params=params)
    assert scores.tolist() == [3.0] * 4


def test_grid_search_refits_on_the_mean():
    y = some_targets(400)
    search = GridSearchCV(
        FakeMultitask(),
        {"level": [0.1, 0.9, 0.4]},
        scoring=make_multitask_scorer(per_task=True),
        refit="mean",
        cv=MultiTaskKFold(2, random_state=0),
    )
    with pytest.warns(UserWarning, match="test scores are non-finite"):
        search.fit(y, y)
    assert search.best_params_ == {"level": 0.9}
    assert search.best_estimator_.n_fit_ == 400
    assert make_multitask_scorer(task="late")(search, y, y) == 0.9


def test_scorer_answers_mean_one_task_or_all():
    estimator, y = FakeMultitask(0.25), [0.0] * 4
    assert make_multitask_scorer()(estimator, y, y) == pytest.approx((0.25 + 4.0) / 2)
    assert make_multitask_scorer()(estimator, y, y, sample_weight=[2.0] * 4) == pytest.approx((0.5 + 4.0) / 2)
    assert make_multitask_scorer(task="late")(estimator, y, y) == 0.25
    assert math.isnan(make_multitask_scorer(task="void")(estimator, y, y))
    scores = make_multitask_scorer(per_task=True)(estimator, y, y)
    assert list(scores) == ["late", "rows", "void", "mean"]


def test_scorer_reaches_into_pipelines():
    first_row = FunctionTransformer(lambda X: X[:, :1])
    pipeline = make_pipeline(first_row, FakeMultitask(0.5)).fit(np.zeros((4, 2)), np.zeros(4))
    assert make_multitask_scorer(task="late")(pipeline, np.zeros((4, 2)), np.zeros(4)) == 0.5


def test_scorer_can_be_pickled_cloned_and_read():
    scorer = make_multitask_scorer(per_task=True)
    assert repr(scorer) == "MultitaskScorer(per_task=True)"
    assert repr(pickle.loads(pickle.dumps(scorer))) == repr(clone(scorer)) == repr(scorer)


def test_scorer_refuses_what_it_cannot_score():
    with pytest.raises(ValueError, match="both"):
        make_multitask_scorer(per_task=True, task="late")
    with pytest.raises(ValueError, match=r"one of \['late', 'rows', 'void'\], got 'cancelled'"):
        make_multitask_scorer(task="cancelled")(FakeMultitask(), [0.0], [0.0])
    with pytest.raises(TypeError, match=r"FunctionTransformer; wrap .* IndependentTasks"):
        make_multitask_scorer()(FunctionTransformer(), [0.0], [0.0])
