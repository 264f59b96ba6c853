"""The benchmark of merged networks: whose labels a department has."""

import polars as pl

from benchmarks import merging as bench


def test_a_department_has_labels_of_its_tasks_only():
    y = pl.DataFrame({"a": [1, 2], "b": [1.0, None]})
    own = bench.labels_of(y, ["b"])
    assert (own.schema, own["a"].to_list(), own["b"].to_list()) == (y.schema, [None, None], [1.0, None])
