"""The loss against PyTorch's own formulas, one task and one row at a time."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from tabmtl.losses import MultiTaskLoss
from tabmtl.schema import Task

TASKS = [
    Task(name="delay", kind="regression"),
    Task(name="late", kind="binary", classes=(0, 1)),
    Task(name="size", kind="multiclass", classes=("s", "m", "l")),
    Task(name="cost", kind="regression", weight=3.0),
    Task(name="lost", kind="binary", classes=(0, 1), weight=0.5),
]


def rows(n: int = 40, seed: int = 0):
    """Scores of all tasks that ask for a gradient, and labels with holes."""
    rng = np.random.default_rng(seed)
    scores = [torch.tensor(rng.normal(size=(n, task.width)), dtype=torch.float32) for task in TASKS]
    columns = [rng.normal(size=n) if not task.classes else rng.integers(0, len(task.classes), n) for task in TASKS]
    y = torch.tensor(np.column_stack(columns), dtype=torch.float32)
    y[torch.tensor(rng.random(y.shape) < 0.3)] = math.nan
    return [score.requires_grad_() for score in scores], y


def row_loss(task: Task, score: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
    """Loss of one row (width,) by the formula in the docs."""
    if task.kind == "regression":
        return (score[0] - label) ** 2
    if task.kind == "binary":
        return torch.log1p(torch.exp(score[0])) - label * score[0]
    return torch.logsumexp(score, dim=0) - score[int(label)]


@pytest.mark.parametrize("weighted", [False, True])
def test_sums_are_those_of_the_formulas(weighted):
    scores, y = rows()
    weight = torch.rand(y.shape, generator=torch.Generator().manual_seed(0)) if weighted else None
    losses = MultiTaskLoss(TASKS)(scores, y, weight)
    for t, task in enumerate(TASKS):
        labelled = torch.nonzero(~y[:, t].isnan())[:, 0].tolist()
        expected = sum(
            row_loss(task, scores[t][row], y[row, t]) * (1 if weight is None else weight[row, t]) for row in labelled
        )
        assert losses[t].item() == pytest.approx(expected.item(), rel=1e-5)


def test_missing_labels_and_zero_weights_have_exactly_zero_gradient():
    scores, y = rows()
    weight = torch.ones_like(y)
    weight[::5] = 0
    MultiTaskLoss(TASKS)(scores, y, weight).sum().backward()
    for t in range(len(TASKS)):
        silent = y[:, t].isnan() | (weight[:, t] == 0)
        assert (scores[t].grad[silent] == 0).all()
        assert (scores[t].grad[~silent] != 0).any(dim=1).all()


def test_what_an_unlabelled_cell_would_say_is_never_read():
    scores, y = rows()
    y[:] = math.nan
    wild = [score.detach() * 1e30 for score in scores]
    assert MultiTaskLoss(TASKS)(wild, y).tolist() == [0.0] * len(TASKS)


def test_doubling_a_task_weight_doubles_its_gradient():
    found = {}
    for factor in (1.0, 2.0):
        scores, y = rows()
        loss = MultiTaskLoss([replace(t, weight=factor if t.name == "late" else 1.0) for t in TASKS])
        (loss(scores, y) * loss.task_weight).sum().backward()
        found[factor] = [score.grad for score in scores]
    for task, single, double in zip(TASKS, found[1.0], found[2.0], strict=True):
        assert torch.equal(double, single * (2 if task.name == "late" else 1))


@pytest.mark.parametrize("kind", ["regression", "binary", "multiclass"])
def test_a_long_table_sums_every_row_under_its_own_task(kind):
    classes = {"regression": None, "binary": (0, 1), "multiclass": (0, 1, 2)}[kind]
    tasks = [Task(name=f"task {t}", kind=kind, classes=classes) for t in range(4)]
    generator = torch.Generator().manual_seed(0)
    score = torch.randn(30, tasks[0].width, generator=generator)
    y = torch.randint(0, 2, (30, 1), generator=generator).float()
    y[::4] = math.nan
    own = torch.randint(0, 3, (30,), generator=generator)
    weight = torch.rand(30, 1, generator=generator)
    losses = MultiTaskLoss(tasks)([score], y, weight, own)
    for t in range(4):
        of_task = (own == t) & ~y[:, 0].isnan()
        expected = sum(row_loss(tasks[t], score[i], y[i, 0]) * weight[i, 0] for i in torch.nonzero(of_task)[:, 0])
        assert losses[t].item() == pytest.approx(float(expected), rel=1e-5)
    assert losses[3] == 0


def test_large_scores_stay_finite():
    tasks = TASKS[1:3]
    scores = [torch.tensor([[1e4], [-1e4]]), torch.tensor([[1e4, -1e4, 0.0], [0.0, 1e4, -1e4]])]
    losses = MultiTaskLoss(tasks)(scores, torch.tensor([[0.0, 1.0], [1.0, 2.0]]))
    assert losses.tolist() == [2e4, 4e4]


def test_bfloat16_scores_are_summed_in_float32():
    scores, y = rows()
    rounded = [score.detach().bfloat16() for score in scores]
    losses = MultiTaskLoss(TASKS)(rounded, y)
    assert losses.dtype == torch.float32
    assert torch.equal(losses, MultiTaskLoss(TASKS)([score.float() for score in rounded], y))


def test_one_kind_alone_equals_pytorch():
    scores, y = rows()
    y = y.nan_to_num()
    losses = MultiTaskLoss(TASKS)(scores, y)
    assert losses[2].item() == pytest.approx(F.cross_entropy(scores[2], y[:, 2].long(), reduction="sum").item())
    assert losses[0].item() == pytest.approx(F.mse_loss(scores[0][:, 0], y[:, 0], reduction="sum").item())
    binary = F.binary_cross_entropy_with_logits(scores[1][:, 0], y[:, 1], reduction="sum")
    assert losses[1].item() == pytest.approx(binary.item())
