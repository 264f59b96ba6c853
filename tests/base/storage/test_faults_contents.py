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
import pytest
from conformance import answers, same
from forging import (
    check_arrays,
    check_parts,
    copy_of,
    forge,
    forge_arrays,
    forge_facts,
    parts_of,
    rejects,
    whole_of,
    with_first,
)
from lightgbm.basic import _ConfigAliases
from models_at_hand import fitted

import tabmtl
from tabmtl import PLE, RMTGB, IndependentTasks, ModelFileError, MultiTabNet, SharedBottom, SharedTrees
from tabmtl.base.params import _OPENING, MOST_JOBS, from_json, to_json
from tabmtl.base.storage.stored import Saved
from tabmtl.estimators.base import SavableEstimator

CLASSES = [MultiTabNet, RMTGB, SharedTrees, IndependentTasks]


@cache
def contents(cls) -> tuple[SavableEstimator, Saved]:
    """A fitted estimator and what it saves; not to be changed."""
    model = fitted(cls)[0]
    return model, whole_of(model)


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """A function that gives the folder of a class; not to be changed."""

    @cache
    def folder_of(cls):
        folder = tmp_path_factory.mktemp("stored") / "model"
        contents(cls)[0].save(folder)
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


GIANTS = [
    *((SharedBottom, name, 10**9) for name in ("d_embedding", "head_hidden")),
    *((SharedBottom, "hidden", {"tuple": value}) for value in ([10**9], [30_000, 30_000], [8] * 3_000)),
    *((MultiTabNet, name, 10**8) for name in ("d_token", "d_ffn")),
    *((PLE, "n_levels", 10**9), (PLE, "expert_hidden", {"tuple": [60_000, 60_000]})),
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


@pytest.mark.parametrize("cls", CLASSES)
def test_arrays_of_other_shapes_types_and_values_are_refused(cls):
    check_arrays(*contents(cls))


@pytest.mark.parametrize("value", [1, 3, 2**62])
def test_indices_beyond_what_they_point_at_are_refused(value):
    model, saved = contents(RMTGB)
    name = "groups.0.members"
    assert rejects(model, replace(saved, arrays=saved.arrays | {name: with_first(saved.arrays[name], value)}))


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
    model, saved = contents(RMTGB)
    for value in BAD:
        facts = json.loads(json.dumps(saved.facts))
        *way, last = path.split()
        place = facts
        for key in way:
            place = place[key]
        if place[last] != value:
            place[last] = value
            assert rejects(model, replace(saved, facts=facts)), value


@pytest.mark.parametrize("cls", CLASSES)
def test_what_is_saved_is_accepted_with_all_parts_and_no_others(cls):
    check_parts(*contents(cls))


@pytest.mark.parametrize("value", [0, -1, 10**12])
def test_a_network_has_as_many_features_as_its_weights_allow(value):
    model, saved = contents(SharedBottom)
    assert rejects(model, replace(saved, facts=saved.facts | {"n_features_out": value}))


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
    model, saved = contents(SharedTrees)
    for name in ("start", "rounds", "n_labels", "gains", "forest.values"):
        name = f"functions.{name}"
        array = saved.arrays[name]
        for other in (array[:-1], np.concatenate([array, array[:1]])):
            assert rejects(model, replace(saved, arrays=saved.arrays | {name: other})), name


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
