"""Items to vectors: a function of metadata, and what an item has of its own beside it."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from tabmtl.base.schema import UNSEEN
from tabmtl.columns import Features, Text
from tabmtl.sessions import M2TRec
from tabmtl.sessions.m2trec.item_features import ItemCoder
from tabmtl.sessions.m2trec.tower import FIELD_WIDTH, ItemFields, ItemTower, ItemVectors

TABLE = pl.DataFrame(
    {
        "brand": ["x", "y", "z", "x", None, "x"],
        "price": [1.0, 2.0, 4.0, 1.0, None, 3.0],
        "tags": [["a", "b"], ["b"], ["c"], ["b", "a"], None, []],
        "name": ["red shoe", "blue hat", "red hat", "red shoe", None, ""],
        "vector": [[1.0, 0.0], [0.0, 1.0], [1.0, 1.0], [1.0, 0.0], None, [0.5, 0.0]],
    }
)


def make(columns: list[str] | None = None, d_model: int = 12) -> tuple[ItemCoder, ItemTower]:
    table = TABLE.select(columns or TABLE.columns)
    coder = ItemCoder.fit(table, columns={name: Text() for name in table.columns if name == "name"})
    torch.manual_seed(0)
    return coder, ItemTower(coder, d_model).eval()


def tensors_of(coder: ItemCoder) -> Features:
    """The rows of the table as the network reads them."""
    return coder.encode(TABLE)[0].with_unknown().map(torch.from_numpy)


def vectors(coder: ItemCoder, tower: ItemTower, table: pl.DataFrame) -> torch.Tensor:
    """Vector of every item."""
    features, row = coder.encode(table)
    with torch.no_grad():
        return tower(features.map(torch.from_numpy))[torch.from_numpy(row)]


@pytest.mark.parametrize("columns", [None, *([name] for name in TABLE.columns)])
def test_equal_metadata_gives_equal_vectors_and_other_metadata_others(columns):
    coder, tower = make(columns)
    found = vectors(coder, tower, TABLE)
    assert found.shape == (6, 12)
    assert torch.equal(found[0], found[3])
    others = torch.cdist(found, found)[[0, 0, 1], [1, 2, 2]]
    assert (others > 1e-2 * found.norm(dim=1).mean()).all()


def test_a_vector_depends_on_its_own_row_alone():
    coder, tower = make()
    together = vectors(coder, tower, TABLE)
    for place in range(len(TABLE)):
        torch.testing.assert_close(vectors(coder, tower, TABLE[place : place + 1])[0], together[place])
    torch.testing.assert_close(vectors(coder, tower, TABLE[::-1]), together.flip(0))


def test_new_values_are_unseen_and_missing_ones_missing():
    coder, tower = make()
    unseen = TABLE[:1].with_columns(brand=pl.lit("new"), tags=pl.lit(["new"]))
    other = TABLE[:1].with_columns(brand=pl.lit("newer"), tags=pl.lit(["newest"]))
    missing = TABLE[:1].with_columns(brand=pl.lit(None), tags=pl.lit(None))
    first, second, third = (vectors(coder, tower, table)[0] for table in (unseen, other, missing))
    assert torch.equal(first, second)
    assert (first - third).norm() > 1e-2 * first.norm()
    nothing = TABLE[:1].select(pl.lit(None).alias(name) for name in TABLE.columns)
    torch.testing.assert_close(vectors(coder, tower, nothing)[0], vectors(coder, tower, TABLE)[4])


def test_the_last_row_of_tensors_stands_for_nothing_known():
    coder, tower = make()
    tensors = tensors_of(coder)
    assert len(tensors) == 6  # 5 distinct rows
    last = tensors.rows(torch.tensor([5]))
    assert last.codes.tolist() == [[UNSEEN]]
    assert torch.isnan(last.numbers).all()
    assert [bag.codes.numel() for bag in last.bags] == [0, 0]
    assert torch.isnan(last.vectors).all()
    assert torch.isfinite(tower(last)).all()


def test_rows_of_tensors_are_taken_by_number():
    tensors = tensors_of(make()[0])
    index = torch.tensor([3, 1, 1, 5, 0])
    taken = tensors.rows(index)
    for place, row in enumerate(index.tolist()):
        assert torch.equal(taken.codes[place], tensors.codes[row])
        for mine, whole in zip(taken.bags, tensors.bags, strict=True):
            cut = slice(*mine.offsets[place : place + 2].tolist())
            from_whole = slice(*whole.offsets[row : row + 2].tolist())
            assert torch.equal(mine.codes[cut], whole.codes[from_whole])
            assert torch.equal(mine.weights[cut], whole.weights[from_whole])


def test_a_bag_is_the_mean_of_its_rows():
    coder, tower = make(["tags"])
    table = tower.tokenizer.bags.table.weight.detach()
    a, b = table[2], table[3]
    with torch.no_grad():
        expected = tower.norm(tower.down(torch.nn.functional.gelu(tower.up((a + b) / 2))))
    torch.testing.assert_close(vectors(coder, tower, TABLE)[0], expected)


@pytest.mark.parametrize("columns", [None, ["price"], ["brand"], ["price", "name"], ["brand", "price", "vector"]])
def test_the_tower_is_its_equation(columns):
    """Embeddings of fields side by side, through two layers and a norm; they need not be formed to get there."""
    coder, tower = make(columns)
    torch.nn.init.normal_(tower.up.bias)
    tensors = tensors_of(coder)
    for parameter in tower.tokenizer.parameters():
        torch.nn.init.normal_(parameter)
    hidden = torch.nn.functional.gelu(tower.up(tower.tokenizer(tensors).flatten(1)))
    torch.testing.assert_close(tower(tensors), tower.norm(tower.down(hidden)), rtol=1e-4, atol=1e-6)


def test_vectors_have_one_length_at_the_start():
    coder, tower = make(d_model=64)
    length = tower.norm.weight.norm().expand(6)
    torch.testing.assert_close(vectors(coder, tower, TABLE).norm(dim=1), length, rtol=0.3, atol=0)


def test_in_training_some_known_values_are_taken_for_unseen():
    coder, tower = make(["brand"])
    codes = torch.tensor([[0], [1], [2], [3], [4]], dtype=torch.int32).repeat(2000, 1)
    torch.manual_seed(0)
    forgotten = (tower.train()._forget(codes) != codes).view(2000, 5).float().mean(dim=0)
    assert forgotten[:2].tolist() == [0, 0]  # a missing value is known to be missing
    np.testing.assert_allclose(forgotten[2:], 0.05, atol=0.02)
    again = tower._forget(codes)
    assert (again[again != codes] == UNSEEN).all()
    assert tower.eval()._forget(codes) is codes
    # so that the row of unseen values is learned
    tower.train()
    for _ in range(50):
        tower(tensors_of(coder)).sum().backward()
    gradients = [p.grad for name, p in tower.tokenizer.named_parameters() if "table" in name]
    assert gradients[0] is not None
    assert gradients[0][UNSEEN].abs().sum() > 0


def own_vectors(coder: ItemCoder | None = None, n_own: int = 4, **options: Any) -> ItemVectors:
    torch.manual_seed(1)
    return ItemVectors(coder, n_own, M2TRec(**{"d_model": 12, "id_dropout": 0.0} | options))


def test_an_own_vector_is_added_to_that_of_the_metadata():
    coder, _ = make()
    tensors = tensors_of(coder)
    items = own_vectors(coder).eval()
    tower = items.tower
    assert tower is not None
    rows, own = torch.tensor([0, 0, 2, 5]), torch.tensor([0, 3, 1, 0])
    assert items.own is not None
    expected = tower(tensors)[rows] + items.own.weight[own]
    torch.testing.assert_close(items(tensors, rows, own), expected)
    torch.testing.assert_close(items(tensors, rows, own)[0], tower(tensors)[0])  # without one, metadata alone
    assert items.own.weight[0].abs().sum() == 0


def test_without_metadata_a_vector_is_the_own_one():
    items = own_vectors().eval()
    assert items.own is not None
    own = torch.tensor([2, 0, 4])
    assert torch.equal(items(None, torch.full((3,), -1), own), items.own.weight[own])


def test_an_item_without_own_vector_never_learns_one():
    items = own_vectors()
    optimizer = torch.optim.AdamW(items.parameters(), lr=0.1, weight_decay=0.1)
    for _ in range(3):
        items(None, torch.zeros(3), torch.tensor([0, 1, 0])).square().sum().add(1).backward()
        optimizer.step()
    assert items.own is not None
    assert items.own.weight[0].abs().sum() == 0


def test_own_vectors_are_left_out_of_some_steps_only(monkeypatch):
    """Two rows of metadata stand for themselves equally often, that of 50 items and that of one."""
    monkeypatch.setattr("tabmtl.sessions.m2trec.tower.UNSEEN_RATE", 0.0)
    coder, _ = make()
    tensors, n_steps = tensors_of(coder), 300
    items = own_vectors(coder, n_own=51, id_dropout=0.25).train()
    rows, own = torch.tensor([0] * 50 + [2]), torch.arange(1, 52)
    assert items.own is not None
    assert items.tower is not None
    metadata = items.tower(tensors)[rows]
    left_out = torch.zeros(51)
    for _ in range(n_steps):
        left_out += (items(tensors, rows, own) - metadata).abs().sum(dim=1) < 1e-5
    assert left_out[:50].sum() / n_steps == pytest.approx(0.25, abs=0.1)
    assert left_out[50] / n_steps == pytest.approx(0.25, abs=0.1)
    assert left_out[:50].max() < 0.05 * n_steps
    torch.testing.assert_close(items.eval()(tensors, rows, own), metadata + items.own.weight[own])
    # without metadata an own vector is all that there is
    assert own_vectors(id_dropout=0.25).own_dropout == 0


@pytest.mark.parametrize("columns", [None, ["price"], ["name"], ["brand", "vector"]])
def test_concatenated_fields_are_the_embeddings_side_by_side(columns):
    table = TABLE.select(columns or TABLE.columns)
    coder = ItemCoder.fit(table, columns={name: Text() for name in table.columns if name == "name"})
    torch.manual_seed(0)
    fields = ItemFields(coder).eval()
    found = vectors(coder, fields, table)
    assert found.shape == (6, FIELD_WIDTH * table.width) == (6, fields.width)
    assert torch.equal(found[0], found[3])
    parts = found.unflatten(1, (table.width, FIELD_WIDTH))
    if columns is None:  # brand, price, then bags and vectors: of two items of one brand, only the others differ
        same = (parts[0] == parts[5]).all(dim=1)
        assert same.tolist() == [True, False, False, False, False]


def test_missing_numbers_and_unseen_levels_have_embeddings_of_their_own():
    coder = ItemCoder.fit(TABLE.select("brand", "price"))
    fields = ItemFields(coder).eval()
    for parameter in fields.parameters():
        torch.nn.init.normal_(parameter)
    asked = pl.DataFrame({"brand": ["x", "new", None], "price": [1.0, 1.0, None]})
    features, row = coder.encode(asked)
    with torch.no_grad():
        found = fields(features.map(torch.from_numpy))[torch.from_numpy(row)]
    brand, price = found.tensor_split(2, dim=1)
    assert torch.pdist(brand).min() > 0.1
    assert torch.equal(price[0], price[1])
    assert (price[0] - price[2]).norm() > 0.1


def test_own_vectors_are_as_wide_as_the_fields():
    coder = ItemCoder.fit(TABLE.select("brand", "price"))
    both = ItemVectors(coder, 4, M2TRec(item_tower="concat"))
    assert both.width == 2 * FIELD_WIDTH
    assert both.own is not None
    assert both.own.weight.shape == (5, both.width)
