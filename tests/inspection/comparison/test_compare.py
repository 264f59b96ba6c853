"""What is fitted and judged: the numbers of a comparison, its rows, failures, and mistakes of the caller."""

import re
from contextlib import nullcontext
from dataclasses import dataclass, replace
from importlib import import_module
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pytest
from compared import Broken, Chained, Interrupted, comparison, constant, linear, table
from sklearn.base import clone
from sklearn.compose import make_column_transformer
from sklearn.dummy import DummyRegressor
from sklearn.linear_model import Ridge
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from sklearn.tree import DecisionTreeClassifier

from tabmtl import (
    RMTGB,
    IndependentTasks,
    MMoE,
    MultiTabNet,
    MultiTaskEnsemble,
    SharedBottom,
    SharedTrees,
    SharedTreesClassifier,
    Task,
    compare,
    default_models,
    make_task_metric,
)
from tabmtl.base.schema import TabmtlWarning, TimeLimitWarning
from tabmtl.inspection.comparison.clock import Clock
from tabmtl.inspection.comparison.judging import standings_of
from tabmtl.inspection.comparison.page import plain, signed
from tabmtl.inspection.comparison.rows import ComparedRows
from tabmtl.metrics.intervals import Estimate, score_difference
from tabmtl.metrics.scores import each_task

TASKS = ["late", "delay <min>", "kind"]


def judged(X, y, **options):
    """Two models, fitted on some rows and judged by the others."""
    models = {"linear": linear(), "constant": constant()}
    return compare(models, X[:240], y[:240], X_test=X[240:], y_test=y[240:], seeds=1, **options)


@pytest.fixture(scope="module")
def given():
    """Two models, judged by given rows, and these rows."""
    X, y = (part.drop("day", strict=False) for part in table())
    return judged(X, y), X[240:], y[240:]


def test_scores_are_those_of_the_models(given):
    found, X, y = given
    for name, model in found.models.items():
        own = found.frame.filter(model=name)
        expected = model.score_intervals(X, y)
        for column in ("task", "metric", "score", "standard_error", "low", "high", "n_labelled"):
            assert own[column].to_list() == expected[column].to_list(), column
    assert (found.n_fit, found.n_test) == (240, 80)


def test_differences_are_paired_and_their_intervals_hold_together(given):
    found, X, y = given
    first, second = (list(each_task(*model.__labelled_answers__(X, y, None))) for model in found.models.values())
    rows = found.frame.filter(model="constant").select("^difference.*$").drop("difference_spread").rows()
    for (task, labels, reference, *_), (_, _, output, *_), row in zip(first, second, rows, strict=True):
        alone, of_three = (score_difference(task, labels, output, reference, level=level) for level in (0.95, 0.99))
        assert row[:2] == pytest.approx(alone[:2])
        assert of_three.low < row[2] < alone.low < alone.high < row[3] < of_three.high
    assert found.frame.filter(model="linear")["difference"].is_null().all()
    assert found.frame["difference_spread"].is_null().all()
    X, y = (part.drop("day", strict=False) for part in table())
    single = compare([linear(), constant()], X, y["late"], random_state=0, seeds=1)  # nothing to hold together with
    names = [
        "IndependentTasks(classifier=LogisticRegression(), regressor=Ridge())",
        "IndependentTasks(classifier=DummyClassifier(), regressor=DummyRegressor())",
    ]
    assert list(single.models) == names
    (own,) = single.frame.filter(model=names[1]).select("^difference.*$").rows()
    assert single.overall.row(0)[1:] == own


def test_groups_are_drawn_as_one():
    """Eight copies of ten rows are ten rows, if it is said."""
    rows = np.append(np.arange(240), np.repeat(240 + np.arange(10), 8))
    X, y = (part.drop("day", strict=False)[rows] for part in table())
    y = y.select("delay <min>")
    of_test = np.repeat(np.arange(1000, 1010), 8)
    with_day = X.with_columns(day=np.append(np.arange(240), of_test))
    told = judged(X, y, groups=(np.arange(240), of_test))
    named = judged(with_day, y, groups="day", columns={"day": "ignore"})
    assert (told.n_groups, named.n_groups) == (10, 10)
    assert "80 to test in 10 groups (given by the caller)" in told.heading
    with pytest.warns(TabmtlWarning, match=r"as if each was drawn by itself.*groups=\(those of X, those of X_test\)"):
        untold = judged(X, y, groups=np.arange(240))
    assert untold.n_groups is None and "80 to test (given" in untold.heading
    some = [*range(240), *range(240, 320, 8)]
    once = judged(X[some], y[some])
    for column in ("standard_error", "difference_error", "difference_low"):
        values, expected = told.frame[column].drop_nulls(), once.frame[column].drop_nulls()
        assert values.to_list() == pytest.approx(expected.to_list())
        assert values.to_list() == pytest.approx(named.frame[column].drop_nulls().to_list())
    assert told.overall["mean_difference_error"][0] > 2 * untold.overall["mean_difference_error"][0]
    with pytest.warns(TabmtlWarning, match="10 of the 10 groups in the groups of X_test are in X too"):
        judged(X, y, groups=(np.append(of_test[::8], np.arange(230)), of_test))


def test_a_class_of_one_row_is_told_before_any_fit_and_leaves_the_verdict_to_the_other_tasks():
    X, y = (part.drop("day", strict=False) for part in table())
    y = y.with_columns(pl.when(pl.int_range(320) == 250).then(pl.lit("w")).otherwise(pl.lit("u")).alias("kind"))
    y[0, "kind"] = "w"
    models = {"constant": constant(), "linear": linear()}
    reason = "task 'kind': roc_auc will have no interval.*the class 'w' has one single labelled row"
    with pytest.warns(TabmtlWarning, match=reason):
        found = compare(models, X[:240], y[:240], X_test=X[240:], y_test=y[240:])
    rows = found.frame.filter(model="linear")
    assert rows["difference_low"].is_null().to_list() == [False, False, True]
    assert rows["difference"].null_count() == 0
    assert found.overall["mean_difference"][0] == pytest.approx(rows["difference"][:2].mean())
    assert found.ahead == ["linear"]
    with pytest.warns(TabmtlWarning, match=reason), pytest.raises(KeyboardInterrupt):
        compare([Interrupted()], X[:240], y[:240], X_test=X[240:], y_test=y[240:])


def test_seeds_are_drawn_too():
    X, y = (part.drop("day", strict=False) for part in table())
    models = {"linear": linear(), "trees": SharedTrees(n_estimators=5, n_estimators_task=5)}
    found = compare(models, X, y, random_state=3, seeds=2)
    single, other = (
        compare(models, X[rows[0]], y[rows[0]], X_test=X[rows[1]], y_test=y[rows[1]], random_state=seed, seeds=1)
        for seed, rows in [(3, parts_of(X, y)), (4, parts_of(X, y))]
    )
    for column in ("score", "difference"):
        expected = (single.frame[column] + other.frame[column]) / 2
        assert found.frame[column].drop_nulls().to_list() == pytest.approx(expected.drop_nulls().to_list())
    spread = (single.frame["difference"] - other.frame["difference"]).drop_nulls().abs() / np.sqrt(2)
    assert found.frame["difference_spread"].drop_nulls().to_list() == pytest.approx(spread.to_list())
    assert (found.frame["difference_error"] > found.frame["difference_spread"] / np.sqrt(2)).drop_nulls().all()
    assert found.models["trees"].random_state == 3 and found.seeds == 2
    assert found.verdict.endswith("Means over 2 seeds.") and "over seeds" in str(found)
    assert single.verdict.endswith("For these fits; another seed may differ.")
    with pytest.raises(ValueError, match="seeds must be at least 1, got 0"):
        compare([Interrupted()], X, y, seeds=0)


def test_models_that_are_fitted_once_draw_no_more_from_a_random_state_than_their_fits():
    X, y = (part.drop("day", strict=False) for part in table())
    models = {"linear": linear(), "trees": SharedTrees(n_estimators=5, n_estimators_task=5, subsample=0.5)}
    shared = np.random.RandomState(0)
    options = {"X_test": X[240:], "y_test": y[240:], "seeds": 1}
    found = compare(models, X[:240], y[:240], random_state=np.random.RandomState(0), **options)
    for name, model in models.items():
        own = clone(model).set_params(random_state=shared).fit(X[:240], y[:240]).score_tasks(X[240:], y[240:])
        assert found.frame.filter(model=name)["score"].to_list() == [*own.values()]


@dataclass(kw_only=True, eq=False, repr=False)
class Lucky(IndependentTasks):
    """Linear models that answer well by the seed of their luck only, and raise an error by another."""

    luck: int = 0
    fault: int = -1
    error: type[BaseException] = ValueError

    def _fit(self, *args: Any) -> Any:
        if self.random_state == self.fault:
            raise self.error("no luck")
        return super()._fit(*args)

    def __answers__(self, X: Any) -> list[np.ndarray]:
        noise = np.random.default_rng(self.random_state).normal(size=len(X))
        return [answer + (self.random_state != self.luck) * noise for answer in super().__answers__(X)]


def twins(**params):
    """A model, and its twin that is lucky by its first seed."""
    models = {"first": Lucky(regressor=Ridge(), luck=-1), "twin": Lucky(regressor=Ridge(), **params)}
    return models | {"constant": constant()}


def test_a_model_that_is_ahead_by_its_seed_is_fitted_by_others_before_it_is_named():
    X, y = (part.drop("day", strict=False) for part in table())
    y = y.select("delay <min>")
    options = {"X_test": X[240:], "y_test": y[240:], "random_state": 0}
    once = compare(twins(), X[:240], y[:240], **options, seeds=1)
    assert once.ahead == ["twin"] and once.refitted == ()
    found = compare(twins(), X[:240], y[:240], **options)
    assert found.ahead == [] and found.leader == "first" and found.refitted == ("first", "twin")
    seeds = [compare(twins(), X[:240], y[:240], **options | {"random_state": s}, seeds=1) for s in range(3)]
    for name, others in (("first", seeds), ("twin", seeds), ("constant", seeds[:1])):
        scores = [each.frame.filter(model=name)["score"].item() for each in others]
        assert found.frame.filter(model=name)["score"].item() == pytest.approx(np.mean(scores))
    assert found.models["twin"].random_state == 0
    assert found.verdict.endswith(
        "first, twin: means over 3 seeds; the others by one fit, in which another seed may differ."
    )
    assert "over seeds" in str(found)


def test_a_model_that_is_ahead_by_one_fit_beside_others_of_three_is_told():
    X, y = (part.drop("day", strict=False) for part in table())
    models = {"first": constant(), **{f"ridge {alpha}": Ridge(alpha=alpha) for alpha in (1, 20, 40)}}
    found = compare(models, X, y["delay <min>"], random_state=0)
    assert found.ahead == ["ridge 1", "ridge 20"] and found.refitted == ("first", "ridge 1", "ridge 20")
    row = found.overall.filter(model="ridge 40").select("mean_difference", "^mean_.*(low|high)$").row(0)
    mean, low, high = map(signed, row)
    said = "The difference to first lies above 0 by one fit, which 2 further seeds have not checked: "
    assert f"{said}ridge 40 ({mean}, {low} to {high})." in found.verdict
    none = replace(found, refitted=("first",))
    assert none.ahead == [] and "is ahead of" not in none.verdict
    assert none.verdict.startswith(
        "No model is clearly ahead of first: no paired 95 % interval over 3 seeds (joint over 3 comparisons) lies "
        f"above 0. So train first, which the others had to beat. {said}ridge "
    )


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_seeds_that_were_not_tried_are_told(error, monkeypatch):
    X, y = (part.drop("day", strict=False) for part in table())
    y = y.select("delay <min>")
    options = {"X_test": X[240:], "y_test": y[240:], "random_state": 0}
    found = compare(twins(fault=1, error=error), X[:240], y[:240], **options)
    once = compare(twins(), X[:240], y[:240], **options, seeds=1)
    for result in (found, once):
        assert result.ahead == ["twin"] and result.refitted == ()
    assert found.frame["score"].to_list() == once.frame["score"].to_list()
    reason = "twin raised ValueError: no luck" if error is ValueError else "interrupted"
    assert found.verdict.endswith(f"another seed may differ; other seeds were not tried: {reason}.")
    assert found.is_interrupted == (error is KeyboardInterrupt)
    monkeypatch.setattr(Clock, "too_late", lambda *_: None)
    found = compare(twins(), X[:240], y[:240], **options, time_limit=1e-9)
    assert found.verdict.endswith("other seeds were not tried: there was no time.")


def test_nothing_is_fitted_again_where_nothing_is_told_apart():
    X, y = (part.drop("day", strict=False) for part in table())
    found = compare({"linear": linear(), "again": linear()}, X, y, random_state=0)
    assert found.refitted == () and found.unseeded == ""
    assert found.standings["standing"].to_list() == ["level"]


def estimate(mean: float, error: float, phase: int = 1) -> Estimate:
    influence = np.full(100, error / 10) * np.resize(np.repeat([1, -1], phase), 100)
    return Estimate(np.array([mean]), np.arange(100), influence, 99, np.array([100]))


def test_level_is_a_difference_above_the_margin_with_no_task_behind():
    found = {
        "level": {"a": estimate(0.004, 0.001), "b": estimate(-0.002, 0.003)},
        "task": {"a": estimate(0.02, 0.001), "b": estimate(-0.015, 0.002)},
        "mean": {"a": estimate(-0.015, 0.0075), "b": estimate(-0.015, 0.0075, 2)},
        "noise": {"a": estimate(-0.02, 0.02), "b": estimate(-0.03, 0.02)},
    }
    told = {model: (standing, on) for model, standing, on in standings_of(found, 0.01)[:, [0, 5, 4]].rows()}
    assert told["level"] == ("level", None) and told["task"] == ("behind", ["b"])
    assert told["mean"][0] == "behind" and told["noise"] == ("not told apart", None)
    assert standings_of(found, 0.001)["standing"][0] == "not told apart"
    assert standings_of(found, 1)["standing"].to_list() == ["level", "behind", "level", "level"]


def test_models_of_one_class_are_told_apart_by_their_parameters():
    X, y = (part.drop("day", strict=False) for part in table())
    models = [
        SharedTrees(n_estimators=2, n_estimators_task=5),
        SharedTrees(n_estimators=3, n_estimators_task=5),
        SharedTrees(n_estimators=3, n_estimators_task=5),
        linear(),
    ]
    found = compare(models, X, y["late"], random_state=0)
    names = [
        "SharedTrees(n_estimators=2, n_estimators_task=5)",
        "SharedTrees(n_estimators=3, n_estimators_task=5)",
        "SharedTrees(n_estimators=3, n_estimators_task=5) 2",
    ]
    assert list(found.models) == [*names, "IndependentTasks"]


def test_a_score_that_is_worse_than_a_constants_is_told():
    X, y = (part.drop("day", strict=False) for part in table())
    found = compare([constant()], X, y, random_state=0)
    assert found.constant["late"] == 0.5 and found.constant["delay <min>"] == found.frame["score"][1]
    assert "Worse" not in found.verdict
    worse = replace(found, constant={"late": 0.6, "delay <min>": 0.1, "kind": 0.5})
    score = plain(found.frame["score"][1])
    assert worse.verdict == (
        "Worse than the best constant answer: IndependentTasks on late (roc_auc 0.5000 against 0.6000), "
        f"IndependentTasks on delay <min> (r2 {score} against 0.1000)."
    )
    long = X.with_columns(school=pl.Series(np.resize(["n", "s"], len(X))))
    found = compare([constant()], long, y["delay <min>"], task_column="school", random_state=0)
    assert [*found.constant.values()] == pytest.approx(found.frame["score"].to_list())


def test_no_score_is_worse_than_an_undefined_one_of_a_constant():
    X, y = (part.drop("day", strict=False) for part in table())
    correlation = make_task_metric(lambda y, p: float(np.corrcoef(y, p)[0, 1]) if np.ptp(p) else np.nan, name="r")
    tasks = {"delay <min>": Task(name="delay <min>", kind="regression", metric=correlation)}
    found = compare([linear()], X, y["delay <min>"], tasks=tasks, random_state=0)
    assert found.frame["score"].item() > 0.9
    assert found.constant == {} and found.verdict == ""


def parts_of(X, y):
    """Return the rows to fit and to test that a comparison by the seed 3 takes."""
    fit = {"X": X.with_row_index(), "y": y, "groups": None, "X_val": None, "y_val": None}
    rows = ComparedRows.read(IndependentTasks(random_state=3), fit, None, None)
    return rows.fit["X"]["index"].to_list(), rows.X["index"].to_list()


def test_every_model_and_task_is_a_row_and_a_failure_too(given):
    found = comparison()
    assert found.frame.select("model", "task").rows() == [
        (model, task) for model in ("linear", "constant", "a <b>", "experts") for task in TASKS
    ]
    done, failed = found.frame.filter(pl.col("error").is_null()), found.frame.filter(model="a <b>")
    assert (done["fit_seconds"] > 0).all() and (done["predict_ms"] > 0).all()
    assert done.filter(model="experts")["fit_cpu_seconds"].min() > 0
    assert found.frame.schema == given[0].frame.schema
    assert failed["error"].to_list() == ["RuntimeError: no room for <it>"] * 3
    assert failed["score"].is_null().all() and failed["metric"].null_count() == 0
    assert list(found.models) == ["linear", "constant", "experts"]
    assert found.frame.filter(model="experts")["difference"].null_count() == 0


def test_without_the_reference_there_are_no_differences():
    X, y = table()
    model = linear()
    found = compare([Broken(), model], X.lazy(), y, random_state=0)
    assert not hasattr(model, "tasks_")
    assert found.frame["difference"].is_null().all()
    assert found.best == "IndependentTasks"
    assert "Broken: RuntimeError: no room for <it>" in str(found)


def test_an_interrupt_keeps_what_is_done():
    models = {"linear": linear(), "slow": Interrupted(), "never": linear()}
    with pytest.warns(TabmtlWarning, match="interrupted: slow, never are not compared"):
        found = compare(models, *table(), random_state=0)
    assert found.is_interrupted and list(found.models) == ["linear"]
    assert set(found.frame.filter(pl.col("model") != "linear")["error"]) == {"interrupted"}
    with pytest.raises(KeyboardInterrupt):
        compare([Interrupted(), linear()], *table())


def rows_of(X, y, groups=None, **params):
    fit = {"X": X, "y": y, "groups": groups, "X_val": None, "y_val": None}
    return ComparedRows.read(IndependentTasks(random_state=0, **params), fit, None, None)


@pytest.mark.parametrize("to", [pl.DataFrame.clone, pl.DataFrame.to_pandas, pl.DataFrame.to_arrow])
@pytest.mark.parametrize("by", ["name", "arrays", "those of X"])
def test_rows_to_stop_by_are_learned_by_models_with_folds_of_their_own(to, by):
    X, y = table()
    days = X["day"]
    parts = days[:160], days[160:240], days[240:]
    groups = {"name": "day", "arrays": parts, "those of X": parts[0]}[by]
    fit = {"X": to(X[:160]), "y": to(y[:160]), "X_val": to(X[160:240]), "y_val": to(y[160:240]), "groups": groups}
    with pytest.warns(TabmtlWarning) if by == "those of X" else nullcontext():
        rows = ComparedRows.read(IndependentTasks(columns={"day": "ignore"}), fit, to(X[240:]), to(y[240:]))
    assert (rows.n_fit, rows.n_val) == (160, 80)
    assert rows.fit_arguments(MMoE()) is rows.fit and rows.fit["X_val"] is fit["X_val"]
    for model in (MultiTaskEnsemble(), IndependentTasks()):
        found = rows.fit_arguments(model)
        assert type(found["X"]) is type(fit["X"]) and found.keys() == {"X", "y", "groups"}
        assert pl.DataFrame(found["X"]).equals(X[:240]) and pl.DataFrame(found["y"]).equals(y[:240])
        expected = np.where((by == "those of X") & (np.arange(240) >= 160), -1, days[:240])
        assert np.array_equal(np.unique(found["groups"], return_inverse=True)[1][:160], days[:160])
        assert len({*zip(found["groups"].tolist(), expected.tolist(), strict=True)}) == len(set(expected))


def test_every_model_sees_the_labels_of_the_rows_to_stop_by():
    X, y = (part.drop("day", strict=False) for part in table())
    given = {"X_val": X[160:240], "y_val": y[160:240], "X_test": X[240:], "y_test": y[240:]}
    models = {"alone": linear(), "experts": MMoE(epochs=1)}
    found = compare(models, X[:160], y[:160], **given, random_state=0, seeds=1)
    joined = compare([linear()], X[:240], y[:240], X_test=X[240:], y_test=y[240:], random_state=0)
    assert found.frame.filter(model="alone")["score"].to_list() == joined.frame["score"].to_list()
    assert "160 rows to fit, 80 to stop by and 80 to test (given by the caller)." in str(found)
    assert ". Rows to stop by are rows to fit for alone.\n" in str(found) and "to stop by" not in str(joined)


def test_groups_stay_on_one_side_and_all_classes_on_both():
    X, y = table()
    named = rows_of(X, y, "day", columns={"day": "ignore"})
    by_array = rows_of(X.drop("day"), y, X["day"])
    assert not set(named.fit["X"]["day"]) & set(named.X["day"])
    assert len(set(zip(named.X["day"], named.batch.group.tolist(), strict=True))) == named.X["day"].n_unique()
    assert named.X.drop("day").equals(by_array.X)
    assert by_array.fit["groups"].to_list() == named.fit["X"]["day"].to_list()
    assert named.n_fit + len(named.X) == len(X) and 60 < len(named.X) < 100
    assert "no group on both sides" in named.how
    for part in (named.fit["y"], named.y):
        assert set(part["late"].drop_nulls()) == {"yes", "no"} and set(part["kind"]) == set("uvw")


def test_times_make_the_newest_rows_test():
    X, y = table()
    day = X["day"].to_numpy()
    for time in ("day", day):
        fit = {"X": X, "y": y, "groups": None, "X_val": None, "y_val": None, "time": time}
        rows = ComparedRows.read(IndependentTasks(random_state=0), fit, None, None)
        assert rows.fit["X"]["day"].max() < rows.X["day"].min()
        assert rows.n_fit + len(rows.X) == len(X) and 60 < len(rows.X) < 100
        assert "the newest 25 %" in rows.how
    assert np.array_equal(rows.fit["time"], rows.fit["X"]["day"].to_numpy())
    split = {"X_val": X[:80], "y_val": y[:80]}
    told = pytest.warns(TabmtlWarning, match="80 of the 80 rows of X_test are not newer")
    with told:
        joined = ComparedRows.read(IndependentTasks(), {**fit, **split, "time": "day"}, X[80:160], y[80:160])
    assert joined.fit_arguments(IndependentTasks())["time"] == "day"
    with pytest.raises(ValueError, match="with X_val, time must name a column that X and X_val both have"):
        ComparedRows.read(IndependentTasks(), {**fit, **split}, None, None)


@pytest.mark.parametrize("flat", [False, True])
def test_held_out_rows_keep_their_container(flat):
    X, y = table()
    X, y = X.drop("day"), y["delay <min>"] if flat else y
    plain = rows_of(X, y)
    as_pandas = rows_of(X.to_pandas(), y.to_pandas())
    assert type(as_pandas.y) is (pd.Series if flat else pd.DataFrame)
    assert type(plain.y) is (pl.Series if flat else pl.DataFrame)
    assert as_pandas.X.index.tolist() == as_pandas.y.index.tolist()
    assert np.array_equal(plain.X, as_pandas.X)


def test_long_tables_are_judged_by_each_rows_own_task():
    X, y = table()
    long = X.drop("day").with_columns(school=pl.Series(np.resize(["n", "s"], len(X))))
    models = {"linear": linear(), "constant": constant()}
    found = compare(models, long, y["delay <min>"], task_column="school", random_state=0)
    assert found.frame["task"].to_list() == ["n", "s"] * 2
    assert found.frame.filter(model="linear")["n_labelled"].sum() == found.n_test == 80
    assert found.frame.filter(model="linear")["score"].min() > 0.9


def test_other_labels_of_a_funnel_have_no_difference():
    X, _ = table()
    click = (X["a"] > 0).cast(pl.Int8)
    y = pl.DataFrame({"click": click, "buy": (X["b"] > 0).cast(pl.Int8)})
    y = y.with_columns(pl.when(pl.col("click") == 1).then("buy"))
    models = {"plain": linear(), "funnel": linear(Chained)}
    with pytest.warns(TabmtlWarning, match="funnel scores buy by other labels than the reference"):
        found = compare(models, X.drop("day"), y, random_state=0)
    assert found.frame.filter(model="funnel")["difference"].is_null().to_list() == [False, True]
    same = compare(models, X.drop("day"), y.with_columns(pl.col("buy").fill_null(0)), random_state=0)
    assert same.frame.filter(model="funnel")["difference"].null_count() == 0


def test_an_undefined_score_is_told_once_and_null():
    X, y = (part.drop("day", strict=False) for part in table())
    only = y[240:].with_columns(late=pl.lit("no"))
    with pytest.warns(TabmtlWarning, match="'late': roc_auc is undefined on the rows to test") as caught:
        found = compare([linear(), constant()], X[:240], y[:240], X_test=X[240:], y_test=only)
    assert len(caught) == 1
    assert found.frame.filter(task="late")["score"].null_count() == 2
    assert found.summary["mean_score"].null_count() == 0


def test_calibration_has_every_labelled_row_once():
    found = comparison()
    for (model, task), bins in found.calibration.group_by("model", "task"):
        row = found.frame.row(by_predicate=(pl.col("model") == model) & (pl.col("task") == task), named=True)
        assert bins["n"].sum() == row["n_labelled"]
        assert bins["predicted"].is_sorted() and len(bins) <= 10
    delay = found.calibration.filter(model="linear", task="delay <min>")
    assert (delay["predicted"] - delay["observed"]).abs().max() < 1
    assert found.calibration.filter(model="constant", task="late").height == 1


def test_the_default_models_fit_the_size():
    for n, excluded in [(500, set()), (50_000, {"MultiTabNet"}), (1_000_000, {"MultiTabNet", "RMTGB"})]:
        models = default_models(n)
        assert next(iter(models)) == "IndependentTasks" and isinstance(models["MultiTaskEnsemble"], MultiTaskEnsemble)
        assert {"MultiTabNet", "RMTGB"} - set(models) == excluded
    assert set(models["MultiTaskEnsemble"].models) == {"IndependentTasks", "SharedTrees", "MMoE"}


def test_none_takes_the_default_models(monkeypatch):
    sizes = []
    module = import_module("tabmtl.inspection.comparison.compare")  # its function has the same name
    monkeypatch.setattr(module, "default_models", lambda n: sizes.append(n) or {"linear": linear()})
    assert list(compare(None, *table(), random_state=0).models) == ["linear"]
    assert sizes == [320]


def test_progress_is_a_line_for_every_model(capsys):
    compare({"linear": linear(), "broken": Broken()}, *table(), random_state=0, verbose=1)
    first, second = capsys.readouterr().out.splitlines()
    assert re.fullmatch(
        r"linear: fitted in \d+\.\d s \(\d+\.\d s of CPU\), mean score 0\.\d{4}; 1 to go, about \d s", first
    )
    assert second == "broken: RuntimeError: no room for <it>"
    compare({"linear": linear()}, *table(), random_state=0, verbose=2)
    assert capsys.readouterr().out.startswith("IndependentTasks  final model 1/")  # of the model that is fitted


def test_models_without_time_are_left_out_and_named(capsys):
    models = {"linear": linear(), "long": MultiTaskEnsemble(), "short": linear(Chained)}
    with pytest.warns(TimeLimitWarning, match="the time limit of 0 s left out long, short; set a longer one, or none"):
        found = compare(models, *table(), random_state=0, time_limit=1e-9)
    assert [*found.models] == ["linear"] and not found.is_interrupted
    errors = found.summary.drop_nulls("error")["error"]
    assert len(errors) == 2 and errors.str.contains(r"^left out: about \d+ s expected, and 0 s of 0 s left$").all()
    assert "long: left out: about " in str(found)
    assert found.verdict.startswith("No other model was fitted, so nothing is compared with linear.")
    found = compare({"linear": linear(), "short": linear()}, *table(), random_state=0, time_limit=60)
    assert [*found.models] == ["linear", "short"]


def test_an_ensemble_gets_the_time_that_is_left(monkeypatch):
    monkeypatch.setattr(Clock, "_of_candidates", lambda *_: 1e4)
    ensemble = MultiTaskEnsemble(models={"linear": linear()}, n_folds=2)
    models = {"linear": linear(), "ensemble": ensemble, "last": linear()}
    found = compare(models, *table(), random_state=0, time_limit=1_000)
    assert [*found.models] == [*models]
    assert 800 < found.models["ensemble"].time_limit < 900 and ensemble.time_limit is None
    clock = Clock(100, 2)
    clock.note(linear(), 10)
    timed = clock.in_time(ensemble, [linear(), linear()])
    assert timed.time_limit == pytest.approx(0.9 * (100 - 20) / 2, abs=1) and clock.too_late(timed) is None
    with_refit = clock.in_time(MultiTaskEnsemble(models=ensemble.models, refit=True), [])
    assert with_refit.time_limit == pytest.approx(0.9 * 100 / 4, abs=1)
    assert clock.in_time(linear(), []).time_limit is None
    assert clock.in_time(MultiTaskEnsemble(models=ensemble.models, time_limit=5), []).time_limit == 5
    clock.note(linear(), 1_000)
    assert clock.in_time(ensemble, []) is ensemble and clock.too_late(ensemble) is not None
    assert Clock(None, 1).in_time(ensemble, []) is ensemble


def test_a_model_is_expected_to_take_what_the_nearest_took_and_an_ensemble_its_candidates():
    clock = Clock(60, 2)
    ensemble = MultiTaskEnsemble(models={"alone": linear(), "together": SharedTrees()}, n_folds=3, refit=True)
    assert clock.expect(ensemble) is clock.expect_all([MMoE()]) is None and clock.too_late(MMoE()) is None
    clock.note(linear(), 3)
    clock.note(linear(), 5)
    clock.note(SharedTrees(), 6)
    assert clock.expect(ensemble) == (4 + 6) * (3 + 1)
    clock.note(MultiTabNet(), 7)
    clock.note(SharedBottom(), 8)
    nearest = {linear(): 4, SharedTrees(): 6, RMTGB(): 6, MMoE(): 8}
    assert {model: clock.expect(model) for model in nearest} == nearest
    assert clock.expect(MMoE(time_limit=1)) == 2
    assert clock.expect_all([MMoE(), ensemble, linear()]) == 52
    assert clock.too_late(ensemble) is None
    assert clock.expect_all([ensemble, ensemble, linear()]) == 44
    clock.note(ensemble, 300)
    assert clock.too_late(ensemble).startswith("left out: about 5 min expected, and 60 s of 60 s left")
    assert Clock(None, 1).too_late(MMoE()) is None


def test_models_of_scikit_learn_learn_every_task_alone():
    X, y = (part.drop("day", strict=False) for part in table())
    models = {"plain": Ridge(), "pipeline": make_pipeline(StandardScaler(), Ridge()), "ours": linear()}
    found = compare(models, X, y["delay <min>"], random_state=0)
    assert found.frame["difference"].to_list()[1:] == pytest.approx([0, 0], abs=1e-3)
    assert isinstance(found.models["pipeline"].regressor, Pipeline)
    found = compare([DecisionTreeClassifier(max_depth=2)], X, y.select("late", "kind"), random_state=0)
    assert list(found.models) == ["DecisionTreeClassifier"] and found.frame["score"].null_count() == 0


def test_a_model_of_scikit_learn_that_reads_no_text_is_told_before_any_fit():
    X, y = table()
    X, y = X.drop("day").with_columns(town=pl.lit("Ulm")), y.select("delay <min>")
    with pytest.raises(ValueError, match=r"to float: 'Ulm';\nit gets X as it is given, with .*; put an encoder"):
        compare([Interrupted(), Ridge()], X, y, random_state=0)
    encoded = make_pipeline(make_column_transformer((OneHotEncoder(), ["town"]), remainder="passthrough"), Ridge())
    found = compare({"encoded": encoded, "constant": DummyRegressor()}, X, y, random_state=0)
    assert found.frame["error"].null_count() == 2


def test_mistakes_are_told_before_any_fit():
    X, y = table()
    spy = Interrupted()  # a fit would end the test
    other = {"late": "multiclass"} | dict.fromkeys(["delay <min>"], "regression")
    for error, message, call in [
        (TypeError, "compare takes (models, X, y), and y is missing", lambda: compare(None, X)),
        (TypeError, "models must map names to estimators", lambda: compare(spy, X, y)),
        (ValueError, "models is empty", lambda: compare([], X, y)),
        (
            ValueError,
            "'trees' is a classifier, and some targets need a regressor: delay <min> (regression); give "
            "IndependentTasks(classifier=DecisionTreeClassifier(), regressor=DecisionTreeRegressor()), or declare the "
            "kinds, tasks={'delay <min>': 'multiclass'}",
            lambda: compare({"trees": DecisionTreeClassifier()}, X, y),
        ),
        (
            ValueError,
            "late (binary), kind (multiclass); give IndependentTasks(regressor=Ridge(), classifier=...)",
            lambda: compare([spy, Ridge()], X, y),
        ),
        (
            TypeError,
            "'p' is a Pipeline around SharedTreesClassifier, whose tasks compare cannot ask for; give "
            "SharedTreesClassifier the steps in front of it, and fit that: "
            "pipeline[-1].set_params(preprocessor=pipeline[:-1])",
            lambda: compare({"p": make_pipeline(StandardScaler(), SharedTreesClassifier())}, X, y["late"]),
        ),
        (TypeError, "wrap one of scikit-learn", lambda: compare([StandardScaler()], X, y)),
        (TypeError, "'plain' is the class Ridge; write Ridge()", lambda: compare({"plain": Ridge}, X, y)),
        (
            TypeError,
            "whose tasks compare cannot ask for; give IndependentTasks itself, with the parameters",
            lambda: compare([GridSearchCV(linear(), {})], X, y),
        ),
        (
            TypeError,
            "give X without these columns, and the frame of them as y",
            lambda: compare(None, table()[1], ["late"]),
        ),
        (ValueError, "near is 'time_limit'", lambda: compare([spy], X, y, time_limt=3)),
        (ValueError, "time_limit must be a finite number above 0", lambda: compare([spy], X, y, time_limit=-1)),
        (TypeError, "names of text, got 1", lambda: compare({1: spy}, X, y)),
        (ValueError, "has no parameter 'epoch'", lambda: compare([spy], X, y, epoch=3)),
        (ValueError, "IndependentTasks: patience", lambda: compare([spy, IndependentTasks(patience=0)], X, y)),
        (ValueError, "X_test and y_test belong together", lambda: compare([spy], X, y, X_test=X)),
        (ValueError, "X_val and y_val belong together", lambda: compare([spy], X, y, X_val=X)),
        (
            ValueError,
            "X_val lacks the columns ['b'] of X; give it all",
            lambda: compare([spy], X, y, X_val=X.drop("b"), y_val=y),
        ),
        (
            TypeError,
            "X_val is of pandas and X of polars, and their rows are learned together: give both in one library",
            lambda: compare([spy], X, y, X_val=X.to_pandas(), y_val=y),
        ),
        (ValueError, "near is 'day'", lambda: compare([spy], X, y, groups="dya")),
        (
            ValueError,
            "X_test lacks the columns ['a'] of X; give it all columns of X",
            lambda: compare([spy], X, y, X_test=X.drop("a"), y_test=y),
        ),
        (
            ValueError,
            "X_test has the columns ['q'], and X has not; give it the columns of X only",
            lambda: compare([spy], X, y, X_test=X.with_columns(q=1), y_test=y),
        ),
        (ValueError, "y lacks the targets", lambda: compare([spy], X, y, X_test=X, y_test=y.drop("kind"))),
        (ValueError, "would learn other tasks", lambda: compare([spy, IndependentTasks(tasks=other)], X, y)),
        (ValueError, "would learn other tasks", lambda: compare([spy, Interrupted(task_column="day")], X, y["late"])),
    ]:
        with pytest.raises(error, match=re.escape(message)):
            call()
