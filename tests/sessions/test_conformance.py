"""What every recommender does, held by each that the package lists."""

import json
import pickle
import warnings
from pathlib import Path

import polars as pl
import pytest
import torch
import torch._dynamo  # which loading may import, and which derives a class from pickle's
from recommenders import FORMS, ITEMS, M2TREC_FORMS, RECOMMENDERS, TRAIN, every_form, fitted, form_marks, tiny
from safetensors.numpy import load_file

from tabmtl.base.schema import TabmtlWarning
from tabmtl.testing import recommender_checks
from tabmtl.testing.storage import reload

CHECKS = [
    pytest.param(check, marks=form_marks(form), id=f"{form}-{check.__name__}")
    for form in FORMS
    for check in recommender_checks(tiny(form))
]


@pytest.mark.parametrize("check", CHECKS)
def test_promises(check):
    check()


def test_recommenders_of_the_package_are_listed():
    names = {cls.__name__ for cls in RECOMMENDERS}
    assert names >= {"M2TRec", "Popularity", "CategoryPopularity", "SequentialRules", "VSKNN", "STAN", "Blend"}


@every_form
def test_files_hold_json_and_arrays_and_no_pickle(form, tmp_path, monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("pickle was used")

    with monkeypatch.context() as patch:
        for name in ("dump", "dumps", "load", "loads", "Pickler", "Unpickler"):
            patch.setattr(pickle, name, refuse)
        for name in ("save", "load"):
            patch.setattr(torch, name, refuse)
        reload(fitted(form), tmp_path / "model")
    for file in filter(Path.is_file, (tmp_path / "model").rglob("*")):
        json.loads(file.read_text()) if file.suffix == ".json" else load_file(file)
        assert file.suffix in (".json", ".safetensors")


@every_form
def test_missing_metadata_is_news_for_who_reads_it(form):
    some = ITEMS.filter(pl.col("item_id") != TRAIN["item_id"][0])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", TabmtlWarning)
        tiny(form, epochs=1).fit(TRAIN, items=some)
    said = [warning for warning in caught if "not in the item table" in str(warning.message)]
    assert len(said) == form.startswith(("M2TRec", "CategoryPopularity", "Blend"))
    assert [warning.filename for warning in said] == [__file__] * len(said)
    with pytest.warns(TabmtlWarning, match=r"does 'item_id' name the same things"):
        tiny(form, epochs=1).fit(TRAIN, items=ITEMS.with_columns(item_id="x" + pl.col("item_id")))


@pytest.mark.parametrize("form", [form for form in FORMS if form not in M2TREC_FORMS])  # which compare vectors
def test_an_item_alone_is_similar_to_what_follows_it(form):
    assert fitted(form).similar("i07", 5).equals(fitted(form).recommend(["i07"], 5, exclude_seen=True))
