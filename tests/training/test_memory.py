import numpy as np
import pytest
import torch

from tabmtl import APEM, MultiTabNet, SharedBottom
from tabmtl.base.schema import Batch, Columns
from tabmtl.columns import Features
from tabmtl.targets import Task
from tabmtl.training import memory, predict

N_COLUMNS, N_ROWS = 250, 64
TASKS = [Task(name="a", kind="regression")]


def columns_of(n):
    names = tuple(f"c{j}" for j in range(n))
    return Columns(numeric=(), categorical=names, levels=(("a",),) * n, has_missing=(), bins=())


@pytest.mark.parametrize(
    "model",
    [MultiTabNet(), MultiTabNet(row_layer="inducing_attention", n_blocks=2), MultiTabNet(n_members=2), APEM()],
    ids=lambda model: type(model).__name__,
)
def test_the_estimate_is_what_the_network_takes(model):
    def build(columns):
        return model._network(columns, TASKS)

    step = {"n_rows": N_ROWS, "precision": "float32", "is_long": False}
    estimated = memory.least_bytes(build, N_COLUMNS, torch.device("cpu"), **step)
    network = build(columns_of(N_COLUMNS)).train()
    codes = torch.full((N_ROWS, N_COLUMNS), 2, dtype=torch.int32)
    rows = Batch(x=Features(numbers=torch.empty(N_ROWS, 0), codes=codes))
    taken = 20 * sum(part.numel() for part in network.parameters()) + memory.saved_bytes(network, rows)
    assert estimated == pytest.approx(taken, rel=0.05)


@pytest.mark.parametrize("model, width", [(MultiTabNet(epochs=1), "d_token"), (APEM(epochs=1), "d_embedding")])
def test_a_network_beyond_the_memory_is_refused_before_it_is_built(monkeypatch, model, width):
    monkeypatch.setattr(memory, "free_memory", lambda: 10**7)
    X = np.random.default_rng(0).normal(size=(30, 201))
    words = (
        f"^{type(model).__name__} makes a token .* 201 columns and steps of 30 rows take at least [\\d.]+ GB of "
        rf"memory, and 0\.01 GB are free; .* columns=.* {width} or batch_size, .*SharedTrees"
    )
    with pytest.raises(ValueError, match=words):
        model.fit(X, X[:, :2])
    model.fit(X[:, :200], X[:, :2])  # is not looked at
    SharedBottom(epochs=1, numeric_embedding="none").fit(X, X[:, :2])


def test_memory_that_nobody_tells_refuses_nothing(monkeypatch):
    monkeypatch.setattr(memory, "free_memory", lambda: None)
    X = np.random.default_rng(0).normal(size=(30, 201))
    APEM(epochs=1, n_groups=1, d_embedding=2).fit(X, X[:, :2])


def test_answers_of_few_rows_at_a_time_are_those_of_many(monkeypatch):
    X = np.random.default_rng(0).normal(size=(300, 5))
    model = SharedBottom(epochs=1, random_state=0).fit(X, X[:, :2])
    answers = model.predict(X)
    monkeypatch.setattr(predict, "_MOST_CELLS", 1)
    np.testing.assert_array_equal(model.predict(X), answers)
