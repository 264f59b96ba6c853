"""What the ranks of a group decide alike."""

import numpy as np
import pytest
from ranks import run_ranks

from tabmtl.processes.ranks import ALONE, Ranks
from tabmtl.training.run import current


def test_pieces_of_work_are_dealt_largest_first_to_the_rank_with_the_least():
    group = Ranks()
    group.size = 3
    np.testing.assert_array_equal(group.deal(np.array([2, 9, 5, 4, 3])), [1, 0, 1, 2, 2])
    np.testing.assert_array_equal(group.deal(np.ones(5)), [0, 1, 2, 0, 1])
    np.testing.assert_array_equal(ALONE.deal(np.arange(3)), np.zeros(3))


def test_ranks_must_agree_on_facts():
    ALONE.check_same({"a": object()})
    run_ranks(2, lambda: current().check_same({"a": float("nan"), "b": [1]}))
    with pytest.raises(
        ValueError, match=r"^b is 2 on rank 1 of the group and 'absent' on rank 0; give every rank the sa"
    ):
        run_ranks(2, lambda: current().check_same({"a": 1} | ({"b": 2} if current().rank else {})))
