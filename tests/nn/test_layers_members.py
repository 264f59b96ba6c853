"""Members: adapters, and heads whose last layer is every member's own."""

import pytest
import torch
from torch.nn import functional as F

from tabmtl.nn.layers import Members, RowOwners, Towers


def test_one_member_is_no_layer_at_all():
    members, x = Members(1, 4), torch.randn(5, 4)
    assert members(x) is x
    assert list(members.parameters()) == []


def test_rows_of_a_member_follow_each_other_scaled_by_its_signs():
    members, x = Members(3, 2, 4), torch.randn(5, 2, 4)
    assert members.scale.shape == (3, 2, 4)
    assert set(members.scale.unique().tolist()) == {-1.0, 1.0}
    assert torch.equal(members.scale, members.scale[:, :, :1].expand(3, 2, 4))  # a vector has one sign
    for m, own in enumerate(members(x).split(5)):
        torch.testing.assert_close(own, x * members.scale[m])


def member_heads(towers, widths, m):
    """Heads of one member alone, with the same weights."""
    alone = Towers(8, widths, hidden=towers.hidden and 16)
    if towers.hidden is not None:
        alone.hidden.load_state_dict(towers.hidden.state_dict())
    for own, layer in zip(alone.out, towers.out, strict=True):
        own.load_state_dict({name: weight[m :: towers.n_members] for name, weight in layer.state_dict().items()})
    return alone


@pytest.mark.parametrize("hidden", [16, 0])
@pytest.mark.parametrize("shared", [True, False])
def test_scores_of_a_member_are_those_of_its_heads(hidden, shared):
    widths, k = (1, 3, 1), 4
    towers = Towers(8, widths, hidden=hidden, n_members=k)
    z = torch.randn(k * 5, 8) if shared else torch.randn(k * 5, 3, 8)
    scores = towers(z)
    assert [score.shape for score in scores] == [(5, k, width) for width in widths]
    for m, rows in enumerate(z.split(5)):
        for ours, expected in zip(scores, member_heads(towers, widths, m)(rows), strict=True):
            torch.testing.assert_close(ours[:, m], expected)


@pytest.mark.parametrize("hidden", [16, 0])
@pytest.mark.parametrize("training", [True, False])
def test_a_row_of_a_long_table_meets_the_heads_of_its_own_task(hidden, training):
    k, n_tasks = 3, 4
    towers = Towers(8, [2] * n_tasks, hidden=hidden, n_members=k)
    z, task = torch.randn(k * 9, 8), torch.randint(n_tasks, (9,))
    (own,) = towers(z, RowOwners(task.repeat(k), n_tasks, training=training))
    torch.testing.assert_close(own, torch.stack(towers(z))[task, torch.arange(9)])


def test_members_cost_adapters_and_last_layers():
    def count(k):
        return sum(p.numel() for module in (Members(k, 8), Towers(8, [1, 3], n_members=k)) for p in module.parameters())

    assert count(5) - count(1) == 5 * 8 + 4 * (64 + 1) * (1 + 3)


def test_the_first_part_of_repeated_rows_keeps_their_owners():
    own, weight, x = RowOwners(torch.tensor([2, 0, 2, 0]), 3), torch.randn(3, 1, 4, 2), torch.randn(2, 4)
    assert own.first(1) is own
    torch.testing.assert_close(own.first(2).linear(x, weight), own.linear(x.repeat(2, 1), weight)[:2])
    torch.testing.assert_close(own.first(2).linear(x, weight)[1], F.linear(x[1], weight[0, 0].T))
