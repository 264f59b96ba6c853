"""A model's folder is whole or refused: killed saves, damaged and foreign files, and what a folder may hold."""

import gzip
import json
import multiprocessing
import os
import pickle
import signal
import tracemalloc
from importlib.metadata import version
from pathlib import Path

import lightgbm as lgb
import numpy as np
import pytest
import torch
from conformance import answers, same, tiny
from forging import DAMAGES, forge, parts_of
from models_at_hand import fitted
from safetensors.numpy import load_file

import tabmtl
from tabmtl import IndependentTasks, ModelFileError, SharedBottom
from tabmtl.base.storage import persist
from tabmtl.base.storage.persist import FORMAT, read_folder, write_folder
from tabmtl.base.storage.stored import Saved

LONG = "3.14 15.92 " * 100_000


class OwnNet(SharedBottom):
    """A network of a user."""


def test_a_folder_holds_json_safetensors_and_text(stored):
    folder, estimator, _ = stored
    manifest = json.loads((folder / "manifest.json").read_text())
    assert (manifest["format"], manifest["tabmtl"]) == (FORMAT, version("tabmtl"))
    assert manifest["class"] == type(estimator).__name__
    for file in folder.iterdir():
        if file.suffix == ".json":
            json.loads(file.read_text())
        elif file.suffix == ".safetensors":
            load_file(file)
        else:
            assert file.suffix in (".txt", ".gz")
            text = file.read_bytes() if file.suffix == ".txt" else gzip.decompress(file.read_bytes())
            assert text.startswith(b"tree\n")
        assert not file.read_bytes().startswith(b"\x80"), "the mark of a pickle"
    (model,) = folder.glob("model-*.json")
    assert "'late'" in str(json.loads(model.read_text())["coder"])


def test_nothing_is_pickled(stored, tmp_path, monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("pickle was used")

    _, estimator, X = stored
    estimator.save(tmp_path / "model")
    tabmtl.load(tmp_path / "model")  # torch loads parts of itself here that name classes of pickle
    for name in ("dump", "dumps", "load", "loads", "Pickler", "Unpickler"):
        monkeypatch.setattr(pickle, name, refuse)
    monkeypatch.setattr(torch, "save", refuse)
    monkeypatch.setattr(torch, "load", refuse)
    estimator.save(tmp_path / "model")
    assert same(answers(estimator, X), answers(tabmtl.load(tmp_path / "model"), X))


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_file_is_refused_and_reaches_no_reader(folder, damage, monkeypatch, refused):
    monkeypatch.setattr(lgb, "Booster", None)
    monkeypatch.setattr(SharedBottom, "_restore", None)
    for file in sorted(folder.iterdir()):
        content = file.read_bytes()
        file.write_bytes(damage(content))
        refused(folder)
        file.unlink()
        refused(folder)
        file.write_bytes(content)


def test_what_is_no_folder_of_a_model_is_refused(tmp_path, refused):
    (tmp_path / "file").write_text("{}")
    (tmp_path / "empty").mkdir()
    for name, manifest in (("web", '{"name": "a web page", "format": 1}'), ("list", "[1]")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "manifest.json").write_text(manifest)
    for name in ("file", "empty", "web", "list"):
        refused(tmp_path / name)
    assert refused(tmp_path / "nowhere", "nowhere, seen from the folder ").startswith("there is no folder ")


@pytest.mark.parametrize("name", ["a\0b", "a\ud800"])
def test_a_path_that_no_file_system_takes_is_refused(stored, tmp_path, name):
    for use in (tabmtl.load, stored[1].save):
        with pytest.raises(ModelFileError, match=r"no folder can be named .*take that out of the path") as caught:
            use(f"{tmp_path}/{name}")
        assert str(caught.value).isprintable()


ENTRIES = ["x", {"file": "a"}, {"file": "a", "sha256": "b"}]


@pytest.mark.parametrize("files", [[], None, {}, "text", *({"model.json": entry} for entry in ENTRIES)])
def test_a_forged_manifest_is_refused(folder, files, refused):
    refused(forge(folder, files=files))


def test_another_class_is_refused(folder, stored, refused):
    refused(folder, "OwnNet", cls=OwnNet)
    other = {IndependentTasks: "SharedBottom", SharedBottom: "IndependentTasks"}[type(stored[1])]
    refused(forge(folder, **{"class": other}))


@pytest.mark.parametrize("cls", [1, "SharedBottom", int, SharedBottom(), lambda: SharedBottom])
def test_what_is_no_class_of_an_estimator_is_refused(folder, cls):
    with pytest.raises(TypeError, match=r"cls must be the class of the estimator, got .*; leave it out"):
        tabmtl.load(folder, cls=cls)


def test_a_class_of_the_user_is_given(tmp_path, refused):
    estimator, X, _ = fitted(OwnNet)
    estimator.save(tmp_path / "model")
    refused(tmp_path / "model", "cls=OwnNet")
    loaded = tabmtl.load(tmp_path / "model", cls=OwnNet)
    assert type(loaded) is OwnNet
    assert same(answers(estimator, X), answers(loaded, X))


def test_other_files_in_the_folder_are_neither_read_nor_removed(folder, stored):
    _, estimator, X = stored
    (folder / "README.md").write_text("a model")
    (folder / "evil.pkl").write_bytes(b"cos\nsystem\n(S'exit 1'\ntR.")
    (folder / "notes").mkdir()
    assert same(answers(estimator, X), answers(tabmtl.load(folder), X))
    estimator.save(folder)
    assert {"README.md", "evil.pkl", "notes", "manifest.json"} <= {file.name for file in folder.iterdir()}


def test_a_save_over_a_model_leaves_only_the_new_files(folder, stored):
    _, _, X = stored
    other = tiny(SharedBottom, random_state=5).fit(X, X["plain"].alias("target"))
    before = {file.name for file in folder.iterdir()}
    other.save(folder)
    after = {file.name for file in folder.iterdir()}
    assert before & after == {"manifest.json"}
    assert len(after) == 3
    assert same(answers(other, X), answers(tabmtl.load(folder), X))


def test_a_foreign_folder_is_not_written_to(stored, tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    (tmp_path / "manifest.json").write_text('{"name": "a web page"}')
    for _ in range(2):
        with pytest.raises(FileExistsError, match="choose another folder"):
            stored[1].save(tmp_path)
        assert "web page" in (tmp_path / "manifest.json").read_text()
        (tmp_path / "thesis.tex").unlink(missing_ok=True)


def save_and_die(folder, step, call):
    """Save a model, and kill this process at some call of a step."""
    owner = {"fsync": os, "replace": os, "unlink": Path}[step]
    function, calls = getattr(owner, step), []

    def count_and_die(*args, **kwargs):
        calls.append(args)
        if len(calls) == call:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*args, **kwargs)

    setattr(owner, step, count_and_die)
    write_folder(folder, "New", Saved(facts={"new": True}, arrays={"a": np.ones(3)}, texts={"trees0": "text"}))


def killed_save(folder, step, call):
    """The exit code of a process that was killed while it saved."""
    process = multiprocessing.get_context("fork").Process(target=save_and_die, args=(folder, step, call))
    process.start()
    process.join()
    return process.exitcode


@pytest.mark.parametrize(
    ("step", "call"), [("fsync", 1), ("fsync", 2), ("fsync", 4), *(("replace", k) for k in (1, 2, 3, 4)), ("unlink", 1)]
)
def test_a_killed_save_leaves_a_whole_model(tmp_path, step, call):
    folder = tmp_path / "model"
    old = Saved(facts={"new": False}, arrays={"a": np.zeros(3)})
    write_folder(folder, "Old", old)
    assert killed_save(folder, step, call) == -signal.SIGKILL
    name, saved = read_folder(folder)
    assert (name, saved.facts) == (("New", {"new": True}) if step == "unlink" else ("Old", {"new": False}))
    assert (saved.arrays["a"] == float(step == "unlink")).all()
    write_folder(folder, "Old", old)
    assert len(list(folder.iterdir())) == 3


def test_a_killed_first_save_can_be_done_again(tmp_path):
    folder = tmp_path / "model"
    assert killed_save(folder, "replace", 3) == -signal.SIGKILL
    assert len(list(folder.iterdir())) == 3
    with pytest.raises(ModelFileError, match="manifest"):
        read_folder(folder)
    write_folder(folder, "Old", Saved(facts={}))
    assert read_folder(folder)[0] == "Old"
    assert len(list(folder.iterdir())) == 3


def test_a_long_text_is_compressed_and_comes_back(tmp_path):
    saved = Saved(facts={}, texts={"trees0": LONG, "trees1": "short"})
    write_folder(tmp_path, "M", saved)
    assert read_folder(tmp_path)[1].texts == saved.texts
    long, short = parts_of(tmp_path)["trees0.txt.gz"], parts_of(tmp_path)["trees1.txt"]
    assert gzip.decompress(long.read_bytes()) == LONG.encode() and short.read_text() == "short"
    assert long.stat().st_size < len(LONG) / 10
    content = long.read_bytes()
    write_folder(tmp_path, "M", saved)
    assert parts_of(tmp_path)["trees0.txt.gz"] == long and long.read_bytes() == content  # without a time in it


@pytest.mark.parametrize("declared", [5, 2**26, 2**32 - 1])
def test_no_more_is_read_of_a_compressed_file_than_it_declares(tmp_path, monkeypatch, declared):
    write_folder(tmp_path, "M", Saved(facts={}, texts={"trees0": LONG}))
    content = gzip.compress(bytes(2**26), mtime=0)[:-4] + declared.to_bytes(4, "little")
    forge(tmp_path, {"trees0.txt.gz": content})
    monkeypatch.setattr(persist, "most_bytes", lambda: 2**25)
    tracemalloc.start()
    try:
        with pytest.raises(ModelFileError, match=r"trees0\.txt\.gz (is no file of gzip, or holds|holds more than)"):
            read_folder(tmp_path)
        assert tracemalloc.get_traced_memory()[1] < 2**22
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (gzip.compress(bytes(2**23), mtime=0), r"trees0.txt.gz holds more than the \d+ bytes that can be read"),
        (gzip.compress(b"tree", mtime=0)[:-5] + bytes(4), "trees0.txt.gz is no file of gzip"),
        (gzip.compress(b"tree", mtime=0) * 2, "trees0.txt.gz is no file of gzip"),
        (b"tree", "trees0.txt.gz is no file of gzip"),
    ],
)
def test_a_compressed_file_that_is_none_or_fills_the_memory_is_refused(tmp_path, monkeypatch, content, words):
    write_folder(tmp_path, "M", Saved(facts={}, texts={"trees0": LONG}))
    forge(tmp_path, {"trees0.txt.gz": content})
    monkeypatch.setattr(persist, "most_bytes", lambda: 2**22)
    with pytest.raises(ModelFileError, match=words):
        read_folder(tmp_path)
