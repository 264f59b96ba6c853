"""Files are learned by LightGBM alone, which keeps the signs of columns."""

import numpy as np
import polars as pl
import pytest
from conformance import features, mixed_targets, tiny

from tabmtl import IndependentTasks, Task
from tabmtl.scale import Shards

pytestmark = pytest.mark.usefixtures("three_folds")


def test_lightgbm_learns_files_alone(tmp_path):
    X = features()
    y = mixed_targets(X).select("late")
    X.hstack(y).write_parquet(tmp_path / "rows.parquet")
    shards = Shards(tmp_path / "rows.parquet")
    alone = IndependentTasks(families=("lightgbm",), random_state=0).fit(X, y)
    assert IndependentTasks(random_state=0).fit(shards, ["late"]).predict(X).equals(alone.predict(X))
    with pytest.raises(TypeError, match=r"X is Shards: say families=\('lightgbm',\)"):
        IndependentTasks(families=("lightgbm", "additive")).fit(shards, ["late"])


def test_signs_hold_for_rows_of_files(tmp_path):
    rng = np.random.default_rng(0)
    age = rng.normal(size=240)
    mean = np.exp(age / 2 + np.sin(4 * age))  # rises but for waves, which trees learn if nothing keeps them
    table = pl.DataFrame({"age": age, "regression": mean, "binary": mean > 1, "poisson": rng.poisson(mean)})
    table.write_parquet(tmp_path / "rows.parquet")
    tasks = [Task(name=kind, kind=kind, monotone={"age": 1}) for kind in table.columns[1:]]
    model = tiny(IndependentTasks, tasks=tasks, learning_rate=0.3)
    model.fit(Shards(tmp_path / "rows.parquet"), table.columns[1:])
    for answer in model.__answers__(pl.DataFrame({"age": np.linspace(-3, 3, 60)})):
        rises = answer.reshape(60, -1)[:, -1]
        assert np.diff(rises).min() >= 0
        assert np.ptp(rises) > 0.05  # of more than a constant
