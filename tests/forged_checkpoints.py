"""Checkpoints of trainings that were cut off, and forgeries of them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
from cases import later
from cutting import CutOff, cut_off
from safetensors import safe_open
from safetensors.numpy import save_file

from tabmtl.base.ranks import ALONE
from tabmtl.base.schema import DivergenceError
from tabmtl.training import checkpoint
from tabmtl.training.run import entered

VALUES = [None, True, -1, 0, 1.5, float("nan"), 10**400, -(10**19), "x", "", [], {}, [[]], {"x": 1}, [1] * 9]
TYPES = [np.uint8, np.int64, np.bool_, np.float16, np.float64]


def cases(n: int, n_quick: int) -> Any:
    """Parametrise a test by forgeries; the first ones are those of `make test`."""
    return pytest.mark.parametrize("case", later(range(n), *range(n_quick, n)))


@cache
def whole(fit: Callable[..., Any]) -> bytes:
    """Return the checkpoint of a training that was cut off in its second epoch."""
    with TemporaryDirectory() as folder:
        with pytest.raises(CutOff), entered(ALONE, Path(folder)):
            fit(on_epoch=cut_off(1))
        return Path(folder, "fit-1.safetensors").read_bytes()


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


def check_forged(fit: Callable[..., Any], case: int, folder: Path) -> None:
    """Check that a forgery ends a training by one error that names the file and the cure, or is harmless."""
    file, rng = folder / "fit-1.safetensors", np.random.default_rng([12, case])
    file.write_bytes(whole(fit))
    said = forge(file, rng)
    try:
        with entered(ALONE, folder):
            fit()
    except DivergenceError:
        pass  # weights that are not finite
    except ValueError as error:
        text = str(error)
        assert f"the checkpoint {file} " in text, (said, text)
        assert "remove it to begin anew" in text or "remove the file" in text, (said, text)
        assert len(text) < 3_000, said
    except Exception as error:
        raise AssertionError(said) from error


def check_whole(fit: Callable[..., Any], folder: Path) -> None:
    """Check that a training goes on from its checkpoint."""
    (folder / "fit-1.safetensors").write_bytes(whole(fit))
    seen: list[int] = []
    with pytest.MonkeyPatch.context() as patch, entered(ALONE, folder):
        patch.setattr(checkpoint.Checkpoint, "misfit", lambda self, error: error)
        fit(on_epoch=lambda record: seen.append(record["epoch"]))
    assert seen == [1]
