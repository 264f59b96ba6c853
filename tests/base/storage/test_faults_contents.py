"""Folders whose checksums are right and whose contents are not: refused at load, before anything is built from them."""

from __future__ import annotations

import gzip
import json
import re
import resource
from dataclasses import replace
from functools import cache

import lightgbm as lgb
import numpy as np
import polars as pl
import pytest
import recommenders
from conformance import answers, same
from forging import copy_of, forge, forge_arrays, forge_facts, parts_of
from lightgbm.basic import _ConfigAliases
from models_at_hand import fitted

import tabmtl
from tabmtl import PLE, RMTGB, IndependentTasks, ModelFileError, MultiTabNet, SharedBottom, SharedTrees
from tabmtl.base.params import _OPENING, MOST_JOBS, from_json, to_json
from tabmtl.base.storage.stored import Saved, put_together, take_apart
from tabmtl.estimators.base import SavableEstimator

FORMS = [*recommenders.FORMS, MultiTabNet, RMTGB, SharedTrees, IndependentTasks]


@cache
def contents(form) -> tuple[SavableEstimator, Saved]:
    """A fitted estimator and what it saves; not to be changed."""
    model = recommenders.fitted(form) if isinstance(form, str) else fitted(form)[0]
    saved = take_apart(model._state())
    return model, replace(saved, facts=json.loads(json.dumps(saved.facts)))


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """A function that gives the folder of a class; not to be changed."""

    @cache
    def folder_of(form):
        folder = tmp_path_factory.mktemp("stored") / "model"
        contents(form)[0].save(folder)
        return folder

    return folder_of


def refused(folder, *words: str) -> None:
    with pytest.raises(ModelFileError) as caught:
        tabmtl.load(folder)
    for word in (str(folder), "save it again", *words):
        assert word in str(caught.value), caught.value


# hyper-parameters


@pytest.mark.parametrize(
    ("name", "value", "word"),
    [
        *(("colour", 3, "colour"), ("epochs", -1, "epochs must be at least 1"), ("epochs", "x", "epochs")),
        *(("tasks", {"pickle": "gAS"}, "'pickle'"), ("tasks", {"task": {"name": "a", "kind": "x"}}, "kind must be")),
        *(("balance", "none", "balance must be"), ("dropout", "x", "a number"), ("hidden", "ab", "hidden must be")),
        *(("n_jobs", 10**6, f"from 1 to {MOST_JOBS}"), ("n_jobs", 0, "n_jobs"), ("n_jobs", "1", "n_jobs")),
        *((None, [], "list"), (None, None, "None"), (None, {"epochs": {"a": 1, "b": 2}}, "unpack")),
    ],
)
def test_parameters_that_fit_never_had_are_refused(stored, tmp_path, name, value, word):
    folder = copy_of(stored(SharedBottom), tmp_path / "model")
    forge_facts(
        folder, lambda facts: facts.update(params=value) if name is None else facts["params"].update({name: value})
    )
    refused(folder, word)


@pytest.mark.parametrize("form", ["VSKNN", "STAN"])
@pytest.mark.parametrize(("value", "word"), [(10**29, "at most"), (1e29, "a whole number")])
def test_numbers_that_numpy_cannot_hold_are_refused(stored, tmp_path, form, value, word):
    folder = copy_of(stored(form), tmp_path / "model")
    for name in ("sample_size", "n_neighbors"):
        forge_facts(folder, lambda facts, name=name: facts["params"].update({name: value}))
        refused(folder, f"{name} must be {word}")
        forge_facts(folder, lambda facts, name=name: facts["params"].update({name: 100}))


GIANTS = [
    *((SharedBottom, name, 10**9) for name in ("d_embedding", "head_hidden")),
    *((SharedBottom, "hidden", {"tuple": value}) for value in ([10**9], [30_000, 30_000], [8] * 3_000)),
    *((MultiTabNet, name, 10**8) for name in ("d_token", "d_ffn")),
    *((PLE, "n_levels", 10**9), (PLE, "expert_hidden", {"tuple": [60_000, 60_000]})),
    *(("M2TRec", name, 10**8) for name in ("d_model", "n_layers", "max_length")),
]


@pytest.mark.parametrize(("cls", "name", "value"), GIANTS)
def test_a_network_larger_than_its_weights_is_not_built(stored, tmp_path, cls, name, value):
    folder = copy_of(stored(cls), tmp_path / "model")
    forge_facts(folder, lambda facts: facts["params"].update({name: value}))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    refused(folder)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 500_000  # kilobytes


def test_a_loaded_network_is_the_fitted_one_whatever_watched_its_building(stored):
    for cls in (SharedBottom, MultiTabNet, PLE):
        model, X, _ = fitted(cls)
        assert same(answers(model, X), answers(tabmtl.load(stored(cls)), X))


# LightGBM's own


def test_all_of_lightgbms_parameters_that_open_something_are_known():
    aliases = _ConfigAliases._get_all_param_aliases()
    opening = {name for names in aliases.values() for name in names if set(names) & set(_OPENING)}
    assert opening == set(_OPENING)
    found = {name for names in aliases.values() for name in names if any(word in name for word in ("file", "machine"))}
    assert found <= opening


def test_what_lightgbm_would_open_is_not_saved(tmp_path):
    opened = {"forcedsplits_filename": str(tmp_path / "splits.json"), "machines": "evil.example:123"}
    (tmp_path / "splits.json").write_text("{}")
    described = to_json("regressor", lgb.LGBMRegressor(num_leaves=7, **opened))
    assert from_json(described).get_params() == lgb.LGBMRegressor(num_leaves=7).get_params()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *((name, "/x") for name in ("forcedsplits_filename", "fs", "forcedbins_filename", "data", "input_model")),
        *((name, "x") for name in ("machines", "num_machines", "output_model", "valid", "config", "port")),
        *(("objective", "binary machines=evil:1"), ("metric", ["auc", "l2\tdata=/etc/passwd"]), ("a b", 1), ("x=1", 1)),
        *(("objective", "binary\nfs=x"), ("boosting_type", "/lib/evil.so"), ("n_jobs", 10**6), ("nthread", 10**6)),
        ("interaction_constraints", [[["0 fs=x"]]]),
    ],
)
def test_a_lightgbm_estimator_that_would_open_something_is_refused(stored, tmp_path, name, value):
    folder = copy_of(stored(IndependentTasks), tmp_path / "model")
    params = {"dict": {name: value}}
    forge_facts(
        folder,
        lambda facts: facts["params"].update(regressor={"lightgbm": {"class": "LGBMRegressor", "params": params}}),
    )
    refused(folder, name.split()[0].split("=")[0])


# facts and arrays


def test_whatever_is_saved_is_accepted():
    for form in FORMS:
        model, saved = contents(form)
        assert type(put_together(model._stored, saved)) is model._stored


def rejects(form, saved: Saved) -> bool:
    try:
        put_together(contents(form)[0]._stored, saved)
    except (ValueError, TypeError, LookupError, pl.exceptions.PolarsError):
        return True
    return False


def with_first(array: np.ndarray, value: float) -> np.ndarray:
    changed = array.copy()
    changed.flat[0] = value
    return changed


def changes_of(name: str, array: np.ndarray, *, is_late: bool):
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


@pytest.mark.parametrize("form", FORMS)
def test_arrays_of_other_shapes_types_and_values_are_refused(form):
    _, saved = contents(form)
    for name, array in saved.arrays.items():
        for what, changed in changes_of(name, array, is_late=name.startswith("weights.")):
            assert rejects(form, replace(saved, arrays=saved.arrays | {name: changed})), f"{name}: {what}"
        if not name.startswith("weights."):
            left = {other: array for other, array in saved.arrays.items() if other != name}
            assert rejects(form, replace(saved, arrays=left)), name
    for name in ("weights", "coder.more", "catalogue.more", "stray.x", "nameless"):
        assert rejects(form, replace(saved, arrays=saved.arrays | {name: np.zeros(3)})), name


@pytest.mark.parametrize(
    ("form", "name", "value"),
    [
        *((form, "memory.offsets", value) for form in ("VSKNN", "STAN") for value in (1, 2, 2**40)),
        *((form, "memory.items", value) for form in ("VSKNN", "STAN") for value in (0, 61, 2**31 - 1)),
        *(("SequentialRules", f"rules.{name}", value) for name in ("items", "offsets") for value in (60, 2**31 - 1)),
        *(("CategoryPopularity", "categories", value) for value in (61, 2**31 - 1)),
        *(("M2TRec", "items.row", value) for value in (60, 2**62)),
        *(("M2TRec", f"items.features.bags.{bag}.codes", 2**31 - 1) for bag in (0, 1)),
        *(("M2TRec", f"items.features.bags.{bag}.offsets", 2**31 - 1) for bag in (0, 1)),
        ("M2TRec", "items.features.codes", 2**31 - 1),
        *((RMTGB, "groups.0.members", value) for value in (1, 3, 2**62)),
    ],
)
def test_indices_beyond_what_they_point_at_are_refused(form, name, value):
    _, saved = contents(form)
    assert rejects(form, replace(saved, arrays=saved.arrays | {name: with_first(saved.arrays[name], value)}))


BAD = [None, "x", -1, 10**9, 1.5, [], {}, ["x", "x"], [-1], [[1]]]
PATHS = [
    *(
        f"coder features coders numbers {name}"
        for name in ("names", "bins", "has_missing", "scaler", "scaler transform")
    ),
    *(f"coder features coders {name}" for name in ("numbers", "categories", "categories names", "categories levels")),
    *("coder features names", "coder features coders", "coder labels tasks"),
    *(
        f"coder labels {name}"
        for name in ("names", "dtypes", "origin", "origin container", "origin ndim", "origin dtypes")
    ),
    *("coder names", "coder task_column", "groups", "coder"),
]


@pytest.mark.parametrize("path", PATHS)
def test_facts_of_other_types_and_sizes_are_refused(path):
    _, saved = contents(RMTGB)
    for value in BAD:
        facts = json.loads(json.dumps(saved.facts))
        *way, last = path.split()
        place = facts
        for key in way:
            place = place[key]
        if place[last] != value:
            place[last] = value
            assert rejects(RMTGB, replace(saved, facts=facts)), value


def test_parts_that_no_model_has_and_models_without_a_part_are_refused():
    for form in FORMS:
        model, saved = contents(form)
        assert rejects(form, replace(saved, facts=saved.facts | {"more": {}}))
        for part in saved.facts:
            left = {name: facts for name, facts in saved.facts.items() if name != part}
            is_later = part in getattr(model._stored, "later_fields", ())  # files of before there was the part lack it
            assert is_later or rejects(form, replace(saved, facts=left)), (form, part)


@pytest.mark.parametrize("value", [0, -1, 10**12])
def test_a_network_has_as_many_features_as_its_weights_allow(value):
    _, saved = contents(SharedBottom)
    assert rejects(SharedBottom, replace(saved, facts=saved.facts | {"n_features_out": value}))


def test_trees_fit_the_columns_and_the_tasks(stored, tmp_path):
    for cls in (RMTGB, IndependentTasks):
        folder = copy_of(stored(cls), tmp_path / "model")
        found = parts_of(folder)
        one, many = found["trees0.txt"], found.get("trees1.txt") or found["trees1.txt.gz"]
        many = gzip.decompress(many.read_bytes()) if many.suffix == ".gz" else many.read_bytes()
        one = one.read_bytes()
        refused(forge(folder, {"trees0.txt": many}), "outputs", "expected")
        wide = one.replace(b"max_feature_idx=6", b"max_feature_idx=7").replace(b"_infos=", b"_infos=none ")
        refused(forge(folder, {"trees0.txt": wide.replace(b"_names=", b"_names=more ")}), "columns")


def test_leaf_values_fit_the_trees_and_the_tasks(stored, tmp_path):
    folder = copy_of(stored(SharedTrees), tmp_path / "model")
    text = parts_of(folder)["trees0.txt"].read_bytes()
    shorter = text.partition(b"Tree=1\n")[0]
    size = len(shorter.partition(b"\n\n")[2])
    shorter = re.sub(rb"tree_sizes=.*", b"tree_sizes=%d" % size, shorter)
    refused(forge(folder, {"trees0.txt": shorter + text[text.index(b"end of trees") :]}), "leaves, expected")
    _, saved = contents(SharedTrees)
    for name in ("start", "rounds", "n_labels", "gains", "forest.values"):
        name = f"functions.{name}"
        array = saved.arrays[name]
        for other in (array[:-1], np.concatenate([array, array[:1]])):
            assert rejects(SharedTrees, replace(saved, arrays=saved.arrays | {name: other})), name


def test_rounds_that_the_trees_do_not_have_are_refused(stored, tmp_path):
    folder = copy_of(stored(RMTGB), tmp_path / "model")
    forge_arrays(folder, lambda arrays: arrays["groups.0.rounds"].__setitem__(0, 10**9))
    refused(folder, "rounds, expected stages of")


def test_what_load_would_refuse_is_not_saved_over_a_model(stored, tmp_path):
    folder = copy_of(stored(SharedBottom), tmp_path / "model")
    model, X, _ = fitted(SharedBottom)
    broken = tabmtl.load(folder)
    name = min(broken.weights_)
    nothing = {name: np.full_like(broken.weights_[name], np.nan)}
    broken._model = replace(broken._model, fitted=broken._fitted.with_weights(broken.weights_ | nothing))
    with pytest.raises(ValueError, match=rf"weights\.{name} has a value that is not finite"):
        broken.save(folder)
    assert same(answers(model, X), answers(tabmtl.load(folder), X))
