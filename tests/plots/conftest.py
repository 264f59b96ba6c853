"""No window is opened, no figure left open; and a small table with a model of it."""

import numpy as np
import polars as pl
import pytest

from tabmtl import SharedBottom


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
