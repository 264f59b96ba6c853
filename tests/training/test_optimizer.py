"""Steps and averages of dense parameters and of tables of which a step touches few rows, against steps by hand."""

import copy
import subprocess
import sys

import pytest
import torch
from cases import later
from torch import nn

from tabmtl import APEM, MMoE, MultiTabNet, SharedBottom
from tabmtl.base.schema import Columns
from tabmtl.nn import embeddings as blocks
from tabmtl.nn.embeddings import CategoricalEmbedding
from tabmtl.synth import make_funnel
from tabmtl.targets import Task
from tabmtl.training.optimizer import Optimizer


class Tables(nn.Module):
    """A table with sparse gradients, and a dense layer on its rows."""

    def __init__(self, n=20, d=3):
        super().__init__()
        self.table = nn.Embedding(n, d, sparse=True)
        self.layer = nn.Linear(d, 1)

    def forward(self, rows):
        return self.layer(self.table(rows))


def run(decay, batches, rate=0.01):
    """Train for some steps; the network, and copies of its table after each step."""
    torch.manual_seed(0)
    network = Tables()
    optimizer = Optimizer(network, weight_decay=0.0, average_decay=decay)
    tables = [network.table.weight.detach().clone()]
    for rows in batches:
        network(torch.tensor(rows)).square().sum().backward()
        optimizer.step(rate)
        tables.append(network.table.weight.detach().clone())
    return network, optimizer, tables


BATCHES = [[1, 2, 2], [3], [2, 5], [7], [1, 3], [7, 7], [2]]


@pytest.mark.parametrize("decay", [0.0, 0.5, 0.998])
def test_the_average_of_a_table_is_exact_though_rows_are_caught_up_late(decay):
    network, optimizer, tables = run(decay, BATCHES)
    average = tables[0].clone()
    for t, weights in enumerate(tables[1:], start=1):
        d = min(decay, (1 + t) / (10 + t))
        average = d * average + (1 - d) * weights
    with optimizer.averaged():
        torch.testing.assert_close(network.table.weight.detach(), average, rtol=1e-6, atol=1e-7)
    assert torch.equal(network.table.weight.detach(), tables[-1])


def test_reading_the_average_in_between_changes_nothing():
    def averages(read):
        torch.manual_seed(0)
        network = Tables()
        optimizer = Optimizer(network, weight_decay=0.0, average_decay=0.9)
        for rows in BATCHES:
            network(torch.tensor(rows)).square().sum().backward()
            optimizer.step(0.01)
            if read:
                with optimizer.averaged():
                    pass
        with optimizer.averaged():
            return network.table.weight.detach().clone()

    torch.testing.assert_close(averages(True), averages(False), rtol=1e-6, atol=1e-7)


def test_a_step_moves_the_touched_rows_by_row_wise_adagrad_and_no_other():
    torch.manual_seed(0)
    network = Tables()
    start = network.table.weight.detach().clone()
    optimizer = Optimizer(network, weight_decay=0.1, average_decay=0.0)
    squares = torch.zeros(20)
    expected = start.clone()
    for rows in BATCHES:
        dense = expected.clone().requires_grad_()
        network.layer(dense[rows]).square().sum().backward()
        gradient = dense.grad
        network.zero_grad()
        network(torch.tensor(rows)).square().sum().backward()
        optimizer.step(0.01)
        squares += gradient.square().mean(dim=1)
        expected -= 0.25 * gradient / (squares.sqrt() + 1e-8)[:, None]
        torch.testing.assert_close(network.table.weight.detach(), expected)
    untouched = [row for row in range(20) if row not in {1, 2, 3, 5, 7}]
    assert torch.equal(network.table.weight[untouched], start[untouched])


def test_a_step_without_gradient_leaves_a_table_alone():
    network, optimizer, tables = run(0.9, BATCHES[:2])
    network.layer(torch.ones(1, 3)).sum().backward()
    optimizer.step(0.01)
    assert torch.equal(network.table.weight.detach(), tables[-1])


def test_an_error_while_the_average_is_read_gives_the_weights_back():
    network, optimizer, tables = run(0.9, BATCHES)
    with pytest.raises(RuntimeError, match="stop"), optimizer.averaged():
        raise RuntimeError("stop")
    assert torch.equal(network.table.weight.detach(), tables[-1])


@pytest.mark.parametrize(("levels", "sparse"), [(100_000, False), (250_000, True)])
def test_a_table_of_many_rows_gives_sparse_gradients(levels, sparse):
    names = tuple(range(levels))
    columns = Columns(numeric=(), categorical=("id",), levels=(names,), has_missing=(), bins=())
    embedding = CategoricalEmbedding(columns, 2)
    embedding(torch.tensor([[3], [5]], dtype=torch.int32)).sum().backward()
    assert embedding.table.weight.grad.is_sparse is sparse


@pytest.mark.parametrize("network", later([SharedBottom, MMoE], MMoE))
def test_networks_with_big_tables_learn_save_and_load(network, monkeypatch, reloaded):
    monkeypatch.setattr(blocks, "DENSE_ROWS", 50)  # every table counts as big
    log = make_funnel(2_000, n_users=100, n_items=50, random_state=0)
    options = {"tasks": log.tasks, "n_jobs": 1, "random_state": 0}
    model = network(epochs=4, batch_size=64, learning_rate=1e-2, **options).fit(log.X, log.y)
    assert model.score_tasks(log.X, log.y)["click"] > 0.65  # always the same answer: 0.5
    assert reloaded(model).predict(log.X).equals(model.predict(log.X))


COLUMNS = Columns(
    numeric=("age",), categorical=("town",), levels=(("a", "b"),), has_missing=(True,), bins=((-1.0, 0.0, 1.0),)
)
TASKS = [Task(name=name, kind="regression", metric="r2") for name in ("size", "delay")]


@pytest.mark.parametrize(
    "estimator",
    [
        MMoE(),
        MMoE(expert_norm="layer", numeric_embedding="periodic"),
        MultiTabNet(numeric_embedding="piecewise"),
        APEM(task_chain=[]),
    ],
    ids=lambda estimator: type(estimator).__name__,
)
def test_weight_decay_is_of_weight_matrices_only(estimator):
    network = estimator._network(COLUMNS, TASKS)
    before = {name: parameter.detach().clone() for name, parameter in network.named_parameters()}
    optimizer = Optimizer(network, weight_decay=0.5, average_decay=0.0)
    for parameter in network.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step(0.1)
    decayed = {name for name, parameter in network.named_parameters() if not torch.equal(parameter, before[name])}
    kept = ("bias", "tokenizer", "norm", "task_weight", "points", "indicators", "scale", "shift")
    for name in before:
        assert not (name in decayed and any(word in name for word in kept)), name
    matrices = {name for name in before if name.endswith("weight") and not any(word in name for word in kept)}
    assert decayed == matrices
    assert {"heads.hidden.weight", "heads.out.0.weight"} <= decayed
    for name in decayed:
        torch.testing.assert_close(network.get_parameter(name).detach(), 0.95 * before[name])


@pytest.mark.parametrize("clip_norm", [None, 1e-3, 1e6])
def test_the_length_of_a_dense_gradient_is_bounded(clip_norm, monkeypatch):
    torch.manual_seed(0)
    network, lengths = Tables(), []
    optimizer = Optimizer(network, weight_decay=0.0, average_decay=0.0, clip_norm=clip_norm)

    def keep_length(*_):
        lengths.append(torch.cat([p.grad.flatten() for p in network.layer.parameters()]).norm().item())

    monkeypatch.setattr(optimizer._adam, "step", keep_length)
    network(torch.tensor([1, 2, 2])).square().sum().backward()
    own = torch.cat([p.grad.flatten() for p in network.layer.parameters()]).norm().item()
    rows = network.table.weight.detach().clone()
    optimizer.step(0.01)
    assert lengths == [pytest.approx(min(own, clip_norm or own), rel=1e-3)]
    assert own > 2e-3
    assert not torch.equal(network.table.weight.detach(), rows)  # tables are stepped as ever


def test_a_restart_goes_on_from_the_given_weights_at_a_third_of_the_rate():
    network, optimizer, _ = run(0.998, BATCHES)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.fill_(0.5)
    optimizer.restart()
    with optimizer.averaged():
        assert all((parameter == 0.5).all() for parameter in network.parameters())
    rates = []
    optimizer._adam.step = lambda rate, factors: rates.append(rate * factors[0])
    optimizer.step(0.03)
    assert rates == [pytest.approx(0.01)]


def test_dense_steps_are_those_of_torch():
    torch.manual_seed(0)
    ours = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2))
    theirs, unused = copy.deepcopy(ours), [torch.nn.Parameter(torch.ones(2)) for _ in range(2)]
    ours.unused, theirs.unused = unused
    optimizer = Optimizer(ours, weight_decay=0.1, average_decay=0.0)
    decayed = [p for p in theirs.parameters() if p.ndim > 1]
    others = [p for p in theirs.parameters() if p.ndim < 2]
    groups = [{"params": decayed, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]
    adam = torch.optim.AdamW(groups, fused=True)
    for step in range(5):
        x = torch.randn(8, 3)
        for network in (ours, theirs):
            network(x).square().sum().backward()
        for group in adam.param_groups:
            group["lr"] = 0.1 / (step + 1)
        adam.step()
        adam.zero_grad()
        optimizer.step(0.1 / (step + 1))
    for own, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.equal(own, other)
    assert [*optimizer.state()["adam"]] == ["0", "1", "3", "4"]  # nothing is kept without a gradient


@pytest.mark.all_faces  # starts a process
def test_a_first_fit_does_not_load_the_compiler_of_torch():
    code = (
        "import sys, numpy as np; from tabmtl import SharedBottom; x = np.random.default_rng(0).normal(size=(60, 2)); "
        "SharedBottom(epochs=1, device='cpu', n_jobs=1).fit(x, x @ [[1, 2], [0.5, 1]] + 1); "
        "assert 'torch._dynamo' not in sys.modules and 'sympy' not in sys.modules"
    )
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True)
