"""Weights that find their places in a larger network of the same form."""

from __future__ import annotations

from dataclasses import replace

import torch
from small_network import COLUMNS

from tabmtl import SharedBottom
from tabmtl.nn.growth import Growth
from tabmtl.targets import Task


def test_new_rows_begin_as_unseen_levels_and_new_classes_as_the_mean():
    few, many = (("a", "b"), ("c",)), (("a", "b", "x"), ("c",))
    before, now = (replace(COLUMNS, categorical=("u", "v"), levels=levels) for levels in (few, many))
    tasks = [[Task(name=name, kind="multiclass", classes=tuple("pqr"[:n])) for name, n in pair] for pair in SIZES]
    old, new = (SharedBottom()._network(*form) for form in ((before, tasks[0]), (now, tasks[1])))
    table, state = "vector.tokenizer.categorical.table.weight", Growth(old, new, before, now).carry(old.state_dict())
    assert torch.equal(state[table], old.state_dict()[table][[0, 1, 2, 3, 1, 4, 5, 6]])  # 1: that of unseen levels
    new.load_state_dict(state)
    for network in (old, new):
        network.eval()
    z = torch.randn(5, 128)
    scores = list(zip(old.heads(z), new.heads(z), strict=True))
    torch.testing.assert_close(scores[0][1], scores[0][0])
    torch.testing.assert_close(scores[1][1], torch.cat([scores[1][0], scores[1][0].mean(dim=1, keepdim=True)], dim=1))


#: Of two tasks with two classes, the second has one more, and so another width.
SIZES = [[("s", 2), ("t", 2)], [("s", 2), ("t", 3)]]
