"""Training at several widths: what a step learns, and what it draws."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from conformance import features, mixed_targets, tiny
from ranks import assert_same_weights, read_small_parts, run_ranks
from small_network import TASKS, network_of, rows

from tabmtl import MMoE, Shards, SharedBottom
from tabmtl.columns import Features
from tabmtl.nn.units import cut
from tabmtl.schema import Batch
from tabmtl.slimming import smaller as smaller_networks
from tabmtl.slimming.shares import Shares, kept_by
from tabmtl.slimming.smaller import SmallerNetworks
from tabmtl.training.losses import MultiTaskLoss
from tabmtl.training.rows import MemoryRows
from tabmtl.training.table_loop import TableLoop

SHARES = (0.25, 0.5, 1.0)
MODELS = [
    SharedBottom(hidden=(16, 8), head_hidden=8, dropout=0.0, slim=SHARES),
    MMoE(n_experts=2, expert_hidden=(16, 8), head_hidden=8, expert_norm="none", slim=SHARES),
    SharedBottom(hidden=(16, 8), head_hidden=8, dropout=0.0, n_members=2, slim=SHARES),
]


def loop_of(model, n=32, **params):
    network = network_of(model.set_params(average_decay=0.0, **params)).float()
    x, rng = rows(n), np.random.default_rng(0)
    y = np.stack([rng.normal(size=n), rng.integers(3, size=n), rng.integers(2, size=n)], axis=1).astype(np.float32)
    batch = Batch(x=Features(numbers=x.numbers.float(), codes=x.codes), y=torch.from_numpy(y))
    loss = MultiTaskLoss(TASKS)
    beside = SmallerNetworks(model, network, loss, None)
    return TableLoop(model, network, loss, MemoryRows(batch), None, beside=beside, evaluate=[lambda *_: {}]), batch


@pytest.mark.parametrize("model", MODELS, ids=["trunk", "mixture", "members"])
def test_a_step_learns_labels_by_both_networks_and_pulls_features(model, monkeypatch):
    monkeypatch.setattr(smaller_networks, "_LEAST_VARIANCE", 1e-12)
    loop, batch = loop_of(model)
    loop.beside._drawn = Shares(0.5, (0.5, 0.25, 1.0))
    with torch.no_grad():
        learned, losses, _ = loop.forward(batch)
        whole, groups = loop.network, loop.network.units()
        smaller = cut(whole, groups, kept_by(groups, loop.beside._drawn))
        of_labels = loop.loss(smaller(batch.x), batch.y)
        features, narrow = whole.task_features(batch.x), smaller.task_features(batch.x)
        aim, own = (part - part.mean(dim=0) for part in (features[..., : narrow.shape[-1]], narrow))
        aim, own = (part / part.square().mean(dim=(0, -1), keepdim=True).sqrt() for part in (aim, own))
        distances = (own - aim).square().mean(dim=-1)
    expected = distances.sum(dim=0) / model.n_members
    torch.testing.assert_close(losses, loop.loss(whole(batch.x), batch.y))
    torch.testing.assert_close(
        learned - losses, of_labels + smaller_networks._PULL * expected.expand(3), rtol=1e-3, atol=1e-3
    )


@pytest.mark.parametrize("model", MODELS, ids=["trunk", "mixture", "members"])
def test_rows_without_labels_or_weight_pull_nothing(model):
    loop, batch = loop_of(model)
    loop.beside._drawn = Shares(0.5, (0.5, 0.25, 1.0))
    whole = torch.randn(32 * loop.network.heads.n_members, loop.network.heads.d_in)
    smaller = torch.randn_like(whole)
    y, weight = batch.y.clone(), torch.ones_like(batch.y)
    y[:8], weight[:8] = torch.nan, 0.0
    y[8:, 0] = torch.nan
    weight[8:] = 3.0
    batches = batch, replace(batch, y=y), replace(batch, weight=weight)
    found, unlabelled, weighted = (loop.beside._pull(whole, smaller, own) for own in batches)
    assert 0 < unlabelled[0] < found[0]
    torch.testing.assert_close(weighted, 3 * unlabelled)


def test_smaller_features_are_not_nearer():
    features = torch.rand(20, 6, generator=torch.Generator().manual_seed(0))
    own = features.clone().requires_grad_()
    (smaller_networks._standardised(own) - torch.rand(20, 6)).square().sum().backward()
    assert abs((own.grad * own).sum()) < 1e-3 * own.grad.norm() * own.norm()  # no force along their size


def test_widths_are_drawn_apart_and_never_all_whole():
    loop, _ = loop_of(MODELS[0])
    loop.beside._seed = 0
    drawn = [loop.beside._draw() for _ in range(2000)]
    assert Shares(1.0, (1.0, 1.0, 1.0)) not in drawn
    assert len({*drawn}) == 3**4 - 1
    assert {own.shared for own in drawn} == {*SHARES}
    assert 0.45 < np.mean([own == Shares(0.25, (0.25,) * 3) for own in drawn]) < 0.55
    again, _ = loop_of(MODELS[0])
    again.beside._seed = loop.beside._seed
    assert [again.beside._draw() for _ in range(2000)] == drawn


def test_shares_that_cut_nothing_are_not_drawn():
    loop, _ = loop_of(SharedBottom(hidden=(16,), head_hidden=0, slim=SHARES))
    assert {loop.beside._draw().shared for _ in range(200)} == {0.25, 0.5}
    with pytest.raises(ValueError, match=r"slim cuts hidden layers, and this network has none that would lose units"):
        loop_of(SharedBottom(hidden=(4,), head_hidden=4, slim=SHARES))


def test_the_features_of_the_whole_network_are_not_moved_to_the_smaller_ones(monkeypatch):
    monkeypatch.setattr(smaller_networks, "_LABELS", 0.0)
    loop, batch = loop_of(MODELS[0])
    loop.beside._drawn = Shares(0.5, (1.0, 1.0, 1.0))
    learned, losses, _ = loop.forward(batch)
    (learned - losses).sum().backward()
    last = loop.network.trunk[3].weight.grad  # whose rows are units, and columns what they read
    assert last[4:].abs().sum() == 0
    assert last[:, 8:].abs().sum() == 0
    assert last[:4, :8].abs().sum() > 0


def test_a_training_that_was_cut_off_draws_as_if_nothing_had_been():
    loop, _ = loop_of(MODELS[0])
    other, _ = loop_of(MODELS[0])
    index = torch.arange(32)
    loop.step(loop.data, index, 0.01)
    state = loop.state()
    other.network.load_state_dict(loop.network.state_dict())
    arrays = {**state, "optimizer": as_arrays(state["optimizer"])}
    other.restore(arrays)
    for own in (loop, other):
        own.step(own.data, index, 0.01)
    for one, two in zip(loop.network.parameters(), other.network.parameters(), strict=True):
        assert torch.equal(one, two)


def as_arrays(value):
    if isinstance(value, torch.Tensor):
        return value.clone().numpy()
    if isinstance(value, dict):
        return {name: as_arrays(item) for name, item in value.items()}
    return [as_arrays(item) for item in value] if isinstance(value, list) else value


def test_ranks_learn_as_one_process_does(monkeypatch):
    read_small_parts(monkeypatch)
    X = features(200)
    y = mixed_targets(X)
    table = X.hstack(y)

    def fit():
        model = tiny(SharedBottom, epochs=2, hidden=(16,), head_hidden=8, dropout=0.0, slim=(0.5, 1.0))
        return model.fit(Shards(table.lazy()), y.columns)

    alone, (one, two) = fit(), run_ranks(2, fit)
    assert_same_weights(one, two, 0)
    assert_same_weights(alone, one, 1e-3)
    np.testing.assert_allclose(one.slim_losses_["loss"], alone.slim_losses_["loss"], rtol=1e-3)
    assert one.slim_losses_.equals(two.slim_losses_)
