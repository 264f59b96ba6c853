"""Files."""

from __future__ import annotations

import pytest
from conformance import features, mixed_targets, tiny

from tabmtl import (
    MultiTaskEnsemble,
    SharedBottom,
)
from tabmtl.scale import Shards

X, Y = features(), mixed_targets(features())


def test_who_has_no_partial_fit_names_the_cure(tmp_path):
    with pytest.raises(AttributeError, match=r"MultiTaskEnsemble has no partial_fit.*distill"):
        MultiTaskEnsemble().partial_fit(X, Y)
    X.write_parquet(tmp_path / "a.parquet")
    with pytest.raises(TypeError, match="give frames, one part at a time"):
        tiny(SharedBottom).partial_fit(Shards(tmp_path / "a.parquet"), "plain")
    with pytest.raises(TypeError, match="warm_start"):
        tiny(SharedBottom, warm_start=True).fit(X, Y).fit(Shards(tmp_path / "a.parquet"), "plain")
