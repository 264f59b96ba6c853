"""The loss against PyTorch's own formulas, one task and one row at a time."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from tabmtl.targets import Task
from tabmtl.training.losses import FunnelLoss, MultiTaskLoss, chain_logits

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
    if task.kind.name == "regression":
        return (score[0] - label) ** 2
    if task.kind.name == "binary":
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


STEPS = [Task(name=name, kind="binary", classes=(0, 1)) for name in ("click", "cart", "buy")]
SPACES = ["chain", "conditional", "independent"]


def funnel_rows(n: int = 60, seed: int = 0, holes: bool = True):
    """Scores of three steps that ask for a gradient, and labels that never rise, with holes."""
    rng = np.random.default_rng(seed)
    scores = [torch.tensor(3 * rng.normal(size=(n, 1)), dtype=torch.float32, requires_grad=True) for _ in STEPS]
    y = torch.tensor((rng.random((n, 3)) < 0.6).cumprod(axis=1), dtype=torch.float32)
    if holes:
        y[torch.tensor(rng.random(y.shape) < 0.3)] = math.nan
    return scores, y


def true_log_chances(scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """log p_k and log(1 - p_k) of a funnel, in float64, from sums of log sigmoid(s_j)."""
    yes = np.cumsum(-np.logaddexp(0, -scores.astype(np.float64)), axis=1)
    with np.errstate(divide="ignore"):
        no = np.where(yes > -math.log(2), np.log(-np.expm1(yes)), np.log1p(-np.exp(yes)))
    return yes, no


def cross_entropy(y: np.ndarray, p: np.ndarray) -> np.ndarray:
    """Of labels and probabilities, in float64."""
    return -(y * np.log(p) + (1 - y) * np.log(1 - p))


def sigmoid(x) -> np.ndarray:
    """In float64."""
    return 1 / (1 + np.exp(-np.asarray(x, dtype=np.float64)))


wild_scores = st.floats(-1e4, 1e4, width=32) | st.sampled_from([-1e4, -80.0, 0.0, 80.0, 1e4])


@settings(max_examples=150, deadline=None)
@given(st.integers(1, 6).flatmap(lambda k: st.lists(st.lists(wild_scores, min_size=k, max_size=k), min_size=1)))
def test_logits_of_a_funnel_are_finite_with_finite_gradients_and_never_rise(values):
    scores = torch.tensor(values, dtype=torch.float32, requires_grad=True)
    logits = chain_logits(scores)
    assert logits.isfinite().all()
    assert (logits[:, 1:] <= logits[:, :-1]).all()
    assert (logits.sigmoid()[:, 1:] <= logits.sigmoid()[:, :-1]).all()
    y = torch.zeros_like(logits)
    F.binary_cross_entropy_with_logits(logits, y, reduction="sum").backward(retain_graph=True)
    F.binary_cross_entropy_with_logits(logits, y + 1, reduction="sum").backward()
    assert scores.grad.isfinite().all()


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(wild_scores, wild_scores), min_size=1))
def test_logits_of_two_steps_are_those_of_the_log_space_truth(values):
    scores = torch.tensor(values, dtype=torch.float64)
    yes, no = true_log_chances(scores.numpy())
    exact = yes[:, 1] < -1e-290  # nearer to 0 the truth itself runs out of range
    for dtype, precision in ((torch.float64, 1e-9), (torch.float32, 1e-6)):
        logits = chain_logits(scores.to(dtype))[:, 1].double().numpy()
        np.testing.assert_allclose(logits[exact], (yes - no)[exact, 1], rtol=precision, atol=precision)


def test_gradients_of_the_logits_of_a_funnel_are_right():
    generator = torch.Generator().manual_seed(0)
    scores = 4 * torch.randn(6, 4, dtype=torch.float64, generator=generator)
    assert torch.autograd.gradcheck(chain_logits, scores.requires_grad_())


def test_a_step_that_is_sure_changes_nothing_and_one_that_never_comes_ends_all():
    logits = chain_logits(torch.tensor([[-1.5, 200.0, 200.0], [1.5, -200.0, 200.0]]))
    assert logits[0].tolist() == pytest.approx([-1.5] * 3)
    assert logits[1, 1:].tolist() == pytest.approx([-200 + math.log(sigmoid(1.5))] * 2)


def test_losses_stay_finite_for_extreme_scores():
    values = torch.tensor([[1e4, -1e4, 80.0], [-1e4, 1e4, -80.0], [80.0, -80.0, 1e4], [-80.0, -1e4, -1e4]])
    for space in SPACES:
        for label in (0.0, 1.0):
            scores = [column[:, None].clone().requires_grad_() for column in values.unbind(dim=1)]
            losses = FunnelLoss(STEPS, [0, 1, 2], space=space, calibrator=0.6)(scores, torch.full((4, 3), label))
            losses.sum().backward()
            assert losses.isfinite().all()
            assert all(score.grad.isfinite().all() for score in scores)


@pytest.mark.parametrize("space", SPACES)
def test_losses_of_a_funnel_are_those_of_the_table(space):
    scores, y = funnel_rows()
    step = sigmoid(np.column_stack([score.detach().numpy() for score in scores]))
    p = step if space == "independent" else step.cumprod(axis=1)
    labels = np.nan_to_num(y.numpy())
    rows = cross_entropy(labels, step if space == "conditional" else p)
    if space == "conditional":
        rows[:, 1:][labels[:, :-1] != 1] = 0  # an unlabelled step before says nothing
    losses = FunnelLoss(STEPS, [0, 1, 2], space=space)(scores, y)
    np.testing.assert_allclose(losses.detach(), np.where(y.isnan(), 0, rows).sum(axis=0), rtol=1e-5)
    linked = FunnelLoss(STEPS, [0, 1, 2], space=space).link(scores)
    np.testing.assert_allclose(sigmoid(torch.cat(linked, dim=1).detach()), p, rtol=1e-5)


@pytest.mark.parametrize("space", SPACES)
def test_cells_without_label_or_weight_say_nothing_in_a_funnel(space):
    loss = FunnelLoss(STEPS, [0, 1, 2], space=space, calibrator=0.6)
    scores, y = funnel_rows()
    weight = torch.ones_like(y)
    weight[::3, 2] = 0
    losses = loss(scores, y, weight)
    silent = y.clone()
    silent[::3, 2] = math.nan
    assert torch.equal(losses, loss(scores, silent))
    losses[2].backward()
    assert all((score.grad[::3] == 0).all() for score in scores)
    assert loss(scores, torch.full_like(y, math.nan)).tolist() == [0.0] * 3


def test_the_calibrator_charges_probabilities_that_rise():
    scores, y = funnel_rows()
    p = sigmoid(np.column_stack([score.detach().numpy() for score in scores]))
    rise = np.where(y[:, 1:].isnan(), 0, np.maximum(np.diff(p, axis=1), 0)).sum(axis=0)
    plain, charged = (FunnelLoss(STEPS, [0, 1, 2], space="independent", calibrator=c)(scores, y) for c in (0.0, 0.6))
    np.testing.assert_allclose((charged - plain).detach(), 0.6 * np.array([0, *rise]), rtol=1e-4, atol=1e-6)
    assert rise.min() > 1


def test_the_calibrator_costs_nothing_where_probabilities_fall():
    _, y = funnel_rows()
    falling = [torch.full((len(y), 1), score) for score in (2.0, 2.0, -1.0)]
    for scores, space in ((falling, "independent"), (funnel_rows()[0], "chain"), (funnel_rows()[0], "conditional")):
        plain, charged = (FunnelLoss(STEPS, [0, 1, 2], space=space, calibrator=c)(scores, y) for c in (0.0, 5.0))
        assert torch.equal(plain, charged)


@pytest.mark.parametrize("space", SPACES)
def test_tasks_beside_a_funnel_are_trained_as_they_are(space):
    scores, y = rows()
    order = [4, 1]  # "late" follows "lost", and neither is the first task
    losses = FunnelLoss(TASKS, order, space=space)(scores, y)
    plain = MultiTaskLoss(TASKS)(scores, y)
    linked = FunnelLoss(TASKS, order, space=space).link(scores)
    for t in (0, 2, 3, 4):
        assert losses[t] == plain[t]
        assert torch.equal(linked[t], scores[t])
    assert (losses[1] == plain[1]) == (space == "independent")
    assert torch.equal(linked[1], scores[1]) == (space == "independent")


def member_rows(k: int = 3, n: int = 40):
    """Scores (n, k, width) of all tasks, and labels with holes."""
    members, y = [rows(n, seed)[0] for seed in range(k)], rows(n)[1]
    return [torch.stack(scores, dim=1).detach().requires_grad_() for scores in zip(*members, strict=True)], y


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("chain", [(), (1, 4)])
def test_the_loss_of_members_is_the_mean_of_their_losses(weighted, chain):
    scores, y = member_rows()
    weight = torch.rand(y.shape, generator=torch.Generator().manual_seed(0)) if weighted else None
    loss = FunnelLoss(TASKS, chain, calibrator=0.5) if chain else MultiTaskLoss(TASKS)
    alone = [loss([score[:, m] for score in scores], y, weight) for m in range(3)]
    torch.testing.assert_close(loss(scores, y, weight), torch.stack(alone).mean(dim=0))
    linked = loss([score.mean(dim=1) for score in scores], y, weight)  # the loss of the mean is another one
    assert (loss(scores, y, weight) > linked * 1.01).all()


def test_the_loss_of_members_of_a_long_table_is_summed_by_task():
    tasks, task = [Task(name=name, kind="regression") for name in "abc"], torch.tensor([0, 2, 2, 0])
    scores, y = torch.randn(4, 5, 1), torch.tensor([[1.0], [math.nan], [2.0], [3.0]])
    losses = MultiTaskLoss(tasks)([scores], y, None, task)
    expected = (scores[..., 0] - y).square().mean(dim=1)
    torch.testing.assert_close(losses, torch.stack([expected[0] + expected[3], torch.tensor(0.0), expected[2]]))


def test_members_are_linked_by_their_mean_probability_or_value():
    scores, _ = member_rows()
    loss = MultiTaskLoss(TASKS)
    linked = loss.link(scores)
    for task, score, of_members in zip(TASKS, linked, scores, strict=True):
        assert score.shape == (40, task.width)
        if task.kind.name == "regression":
            torch.testing.assert_close(score, of_members.mean(dim=1))
        elif task.kind.name == "binary":
            torch.testing.assert_close(score.sigmoid(), of_members.sigmoid().mean(dim=1))
        else:
            torch.testing.assert_close(score.softmax(dim=1), of_members.softmax(dim=2).mean(dim=1))
    for alone, together in zip(loss.link_rows([score[:3] for score in scores]), loss.link_rows(scores), strict=True):
        assert torch.equal(alone, together[:3])


def test_steps_of_members_are_chained_before_they_are_averaged():
    scores, _ = member_rows()
    linked = FunnelLoss(TASKS, (1, 4)).link(scores)
    click, bought = scores[1].sigmoid(), scores[1].sigmoid() * scores[4].sigmoid()
    torch.testing.assert_close(linked[1].sigmoid(), click.mean(dim=1))
    torch.testing.assert_close(linked[4].sigmoid(), bought.mean(dim=1))


@given(st.lists(st.lists(st.floats(-1e4, 1e4, width=32), min_size=3, max_size=3), min_size=2, max_size=4))
@settings(max_examples=50, deadline=None)
def test_means_of_members_are_finite_and_never_rise_along_a_funnel(members):
    tasks = [Task(name=name, kind="binary", classes=(0, 1)) for name in "abc"]
    scores = torch.tensor(members)[None]  # (1, k, 3)
    linked = torch.cat(FunnelLoss(tasks, (0, 1, 2)).link(list(scores.split(1, dim=2))), dim=1)
    assert linked.isfinite().all()
    assert (linked.diff(dim=1) <= 0).all()
