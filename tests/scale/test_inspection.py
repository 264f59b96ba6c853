"""What reads a frame in memory refuses files."""

import pytest
from conformance import features, mixed_targets, tiny

from tabmtl import SharedTrees, compare, permutation_importances
from tabmtl.scale import Shards


def test_what_reads_a_frame_refuses_files():
    X = features()
    y = mixed_targets(X)
    with pytest.raises(TypeError, match="importances reads a frame in memory, got Shards: give some"):
        permutation_importances(tiny(SharedTrees).fit(X, y), Shards(X.lazy()), y)
    with pytest.raises(TypeError, match="compare reads a frame in memory, got Shards"):
        compare([SharedTrees()], Shards(X.lazy()), "late")
