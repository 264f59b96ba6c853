"""Weights that find their places in a larger network of the same form."""

from __future__ import annotations

from dataclasses import replace

import torch
from small_network import COLUMNS

from tabmtl import SharedBottom
from tabmtl.nn.growth import Growth
from tabmtl.targets import Task


def test_numbers_beside_weights_begin_with_nothing_and_rows_keep_theirs():
    few, many = (("a", "b"), ("c",)), (("a", "b", "x"), ("c",))
    before, now = (replace(COLUMNS, categorical=("u", "v"), levels=levels) for levels in (few, many))
    tasks = [[Task(name=name, kind="multiclass", classes=tuple("pqr"[:n])) for name, n in pair] for pair in SIZES]
    old, new = (SharedBottom()._network(*form) for form in ((before, tasks[0]), (now, tasks[1])))
    growth = Growth(old, new, before, now)
    table = "vector.tokenizer.categorical.table.weight"
    found = growth.carry({table: torch.arange(1.0, 8.0)}, fill=False)[table]
    assert found.tolist() == [1, 2, 3, 4, 0, 5, 6, 7]
    state = growth.carry(old.state_dict(), fill=True)
    assert torch.equal(state[table][4], old.state_dict()[table][1])  # that of unseen levels
    new.load_state_dict(state)
    for network in (old, new):
        network.eval()
    z = torch.randn(5, 128)
    scores = list(zip(old.heads(z), new.heads(z), strict=True))
    torch.testing.assert_close(scores[0][1], scores[0][0])
    torch.testing.assert_close(scores[1][1], torch.cat([scores[1][0], scores[1][0].mean(dim=1, keepdim=True)], dim=1))


#: Of two tasks with two classes, the second has one more, and so another width.
SIZES = [[("s", 2), ("t", 2)], [("s", 2), ("t", 3)]]
