"""Tasks that are monotone in columns: what IndependentTasks promises, and who refuses them."""

import lightgbm as lgb
import numpy as np
import polars as pl
import pytest
from conformance import tiny
from sklearn.linear_model import Ridge

import tabmtl
from tabmtl import IndependentTasks, SharedBottom, Task, distill

pytestmark = pytest.mark.usefixtures("three_folds")
SIGNS = {"age": 1, "price": -1, "level": 0}
KINDS = ("regression", "binary", "poisson", "gamma", "tweedie", "huber")


def rows(n: int = 240, seed: int = 0) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Labels that rise with age and fall with price but for waves, which trees learn if nothing keeps them."""
    rng = np.random.default_rng(seed)
    X = pl.DataFrame({"age": rng.normal(size=n), "price": rng.normal(size=n), "level": rng.choice(["p", "q"], n)})
    age, price = X["age"].to_numpy(), X["price"].to_numpy()
    mean = np.exp(age / 2 + np.sin(4 * age) - price / 2 + np.sin(4 * price))
    gamma = mean * rng.gamma(5, 0.2, n)
    labels = {
        "regression": gamma,
        "binary": gamma > 1,
        "poisson": rng.poisson(mean),
        "gamma": gamma,
        "huber": gamma,
    }
    return X, pl.DataFrame(labels | {"tweedie": np.where(gamma > 1, gamma, 0.0)}).select(KINDS)


def declared(monotone=SIGNS) -> list[Task]:
    return [Task(name=kind, kind=kind, monotone=monotone) for kind in KINDS]


def falls(model: IndependentTasks, column: str, sign: int = 1) -> list[float]:
    """Return the furthest that the answers to each task go against the sign, over values of a column."""
    X, _ = rows(40)
    values = pl.DataFrame({column: np.linspace(-3, 3, 60)})
    steps = model.__answers__(X.drop(column).join(values, how="cross").select(X.columns))
    of_classes = [
        answer[:, 1:] if task.is_classification else answer for task, answer in zip(model.tasks_, steps, strict=True)
    ]
    return [float(-(sign * np.diff(answer.reshape(len(X), 60, -1), axis=1)).min()) for answer in of_classes]


def fitted(X, y, given, *, monotone=SIGNS, **params) -> IndependentTasks:
    """Return the model of the columns of y, which stand for the kinds of their names."""
    tasks = [task for task in declared(monotone) if task.name in y.columns]
    model = tiny(IndependentTasks, tasks=tasks, learning_rate=0.3, **{"families": "all"} | params).fit(X, y, **given)
    if monotone == SIGNS:
        assert model.family_weights_["lightgbm"].to_list() == [1] * len(tasks)
    return model


def check_is_monotone(model: IndependentTasks) -> None:
    for column, sign in list(SIGNS.items())[:2]:
        assert max(falls(model, column, sign)) <= 0
        for answer in model.__answers__(rows(40)[0]):
            assert np.ptp(answer, axis=0).max() > 0.05  # of more than a constant


@pytest.mark.parametrize("case", ["few rows", "groups", "rows set aside", "given rows", "all trees"])
def test_answers_never_go_against_the_signs(case):
    X, y = rows(240 if case in ("few rows", "groups") else 700)
    params = {"few rows": {}, "groups": {}, "all trees": {"early_stopping": False}}.get(case, {"tune": ["small"]})
    params |= {"families": ("lightgbm",)} if case == "rows set aside" else {}
    given = {
        "groups": {"groups": np.arange(len(X)) // 8},
        "given rows": dict(zip(("X_val", "y_val"), rows(200, 1), strict=True)),
    }
    check_is_monotone(fitted(X, y, given.get(case, {}), **params))


@pytest.mark.all_faces
def test_without_signs_answers_follow_the_waves_and_families_take_part():
    free = fitted(*rows(), {}, monotone={"age": 0})
    assert min(falls(free, "age")) > 0
    assert free.tasks_[0].monotone is None
    assert free.family_weights_["lightgbm"].min() < 1


def test_signs_survive_files(reloaded):
    X, y = rows()
    model = fitted(X, y, {})
    loaded = reloaded(model)
    assert loaded.tasks_ == model.tasks_
    assert loaded.tasks_[0].monotone == {"age": 1, "price": -1}
    check_is_monotone(loaded)


def test_a_lightgbm_estimator_keeps_the_signs_too():
    X, y = rows()
    given = lgb.LGBMRegressor(n_estimators=20, min_child_samples=5)
    model = IndependentTasks(regressor=given, tasks=declared()[:1], random_state=0).fit(X, y[["regression"]])
    check_is_monotone(model)


@pytest.mark.parametrize("name", ["IndependentTasks", "SharedTrees", "SharedBottom"])
def test_a_task_that_is_added_keeps_its_signs_or_is_refused(name):
    X, y = rows()
    model = tiny(getattr(tabmtl, name), tasks=declared(None)[:1]).fit(X, y[["regression"]])
    before = model.predict(X)
    if name == "IndependentTasks":
        check_is_monotone(model.add_task(X, y[["huber"]], tasks=[declared()[-1]]).remove_task("regression"))
        return
    with pytest.raises(ValueError, match=f"'huber' has monotone.*which {name} cannot promise; fit Ind"):
        model.add_task(X, y[["huber"]], tasks=[declared()[-1]])
    assert model.predict(X).equals(before)


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: Task(name="t", kind="binary", monotone={"age": 2}), ValueError, "'t'.*must be 1 .*got 2 for 'age'"),
        (lambda: Task(name="t", kind="binary", monotone={"age": True}), ValueError, "got True for 'age'"),
        (lambda: Task(name="t", kind="binary", monotone=["age"]), TypeError, r"map columns of X .*got \['age'\]"),
        *(
            (lambda kind=kind: Task(name="t", kind=kind, monotone={"age": 1}), ValueError, f"{kind} tasks monotone; le")
            for kind in ("multiclass", "ordinal", "quantile:0.9", "quantiles:0.1:0.9")
        ),
        (lambda: fit(monotone={"aeg": 1}), ValueError, r"'regression': monotone names .*'aeg'.*age"),
        (lambda: fit(monotone={"day": 1}), ValueError, "names the column 'day', which is read in parts; .*'day: elaps"),
        (lambda: fit(monotone={"level": 1}), ValueError, "numbers, and 'level' holds categories"),
        (
            lambda: fit(regressor=lgb.LGBMRegressor(monotone_constraints=[1, 0, 0])),
            ValueError,
            r"'regression' .* has monotone_constraints=\[1, 0, 0\], .*leave monotone_constraints out, or .*of the Task",
        ),
        (lambda: fit(regressor=Ridge()), ValueError, r"which is for LightGBM; give Ridge\(\)"),
        *(
            (
                lambda name=name: fit(name),
                ValueError,
                f"'regression' has monotone.*which {name} cannot promise; fit Ind",
            )
            for name in ("SharedTrees", "RMTGB", "SharedBottom", "MultiTaskEnsemble")
        ),
        (lambda: distill(fit(), rows()[0], network=SharedBottom(epochs=1)), ValueError, "SharedBottom cannot promise"),
    ],
)
def test_refusals_name_the_task_and_the_cure(call, error, words):
    with pytest.raises(error, match=words):
        call()


def fit(name: str = "IndependentTasks", monotone=SIGNS, **params):
    X, y = rows(60)
    X = X.with_columns(day=pl.date_range(pl.date(2024, 1, 1), pl.date(2024, 2, 29))) if "day" in monotone else X
    return tiny(getattr(tabmtl, name), tasks=declared(monotone)[:1], **params).fit(X, y[["regression"]])
