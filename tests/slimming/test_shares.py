"""Shares of widths, and the units that they keep."""

import numpy as np
import pytest
from small_network import network_of

from tabmtl import PLE, SharedBottom
from tabmtl.slimming.shares import Shares, check_slim, kept_by, units_kept


@pytest.mark.parametrize(
    ("n_units", "share", "kept"), [(64, 0.25, 16), (64, 0.3, 20), (10, 0.5, 8), (6, 0.1, 4), (3, 0.1, 3), (20, 0.6, 12)]
)
def test_units_are_a_multiple_of_four_unless_there_are_fewer(n_units, share, kept):
    assert units_kept(n_units, share) == kept


def test_shares_keep_the_first_units_and_all_experts():
    groups = network_of(PLE(expert_hidden=(16, 8), head_hidden=8)).units()
    kept = kept_by(groups, Shares(0.5, (1.0, 0.5, 0.25)))
    assert {name: places.shape[1] for name, places in kept.items() if name.startswith("heads")} == {
        "heads.0": 8,
        "heads.1": 4,
        "heads.2": 4,
    }
    assert kept["levels.0.0"].tolist() == [list(range(8))] * 8
    assert not any("bucket" in name for name in kept)


@pytest.mark.parametrize(
    "value", [0.5, "all", (0.5,), (1.0,), (0.0, 1.0), (0.5, 1.5), (0.5, 0.5, 1.0), (True, "x"), np.ones(2)]
)
def test_other_shares_are_refused(value):
    with pytest.raises(ValueError, match=r"slim must be shares of the widths above 0 and at most 1, 1\.0 among them"):
        check_slim("slim", value)
    with pytest.raises(ValueError, match="slim must be shares"):
        SharedBottom(slim=value).check_params()
