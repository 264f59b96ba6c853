"""Who uses which expert, and which experts are dead: measured on networks whose weights are set by hand."""

import polars as pl
import pytest
import torch
from models_at_hand import fitted
from polars.testing import assert_frame_equal

from tabmtl.base.schema import Batch, Columns, TabmtlWarning
from tabmtl.columns import Features
from tabmtl.estimators.mixture import measure_experts
from tabmtl.models.adatt import AdaTT
from tabmtl.models.mmoe import MMoE
from tabmtl.models.ple import PLE
from tabmtl.models.stem import STEM
from tabmtl.targets import Task

COLUMNS = Columns(numeric=("a", "b"), categorical=(), levels=(), has_missing=(False, False), bins=((-1.0, 1.0),) * 2)
TASKS = [Task(name="click", kind="binary", classes=(0, 1)), Task(name="spend", kind="regression")]
MIXTURES = [MMoE, PLE, AdaTT, STEM]

every_mixture = pytest.mark.parametrize("cls", MIXTURES, ids=lambda cls: cls.__name__)


def batch(n=64):
    x = torch.randn(n, 2, generator=torch.Generator().manual_seed(0))
    return Batch(x=Features(numbers=x, codes=torch.zeros(n, 0, dtype=torch.int32)))


def options(**params):
    return MMoE(n_experts=4, expert_hidden=(5, 3), expert_norm="none", numeric_embedding="none", **params)


def network(estimator):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return estimator._network(COLUMNS, TASKS).eval()


def force(net, expert, value):
    """Make all outputs of an expert the ReLU of one value, whatever the input."""
    layer = net.experts.later[0]
    with torch.no_grad():
        layer.weight[expert], layer.bias[expert] = 0.0, value


def weigh(net, weights):
    """Give every gate the same weights, in proportion to those given, in all rows."""
    with torch.no_grad():
        net.gates.linear.weight.zero_()
        net.gates.linear.bias.copy_(torch.tensor(weights).log().repeat(len(TASKS)))


def test_mean_weights_are_those_of_the_gates():
    net = network(options())
    weigh(net, [1.0, 2.0, 3.0, 4.0])
    with torch.no_grad():
        net.gates.linear.bias[4:] = torch.tensor([4.0, 3.0, 2.0, 1.0]).log()
    used, states = measure_experts(net, batch())
    names = [f"expert {i}" for i in range(4)]
    expected = {"level": [1] * 8, "gate": ["click"] * 4 + ["spend"] * 4, "expert": names * 2}
    expected["weight"] = [0.1, 0.2, 0.3, 0.4, 0.4, 0.3, 0.2, 0.1]
    assert_frame_equal(used, pl.DataFrame(expected))
    assert states["top_weight"].to_list() == pytest.approx([0.4, 0.3, 0.3, 0.4])


def test_the_state_of_experts_is_that_of_their_outputs():
    net, rows = network(options()), batch(1_032)  # two slices
    with torch.no_grad():
        vector = net.vector(rows.x)
        outputs, weights = net.experts([vector]).numpy(), net.gates(vector).numpy()
    _, states = measure_experts(net, rows)
    assert states["level"].to_list() == [1] * 4
    near = {"rel": 1e-5, "abs": 1e-6}
    assert states["std"].to_list() == pytest.approx(outputs.std(axis=0).mean(axis=1).tolist(), **near)
    assert states["top_weight"].to_list() == pytest.approx(weights.mean(axis=0).max(axis=0).tolist(), **near)
    assert states["zero_rate"].to_list() == pytest.approx((outputs == 0).mean(axis=(0, 2)).tolist(), **near)
    assert states["zero_rate"].is_between(0, 0.9, closed="none").all()
    assert not states["dead"].any()
    assert len(net.experts._forward_hooks) == len(net.gates._forward_hooks) == 0


@pytest.mark.parametrize(
    ("value", "zero_rate"), [(0.0, 1.0), (-3.0, 1.0), (2.3, 0.0), (30.3, 0.0)], ids=["zero", "below", "const", "large"]
)
def test_an_expert_that_says_nothing_is_dead_and_named(value, zero_rate):
    estimator = options()
    net = network(estimator)
    force(net, 1, value)
    with pytest.warns(TabmtlWarning, match=r"1 of 4 experts have collapsed.*: 'expert 1' \(level 1\); try"):
        found = estimator._inspect(net, batch())
    states = found["experts_"]
    assert states["dead"].to_list() == [False, True, False, False]
    assert states["zero_rate"][1] == zero_rate
    assert states["std"][1] == pytest.approx(0, abs=1e-6)
    assert found["dead_expert_rate_"] == 0.25
    many = options().set_params(n_experts=7)
    net = network(many)
    for expert in range(7):
        force(net, expert, value)
    with pytest.warns(TabmtlWarning, match=r"7 of 7 experts .* 'expert 4' \(level 1\) \.\.\.; try"):
        many._inspect(net, batch())
    assert many._inspect(net, batch(40))["experts_"]["dead"].all()  # few rows warn of nothing


@pytest.mark.parametrize(("share", "dead"), [(0.5, False), (0.004, True), (0.0, True)])
def test_an_expert_that_no_gate_uses_is_dead_without_a_warning(share, dead):
    estimator = options()
    net = network(estimator)
    weigh(net, [1.0, 1.0, 1.0, share])
    found = estimator._inspect(net, batch())
    assert found["experts_"]["dead"].to_list() == [False, False, False, dead]
    assert found["experts_"]["top_weight"][3] == pytest.approx(share / (3 + share), rel=1e-5)
    assert found["expert_utilisation_"].filter(expert="expert 3").height == len(TASKS)


def test_an_expert_that_a_fixed_weight_uses_is_alive_whatever_the_gates_say():
    net = network(AdaTT(n_task_experts=1, expert_hidden=(5,), expert_norm="none", numeric_embedding="none"))
    with torch.no_grad():
        net.stack[0].gates.linear.weight.zero_()
        net.stack[0].gates.linear.bias.copy_(torch.tensor([9.0, 0.0, 9.0, 0.0]))
    _, states = measure_experts(net, batch())
    assert states["top_weight"][1] < 0.01
    assert states["dead"].to_list() == [False, False]


def test_fit_warns_of_an_expert_that_collapsed(monkeypatch):
    build = MMoE._network

    def collapsed(self, columns, tasks):
        net = build(self, columns, tasks)
        force(net, 2, -3.0)
        return net

    monkeypatch.setattr(MMoE, "_network", collapsed)
    params = {"expert_norm": "none", "learning_rate": 0.0, "weight_decay": 0.0, "n_experts": 3}
    with pytest.warns(TabmtlWarning, match="1 of 3 experts have collapsed.*'expert 2'"):
        model, *_ = fitted(MMoE, **params)
    assert model.experts_.filter("dead")["expert"].to_list() == ["expert 2"]
    assert model.dead_expert_rate_ == pytest.approx(1 / 3)


def test_no_more_rows_are_inspected_than_promised(monkeypatch):
    seen = []
    estimator = options()
    net = network(estimator)
    net.experts.register_forward_hook(lambda module, inputs, output: seen.append(len(output)))
    monkeypatch.setattr("tabmtl.estimators.mixture._INSPECTED_ROWS", 32)
    for n, most in ((5, 8), (32, 32), (50, 32), (63, 32), (64, 32), (1_000, 32)):
        seen.clear()
        estimator._inspect(net, batch(n))
        assert min(n, 16) <= sum(seen) <= most


@every_mixture
def test_gates_share_out_all_their_weight(cls):
    model, *_ = fitted(cls)
    sums = model.expert_utilisation_.group_by("level", "gate").agg(pl.col("weight").sum())
    assert sums["weight"].to_list() == pytest.approx([1.0] * len(sums), rel=1e-5)
    assert model.expert_utilisation_["weight"].is_between(0, 1).all()
    tops = model.expert_utilisation_.group_by("level", "expert", maintain_order=True).agg(pl.col("weight").max())
    assert_frame_equal(tops.rename({"weight": "top_weight"}), model.experts_["level", "expert", "top_weight"])
    assert model.experts_.unique(["level", "expert"]).height == len(model.experts_)
    assert model.dead_expert_rate_ == model.experts_["dead"].mean()


@every_mixture
def test_names_are_those_of_tasks_and_experts(cls):
    model, *_ = fitted(cls)
    tasks = ["late", "size", "delay"]
    last = model.expert_utilisation_.filter(pl.col("level") == pl.col("level").max())
    assert last["gate"].unique(maintain_order=True).to_list() == tasks
    owners = {MMoE: ["expert"] * 8, PLE: ["(shared)", *tasks], AdaTT: tasks, STEM: ["(shared)", *tasks]}[cls]
    found = model.experts_.filter(level=1)["expert"].str.replace(r" \d+$", "")
    assert found.unique(maintain_order=True).to_list() == list(dict.fromkeys(owners))
    assert sorted(set(model.experts_["level"])) == ([1, 2] if cls in (PLE, AdaTT) else [1])


@every_mixture
def test_one_label_a_row_is_weighed_by_the_gates_of_all_tasks(cls):
    model = fitted(cls, "long")[0]
    assert set(model.expert_utilisation_["gate"]) - {"(shared)"} == {"east", "north", "west"}
