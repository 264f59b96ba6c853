"""Faults of folders: links, giants, lies about files, full disks, several writers, and kills. Nothing is ever lost."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import resource
import subprocess
import time
from contextlib import contextmanager
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
from conformance import answers, fitted, same
from forging import copy_of, forge, parts_of, saved

import tabmtl
from tabmtl import IndependentTasks, ModelFileError, SharedBottom
from tabmtl.storage import persist
from tabmtl.storage.persist import FORMAT, read_folder, write_folder
from tabmtl.storage.stored import Saved


def whole(folder: Path) -> int:
    """The value of a model, after a look that it is of one piece with its parts, and the only one."""
    return value_of(read_folder(folder)[1])


def value_of(found: Saved) -> int:
    value = found.facts["value"]
    assert (found.arrays["a"] == value).all()
    assert set(found.texts["trees0"].split()) == {str(value)}
    assert {value_of(part) for _, part in found.parts.values()} <= {value}
    return value


@pytest.fixture(scope="module", params=[SharedBottom, IndependentTasks], ids=lambda cls: cls.__name__)
def stored(request, tmp_path_factory):
    estimator, X, _ = fitted(request.param)
    folder = tmp_path_factory.mktemp("stored") / "model"
    estimator.save(folder)
    return folder, estimator, X


@pytest.fixture
def folder(stored, tmp_path):
    return copy_of(stored[0], tmp_path / "model")


def refused(folder: Path, *words: str) -> str:
    """The message of the refusal, which names the folder and says these words."""
    with pytest.raises(ModelFileError) as caught:
        tabmtl.load(folder)
    message = str(caught.value)
    assert str(folder) in message
    for word in words:
        assert word in message, message
    return message


# what leads out of a folder, or is no file


def test_a_link_is_not_followed_even_where_the_checksum_fits(folder, tmp_path):
    for file in [*parts_of(folder).values(), folder / "manifest.json"]:
        outside = file.rename(tmp_path / "outside")
        file.symlink_to(outside)
        refused(folder, file.name, "is a link", "put a copy in its place")
        file.unlink()
        outside.rename(file)
    tabmtl.load(folder)


def test_a_link_to_the_folder_itself_is_followed(stored, tmp_path):
    (tmp_path / "latest").symlink_to(stored[0])
    assert same(answers(stored[1], stored[2]), answers(tabmtl.load(tmp_path / "latest"), stored[2]))


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir], ids=["pipe", "folder"])
def test_what_is_no_file_is_not_opened(folder, make):
    for file in [*parts_of(folder).values(), folder / "manifest.json"]:
        content = file.read_bytes()
        file.unlink()
        make(file)  # reading a pipe would wait for ever
        refused(folder, file.name, "no file at all")
        file.rmdir() if file.is_dir() else file.unlink()
        file.write_bytes(content)


PATHS = [
    *("..\\secret-0123456789abcdef.json", "C:\\secret-0123456789abcdef.json", "model-0123456789abcdef.json/../x", "\0"),
    *("./model-0123456789abcdef.json", "model-0123456789abcdef.json\n", "~/model-0123456789abcdef.json", ["a"]),
]


@pytest.mark.parametrize("name", PATHS)
def test_a_name_with_a_path_in_it_is_refused(folder, name):
    files = json.loads((folder / "manifest.json").read_text())["files"]
    files["model.json"]["file"] = name
    refused(forge(folder, files=files), "manifest.json", "which is no file of a model")


def test_files_that_no_model_has_are_refused(folder):
    files = json.loads((folder / "manifest.json").read_text())["files"]
    for name in ("evil.pkl", "../trees0.txt", "model.json.txt"):
        refused(forge(folder, files=files | {name: files["model.json"]}), "which is no file of a model")
    for name in ("model.json", "arrays.safetensors"):
        refused(forge(folder, files={other: entry for other, entry in files.items() if other != name}), name)


def test_a_save_does_not_write_through_a_link_that_lies_in_wait(stored, tmp_path, monkeypatch):
    (tmp_path / "precious").write_text("years of work")
    (tmp_path / "model").mkdir()
    monkeypatch.setattr("tabmtl.storage.atomic.secrets.randbits", lambda bits: 7)
    (tmp_path / "model" / ".manifest.json.7").symlink_to(tmp_path / "precious")
    with pytest.raises(OSError, match="save to another folder"):
        stored[1].save(tmp_path / "model")
    assert (tmp_path / "precious").read_text() == "years of work"


# giants, and files that lie


def test_a_file_larger_than_the_memory_is_not_read(folder):
    for file in [*parts_of(folder).values(), folder / "manifest.json"]:
        content = file.read_bytes()
        os.truncate(file, 2**42)  # of holes, which take no room
        refused(folder, file.name, "more than the")
        file.write_bytes(content)


def test_a_file_of_another_size_than_the_manifest_says_is_not_read(folder):
    for file in parts_of(folder).values():
        content = file.read_bytes()
        os.truncate(file, 3 * 2**30)  # of holes, and less than the memory
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        refused(folder, file.name, "more than the" if file.suffix == ".json" else f"expected {len(content)}")
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # kilobytes
        file.write_bytes(content)


@pytest.mark.parametrize("size", [-1, 2**80, 1.5, "12", None, []])
def test_a_size_that_no_file_has_is_refused(folder, size):
    files = json.loads((folder / "manifest.json").read_text())["files"]
    files["model.json"]["bytes"] = size
    refused(forge(folder, files=files), "model-", str(size))


def test_a_model_with_more_names_than_load_reads_is_not_saved(folder, stored, monkeypatch):
    monkeypatch.setattr(persist, "_MOST_JSON", 3_000)
    refused(folder, "model-", "more than the 3000 that can be read")
    before = sorted(os.listdir(folder))
    with pytest.raises(ValueError, match=r"more than 3000 bytes of names; use whole numbers"):
        stored[1].save(folder)
    assert sorted(os.listdir(folder)) == before


LIES = {
    "deep": b'{"params": ' + b"[" * 100_000,
    "no number": b'{"params": {"epochs": NaN}, "coder": {}, "fitted": {}}',
    "endless number": b'{"params": {"epochs": ' + b"9" * 10_000 + b'}, "coder": {}, "fitted": {}}',
    "infinite number": b'{"params": {"epochs": 1e999}, "coder": {}, "fitted": {}}',
    "null": b"null",
    "no text": b"\xff\xfe{}",
}


def test_half_a_surrogate_pair_in_a_forged_folder_is_refused_in_a_message_that_can_be_shown(folder):
    facts = parts_of(folder)["model.json"].read_text()
    for half in (rb"\ud800", rb"\uDFFF\ud83d", b"\xed\xa0\x80"):
        forged = facts.encode().replace(b"late", half)
        assert forged != facts.encode()
        assert refused(forge(folder, {"model.json": forged})).isprintable()
        assert len(refused(folder)) < 2_000
    forge(folder, {"model.json": facts.encode()})
    tabmtl.load(folder)
    assert refused(forge(folder, **{"class": "Shared\ud800"})).isprintable()


def test_text_beyond_16_bits_comes_back(tmp_path):
    write_folder(tmp_path / "model", "M", Saved(facts={"\U0001f600": "\U0001f600", "escape": "\\ud800"}))
    assert read_folder(tmp_path / "model")[1].facts == {"\U0001f600": "\U0001f600", "escape": "\\ud800"}
    forge(tmp_path / "model", {"model.json": b'"\\ud83d\\ude00"'})
    assert read_folder(tmp_path / "model")[1].facts == "\U0001f600"


@pytest.mark.parametrize("what", LIES)
def test_json_that_lies_is_refused(folder, what):
    refused(forge(folder, {"model.json": LIES[what]}))


def tensors(header: dict | bytes, data: bytes = b"\0" * 8, size: int | None = None) -> bytes:
    content = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(content) if size is None else size).to_bytes(8, "little") + content + data


HEADERS = {
    "longer than the file": tensors(b"{}", size=2**62),
    "beyond the end": tensors({"fitted.a": {"dtype": "F32", "shape": [10**12], "data_offsets": [0, 4 * 10**12]}}),
    "more than it has": tensors({"fitted.a": {"dtype": "F32", "shape": [1000], "data_offsets": [0, 8]}}),
    "overflow": tensors({"fitted.a": {"dtype": "F64", "shape": [2**33, 2**33], "data_offsets": [0, 8]}}),
    "overlap": tensors({f"fitted.{i}": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]} for i in range(3)}),
    "unknown type": tensors({"fitted.a": {"dtype": "OBJECT", "shape": [1], "data_offsets": [0, 8]}}),
    "negative": tensors({"fitted.a": {"dtype": "F32", "shape": [-2], "data_offsets": [0, 8]}}),
    "nothing of everything": tensors({"a": {"dtype": "F32", "shape": [0, 2**60], "data_offsets": [0, 0]}}, b""),
}


@pytest.mark.parametrize("what", HEADERS)
def test_arrays_whose_header_lies_are_refused(folder, what):
    refused(forge(folder, {"arrays.safetensors": HEADERS[what]}))


def test_a_release_of_the_future_is_named_before_anything_is_read(folder, monkeypatch):
    monkeypatch.setattr(persist, "_Reading", None)
    forge(folder, format=FORMAT + 1, tabmtl="9.9", files={"of another kind": 1})
    refused(folder, f"format {FORMAT + 1}", "load it with tabmtl 9.9")


@pytest.mark.parametrize(
    "name", ["MultiTaskKFold", "load", "temporal_split", "__getattr__", "multitask_gain", "", None]
)
def test_what_is_no_estimator_is_not_loaded(folder, name):
    refused(forge(folder, **{"class": name}), "which is no estimator of tabmtl", "give its class")


# full disks, several writers, kills


def listing(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


@contextmanager
def small_disk(place: Path, size: int):
    """A real file system of so many bytes."""
    place.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "none", place], capture_output=True, check=False
    )
    if made.returncode:
        pytest.skip("mounting a small file system needs root")
    try:
        yield place
    finally:
        subprocess.run(["umount", place], check=True)


@pytest.mark.parametrize("depth", [0, 1])
def test_a_full_disk_costs_no_model(tmp_path, depth):
    with small_disk(tmp_path / "disk", 400_000) as disk:
        write_folder(disk / "model", "M", saved(1, depth=depth))
        before = listing(disk / "model")
        for name in ("model", "new"):
            with pytest.raises(OSError, match=r"not saved.*unchanged.*make room for [\d_]+ bytes") as caught:
                write_folder(disk / name, "M", saved(2, size=40_000 // (1 + 2 * depth), depth=depth))
            assert caught.value.errno == errno.ENOSPC
            assert caught.value.filename == str(disk / name)
        assert listing(disk / "model") == before
        assert not (disk / "new").exists()
        assert len(list((disk / "model").iterdir())) == 4 + 2 * depth
        write_folder(disk / "model", "M", saved(3, depth=depth))
        assert whole(disk / "model") == 3


@pytest.mark.parametrize(("depth", "call"), [*((0, k) for k in range(1, 6)), *((1, k) for k in range(1, 14, 3))])
@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_failure_at_any_step_leaves_the_folder_as_it_was(tmp_path, monkeypatch, step, depth, call):
    write_folder(tmp_path / "model", "M", saved(1, depth=depth))
    before, function, calls = listing(tmp_path / "model"), getattr(os, step), []

    def fail(*args):
        calls.append(args)
        if len(calls) >= call:
            raise OSError(errno.EDQUOT, "Disk quota exceeded")
        return function(*args)

    with monkeypatch.context() as patch:
        patch.setattr(os, step, fail)
        if step == "replace" and call > 4 * (1 + 2 * depth):
            write_folder(tmp_path / "model", "M", saved(2, depth=depth))  # only four files of a model are renamed
            return
        with pytest.raises(OSError, match=r"unchanged: Disk quota exceeded; make room"):
            write_folder(tmp_path / "model", "M", saved(2, depth=depth))
    assert listing(tmp_path / "model") == before
    assert len(list((tmp_path / "model").iterdir())) == 4 + 2 * depth
    write_folder(tmp_path / "model", "M", saved(2, depth=depth))
    assert whole(tmp_path / "model") == 2
    assert len(listing(tmp_path / "model")) == 4 * (1 + 2 * depth)


def write_models(folder: Path, first: int, count: int, depth: int) -> None:
    for i in range(count):
        # every second model is one that the others save too: files of one name, which nobody may remove
        value = first + i if i % 2 else i % 5
        write_folder(folder, "M", saved(value, depth=depth))


def start_writer(folder: Path, first: int, count: int, depth: int) -> BaseProcess:
    writer = multiprocessing.get_context("fork").Process(target=write_models, args=(folder, first, count, depth))
    writer.start()
    return writer


@pytest.mark.parametrize(("depth", "count"), [(0, 60), (1, 16)])
def test_writers_of_one_folder_and_its_reader_are_never_in_each_others_way(tmp_path, depth, count):
    folder = tmp_path / "model"
    write_folder(folder, "M", saved(0, depth=depth))
    writers, seen = [start_writer(folder, 1_000 * i, count, depth) for i in (1, 2)], set()
    while any(writer.is_alive() for writer in writers):
        seen.add(whole(folder))
        time.sleep(0.001)
    assert [writer.exitcode for writer in writers] == [0, 0]
    assert len(seen) > count // 3
    assert {value // 1_000 for value in seen} == {0, 1, 2}
    assert whole(folder) in (999 + count, 1_999 + count)
    assert len(list(folder.iterdir())) == 4 + 2 * depth


@pytest.mark.parametrize("depth", [0, 1])
def test_kills_at_any_time_leave_a_whole_model_and_no_lock(tmp_path, depth):
    folder = tmp_path / "model"
    write_folder(folder, "M", saved(-1, depth=depth))
    for trial in range(4):
        writer = start_writer(folder, 1_000, 10**6, depth)
        while whole(folder) < 1_000:
            time.sleep(0.001)
        time.sleep(0.003 * trial)
        writer.kill()
        writer.join()
        whole(folder)
        write_folder(folder, "M", saved(-1, depth=depth))
        assert whole(folder) == -1
        assert len(list(folder.iterdir())) == 4 + 2 * depth
