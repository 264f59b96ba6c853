"""Networks that are trained as one: each takes the steps that it would take by itself."""

import copy
from types import SimpleNamespace

import pytest
import torch

from tabmtl import SharedBottom
from tabmtl.base.schema import Batch, Columns, DivergenceError
from tabmtl.columns import Features
from tabmtl.nn.joined import JoinedNetworks
from tabmtl.targets import Task
from tabmtl.training.epochs import run_epochs
from tabmtl.training.joint import Joint
from tabmtl.training.losses import MultiTaskLoss
from tabmtl.training.optimizer import Optimizer
from tabmtl.training.run import Run
from tabmtl.training.table_loop import TableLoop

pytestmark = pytest.mark.usefixtures("torch_seed")

TASKS = (
    Task(name="delay", kind="regression", metric="r2"),
    Task(name="late", kind="binary", classes=(0, 1), metric="roc_auc"),
)
COLUMNS = Columns(numeric=("a", "b"), categorical=(), levels=(), has_missing=(False, False), bins=((0.0, 1.0),) * 2)


def networks(n):
    return [SharedBottom(hidden=(8,), dropout=0.0)._network(COLUMNS, TASKS) for _ in range(n)]


def table(n):
    x = torch.rand(n, 2)
    y = torch.stack([x[:, 0] + 0.3 * torch.randn(n), (x[:, 1] > 0.5).float()], dim=1)
    y[::5, 0] = torch.nan
    return Batch(x=Features(numbers=x, codes=torch.zeros(n, 0, dtype=torch.int32)), y=y)


def options(**changes):
    defaults = SharedBottom(average_decay=0.9, weight_decay=0.1, clip_norm=0.5).get_params() | {
        "epochs": 8,
        "patience": 2,
    }
    return SimpleNamespace(**(defaults | changes))


def steps_of(optimizer, losses, n, rate=0.01):
    for _ in range(n):
        losses().backward()
        optimizer.step(rate)


def size(k, scores):
    """A loss of which some gradients are clipped."""
    return (10.0, 1.0, 0.1)[k] * sum(score.square().sum() for score in scores)


def close(found, expected):
    return all(torch.allclose(found[name], expected[name], atol=1e-5) for name in expected)


def test_the_optimizer_moves_each_network_as_alone_also_after_restarts_and_departures():
    alone = networks(3)
    joined, run, x = JoinedNetworks(alone), options(), [table(16).x for _ in alone]
    settings = {name: getattr(run, name) for name in ("weight_decay", "average_decay", "clip_norm")}
    optimizer = Optimizer(joined.network, **settings, n_networks=3)
    own = [Optimizer(network, **settings) for network in alone]

    def compare(numbers):
        wide = Features(
            numbers=torch.cat([x[k].numbers for k in numbers], dim=1), codes=torch.zeros(16, 0, dtype=torch.int32)
        )

        def together():
            parts = enumerate(numbers)
            return sum(size(k, joined.network(wide)[2 * i : 2 * i + 2]) for i, k in parts)

        steps_of(optimizer, together, 5)
        for i, k in enumerate(numbers):
            steps_of(own[k], lambda k=k: size(k, alone[k](x[k])), 5)
            assert close(joined.weights(i), alone[k].state_dict())
            with optimizer.averaged(), own[k].averaged():
                assert close(joined.weights(i), alone[k].state_dict())

    compare([0, 1, 2])
    optimizer.restart(1)
    own[1].restart()
    compare([0, 1, 2])
    joined.keep([1, 2])
    optimizer.keep([1, 2])
    compare([1, 2])


def train(run, networks, rows, evaluate):
    valid = [table(10 + len(part) % 7) for part in rows]
    joint = Joint(networks, rows, valid)
    loop = TableLoop(run, joint.network, MultiTaskLoss(TASKS), joint.rows, joint.valid, evaluate=evaluate, joint=joint)
    return run_epochs(networks, loop, run, run=Run(), on_epoch=None)


def score_by(scores):
    """Scores of the epochs, one after the other, whatever the network says."""
    left = iter(scores)

    def evaluate(found, rows):
        assert len(found[0]) == len(rows)
        return dict.fromkeys(["delay", "late"], next(left))

    return evaluate


def test_every_network_stops_and_restarts_by_its_own_scores_and_keeps_its_own_best_weights():
    falling, rising = [9, 8, 7, 6, 5, 4, 3, 2], [1, 2, 3, 4, 5, 6, 7, 8]
    trained, rows = networks(3), [table(n) for n in (100, 103, 97)]
    before = [copy.deepcopy(network.state_dict()) for network in trained]
    found = train(options(restarts=0), trained, rows, [score_by(falling), score_by(rising), score_by(falling)])
    assert [len(own.history) for own in found] == [3, 8, 3]
    assert [own.best.epoch for own in found] == [0, 7, 0]
    for network, own, old in zip(trained, found, before, strict=True):
        kept, now = own.best.weights, network.state_dict()
        assert all(torch.equal(kept[name], now[name]) for name in now)
        assert any((old[name] != now[name]).any() for name in now)
    found = train(options(restarts=1), networks(2), rows[:2], [score_by(falling), score_by(rising)])
    assert [len(own.history) for own in found] == [5, 8]


def test_a_record_has_the_losses_of_the_network_and_scores_of_its_validation_rows():
    evaluate = [score_by([0.5] * 9), score_by([0.25] * 9)]
    found = train(options(epochs=3), networks(2), [table(100), table(60)], evaluate)
    first, second = (own.history[-1] for own in found)
    assert (first["val/score"], second["val/late/roc_auc"]) == (0.5, 0.25)
    assert first["train/score"] is None
    assert 0 < first["train/loss"] != second["train/loss"]


def test_a_network_that_diverges_ends_the_training():
    rows = [table(100), table(60)]
    rows[1].y[3, 0] = torch.inf
    with pytest.raises(DivergenceError, match=r"the train loss of task 'delay' is not finite; lower learning_rate"):
        train(options(), networks(2), rows, [score_by([0.5] * 9)] * 2)
