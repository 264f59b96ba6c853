"""Attention layers against PyTorch's own, and the multitask masks."""

import pytest
import torch
from torch import nn

from tabmtl.nn.attention import FeatureAttention, RowAttention, attention_mask

pytestmark = pytest.mark.usefixtures("torch_seed")

MASKS = ["none", "FxT", "TxT", "FxT_TxT"]


@pytest.mark.parametrize("mask", MASKS)
def test_forbidden_weights_are_zero_and_tasks_always_see_features(mask):
    s, n = 3, 8
    added = attention_mask(mask, s, n)
    weights = torch.softmax(torch.randn(n, n) + (0 if added is None else added), dim=-1)
    forbidden = torch.zeros(n, n, dtype=torch.bool)
    forbidden[s:, :s] = "FxT" in mask
    forbidden[:s, :s] = ~torch.eye(s, dtype=torch.bool) & ("TxT" in mask)
    assert weights[forbidden].count_nonzero() == 0
    assert (weights[~forbidden] > 0).all()
    assert not forbidden[:s, s:].any()


def test_masks_that_forbid_nothing_are_left_out():
    assert attention_mask("none", 3, 8) is None
    assert attention_mask("TxT", 1, 8) is None
    assert attention_mask("FxT_TxT", 1, 8) is not None


def _multihead(ours):
    """PyTorch's attention with the weights of ours."""
    e = ours.out.in_features
    reference = nn.MultiheadAttention(e, ours.n_heads, batch_first=True)
    reference.in_proj_weight.data, reference.in_proj_bias.data = ours.qkv.weight.data, ours.qkv.bias.data
    reference.out_proj.load_state_dict(ours.out.state_dict())
    return reference


@pytest.mark.parametrize("n_tokens", [5, 16, 21])
@pytest.mark.parametrize("mask", MASKS)
def test_attention_equals_pytorchs_for_all_and_for_the_first_queries(mask, n_tokens):
    s = 3
    ours, x = FeatureAttention(16, 4), torch.randn(6, n_tokens, 16)
    ours.qkv.bias.data.normal_()
    added = attention_mask(mask, s, n_tokens)
    expected, _ = _multihead(ours)(x, x, x, attn_mask=added)
    torch.testing.assert_close(ours(x, added, n_tokens), expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(ours(x, added, s), expected[:, :s], atol=1e-5, rtol=1e-5)


def test_batch_attention_equals_pytorchs_over_rows():
    ours, x = RowAttention(24, 4), torch.randn(10, 24)
    reference = nn.MultiheadAttention(24, 4)
    reference.in_proj_weight.data = torch.cat([ours.query.weight, ours.key_value.weight]).data
    reference.in_proj_bias.data = torch.cat([ours.query.bias, ours.key_value.bias]).data
    reference.out_proj.load_state_dict(ours.out.state_dict())
    torch.testing.assert_close(ours(x), reference(x, x, x)[0], atol=1e-5, rtol=1e-5)
