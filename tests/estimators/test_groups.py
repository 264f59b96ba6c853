"""Groups of rows: no split inside fit divides them, and a column that names them need not be a feature."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
import sklearn
from conformance import answers, features, mixed_targets, same, tiny
from sklearn.dummy import DummyRegressor
from sklearn.model_selection import GridSearchCV, GroupKFold, cross_validate
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from tabmtl import RMTGB, IndependentTasks, MultiTaskKFold, SharedBottom, Task
from tabmtl.base.schema import TabmtlWarning

X = features(240).with_columns(owner=pl.int_range(240) // 6)
Y = mixed_targets(X)
MODELS = {cls.__name__: cls for cls in (SharedBottom, RMTGB, IndependentTasks)}


@pytest.fixture
def splits(monkeypatch):
    """Groups of the two sides of every split, in order."""
    from tabmtl.estimators import rows
    from tabmtl.model_selection import train_valid_split
    from tabmtl.models.independent import choice

    found = []

    def split(y, tasks, fraction, rng, task=None, group=None):
        sides = train_valid_split(y, tasks, fraction, rng, task, group)
        found.append(None if group is None else [set(group[side]) for side in sides])
        return sides

    for module in (rows, choice):
        monkeypatch.setattr(module, "train_valid_split", split)
    monkeypatch.setattr(choice, "FEW_ROWS", 50)
    return found


@pytest.mark.parametrize("name", MODELS)
def test_no_split_in_fit_divides_a_group(name, splits):
    tiny(MODELS[name]).fit(X, Y, groups="owner")
    assert splits
    assert all(train and valid and not train & valid for train, valid in splits)


def test_other_fits_are_split_by_row(splits):
    for cls in MODELS.values():
        tiny(cls).fit(X, Y)
    assert len(splits) >= 2 + Y.width
    assert set(splits) == {None}


def patients(n: int, seed: int) -> tuple[pl.DataFrame, pl.Series]:
    """Draw a long table with two rows per patient, whose unseen state moves both labels."""
    rng = np.random.default_rng(seed)
    x, state = rng.normal(size=(n, 6)), rng.normal(size=n)
    first = x[:, 0] + np.sin(2 * x[:, 1]) + 0.5 * x[:, 2]
    second = x[:, 0] - x[:, 1] + 0.5 * x[:, 3] * x[:, 4]
    table = pl.DataFrame(np.tile(x, (2, 1)), schema=[f"x{j}" for j in range(6)])
    labels = np.append(first + 2 * state, second + 2 * state) + 0.3 * rng.normal(size=2 * n)
    order = rng.permutation(2 * n)
    return table.with_columns(task=pl.Series(np.repeat(["first", "second"], n)))[order], pl.Series("y", labels[order])


@pytest.mark.parametrize("name", MODELS)
def test_equal_rows_of_a_long_table_stay_together(name, splits):
    table, labels = patients(60, 0)
    tiny(MODELS[name], task_column="task").fit(table, labels)
    assert all(train and valid and not train & valid for train, valid in splits)


class Mean(DummyRegressor):
    """Regressor that keeps its groups."""

    def fit(self, X, y, sample_weight=None, groups=None):
        self.groups_ = groups
        return super().fit(X, y, sample_weight)


def test_other_estimators_get_groups_where_they_take_them():
    labels = Y.select(pl.when(pl.int_range(240) % 3 > 0).then("delay").alias("delay"))
    model = IndependentTasks(regressor=Mean()).fit(X, labels, groups="owner").estimators_["delay"]
    _, expected = np.unique(X.filter(labels["delay"].is_not_null())["owner"], return_inverse=True)
    assert np.unique(model.groups_, return_inverse=True)[1].tolist() == expected.tolist()
    assert IndependentTasks(regressor=Mean()).fit(X, labels).estimators_["delay"].groups_ is None
    IndependentTasks(regressor=DummyRegressor()).fit(X, labels, groups="owner")
    numbers = X.select("plain", "count", "owner")
    dropped = IndependentTasks(regressor=DummyRegressor(), columns={"owner": "ignore"}).fit(numbers, labels)
    assert dropped.estimators_["delay"].n_features_in_ == 2 and len(dropped.predict(numbers)) == len(X)


def test_a_given_split_that_divides_groups_is_told_unless_they_are_judged_one_by_one(recwarn):
    order = np.random.default_rng(0).permutation(240)
    table, labels = X[order], Y[order]
    split = {"X_val": table[-100:], "y_val": labels[-100:], "groups": "owner"}
    by_owner = {"late": Task(name="late", kind="binary", metric="gauc")}
    tiny(RMTGB, tasks=by_owner).fit(table[:-100], labels[:-100], **split)
    assert not [told for told in recwarn if "are in X too" in str(told.message)]
    with pytest.warns(TabmtlWarning, match=r"of the \d\d groups in the column 'owner' of X_val are in X too"):
        tiny(RMTGB).fit(table[:-100], labels[:-100], **split)


@pytest.mark.parametrize("name", MODELS)
def test_validation_rows_may_lack_a_dropped_column_of_groups(name):
    """Then equal rows are told."""
    model, split = tiny(MODELS[name], columns={"owner": "ignore"}), {"X_val": X[180:].drop("owner"), "y_val": Y[180:]}
    model.fit(X[:180], Y[:180], groups="owner", **split)
    assert same(
        answers(model, X), answers(tiny(MODELS[name]).fit(X[:180].drop("owner"), Y[:180], **split), X.drop("owner"))
    )
    with pytest.warns(TabmtlWarning, match="60 of the 60 rows of X_val have the features of a row of X"):
        model.fit(X, Y, groups="owner", **split)


@pytest.mark.parametrize(
    "convert", [pl.DataFrame.clone, pl.DataFrame.lazy, pl.DataFrame.to_pandas, pl.DataFrame.to_arrow]
)
def test_dropped_columns_are_never_read(convert, reloaded):
    """They may hold values that no model takes, and stay away later."""
    dates = X.with_columns(day=pl.lit("2024-01-01").str.to_date())
    model = tiny(SharedBottom, columns={"owner": "ignore", "day": "ignore"}).fit(convert(dates), Y, groups="owner")
    plain = X.drop("owner")
    assert model.feature_names_in_.tolist() == plain.columns
    assert model.n_features_in_ == plain.width
    expected = answers(tiny(SharedBottom).fit(plain, Y, groups=X["owner"]), plain)
    for fitted in (model, reloaded(model)):
        assert same(expected, answers(fitted, convert(dates)))
        assert same(expected, answers(fitted, convert(plain)))
    assert model.score_tasks(convert(dates), Y) == model.score_tasks(convert(plain), Y)


NUMBERS = pl.Series([[number] for number in range(240)])
REFUSED = [
    ({"columns": {"ownr": "ignore"}}, {}, ValueError, r"\['ownr'\]; near is 'owner'"),
    ({"columns": {"owner": "ignore"}, "task_column": "owner"}, {}, ValueError, "which is no feature; leave it out"),
    ({"columns": dict.fromkeys(X.columns, "ignore")}, {}, ValueError, "all columns of X.*leave at least one"),
    (
        {"columns": {"x0": "ignore"}},
        {"X": np.zeros((240, 2))},
        ValueError,
        "only a frame has columns to ignore, got a nd",
    ),
    ({}, {"groups": ["owner"]}, ValueError, r"shape \(240,\), got shape \(1,\).*groups='owner'"),
    ({}, {"groups": NUMBERS}, TypeError, r"groups must hold hashable values .*unhashable type: 'list'; join"),
    (
        {"columns": {"owner": "ignore"}},
        {"X": X.with_columns(owner=NUMBERS), "groups": "owner"},
        TypeError,
        "column 'owner' of groups",
    ),
    ({}, {"groups": np.zeros(240)}, ValueError, "all in one group.*X_val and y_val.*early_stopping=False"),
    (
        {"task_column": "flag"},
        {"y": X["plain"].rename("y"), "groups": "flag"},
        ValueError,
        "no task or class .* in two groups.*early",
    ),
]


@pytest.mark.parametrize(("params", "given", "error", "message"), REFUSED)
def test_groups_and_columns_to_drop_that_do_not_fit_are_named(params, given, error, message):
    for cls in [SharedBottom, RMTGB] if "task_column" in params else MODELS.values():
        model = tiny(cls, **params)
        with pytest.raises(error, match=message):
            model.fit(**{"X": X, "y": Y} | given)
        if "all in one group" in message:
            model.set_params(early_stopping=False).fit(X, Y, **given)


def test_tools_of_scikit_learn_pass_groups_on(splits):
    table, labels = X.select("plain", "count").to_numpy(), Y.select("delay").fill_null(0.0)
    model, groups = tiny(RMTGB), X["owner"].to_numpy()

    def divided():
        found = [None if sides is None else len(sides[0] & sides[1]) for sides in splits]
        splits.clear()
        return found

    cross_validate(model, table, labels, cv=MultiTaskKFold(2), groups=groups)
    assert divided() == [None, None], "without routing, fit gets params alone"
    cross_validate(model, table, labels, cv=MultiTaskKFold(2), groups=groups, params={"groups": groups})
    assert divided() == [0, 0]
    with sklearn.config_context(enable_metadata_routing=True):
        pipeline = make_pipeline(StandardScaler(), model)
        grid = {"rmtgb__num_leaves": [4, 8]}
        GridSearchCV(pipeline, grid, cv=GroupKFold(2)).fit(table, labels, groups=groups)
        assert divided() == [0] * 5
        GridSearchCV(model.set_fit_request(groups=False), {}, cv=GroupKFold(2)).fit(table, labels, groups=groups)
        assert divided() == [None] * 3


@pytest.mark.parametrize("seed", [0, 1])
def test_a_split_by_patients_stops_in_time(seed):
    """R² is .18 and .23 by patients, .13 and .17 by rows; single tasks have .21 and .26, their means 0.

    What moves both labels is unseen, so there is nothing to share; patients only keep a shared model from harm.
    """
    table, labels = patients(400, seed)
    fresh = patients(2_000, 100 + seed)
    model = RMTGB(task_column="task", learning_rate=0.1, random_state=0)
    by_patient = model.fit(table, labels).score(*fresh)
    by_row = model.fit(table, labels, groups=np.arange(800)).score(*fresh)
    assert by_patient > max(by_row + 0.02, 0.1)
