"""Fits that are over leave nothing behind: no tensor, no object, no memory."""

from __future__ import annotations

import pytest
import torch
from cases import quick
from conformance import ESTIMATORS, features, targets_for, tiny
from leaks import assert_nothing_stays

#: Checked by `make test`: a plain network, and trees; the others have their training in common with these.
_QUICK = ("SharedBottom", "SharedTrees")


@pytest.mark.parametrize("cls", quick([cls for cls in ESTIMATORS if cls._target_kind is None], *_QUICK))
def test_a_fit_leaves_nothing_behind(cls):
    X = features(40)
    y = targets_for(cls, X)
    assert_nothing_stays(lambda: tiny(cls, epochs=1).fit(X, y).predict(X))


@pytest.mark.parametrize("make", [lambda: torch.zeros(1), lambda: [[]], lambda: bytes(10_000)])
def test_what_stays_is_seen(make):
    held = []
    with pytest.raises(AssertionError):
        assert_nothing_stays(lambda: held.append(make()))
