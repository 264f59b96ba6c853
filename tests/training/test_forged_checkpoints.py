"""Checkpoints that were cut, edited or made up: each is one error that names the file and the cure, or harmless."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import recommenders
from conformance import features, mixed_targets, tiny
from safetensors import safe_open
from safetensors.numpy import save_file

from tabmtl import MMoE, SharedBottom
from tabmtl.base.schema import DivergenceError
from tabmtl.nn import embeddings
from tabmtl.scale import joined
from tabmtl.training import checkpoint

N_QUICK, N_CASES = 30, 250
VALUES = [None, True, -1, 0, 1.5, float("nan"), 10**400, -(10**19), "x", "", [], {}, [[]], {"x": 1}, [1] * 9]
TYPES = [np.uint8, np.int64, np.bool_, np.float16, np.float64]


class CutOff(Exception):
    """The end of a machine."""


def cut_off(record):
    if record["epoch"] == 1:
        raise CutOff


@cache
def table() -> pl.DataFrame:
    X = features(120)
    return pl.concat([X, mixed_targets(X)], how="horizontal")


def fit_network(cls, **params):
    targets = ["late", "size", "delay"]
    return lambda **hook: tiny(cls, epochs=2, **params, **hook).fit(table().drop(targets), table().select(targets))


def fit_recommender(**hook):
    return recommenders.tiny("M2TRec", epochs=2, **hook).fit(recommenders.TRAIN, items=recommenders.ITEMS)


FITS = {
    "sum": fit_network(SharedBottom),
    "of all rows": fit_network(MMoE, early_stopping=False),
    "M2TRec": fit_recommender,
}


@pytest.fixture(autouse=True)
def _large_tables(monkeypatch):
    monkeypatch.setattr(embeddings, "DENSE_ROWS", 1)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A function that gives the bytes of a checkpoint of a training that was cut off."""

    @cache
    def bytes_of(name):
        folder = tmp_path_factory.mktemp("whole")
        with pytest.raises(CutOff), joined(checkpoint=folder):
            FITS[name](on_epoch=cut_off)
        return (folder / "fit-1.safetensors").read_bytes()

    return bytes_of


def places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Yield every container in JSON, with each of its keys."""
    if isinstance(value, dict | list):
        for key in range(len(value)) if isinstance(value, list) else [*value]:
            yield value, key
            yield from places(value[key])


def read(file: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    with safe_open(file, framework="numpy") as opened:
        names = opened.keys()
        return {name: opened.get_tensor(name) for name in names}, json.loads(opened.metadata()["checkpoint"])


def flipped(whole: bytes, rng: np.random.Generator) -> bytes:
    content = bytearray(whole)
    for place in rng.integers(len(content), size=20):
        content[place] = rng.integers(256)
    return bytes(content)


BYTES = [
    lambda whole, rng: whole[: rng.integers(len(whole))],
    lambda whole, rng: int(rng.integers(2**62)).to_bytes(8, "little") + whole[8:],
    flipped,
    lambda whole, rng: rng.bytes(1_000),
]
ARRAYS = [
    lambda array, rng: None,  # left out
    lambda array, rng: array[None],
    lambda array, rng: array.reshape(-1)[: array.size // 2].copy(),
    lambda array, rng: array.astype(rng.choice(TYPES)),
    lambda array, rng: np.full_like(array, np.nan if array.dtype.kind == "f" else 1),
]


def forge(file: Path, rng: np.random.Generator) -> str:
    """Change bytes of a file, an array or a place in its JSON, and say what."""
    way = rng.choice(["bytes", "array", "JSON"], p=[0.15, 0.35, 0.5])
    if way == "bytes":
        kind = rng.integers(len(BYTES))
        file.write_bytes(BYTES[kind](file.read_bytes(), rng))
        return f"bytes, in way {kind}"
    arrays, content = read(file)
    deep = ""
    if way == "array":
        name, kind = str(rng.choice([*arrays])), rng.integers(len(ARRAYS))
        with np.errstate(all="ignore"):
            changed = ARRAYS[kind](arrays.pop(name), rng)
        arrays |= {} if changed is None else {name: changed}
        said = f"the array {name}, in way {kind}"
    else:
        found = list(places(content))
        owner, key = found[rng.integers(len(found))]
        value = [*VALUES, "deep", "left out", "renamed"][rng.integers(len(VALUES) + 3)]
        said = f"{str(value)[:20]!r} at {key!r} of {str(owner)[:60]}"
        if value in ("left out", "renamed"):
            old = owner.pop(key)
            if value == "renamed" and isinstance(owner, dict):
                owner["more"] = old
        else:
            owner[key], deep = value, '"deep"' if value == "deep" else ""
    text = json.dumps(content)
    save_file(arrays, file, metadata={"checkpoint": text.replace(deep, "[" * 5_000 + "]" * 5_000) if deep else text})
    return said


def cases() -> list[Any]:
    quick = range(N_QUICK)
    return [*quick, *(pytest.param(n, marks=pytest.mark.all_faces) for n in range(N_QUICK, N_CASES))]


@pytest.mark.filterwarnings("ignore::tabmtl.base.schema.TabmtlWarning")
@pytest.mark.parametrize("case", cases())
def test_a_forged_checkpoint_is_one_error_or_harmless(whole, tmp_path, case):
    name = [*FITS][case % len(FITS)]
    file, rng = tmp_path / "fit-1.safetensors", np.random.default_rng([12, case])
    file.write_bytes(whole(name))
    said = forge(file, rng)
    try:
        with joined(checkpoint=tmp_path):
            FITS[name]()
    except DivergenceError:
        pass  # weights that are not finite
    except ValueError as error:
        text = str(error)
        assert f"the checkpoint {file} " in text, (said, text)
        assert "remove it to begin anew" in text or "remove the file" in text, (said, text)
        assert len(text) < 3_000, said
    except Exception as error:
        raise AssertionError(said) from error


def test_whole_checkpoints_are_taken(whole, tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint.Checkpoint, "misfit", lambda self, error: error)
    for name, fit in FITS.items():
        (tmp_path / "fit-1.safetensors").write_bytes(whole(name))
        seen = []
        with joined(checkpoint=tmp_path):
            fit(on_epoch=lambda record, seen=seen: seen.append(record["epoch"]))
        assert seen == [1]


@pytest.mark.parametrize(
    ("path", "value", "told"),
    [
        (["facts", "seed"], -1, r"its seed is -1, expected a count"),
        (["state", "history"], [], r"its history is \[\], expected a record of every epoch"),
        (["state", "history", 0, "epoch"], 3.0, r"its history/0 is .* expected the record of epoch 0"),
        (["state", "has_ended"], 1, r"its end is 1, expected a boolean"),
        (["state", "loop", "optimizer", "steps"], "x", r"its optimizer/steps is 'x', expected a count"),
        (["state", "loop", "optimizer", "average"], [], r"its optimizer/average is \[\], expected a list of \d+"),
        (["state", "best", "epoch"], -1, r"its best epoch/epoch is -1, expected a count"),
    ],
)
def test_an_edited_checkpoint_says_where(whole, tmp_path, path, value, told):
    file = tmp_path / "fit-1.safetensors"
    file.write_bytes(whole("sum"))
    arrays, content = read(file)
    owner = content
    for key in path[:-1]:
        owner = owner[key]
    owner[path[-1]] = value
    save_file(arrays, file, metadata={"checkpoint": json.dumps(content)})
    words = rf"fit-1\.safetensors (cannot be read|does not fit): .*{told}.*; remove it to begin anew"
    with pytest.raises(ValueError, match=words), joined(checkpoint=tmp_path):
        FITS["sum"]()
