"""Models of tables do not go on with files."""

import pytest
from conformance import features, mixed_targets, tiny

from tabmtl import SharedBottom
from tabmtl.scale import Shards


def test_files_are_no_further_rows(tmp_path):
    X = features()
    X.write_parquet(tmp_path / "a.parquet")
    with pytest.raises(TypeError, match="give some of its rows as a frame"):
        tiny(SharedBottom).partial_fit(Shards(tmp_path / "a.parquet"), "plain")
    model = tiny(SharedBottom, warm_start=True).fit(X, mixed_targets(X))
    with pytest.raises(TypeError, match="warm_start"):
        model.fit(Shards(tmp_path / "a.parquet"), "plain")
