"""The whole network: heads, the categories that are fed back, and items of equal metadata as one unit."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
import torch
from torch import Tensor

from tabmtl.sessions import M2TRec
from tabmtl.sessions.m2trec.item_features import ItemCoder
from tabmtl.sessions.m2trec.items import KnownItems, NetworkItems
from tabmtl.sessions.m2trec.network import M2TRecNetwork

CPU = torch.device("cpu")
TABLE = pl.DataFrame(
    {
        "kind": ["a", "b", "a", None, "b", "c"],
        "brand": ["x", "y", "x", "y", "y", "x"],
        "price": [1.0, 2.0, 1.0, 4.0, 2.0, 3.0],
    }
)
COUNTS = np.array([5, 3, 2, 4, 0, 0])
CODER = ItemCoder.fit(TABLE)


def make(tasks: tuple[str, ...] = ("kind",), **options: Any) -> tuple[M2TRecNetwork, NetworkItems]:
    model = M2TRec(**{"categories": tasks, "d_model": 8, "max_length": 5} | options)
    features, row = CODER.encode(TABLE)
    items = KnownItems(features=features, row=row, clicks=COUNTS, shared=model.id_mode == "none")
    torch.manual_seed(0)
    network = M2TRecNetwork(CODER, items.n_own, model).eval()
    for parameter in network.encoder.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return network, items.on(CPU)


def vectors(network: M2TRecNetwork, units: NetworkItems) -> Tensor:
    with torch.no_grad():
        return network.vectors(units, torch.arange(len(units)))


def test_units_know_their_categories():
    network, units = make(("kind", "brand"))
    assert len(units) == 7
    codes = [units.codes(torch.arange(7), column).tolist() for column in network.level_columns]
    assert codes == [[1, 2, 3, 2, 0, 3, 4], [1, 2, 3, 2, 3, 3, 2]]
    assert make(())[0].level_columns == []


def test_cold_items_have_the_vector_of_their_metadata():
    network, units = make(id_mode="full", temperature=None)
    assert units.own.tolist() == [0, 1, 2, 3, 4, 0, 0]
    assert network.items.tower is not None
    assert units.features is not None
    with torch.no_grad():
        tower = network.items.tower(units.features)[units.row]
    found = vectors(network, units)[:, :8]
    torch.testing.assert_close(found[[0, 5, 6]], tower[[0, 5, 6]])
    assert ((found - tower)[1:5].norm(dim=1) > 1e-3).all()


def test_temperature_makes_scores_cosines():
    network, units = make(temperature=0.1)
    found = vectors(network, units)
    torch.testing.assert_close(found[:, :8].norm(dim=1), torch.ones(7))
    query, _ = network(found[None, [3, 1]], torch.tensor([2]))
    torch.testing.assert_close(query[:, :8].norm(dim=1), torch.tensor([10.0]))
    plain, units = make(temperature=None)
    assert not torch.allclose(vectors(plain, units)[:, :8].norm(dim=1), torch.ones(7), atol=0.1)


def test_how_much_popularity_says_is_for_the_session_to_tell():
    network, units = make(temperature=None, popularity=True)
    assert network.weigh_popularity is not None
    found = vectors(network, units)
    assert found.shape == (7, 9)
    assert found[:, -1].tolist() == units.popularity.tolist()
    clicked = found[None, [3, 1]]
    before, _ = network(clicked, torch.tensor([2]))
    assert before[0, -1] == 0  # nothing at the start
    torch.nn.init.normal_(network.weigh_popularity.weight)
    weights = [network(found[None, index], torch.tensor([2]))[0][0, -1] for index in ([3, 1], [2, 4])]
    assert abs(weights[0] - weights[1]) > 1e-3
    after, _ = network(clicked, torch.tensor([2]))
    torch.testing.assert_close(after[:, :-1], before[:, :-1])


def test_half_of_the_training_queries_do_without_popularity():
    network, units = make(popularity=True, dropout=0.0)
    assert network.weigh_popularity is not None
    torch.nn.init.constant_(network.weigh_popularity.bias, 1.0)
    clicked, lengths = vectors(network, units)[None, [3]].expand(400, -1, -1), torch.ones(400, dtype=torch.int64)
    network.train()
    torch.manual_seed(0)
    trained = network(clicked, lengths)[0][:, -1]
    assert set(trained.unique().tolist()) == {0, 1}
    assert 150 < trained.sum() < 250
    network.eval()
    assert (network(clicked, lengths)[0][:, -1] == 1).all()


def test_every_prefix_is_a_query_place_by_place():
    network, units = make(("kind", "brand"))
    clicked = vectors(network, units)[torch.tensor([[3, 1, 5], [2, 4, 0]])]
    lengths = torch.tensor([3, 2])
    queries, categories = network(clicked, lengths, all_prefixes=True)
    assert len(queries) == len(categories[0]) == len(categories[1]) == 5
    expected = [(row, gone) for row, n in enumerate(lengths.tolist()) for gone in range(n)]
    for place, (row, gone) in enumerate(expected):
        n = int(lengths[row])
        query, scores = network(clicked[row : row + 1, gone:n], torch.tensor([n - gone]))
        torch.testing.assert_close(queries[place], query[0], rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(categories[1][place], scores[1][0], rtol=1e-4, atol=1e-4)
