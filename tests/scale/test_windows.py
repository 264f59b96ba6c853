"""Windows of rows from a disk: what of training on them is not that of rows in memory."""

import torch

from tabmtl.scale.windows import WindowRows


def test_a_few_rows_more_do_not_pass_through_the_network_alone():
    rows = object.__new__(WindowRows)

    def sizes(n):
        parts = rows.parts(torch.arange(n), 64)
        assert torch.cat(list(parts)).tolist() == list(range(n))
        return [len(part) for part in parts]

    assert [sizes(n) for n in (0, 60, 64, 79, 80)] == [[0], [60], [64], [79], [64, 16]]
    assert [sizes(n) for n in (130, 200)] == [[65, 65], [67, 67, 66]]
