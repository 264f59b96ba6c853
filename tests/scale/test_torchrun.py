"""A job of two real processes: a killed one costs no epoch, models equal those of one, one message tells an error."""

import subprocess
import sys

import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal
from recommenders import LOG

import tabmtl
from tabmtl import SharedBottom
from tabmtl.scale import Shards
from tabmtl.sessions import M2TRec

pytestmark = pytest.mark.all_faces  # tests/scale/test_processes.py is quick

N = 4_096
NETWORK = {"hidden": (16,), "dropout": 0.0, "epochs": 3, "n_jobs": 1, "device": "cpu", "random_state": 0}
RECOMMENDER = {"d_model": 16, "epochs": 1, "batch_size": 128, "dropout": 0.0, "pooling": "undirected"}
RECOMMENDER |= {"precision": "float32", "n_jobs": 1, "device": "cpu", "random_state": 0}
JOB = f"""
import os, signal, sys, torch
from tabmtl import SharedBottom
from tabmtl.scale import Shards
from tabmtl.scale import joined
from tabmtl.sessions import M2TRec
from tabmtl.training.table_loop import TableLoop

folder = sys.argv[1]
run_epoch = TableLoop.run_epoch


def run_or_die(loop, epoch):
    if epoch == 2 and os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
        loop.group.gather(None)  # rank 0 has written its checkpoint
        if loop.group.rank == 1:
            os.kill(os.getpid(), signal.SIGKILL)
    return run_epoch(loop, epoch)


def note(record):
    with open(f"{{folder}}/epochs", "a") as file:
        print(int(record["epoch"]), file=file)


TableLoop.run_epoch = run_or_die
with joined(timeout=120, checkpoint=f"{{folder}}/checkpoints") as group:
    for n in (3, 50_000):  # small ones and large ones meet in different ways
        assert group.sum(torch.arange(n) * (group.rank + 1)).equal(3 * torch.arange(n))
        assert group.gather(2 * n * group.rank * "a") == ["", 2 * n * "a"]
    model = SharedBottom(**{NETWORK}, on_epoch=note)
    model.fit(Shards(f"{{folder}}/rows.parquet", cache=f"{{folder}}/cache"), ["click", "spend"])
    if group.rank == 0:
        model.save(f"{{folder}}/SharedBottom")
    recommender = M2TRec(**{RECOMMENDER}).fit(Shards(f"{{folder}}/clicks.parquet"))
    if group.rank == 0:
        recommender.save(f"{{folder}}/M2TRec")
    model.fit(Shards(f"{{folder}}/bad.parquet"), ["click", "spend"])
"""


@pytest.fixture(scope="module")
def frame():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(N, 3))
    frame = pl.DataFrame({f"x{j}": column for j, column in enumerate(x.T)})
    return frame.with_columns(
        click=pl.Series(x[:, 0] > 0.5), spend=pl.Series(x.sum(axis=1)), x2=pl.Series(np.sort(x[:, 2]))
    )


@pytest.fixture(scope="module")
def job(frame, tmp_path_factory):
    """The folder of the job, and how it ended."""
    folder = tmp_path_factory.mktemp("job")
    frame.write_parquet(folder / "rows.parquet")
    frame.with_columns(x0=pl.when(pl.int_range(N) == N - 1).then(float("inf")).otherwise("x0")).write_parquet(
        folder / "bad.parquet"
    )
    LOG.clicks.write_parquet(folder / "clicks.parquet")
    (folder / "job.py").write_text(JOB)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    launcher += ["--max-restarts", "1"]
    ended = subprocess.run(
        [*launcher, str(folder / "job.py"), str(folder)], capture_output=True, text=True, timeout=500, check=False
    )
    return folder, ended


def test_the_model_is_that_of_one_process(frame, job):
    folder, ended = job
    assert (folder / "SharedBottom").exists(), ended.stderr
    X = frame.drop("click", "spend")
    one = SharedBottom(**NETWORK).fit(Shards(frame.lazy()), ["click", "spend"])
    other = tabmtl.load(folder / "SharedBottom")
    np.testing.assert_allclose(other.predict(X)["spend"], one.predict(X)["spend"], rtol=0, atol=1e-3)
    np.testing.assert_allclose(other.predict_proba(X)["click"], one.predict_proba(X)["click"], rtol=0, atol=1e-4)
    assert_frame_equal(other.history_, one.history_, abs_tol=1e-4)


def test_the_recommender_is_that_of_one_process(job):
    folder, ended = job
    assert (folder / "M2TRec").exists(), ended.stderr
    one, other = M2TRec(**RECOMMENDER).fit(Shards(LOG.clicks.lazy())), tabmtl.load(folder / "M2TRec")
    assert_frame_equal(other.history_, one.history_, abs_tol=1e-4)
    lists = [model.recommend(LOG.clicks.head(100), k=3)["score"] for model in (one, other)]
    np.testing.assert_allclose(*lists, rtol=0, atol=1e-2)


def test_a_killed_rank_costs_no_epoch(job):
    folder, ended = job
    assert "Signal 9 (SIGKILL)" in ended.stderr or "exitcode: -9" in ended.stderr, ended.stderr
    assert (folder / "epochs").read_text().split() == ["0", "1", "2"]
    # they stay for the fit that failed
    left = sorted(file.name for file in (folder / "checkpoints").iterdir())
    assert left == ["fit-1.safetensors", "fit-2.safetensors"]


def test_a_bad_row_on_one_rank_ends_all_with_one_message(job):
    _, ended = job
    assert ended.returncode == 1
    assert ended.stderr.count("column 'x0' holds an infinite value") == 1, ended.stderr
    # of the rank, of the launcher, and of the rank whose neighbour was killed
    assert ended.stderr.count("Traceback (most recent call last)") <= 3, ended.stderr
