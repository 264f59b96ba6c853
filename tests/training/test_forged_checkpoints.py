"""Checkpoints that were cut, edited or made up: each is one error that names the file and the cure, or harmless."""

import json
from functools import cache

import pytest
from conformance import tiny
from cutting import TARGETS, table
from forged_checkpoints import cases, check_forged, check_whole, read, whole
from safetensors.numpy import save_file

from tabmtl import MMoE, SharedBottom
from tabmtl.base.ranks import ALONE
from tabmtl.nn import embeddings
from tabmtl.training.run import entered


@cache
def rows():
    found = table(120)
    return found.drop(TARGETS), found.select(TARGETS)


def fit_some(**hook):
    return tiny(SharedBottom, epochs=2, **hook).fit(*rows())


def fit_all(**hook):
    return tiny(MMoE, epochs=2, early_stopping=False, **hook).fit(*rows())


@pytest.fixture(autouse=True)
def _large_tables(monkeypatch):
    monkeypatch.setattr(embeddings, "DENSE_ROWS", 1)


@pytest.mark.filterwarnings("ignore::tabmtl.base.schema.TabmtlWarning")
@cases(170, 20)
def test_a_forged_checkpoint_is_one_error_or_harmless(case, tmp_path):
    check_forged((fit_some, fit_all)[case % 2], case, tmp_path)


@pytest.mark.parametrize("fit", [fit_some, fit_all])
def test_whole_checkpoints_are_taken(fit, tmp_path):
    check_whole(fit, tmp_path)


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
def test_an_edited_checkpoint_says_where(tmp_path, path, value, told):
    file = tmp_path / "fit-1.safetensors"
    file.write_bytes(whole(fit_some))
    arrays, content = read(file)
    owner = content
    for key in path[:-1]:
        owner = owner[key]
    owner[path[-1]] = value
    save_file(arrays, file, metadata={"checkpoint": json.dumps(content)})
    words = rf"fit-1\.safetensors (cannot be read|does not fit): .*{told}.*; remove it to begin anew"
    with pytest.raises(ValueError, match=words), entered(ALONE, tmp_path):
        fit_some()
