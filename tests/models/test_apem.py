"""APEM: set attention against blocks one by one, what columns, patterns and tasks may depend on, and that it learns."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from tabmtl import APEM
from tabmtl.base.schema import Columns
from tabmtl.columns import Features
from tabmtl.models.apem import AttentionBlocks, SetAttention
from tabmtl.synth import make_funnel
from tabmtl.targets import Task
from tabmtl.training.losses import FunnelLoss, MultiTaskLoss

pytestmark = pytest.mark.usefixtures("torch_seed")

COLUMNS = Columns(
    numeric=("a", "b", "c"),
    categorical=("d", "e"),
    levels=(("x", "y", "z"), ("u", "v")),
    has_missing=(False,) * 3,
    bins=((-1.0, 0.0, 1.0),) * 3,
)
TASKS = [
    Task(name="click", kind="binary", classes=(0, 1)),
    Task(name="size", kind="multiclass", classes=("s", "m", "l")),
    Task(name="buy", kind="binary", classes=(0, 1)),
    Task(name="delay", kind="regression"),
]
CHAIN = ["click", "buy"]


def scattered(module: nn.Module) -> nn.Module:
    """The module in float64, with all parameters away from their start."""
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.5)
    return module.double().eval()


def network(tasks=TASKS, **options):
    sizes = {"d_embedding": 6, "n_heads": 2, "n_groups": 3, "n_points": 4, "d_pattern": 5, "head_hidden": 4}
    sizes |= {"expert_norm": "none"}
    return scattered(APEM(**(sizes | options))._network(COLUMNS, tasks))


def rows(n=7):
    x_cat = torch.stack([torch.randint(0, 5, (n,)), torch.randint(0, 4, (n,))], dim=1)
    return Features(numbers=torch.randn(n, 3, dtype=torch.float64), codes=x_cat.int())


class PlainBlock(nn.Module):
    """MAB(Q, K) of Set Transformer, with PyTorch's attention, for one group of `AttentionBlocks`."""

    def __init__(self, blocks: AttentionBlocks, j: int) -> None:
        super().__init__()
        _, h, d, _ = blocks.query.shape
        self.attention = nn.MultiheadAttention(d, h, bias=False, batch_first=True).double()
        projections = [p[j].permute(0, 2, 1).reshape(d, d) for p in (blocks.query, blocks.key, blocks.value)]
        self.attention.in_proj_weight.data = torch.cat(projections)
        self.attention.out_proj.weight.data = blocks.out[j].permute(1, 0, 2).reshape(d, d)
        self.weight, self.bias = blocks.feed.weight[j], blocks.feed.bias[j]
        self.norms = [(blocks.scale[i, j, 0], blocks.shift[i, j, 0]) for i in (0, 1)]

    def forward(self, queries: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
        attended, _ = self.attention(queries, keys, keys)
        a = F.layer_norm(queries + attended, queries.shape[-1:], *self.norms[0])
        return F.layer_norm(a + F.relu(a @ self.weight + self.bias), a.shape[-1:], *self.norms[1])


@pytest.mark.parametrize(
    ("n_groups", "n_points", "d", "n_heads", "m"), [(1, 1, 2, 1, 1), (3, 4, 6, 2, 5), (2, 3, 8, 8, 9)]
)
def test_grouped_attention_is_a_loop_of_plain_blocks(n_groups, n_points, d, n_heads, m):
    grouped = scattered(SetAttention(n_groups, n_points, d, n_heads))
    x = torch.randn(7, m, d, dtype=torch.float64)
    expected = []
    for j in range(n_groups):
        held = PlainBlock(grouped.inward, j)(grouped.points[j].expand(7, -1, -1), x)
        expected.append(PlainBlock(grouped.outward, j)(x, held))
    torch.testing.assert_close(grouped(x), torch.stack(expected), rtol=1e-8, atol=1e-8)


def test_columns_are_a_set_until_they_are_joined():
    model, order = network(), torch.tensor([3, 0, 4, 2, 1])
    tokens = model.tokenizer(rows())
    shuffled = model.attention(tokens[:, order])
    torch.testing.assert_close(shuffled, model.attention(tokens)[:, :, order], rtol=1e-12, atol=1e-12)
    before = model.patterns(model.attention(tokens))
    patterns, width = model.patterns, tokens.shape[2]
    with torch.no_grad():  # what the columns' places mean moves along: W1, W2 and W_j
        patterns.squeeze.weight.copy_(patterns.squeeze.weight[:, order])
        patterns.excite.weight.copy_(patterns.excite.weight[:, :, order])
        patterns.excite.bias.copy_(patterns.excite.bias[:, order])
        joined = patterns.join.first.weight.unflatten(1, (5, width))
        patterns.join.first.weight.copy_(joined[:, order].flatten(1, 2))
    assert not torch.allclose(model.patterns(model.attention(tokens)), before)
    torch.testing.assert_close(model.patterns(shuffled), before, rtol=1e-12, atol=1e-12)


def test_patterns_selector_and_scores_are_the_formulas():
    model, x = network(), rows()
    tokens = model.attention(model.tokenizer(x))  # (n, B, m, d)
    patterns = []
    for j, group in enumerate(tokens):
        squeeze, excite, join = model.patterns.squeeze, model.patterns.excite, model.patterns.join.first
        weight, bias = join.weight.view(3, 5, -1)[j], join.bias.view(3, 5)[j]
        hidden = F.relu(group.mean(dim=2) @ squeeze.weight[j] + squeeze.bias[j])
        weights = torch.sigmoid(hidden @ excite.weight[j] + excite.bias[j])
        patterns.append(F.relu((group * weights[:, :, None]).flatten(1) @ weight.T + bias))
    assert model.patterns.squeeze.weight.shape[2] == 3  # of 5 columns, by half
    for t, z in enumerate(model.task_features(x).unbind(dim=1)):
        logits = [torch.tanh(p @ model.selector.key.weight.T) @ model.selector.indicators[t] for p in patterns]
        alpha = torch.stack(logits, dim=1).softmax(dim=1)
        expected = sum(alpha[:, j : j + 1] * p for j, p in enumerate(patterns))
        torch.testing.assert_close(z, expected, rtol=1e-10, atol=1e-10)


def test_patterns_are_normalised_and_dropped_like_the_experts_of_other_mixtures():
    torch.manual_seed(0)
    options = APEM(d_embedding=6, n_groups=3, d_pattern=5, dropout=0.5)
    patterns = options._network(COLUMNS, TASKS).patterns.train()
    tokens = 5 + 3 * torch.randn(3, 500, 5, 6)
    found = patterns(tokens)  # the half of a normal value that is above 0, half of it dropped, the rest doubled
    assert found.shape == (500, 3, 5)
    assert 0.7 < (found == 0).double().mean() < 0.8
    torch.testing.assert_close(found.mean(dim=(0, 2)), torch.full((3,), 0.4), rtol=0, atol=0.1)


def test_first_embeddings_of_categories_are_small():
    """Large ones are noise that rare levels keep."""
    table = APEM(d_embedding=64)._network(COLUMNS, TASKS).tokenizer.categorical.table.weight
    assert 0.008 < table.std() < 0.012


def test_nothing_passes_from_head_to_head():
    model, x = network(), rows()
    before = model(x)
    with torch.no_grad():
        model.selector.indicators[2] += 1
        model.heads.hidden.weight[2] += 1
    changed = [not torch.equal(a, b) for a, b in zip(before, model(x), strict=True)]
    assert changed == [False, False, True, False]


@pytest.mark.parametrize("d_embedding", [4, 6])
def test_parameters_are_those_of_the_layers(d_embedding):
    d, m, n, p, h, squeezed = d_embedding, 5, 3, 4, 5, 3
    model = network(d_embedding=d, numeric_embedding="linear")
    attention = n * p * d + 2 * n * (4 * d * d + d * d + d + 4 * d)
    patterns = n * ((m + 1) * squeezed + (squeezed + 1) * m + (m * d + 1) * h)
    heads = 4 * (h + 1) * 4 + (4 + 1) * (1 + 3 + 1 + 1)
    selector = h * h + 4 * h
    tokens = (5 + 4) * d + 3 * 2 * d
    count = sum(parameter.numel() for parameter in model.parameters())
    assert count == tokens + attention + patterns + selector + heads


@pytest.mark.parametrize("space", ["chain", "conditional", "independent"])
def test_the_loss_is_that_of_the_space_of_the_steps(space):
    scores = [torch.randn(20, task.width) for task in TASKS]
    y = torch.stack([torch.ones(20), torch.randint(0, 3, (20,)), torch.randint(0, 2, (20,)), torch.randn(20)], dim=1)
    y[::2, [0, 2]] = 0
    options = APEM(task_chain=CHAIN, chain_loss=space, calibrator=0.5)
    expected = FunnelLoss(TASKS, [0, 2], space=space, calibrator=0.5)(scores, y)
    assert torch.equal(options._loss(TASKS)(scores, y), expected)
    assert type(APEM()._loss(TASKS)) is MultiTaskLoss
    if space == "chain":  # with two steps it is ESMM's
        p = torch.cat([scores[0], scores[2]], dim=1).double().sigmoid().cumprod(dim=1)
        esmm = F.binary_cross_entropy(p, y[:, [0, 2]].double(), reduction="none").sum(dim=0)
        torch.testing.assert_close(expected[[0, 2]].double(), esmm, rtol=1e-6, atol=0)


def small(**params):
    """A tiny estimator."""
    sizes = {"d_embedding": 4, "n_groups": 2, "d_pattern": 8, "head_hidden": 8, "epochs": 2, "batch_size": 64}
    return APEM(**(sizes | {"device": "cpu", "n_jobs": 1, "random_state": 0} | params))


def table(n=150):
    """Features, and a click, a purchase after it, a size and a delay."""
    rng = np.random.default_rng(0)
    X = pl.DataFrame({"a": rng.normal(size=n), "b": rng.normal(size=n), "c": rng.choice(["x", "y"], n)})
    click, more = X["a"] + rng.normal(size=n) > 0, X["b"] > 0
    size = pl.Series(["s", "m", "l"]).gather(rng.integers(0, 3, n))
    return X, pl.DataFrame(
        {"buy": (click & more).cast(int), "size": size, "click": click.cast(int), "delay": X["b"] * 9}
    )


@pytest.mark.parametrize("space", ["chain", "conditional"])
def test_probabilities_never_rise_along_the_chain(space):
    X, y = table()
    model = small(task_chain=CHAIN, chain_loss=space, epochs=6, learning_rate=0.05).fit(X, y)
    wild = pl.concat([X, X.with_columns(a=pl.col("a") * 1e4, b=pl.col("b") * -1e4)])
    proba = model.predict_proba(wild)
    assert (proba["buy"][:, 1] <= proba["click"][:, 1]).all()
    assert list(proba) == ["buy", "size", "click"]
    np.testing.assert_allclose(proba["size"].sum(axis=1), 1)
    assert model.predict(X).schema == y.schema


def test_only_independent_steps_can_rise():
    X, y = table()
    y = y.with_columns(click=pl.col("click") * (pl.col("buy") == 0))  # what would never be labelled so in a funnel
    with pytest.warns(UserWarning, match="buy=1 although click=0"):
        proba = small(task_chain=CHAIN, chain_loss="independent").fit(X, y).predict_proba(X)
    assert (proba["buy"][:, 1] > proba["click"][:, 1]).any()


def test_selections_are_told_and_saved(reloaded):
    X, y = table()
    model = small(task_chain=CHAIN).fit(X, y)
    usage = model.expert_utilisation_
    assert usage.columns == ["level", "gate", "expert", "weight"]
    assert usage.group_by("gate").agg(pl.col("weight").sum().round(5)).sort("gate").rows() == [
        (name, 1.0) for name in ("buy", "click", "delay", "size")
    ]
    assert reloaded(model).expert_utilisation_.equals(usage)


@pytest.mark.all_faces
@pytest.mark.parametrize("space", ["conditional", "chain"])
def test_it_learns_a_rare_conversion(space):
    """Of 6 000 impressions 152 convert; single LightGBMs score .76 on clicks and .76 on conversions."""
    world = {"n_users": 100, "n_items": 30, "click_rate": 0.2, "conversion_rate": 0.02, "spread": 2.0}
    train = make_funnel(6_000, **world, unclicked="null", random_state=0)
    test = train.draw(20_000, random_state=1)
    sizes = {"d_embedding": 8, "d_pattern": 32, "epochs": 6, "batch_size": 128}
    model = small(task_chain=train.task_chain, chain_loss=space, **sizes).fit(train.X, train.y.select(train.task_chain))
    scores, ceiling = model.score_tasks(test.X, test.y.select(train.task_chain)), test.ceiling()
    assert 0.72 < scores["click"] < ceiling["click"]
    assert 0.78 < scores["conversion"] < ceiling["conversion"]
