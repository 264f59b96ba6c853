"""What the ranks of a group decide alike."""

import numpy as np

from tabmtl.processes.group import ALONE, Group


def test_pieces_of_work_are_dealt_largest_first_to_the_rank_with_the_least():
    group = Group()
    group.size = 3
    np.testing.assert_array_equal(group.deal(np.array([2, 9, 5, 4, 3])), [1, 0, 1, 2, 2])
    np.testing.assert_array_equal(group.deal(np.ones(5)), [0, 1, 2, 0, 1])
    np.testing.assert_array_equal(ALONE.deal(np.arange(3)), np.zeros(3))
