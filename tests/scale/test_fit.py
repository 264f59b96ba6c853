"""Training from shards: what does not depend on the files, what equals training from a frame, and errors."""

import json
import os
import tempfile
from errno import EACCES, ENOSPC

import numpy as np
import polars as pl
import pytest
from conformance import features, mixed_targets, tiny
from polars.testing import assert_frame_equal
from ranks import read_small_parts
from sklearn.linear_model import LogisticRegression

from tabmtl import ESMM, RMTGB, IndependentTasks, MMoE, MultiTaskEnsemble, Shards, SharedBottom, SharedTrees
from tabmtl.encode import cache, shards
from tabmtl.storage.atomic import locked
from tabmtl.training import windows

TARGETS = ["late", "size", "delay"]


@pytest.fixture(autouse=True)
def _small(monkeypatch):
    read_small_parts(monkeypatch)


@pytest.fixture(scope="module")
def table():
    """Rows sorted by a number, with targets, weights and groups beside them."""
    X = features(400).sort("plain")
    rng = np.random.default_rng(1)
    more = {"weight": rng.random(400) * (rng.random(400) > 0.1), "who": rng.integers(0, 60, 400)}
    return pl.concat([X, mixed_targets(X)], how="horizontal").with_columns(**{k: pl.Series(v) for k, v in more.items()})


@pytest.fixture(scope="module")
def folder(table, tmp_path_factory):
    place = tmp_path_factory.mktemp("shards")
    for i, rows in enumerate(np.split(np.arange(table.height), [10, 200])):
        table[rows.tolist()].write_parquet(place / f"{i}.parquet")
    return place


def test_the_model_does_not_depend_on_the_files(table, folder):
    def model(source):
        return tiny(SharedBottom, drop=["who"]).fit(source, TARGETS, sample_weight="weight", groups="who")

    one, two = model(Shards(folder / "*.parquet")), model(Shards(table.lazy()))
    X = table.drop("who", "weight", *TARGETS)
    assert_frame_equal(one.predict(X), two.predict(X), check_exact=True)
    assert_frame_equal(one.history_, two.history_, check_exact=True)
    assert one.history_["val/score"].null_count() == 0
    assert one.feature_names_in_.tolist() == X.columns


def test_what_is_learned_is_what_a_frame_teaches(table, folder):
    train, valid = table.filter(pl.int_range(400) % 4 > 0), table.filter(pl.int_range(400) % 4 == 0)
    X, X_val = train.drop("who", "weight", *TARGETS), valid.drop("who", *TARGETS)
    one_step = {"epochs": 3, "batch_size": 1_000, "dropout": 0.0, "average_decay": 0.0}
    model = tiny(SharedBottom, drop=["who"], **one_step)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(windows, "_WINDOW_CHUNKS", 64)  # one window, so one step
        model.fit(Shards(train.lazy()), TARGETS, sample_weight="weight", X_val=Shards(valid.lazy()), y_val=TARGETS)
    frame = tiny(SharedBottom, **one_step).fit(
        X, train.select(TARGETS), sample_weight=train["weight"], X_val=X_val.drop("weight"), y_val=valid.select(TARGETS)
    )
    for name in frame.weights_:  # the same rows in every step, summed in another order
        np.testing.assert_allclose(model.weights_[name], frame.weights_[name], rtol=1e-4, atol=2e-4)
    assert model.history_.columns == frame.history_.columns
    np.testing.assert_allclose(model.history_.to_numpy(), frame.history_.to_numpy(), rtol=1e-3, atol=1e-3)
    assert model.batch_size_ == 1_000


@pytest.mark.parametrize("params", [{"balance": "uncertainty"}, {"balance": "pcgrad"}, {"keep": "task"}])
def test_all_training_options_work(table, params):
    source = Shards(table.drop("who", "weight").lazy())
    model = tiny(MMoE, **params).fit(source, TARGETS)
    assert model.expert_utilisation_.height > 0
    assert model.predict(table.drop("who", "weight", *TARGETS)).shape == (400, 3)


def test_a_funnel_warns_once(table):
    rng = np.random.default_rng(0)
    frame = table.select("plain", "text").with_columns(
        click=pl.Series(rng.integers(0, 2, 400)), buy=pl.Series(rng.integers(0, 2, 400))
    )
    with pytest.warns(UserWarning, match="count as not 'buy'") as caught:
        tiny(ESMM, tasks=None, task_chain=["click", "buy"]).fit(Shards(frame.lazy()), ["click", "buy"])
    assert len([one for one in caught if "count as not" in str(one.message)]) == 1


@pytest.mark.parametrize("groups", [None, "plain"])
def test_a_long_table(groups):
    rng = np.random.default_rng(0)
    things = rng.normal(size=100)
    frame = pl.DataFrame({"plain": np.tile(things, 3), "task": np.repeat(["a", "b", "c"], 100)}).with_columns(
        y=pl.col("plain") * pl.col("task").replace_strict({"a": 1.0, "b": -1.0, "c": 2.0})
    )
    seen = []
    model = tiny(SharedBottom, task_column="task", epochs=1, on_epoch=seen.append)
    model.fit(Shards(frame.lazy()), "y", groups=groups)
    assert model.predict(frame.drop("y")).len() == 300
    assert [name for name in seen[0] if name.startswith("val/c/")]


@pytest.mark.parametrize("cls", [RMTGB, SharedTrees, IndependentTasks])
def test_trees_are_those_of_a_frame(table, folder, cls):
    model = tiny(cls, drop=["who"]).fit(Shards(folder / "*.parquet"), TARGETS, groups="who")
    X = table.drop(TARGETS)
    frame = tiny(cls, drop=["who"]).fit(X, table.select(TARGETS), groups="who")
    assert_frame_equal(model.predict(X), frame.predict(X), check_exact=True)


def test_a_cache_is_used_again_for_the_same_rows_and_encoding(folder, tmp_path, monkeypatch):
    written = []
    write = cache._write
    monkeypatch.setattr(cache, "_write", lambda *args: written.append(1) or write(*args))
    place = tmp_path / "cache"

    def fit(**params):
        model = tiny(SharedBottom, epochs=1, drop=["who", "weight"], **params)
        return model.fit(Shards(folder / "*.parquet", cache=place), TARGETS)

    first, again = fit(), fit(random_state=5)
    assert (len(written), sorted(file.name for file in place.iterdir())) == (
        1,
        ["codes.npy", "numbers.npy", "shards.json", "y.npy"],
    )
    fit(numeric_transform="quantile")
    assert len(written) == 2
    content = (place / "numbers.npy").read_bytes()
    (place / "numbers.npy").write_bytes(content[:-4])  # truncated
    fit(numeric_transform="quantile")
    assert (len(written), (place / "numbers.npy").read_bytes()) == (3, content)
    manifest = json.loads((place / cache.MANIFEST).read_text())
    (place / cache.MANIFEST).write_text(json.dumps(manifest | {"format": 0}))
    fit(numeric_transform="quantile")
    assert len(written) == 4
    edited = bytearray(content)
    edited[-1] ^= 1  # of the same size
    (place / "numbers.npy").write_bytes(edited)
    fit(numeric_transform="quantile")
    assert (len(written), (place / "numbers.npy").read_bytes()) == (5, content)
    assert first.batch_size_ == again.batch_size_


def test_arrays_are_on_the_disk_before_their_manifest(folder, tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(cache, "sync_file", lambda file: seen.append(file.name))
    monkeypatch.setattr(cache, "sync_folder", lambda place: seen.append("folder"))
    monkeypatch.setattr(cache, "write_file", lambda file, content: seen.append(file.name))
    model = tiny(SharedBottom, epochs=1, drop=["who", "weight"])
    model.fit(Shards(folder / "*.parquet", cache=tmp_path), TARGETS)
    assert sorted(seen[:3]) == ["codes.npy", "numbers.npy", "y.npy"]
    assert seen[3:] == ["folder", cache.MANIFEST]


def test_files_that_change_between_two_passes_make_no_cache(table, tmp_path, monkeypatch):
    file = tmp_path / "rows.parquet"
    table.write_parquet(file)
    write = cache._write
    monkeypatch.setattr(cache, "_write", lambda *args: os.utime(file, (1, 1)) or write(*args))
    with pytest.raises(ValueError, match=r"rows.parquet was changed while it was read"):
        tiny(SharedBottom, epochs=1, drop=["who"]).fit(Shards(file, cache=tmp_path / "cache"), TARGETS)
    assert [*(tmp_path / "cache").iterdir()] == []


def test_a_full_disk_is_told_with_the_folder(folder, tmp_path, monkeypatch):
    def write(*_):
        raise OSError(ENOSPC, os.strerror(ENOSPC))

    monkeypatch.setattr(cache._Writer, "add", write)
    with pytest.raises(OSError, match=r"encoded rows could not be written: No space .*; make room .*'.*/cache'"):
        tiny(SharedBottom, drop=["who"]).fit(Shards(folder / "*.parquet", cache=tmp_path / "cache"), TARGETS)


def test_rows_that_cannot_be_read_are_no_matter_of_writing(folder, tmp_path, monkeypatch):
    refused = OSError(EACCES, os.strerror(EACCES))

    def read(*_):
        raise refused

    monkeypatch.setattr(cache, "_write", read)
    with pytest.raises(PermissionError) as caught:
        tiny(SharedBottom, drop=["who"]).fit(Shards(folder / "*.parquet", cache=tmp_path / "cache"), TARGETS)
    assert caught.value is refused


def test_what_killed_fits_have_left_is_removed(folder, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    left, fresh, living = (tmp_path / f"tabmtl-rows-{name}" for name in ("left", "fresh", "living"))
    for place in (left, fresh, living):
        place.mkdir()
        (place / "y.npy").touch()
    for place in (left, living):
        os.utime(place, (1, 1))
    kept = tmp_path / "kept"
    kept.mkdir()
    (kept / f".y.npy.{2**59}").touch()
    model = tiny(SharedBottom, epochs=1, drop=["who", "weight"])
    with locked(living):
        model.fit(Shards(folder / "*.parquet"), TARGETS)
    assert sorted(tmp_path.iterdir()) == sorted([fresh, living, kept])
    assert f"a killed fit has left in {left}" in caplog.text
    model.fit(Shards(folder / "*.parquet", cache=kept), TARGETS)
    assert not [file for file in kept.iterdir() if file.name.startswith(".")]
    assert f"a killed process has left in {kept}" in caplog.text


def test_rows_of_a_window_are_all_rows_once(table, folder):
    source = Shards(folder / "*.parquet")
    roles = shards.Roles.of(source, TARGETS, "weight").without(["who"])
    from tabmtl.encode.survey import learn_table

    model = tiny(SharedBottom)
    coder = learn_table(source, roles, **model._coding())
    with cache.encoded(source, roles, coder) as encoded:
        everything = coder.read(table.select(coder.names), table.select(TARGETS), table["weight"])
        for name, part in everything.arrays().items():
            check = np.testing.assert_allclose if name == "weight" else np.testing.assert_array_equal
            check(encoded.read(slice(None)).arrays()[name], part, err_msg=name)
        chosen = np.arange(400) % 3 > 0
        rows = cache.StoredRows(encoded, chosen)
        assert len(rows) == chosen.sum()
        np.testing.assert_array_equal(
            rows.spread(20).x.numbers, everything.x.numbers[chosen][np.arange(20) * len(rows) // 20]
        )
        np.testing.assert_array_equal(rows.n_labels, (~np.isnan(everything.y[chosen])).sum(axis=0))
        np.testing.assert_allclose(rows.labelled_weight, everything.weight[chosen].sum(axis=0))
        order = windows.Epoch(rows=rows, seed=(0, 0), batch_size=32)
        found, n_steps = [], 0
        for window, steps in order.windows():
            found.append(window.x.numbers.copy())
            n_steps += len(steps)
            assert all(0 < step.stop - step.start <= 32 for step in steps)
            assert steps[-1].stop == len(window)
        assert n_steps == len(order) > len(found) > 1
        seen = np.concatenate(found)
        expected = everything.x.numbers[chosen]
        assert sorted(map(tuple, np.nan_to_num(seen).tolist())) == sorted(map(tuple, np.nan_to_num(expected).tolist()))
        other = next(windows.Epoch(rows=rows, seed=(0, 1), batch_size=32).windows())[0].x.numbers
        assert not np.array_equal(np.nan_to_num(other[:32]), np.nan_to_num(seen[:32]))


def test_a_failed_fit_leaves_the_estimator_and_the_cache(table, tmp_path):
    model = tiny(SharedBottom, epochs=1)
    plain = table.drop("who", "weight")
    model.fit(Shards(plain.lazy(), cache=tmp_path), TARGETS)
    before = model.predict(table.drop("who", "weight", *TARGETS))
    with pytest.raises(ValueError, match="column 'plain' holds an infinite value"):
        model.fit(Shards(plain.with_columns(plain=pl.lit(float("inf"))).lazy(), cache=tmp_path), TARGETS)
    assert model.predict(table.drop("who", "weight", *TARGETS)).equals(before)
    assert not [file for file in tmp_path.iterdir() if file.name.startswith(".")]


def test_mistakes_are_told(table):
    source, model = Shards(table.lazy()), tiny(SharedBottom, drop=["who", "weight"], epochs=1)
    for error, message, call in [
        (TypeError, "X and X_val must both be Shards", lambda: model.fit(source, TARGETS, X_val=table, y_val=table)),
        (
            ValueError,
            "y_val names the targets .* name the same ones",
            lambda: model.fit(source, TARGETS, X_val=source, y_val="late"),
        ),
        (
            ValueError,
            "task_column 'x' is not a column",
            lambda: tiny(SharedBottom, task_column="x").fit(source, "late"),
        ),
        (
            TypeError,
            "Shards are for LightGBM only",
            lambda: IndependentTasks(classifier=LogisticRegression(), drop=["who", "weight"]).fit(source, "late"),
        ),
        (TypeError, "cannot be fitted on Shards", lambda: tiny(MultiTaskEnsemble).fit(source, TARGETS)),
        (TypeError, "predict_files", lambda: model.fit(source, TARGETS).predict(source)),
    ]:
        with pytest.raises(error, match=message):
            call()
