"""The training loop on a linear network, whose steps can be done by hand."""

import copy
import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from ranks import run_ranks
from torch import nn

from tabmtl.base.schema import Batch, TabmtlWarning
from tabmtl.columns import Features
from tabmtl.nn.experts import BatchNorm, Experts
from tabmtl.targets import Task
from tabmtl.training.epochs import run_epochs, schedule, warn_if_rising
from tabmtl.training.losses import MultiTaskLoss
from tabmtl.training.optimizer import Optimizer
from tabmtl.training.predict import predict_scores, represent_rows
from tabmtl.training.rows import MemoryRows
from tabmtl.training.run import Run, current
from tabmtl.training.table_loop import TableLoop, settle_statistics, step_rows

pytestmark = pytest.mark.usefixtures("torch_seed")

TASKS = [
    Task(name="delay", kind="regression", metric="r2"),
    Task(name="late", kind="binary", classes=(0, 1), metric="roc_auc"),
]
LOSS = MultiTaskLoss(TASKS)


class Linear(nn.Module):
    """One linear layer for two tasks, which remembers the rows it was asked for."""

    def __init__(self, batch_dependent=False):
        super().__init__()
        self.batch_dependent = batch_dependent
        self.layer = nn.Linear(3, 2)
        self.seen = []

    def represent(self, x, task=None):
        self.seen.append(x.numbers.detach())
        return x.numbers * 2

    def forward(self, x, task=None):
        self.seen.append(x.numbers.detach())
        out = self.layer(x.numbers)
        return [out[:, :1], out[:, 1:]]


def table(n=100, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 3, generator=generator)
    noise = torch.randn(n, generator=generator)
    y = torch.stack([x[:, 0] - x[:, 1] + 0.1 * noise, (x[:, 2] > 0).float()], dim=1)
    y[torch.rand(n, 2, generator=generator) < 0.2] = math.nan
    return Batch(x=Features(numbers=x, codes=torch.zeros(n, 0, dtype=torch.int32)), y=y)


def options(**changes):
    defaults = {
        "epochs": 5,
        "batch_size": 32,
        "learning_rate": 0.05,
        "weight_decay": 0.0,
        "average_decay": 0.0,
        "clip_norm": None,
        "early_stopping": True,
        "patience": 3,
        "restarts": 0,
        "monitor": "mean",
        "precision": "float32",
    }
    return SimpleNamespace(**(defaults | changes))


def evaluate(scores, batch):
    """Minus the mean absolute error of both tasks."""
    result = {}
    for t, task in enumerate(TASKS):
        known = ~batch.y[:, t].isnan()
        result[task.name] = -float((scores[t][known, 0] - batch.y[known, t]).abs().mean()) if known.any() else None
    return result


def train(model, run, *, data=None, valid=None, evaluate=evaluate, on_epoch=None):
    """All epochs of a loop, as the estimators run them."""
    rows, held_out = MemoryRows(table() if data is None else data), None if valid is None else MemoryRows(valid)
    loop = TableLoop(run, model, LOSS, rows, held_out, evaluate=[evaluate])
    (own,) = run_epochs([model], loop, run, run=Run(), on_epoch=on_epoch)
    return own.history, own.best.epoch


def network(**params):
    torch.manual_seed(0)
    return Linear(**params)


class Standstill:
    """An optimiser that leaves weights and gradients as they are."""

    def step(self, learning_rate):
        pass


def step_of(network, tasks=TASKS, micro=None, weight=None, batch_size=32):
    """The gradient that one step on 32 rows follows."""
    data = replace(table(), weight=weight)
    loop = TableLoop(
        options(batch_size=batch_size), network, MultiTaskLoss(tasks), MemoryRows(data), None, evaluate=[evaluate]
    )
    loop.optimizer, loop._micro = Standstill(), micro or 32
    loop.step(data, torch.arange(32), 0.05)
    return network.layer.weight.grad


def test_a_step_follows_the_mean_gradient_over_the_batch():
    model = network()
    data = table().rows(torch.arange(32))
    labelled = ~data.y.isnan()
    predicted = model.layer(data.x.numbers)
    regression = ((predicted[:, 0] - data.y[:, 0].nan_to_num()) ** 2)[labelled[:, 0]].sum()
    binary = nn.functional.binary_cross_entropy_with_logits(
        predicted[:, 1][labelled[:, 1]], data.y[:, 1][labelled[:, 1]], reduction="sum"
    )
    (expected,) = torch.autograd.grad((regression + binary) / 32, [model.layer.weight])
    torch.testing.assert_close(step_of(network()), expected)


@pytest.mark.parametrize("micro", [1, 5, 16, 31])
def test_micro_batches_equal_one_batch(micro):
    torch.testing.assert_close(step_of(network(), micro=micro), step_of(network()), rtol=1e-6, atol=1e-7)


def test_a_task_weight_doubles_its_gradient_and_no_other():
    double = [Task(name="delay", kind="regression", metric="r2", weight=2.0), TASKS[1]]
    single, doubled = step_of(network()), step_of(network(), double)
    assert torch.equal(doubled[0], 2 * single[0])
    assert torch.equal(doubled[1], single[1])


def test_weights_of_rows_scale_their_gradient():
    weight = torch.full((100, 2), 2.0)
    assert torch.equal(step_of(network(), weight=weight), 2 * step_of(network()))


def test_a_short_last_batch_counts_as_a_part_of_one():
    assert torch.equal(step_of(network(), batch_size=64), step_of(network()) / 2)


def test_every_row_is_trained_on_once_an_epoch():
    model, data = network(), table()
    train(model, options(epochs=1, batch_size=7), data=data)
    seen = torch.cat(model.seen[-15:])
    assert [len(rows) for rows in model.seen[-15:]] == [7] * 14 + [2]
    assert torch.equal(seen.sort(dim=0).values, data.x.numbers.sort(dim=0).values)
    assert not torch.equal(seen, data.x.numbers)


def test_the_learning_rate_warms_up_and_falls_to_zero():
    rates = [schedule(step / 100) for step in range(101)]
    assert rates[0] == pytest.approx(0.1)
    assert max(rates) == rates[2] > 0.99
    assert rates[2:] == sorted(rates[2:], reverse=True)
    assert rates[-1] == pytest.approx(0, abs=1e-6)


def test_the_history_has_a_row_an_epoch():
    history, best = train(network(), options(), valid=table(seed=1))
    parts = ["loss", "delay/loss", "delay/r2", "late/loss", "late/roc_auc", "score"]
    names = {"epoch"} | {f"{part}/{name}" for part in ("train", "val") for name in parts}
    assert all(set(record) == names for record in history)
    assert [record["epoch"] for record in history] == [0, 1, 2, 3, 4]
    assert history[-1]["val/loss"] < history[0]["val/loss"]
    assert best == 4


def test_losses_of_the_history_are_means_over_labelled_rows():
    model, valid = network(), table(seed=1)
    history, _ = train(model, options(epochs=1), valid=valid)
    known = ~valid.y[:, 0].isnan()
    predicted = predict_scores(model, valid)[0][known, 0]
    assert history[0]["val/delay/loss"] == pytest.approx(float(((predicted - valid.y[known, 0]) ** 2).mean()), rel=1e-5)
    assert history[0]["val/loss"] == pytest.approx((history[0]["val/delay/loss"] + history[0]["val/late/loss"]) / 2)


def scripted(values):
    """An evaluation that gives one score an epoch, first for the training rows and then for the validation rows."""
    calls = iter([score for value in values for score in (0.0, value)])

    def evaluate(scores, batch):
        score = next(calls)
        return {"delay": score, "late": None if score is None else -score}

    return evaluate


def test_the_best_weights_are_restored():
    weights = []
    model = network()
    values = [1.0, 3.0, 2.0, 2.5, 1.0, 1.0]
    history, best = train(
        model,
        options(epochs=6, monitor="delay"),
        valid=table(seed=1),
        evaluate=scripted(values),
        on_epoch=lambda record: weights.append(model.layer.weight.detach().clone()),
    )
    assert (best, len(history)) == (1, 5)  # patience 3 after the best
    assert torch.equal(model.layer.weight, weights[1])
    assert not torch.equal(model.layer.weight, weights[-1])


def test_a_restart_goes_back_to_the_best_weights():
    weights, starts = [], []
    model = network()
    values = [1.0, 3.0, 2.0, 2.0, 2.0, 4.0, 1.0, 1.0, 1.0, 5.0]
    run = options(epochs=10, monitor="delay", restarts=1, learning_rate=0.0)
    loop = TableLoop(run, model, LOSS, MemoryRows(table()), MemoryRows(table(seed=1)), evaluate=[scripted(values)])
    own_epoch = loop.run_epoch

    def run_epoch(epoch):
        starts.append(model.layer.weight.detach().clone())
        record = own_epoch(epoch)
        model.layer.weight.data.add_(1)  # what every epoch learns
        loop.optimizer.step(0.0)
        return record

    loop.run_epoch = run_epoch

    def keep(record):
        weights.append(model.layer.weight.detach().clone())

    (own,) = run_epochs([model], loop, run, run=Run(), on_epoch=keep)
    assert torch.equal(starts[5], weights[1])  # three epochs after the best, which was the second
    assert (own.best.epoch, len(own.history)) == (5, 9)  # and the second time training stops
    assert torch.equal(model.layer.weight, weights[5])


@pytest.mark.parametrize(
    ("n_rows", "rows"), [(1, 32), (2_000, 32), (3_000, 64), (10_000, 128), (20_000, 256), (10**6, 512)]
)
def test_a_step_takes_rows_by_the_size_of_the_table(n_rows, rows):
    assert step_rows("auto", n_rows) == rows
    assert step_rows(100, n_rows) == 100


@pytest.mark.parametrize(("monitor", "best"), [("delay", 2), ("late", 0), ("mean", 0)])
def test_one_task_or_the_mean_is_watched(monitor, best):
    found = train(
        network(), options(epochs=3, monitor=monitor), valid=table(seed=1), evaluate=scripted([1.0, 2.0, 3.0])
    )
    assert found[1] == best


def test_the_loss_is_watched_where_no_score_is_defined():
    _, best = train(network(), options(epochs=4), valid=table(seed=1), evaluate=scripted([None] * 4))
    assert best == 3


@pytest.mark.parametrize("valid", [None, table(seed=1)])
def test_without_patience_the_last_weights_stay(valid):
    weights = []
    model = network()
    values = [3.0, 2.0, 1.0] if valid is not None else [0.0, 0.0, 0.0]
    history, best = train(
        model,
        options(epochs=3, early_stopping=False),
        valid=valid,
        evaluate=scripted(values),
        on_epoch=lambda record: weights.append(model.layer.weight.detach().clone()),
    )
    assert (best, len(history)) == (2, 3)
    assert torch.equal(model.layer.weight, weights[-1])


def test_a_loss_that_is_not_finite_names_task_and_cure():
    data = table()
    data.x.numbers[5] = math.inf
    with pytest.raises(ValueError, match=r"train loss of task 'delay' is not finite; lower learning_rate \(now 0.05\)"):
        train(network(), options(), data=data)


def test_the_callers_generator_rules_the_order_of_rows():
    runs = []
    for seed in (0, 0, 1):
        model = network()
        torch.manual_seed(seed)
        train(model, options(epochs=1))
        runs.append(model.layer.weight.detach().clone())
    assert torch.equal(runs[0], runs[1])
    assert not torch.equal(runs[0], runs[2])


@pytest.mark.parametrize("n", [1, 7, 8, 100, 1_024, 1_030])
def test_rows_are_scored_in_multiples_of_eight(n):
    model, data = network(), table(n)
    scores = predict_scores(model, data)
    assert [score.shape for score in scores] == [(n, 1), (n, 1)]
    assert all(len(rows) % 8 == 0 and len(rows) <= 1_024 for rows in model.seen)
    torch.testing.assert_close(torch.cat(scores, dim=1), model.layer(data.x.numbers).detach())
    assert torch.equal(represent_rows(model, data), data.x.numbers * 2)
    assert not model.training


class Narrow(nn.Module):
    """Products so small, and functions of so few numbers, that torch has other kernels for a few rows."""

    batch_dependent = False

    def __init__(self):
        super().__init__()
        self.shared = nn.Linear(3, 8)
        self.own = nn.Parameter(torch.randn(2, 8, 4))
        self.out = nn.Parameter(torch.randn(2, 4, 1))

    def represent(self, x, task=None):
        return nn.functional.silu(torch.einsum("bi,tij->btj", self.shared(x.numbers), self.own)).flatten(1)

    def forward(self, x, task=None):
        features = self.represent(x).view(-1, 2, 4).transpose(0, 1)
        return list(torch.bmm(features, self.out).sigmoid().exp().unbind())


@pytest.mark.parametrize("size", [1, 2, 7, 31, 100])
def test_narrow_products_round_a_row_alike_in_any_batch(size):
    torch.manual_seed(0)
    model, data = Narrow(), table(1_500)
    starts = range(0, 1_500 - size, 97)
    for predict in (
        lambda rows: torch.cat(predict_scores(model, rows), dim=1),
        lambda rows: represent_rows(model, rows),
    ):
        whole = predict(data)
        for start in starts:
            assert torch.equal(predict(data.rows(torch.arange(start, start + size))), whole[start : start + size])


def test_without_filling_the_network_sees_the_rows_alone():
    model = network()
    represent_rows(model, table(1_030), fill=False)
    assert [len(rows) for rows in model.seen] == [1_024, 6]


def test_a_batch_dependent_network_trains_on_whole_batches():
    model = network(batch_dependent=True)
    train(model, options(epochs=1, batch_size=600), data=table(1_031))
    assert [len(rows) for rows in model.seen] == [600, 431]


@pytest.mark.parametrize(
    ("n", "sizes"), [(1, [1]), (600, [600]), (601, [301, 300]), (1_031, [516, 515]), (1_801, [451, 451, 451, 448])]
)
def test_a_batch_dependent_network_predicts_in_batches_of_equal_size(n, sizes):
    model, data = network(batch_dependent=True), table(n)
    for predict in (predict_scores, represent_rows):
        model.seen.clear()
        predict(model, data, batch_size=600)
        assert [len(rows) for rows in model.seen] == sizes
        assert torch.equal(torch.cat(model.seen), data.x.numbers)


@pytest.mark.parametrize("decay", [0.0, 0.15, 0.9])
def test_the_kept_weights_are_the_moving_average_of_the_steps(decay, monkeypatch):
    torch.manual_seed(0)
    network = Linear()
    average = {name: value.clone() for name, value in network.state_dict().items()}
    steps, seen, take_step = [], [], Optimizer.step

    def weights():
        return {name: value.clone() for name, value in network.state_dict().items()}

    def step(optimizer, learning_rate):
        take_step(optimizer, learning_rate)
        steps.append(weights())

    monkeypatch.setattr(Optimizer, "step", step)
    run = options(epochs=4, average_decay=decay, early_stopping=False)
    # one step an epoch
    train(network, run, data=table(32), on_epoch=lambda _: seen.append(weights()))
    assert len(steps) == len(seen) == 4
    for t, own in enumerate(steps, start=1):
        d = min(decay, (1 + t) / (10 + t))
        average = {name: d * value + (1 - d) * own[name] for name, value in average.items()}
        for name, value in seen[t - 1].items():  # the hook sees what is validated
            torch.testing.assert_close(value, average[name], rtol=1e-5, atol=1e-6)
    for name, value in network.state_dict().items():
        torch.testing.assert_close(value, average[name], rtol=1e-5, atol=1e-6)


class Normalised(Linear):
    """Dropout, batch normalisation, and the linear layer."""

    def __init__(self):
        super().__init__()
        self.first = nn.Sequential(nn.Linear(3, 3), nn.Dropout(0.5), BatchNorm(3))

    def forward(self, x, task=None):
        return super().forward(replace(x, numbers=self.first(x.numbers)), task)


def test_running_statistics_are_those_of_the_kept_weights_without_dropout():
    torch.manual_seed(0)
    model, data = Normalised(), table(100)
    train(model, options(epochs=2, average_decay=0.9, early_stopping=False), data=data)
    values = model.first[0](data.x.numbers).detach()
    norm = model.first[2]
    torch.testing.assert_close(norm.running_mean, values.mean(dim=0), rtol=1e-4, atol=1e-5)
    within = torch.stack([values[start::10].var(dim=0) for start in range(10)]).mean(dim=0)
    torch.testing.assert_close(norm.running_var, within, rtol=1e-4, atol=1e-5)
    assert norm.momentum == 0.1


def test_settling_takes_rows_from_all_over_a_large_table():
    torch.manual_seed(0)
    model = Normalised()
    x = torch.arange(50_000.0)[:, None].expand(-1, 3) / 50_000
    settle_statistics(model, Batch(x=Features(numbers=x, codes=torch.zeros(50_000, 0, dtype=torch.int32))))
    assert sum(len(rows) for rows in model.seen) == 10_240
    expected = model.first[0](x).detach().mean(dim=0)
    torch.testing.assert_close(model.first[2].running_mean, expected, rtol=1e-3, atol=1e-3)
    assert not model.training


@pytest.mark.parametrize("n", [1, 2, 3, 19])
def test_few_rows_settle_statistics_that_are_finite(n):
    model = Normalised()
    settle_statistics(model, table(n))
    assert all(value.isfinite().all() for value in model.state_dict().values())


@pytest.mark.parametrize("kind", [BatchNorm, nn.BatchNorm1d])
def test_ranks_settle_statistics_together(kind):
    """Each on its part of the rows; on all, where a normalisation of a user's own knows no group."""
    torch.manual_seed(0)
    model = Normalised()
    model.first[2] = kind(3)
    networks = [copy.deepcopy(model) for _ in range(2)]
    settle_statistics(model, table(100))

    def settle():
        network = networks[current().rank]
        settle_statistics(network, table(100), group=current())
        return network

    for network in run_ranks(2, settle):
        assert sum(len(rows) for rows in network.seen) == (50 if kind is BatchNorm else 100)
        torch.testing.assert_close(network.state_dict(), model.state_dict())


def test_fewer_rows_than_ranks_settle_statistics():
    class Mixture(nn.Module):
        def __init__(self):
            super().__init__()
            self.experts = Experts([2], 3, [4, 4], norm="batch")

        def forward(self, x, task):
            return self.experts([x.numbers])

    networks, few = [Mixture()], table(2)
    networks += [copy.deepcopy(networks[0]) for _ in range(3)]
    settle_statistics(networks[0], few)
    run_ranks(3, lambda: settle_statistics(networks[1 + current().rank], few, group=current()))
    for network in networks[1:]:
        torch.testing.assert_close(network.state_dict(), networks[0].state_dict())


def test_a_score_that_still_rises_in_the_last_epochs_is_told():
    with pytest.warns(TabmtlWarning, match=r"after epochs=5: 0\.5, against 0\.3 2 epochs before") as told:
        warn_if_rising([0.1, 0.2, 0.3, 0.4, 0.5], 2)
    assert [warning.filename for warning in told] == [__file__]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    "scores", [[0.1, 0.2], [0.1, 0.2, 0.3], [0.1, 0.5, 0.5, 0.5, 0.5], [0.1, 0.6, 0.5, 0.5, 0.602]]
)
def test_no_other_score_is_said_to_rise(scores):
    """There is none before the last epochs, or it was as good."""
    warn_if_rising(scores, 3)
