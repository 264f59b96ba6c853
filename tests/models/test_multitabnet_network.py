"""The network of MultiTab-Net: parameter counts, isolation of tasks, exactness of the shortcuts, independence."""

import math
from dataclasses import replace

import pytest
import torch

from tabmtl.base.schema import Columns
from tabmtl.columns import Features
from tabmtl.models.multitabnet import MultiTabNet, MultiTabNetwork
from tabmtl.models.shared_bottom import SharedBottom, SharedBottomNetwork
from tabmtl.targets import Task

pytestmark = pytest.mark.usefixtures("torch_seed")

NAN = float("nan")
MASKS = ["none", "FxT", "TxT", "FxT_TxT"]
INDEPENDENT = ["none", "mixer", "inducing_attention"]
ROW_LAYERS = [*INDEPENDENT, "batch_attention"]
ACS = (94, 8, 24, 529, 219, 18, 99, 2, 9, 51)


def _columns(cardinalities=(3, 7), n_numeric=3, missing=True):
    return Columns(
        numeric=tuple(f"x{j}" for j in range(n_numeric)),
        categorical=tuple(f"c{j}" for j in range(len(cardinalities))),
        levels=tuple(tuple(map(str, range(c))) for c in cardinalities),
        has_missing=(missing,) * n_numeric,
        bins=((-1.0, 0.0, 0.5, 1.0),) * n_numeric,
    )


def _tasks(n_single, n_five=0):
    single = [Task(name=f"t{i}", kind="regression") for i in range(n_single)]
    return single + [Task(name=f"m{i}", kind="multiclass", classes=tuple("abcde")) for i in range(n_five)]


def _rows(columns, n=9):
    codes = [torch.randint(c, (n,), dtype=torch.int32) for c in columns.cardinalities]
    x_cat = torch.stack(codes, dim=1) if codes else torch.zeros(n, 0, dtype=torch.int32)
    return Features(numbers=torch.randn(n, len(columns.numeric)), codes=x_cat)


def _network(columns, tasks, **options):
    return MultiTabNetwork(columns, tasks, MultiTabNet(n_points=8, **({"dropout": 0.0} | options)))


def _shared_bottom(columns, tasks):
    return SharedBottomNetwork(columns, tasks, SharedBottom(dropout=0.0))


RELEASED = [  # cardinalities, numeric, tasks of one score, of five, e, multi_token, second layer, parameters
    ("acs multi", ACS, 0, 1, 1, 16, True, "batch_attention", 276_838),
    ("acs single", ACS, 0, 1, 1, 16, False, "batch_attention", 244_918),
    ("acs col", ACS, 0, 1, 1, 16, True, "none", 29_094),
    ("higgs multi", (3,) * 4, 17, 8, 0, 16, True, "mixer", 1_123_016),
    ("higgs single", (3,) * 4, 17, 8, 0, 16, False, "mixer", 698_872),
    ("higgs col", (3,) * 4, 17, 8, 0, 16, True, "none", 19_832),
    ("aliexpress single", (66,) * 15, 60, 2, 0, 8, False, "mixer", 1_810_538),
    ("aliexpress multi", (66,) * 15, 60, 2, 0, 8, True, "mixer", 1_853_890),
    ("synthetic multi", (), 32, 7, 0, 16, True, "mixer", 1_901_799),
    ("synthetic single", (), 32, 7, 0, 16, False, "mixer", 1_409_223),
    ("synthetic col", (), 32, 7, 0, 16, True, "none", 18_935),
]


@pytest.mark.parametrize("config", RELEASED, ids=lambda config: config[0])
def test_parameters_of_the_released_configurations(config):
    """As released, plus two rows (missing, unseen) per categorical column, less the mixer's dead q and k."""
    _, cardinalities, n_numeric, n_single, n_five, e, multi_token, row_layer, released = config
    network = _network(
        _columns(cardinalities, n_numeric, missing=False),
        _tasks(n_single, n_five),
        d_token=e,
        multi_token=multi_token,
        row_layer=row_layer,
    )
    n_task_tokens = n_single + n_five if multi_token else 1
    w = (n_task_tokens + len(cardinalities) + n_numeric) * e
    dead = 2 * (w * w + w) if row_layer == "mixer" else 0
    expected = released + 2 * e * len(cardinalities) - dead
    assert sum(p.numel() for p in network.parameters()) == expected


def test_a_second_block_adds_its_layers_alone():
    e, f, n = 16, 256, 2 + 2 + 3
    one, two = (_network(_columns(), _tasks(2), n_blocks=blocks, row_layer="batch_attention") for blocks in (1, 2))
    added = sum(p.numel() for p in two.parameters()) - sum(p.numel() for p in one.parameters())
    assert added == sum(4 * (w * w + w) + (w * f + f) + (f * w + w) + 4 * w for w in (e, n * e))


@pytest.mark.parametrize("n_blocks", [1, 2])
@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("row_layer", ["none", "mixer", "batch_attention"])
def test_which_settings_isolate_the_tasks(row_layer, mask, n_blocks):
    network = _network(_columns(), _tasks(3), mask=mask, row_layer=row_layer, n_blocks=n_blocks)
    network(_rows(_columns()))[0].sum().backward()
    leak = network.task_weight.grad[1].abs().sum().item()
    isolated = row_layer == "none" and (mask == "FxT_TxT" or (mask == "TxT" and n_blocks == 1))
    if row_layer == "none" and mask == "FxT" and n_blocks == 1:
        assert leak > 0  # tasks look at each other directly
    assert (leak == 0) == isolated
    assert network.task_weight.grad[0].abs().sum() > 0


@pytest.mark.parametrize("row_layer", ROW_LAYERS)
def test_a_single_token_makes_txt_no_mask(row_layer):
    columns = _columns()
    masked = _network(columns, _tasks(2), mask="TxT", multi_token=False, row_layer=row_layer)
    free = _network(columns, _tasks(2), mask="none", multi_token=False, row_layer=row_layer)
    free.load_state_dict(masked.state_dict())
    rows = _rows(columns)
    assert all(torch.equal(a, b) for a, b in zip(masked(rows), free(rows), strict=True))


@pytest.mark.parametrize("n_blocks", [1, 3])
@pytest.mark.parametrize("row_layer", ROW_LAYERS)
def test_the_pruned_last_layer_equals_the_full_one(row_layer, n_blocks):
    columns = _columns()
    network, rows = _network(columns, _tasks(2), row_layer=row_layer, n_blocks=n_blocks), _rows(columns)
    pruned = network(rows)
    gradients = torch.autograd.grad(sum(z.square().sum() for z in pruned), list(network.parameters()))
    n_tokens, network._n_task_tokens = network._n_tokens, network._n_tokens
    x = network._tokens(rows, None)
    full = network.heads(network._blocks(x)[:, :2])
    assert x.shape[1] == n_tokens
    full_gradients = torch.autograd.grad(sum(z.square().sum() for z in full), list(network.parameters()))
    for a, b in zip([*pruned, *gradients], [*full, *full_gradients], strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)


def test_batch_attention_depends_on_the_batch_and_says_so():
    columns = _columns()
    network = _network(columns, _tasks(2), row_layer="batch_attention").eval()
    assert network.batch_dependent is True
    assert not any(_network(columns, _tasks(2), row_layer=other).batch_dependent for other in INDEPENDENT)
    x = _rows(columns)
    gap = network(x)[0][:1] - network(x.map(lambda part: part[:1]))[0]
    assert gap.abs().item() > 1e-5


@pytest.mark.parametrize("row_layer", ["batch_attention", "inducing_attention"])
def test_queries_and_keys_between_rows_learn(row_layer):
    columns = _columns()
    network = _network(columns, _tasks(2), row_layer=row_layer)
    sum(z.square().sum() for z in network(_rows(columns))).backward()
    mix = network.row_layers[0].mix
    found = [mix.query.weight.grad]
    if row_layer == "batch_attention":
        found.append(mix.key_value.weight.grad[: mix.query.out_features])
    else:
        found += [mix.keys.grad, mix.values.grad]
    assert min(gradient.abs().max() for gradient in found) > 1e-8


@pytest.mark.parametrize("row_layer", ROW_LAYERS)
@pytest.mark.parametrize("embedding", ["linear", "piecewise", "periodic"])
@pytest.mark.parametrize("cardinalities, n_numeric", [((), 3), ((3, 10_000), 0), ((3,), 2)])
def test_edges_of_a_table(row_layer, embedding, cardinalities, n_numeric):
    columns = _columns(cardinalities, n_numeric)
    network = _network(columns, _tasks(1), row_layer=row_layer, numeric_embedding=embedding)
    codes = torch.ones(1, len(cardinalities), dtype=torch.int32)
    x = Features(numbers=torch.full((1, n_numeric), NAN), codes=codes)
    (scores,) = network(x)
    assert scores.shape == (1, 1)
    assert scores.isfinite().all()
    (unseen,) = network.eval()(x)
    (missing,) = network(replace(x, codes=codes - 1))
    assert bool(cardinalities) == (unseen != missing).item()


@pytest.mark.parametrize("multi_token", [True, False])
def test_scores_and_representation_have_their_shapes(multi_token):
    columns = _columns()
    network, rows = _network(columns, _tasks(2, 1), multi_token=multi_token), _rows(columns)
    assert [scores.shape for scores in network(rows)] == [(9, 1), (9, 1), (9, 5)]
    assert network.represent(rows).shape == (9, 48 if multi_token else 16)
    assert _shared_bottom(columns, _tasks(2, 1)).represent(rows).shape == (9, 128)


@pytest.mark.parametrize("multi_token", [True, False])
def test_task_per_row_equals_the_own_task_where_tasks_are_isolated(multi_token):
    columns, tasks, task = _columns(), _tasks(4), torch.randint(4, (9,))
    options = {"mask": "FxT_TxT", "row_layer": "none", "multi_token": multi_token}
    wide = _network(columns, tasks, **options)
    long = _network(columns, tasks, task_column="task", **options)
    long.load_state_dict(wide.state_dict())
    rows = _rows(columns)
    (own,) = long(rows, task)
    torch.testing.assert_close(own, torch.stack(wide(rows))[task, torch.arange(9)], atol=1e-5, rtol=1e-5)
    with pytest.raises(ValueError, match="task was not given"):
        long(rows)


@pytest.mark.parametrize("row_layer", ROW_LAYERS)
def test_training_in_bf16_stays_near_float32(row_layer):
    columns = _columns()
    network = _network(columns, _tasks(2, 1), row_layer=row_layer, dropout=0.1, attention_dropout=0.1)
    rows = _rows(columns)
    with torch.autocast("cpu", torch.bfloat16):
        sum(z.float().square().sum() for z in network(rows)).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())
    exact = torch.cat(network.eval()(rows), dim=1)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = torch.cat(network.train().eval()(rows), dim=1)
    assert (exact - rounded.float()).abs().max() < 0.03


def test_dropout_follows_the_seed_and_stops_in_eval():
    columns = _columns()
    network, rows = _network(columns, _tasks(2), dropout=0.5, attention_dropout=0.5), _rows(columns)
    torch.manual_seed(1)
    first = network(rows)[0]
    torch.manual_seed(1)
    assert torch.equal(network(rows)[0], first)
    assert not torch.equal(network(rows)[0], first)
    network.eval()
    assert torch.equal(network(rows)[0], network(rows)[0])


def test_scores_start_at_the_scale_of_standardised_targets():
    columns = _columns((), 32)
    scores = torch.cat(_network(columns, _tasks(7))(replace(_rows(columns, 500), numbers=torch.randn(500, 32))), dim=1)
    assert 0.01 < scores.std().item() < 2
    assert math.isfinite(scores.sum().item())
