"""Files that are predicted: the same answers as of frames, whole files, and errors that name the file."""

import os
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import polars as pl
import pytest
from conformance import features, mixed_targets, tiny
from models_at_hand import fitted
from polars.testing import assert_frame_equal

import tabmtl.scale.files
from tabmtl import RMTGB, IndependentTasks, MMoEClassifier, MultiTaskEnsemble, SharedBottom
from tabmtl.base.storage.atomic import locked
from tabmtl.scale import predict_file, predict_files, score_files
from tabmtl.scale.files import plan_files
from tabmtl.sessions import Popularity


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch):
    """Read 50 rows at a time."""
    monkeypatch.setattr(tabmtl.scale.files, "_BLOCK_ROWS", 50)


@pytest.fixture(scope="module")
def net():
    """A network, and its features."""
    return fitted(SharedBottom)[:2]


def written(X, folder, parts=2):
    """Write rows as files, and return a glob for them."""
    folder.mkdir(exist_ok=True)
    for i, part in enumerate(np.array_split(np.arange(X.height), parts)):
        X[part.tolist()].write_parquet(folder / f"part-{i}.parquet")
    return folder / "*.parquet"


@pytest.mark.parametrize("cls", [SharedBottom, RMTGB, IndependentTasks, MultiTaskEnsemble, MMoEClassifier])
def test_files_are_answered_as_frames_are(cls, tmp_path):
    model, X, _ = fitted(cls)
    files = predict_files(model, written(X, tmp_path / "new"), tmp_path / "scored")
    assert [file.name for file in files] == ["part-0.parquet", "part-1.parquet"]
    assert_frame_equal(pl.read_parquet(files), model.predict(X), check_exact=True)


def test_probabilities_and_features_have_names(net, tmp_path):
    model, X = net
    paths = written(X, tmp_path / "new")
    found = pl.read_parquet(predict_files(model, paths, tmp_path / "proba", method="predict_proba"))
    names = [f"{task.name}={label}" for task in model.tasks_ for label in task.classes or ()]
    assert found.columns == names
    assert np.array_equal(found.select("^late=.*$"), model.predict_proba(X)["late"])
    found = pl.read_parquet(predict_files(model, paths, tmp_path / "features", method="transform"))
    assert found.columns == list(model.get_feature_names_out())
    assert np.array_equal(found, model.transform(X))


def test_one_file_is_answered_in_one_file(net, tmp_path):
    model, X = net
    X.write_parquet(tmp_path / "new.parquet")
    (expected,) = predict_files(model, tmp_path / "new.parquet", tmp_path / "scored", method="both")
    predict_file(model, tmp_path / "new.parquet", tmp_path / "new.csv", method="both")
    expected = pl.read_parquet(expected)
    assert expected.columns[: len(model.tasks_)] == [task.name for task in model.tasks_]
    assert_frame_equal(pl.read_csv(tmp_path / "new.csv", schema=expected.schema), expected)


def test_files_are_scored_as_a_frame_is(tmp_path):
    model, X, y = fitted(SharedBottom)
    expected = model.score_intervals(X, y)
    X.hstack(y).with_columns(more=pl.lit("x")).write_csv(tmp_path / "new.csv")
    assert_frame_equal(score_files(model, tmp_path / "new.csv"), expected)
    for n, rows in enumerate(X.hstack(y).iter_slices(150)):
        rows.write_parquet(tmp_path / f"part{n}.parquet")
    assert_frame_equal(score_files(model, tmp_path / "part*.parquet"), expected)


def test_columns_are_found_by_name_and_others_kept_on_demand(net, tmp_path):
    model, X = net
    more = X.select(reversed(X.columns)).with_row_index("id").with_columns(noise=pl.lit("x"))
    (file,) = predict_files(model, written(more, tmp_path / "new", parts=1), tmp_path / "scored", keep=["id", "text"])
    expected = pl.concat([more.select("id", "text"), model.predict(X)], how="horizontal")
    assert_frame_equal(pl.read_parquet(file), expected, check_exact=True)


def test_csv_files_are_read_by_the_types_of_fit(tmp_path):
    X = features().with_columns(zip=pl.Series(["007", "1", "12"] * 40), code=pl.Series([1.0, 2.0, None] * 40))
    y = mixed_targets(X).with_columns(delay=X["plain"] + 3.0 * (X["zip"] == "007") + X["code"].fill_null(5))
    model = tiny(SharedBottom, columns={"code": "category"}).fit(X, y)
    new = X.with_columns(holes=pl.lit(None, pl.Float64))
    file = tmp_path / "new.csv"
    new.write_csv(file)
    (found,) = predict_files(model, file, tmp_path)
    assert_frame_equal(pl.read_parquet(found), model.predict(new), check_exact=True)


def test_an_array_is_answered_by_position(tmp_path):
    X = features().select("plain", "holes", "count").to_numpy()
    model = tiny(SharedBottom).fit(X, X[:, 0])
    pl.DataFrame(X, schema=["a", "b", "c"]).with_row_index("id").write_parquet(tmp_path / "new.parquet")
    (file,) = predict_files(model, tmp_path / "new.parquet", tmp_path / "scored", keep=["id"])
    assert pl.read_parquet(file)["y"].to_list() == model.predict(X).tolist()


@pytest.mark.parametrize("method", ["predict", "predict_proba", "transform"])
def test_a_file_without_rows_has_an_answer_without_rows(net, tmp_path, method):
    model, X = net
    X.clear().write_parquet(tmp_path / "none.parquet")
    X.write_parquet(tmp_path / "some.parquet")
    none, some = predict_files(model, sorted(tmp_path.glob("*.parquet")), tmp_path / method, method=method)
    assert pl.read_parquet(none).schema == pl.read_parquet(some).schema
    assert pl.read_parquet(none).height == 0


def test_rows_of_a_file_are_counted_through_its_blocks(tmp_path):
    rows = pl.DataFrame({"v": [[0.5, k / 7] for k in range(120)], "y": np.arange(120) / 7})
    model = IndependentTasks(random_state=0).fit(rows.drop("y"), rows.select("y"))
    bad = pl.when(pl.int_range(120) == 107).then([0.5]).otherwise("v")
    rows.with_columns(v=bad).write_parquet(tmp_path / "new.parquet")
    for answer in (score_files, lambda *args: predict_file(*args, tmp_path / "answers.parquet")):
        with pytest.raises(ValueError, match=r"that of row 107 of .*new.parquet, counted from 0, has 1: mend it"):
            answer(model, tmp_path / "new.parquet")


def test_an_error_names_the_file_and_leaves_no_part_of_an_answer(net, tmp_path):
    model, X = net
    paths = written(X, tmp_path / "new")
    before = predict_files(model, paths, tmp_path / "scored")[1].read_bytes()
    late = pl.when(pl.int_range(60) == 55).then(float("inf")).otherwise("plain").alias("plain")
    broken = tmp_path / "new" / "part-1.parquet"
    pl.read_parquet(broken).with_columns(late).write_parquet(broken)
    with pytest.raises(ValueError, match="column 'plain' holds an infinite value") as caught:
        predict_files(model, paths, tmp_path / "scored")
    assert caught.value.__notes__ == [f"in the file {broken}"]
    assert sorted(file.name for file in (tmp_path / "scored").iterdir()) == ["part-0.parquet", "part-1.parquet"]
    assert (tmp_path / "scored" / "part-1.parquet").read_bytes() == before


REFUSED = [
    (FileNotFoundError, "no file is called .*old", predict_files, "old*.parquet", "to", {}),
    (ValueError, "is a folder; name the files in it", predict_files, "", "to", {}),
    (ValueError, "is an input, which its answers", predict_files, "part*", "new", {}),
    (ValueError, "must be one of .*near is 'predict'", predict_files, "part*", "to", {"method": "predic"}),
    (ValueError, r"lacks the columns \['idd'\]", predict_files, "part*", "to", {"keep": ["idd"]}),
    (ValueError, r"\['count'\], which the model was fitted on", predict_files, "less*", "to", {}),
    (TypeError, "answers whole sessions", predict_files, "part*", "to", {"model": Popularity()}),
    (ValueError, "names 2 files, expected one", predict_file, "part*", "one.csv", {}),
    (ValueError, "by its name; call the answers", predict_file, "part-0*", "one.txt", {}),
    (FileNotFoundError, "make its folder, or name", predict_file, "part-0.parquet", "no/a.csv", {}),
]


@pytest.mark.parametrize(("error", "message", "answer", "source", "to", "options"), REFUSED)
def test_mistakes_are_told(net, tmp_path, error, message, answer, source, to, options):
    model, X = net
    written(X, tmp_path / "new")
    X.drop("count").write_parquet(tmp_path / "new" / "less.parquet")
    arguments = {"model": model} | options
    with pytest.raises(error, match=message):
        answer(arguments.pop("model"), tmp_path / "new" / source, tmp_path / to, **arguments)
    assert not [*tmp_path.glob("to/*")]


def test_files_without_targets_or_rows_or_named_twice_are_told(net, tmp_path):
    model, X = net
    paths = written(X, tmp_path)
    with pytest.raises(ValueError, match="twice; name every file once"):
        predict_files(model, [paths, paths], tmp_path / "to")
    with pytest.raises(ValueError, match="RMTGB has no method transform; choose"):
        predict_files(fitted(RMTGB)[0], paths, tmp_path / "to", method="transform")
    with pytest.raises(ValueError, match=r"the file lacks the targets .*; it has"):
        score_files(model, paths)
    X.hstack(model.predict(X)).clear().write_parquet(tmp_path / "none.parquet")
    with pytest.raises(ValueError, match="the file has no rows to score"):
        score_files(model, tmp_path / "none.parquet")


def test_what_killed_processes_have_left_is_removed(net, tmp_path, caplog):
    model, X = net
    paths = written(X, tmp_path / "new")
    scored = tmp_path / "scored"
    scored.mkdir()
    left, other = scored / f".part-0.parquet.{2**59}", scored / f".mine.parquet.{2**59}"
    left.touch()
    other.touch()
    with locked(scored, shared=True):  # as a process that writes there does
        predict_files(model, paths, scored)
        assert left.exists()
    predict_files(model, paths, scored)
    assert (left.exists(), other.exists()) == (False, True)
    assert f"a killed process has left in {scored}: ['{left.name}']" in caplog.text


@pytest.mark.parametrize("name", ["new.parquet", "new.csv"])
def test_a_full_disk_is_told_with_the_file_of_the_answers(net, tmp_path, monkeypatch, name):
    def full(*_):
        raise pl.exceptions.ComputeError(
            "parquet: File out of specification: underlying IO error: No space (os error 28)"
        )

    model, X = net
    X.write_parquet(tmp_path / "rows.parquet")
    monkeypatch.setattr(pl.LazyFrame, "sink_csv" if name.endswith("csv") else "sink_parquet", full)
    message = rf"the answers could not be written: No space left on device; make room there, .*{name}'"
    with pytest.raises(OSError, match=message):
        predict_file(model, tmp_path / "rows.parquet", tmp_path / name)
    assert [file.name for file in tmp_path.iterdir()] == ["rows.parquet"]


def test_many_files_are_planned_in_one_pass(net, tmp_path, monkeypatch):
    resolved, resolve = [], Path.resolve
    monkeypatch.setattr(Path, "resolve", lambda path, **options: resolved.append(path) or resolve(path, **options))
    for i in range(200):
        (tmp_path / f"{i}.parquet").touch()
    planned = plan_files(net[0], tmp_path / "*.parquet", tmp_path / "scored", "predict")
    assert len(planned) == 200
    assert len(resolved) <= 201


@pytest.mark.parametrize("fails", [1, 2])
def test_errors_of_the_model_blame_neither_the_input_nor_the_output(net, tmp_path, monkeypatch, fails):
    model, X = net
    X.write_parquet(tmp_path / "rows.parquet")
    lost = PermissionError(13, "Permission denied", "levels.json")
    monkeypatch.setattr(
        type(model), "__answers__", Mock(side_effect=[*[model.__answers__(X[:50])] * (fails - 1), lost])
    )
    with pytest.raises(PermissionError) as caught:
        predict_file(model, tmp_path / "rows.parquet", tmp_path / "scored.parquet")
    assert caught.value is lost
    assert [file.name for file in tmp_path.iterdir()] == ["rows.parquet"]


def test_one_file_looks_at_no_others(net, tmp_path, monkeypatch):
    model, X = net
    X.write_parquet(tmp_path / "rows.parquet")
    monkeypatch.setattr(os, "scandir", None)
    assert predict_file(model, tmp_path / "rows.parquet", tmp_path / "scored.parquet") == len(X)
