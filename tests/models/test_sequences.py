"""Columns of sequences in every network: they are read, learned, and answered alike alone and in a batch."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from small_network import COLUMNS, LONG, WIDE, network_of_lists, own_tasks
from small_network import rows as plain_rows

from tabmtl import STEM, SharedBottom
from tabmtl.base.schema import MISSING, Batch, SequenceColumn
from tabmtl.columns import Features
from tabmtl.columns.ragged import Entries, offsets_of
from tabmtl.nn.joined import can_join
from tabmtl.nn.sequences import weigh_entries
from tabmtl.training.predict import predict_scores

ITEM, SIZE = COLUMNS.categorical[0], COLUMNS.cardinalities[0]
SEQUENCES = (
    SequenceColumn(name="history", item=ITEM, size=0, n_numbers=1, label_sizes=(4,)),
    SequenceColumn(name="words", item=None, size=6),
)
OF_SEQUENCES = replace(COLUMNS, sequences=SEQUENCES)


def entries_of(lengths: list[int], size: int, *, with_sides: bool = False) -> Entries:
    generator, counts, m = torch.Generator().manual_seed(size), torch.tensor(lengths), sum(lengths)
    codes = torch.randint(1, size, (m,), generator=generator, dtype=torch.int32)
    numbers, labels = torch.randn(m, 1, generator=generator), torch.arange(m, dtype=torch.int32)[:, None] % 4
    sides = {"numbers": numbers, "labels": labels} if with_sides else {}
    return Entries(offsets=offsets_of(counts), codes=codes, **sides)


def rows_of_sequences(n: int = 6) -> Features:
    """Rows whose sequences are long, missing and empty."""
    first = entries_of([3, 1, 0, 40, 1, 2][:n], SIZE, with_sides=True)
    first.codes[first.offsets[1]] = MISSING
    plain, second = plain_rows(n), entries_of([0, 2, 1, 1, 1, 3][:n], 6)
    return Features(numbers=plain.numbers.float(), codes=plain.codes, sequences=(first, second))


network_of = partial(network_of_lists, columns=OF_SEQUENCES)


@pytest.mark.parametrize("model", [*WIDE, *LONG], ids=str)
def test_every_network_learns_of_sequences(model):
    network, x, task = network_of(model), rows_of_sequences(), own_tasks(model)
    scores = network(x, task)
    sum(score.square().sum() for score in scores).backward()
    found = {name for name, p in network.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
    is_mean = model.sequence_pooling == "mean"
    parts = ("0.tables.0", "1.tables.0", "0.beside", "0.missing", "0.empty") + (
        () if is_mean else ("0.unit", "1.query")
    )
    for part in parts:
        assert any(f"pooled.{part}" in name for name in found), part
    # what is missing is not empty, and entries, what lies beside them and their order count
    (first, second), none = x.sequences, {"numbers": torch.zeros(6, 1), "labels": torch.zeros(6, 1, dtype=torch.int32)}
    missing = Entries(offsets=torch.arange(7), codes=torch.zeros(6, dtype=torch.int32), **none)
    others = [missing, missing.rows(slice(0, 0)).rows(torch.zeros(0, dtype=torch.int64))]
    others[1] = replace(others[1], offsets=torch.zeros(7, dtype=torch.int64))
    others += [replace(first, numbers=first.numbers + 1), replace(first, labels=(first.labels + 1) % 4)]
    if not is_mean:
        others.append(replace(first, **{name: part.flip(0) for name, part in first.flat().items()}))
    answers = [scores, *(network(replace(x, sequences=(other, second)), task) for other in others)]
    for k, one in enumerate(answers):
        assert all(not torch.allclose(one[0], other[0]) for other in answers[:k])


@pytest.mark.parametrize("model", [*WIDE, *LONG], ids=str)
def test_a_row_is_answered_alone_as_in_a_batch(model):
    network, x, task = network_of(model), rows_of_sequences(), own_tasks(model)
    batch = Batch(x=x.rows(torch.arange(6).repeat(20)), task=None if task is None else task.repeat(20))
    together = predict_scores(network, batch)
    for row in (0, 1, 2, 3):
        alone = predict_scores(network, batch.rows(slice(row, row + 1)))
        for mine, all_of_them in zip(alone, together, strict=True):
            np.testing.assert_allclose(mine, all_of_them[row : row + 1], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("model", [*WIDE[2:3], STEM(), LONG[0]], ids=str)
def test_a_large_table_is_read_as_a_small_one(model):
    network, x, task = network_of(model), rows_of_sequences(), own_tasks(model)
    expected = network(x, task)[0]
    for module in network.modules():
        if isinstance(module, torch.nn.Embedding):
            module.sparse = True
    found = network(x, task)[0]
    torch.testing.assert_close(found, expected)
    found.sum().backward()
    assert any(p.grad is not None and p.grad.is_sparse for p in network.parameters())


def test_weights_of_entries():
    mean, attention = (network_of(SharedBottom(sequence_pooling=how)) for how in ("mean", "attention"))
    x = rows_of_sequences()
    first, second = weigh_entries(mean, x)
    assert first.tolist() == pytest.approx([1 / 3] * 3 + [0] + [1 / 40] * 40 + [1] + [1 / 2] * 2)
    assert len(second) == len(x.sequences[1].codes)
    first, _ = weigh_entries(attention, x)
    sums = torch.zeros(6).index_add(0, torch.arange(6).repeat_interleave(x.sequences[0].lengths), first)
    assert (first[torch.arange(len(first)) != 3] > 0).all()
    assert first[3] == 0
    assert (sums < 1).all()


def test_networks_that_share_a_table_are_not_joined():
    assert not can_join(network_of(SharedBottom(hidden=(8,))))
