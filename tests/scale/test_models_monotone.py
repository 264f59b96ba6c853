"""Signs."""

import numpy as np
import polars as pl
from conformance import tiny

from tabmtl import IndependentTasks, Task
from tabmtl.scale import Shards

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
    steps = model.answer(X.drop(column).join(values, how="cross").select(X.columns))
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
        for answer in model.answer(rows(40)[0]):
            assert np.ptp(answer, axis=0).max() > 0.05  # of more than a constant


def test_signs_survive_files_and_hold_for_rows_of_files(tmp_path, reloaded):
    X, y = rows()
    model = fitted(X, y, {})
    loaded = reloaded(model)
    assert loaded.tasks_ == model.tasks_
    assert loaded.tasks_[0].monotone == {"age": 1, "price": -1}
    check_is_monotone(loaded)
    pl.concat([X, y], how="horizontal").write_parquet(tmp_path / "rows.parquet")
    shards = Shards(tmp_path / "rows.parquet")
    check_is_monotone(tiny(IndependentTasks, tasks=declared(), learning_rate=0.3).fit(shards, y.columns))
