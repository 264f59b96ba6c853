"""No window is opened, no figure left open; and a small table with models of it."""

import numpy as np
import polars as pl
import pytest
from conformance import CANDIDATES

from tabmtl import PLE, RMTGB, MultiTaskEnsemble, SharedBottom


@pytest.fixture(autouse=True)
def no_window():
    pytest.importorskip("matplotlib").use("Agg")
    from matplotlib import pyplot

    yield
    pyplot.close("all")


@pytest.fixture(scope="session")
def table():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(120, 3))
    y = pl.DataFrame({"late": np.where(x[:, 0] > 0, "yes", "no"), "delay": x[:, 1] * 10})
    y = y.with_columns(pl.when(pl.int_range(pl.len()) > 20).then("delay"))
    return pl.DataFrame(x, list("abc")), y


@pytest.fixture(scope="session")
def model(table):
    return SharedBottom(epochs=3, random_state=0).fit(*table)


@pytest.fixture(scope="session")
def mixture(table):
    """Of two levels, the first of which has a shared gate."""
    return PLE(n_shared_experts=2, n_task_experts=1, n_levels=2, epochs=1, random_state=0).fit(*table)


@pytest.fixture(scope="session")
def ensemble(table):
    return MultiTaskEnsemble(models=CANDIDATES, n_folds=2, random_state=0).fit(*table)


@pytest.fixture(scope="session")
def boosted(table):
    """Of late, which is alone, and of three delays, the last of which is turned round."""
    y = table[1].with_columns(twice=2 * pl.col("delay"), early=-pl.col("delay"))
    return RMTGB(n_estimators_outlier=40, n_estimators_task=5, random_state=0).fit(table[0], y)
