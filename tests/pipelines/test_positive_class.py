"""The class that a command names."""

import commands
import numpy as np
import polars as pl

from tabmtl.base.schema import told

rng = np.random.default_rng(0)
N = 300
X = pl.DataFrame({"a": rng.normal(size=N), "b": rng.normal(size=N)})
RARE = X["a"].to_numpy() + rng.normal(size=N) > 1.6
Y = pl.DataFrame({"paid": np.where(RARE, "fraud", "ok"), "amount": X["b"] + rng.normal(size=N)})


def test_commands_name_the_class(tmp_path, capsys):
    X.hstack(Y).write_csv(tmp_path / "rows.csv")
    words = ["--data", tmp_path / "rows.csv", "--target", "paid=binary:fraud", "--metric", "paid=f1"]
    words += ["--model", "SharedTrees", "--set", "n_estimators=3", "--no-mlflow", "--output", tmp_path / "model"]
    assert commands.run("train", *words) == 0
    printed = capsys.readouterr().out
    assert "positive_class" in printed and "fraud" in printed
    assert commands.run("score", "--model", tmp_path / "model", "--data", tmp_path / "rows.csv") == 0
    row = next(line for line in capsys.readouterr().out.splitlines() if "f1" in line)
    assert row.split()[-1] == "fraud" and row.split()[-2] == str(RARE.sum())


def test_commands_warn_once_and_name_the_option(tmp_path, capsys):
    X.hstack(Y).write_csv(tmp_path / "rows.csv")
    words = ["--data", tmp_path / "rows.csv", "--target", "paid", "--metric", "paid=f1", "--no-mlflow"]
    words += ["--model", "SharedTrees", "--set", "n_estimators=3", "--output", tmp_path / "model"]
    assert commands.run("train", *words) == 0
    assert capsys.readouterr().err.count("say --target paid=binary:fraud, or --target paid=binary:ok") == 1
    told.clear()  # as in a process of its own
    assert commands.run("score", "--model", tmp_path / "model", "--data", tmp_path / "rows.csv") == 0
    assert capsys.readouterr().err.count("say --target paid=binary:fraud") == 1
