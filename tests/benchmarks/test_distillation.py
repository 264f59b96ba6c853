"""A network beside its teacher: what the table says of both."""

from functools import partial

import numpy as np
import polars as pl

from benchmarks.distillation import measure
from benchmarks.problems import Case
from tabmtl import SharedTrees


def test_a_network_has_the_answers_of_its_teacher():
    x = np.random.default_rng(0).normal(size=(150, 2))
    X = pl.DataFrame(x, ["a", "b"])
    y = pl.DataFrame({"sum": x.sum(axis=1), "late": (x[:, 0] > 0).astype(int)})
    few = y.with_columns(pl.when(pl.int_range(150) < 100).then(pl.all()).name.keep())
    tasks = {"sum": "regression", "late": "binary"}
    case = Case(train=(X[:120], few[:120]), test=(X[120:], y[120:]), tasks=tasks, groups=None)
    found = measure(case, partial(SharedTrees, n_estimators=10, n_estimators_task=5), 0)
    assert [*found] == ["sum", "late"]
    for cells in found.values():
        assert float(cells["ensemble"]) > 0.5 and float(cells["share"]) > 0.5
