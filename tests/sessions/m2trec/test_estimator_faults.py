"""Saved recommenders whose checksums are right and whose arrays do not fit each other: refused at load, by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from forging import copy_of, forge_arrays, forge_facts
from recommenders import M2TREC_FORMS, TEST, fitted

import tabmtl
from tabmtl.sessions import M2TRec


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
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
@pytest.mark.parametrize(
    "name", ["encoder.bias", "heads.0.bias", "items.own.weight", "items.tower.tokenizer.bags.table.weight"]
)
def test_weights_are_those_of_the_network(name, what, stored, tmp_path):
    change, word = OF_WEIGHTS[what]

    def forged(arrays):
        array = arrays.pop(f"weights.{name}")
        if change is not None:
            arrays[f"weights.{name}"] = change(array)

    refused(forge_arrays(copy_of(stored["M2TRec"], tmp_path / "model"), forged), name, word)


#: A value of the array, or nothing for an array that is not expected, and the words of the error.
ARRAYS = {
    **{f"weights.{name}": (None, "Unexpected key(s)") for name in ("more", "items.own.more", "encoder.layers.9.norm")},
    "items.features.bags.0.weights": (-1, "items.features.bags.0.weights"),
    "categories.0.codes": (2**20, "categories.0.codes"),
    "categories.0.offsets": (1, "categories.0.offsets"),
    "categories.0.transitions.offsets": (1, "categories.0.transitions.offsets"),
    "categories.0.transitions.codes": (2**20, "categories.0.transitions.codes"),
    "categories.0.transitions.counts": (0, "categories.0.transitions.counts"),
}


@pytest.mark.parametrize("name", ARRAYS)
def test_arrays_are_known_and_in_range(name, stored, tmp_path):
    value, word = ARRAYS[name]

    def forged(arrays):
        arrays[name] = np.zeros(3, "f4") if value is None else with_first(arrays[name], value)

    refused(forge_arrays(copy_of(stored["M2TRec"], tmp_path / "model"), forged), name.removeprefix("weights."), word)


def test_an_item_has_a_category_at_least(stored, tmp_path):
    def forged(arrays):
        arrays["categories.3.offsets"][1] = 0

    refused(forge_arrays(copy_of(stored["M2TRec"], tmp_path / "model"), forged), "an item has no category in 'tags'")


PARAMETERS = {
    "d_model": 32,
    "n_layers": 3,
    "n_heads": 4,
    "max_length": 7,
    "pooling": "mean+last",
    "categories": {"tuple": ["category"]},
    "popularity": True,
}
FACTS = {
    **{name: (lambda facts, n=name: facts["params"].update({n: PARAMETERS[n]}), "state_dict") for name in PARAMETERS},
    "name": (lambda facts: facts["categories"][0].update(name="colour"), "'colour'"),
    "value": (lambda facts: facts["categories"][0]["values"]["values"].pop(), "categories.0.codes"),
    "transitions": (lambda facts: facts["categories"][0].update(transitions=None), "categories.0.transitions"),
}


@pytest.mark.parametrize("name", FACTS)
def test_parameters_and_categories_are_those_of_the_arrays(name, stored, tmp_path):
    change, word = FACTS[name]
    refused(forge_facts(copy_of(stored["M2TRec"], tmp_path / "model"), change), word)


@pytest.mark.parametrize("form", M2TREC_FORMS)
def test_a_catalogue_of_other_items_is_refused(form, stored, tmp_path):
    def of_more_clicks(arrays):
        arrays["items.clicks"] = 1 + arrays["items.clicks"]

    folder = forge_arrays(copy_of(stored[form], tmp_path / "model"), of_more_clicks)
    if form == "M2TRec of the paper":  # whose items have no vectors of their own
        assert tabmtl.load(folder).n_items_ == 60
    else:
        refused(folder, "items.own.weight", "size mismatch")


def test_files_of_before_are_read_if_they_hold_nothing_of_what_left():
    saved = fitted("M2TRec").__saved__()
    new = dict(saved.facts["new_items"])
    new |= {"listed": new["share"], "added": new.pop("share"), "n_fitted": 60}
    gone = {"users": None, "params": saved.facts["params"] | {"user_column": None, "user_clicks": 10}, "new_items": new}
    found = M2TRec.__from_saved__(replace(saved, facts=saved.facts | gone))
    assert found.recommend(TEST).equals(fitted("M2TRec").recommend(TEST))
    for name, value, said in (
        ("users", {"ids": 1}, "users"),
        ("params", gone["params"] | {"user_column": "user"}, "user_column"),
        ("new_items", new | {"listed": 0.1}, "have another share than those added later: fit it again"),
    ):
        with pytest.raises((ValueError, TypeError), match=said):
            M2TRec.__from_saved__(replace(saved, facts=saved.facts | gone | {name: value}))
