"""Saved recommenders whose checksums are right and whose arrays do not fit each other: refused at load, by name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from forging import copy_of, forge_arrays, forge_facts
from recommenders import M2TREC_FORMS, fitted

import tabmtl
from tabmtl.storage.stored import take_apart

#: Arrays of what items are, which torch reads as they are.
ITEMS_ARRAYS = ["clicks", "row", *(f"features.{name}" for name in ("x_num", "x_cat", "vectors"))]
ITEMS_ARRAYS += [f"features.bags.0.{name}" for name in ("codes", "weights", "offsets")]


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The folder of every form; not to be changed."""
    folders = {form: tmp_path_factory.mktemp("stored") / "model" for form in M2TREC_FORMS}
    for form, folder in folders.items():
        fitted(form).save(folder)
    return folders


def refused(folder: Path, *words: str) -> None:
    with pytest.raises(tabmtl.ModelFileError) as caught:
        tabmtl.load(folder)
    for word in (str(folder), "does not describe a M2TRec of this release", "save it again", *words):
        assert word in str(caught.value), caught.value


def without_last(array: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(array[..., :-1])


def with_first(array: np.ndarray, value: float) -> np.ndarray:
    changed = array.copy()
    changed.flat[0] = value
    return changed


Change = Callable[[np.ndarray], np.ndarray]
OF_WEIGHTS: dict[str, tuple[Change | None, str]] = {
    "missing": (None, "Missing key(s)"),
    "narrower": (without_last, "size mismatch"),
    "of another rank": (lambda array: array[None], "size mismatch"),
    "empty": (lambda array: array[:0], "size mismatch"),
    "twice as long": (lambda array: np.concatenate([array, array]), "size mismatch"),
    "of float64": (lambda array: array.astype(np.float64), "expected 32-bit numbers"),
    "of whole numbers": (lambda array: array.astype(np.int64), "expected 32-bit numbers"),
}


@pytest.mark.parametrize("what", OF_WEIGHTS)
@pytest.mark.parametrize("name", ["encoder.bias", "heads.0.bias", "items.own.weight", "items.tower.bags.0.weight"])
def test_weights_are_those_of_the_network(name: str, what: str, stored: dict[str, Path], tmp_path: Path) -> None:
    change, word = OF_WEIGHTS[what]

    def forged(arrays: dict[str, Any]) -> None:
        array = arrays.pop(f"weights.{name}")
        if change is not None:
            arrays[f"weights.{name}"] = change(array)

    refused(forge_arrays(copy_of(stored["M2TRec"], tmp_path / "model"), forged), name, word)


@pytest.mark.parametrize("name", ["more", "items.own.more", "encoder.layers.9.norm.weight"])
def test_a_weight_that_the_network_does_not_have(name: str, stored: dict[str, Path], tmp_path: Path) -> None:
    folder = copy_of(stored["M2TRec"], tmp_path / "model")
    forge_arrays(folder, lambda arrays: arrays.update({f"weights.{name}": np.zeros(3, "f4")}))
    refused(folder, name, "Unexpected key(s)")


PARAMETERS = {
    "d_model": 32,
    "n_layers": 3,
    "n_heads": 4,
    "max_length": 7,
    "pooling": "mean+last",
    "categories": {"tuple": ["category"]},
    "popularity": True,
    "hierarchy": True,
}


@pytest.mark.parametrize("name", PARAMETERS)
def test_the_parameters_are_those_of_the_weights(name: str, stored: dict[str, Path], tmp_path: Path) -> None:
    folder = copy_of(stored["M2TRec"], tmp_path / "model")
    refused(forge_facts(folder, lambda facts: facts["params"].update({name: PARAMETERS[name]})), "state_dict")


@pytest.mark.parametrize("name", ITEMS_ARRAYS)
def test_arrays_of_items_have_the_types_that_torch_takes(name: str, stored: dict[str, Path], tmp_path: Path) -> None:
    name = f"items.{name}"
    for dtype in (np.float64, np.float32, np.int64, np.int32, np.int16):

        def forged(arrays: dict[str, Any], dtype: Any = dtype) -> None:
            arrays[name] = np.nan_to_num(arrays[name]).astype(dtype)

        if take_apart(fitted("M2TRec")._items).arrays[name.removeprefix("items.")].dtype != dtype:
            folder = forge_arrays(copy_of(stored["M2TRec"], tmp_path / "model"), forged)
            refused(folder, name, np.dtype(dtype).name, "-bit")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("row", value) for value in (-1, 60, 2**62)),
        *(
            (f"features.{name}", value)
            for name in ("x_cat", "bags.0.codes", "bags.1.codes")
            for value in (-1, 2**31 - 1)
        ),
        *((f"features.bags.{bag}.offsets", value) for bag in (0, 1) for value in (-1, 1, 2**62)),
        *(("features.bags.0.weights", value) for value in (np.nan, np.inf, -1)),
        ("features.x_num", np.inf),
        ("clicks", -1),
    ],
)
def test_values_of_items_are_in_range(name: str, value: float, stored: dict[str, Path], tmp_path: Path) -> None:
    folder = copy_of(stored["M2TRec"], tmp_path / "model")
    name = f"items.{name}"
    refused(forge_arrays(folder, lambda arrays: arrays.update({name: with_first(arrays[name], value)})))


@pytest.mark.parametrize("form", M2TREC_FORMS)
def test_a_catalogue_of_other_items_is_refused(form: str, stored: dict[str, Path], tmp_path: Path) -> None:
    def of_more_clicks(arrays: dict[str, Any]) -> None:
        arrays["items.clicks"] = 1 + arrays["items.clicks"]

    folder = forge_arrays(copy_of(stored[form], tmp_path / "model"), of_more_clicks)
    if form == "M2TRec of the paper":  # whose items have no vectors of their own
        assert tabmtl.load(folder).n_items_ == 60
    else:
        refused(folder, "items.own.weight", "size mismatch")


OF_CATEGORIES = {
    "codes": (-1, 2**20),
    "offsets": (-1, 1, 2**20),
    "transitions.offsets": (-1, 1, 2**20),
    "transitions.codes": (-1, 2**20),
    "transitions.counts": (0, -1),
}


@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name, values in OF_CATEGORIES.items() for value in values]
)
def test_values_of_categories_are_in_range(name: str, value: int, stored: dict[str, Path], tmp_path: Path) -> None:
    folder, name = copy_of(stored["M2TRec"], tmp_path / "model"), f"categories.0.{name}"
    refused(forge_arrays(folder, lambda arrays: arrays.update({name: with_first(arrays[name], value)})), name)


def test_categories_are_those_of_the_items(stored: dict[str, Path], tmp_path: Path) -> None:
    for what, change, word in (
        ("name", lambda columns: columns[0].update(name="colour"), "'colour'"),
        ("value", lambda columns: columns[0]["values"]["values"].pop(), "categories.0.codes"),
        ("transitions", lambda columns: columns[0].update(transitions=None), "categories.0.transitions"),
    ):
        folder = copy_of(stored["M2TRec"], tmp_path / what)
        refused(forge_facts(folder, lambda facts, change=change: change(facts["categories"])), word)


def test_an_item_has_a_category_at_least(stored: dict[str, Path], tmp_path: Path) -> None:
    def forged(arrays: dict[str, Any]) -> None:
        arrays["categories.3.offsets"][1] = 0

    refused(forge_arrays(copy_of(stored["M2TRec"], tmp_path / "model"), forged), "an item has no category in 'tags'")
