"""Columns to tokens and to vectors."""

import pytest
import torch

from tabmtl.base.schema import Columns
from tabmtl.columns import Features
from tabmtl.nn.embeddings import CategoricalEmbedding, FeatureTokenizer, FeatureVector, fill_missing

NAN = float("nan")


def _columns(cardinalities=(3, 10_000), has_missing=(False, True, False)):
    return Columns(
        numeric=tuple(f"x{j}" for j in range(len(has_missing))),
        categorical=tuple(f"c{j}" for j in range(len(cardinalities))),
        levels=tuple(tuple(map(str, range(c))) for c in cardinalities),
        has_missing=tuple(has_missing),
        bins=tuple((-2.0, -0.5, 0.0, 2.0)[: 4 - (j == 0)] for j in range(len(has_missing))),
    )


def test_one_table_serves_all_categorical_columns():
    columns = _columns((2, 5))
    embedding = CategoricalEmbedding(columns, 4)
    assert embedding.table.weight.shape == (4 + 7, 4)
    tokens = embedding(torch.tensor([[0, 0], [3, 6]], dtype=torch.int32))
    assert torch.equal(tokens[0], embedding.table.weight[[0, 4]])
    assert torch.equal(tokens[1], embedding.table.weight[[3, 10]])


def test_missing_numbers_become_zero_and_a_flag():
    values, missing = fill_missing(torch.tensor([[1.5, NAN], [NAN, -2.0]]))
    assert values.tolist() == [[1.5, 0.0], [0.0, -2.0]]
    assert missing.tolist() == [[0.0, 1.0], [1.0, 0.0]]


@pytest.mark.parametrize("kind", ["linear", "piecewise", "periodic"])
def test_only_columns_with_missing_values_learn_a_vector_for_them(kind):
    tokenizer = FeatureTokenizer(_columns(), 8, numeric_embedding=kind)
    assert tokenizer.missing.shape == (1, 8)
    torch.nn.init.normal_(tokenizer.missing)
    codes = torch.zeros(2, 2, dtype=torch.int32)
    at_zero = tokenizer(Features(numbers=torch.zeros(2, 3), codes=codes))
    absent = tokenizer(Features(numbers=torch.full((2, 3), NAN), codes=codes))
    assert at_zero.shape == (2, 5, 8)
    assert torch.equal(absent[:, [2, 4]], at_zero[:, [2, 4]])
    assert torch.allclose(absent[:, 3], at_zero[:, 3] + tokenizer.missing[0])


def test_linear_tokens_are_an_affine_map_per_column_after_the_categorical_ones():
    tokenizer = FeatureTokenizer(_columns(has_missing=(False, False)), 4)
    assert tokenizer.missing is None
    x = torch.randn(6, 2)
    tokens = tokenizer(Features(numbers=x, codes=torch.ones(6, 2, dtype=torch.int32)))
    expected = x[:, :, None] * tokenizer.numeric.weight + tokenizer.numeric.bias
    torch.testing.assert_close(tokens[:, 2:], expected, rtol=1e-5, atol=1e-6)  # a sum may be near 0


def test_a_tokenizer_needs_a_column_and_a_known_embedding():
    with pytest.raises(ValueError, match="at least one feature"):
        FeatureTokenizer(_columns((), ()), 4)
    with pytest.raises(ValueError, match="'linear', 'piecewise' or 'periodic', got 'cubic'"):
        FeatureTokenizer(_columns(), 4, numeric_embedding="cubic")


def test_numbers_as_they_are_come_after_the_embeddings_and_before_the_flags_of_missing_ones():
    vector = FeatureVector(_columns(), 4, numeric_embedding="none")
    x = torch.tensor([[1.0, NAN, -2.0]])
    row = vector(Features(numbers=x, codes=torch.ones(1, 2, dtype=torch.int32)))
    assert row.shape == (1, vector.width) == (1, 2 * 4 + 3 + 1)
    assert row[0, 8:].tolist() == [1.0, 0.0, -2.0, 1.0]
    assert torch.equal(row[0, :8], vector.tokenizer.categorical.table.weight[[1, 6]].flatten())


def test_a_vector_of_embeddings_is_the_tokens_side_by_side():
    vector = FeatureVector(_columns(), 4, numeric_embedding="piecewise")
    x = Features(numbers=torch.randn(3, 3), codes=torch.ones(3, 2, dtype=torch.int32))
    assert torch.equal(vector(x), vector.tokenizer(x).flatten(1))
    assert vector.width == 5 * 4


def test_a_vector_of_categories_alone_and_of_numbers_alone():
    assert FeatureVector(_columns((3,), ()), 4, numeric_embedding="none").width == 4
    assert FeatureVector(_columns((), (False, True)), 4, numeric_embedding="none").width == 3
