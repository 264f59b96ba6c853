"""Folders of models as somebody would forge them: changed, with every checksum right again."""

from __future__ import annotations

import copy
import json
import random
import re
import shutil
import signal
from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from safetensors.numpy import load, save

import tabmtl
from tabmtl import ModelFileError
from tabmtl.base.storage.persist import json_checksum
from tabmtl.base.storage.stored import Saved, put_together, take_apart

SECONDS = 30  # after which LightGBM is taken to hang


def parts_of(folder: Path) -> dict[str, Path]:
    """The files of a folder by the names that its manifest has for them."""
    files = json.loads((folder / "manifest.json").read_text())["files"]
    return {name: folder / entry["file"] for name, entry in files.items()}


def forge(folder: Path, contents: dict[str, bytes] | None = None, **changes: Any) -> Path:
    """Change files, by the names that the manifest has for them, and entries of the manifest."""
    manifest = json.loads((folder / "manifest.json").read_text()) | changes
    for name, content in (contents or {}).items():
        manifest["files"][name] |= {"bytes": len(content), "sha256": sha256(content).hexdigest()}
        (folder / manifest["files"][name]["file"]).write_bytes(content)
    manifest.pop("sha256")
    (folder / "manifest.json").write_text(json.dumps(manifest | {"sha256": json_checksum(manifest)}))
    return folder


def forge_facts(folder: Path, change: Callable[[dict[str, Any]], Any]) -> Path:
    """Change the facts of a model in place."""
    facts = json.loads(parts_of(folder)["model.json"].read_text())
    change(facts)
    return forge(folder, {"model.json": json.dumps(facts).encode()})


def forge_arrays(folder: Path, change: Callable[[dict[str, Any]], Any]) -> Path:
    """Change the arrays of a model in place."""
    arrays = load(parts_of(folder)["arrays.safetensors"].read_bytes())
    change(arrays)
    return forge(folder, {"arrays.safetensors": save(arrays)})


#: What happens to files.
DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "truncated": lambda content: content[:-1],
    "halved": lambda content: content[: len(content) // 2],
    "emptied": lambda content: b"",
    "longer": lambda content: content + b" x",
    "edited": lambda content: bytes([*content[:20], content[20] ^ 1, *content[21:]]),
    "foreign": lambda content: b"\x89PNG\r\n",
    "deep": lambda content: b"[" * 100_000,
}


def saved(value: int, size: int = 100, depth: int = 0) -> Saved:
    """Contents that are whole if all of them say the same; with two parts, each with two, down to a depth."""
    parts = {f"part{i}": (f"Part{i}", saved(value, size, depth - 1)) for i in range(2)} if depth else {}
    arrays, texts = {"a": np.full(size, value)}, {"trees0": f"{value} " * size}
    return Saved(facts={"value": value}, arrays=arrays, texts=texts, parts=parts)


def through_file(value: Any) -> Any:
    """A stored dataclass as a file gives it back."""
    saved = take_apart(value)
    facts = json.loads(json.dumps(saved.facts, allow_nan=False))
    arrays = load(save({name: np.ascontiguousarray(array) for name, array in saved.arrays.items()}))
    return put_together(type(value), Saved(facts=facts, arrays=arrays, texts=saved.texts))


def copy_of(folder: Path, place: Path) -> Path:
    """A fresh copy of a model at a place, whatever is there."""
    shutil.rmtree(place, ignore_errors=True)
    return Path(shutil.copytree(folder, place))


VALUES = [
    *(None, True, 0, -1, 1, 3, 2**31, 10**29, 1.5, -0.5, 1e308),
    *("", "x", "x" * 300, [], {}, [[]], [1], ["a"], {"a": 1}),
]


def places_in(facts: Any) -> list[tuple[Any, Any]]:
    """Every container of JSON with every key or index in it."""
    items = (
        list(facts.items()) if isinstance(facts, dict) else list(enumerate(facts)) if isinstance(facts, list) else []
    )
    return [(facts, key) for key, _ in items] + [place for _, item in items for place in places_in(item)]


def damage(facts: Any, rng: random.Random) -> None:
    """Change, drop, repeat or swap something somewhere."""
    places = places_in(facts)
    container, key = rng.choice(places)
    how = rng.choice(["value"] * 6 + ["drop", "repeat", "swap"])
    if how == "value":
        container[key] = rng.choice(VALUES)
    elif how == "drop":
        del container[key]
    elif how == "repeat" and isinstance(container, list):
        container.insert(key, copy.deepcopy(container[key]))
    else:
        other, place = rng.choice(places)
        container[key] = copy.deepcopy(other[place])


def sized(text: str) -> str:
    """LightGBM's text with the sizes that its trees have."""
    trees = re.findall(r"^Tree=.*?(?=^Tree=|^end of trees)", text, re.DOTALL | re.MULTILINE)
    sizes = " ".join(str(len(tree.encode())) for tree in trees)
    return re.sub(r"^tree_sizes=.*$", f"tree_sizes={sizes}", text, count=1, flags=re.MULTILINE)


def use_trees(texts: list[str]) -> list[str]:
    """Load texts and predict in every way, in a process that may die of it; return the errors that were no deaths."""
    import lightgbm
    import numpy as np

    signal.alarm(SECONDS)
    rng = np.random.default_rng(0)
    wide = np.concatenate([rng.normal(size=(20, 9)), rng.choice([np.nan, 0, 3, 1e30, -1e30, np.inf], size=(20, 9))])
    errors = []
    for text in texts:
        try:
            booster = lightgbm.Booster(model_str=text)
            rows = wide[:, : booster.num_feature()]
            booster.predict(rows, num_threads=1)
            booster.predict(rows, num_threads=1, pred_leaf=True)
            booster.predict(rows, num_threads=1, pred_contrib=True)
            lightgbm.Booster(model_str=booster.model_to_string())
        except (lightgbm.basic.LightGBMError, ValueError) as error:
            errors.append(repr(error))
    signal.alarm(0)
    return errors


def check_damaged_facts(model: Any, folder: Path) -> None:
    """Damage the facts of a model in many ways: each time, load gives a model or one kind of error."""
    model.save(folder)
    whole = json.loads(parts_of(folder)["model.json"].read_text())
    rng, errors = random.Random(0), []
    for _ in range(100):
        facts = copy.deepcopy(whole)
        for _ in range(rng.randint(1, 3)):
            damage(facts, rng)
        try:
            tabmtl.load(forge(folder, {"model.json": json.dumps(facts).encode()}))
        except ModelFileError as error:
            errors.append(str(error))
    assert len(errors) > 30
    assert max(map(len, errors)) < 3_000


def whole_of(model: Any) -> Saved:
    """Return what a model saves, as its file gives it back."""
    saved = take_apart(model._state())
    return replace(saved, facts=json.loads(json.dumps(saved.facts)))


def rejects(model: Any, saved: Saved) -> bool:
    """Whether contents cannot be those of a model of this class."""
    try:
        put_together(model._stored, saved)
    except (ValueError, TypeError, LookupError, pl.exceptions.PolarsError):
        return True
    return False


def with_first(array: np.ndarray, value: float) -> np.ndarray:
    """Return an array with another first value."""
    changed = array.copy()
    changed.flat[0] = value
    return changed


def _changes_of(name: str, array: np.ndarray, *, is_late: bool):
    """What an array cannot be; of weights, the shape is held against the network, which comes late."""
    if not is_late:
        yield "another rank", array[None]
        yield "another type", array > 0 if array.dtype.kind != "b" else array.astype(float)
    if not is_late and array.size:
        yield "twice", np.concatenate([array, array], axis=0)
    if array.dtype.kind == "f" and array.size:
        may_miss = name.endswith(("numbers", "side_losses"))
        yield from ((str(value), with_first(array, value)) for value in (np.nan, np.inf, -np.inf)[may_miss:])
    if array.dtype.kind == "i" and array.size:
        if not name.endswith(".values"):  # of a frame, where it stands for nothing else
            yield "negative", with_first(array, -1)
        yield "numbers", array.astype(float)


def check_arrays(model: Any, saved: Saved) -> None:
    """Check that no array of a model may have another shape, type or value, and that none may be left out."""
    for name, array in saved.arrays.items():
        for what, changed in _changes_of(name, array, is_late=name.startswith("weights.")):
            assert rejects(model, replace(saved, arrays=saved.arrays | {name: changed})), f"{name}: {what}"
        if not name.startswith("weights."):
            left = {other: array for other, array in saved.arrays.items() if other != name}
            assert rejects(model, replace(saved, arrays=left)), name
    for name in ("weights", "coder.more", "catalogue.more", "stray.x", "nameless"):
        assert rejects(model, replace(saved, arrays=saved.arrays | {name: np.zeros(3)})), name


def check_parts(model: Any, saved: Saved) -> None:
    """Check that what is saved is accepted, but not with a part that no model has, or without one."""
    assert type(put_together(model._stored, saved)) is model._stored
    assert rejects(model, replace(saved, facts=saved.facts | {"more": {}}))
    for part in saved.facts:
        left = {name: facts for name, facts in saved.facts.items() if name != part}
        is_later = part in getattr(model._stored, "later_fields", ())  # files of before there was the part lack it
        assert is_later or rejects(model, replace(saved, facts=left)), part
