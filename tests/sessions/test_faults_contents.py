"""Folders of recommenders whose checksums are right and whose contents are not: refused at load."""

import resource
from dataclasses import replace
from functools import cache

import pytest
from cases import later
from forging import check_arrays, check_damaged_facts, check_parts, copy_of, forge_facts, rejects, whole_of, with_first
from recommenders import FORMS, fitted

import tabmtl
from tabmtl import ModelFileError
from tabmtl.base.storage.stored import Saved
from tabmtl.sessions.recommender import Recommender


@cache
def contents(form) -> tuple[Recommender, Saved]:
    """A fitted recommender and what it saves; not to be changed."""
    return fitted(form), whole_of(fitted(form))


@pytest.fixture
def stored(tmp_path):
    """A function that gives the folder of a form."""

    def folder_of(form):
        fitted(form).save(tmp_path / "whole")
        return copy_of(tmp_path / "whole", tmp_path / "model")

    return folder_of


@pytest.mark.parametrize("form", ["VSKNN", "STAN"])
@pytest.mark.parametrize(("value", "word"), [(10**29, "at most"), (1e29, "a whole number")])
def test_numbers_that_numpy_cannot_hold_are_refused(stored, form, value, word):
    folder = stored(form)
    for name in ("sample_size", "n_neighbors"):
        forge_facts(folder, lambda facts, name=name: facts["params"].update({name: value}))
        with pytest.raises(ModelFileError, match=f"{name} must be {word}"):
            tabmtl.load(folder)
        forge_facts(folder, lambda facts, name=name: facts["params"].update({name: 100}))


@pytest.mark.parametrize("name", ["d_model", "n_layers", "max_length"])
def test_a_network_larger_than_its_weights_is_not_built(stored, name):
    folder = stored("M2TRec")
    forge_facts(folder, lambda facts: facts["params"].update({name: 10**8}))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ModelFileError, match="save it again"):
        tabmtl.load(folder)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 500_000  # kilobytes


@pytest.mark.parametrize("form", FORMS)
def test_arrays_of_other_shapes_types_and_values_are_refused(form):
    check_arrays(*contents(form))


@pytest.mark.parametrize("form", FORMS)
def test_what_is_saved_is_accepted_with_all_parts_and_no_others(form):
    check_parts(*contents(form))


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
    ],
)
def test_indices_beyond_what_they_point_at_are_refused(form, name, value):
    model, saved = contents(form)
    assert rejects(model, replace(saved, arrays=saved.arrays | {name: with_first(saved.arrays[name], value)}))


@pytest.mark.parametrize("form", later(["VSKNN", "SequentialRules", "M2TRec", "CategoryPopularity"], "M2TRec"))
def test_damaged_facts_are_a_model_or_one_kind_of_error(form, tmp_path):
    check_damaged_facts(fitted(form), tmp_path / "model")
