"""Trainings that are cut off and go on: to the model of one that was not, or with one error that says why not."""

import json
from functools import partial

import numpy as np
import polars as pl
import pytest
import recommenders
from conformance import features, mixed_targets, tiny
from ranks import read_small_parts, run_ranks

from tabmtl import HoME, IndependentTasks, MMoE, SharedBottom
from tabmtl.nn import embeddings
from tabmtl.scale import Shards, cache, joined
from tabmtl.training import checkpoint
from tabmtl.training.run import current, entered
from tabmtl.training.table_loop import TableLoop

TARGETS = ["late", "size", "delay"]


class CutOff(Exception):
    """The end of a machine."""


@pytest.fixture(scope="module")
def table():
    X = features(300)
    return pl.concat([X, mixed_targets(X)], how="horizontal")


def cut_off(after):
    def hook(record):
        if record["epoch"] == after:
            raise CutOff

    return hook


def train(folder, fit, cut_after=None):
    """Fit in a job with checkpoints, which may be cut off in an epoch."""
    with entered(current(), folder):
        return fit(None if cut_after is None else cut_off(cut_after))


def cut_and_resumed(folder, fit, cut_after=2):
    with pytest.raises(CutOff):
        train(folder, fit, cut_after)
    assert [file.name for file in folder.iterdir()] == ["fit-1.safetensors"]
    seen = []
    model = train(folder, lambda _: fit(lambda record: seen.append(record["epoch"])))
    assert seen == list(range(cut_after, model.history_.height))
    assert not list(folder.iterdir())
    return model


def assert_equal(model, other):
    assert model.history_.equals(other.history_)
    assert model.best_iteration_ == other.best_iteration_
    assert {name: weights.tobytes() for name, weights in model.weights_.items()} == {
        name: weights.tobytes() for name, weights in other.weights_.items()
    }


@pytest.mark.parametrize(
    ("cls", "params", "is_stored"),
    [
        (SharedBottom, {"patience": 1, "restarts": 2}, True),
        (SharedBottom, {"early_stopping": False}, True),
        (MMoE, {}, True),
        (HoME, {}, False),
        (SharedBottom, {"early_stopping": False}, False),
    ],
)
def test_a_training_goes_on_as_if_nothing_had_been(cls, params, is_stored, table, tmp_path, monkeypatch):
    monkeypatch.setattr(embeddings, "DENSE_ROWS", 1)
    monkeypatch.setattr(cache, "CHUNK_ROWS", 16)
    X, y = table.drop(TARGETS), table.select(TARGETS)

    def fit(on_epoch):
        model = tiny(cls, epochs=4, on_epoch=on_epoch, **params)
        return model.fit(Shards(table.lazy()), TARGETS) if is_stored else model.fit(X, y)

    whole, resumed = fit(None), cut_and_resumed(tmp_path, fit)
    assert_equal(whole, resumed)
    assert whole.predict(X).equals(resumed.predict(X))


@pytest.mark.all_faces
def test_so_does_a_recommender(tmp_path):
    def fit(on_epoch):
        model = recommenders.tiny("M2TRec", epochs=3, on_epoch=on_epoch)
        return model.fit(recommenders.TRAIN, items=recommenders.ITEMS)

    whole, resumed = fit(None), cut_and_resumed(tmp_path, fit, 1)
    assert_equal(whole, resumed)
    assert recommenders.all_scores(whole, recommenders.TEST).equals(recommenders.all_scores(resumed, recommenders.TEST))


def test_a_seed_that_was_drawn_is_kept(table, tmp_path):
    X, y = table.drop(TARGETS), table.select(TARGETS)
    drawn = []

    def fit(on_epoch):
        return tiny(SharedBottom, epochs=3, random_state=None, on_epoch=on_epoch).fit(X, y)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tabmtl.estimators.base.draw_seed", lambda state: drawn.append(7 + len(drawn)) or drawn[-1])
        resumed = cut_and_resumed(tmp_path, fit, 1)
    assert drawn == [7, 8]
    assert_equal(resumed, tiny(SharedBottom, epochs=3, random_state=7).fit(X, y))


def test_two_ranks_go_on_together_and_one_goes_on_alone(table, tmp_path, monkeypatch):
    read_small_parts(monkeypatch)

    def fit(on_epoch, **params):
        model = tiny(SharedBottom, epochs=3, on_epoch=on_epoch, **params)
        return model.fit(Shards(table.lazy()), TARGETS)

    noiseless = partial(fit, dropout=0.0)
    whole, _ = run_ranks(2, lambda: train(tmp_path, fit))
    with pytest.raises(CutOff):
        run_ranks(2, lambda: train(tmp_path, fit, 1))
    for resumed in run_ranks(2, lambda: train(tmp_path, fit)):
        assert_equal(whole, resumed)
    with pytest.raises(CutOff):
        run_ranks(2, lambda: train(tmp_path, noiseless, 2))
    alone, resumed = noiseless(None), train(tmp_path, noiseless)
    X = table.drop(TARGETS)
    assert not alone.history_.equals(resumed.history_)  # rounding tells who took the first steps
    np.testing.assert_allclose(resumed.predict(X)["delay"], alone.predict(X)["delay"], rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(resumed.history_.to_numpy(), alone.history_.to_numpy(), rtol=1e-3, atol=1e-3)


def test_fits_of_a_job_are_counted_and_those_within_a_fit_are_not(table, tmp_path):
    X, y = table.drop(TARGETS), table.select("delay")
    within = IndependentTasks(regressor=tiny(SharedBottom, epochs=1), random_state=0)

    def job(cut_after):
        within.fit(X, y)
        first = tiny(SharedBottom, epochs=2).fit(X, y)
        assert [file.name for file in tmp_path.iterdir()] >= ["fit-2.safetensors"]
        return first, tiny(SharedBottom, epochs=3, on_epoch=None if cut_after is None else cut_off(cut_after)).fit(X, y)

    with pytest.raises(CutOff), joined(checkpoint=tmp_path):
        job(1)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["fit-2.safetensors", "fit-3.safetensors"]
    with joined(checkpoint=tmp_path), pytest.MonkeyPatch.context() as patch:
        epochs = []
        run_epoch = TableLoop.run_epoch
        patch.setattr(TableLoop, "run_epoch", lambda self, n: epochs.append(n) or run_epoch(self, n))
        first, second = job(None)
    assert epochs == [0, 1, 2]  # of the network within; the first one had ended
    assert (first.history_.height, second.history_.height) == (2, 3)
    assert not list(tmp_path.iterdir())


@pytest.fixture
def cut(table, tmp_path):
    """The file of a training that was cut off."""
    X, y = table.drop(TARGETS), table.select(TARGETS)
    with pytest.raises(CutOff), joined(checkpoint=tmp_path):
        tiny(SharedBottom, epochs=2, on_epoch=cut_off(1)).fit(X, y)
    return tmp_path / "fit-1.safetensors"


def test_another_training_is_told_by_all_that_differs(table, cut, monkeypatch):
    X, y = table.drop(TARGETS), table.select(TARGETS)

    def told(model, X=X, y=y):
        with pytest.raises(ValueError, match="is of another training") as caught, joined(checkpoint=cut.parent):
            model.fit(X, y)
        assert not hasattr(model, "weights_")
        return str(caught.value).partition("another training: ")[2]

    changed = tiny(SharedBottom, epochs=3, learning_rate=0.5, average_decay=0.5, n_jobs=2, verbose=1)
    assert told(changed).startswith(
        "the parameter average_decay was 0.998 and is 0.5, the parameter epochs was 2 and is 3, the parameter "
        "learning_rate was 0.002 and is 0.5; to go on, make the same fits of the same rows"
    )
    assert "estimator was 'SharedBottom' and is 'MMoE'" in told(tiny(MMoE, epochs=2))
    same = tiny(SharedBottom, epochs=2)
    text = told(same, X[1:], y[1:])
    assert "the number of training rows was 255 and is 25" in text or "columns and tasks was" in text
    moved = X.with_columns(plain=pl.when(pl.int_range(300) == 150).then(pl.col("plain") + 0.125).otherwise("plain"))
    assert "checksum" in told(same, moved)
    monkeypatch.setattr(checkpoint, "version", lambda name: "9.9")
    assert "and is '9.9'" in told(same)
    assert cut.exists()


def test_a_file_that_is_not_whole_is_told(table, cut):
    X, y = table.drop(TARGETS), table.select(TARGETS)
    whole = cut.read_bytes()
    for content in (whole[:-9], b"", whole.replace(b"history", b"mystery")):
        cut.write_bytes(content)
        with (
            pytest.raises(ValueError, match=r"fit-1\.safetensors cannot be read: .*remove it"),
            joined(checkpoint=cut.parent),
        ):
            tiny(SharedBottom, epochs=2).fit(X, y)
    found = checkpoint._read
    cut.write_bytes(whole)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoint, "_read", lambda file: _without_a_weight(found(file)))
        with (
            pytest.raises(ValueError, match=r"does not fit: its network is .* expected the keys .*; remove it"),
            joined(checkpoint=cut.parent),
        ):
            tiny(SharedBottom, epochs=2).fit(X, y)


def _without_a_weight(found):
    found["state"]["network"].popitem()
    return found


def test_a_file_that_cannot_be_written_leaves_the_one_before(table, cut, monkeypatch):
    before = cut.read_bytes()

    def fail(*args, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "save_file", fail)
    with pytest.raises(OSError, match="No space left") as caught, joined(checkpoint=cut.parent):
        tiny(SharedBottom, epochs=2).fit(table.drop(TARGETS), table.select(TARGETS))
    assert "the one of the epoch before is whole" in caught.value.__notes__[0]
    assert cut.read_bytes() == before
    assert [file.name for file in cut.parent.iterdir()] == [cut.name]


def test_what_a_killed_writer_left_is_removed(tmp_path):
    (tmp_path / ".fit-1.safetensors.123").touch()
    (tmp_path / "notes.txt").touch()
    with joined(checkpoint=tmp_path):
        assert [file.name for file in tmp_path.iterdir()] == ["notes.txt"]
    assert [file.name for file in tmp_path.iterdir()] == ["notes.txt"]


def test_the_file_is_json_and_arrays(cut):
    size = int.from_bytes(cut.read_bytes()[:8], "little")
    facts = json.loads(json.loads(cut.read_bytes()[8 : 8 + size])["__metadata__"]["checkpoint"])["facts"]
    assert facts["seed"] == 0
    assert facts["the parameter hidden"] == {"tuple": [16, 8]}


def test_progress_goes_on_with_the_next_epoch(table, cut, capsys):
    with joined(checkpoint=cut.parent):
        tiny(SharedBottom, epochs=2, verbose=1).fit(table.drop(TARGETS), table.select(TARGETS))
    first, second = capsys.readouterr().out.splitlines()
    assert first == "SharedBottom  goes on after epoch 1 of 2, from a checkpoint"
    assert second.startswith("SharedBottom  epoch 2/2  ")
