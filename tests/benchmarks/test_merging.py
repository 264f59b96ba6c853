"""The benchmark of merged networks: whose labels a department has, and its tables."""

import numpy as np
import polars as pl
import pytest

from benchmarks import merging as bench
from tabmtl.pipelines.data.tables import Dataset


def table(name, folder):
    assert folder is None
    rng = np.random.default_rng(0)
    x = rng.normal(size=(1_000, 3))
    X = pl.DataFrame(x, ["a", "b", "c"]).with_columns(level=pl.Series(rng.choice(["u", "v", "w"], 1_000)))
    y = {f"y{t}": (x[:, t] + rng.normal(size=1_000) > 0).astype(int) for t in range(3)}
    return Dataset(
        name=name,
        table=X.with_columns(**{task: pl.Series(labels) for task, labels in y.items()}).lazy(),
        numeric=("a", "b", "c"),
        categorical=("level",),
        tasks=dict.fromkeys(y, "binary"),
        licence="",
        source="",
    )


def test_a_department_has_labels_of_its_tasks_only():
    y = pl.DataFrame({"a": [1, 2], "b": [1.0, None]})
    own = bench.labels_of(y, ["b"])
    assert (own.schema, own["a"].to_list(), own["b"].to_list()) == (y.schema, [None, None], [1.0, None])


@pytest.mark.all_faces
def test_a_table_has_every_way(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(bench, "open_set", table)
    options = ["--epochs", "2", "--share", "0.1", "--front", "12", "--seeds", "0", "1"]
    bench.main(["--sets", "star", *options, "--output", str(tmp_path)])
    records = pl.read_csv(tmp_path / "merging.csv")
    ways = ["base", "single", "joint", "average", "task_arithmetic"]
    assert records.filter(pl.col("task") != "volume")["way"].unique(maintain_order=True).to_list() == ways
    assert records.filter(task="volume")["score"].is_between(0, 2).all()
    said = capsys.readouterr().out
    assert "mean - average" in said and "share of the volume" in said
