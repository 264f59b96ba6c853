"""Messages between processes: every value comes as it was sent, and nothing that a stranger sends is run."""

from __future__ import annotations

import datetime as dt
import json
import os
import pickle
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from tabmtl.base.schema import Batch
from tabmtl.columns import Features
from tabmtl.scale.wire import pack, unpack

DAYS = pl.DataFrame(
    {
        "number": [1, None],
        "text": ["x", None],
        "share": [1.0, 2.0],
        "flag": [True, None],
        "none": [None, None],
        "day": [dt.date(2020, 1, 1), None],
        "clock": [dt.time(1), None],
        "moment": pl.Series([dt.datetime(2020, 1, 1, 3), None]).dt.replace_time_zone("Europe/Paris"),
        "span": [dt.timedelta(1), None],
        "bytes": [b"1", None],
        "level": pl.Series(["p", None], dtype=pl.Categorical),
        "listed": pl.Series(["p", None], dtype=pl.Enum(["q", "p"])),
        "huge": pl.Series([1, 2**100], dtype=pl.Int128),
    }
)


def sent(value):
    return unpack(pack(value), "rank 1")


@pytest.mark.parametrize(
    "value",
    [
        *(None, True, 1, 2**70, 0.1, float("inf"), "\ud800", b"ab", np.float64(0.1), np.int32(4), np.bool_(True)),
        *([1, [2, (3,)]], (), {1: 2, (1, "a"): [None], "b": {"array": 1}}, [{"tuple": 3}]),
    ],
)
def test_plain_values_come_as_they_are(value):
    found = sent(value)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    "array",
    [np.zeros((0, 3)), np.arange(6).reshape(2, 3).T, np.array(3.0), np.array([True]), np.float16([1]), np.uint64([7])],
)
def test_arrays_come_as_they_are_and_may_be_written(array):
    found = sent({"a": array})["a"]
    assert (found.dtype, found.shape) == (array.dtype, array.shape)
    np.testing.assert_array_equal(found, array)
    found[...] = 0


@pytest.mark.parametrize(
    "tensor",
    [
        *(torch.zeros(()), torch.zeros(0, 3), torch.arange(4).bfloat16(), torch.tensor([True])),
        *(torch.arange(6.0).reshape(3, 2).T, torch.ones(2, requires_grad=True)),
    ],
)
def test_tensors_come_as_they_are(tensor):
    found = sent([tensor])[0]
    assert (found.dtype, found.shape) == (tensor.dtype, tensor.shape)
    assert found.equal(tensor.detach())


def test_frames_come_as_they_are():
    for frame in (DAYS, DAYS.head(0), pl.DataFrame()):
        found = sent(frame)
        assert found.schema == frame.schema
        assert found.equals(frame)
    assert sent(DAYS["text"]).equals(DAYS["text"])


@pytest.mark.parametrize(
    ("value", "word"),
    [
        ({1, 2}, "a set"),
        (Batch(x=Features(numbers=1, codes=2)), "a Batch"),
        (ValueError("x"), "a ValueError"),
        (np.array([None]), "an array of type object"),
        (pl.DataFrame({"a": [[1]]}), r"column 'a' of type List\(Int64\)"),
    ],
)
def test_what_cannot_be_sent_is_named(value, word):
    with pytest.raises(TypeError, match=rf"{word} cannot be sent to other processes; "):
        pack(value)


class _Harm:
    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self):
        return os.system, (f"touch {self.file}",)


def _message(value, *arrays, more=b"") -> bytes:
    text = value if isinstance(value, bytes) else json.dumps({"value": value, "arrays": arrays}).encode()
    return b"tabmtl 1" + len(text).to_bytes(8, "little") + text + more


FORGED = {
    "nothing": b"",
    "another mark": b"tabmtl 2" + bytes(9),
    "a long head": b"tabmtl 1" + b"\xff" * 8,
    "no JSON": _message(b"\x80"),
    "deep JSON": _message(b"[" * 10**5),
    "no object": _message(b"[]"),
    "an unknown kind": _message({"module": "os"}),
    "two kinds": _message({"tuple": [], "dict": []}),
    "no array": _message({"array": 0}),
    "objects": _message({"array": 0}, ["|O", [1]], more=bytes(8)),
    "a list of types": _message({"array": 0}, [[["a", "|O"]], [1]], more=bytes(8)),
    "no type": _message({"array": 0}, ["x", [1]], more=bytes(8)),
    "a negative size": _message({"array": 0}, ["<f8", [-1]], more=bytes(8)),
    "a huge size": _message({"array": 0}, ["<f8", [2**62, 2**62]], more=bytes(8)),
    "a fraction": _message({"array": 0}, ["<f8", [1.0]], more=bytes(8)),
    "a short array": _message({"array": 0}, ["<f8", [2]], more=bytes(8)),
    "more bytes": _message(1, more=b"1"),
    "a function of torch": _message({"tensor": ["load", [1], 0]}, ["|u1", [4]], more=bytes(4)),
    "a tensor of another shape": _message({"tensor": ["float32", [2], 0]}, ["|u1", [4]], more=bytes(4)),
    "a negative tensor": _message({"tensor": ["float32", [-2], 0]}, ["|u1", [0]]),
    "a tensor without values": _message({"tensor": ["float32", [3], 0]}, ["|u1", [0]]),
    "an unknown column": _message({"series": ["a", "Object", []]}),
    "columns of other lengths": _message({"frame": [{"series": [n, "Int64", [1] * len(n)]} for n in ("a", "bb")]}),
    "text as numbers": _message({"series": ["a", "Int64", ["x"]]}),
    "a list as key": _message({"dict": [[[1], 2]]}),
}


@pytest.mark.parametrize("message", FORGED.values(), ids=FORGED)
def test_what_no_rank_sends_is_one_error(message):
    with pytest.raises(ValueError, match=r"rank 1 sent no message of tabmtl, but \d+ bytes .* let nobody else reach"):
        unpack(np.frombuffer(message, dtype=np.uint8), "rank 1")


def test_a_pickle_is_not_run(tmp_path):
    harm = pickle.dumps(_Harm(tmp_path / "harm"))
    for message in (harm, _message({"bytes": 0}, ["|u1", [len(harm)]], more=harm)):
        try:
            unpack(np.frombuffer(message, dtype=np.uint8), "rank 1")
        except ValueError as error:
            assert "sent no message of tabmtl" in str(error)
        assert not (tmp_path / "harm").exists()


def test_messages_that_lost_or_changed_bytes_are_read_or_refused():
    rng = np.random.default_rng(0)
    whole = pack({"frame": DAYS, "rows": (np.arange(3), torch.ones(2)), "n": 1})
    n_refused = 0
    for _ in range(300):
        message = whole[: rng.integers(len(whole))].copy() if rng.random() < 0.3 else whole.copy()
        message[rng.integers(0, max(len(message), 1), 2) if len(message) else []] = rng.integers(0, 256)
        try:
            unpack(message, "rank 1")
        except ValueError as error:
            n_refused += 1
            assert "rank 1 sent no message of tabmtl" in str(error)
    assert n_refused > 100  # many bytes are those of arrays, which may have any value
