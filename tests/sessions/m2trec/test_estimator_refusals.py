"""M2TRec refuses, by name and with the cure, what it cannot be asked; and its help explains what it can."""

from __future__ import annotations

import pickle
import re
from dataclasses import fields
from typing import Any

import numpy as np
import pytest
import torch
from recommenders import ITEMS, TEST, TRAIN, fitted, tiny

from tabmtl.sessions import M2TRec


def fit(**params: Any) -> M2TRec:
    return tiny("M2TRec", **params).fit(TRAIN, items=ITEMS)


BAD: dict[str, tuple[Any, str]] = {
    "id_mode": ("some", r"id_mode must be one of \['full', 'none'\], got 'some'"),
    "pooling": ("max", "pooling must be one of"),
    "item_tower": ("deep", "item_tower must be one of"),
    "training": ("per_click", "training must be one of"),
    "precision": ("float16", "precision must be one of"),
    "d_model": (15, "d_model must be a multiple of n_heads, got 15 and 2"),
    "n_layers": (0, "n_layers must be at least 1, got 0"),
    "n_heads": (1.5, "n_heads must be a whole number, got 1.5"),
    "max_length": (0, "max_length must be at least 1"),
    "min_frequency": (0, "min_frequency must be at least 1"),
    "epochs": (0, "epochs must be at least 1"),
    "batch_size": (-3, "batch_size must be at least 1, got -3"),
    "patience": ("2", "patience must be a whole number, got '2'"),
    "n_negatives": (0, "n_negatives must be at least 1"),
    "learning_rate": (float("nan"), "learning_rate must be a finite number above 0, got nan"),
    "temperature": (0, "temperature must be a finite number above 0, got 0"),
    "new_item_share": (0, "new_item_share must be a finite number above 0, got 0"),
    "max_new_share": (1, "max_new_share must be between 0 and 1, got 1"),
    "id_dropout": (1, "id_dropout must be at least 0 and below 1, got 1"),
    "dropout": (-0.1, "dropout must be at least 0 and below 1"),
    "average_decay": (1, "average_decay must be at least 0 and below 1"),
    "weight_decay": (-1, "weight_decay must be at least 0"),
    "validation_fraction": (1, "validation_fraction must be between 0 and 1"),
    "category_weight": ([1.0], r"category_weight has 1 weights, expected one per level of categories: \['cat"),
    "device": ("gpu", r"device must be 'auto', 'cpu', 'cuda', or another name .*, got 'gpu'$"),
    "event_weights": ({"buy": -1}, r"event_weights\['buy'\] must be at least 0, got -1"),
    "n_jobs": ("all", "n_jobs must be None or a whole number other than 0, such as -1 for all, got 'all'"),
}


LISTED = "must be a sequence of columns, got"
LEVELS = "category_weight must be a number or a list of one a level of categories, got "
REFUSED: list[tuple[dict[str, Any], type[Exception], str]] = [
    *(({name: value}, ValueError, message) for name, (value, message) in BAD.items()),
    ({"category_weight": -1}, ValueError, "category_weight must be at least 0, got -1"),
    ({"category_weight": [0.5, "1"]}, ValueError, "category_weight must be a number of at least 0, got '1'$"),
    *(
        ({"category_weight": value}, ValueError, re.escape(f"{LEVELS}{value!r}") + "$")
        for value in ("a", "ab", {"category": 1, "subcategory": 2}, None, True, object)
    ),
    *(
        ({"categories": value}, TypeError, f"categories.* {message}")
        for value, message in (
            ("category", f"{LISTED} 'category': put it in a list$"),
            (None, f"{LISTED} None: give a list"),
            ([3], "must name columns by text, got 3"),
        )
    ),
    ({"columns": ["name"]}, TypeError, r"columns must map names of columns to kinds, .*, got \['name'\]"),
    ({"columns": {"name": "txt"}}, ValueError, r"columns\['name'\]: a column is one of .*, got 'txt'; near is 'text'"),
    ({"item_tower": "concat", "n_heads": 3, "d_model": 12}, ValueError, "n_heads must divide 32 with item_tower="),
    ({"on_epoch": 3}, TypeError, "on_epoch must be a function of the record of an epoch, or None, got 3$"),
    ({"device": np.ones(3)}, ValueError, "device must be 'auto', 'cpu', 'cuda', or another name .*, got array"),
    ({"random_state": "seven"}, ValueError, "random_state must be a whole number"),
]


@pytest.mark.parametrize(("params", "error", "message"), REFUSED, ids=str)
def test_parameters_that_cannot_be_are_named_before_training(params, error, message):
    with pytest.raises(error, match=f"^{message}"):
        fit(**params)


def test_logs_without_a_next_click_are_refused():
    single = TRAIN.unique("session_id")
    with pytest.raises(ValueError, match="no session of the click log has two clicks"):
        tiny("M2TRec").fit(single, items=ITEMS)
    with pytest.raises(ValueError, match="no session of the validation log has two clicks"):
        tiny("M2TRec").fit(TRAIN, items=ITEMS, clicks_val=TEST.unique("session_id"))


NEEDS: dict[str, tuple[dict[str, Any], str]] = {
    "none": ({"id_mode": "none"}, "id_mode='none'"),
    "categories": ({"categories": ["category"]}, "categories=['category']"),
    "columns": ({"columns": {"name": "text"}}, "columns={'name': 'text'}"),
    "tower": ({"item_tower": "concat"}, "item_tower='concat'"),
    "two": ({"id_mode": "none", "columns": {"name": "text"}}, "id_mode='none' and columns={'name': 'text'}"),
}


@pytest.mark.parametrize("case", NEEDS)
def test_what_needs_metadata_and_nothing_else_is_named(case):
    params, named = NEEDS[case]
    said = f"an item table with metadata is needed for {named}: "
    for items, cure in (
        (None, "fit with items="),
        (ITEMS.select("item_id"), "the one given has no column but 'item_id'"),
    ):
        with pytest.raises(ValueError, match=f"^{re.escape(said + cure)}$"):
            M2TRec(device="cpu", **params).fit(TRAIN, items=items)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_a_device_that_is_not_there_is_refused_by_name_with_the_cure():
    message = r"^torch cannot compute on device='cuda(:1)?' here \(.*\): say device='auto' or 'cpu'$"
    for device in ("cuda", "cuda:1"):
        with pytest.raises(ValueError, match=message):
            fit(device=device)
    model = pickle.loads(pickle.dumps(fitted("M2TRec"))).set_params(device="cuda")
    with pytest.raises(ValueError, match=message):
        model.recommend(TEST)


def test_help_explains_what_is_inherited():
    for field in fields(M2TRec):
        assert re.search(rf"^([a-z_]+, )*{field.name}(, [a-z_]+)* : ", M2TRec.__doc__ or "", re.M), field.name
