"""Faults of folders: links, giants, lies about files, full disks, several writers, and kills. Nothing is ever lost."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import pickle
import resource
import subprocess
import time
from contextlib import contextmanager
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
from conformance import answers, same
from forging import forge, parts_of, saved

import tabmtl
from tabmtl.base.storage import persist
from tabmtl.base.storage.persist import FORMAT, read_folder, write_folder
from tabmtl.base.storage.stored import Saved


def whole(folder: Path) -> int:
    """The value of a model, after a look that it is of one piece with its parts, and the only one."""
    return value_of(read_folder(folder)[1])


def value_of(found: Saved) -> int:
    value = found.facts["value"]
    assert (found.arrays["a"] == value).all()
    assert set(found.texts["trees0"].split()) == {str(value)}
    assert {value_of(part) for _, part in found.parts.values()} <= {value}
    return value


# what leads out of a folder, or is no file


def test_a_link_is_not_followed_even_where_the_checksum_fits(folder, tmp_path, refused):
    for file in [*parts_of(folder).values(), folder / "manifest.json"]:
        outside = file.rename(tmp_path / "outside")
        file.symlink_to(outside)
        refused(folder, file.name, "is a link", "put a copy in its place")
        file.unlink()
        outside.rename(file)
    tabmtl.load(folder)


def test_a_byte_that_changed_is_seen(folder, refused):
    for file in parts_of(folder).values():
        content = file.read_bytes()
        file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        refused(folder, file.name, "its checksum differs")
        file.write_bytes(content)


def test_a_link_to_the_folder_itself_is_followed(stored, tmp_path):
    (tmp_path / "latest").symlink_to(stored[0])
    assert same(answers(stored[1], stored[2]), answers(tabmtl.load(tmp_path / "latest"), stored[2]))


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir], ids=["pipe", "folder"])
def test_what_is_no_file_is_not_opened(folder, make, refused):
    for file in [*parts_of(folder).values(), folder / "manifest.json"]:
        content = file.read_bytes()
        file.unlink()
        make(file)  # reading a pipe would wait for ever
        refused(folder, file.name, "no file at all")
        file.rmdir() if file.is_dir() else file.unlink()
        file.write_bytes(content)


PATHS = [
    *("../secret-0123456789abcdef.json", "/etc/passwd", "..", "manifest.json", "", 7, None, ["a"], "\0"),
    *("..\\secret-0123456789abcdef.json", "C:\\secret-0123456789abcdef.json", "~/model-0123456789abcdef.json"),
    *("./model-0123456789abcdef.json", "model-0123456789abcdef.json\n", "model-0123456789abcdef.json/../x"),
]


@pytest.mark.parametrize("name", PATHS)
def test_a_name_with_a_path_in_it_is_refused(folder, name, refused):
    (folder.parent / "secret-0123456789abcdef.json").write_text("{}")
    files = json.loads((folder / "manifest.json").read_text())["files"]
    files["model.json"]["file"] = name
    refused(forge(folder, files=files), "manifest.json", "which is no file of a model")


def test_files_that_no_model_has_are_refused(folder, refused):
    files = json.loads((folder / "manifest.json").read_text())["files"]
    for name in ("evil.pkl", "../trees0.txt", "model.json.txt"):
        refused(forge(folder, files=files | {name: files["model.json"]}), "which is no file of a model")
    for name in ("model.json", "arrays.safetensors"):
        refused(forge(folder, files={other: entry for other, entry in files.items() if other != name}), name)


def test_a_save_does_not_write_through_a_link_that_lies_in_wait(stored, tmp_path, monkeypatch):
    (tmp_path / "precious").write_text("years of work")
    (tmp_path / "model").mkdir()
    monkeypatch.setattr("tabmtl.base.storage.atomic.secrets.randbits", lambda bits: 7)
    (tmp_path / "model" / ".manifest.json.7").symlink_to(tmp_path / "precious")
    with pytest.raises(OSError, match="save to another folder"):
        stored[1].save(tmp_path / "model")
    assert (tmp_path / "precious").read_text() == "years of work"


# giants, and files that lie


def test_a_file_larger_than_the_memory_is_not_read(folder, refused):
    for file in [*parts_of(folder).values(), folder / "manifest.json"]:
        content = file.read_bytes()
        os.truncate(file, 2**42)  # of holes, which take no room
        refused(folder, file.name, "more than the")
        file.write_bytes(content)


def test_a_file_of_another_size_than_the_manifest_says_is_not_read(folder, refused):
    for file in parts_of(folder).values():
        content = file.read_bytes()
        os.truncate(file, 3 * 2**30)  # of holes, and less than the memory
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        refused(folder, file.name, "more than the" if file.suffix == ".json" else f"expected {len(content)}")
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # kilobytes
        file.write_bytes(content)


@pytest.mark.parametrize("size", [-1, 2**80, 1.5, "12", None, []])
def test_a_size_that_no_file_has_is_refused(folder, size, refused):
    files = json.loads((folder / "manifest.json").read_text())["files"]
    files["model.json"]["bytes"] = size
    refused(forge(folder, files=files), "model-", str(size))


def test_a_model_with_more_names_than_load_reads_is_not_saved(folder, stored, monkeypatch, refused):
    monkeypatch.setattr(persist, "_MOST_JSON", 3_000)
    refused(folder, "model-", "more than the 3000 that can be read")
    before = sorted(os.listdir(folder))
    with pytest.raises(ValueError, match=r"more than 3000 bytes of names; use whole numbers"):
        stored[1].save(folder)
    assert sorted(os.listdir(folder)) == before


def test_half_a_surrogate_pair_in_a_forged_folder_is_refused_in_a_message_that_can_be_shown(folder, refused):
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


def tensors(header: dict | bytes, data: bytes = b"\0" * 8, size: int | None = None) -> bytes:
    content = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(content) if size is None else size).to_bytes(8, "little") + content + data


def header(dtype: str = "F32", shape: object = (1,), end: int = 8, n: int = 1) -> bytes:
    """The header of arrays of one type, shape and place."""
    return tensors({f"fitted.{i}": {"dtype": dtype, "shape": shape, "data_offsets": [0, end]} for i in range(n)})


FORGERIES = [
    *(("model.json", content) for content in (b"{}", b"[]", b"null", b"\xff\xfe{}")),
    ("model.json", b'{"params": {"colour": 3}, "coder": {}, "fitted": {}}'),
    ("model.json", b'{"params": {"tasks": {"pickle": "x"}}, "coder": {}, "fitted": {}}'),
    ("model.json", b'{"params": ' + b"[" * 100_000),
    *(
        ("model.json", b'{"params": {"epochs": ' + number + b'}, "coder": {}, "fitted": {}}')
        for number in (b"NaN", b"1e999", b"9" * 10_000)
    ),
    ("arrays.safetensors", b"\x08\x00\x00\x00\x00\x00\x00\x00{}      "),
    ("arrays.safetensors", pickle.dumps([1])),
    ("arrays.safetensors", tensors(b"{}", size=2**62)),
    ("arrays.safetensors", header(shape=[10**12], end=4 * 10**12)),
    ("arrays.safetensors", header(shape=[1000])),
    ("arrays.safetensors", header("F64", [2**33, 2**33])),
    ("arrays.safetensors", header(shape=[2], n=3)),
    ("arrays.safetensors", header("OBJECT")),
    ("arrays.safetensors", header(shape=[-2])),
    ("arrays.safetensors", tensors({"a": {"dtype": "F32", "shape": [0, 2**60], "data_offsets": [0, 0]}}, b"")),
]


@pytest.mark.parametrize(("name", "content"), FORGERIES, ids=lambda value: str(value)[:40])
def test_contents_that_lie_are_refused_although_their_checksums_are_right(folder, name, content, refused):
    refused(forge(folder, {name: content}))


def test_another_release_is_named_before_anything_is_read(folder, monkeypatch, refused):
    monkeypatch.setattr(persist, "_Reading", None)
    for other in (FORMAT - 1, FORMAT + 1):
        forge(folder, format=other, tabmtl="9.9", files={"of another kind": 1})
        refused(folder, f"format {other}", "load it with tabmtl 9.9, or fit the model again and save it")


NO_ESTIMATORS = ["MultiTaskKFold", "load", "temporal_split", "__getattr__", "multitask_gain", "", None]


@pytest.mark.parametrize("name", [*NO_ESTIMATORS, "OwnNet", "Task", "os", "__loader__"])
def test_what_is_no_estimator_is_not_loaded(folder, name, refused):
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


@pytest.mark.parametrize("depth", [0, 1])
def test_a_reader_beside_a_writer_sees_the_new_model(tmp_path, monkeypatch, depth):
    write_folder(tmp_path, "Old", saved(1, depth=depth))
    read_bytes, written = Path.read_bytes, []

    def write_meanwhile(file):
        if (file.parent == tmp_path) == (depth == 0) and file.name.startswith("model-") and not written:
            written.append(file)
            write_folder(tmp_path, "New", saved(2, depth=depth))
        return read_bytes(file)

    monkeypatch.setattr(Path, "read_bytes", write_meanwhile)
    assert whole(tmp_path) == 2
    assert read_folder(tmp_path)[0] == "New"


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
