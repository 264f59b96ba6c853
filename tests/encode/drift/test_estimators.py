"""Drift of fitted models: what it finds, in which rows, and what each estimator has kept."""

from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from cases import later
from polars.testing import assert_frame_equal

import tabmtl
from tabmtl import RMTGB, IndependentTasks, MultiTaskEnsemble, SharedBottom, SharedTrees, distill
from tabmtl.pipelines.datasets import load


def make(n, seed):
    rng = np.random.default_rng(seed)
    X = pl.DataFrame(
        {
            "age": rng.normal(40, 10, n),
            "town": rng.choice(["Ulm", "Bonn", "Kiel"], n, p=[0.5, 0.3, 0.2]),
            "shop": rng.choice([f"s{k}" for k in range(150)], n),
            "income": np.where(rng.random(n) < 0.1, np.nan, rng.exponential(size=n)),
        }
    )
    noise = rng.normal(size=(3, n))
    y = pl.DataFrame(
        {
            "buys": np.where((X["age"].to_numpy() - 40) / 10 + noise[0] > 0, "yes", "no"),
            "spent": X["age"].to_numpy() + noise[1],
            "kind": np.array(["a", "b", "c"])[np.digitize(noise[2], [-0.5, 0.5])],
        }
    )
    return X, y


X, y = make(1_000, 0)
NEW = make(1_000, 1)[0]
MODELS = {
    "network": SharedBottom(hidden=(8,), epochs=2, random_state=0),
    "trees": SharedTrees(n_estimators=20, n_estimators_task=5, random_state=0),
    "rmtgb": RMTGB(n_estimators_shared=5, n_estimators_outlier=5, n_estimators_task=5, random_state=0),
    "ensemble": MultiTaskEnsemble(
        models={
            "alone": IndependentTasks(families=("lightgbm",)),
            "together": SharedTrees(n_estimators=10, n_estimators_task=5),
        },
        n_folds=2,
        random_state=0,
    ),
}


@pytest.fixture(scope="module")
def fitted():
    found = {}

    def get(name):
        if name not in found:
            found[name] = MODELS[name].fit(X, y)
        return found[name]

    return get


def drifted(model, X, **options):
    return set(model.drift(X, **options).filter("is_drift").select("name", "why").rows())


@pytest.mark.parametrize("name", later(MODELS, "ensemble"))
def test_equal_rows_do_not_cry_and_injected_drift_is_found(name, fitted, reloaded):
    model = fitted(name)
    found = model.drift(NEW)
    assert found["name"].to_list() == [*X.columns, *y.columns]
    assert found["against"].to_list()[:4] == ["fit"] * 4 and set(model._profile.sources) >= {"fit", "unseen"}
    assert drifted(model, NEW) == set()
    assert_frame_equal(reloaded(model).drift(NEW), found)
    age = drifted(model, NEW.with_columns(pl.col("age") + 5))  # half a deviation
    assert age >= {("age", "distribution"), ("spent", "distribution")} and not {"town", "income"} & {
        own for own, _ in age
    }
    of_thousand = drifted(model, NEW.with_columns(pl.col("income") * 1000))
    assert ("income", "distribution") in of_thousand
    renamed = drifted(model, NEW.with_columns(pl.col("town").str.replace("Kiel", "Neumünster")))
    assert ("town", "distribution, unseen") in renamed
    doubled = NEW.with_columns(pl.when(pl.int_range(pl.len()) % 9 > 0).then("income"))
    assert {("income", "missing"), ("income", "distribution, missing")} & drifted(model, doubled)


def test_given_rows_take_the_place_of_those_of_fit_and_of_an_older_file(fitted):
    model = tabmtl.SharedTrees.__from_saved__(fitted("trees").__saved__())
    model._model = replace(model._model, profile=None)
    with pytest.raises(ValueError, match=r"keeps no profile.*fit it again, or give rows"):
        model.drift(NEW)
    found = model.drift(NEW, reference=make(500, 2)[0], ignore=y.columns)
    assert (set(found["against"]), set(found["n_of_fit"]), found["is_drift"].any()) == ({"reference"}, {500}, False)
    assert model.drift(NEW[:100], reference=NEW.lazy().with_columns(pl.col("age") + 9))["is_drift"].any()


def test_blocks_and_containers_are_compared_alike_and_names_can_be_left_out(fitted):
    model = fitted("trees")
    found = model.drift(NEW)
    assert_frame_equal(model.drift(NEW.iter_slices(300)), found)
    assert_frame_equal(model.drift(NEW.to_pandas()), found)
    assert_frame_equal(model.drift(NEW.lazy(), size=1.0).drop("is_drift", "why"), found.drop("is_drift", "why"))
    assert model.drift(NEW, ignore=["age", "kind"])["name"].to_list() == ["town", "shop", "income", "buys", "spent"]
    assert model.drift(NEW, ignore="age").equals(model.drift(NEW, ignore=["age"]))


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda model: model.drift(NEW[:1]), ValueError, "X has 1 row: give 20 or more"),
        (lambda model: model.drift(NEW[:0]), ValueError, "X has 0 rows: give 20 or more"),
        (lambda model: model.drift(iter([NEW[:9], NEW[:9]])), ValueError, "X has 18 rows"),
        (lambda model: model.drift(NEW, reference=NEW[:9]), ValueError, "reference has 9 rows"),
        (lambda model: model.drift(NEW.drop("age")), ValueError, "age"),
        (lambda model: model.drift(NEW.with_columns(age=pl.lit("old"))), TypeError, "'age' was numeric in fit"),
        (lambda model: model.drift(NEW, ignore=["aeg"]), ValueError, "ignore names columns or tasks .* near is 'age'"),
        (lambda model: model.drift(NEW, size=-0.1), ValueError, "size must be"),
        (lambda model: model.drift(NEW, alpha=1.0), ValueError, "alpha must be"),
        (lambda model: SharedTrees().drift(NEW), ValueError, "not fitted"),
    ],
)
def test_refusals(call, error, words, fitted):
    with pytest.raises(error, match=words):
        call(fitted("trees"))


@pytest.mark.all_faces
def test_answers_to_learned_rows_are_told_and_not_judged():
    for model in (SharedBottom(early_stopping=False, hidden=(8,), epochs=2), SharedTrees(early_stopping=False)):
        found = model.set_params(random_state=0).fit(X, y).drift(NEW).filter(kind="prediction")
        assert (set(found["against"]), set(found["is_drift"]), found["psi"].null_count()) == ({"learned"}, {None}, 0)


def test_a_long_table_has_its_tasks_as_a_column_and_predictions_of_each():
    n = 900
    rng = np.random.default_rng(0)
    long = pl.DataFrame({"x": rng.normal(size=n), "task": rng.choice(["u", "v"], n)})
    model = SharedTrees(task_column="task", n_estimators=10, n_estimators_task=5, random_state=0).fit(
        long[:600], long["x"][:600].rename("y")
    )
    found = model.drift(long[600:])
    assert found["kind"].to_list() == ["column"] * 2 + ["prediction"] * 2
    assert found["name"].to_list() == ["x", "task", "u", "v"]
    assert not found["is_drift"].any()
    of_one = model.drift(long[600:].filter(task="u")).filter(name="task")
    assert of_one["is_drift"].item()
    assert model.drift(long[600:].filter(task="u"))["why"].to_list()[-1] == "too few rows"


def test_a_student_and_a_preprocessor_keep_a_profile(fitted):
    from sklearn.preprocessing import StandardScaler

    student = distill(fitted("trees"), X, network=SharedBottom(hidden=(8,), epochs=2), random_state=0)
    assert set(student.drift(NEW)["against"]) == {"fit", "unseen"}
    numbers = X.select("age").to_numpy()
    scaled = SharedTrees(n_estimators=5, n_estimators_task=5, preprocessor=StandardScaler(), random_state=0).fit(
        numbers, y["spent"]
    )
    assert scaled.drift(NEW.select("age").to_numpy() * 1000).filter(kind="column")["is_drift"].all()


def test_the_column_of_times_is_later_by_nature_and_left_out(tmp_path):
    dated = X.with_columns(day=pl.date(2024, 1, 1) + pl.duration(days=pl.int_range(len(X))))
    later = NEW.with_columns(day=pl.date(2030, 1, 1))
    model = SharedTrees(n_estimators=5, n_estimators_task=5, random_state=0).fit(dated, y, time="day")
    model.save(tmp_path / "model")
    for found in (model, tabmtl.load(tmp_path / "model")):
        assert [name for name in found.drift(later)["name"] if name in dated.columns] == X.columns
        assert found.drift(later, ignore="day")["is_drift"].to_list() == found.drift(later)["is_drift"].to_list()
    times = dated["day"].to_numpy()
    model = SharedTrees(n_estimators=5, n_estimators_task=5, random_state=0).fit(dated, y, time=times)
    assert "day" in model.drift(later)["name"]


@pytest.mark.parametrize("min_frequency", [1, 2])
def test_levels_that_come_once_are_as_unseen_in_fit_as_in_new_rows(min_frequency):
    rng = np.random.default_rng(0)
    shops = pl.DataFrame({"shop": rng.choice([f"s{k}" for k in range(2_000)], 3_000), "tags": [["a"], ["b"]] * 1_500})
    shops = shops.with_columns(tags=pl.col("tags").list.concat(pl.concat_list("shop")))
    y = pl.Series("y", rng.normal(size=2_000))
    model = SharedBottom(hidden=(4,), epochs=1, min_frequency=min_frequency, random_state=0).fit(shops[:2_000], y)
    found = model.drift(shops[2_000:], ignore=["y"])
    assert not found["is_drift"].any()
    assert (found["unseen_of_fit"] > 0.1).all() and ((found["unseen"] - found["unseen_of_fit"]).abs() < 0.08).all()


def test_the_profile_stays_that_of_fit_while_a_model_goes_on_and_follows_its_tasks():
    model = SharedBottom(hidden=(8,), epochs=2, random_state=0).fit(X, y)
    of_fit = model.drift(NEW).filter(kind="column")
    model.partial_fit(*make(600, 3))
    found = model.drift(NEW)
    now = found.filter(kind="column").drop("p_value")  # of fewer lines
    assert_frame_equal(now, of_fit.drop("p_value"))  # levels learned later are unseen here
    assert found.filter(kind="prediction")["is_drift"].null_count() == 3  # the model has moved, whatever the rows did
    assert not model.drift(NEW, reference=make(600, 5)[0])["is_drift"].any()
    model = SharedBottom(hidden=(8,), epochs=2, random_state=0).fit(X, y).remove_task("kind")
    model.add_task(X, y.select(double=2 * pl.col("spent")))
    found = model.drift(NEW).filter(kind="prediction")
    assert found.select("name", "against").rows() == [("buys", "unseen"), ("spent", "unseen"), ("double", "learned")]
    begun = SharedBottom(hidden=(8,), random_state=0).partial_fit(X, y)
    assert set(begun.drift(NEW)["against"]) == {"fit", "learned"}


def test_flights_of_other_months_have_drifted_and_other_flights_of_the_same_have_not():
    flights = load("flights")
    rows = flights.table.collect().sort("yday")
    columns = [*flights.numeric, *flights.categorical]
    winter, summer = rows[:4_000].sample(fraction=1, shuffle=True, seed=0), rows[len(rows) // 2 :][:2_000]
    model = SharedTrees(n_estimators=20, n_estimators_task=5, random_state=0).fit(
        winter[:2_000, columns], winter[:2_000, ["dep_del15"]]
    )
    assert not model.drift(winter[2_000:, columns])["is_drift"].any()
    found = {name for name, _ in drifted(model, summer.select(columns))}
    assert found >= {"month", "temp", "dewp"} and not {"origin", "distance"} & found
