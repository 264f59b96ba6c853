"""Mixtures whose gates weigh a few experts: the same answers as all experts give with the same weights."""

from dataclasses import replace

import polars as pl
import pytest
import torch
from conformance import answers, features, same, targets_for, tiny
from small_network import STEPS, TASKS, network_of, own_tasks, rows
from torch.utils.flop_counter import FlopCounterMode

from tabmtl import PLE, HoME, MMoE
from tabmtl.base.schema import Batch
from tabmtl.nn.chosen import all_computed
from tabmtl.training.predict import predict_scores

MODELS = [MMoE(n_experts=6), PLE(n_shared_experts=3), HoME(n_shared_experts=(4, 3))]


def ids(model):
    return type(model).__name__


@pytest.mark.parametrize("long", [False, True])
@pytest.mark.parametrize("model", MODELS, ids=ids)
def test_as_many_as_there_are_answer_as_all_do(model, long):
    params = model.get_params() | {"task_column": "task" if long else None}
    tasks, own = (STEPS if long else TASKS), own_tasks(type(model)(**params), 9) if long else None
    most = {MMoE: 6, PLE: 9, HoME: 6}[type(model)]  # that a gate sees
    plain, all_, few = (network_of(type(model)(**params | {"top_k": k}), tasks) for k in (None, most, 2))
    whole, found = plain(rows(9), own), all_(rows(9), own)
    assert all(map(torch.equal, whole, found))
    assert not torch.allclose(few(rows(9), own)[0], whole[0])


@pytest.mark.parametrize("cls", [MMoE, PLE, HoME])
def test_a_model_of_few_experts_is_kept_and_inspected(cls, reloaded):
    X = features(60)
    model = tiny(cls, top_k=1).fit(X, targets_for(cls, X))
    assert same(answers(model, X), answers(reloaded(model), X))
    weights = model.expert_utilisation_.filter(~pl.col("gate").str.contains("(self)", literal=True))
    sums = weights.group_by("level", "gate").agg(pl.col("weight").sum())["weight"]
    assert sums.to_list() == pytest.approx([1.0] * len(sums))


def scores_and_flops(network, x, own):
    with FlopCounterMode(display=False) as counter:
        return torch.cat(network(x, own), dim=1), counter


@pytest.mark.parametrize("norm", ["batch", "layer", "none"])
@pytest.mark.parametrize(
    ("model", "long"),
    [
        (MMoE(n_experts=32), False),
        (MMoE(n_experts=8, n_members=2), True),
        (PLE(n_shared_experts=6, n_task_experts=6), False),
        (HoME(n_shared_experts=(8, 8), n_group_experts=(6, 6), self_gate=False), False),
        (HoME(n_shared_experts=(12, 12), n_group_experts=(2, 2)), False),
    ],
    ids=lambda value: str(value)[:30],
)
def test_experts_without_weight_are_left_out_and_answers_stay(model, long, norm):
    model.set_params(expert_norm=norm, top_k=2, task_column="task" if long else None)
    tasks, x, own = (STEPS, rows(64), own_tasks(model, 64)) if long else (TASKS, rows(64), None)
    network = network_of(model, tasks)
    for tensor in network.state_dict().values():
        if tensor.is_floating_point():
            tensor.add_(torch.rand_like(tensor), alpha=0.1)
    found, few = scores_and_flops(network, x, own)
    with all_computed(network):
        expected, most = scores_and_flops(network, x, own)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)
    assert few.get_total_flops() < 0.8 * most.get_total_flops()
    network.train()
    assert scores_and_flops(network, x, own)[1].get_total_flops() > few.get_total_flops() / 0.8


@pytest.mark.parametrize("model", [MMoE(n_experts=16), PLE(n_shared_experts=6, n_task_experts=6, expert_norm="layer")])
def test_a_row_keeps_its_bits_where_experts_are_left_out(model):
    network = network_of(model.set_params(top_k=2)).float()
    data = Batch(x=replace(rows(400), numbers=rows(400).numbers.float()))
    whole = predict_scores(network, data)
    for n, starts in ((1, range(0, 400, 9)), (2, (0, 398)), (399, (0, 1))):
        for start in starts:
            found = predict_scores(network, data.rows(torch.arange(start, start + n)))
            assert all(torch.equal(part, all_[start : start + n]) for part, all_ in zip(found, whole, strict=True))
