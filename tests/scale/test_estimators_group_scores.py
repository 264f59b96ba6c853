"""Scores by group of files."""

import numpy as np
import polars as pl
import pytest

from tabmtl import MMoE, Task
from tabmtl.scale import Shards, score_files
from tabmtl.synth import make_funnel

LOG = make_funnel(600, n_users=30, n_items=10, click_rate=0.4, conversion_rate=0.2, random_state=0)
X, Y = LOG.X.select("user", "item", "user_x0", "position"), LOG.y.select("click", "conversion")
USER = X["user"].to_numpy()
TRAIN, VAL = np.flatnonzero(USER < "u20"), np.flatnonzero(USER >= "u20")
TASKS = {"click": Task(name="click", kind="binary", metric=("gauc", "ndcg@3"))}


def network(**options):
    return MMoE(**{"n_experts": 2, "epochs": 3, "tasks": TASKS, "monitor": "click", "random_state": 0} | options)


def test_files_are_fitted_and_scored_by_group(tmp_path):
    for name, rows in (("train", TRAIN), ("val", VAL)):
        pl.concat([X[rows], Y[rows]], how="horizontal").write_parquet(tmp_path / f"{name}.parquet")
    files = {name: Shards(tmp_path / f"{name}.parquet") for name in ("train", "val")}
    targets = Y.columns
    model = network().fit(files["train"], targets, groups="user", X_val=files["val"], y_val=targets)
    expected = model.score_intervals(X[VAL], Y[VAL])
    assert model.history_["val/click/gauc"].max() == pytest.approx(expected["score"][0], abs=1e-6)
    found = score_files(model, tmp_path / "val.parquet")
    np.testing.assert_allclose(found.select("score", "low").to_numpy(), expected.select("score", "low").to_numpy())
