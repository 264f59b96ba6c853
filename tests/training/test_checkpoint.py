"""Trainings that are cut off and go on: to the model of one that was not, or with one error that says why not."""

import json

import cutting
import polars as pl
import pytest
from conformance import tiny
from cutting import TARGETS, CutOff, assert_equal, cut_and_resumed, cut_off

from tabmtl import HoME, IndependentTasks, MMoE, SharedBottom
from tabmtl.base.ranks import ALONE
from tabmtl.nn import embeddings
from tabmtl.training import checkpoint
from tabmtl.training.run import entered
from tabmtl.training.table_loop import TableLoop


@pytest.fixture(scope="module")
def table():
    return cutting.table()


@pytest.mark.parametrize(("cls", "params"), [(HoME, {}), (SharedBottom, {"early_stopping": False})])
def test_a_training_goes_on_as_if_nothing_had_been(cls, params, table, tmp_path, monkeypatch):
    monkeypatch.setattr(embeddings, "DENSE_ROWS", 1)
    X, y = table.drop(TARGETS), table.select(TARGETS)

    def fit(on_epoch):
        return tiny(cls, epochs=4, on_epoch=on_epoch, **params).fit(X, y)

    whole, resumed = fit(None), cut_and_resumed(tmp_path, fit)
    assert_equal(whole, resumed)
    assert whole.predict(X).equals(resumed.predict(X))


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


def test_fits_of_a_job_are_counted_and_those_within_a_fit_are_not(table, tmp_path):
    X, y = table.drop(TARGETS), table.select("delay")
    within = IndependentTasks(regressor=tiny(SharedBottom, epochs=1), random_state=0)

    def job(cut_after):
        within.fit(X, y)
        first = tiny(SharedBottom, epochs=2).fit(X, y)
        assert [file.name for file in tmp_path.iterdir()] >= ["fit-2.safetensors"]
        return first, tiny(SharedBottom, epochs=3, on_epoch=None if cut_after is None else cut_off(cut_after)).fit(X, y)

    with pytest.raises(CutOff), entered(ALONE, tmp_path):
        job(1)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["fit-2.safetensors", "fit-3.safetensors"]
    with entered(ALONE, tmp_path), pytest.MonkeyPatch.context() as patch:
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
    with pytest.raises(CutOff), entered(ALONE, tmp_path):
        tiny(SharedBottom, epochs=2, on_epoch=cut_off(1)).fit(X, y)
    return tmp_path / "fit-1.safetensors"


def test_another_training_is_told_by_all_that_differs(table, cut, monkeypatch):
    X, y = table.drop(TARGETS), table.select(TARGETS)

    def told(model, X=X, y=y):
        with pytest.raises(ValueError, match="is of another training") as caught, entered(ALONE, cut.parent):
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
            entered(ALONE, cut.parent),
        ):
            tiny(SharedBottom, epochs=2).fit(X, y)
    found = checkpoint._read
    cut.write_bytes(whole)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoint, "_read", lambda file: _without_a_weight(found(file)))
        with (
            pytest.raises(ValueError, match=r"does not fit: its network is .* expected the keys .*; remove it"),
            entered(ALONE, cut.parent),
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
    with pytest.raises(OSError, match="No space left") as caught, entered(ALONE, cut.parent):
        tiny(SharedBottom, epochs=2).fit(table.drop(TARGETS), table.select(TARGETS))
    assert "the one of the epoch before is whole" in caught.value.__notes__[0]
    assert cut.read_bytes() == before
    assert [file.name for file in cut.parent.iterdir()] == [cut.name]


def test_what_a_killed_writer_left_is_removed(tmp_path):
    (tmp_path / ".fit-1.safetensors.123").touch()
    (tmp_path / "notes.txt").touch()
    with entered(ALONE, tmp_path):
        assert [file.name for file in tmp_path.iterdir()] == ["notes.txt"]
    assert [file.name for file in tmp_path.iterdir()] == ["notes.txt"]


def test_the_file_is_json_and_arrays(cut):
    size = int.from_bytes(cut.read_bytes()[:8], "little")
    facts = json.loads(json.loads(cut.read_bytes()[8 : 8 + size])["__metadata__"]["checkpoint"])["facts"]
    assert facts["seed"] == 0
    assert facts["the parameter hidden"] == {"tuple": [16, 8]}


def test_progress_goes_on_with_the_next_epoch(table, cut, capsys):
    with entered(ALONE, cut.parent):
        tiny(SharedBottom, epochs=2, verbose=1).fit(table.drop(TARGETS), table.select(TARGETS))
    first, second = capsys.readouterr().out.splitlines()
    assert first == "SharedBottom  goes on after epoch 1 of 2, from a checkpoint"
    assert second.startswith("SharedBottom  epoch 2/2  ")
