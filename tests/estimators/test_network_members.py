"""Networks of several members: each is a network of its own that shares weights, and answers are their means."""

import numpy as np
import polars as pl
import pytest
import torch
from conformance import FUNNELS, NETWORKS
from models_at_hand import fitted
from sklearn.metrics import r2_score

from tabmtl import IndependentTasks, MMoE, MultiTabNet, SharedBottom
from tabmtl.estimators.base import unfitted
from tabmtl.models.shared_bottom import SharedBottomNetwork
from tabmtl.nn.layers import Members, Towers

K = 3
every_network = pytest.mark.parametrize("cls", [*NETWORKS, *FUNNELS], ids=lambda cls: cls.__name__)


def member_inputs(model, X):
    """Encoded rows of a fitted model, as tensors."""
    batch = model.coder_.read(X).map(torch.from_numpy)
    return batch.x, batch.task


class _Scaled(torch.nn.Module):
    """Adapter of one member."""

    def __init__(self, factors):
        super().__init__()
        self.factors = factors

    def forward(self, x):
        return x * self.factors


def alone(model, m):
    """Member m of a fitted model, as a network of one member."""
    one = unfitted(model).set_params(n_members=1)
    network = one._network(model.coder_.features.columns, model.tasks_)
    weights = model.fitted_network()[0].state_dict()
    adapter = next(name for name, module in model.fitted_network()[0].named_modules() if isinstance(module, Members))
    factors = weights.pop(f"{adapter}.scale")[m]
    kept = {name: weight[m::K] if name.startswith("heads.out") else weight for name, weight in weights.items()}
    network.load_state_dict(kept)  # all other weights have the shapes of one member's
    owner = network.get_submodule(adapter.rpartition(".")[0])
    owner.members = _Scaled(factors)
    return network.eval()


@every_network
def test_every_member_is_a_network_of_its_own(cls):
    model, X, _ = fitted(cls, n_members=K)
    inputs = member_inputs(model, X)
    with torch.no_grad():
        scores, features = model.fitted_network()[0](*inputs), model.fitted_network()[0].represent(*inputs)
        members = [alone(model, m) for m in range(K)]
        for m, network in enumerate(members):
            for ours, expected in zip(scores, network(*inputs), strict=True):
                torch.testing.assert_close(ours[:, m], expected)
        torch.testing.assert_close(features, torch.stack([each.represent(*inputs) for each in members]).mean(dim=0))
    assert all((score[:, 0] - score[:, 1]).abs().max() > 1e-3 for score in scores)
    np.testing.assert_allclose(model.transform(X), features, atol=1e-6)


@pytest.mark.parametrize("cls", NETWORKS, ids=lambda cls: cls.__name__)
def test_every_member_of_a_long_table_is_a_network_of_its_own(cls):
    model, X, _ = fitted(cls, "long", n_members=K)
    inputs = member_inputs(model, X)
    with torch.no_grad():
        (scores,) = model.fitted_network()[0](*inputs)
        for m in range(K):
            (expected,) = alone(model, m)(*inputs)
            torch.testing.assert_close(scores[:, m], expected)


def test_probabilities_and_values_are_means_over_the_members():
    model, X, _ = fitted(MMoE, n_members=K)
    with torch.no_grad():
        late, size, delay = (score.double() for score in model.fitted_network()[0](*member_inputs(model, X)))
    p = model.predict_proba(X)
    np.testing.assert_allclose(p["late"][:, 1], late.sigmoid().mean(dim=1)[:, 0], atol=1e-6)
    np.testing.assert_allclose(p["size"], size.softmax(dim=2).mean(dim=1), atol=1e-6)
    labels = model.coder_.labels
    values = delay.mean(dim=1)[:, 0].numpy() * labels.scale[2] + labels.center[2]
    np.testing.assert_allclose(model.predict(X)["delay"], values, rtol=1e-5)


def test_members_differ_by_adapters_and_last_layers_alone():
    one, many = (fitted(SharedBottom, n_members=k, numeric_embedding="none")[0] for k in (1, K))
    sizes = [{name: array.size for name, array in model.weights_.items()} for model in (one, many)]
    d = many.fitted_network()[0].vector.width
    assert sizes[1].pop("vector.members.scale") == K * d
    assert sizes[1] == {name: size * (K if name.startswith("heads.out") else 1) for name, size in sizes[0].items()}


@pytest.mark.all_faces
def test_members_learn_more_from_few_noisy_rows_than_one_network_and_a_model_per_task():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(1150, 10))
    common = np.tanh(X[:, :3] @ [1.0, -1.0, 0.5]) + X[:, 3] * X[:, 4]
    y = common[:, None] * [1.0, 0.7, 1.3] + rng.normal(size=(1150, 3))
    options = {"epochs": 60, "batch_size": 32, "hidden": (64, 32), "numeric_embedding": "none", "n_jobs": 1}
    options |= {"patience": 15, "device": "cpu", "random_state": 0}
    train, test = slice(150), slice(150, None)
    one, many = (SharedBottom(**options, n_members=k).fit(X[train], y[train]).predict(X[test]) for k in (1, 8))
    per_task = IndependentTasks(random_state=0).fit(X[train], y[train]).predict(X[test])
    trivial = np.tile(y[train].mean(axis=0), (1000, 1))
    scores = [r2_score(y[test], values) for values in (trivial, per_task, one, many)]
    assert scores[0] < 0.0 < scores[1]
    assert scores[3] > max(scores[1], scores[2]) + 0.05


class WithoutMembers(SharedBottomNetwork):
    def __init__(self, columns, tasks, options):
        super().__init__(columns, tasks, options)
        self.heads = Towers(8, [task.width for task in tasks])


class Mine(SharedBottom):
    def _network(self, columns, tasks):
        return WithoutMembers(columns, tasks, self)


def test_heads_that_know_no_members_are_refused():
    X = np.random.default_rng(0).normal(size=(30, 2))
    Mine(hidden=(8,), epochs=1).fit(X, X)
    with pytest.raises(ValueError, match=r"must return \(B, T, H\) or \(B, H\) for B = \d+ rows.*n_members"):
        Mine(hidden=(8,), epochs=1, n_members=2).fit(X, X)


def test_members_and_attention_between_rows_are_refused():
    X = pl.DataFrame(np.random.default_rng(0).normal(size=(30, 2)))
    with pytest.raises(ValueError, match="n_members=2 needs rows that do not see each other; use row_layer='mixer'"):
        MultiTabNet(n_members=2, row_layer="batch_attention").fit(X, X.rename({"column_0": "a", "column_1": "b"}))
