"""The benchmark of networks at several sizes: their sizes, and its tables."""

import numpy as np
import polars as pl
import pytest

from benchmarks import slimming as bench
from benchmarks.problems import Case
from tabmtl import SharedBottom


def generated(name, seed, folder):
    x = np.random.default_rng(seed).normal(size=(500, 4))
    X, y = pl.DataFrame(x), pl.DataFrame({"a": x[:, 0] + x[:, 1], "b": (x[:, 0] > x[:, 2]).astype(int)})
    tasks = {"a": "regression", "b": "binary"}
    return Case(train=(X[:400], y[:400]), test=(X[400:], y[400:]), tasks=tasks, groups=None)


@pytest.mark.all_faces
def test_a_network_of_a_size_is_the_widest_within_it(monkeypatch):
    (X, y), whole = generated("", 0, None).train, SharedBottom(epochs=1, tasks={"a": "regression", "b": "binary"})
    model = bench.of_size(whole, X[:64], y[:64], 0.5)
    cost, most = (each.fit(X[:64], y[:64]).multiply_adds_ for each in (model, whole))
    assert 0.4 * most < cost <= 0.5 * most
    assert all(width % 4 == 0 for width in (*model.hidden, model.head_hidden))
    monkeypatch.setattr(bench, "REQUESTS", 1)
    assert [*bench.times(model, X)] == ["eager, a row", "ONNX, a row", "eager, 1024 rows", "ONNX, 1024 rows"]


@pytest.mark.all_faces
def test_a_table_has_every_way_and_share(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(bench, "open_case", generated)
    monkeypatch.setattr(bench, "times", lambda *_: {"eager, a row": 1.0})
    options = ["--models", "SharedBottom", "--epochs", "2", "--seeds", "0", "1", "--budgets", "0.5"]
    bench.main(["--sets", "star", *options, "--output", str(tmp_path)])
    costs = (
        pl.read_csv(tmp_path / "slimming.csv").filter(measure="multiply-adds", seed=0).select("way", "share", "value")
    )
    most = costs["value"].max()
    assert costs.filter(share=1.0)["value"].to_list() == [most, most]
    assert costs.filter(share=0.5)["way"].to_list() == [bench.TRAINED, bench.SLIM, bench.PRUNED, bench.TUNED]
    assert (costs.filter(share=0.5)["value"] <= 0.5 * most).all()
    assert "score - trained" in capsys.readouterr().out
