"""A cluster of Ray on this machine: a killed process costs no finished epoch, and answers are those of one process."""

import os
import signal
import tempfile
from copy import copy
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal

from tabmtl import SharedBottom
from tabmtl.scale import Shards, predict_files
from tabmtl.scale import ray as on_ray
from tabmtl.sessions import Popularity

N = 4_096
TARGETS = ["click", "spend"]
NETWORK = {"hidden": (16,), "dropout": 0.0, "epochs": 4, "n_jobs": 1, "device": "cpu", "random_state": 0}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two files of rows."""
    folder = tmp_path_factory.mktemp("ray")
    x = np.random.default_rng(0).normal(size=(N, 3))
    rows = pl.DataFrame({"id": range(N), **{f"x{j}": column for j, column in enumerate(x.T)}})
    rows = rows.with_columns(click=pl.Series(x[:, 0] > 0.5), spend=pl.Series(x.sum(axis=1)))
    for i in range(2):
        rows[i * N // 2 : (i + 1) * N // 2].write_parquet(folder / f"part-{i}.parquet")
    return folder


@pytest.fixture(scope="module")
def _cluster():
    ray = pytest.importorskip("ray", reason="Ray is not installed: pip install 'tabmtl[ray]'")
    # names of its sockets must be short
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory(prefix="ray-") as place:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "600")
        patch.setenv("RAY_worker_niceness", "0")  # where others work too, nice workers take minutes to start
        ray.init(
            num_cpus=2, include_dashboard=False, log_to_driver=False, _temp_dir=place, _node_ip_address="127.0.0.1"
        )
        yield
        ray.shutdown()


@pytest.mark.all_faces
@pytest.mark.usefixtures("_cluster")
def test_a_fit_whose_process_is_killed_and_its_answers(folder):
    notes = str(folder / "epochs")

    def note_and_die_once(record):
        epoch = int(record["epoch"])
        begun = Path(notes).read_text().split() if Path(notes).exists() else []
        with open(notes, "a") as file:
            print(epoch, file=file)
        if epoch == 2 and "2" not in begun:
            os.kill(os.getpid(), signal.SIGKILL)

    shards = Shards(folder / "part-*.parquet", cache=folder / "cache")
    model = on_ray.fit(
        SharedBottom(**NETWORK, columns={"id": "ignore"}, on_epoch=note_and_die_once),
        shards,
        TARGETS,
        num_workers=2,
        storage_path=folder / "runs",
        name="killed",
        max_failures=1,
    )
    assert Path(notes).read_text().split() == ["0", "1", "2", "2", "3"]
    assert not list((folder / "runs/killed/checkpoints").iterdir())
    one = SharedBottom(**NETWORK, columns={"id": "ignore"}).fit(Shards(folder / "part-*.parquet"), TARGETS)
    assert_frame_equal(model.history_, one.history_, abs_tol=1e-4)

    class DiesOnce(SharedBottom):
        def _preprocessed(self, X):
            if not Path(died).exists():
                Path(died).touch()
                os.kill(os.getpid(), signal.SIGKILL)
            return super()._preprocessed(X)

    died, dying = str(folder / "died"), copy(model)
    dying.__class__ = DiesOnce
    files = on_ray.predict(
        dying, folder / "part-*.parquet", folder / "scored", num_workers=2, method="both", keep=["id"]
    )
    same = predict_files(model, folder / "part-*.parquet", folder / "same", method="both", keep=["id"])
    assert [file.name for file in files] == [file.name for file in same] == ["part-0.parquet", "part-1.parquet"]
    assert Path(died).exists()
    for file, other in zip(files, same, strict=True):
        assert_frame_equal(pl.read_parquet(file), pl.read_parquet(other), check_exact=True)


REFUSED = [
    (TypeError, r"expected Shards, .* got DataFrame: write its rows to files", {"X": pl.DataFrame({"x": [1.0]})}),
    (ValueError, r"y names .*'clicks'.*near is 'click'", {"y": "clicks"}),
    (TypeError, "unexpected keyword argument 'weights'", {"weights": "x0"}),
    (TypeError, r"expected an estimator of tables, .*got Popularity", {"estimator": Popularity()}),
    (ValueError, "num_workers must be at least 1, got 0", {"num_workers": 0}),
    (ValueError, r"storage_path='s3://runs' is an address.*mount it", {"storage_path": "s3://runs"}),
    (ModuleNotFoundError, r"needs ray, which is missing: pip install 'tabmtl\[ray\]'", {}),
]


@pytest.mark.parametrize(("error", "message", "given"), REFUSED)
def test_mistakes_are_told_before_anything_starts(folder, monkeypatch, error, message, given):
    if not given:
        monkeypatch.setattr(on_ray, "find_spec", lambda name: None)
    options = {"estimator": SharedBottom(), "X": Shards(folder / "part-*.parquet"), "y": TARGETS}
    options |= {"num_workers": 1, "storage_path": folder} | given
    estimator, X, y = map(options.pop, ("estimator", "X", "y"))
    with pytest.raises(error, match=message):
        on_ray.fit(estimator, X, y, **options)
    with pytest.raises(ValueError, match="num_workers must be at least 1, got 0"):
        on_ray.predict(SharedBottom(), folder / "part-0.parquet", folder, num_workers=0)
