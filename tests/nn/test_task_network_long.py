"""A row of a long table is answered by what all tasks share and what its own task owns, at the cost of these alone."""

from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
import torch
from conformance import TINY
from torch.utils.flop_counter import FlopCounterMode

from tabmtl import APEM, PLE, STEM, AdaTT, HoME, MMoE, MultiTabNet, SharedBottom
from tabmtl.base.schema import Batch, Columns
from tabmtl.columns import Features
from tabmtl.estimators.mixture import measure_experts
from tabmtl.nn import embeddings as blocks
from tabmtl.nn.experts import BatchNorm, Experts, Gates
from tabmtl.nn.layers import RowOwners
from tabmtl.targets import Task
from tabmtl.training.predict import predict_scores

BINS = tuple(np.linspace(-2, 2, 9).tolist())
COLUMNS = Columns(
    numeric=("a", "b", "c"),
    categorical=("d", "e"),
    levels=(("x", "y", "z"), ("u", "v")),
    has_missing=(True, False, True),
    bins=((-1.0, 1.0), BINS, BINS),
)
GROUPS = {"one": ["t0", "t3"], "two": ["t1", "t2", "t4"]}
VARIANTS = {
    "SharedBottom": (SharedBottom, {}),
    "MMoE": (MMoE, {"n_experts": 3}),
    "CGC": (PLE, {"n_levels": 1}),
    "PLE": (PLE, {"n_levels": 3, "n_task_experts": 3}),
    "PLE, layer norm": (PLE, {"expert_norm": "layer"}),
    "PLE, no norm": (PLE, {"expert_norm": "none", "expert_hidden": (6, 5, 4)}),
    "AdaTT-sp": (AdaTT, {}),
    "AdaTT": (AdaTT, {"n_shared_experts": 2, "expert_hidden": (8, 6, 4)}),
    "AdaTT, one expert": (AdaTT, {"n_task_experts": 1, "n_shared_experts": 1}),
    "STEM": (STEM, {"n_task_experts": 2}),
    "STEM, linear": (STEM, {"numeric_embedding": "linear"}),
    "STEM, periodic": (STEM, {"numeric_embedding": "periodic"}),
    "HoME": (HoME, {"task_groups": GROUPS}),
    "HoME, one group": (HoME, {"n_task_experts": 2}),
    "HoME, no masks, no gates": (HoME, {"hierarchy_mask": False, "feature_gate": "none", "self_gate": False}),
    "APEM": (APEM, {}),
    "MultiTabNet": (MultiTabNet, {}),
    "MultiTabNet, one token": (MultiTabNet, {"multi_token": False}),
}
#: Those in which no part that tasks share sees parts of several tasks: wide or long, a task is computed alike.
ALIKE = ["SharedBottom", "MMoE", "CGC", "HoME, one group", "APEM"]
every_mixture = pytest.mark.parametrize("name", [name for name in VARIANTS if "MultiTabNet" not in name])


def network(name, n_tasks=5, task_column="task", **params):
    """A network of some tasks in float64, parameters and statistics away from their start."""
    cls, options = VARIANTS[name]
    options = TINY | options | params | {"task_column": task_column}
    if n_tasks != 5:
        options.pop("task_groups", None)
    estimator = cls(**{key: value for key, value in options.items() if key in cls._get_param_names()})
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = estimator._network(COLUMNS, [Task(name=f"t{t}", kind="regression") for t in range(n_tasks)]).double()
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.6)
        for experts in (module for module in model.modules() if isinstance(module, Experts)):
            for norm in (norm for norm in experts.norms if isinstance(norm, BatchNorm)):
                mean, var = (p.view(experts.n_experts, -1) for p in (norm.running_mean, norm.running_var))
                mean[:], var[:] = torch.randn(mean.shape[1]), 0.5
    return model.eval()


def rows(n=40, n_tasks=5):
    """Features and tasks of some rows."""
    generator = torch.Generator().manual_seed(1)
    x_num = torch.randn(n, 3, generator=generator).double()
    x_num[:3, 0] = torch.nan
    x_cat = torch.randint(0, 4, (n, 2), generator=generator, dtype=torch.int32)
    return Features(numbers=x_num, codes=x_cat), torch.randint(n_tasks, (n,), generator=generator)


@contextmanager
def seeing_one_task(model, t):
    """Gates that tasks share see what all tasks share and what task t has."""
    changed = []
    for gate in (gate for _, gates in getattr(model, "levels", []) for gate in gates if isinstance(gate, Gates)):
        places = gate.own[t if len(gate.own) == 5 else model.group_of[t]]
        own, mask = torch.zeros_like(gate.sees), torch.ones_like(gate.sees)
        own.view(-1)[places] = True
        mask[own.any(dim=1)] = own[own.any(dim=1)]
        weigh = gate._weigh
        gate._weigh = lambda logits, sees, weigh=weigh, mask=mask: weigh(logits.masked_fill(~mask, -torch.inf), sees)
        changed.append(gate)
    try:
        yield
    finally:
        for gate in changed:
            del gate._weigh


def dense_features(model, x, task):
    """Features (B, H) of each row's own task, out of the features of all tasks of every row."""
    found = []
    for t in range(5):
        with seeing_one_task(model, t):
            features = model.task_features(x)
        found.append(features[:, t] if features.ndim == 3 else features)
    return torch.stack(found, dim=1)[torch.arange(len(task)), task]


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
@every_mixture
def test_features_and_gradients_are_those_of_the_dense_computation(name, training):
    model, (x, task) = network(name), rows()
    model.training = training  # of the network alone: dropout rests, and statistics are the running ones
    found, expected = model.represent(x, task), dense_features(model, x, task)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)
    pull = torch.randn(found.shape, generator=torch.Generator().manual_seed(2)).double()
    parameters = dict(model.named_parameters())
    options = {"allow_unused": True, "materialize_grads": True}
    ours, dense = (torch.autograd.grad((y * pull).sum(), parameters.values(), **options) for y in (found, expected))
    for key, own, plain in zip(parameters, ours, dense, strict=True):
        torch.testing.assert_close(own, plain, rtol=1e-8, atol=1e-10, msg=key)


@pytest.mark.parametrize("name", ALIKE)
def test_where_no_shared_part_sees_several_tasks_both_layouts_agree(name):
    wide, long, (x, task) = network(name, task_column=None), network(name), rows()
    scores = torch.cat(wide(x), dim=1)
    (own,) = long(x, task)
    assert wide.state_dict().keys() == long.state_dict().keys()
    torch.testing.assert_close(own[:, 0], scores[torch.arange(len(task)), task], rtol=1e-9, atol=1e-12)


@every_mixture
def test_a_long_table_of_one_task_is_trained_as_a_wide_one(name):
    quiet = {"dropout": 0.0, "attention_dropout": 0.0}
    wide, long = (network(name, 1, column, **quiet).train() for column in (None, "task"))
    x, task = rows(n_tasks=1)
    assert wide.state_dict().keys() == long.state_dict().keys()
    for _ in range(2):
        (expected,), (found,) = wide(x), long(x, task)
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)
    found.square().sum().backward()
    expected.square().sum().backward()
    for (key, own), plain in zip(long.named_parameters(), wide.parameters(), strict=True):
        torch.testing.assert_close(own.grad, plain.grad, rtol=1e-7, atol=1e-9, msg=key)
    for key, statistics in wide.state_dict().items():
        torch.testing.assert_close(long.state_dict()[key], statistics, msg=key)


@pytest.mark.parametrize("cls", [SharedBottom, MMoE, PLE, HoME, APEM, STEM, AdaTT, MultiTabNet])
def test_a_step_at_139_tasks_costs_at_most_four_times_that_at_3(cls):
    def flops(n_tasks):
        tasks = [Task(name=f"t{t}", kind="regression") for t in range(n_tasks)]
        model = cls(task_column="task")._network(COLUMNS, tasks).train()
        x, task = rows(256, n_tasks)
        with FlopCounterMode(display=False) as counter:
            model(replace(x, numbers=x.numbers.float()), task)[0].sum().backward()
        return counter.get_total_flops()

    assert flops(139) <= 4 * flops(3)


@pytest.mark.parametrize("width", [1, 5])
@pytest.mark.parametrize("name", [name for name in VARIANTS if name != "APEM"])  # whose attention rounds by the batch
def test_a_row_is_scored_bit_for_bit_alike_alone_and_beside_any_others(name, width):
    cls, options = VARIANTS[name]
    sizes = {"expert_hidden": (128, 64)} if "expert_hidden" in options else {}  # tiny products take other kernels
    kind = {"kind": "regression"} if width == 1 else {"kind": "multiclass", "classes": tuple("abcde")}
    tasks, (x, task) = [Task(name=f"t{t}", **kind) for t in range(5)], rows(300)
    model = cls(**options | sizes, task_column="task")._network(COLUMNS, tasks)
    data = Batch(x=replace(x, numbers=x.numbers.float()), task=task)
    (whole,) = predict_scores(model, data)
    order = torch.randperm(300, generator=torch.Generator().manual_seed(0))
    assert torch.equal(predict_scores(model, data.rows(order))[0], whole[order])
    for row in range(0, 300, 25):
        assert torch.equal(predict_scores(model, data.rows(torch.tensor([row])))[0], whole[row : row + 1])


@pytest.mark.parametrize("n_rows", [1, 2, 9])
@every_mixture
def test_a_batch_may_have_few_rows_or_one_task(name, n_rows):
    model, (x, task) = network(name).train(), rows(n_rows)
    for own in (task, torch.full_like(task, 3)):
        (scores,) = model(x, own)
        scores.square().sum().backward()
        assert scores.isfinite().all()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


def test_an_expert_of_a_task_is_measured_on_the_rows_of_its_task():
    model, (x, task) = network("PLE, no norm"), rows(400)
    data = Batch(x=x, task=task)
    utilisation, experts = measure_experts(model, data)
    own = RowOwners(task, 5)
    x = model.vector(x)
    outputs, weights = model.stack[0].experts([x, x], [own.shared, own]), model.stack[0].gates([x, x], own)
    mine = task == 2
    zero_rate = (outputs[mine, 2].abs() <= 1e-6).double().mean()
    names = experts.filter(level=1, expert="t2 0").row(0, named=True)
    assert names["zero_rate"] == pytest.approx(zero_rate.item())
    assert names["std"] == pytest.approx(outputs[mine, 2].std(dim=0, correction=0).mean().item())
    of_gate = utilisation.filter(level=1, gate="t2")
    assert of_gate["expert"].to_list() == ["(shared) 0", "(shared) 1", "t2 0", "t2 1"]
    assert of_gate["weight"].to_list() == pytest.approx(weights[mine, 1].mean(dim=0).tolist())
    shared = dict(utilisation.filter(level=1, gate="(shared)").select("expert", "weight").iter_rows())
    assert shared["(shared) 1"] == pytest.approx(weights[:, 0, 1].mean().item())
    assert shared["t2 1"] == pytest.approx(weights[mine, 0, 3].mean().item())


def test_experts_of_tasks_with_few_rows_are_not_judged():
    model, (x, task) = network("PLE, no norm"), rows(400)
    with torch.no_grad():
        model.stack[0].experts.later[-1].weight[2:].zero_()  # of all tasks
        model.stack[0].experts.later[-1].bias[2:] = -1.0
    keep = (task == 1) | (torch.arange(400) < 40)
    data = Batch(x=x, task=task).rows(keep.nonzero()[:, 0])
    utilisation, experts = measure_experts(model, data)
    assert (data.task == 1).sum() >= 50 > (data.task == 2).sum()
    dead = dict(experts.filter(level=1).select("expert", "dead").iter_rows())
    assert dead["t1 0"]
    assert not dead["t2 0"]
    alone = data.rows((data.task == 1).nonzero()[:, 0])
    utilisation, experts = measure_experts(model, alone)
    assert set(utilisation["gate"]) == {"(shared)", "t1"}
    assert len(experts) == len(model.levels) * 12
    assert experts.filter(expert="t2 0")["dead"].to_list() == [False] * len(model.levels)


def test_embeddings_of_tasks_in_a_sparse_table_are_those_in_a_dense_one(monkeypatch):
    dense = network("STEM")
    monkeypatch.setattr(blocks, "DENSE_ROWS", 3)
    sparse, (x, task) = network("STEM"), rows()
    assert sparse.tokenizer.categorical.table.sparse
    for model in (dense, sparse):
        model(x, task)[0].square().sum().backward()
    torch.testing.assert_close(sparse(x, task), dense(x, task))
    table = [model.tokenizer.categorical.table.weight.grad for model in (dense, sparse)]
    torch.testing.assert_close(table[1].to_dense(), table[0])


@pytest.mark.parametrize("name", ["AdaTT", "AdaTT-sp", "STEM"])
def test_a_gate_of_a_long_table_has_no_weights_for_what_other_tasks_own(name):
    wide, long = network(name, task_column=None), network(name)
    for (_, (of_all, *_)), (_, (of_own, *_)) in zip(wide.levels, long.levels, strict=True):
        assert of_own.linear.weight.shape[0] < of_all.linear.weight.shape[0]
