"""What files keep of smaller networks: it is checked as they are read."""

from dataclasses import replace

import polars as pl
import pytest

from tabmtl.slimming.state import AtShare, Slimmed

LOSSES = pl.DataFrame(
    {"shared": [0.5] * 4 + [1.0] * 4, "task_width": [0.5, 0.5, 1.0, 1.0] * 2, "task": ["a", "b"] * 4, "loss": 0.1}
).with_columns(multiply_adds=pl.lit(8, pl.Int64))


def test_losses_are_those_of_all_shares_and_tasks():
    whole = Slimmed(losses=LOSSES, parts=(AtShare(share=0.5, statistics={}),))
    assert whole.at(0.5) is whole.parts[0]
    assert whole.at(1.0) is None
    with pytest.raises(ValueError, match=r"need the columns \['shared', 'task_width', 'task', 'loss', 'multiply_adds'"):
        replace(whole, losses=LOSSES.drop("loss"))
    for other in (LOSSES.head(6), LOSSES.reverse(), pl.concat([LOSSES, LOSSES])):
        with pytest.raises(ValueError, match="not those of all shares and tasks in turn"):
            replace(whole, losses=other)
    with pytest.raises(ValueError, match=r"must be those of the shares \[0\.5\]"):
        replace(whole, parts=())
