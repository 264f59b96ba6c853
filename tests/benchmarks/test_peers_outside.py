"""Peers in environments of their own: how they are asked; and, where their environments are, that they learn."""

import os
import sys

import numpy as np
import polars as pl
import pytest

from benchmarks.peers.outside import AutoGluon, Outside, RealMLP, TabM
from benchmarks.problems import score_answers

PEER = """
from benchmarks.peers.guest import serve

def fit(X, y, kind, seed, *, plus):
    print("told by the peer")
    assert X["level"].dtype == "category"
    assert X["remark"].dtype != "category"
    assert X["day"].dtype == "datetime64[ns]"
    if kind == "regression" and y.max() > 90:
        raise ValueError("no such label")
    means = y.groupby(X["level"], observed=True).mean()
    return lambda rows: rows["level"].astype(object).map(means) + seed + plus

serve(fit)
"""
OTHERS = {"remark": pl.lit("as it is"), "day": pl.date(2026, 5, 17)}
X = pl.DataFrame({"level": ["a", "b", "a", "b"], "x": [1.0, None, 2.0, 3.0]}).with_columns(**OTHERS)
Y = pl.DataFrame({"r": [1.0, 2.0, None, 4.0], "b": [0, 1, 1, 1]})


@pytest.fixture
def peer(tmp_path, monkeypatch):
    """A peer whose environment is the one of the tests."""
    python = tmp_path / "bin" / "python"
    python.parent.mkdir()
    python.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    (tmp_path / "its_peer.py").write_text(PEER)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("ITS_FOLDER", str(tmp_path))
    kinds = {"r": "regression", "b": "binary"}
    return Outside("its_peer", "ITS_FOLDER", tasks=kinds, random_state=10, texts=["remark"], plus=0.5)


def test_a_peer_fits_labelled_rows_of_every_task_and_answers(peer):
    peer.fit(X, Y, None)
    assert peer.start_seconds > 0 and peer.seconds > 0  # the start imports pandas, the fit does next to nothing
    for rows in (X, X[:1], pl.DataFrame({"level": ["b", "new"], "x": [0.0, 0.0]}).with_columns(**OTHERS)):
        answers = peer.answer_tasks(rows)
        means = {"r": {"a": 1.0, "b": 3.0}, "b": {"a": 0.5, "b": 1.0}}
        for task, mean in means.items():
            expected = [mean.get(level, np.nan) + 10.5 for level in rows["level"]]
            np.testing.assert_allclose(answers[task], expected)


def test_an_error_of_the_peer_is_ours_with_what_it_printed(peer):
    with pytest.raises(RuntimeError, match=r"its_peer failed: ValueError: no such label(.|\n)*told by the peer"):
        peer.fit(X, Y.with_columns(r=pl.lit(99.0)), None)


@pytest.mark.parametrize("folder", [None, "nowhere"])
def test_a_missing_environment_is_told_by_its_variable(folder, monkeypatch):
    monkeypatch.delenv("TABMTL_AUTOGLUON", raising=False)
    if folder:
        monkeypatch.setenv("TABMTL_AUTOGLUON", folder)
    with pytest.raises(FileNotFoundError, match=r"TABMTL_AUTOGLUON.*docstring says how to make one"):
        AutoGluon(tasks={"b": "binary"}, random_state=0, seconds=1)


@pytest.mark.parametrize(
    ("make", "variable", "options"),
    [
        (AutoGluon, "TABMTL_AUTOGLUON", {"seconds": 20.0}),
        (RealMLP, "TABMTL_PYTABKIT", {}),
        (TabM, "TABMTL_PYTABKIT", {}),
    ],
    ids=["AutoGluon", "RealMLP", "TabM"],
)
def test_a_peer_learns_both_kinds(make, variable, options):
    """Half of the numbers are missing somewhere, and the test rows hold a level that no row to fit has."""
    if variable not in os.environ:
        pytest.skip(f"{variable} names no environment")
    rng = np.random.default_rng(0)
    x, level = rng.normal(size=(400, 2)), rng.integers(0, 3, 400)
    value = 2 * x[:, 0] + level
    frame = pl.DataFrame({"x": np.where(x[:, 1] > 1, np.nan, x[:, 0]), "level": np.array(["a", "b", "c"])[level]})
    rows = frame.with_columns(pl.col("x").fill_nan(None))
    y = pl.DataFrame({"value": value, "large": (value > 1).astype(int)})
    tasks = {"value": "regression", "large": "binary"}
    model = make(tasks=tasks, random_state=0, **options)
    model.fit(rows[:300], y[:300].with_columns(pl.when(pl.col("value") > -1).then(pl.col("value"))), None)
    new = rows[300:].with_columns(level=pl.when(pl.int_range(100) == 0).then(pl.lit("new")).otherwise("level"))
    scores = score_answers(tasks, y[300:], model.answer_tasks(new))
    assert scores["value"] > 0.5
    assert scores["large"] > 0.85
