"""Mixtures whose gates weigh a few experts: the same answers as all experts give with the same weights."""

import polars as pl
import pytest
import torch
from conformance import answers, features, same, targets_for, tiny
from small_network import STEPS, TASKS, network_of, own_tasks, rows

import tabmtl
from tabmtl import PLE, HoME, MMoE

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
def test_a_model_of_few_experts_is_kept_and_inspected(cls, tmp_path):
    X = features(60)
    model = tiny(cls, top_k=1).fit(X, targets_for(cls, X))
    model.save(tmp_path / "model.tabmtl")
    assert same(answers(model, X), answers(tabmtl.load(tmp_path / "model.tabmtl"), X))
    weights = model.expert_utilisation_.filter(~pl.col("gate").str.contains("(self)", literal=True))
    sums = weights.group_by("level", "gate").agg(pl.col("weight").sum())["weight"]
    assert sums.to_list() == pytest.approx([1.0] * len(sums))
