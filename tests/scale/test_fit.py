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
from sklearn.linear_model import LogisticRegression
from wired import read_small_parts

from tabmtl import ESMM, RMTGB, IndependentTasks, MultiTaskEnsemble, SharedBottom, SharedTrees
from tabmtl.base.storage.atomic import locked
from tabmtl.scale import Shards, blocks, cache, windows

TARGETS = ["late", "size", "delay"]
WHO = {"who": "ignore"}
BOTH = WHO | {"weight": "ignore"}


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
        return tiny(SharedBottom, columns=WHO).fit(source, TARGETS, sample_weight="weight", groups="who")

    one, two = model(Shards(folder / "*.parquet")), model(Shards(table.lazy()))
    X = table.drop("who", "weight", *TARGETS)
    assert_frame_equal(one.predict(X), two.predict(X), check_exact=True)
    assert_frame_equal(one.history_, two.history_, check_exact=True)
    assert one.history_["val/score"].null_count() == 0
    assert one.feature_names_in_.tolist() == X.columns
    with pytest.raises(TypeError, match="predict_files, score_files"):
        one.predict(Shards(table.lazy()))


def test_what_is_learned_is_what_a_frame_teaches(table, folder):
    train, valid = table.filter(pl.int_range(400) % 4 > 0), table.filter(pl.int_range(400) % 4 == 0)
    X, X_val = train.drop("who", "weight", *TARGETS), valid.drop("who", *TARGETS)
    one_step = {"epochs": 3, "batch_size": 1_000, "dropout": 0.0, "average_decay": 0.0}
    model = tiny(SharedBottom, columns=WHO, **one_step)
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


def test_weights_are_of_any_size_as_long_as_they_can_be_summed(table):
    def model(scale):
        rows = table.with_columns(pl.col("weight") * scale)
        return tiny(SharedBottom, columns=WHO).fit(Shards(rows.lazy()), TARGETS, sample_weight="weight")

    assert_frame_equal(model(2.0**-960).history_, model(1.0).history_, check_exact=True)
    for scale, total in ((1e307, "inf"), (1e-321, r"\S+e-319")):
        with pytest.raises(ValueError, match=f"task 'late': the weights .* sum to {total}, .* by the largest"):
            model(scale)


def test_a_funnel_warns_once(table):
    rng = np.random.default_rng(0)
    frame = table.select("plain", "text").with_columns(
        click=pl.Series(rng.integers(0, 2, 400)), buy=pl.Series(rng.integers(0, 2, 400))
    )
    with pytest.warns(UserWarning, match="count as not 'buy'") as caught:
        tiny(ESMM, tasks=None, task_chain=["click", "buy"]).fit(Shards(frame.lazy()), ["click", "buy"])
    assert len([one for one in caught if "count as not" in str(one.message)]) == 1


@pytest.mark.usefixtures("three_folds")
@pytest.mark.parametrize("cls", [RMTGB, SharedTrees, IndependentTasks])
def test_trees_are_those_of_a_frame(table, folder, cls):
    model = tiny(cls, columns=WHO).fit(Shards(folder / "*.parquet"), TARGETS, groups="who")
    X = table.drop(TARGETS)
    frame = tiny(cls, columns=WHO).fit(X, table.select(TARGETS), groups="who")
    assert_frame_equal(model.predict(X), frame.predict(X), check_exact=True)


def test_a_cache_is_used_again_for_the_same_rows_and_encoding(folder, tmp_path, monkeypatch):
    written, write = [], cache._write
    monkeypatch.setattr(cache, "_write", lambda *args: written.append(1) or write(*args))
    place = tmp_path / "cache"

    def fits(**params):
        """Fit, and count how often a cache was written."""
        model = tiny(SharedBottom, epochs=1, columns=BOTH, **params)
        model.fit(Shards(folder / "*.parquet", cache=place), TARGETS)
        return len(written)

    assert fits() == fits(random_state=5) == 1
    assert sorted(file.name for file in place.iterdir()) == ["codes.npy", "numbers.npy", "shards.json", "y.npy"]
    assert fits(numeric_transform="quantile") == 2
    content = (place / "numbers.npy").read_bytes()
    edited = content[:-1] + bytes([content[-1] ^ 1])  # of the same size
    manifest = json.loads((place / cache.MANIFEST).read_text())
    lacking = manifest | {"files": {name: own for name, own in manifest["files"].items() if name != "y.npy"}}
    manifests = [json.dumps(own).encode() for own in (manifest | {"format": 0}, lacking)]
    changes = [("numbers.npy", content[:-4]), ("numbers.npy", edited), *((cache.MANIFEST, own) for own in manifests)]
    for n, (name, changed) in enumerate(changes, 3):
        (place / name).write_bytes(changed)
        assert fits(numeric_transform="quantile") == n
        assert (place / "numbers.npy").read_bytes() == content


def test_arrays_of_another_release_leave_a_cache_and_no_other_file_does(folder, tmp_path):
    place, kept = tmp_path / "cache", [tmp_path / "mine.npy", tmp_path / "cache" / "notes.txt"]
    place.mkdir()
    for file in (*kept, place / "x_num.npy"):
        file.write_bytes(b"x")
    named = {"x_num.npy": "", "../mine.npy": "", "notes.txt": ""}
    (place / cache.MANIFEST).write_text(json.dumps({"format": 4, "files": named}))
    model = tiny(SharedBottom, epochs=1, columns=BOTH)
    model.fit(Shards(folder / "*.parquet", cache=place), TARGETS)
    assert not (place / "x_num.npy").exists()
    assert all(file.exists() for file in kept)


def test_arrays_are_on_the_disk_before_their_manifest(folder, tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(cache, "sync_file", lambda file: seen.append(file.name))
    monkeypatch.setattr(cache, "sync_folder", lambda place: seen.append("folder"))
    monkeypatch.setattr(cache, "write_file", lambda file, content: seen.append(file.name))
    model = tiny(SharedBottom, epochs=1, columns=BOTH)
    model.fit(Shards(folder / "*.parquet", cache=tmp_path), TARGETS)
    assert sorted(seen[:3]) == ["codes.npy", "numbers.npy", "y.npy"]
    assert seen[3:] == ["folder", cache.MANIFEST]


def test_files_that_change_between_two_passes_make_no_cache(table, tmp_path, monkeypatch):
    file = tmp_path / "rows.parquet"
    table.write_parquet(file)
    write = cache._write
    monkeypatch.setattr(cache, "_write", lambda *args: os.utime(file, (1, 1)) or write(*args))
    with pytest.raises(ValueError, match=r"rows.parquet was changed while it was read"):
        tiny(SharedBottom, epochs=1, columns=WHO).fit(Shards(file, cache=tmp_path / "cache"), TARGETS)
    assert [*(tmp_path / "cache").iterdir()] == []


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
    model = tiny(SharedBottom, epochs=1, columns=BOTH)
    with locked(living):
        model.fit(Shards(folder / "*.parquet"), TARGETS)
    assert sorted(tmp_path.iterdir()) == sorted([fresh, living, kept])
    assert f"a killed fit has left in {left}" in caplog.text
    model.fit(Shards(folder / "*.parquet", cache=kept), TARGETS)
    assert not [file for file in kept.iterdir() if file.name.startswith(".")]
    assert f"a killed process has left in {kept}" in caplog.text


def test_rows_of_a_window_are_all_rows_once(table, folder):
    source = Shards(folder / "*.parquet")
    roles = blocks.Roles.of(source, TARGETS, "weight").without(["who"])
    from tabmtl.scale.survey import learn_table

    model = tiny(SharedBottom)
    coder = learn_table(source, roles, **model.__learner__().coding)
    with cache.encoded(source, roles, coder) as encoded:
        everything = coder.read(table.select(coder.names), table.select(TARGETS), table["weight"])
        for name, part in everything.arrays().items():
            check = np.testing.assert_allclose if name == "weight" else np.testing.assert_array_equal
            check(encoded.read(slice(None)).arrays()[name], part, err_msg=name)
        chosen = np.arange(400) % 3 > 0
        rows = cache.StoredRows(encoded, chosen)
        assert len(rows) == chosen.sum()
        np.testing.assert_array_equal(
            rows.some(20).x.numbers, everything.x.numbers[chosen][np.arange(20) * len(rows) // 20]
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


ROWS = features(4).hstack(mixed_targets(features(4)))
REFUSED = [
    (TypeError, "X and X_val must both be Shards", SharedBottom, {}, {"X_val": ROWS, "y_val": ROWS}),
    (ValueError, "y_val names the .* name the same", SharedBottom, {}, {"X_val": Shards(ROWS.lazy()), "y_val": "late"}),
    (ValueError, "task_column names columns that X does not have", SharedBottom, {"task_column": "x"}, {}),
    (TypeError, "Shards are for LightGBM only", IndependentTasks, {"classifier": LogisticRegression()}, {}),
    (TypeError, "cannot be fitted on Shards", MultiTaskEnsemble, {}, {}),
]


@pytest.mark.parametrize(("error", "message", "cls", "params", "given"), REFUSED)
def test_mistakes_are_told(table, error, message, cls, params, given):
    model = tiny(cls, columns=BOTH).set_params(**params)
    with pytest.raises(error, match=message):
        model.fit(Shards(table.lazy()), "late" if params else TARGETS, **given)


@pytest.mark.parametrize(("place", "number"), [("_Writer.add", ENOSPC), ("_write", EACCES)])
def test_a_full_disk_is_told_with_the_folder_and_no_other_error_is(folder, tmp_path, monkeypatch, place, number):
    refused = OSError(number, os.strerror(number))

    def fail(*_):
        raise refused

    monkeypatch.setattr(f"tabmtl.scale.cache.{place}", fail)
    with pytest.raises(OSError) as caught:
        tiny(SharedBottom, columns=WHO).fit(Shards(folder / "*.parquet", cache=tmp_path / "cache"), TARGETS)
    told = r"encoded rows could not be written: No space .*; make room .*'.*/cache'"
    assert caught.match(told) if number == ENOSPC else caught.value is refused
