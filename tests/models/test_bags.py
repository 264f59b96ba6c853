"""Columns of bags and of vectors in every network: they are read, learned, and answered alike alone and in a batch."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from small_network import COLUMNS, LONG, WIDE, network_of_lists, own_tasks
from small_network import rows as plain_rows

from tabmtl.base.schema import MISSING, Batch
from tabmtl.columns import Features
from tabmtl.columns.ragged import Bags, offsets_of
from tabmtl.nn.joined import JoinedNetworks, can_join
from tabmtl.training.predict import predict_scores

OF_BAGS = replace(COLUMNS, bag_sizes=(5, 4), vector_widths=(2, 3))


def bags_of(lengths: list[int], size: int) -> Bags:
    generator = torch.Generator().manual_seed(size)
    counts = torch.tensor(lengths)
    codes = torch.randint(1, size, (sum(lengths),), generator=generator, dtype=torch.int32)
    weights = (1 / counts).repeat_interleave(counts)
    return Bags(offsets=offsets_of(counts), codes=codes, weights=weights)


def rows_of_bags(n: int = 6) -> Features:
    """Rows whose bags are long, missing and empty, and whose vectors are missing in places."""
    generator = torch.Generator().manual_seed(1)
    vectors = torch.randn(n, 5, generator=generator)
    vectors[2, :2] = vectors[3, 2:] = torch.nan
    first, second = bags_of([3, 1, 0, 40, 1, 2][:n], 5), bags_of([0, 2, 1, 1, 1, 3][:n], 4)
    first.codes[first.offsets[1]] = MISSING
    plain = plain_rows(n)
    return Features(numbers=plain.numbers.float(), codes=plain.codes, bags=(first, second), vectors=vectors)


network_of = partial(network_of_lists, columns=OF_BAGS)


@pytest.mark.parametrize("model", [*WIDE, *LONG], ids=str)
def test_every_network_learns_of_bags_and_vectors(model):
    network, x, task = network_of(model), rows_of_bags(), own_tasks(model)
    scores = network(x, task)
    sum(score.square().sum() for score in scores).backward()
    found = {name for name, p in network.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
    for part in ("bags.table", "bags.empty", "vectors.linear.weight", "vectors.missing"):
        assert any(part in name for name in found), part
    # what is missing is not empty, and every column counts
    first = x.bags[0]
    missing = Bags(offsets=torch.arange(7), codes=torch.zeros(6, dtype=torch.int32), weights=torch.ones(6))
    empty = Bags(offsets=torch.zeros(7, dtype=torch.int64), codes=first.codes[:0], weights=first.weights[:0])
    others = [replace(x, bags=(own, x.bags[1])) for own in (missing, empty)]
    others += [replace(x, bags=(first, missing)), replace(x, vectors=torch.full_like(x.vectors, torch.nan))]
    answers = [scores, *(network(other, task) for other in others)]
    for k, one in enumerate(answers):
        assert all(not torch.allclose(one[0], other[0]) for other in answers[:k])


@pytest.mark.parametrize("model", [*WIDE, *LONG], ids=str)
def test_a_row_is_answered_alone_as_in_a_batch(model):
    network, x, task = network_of(model), rows_of_bags(), own_tasks(model)
    batch = Batch(x=x.rows(torch.arange(6).repeat(20)), task=None if task is None else task.repeat(20))
    together = predict_scores(network, batch)
    for row in (0, 3):
        alone = predict_scores(network, batch.rows(slice(row, row + 1)))
        for mine, all_of_them in zip(alone, together, strict=True):
            np.testing.assert_allclose(mine, all_of_them[row : row + 1], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("model", LONG, ids=str)
def test_a_large_table_is_read_as_a_small_one(model):
    network, x, task = network_of(model), rows_of_bags(), own_tasks(model)
    expected = network(x, task)[0]
    for module in network.modules():
        if isinstance(module, torch.nn.EmbeddingBag):
            module.sparse = True
    found = network(x, task)[0]
    torch.testing.assert_close(found, expected)
    found.sum().backward()
    assert any(p.grad is not None and p.grad.is_sparse for p in network.parameters())


@pytest.mark.parametrize("model", [model for model in WIDE if can_join(network_of(model))], ids=str)
def test_joined_networks_read_the_bags_of_each(model):
    networks, generator = [network_of(model) for _ in range(3)], torch.Generator().manual_seed(0)
    for network in networks:
        for tensor in network.state_dict().values():
            if tensor.is_floating_point():
                tensor.add_(torch.rand(tensor.shape, generator=generator), alpha=0.3)
    parts = [rows_of_bags().rows(torch.randperm(6, generator=generator)) for _ in networks]
    plain = {name: torch.cat([part.plain()[name] for part in parts], dim=1) for name in parts[0].plain()}
    x = Features(**plain, bags=sum((part.bags for part in parts), ()))
    joined = JoinedNetworks(networks)
    for kept in ([0, 1, 2], [2, 0]):
        if len(kept) < 3:
            joined.keep(kept)
            plain = {name: torch.cat([parts[k].plain()[name] for k in kept], dim=1) for name in parts[0].plain()}
            x = Features(**plain, bags=sum((parts[k].bags for k in kept), ()))
        expected = [score for k in kept for score in networks[k](parts[k])]
        for found, own in zip(joined.network(x), expected, strict=True):
            torch.testing.assert_close(found, own)
