"""Checkpoints of recommenders that were cut, edited or made up are one error, or harmless."""

import pytest
from forged_checkpoints import cases, check_forged, check_whole
from recommenders import ITEMS, TRAIN, tiny

from tabmtl.nn import embeddings


def fit(**hook):
    return tiny("M2TRec", epochs=2, **hook).fit(TRAIN, items=ITEMS)


@pytest.fixture(autouse=True)
def _large_tables(monkeypatch):
    monkeypatch.setattr(embeddings, "DENSE_ROWS", 1)


@pytest.mark.filterwarnings("ignore::tabmtl.base.schema.TabmtlWarning")
@cases(80, 10)
def test_a_forged_checkpoint_is_one_error_or_harmless(case, tmp_path):
    check_forged(fit, case, tmp_path)


def test_a_whole_checkpoint_is_taken(tmp_path):
    check_whole(fit, tmp_path)
