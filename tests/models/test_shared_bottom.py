"""SharedBottom: one trunk for all tasks, and heads that see nothing else."""

import torch
from small_network import TASKS, n_parameters, network_of, rows

from tabmtl.models.shared_bottom import SharedBottom
from tabmtl.targets import Task


def network(tasks=TASKS, **params):
    sizes = {"hidden": (16, 8), "head_hidden": 4, "d_embedding": 3, "numeric_embedding": "linear", "dropout": 0.0}
    return network_of(SharedBottom(**sizes | params), tasks)


def test_scores_have_the_width_of_their_task():
    assert [score.shape for score in network()(rows())] == [(6, 1), (6, 3), (6, 1)]
    assert network().represent(rows()).shape == (6, 8)


def test_parameters_are_those_of_the_layers():
    tokens = 5 * 3 + 2 * 2 * 3 + 3  # embeddings of 5 codes, two linear ones of numbers, one vector for missing
    trunk = (9 * 16 + 16) + (16 * 8 + 8)
    heads = 3 * (8 * 4 + 4) + (4 + 1) * (1 + 3 + 1)
    assert n_parameters(network()) == tokens + trunk + heads


def test_heads_read_the_shared_representation_alone():
    model = network()
    direct = model(rows())
    for score, again in zip(direct, model.heads(model.represent(rows())), strict=True):
        assert torch.equal(score, again)


def test_a_row_with_its_task_gets_the_score_of_that_task():
    tasks = [Task(name=f"t{t}", kind="regression") for t in range(3)]
    model = network(tasks)
    own = torch.tensor([0, 1, 2, 2, 1, 0])
    wide = torch.cat(model(rows()), dim=1)
    (long,) = model(rows(), own)
    torch.testing.assert_close(long[:, 0], wide[torch.arange(6), own])


def test_every_task_moves_the_trunk():
    for t in range(3):
        model = network()
        model(rows())[t].sum().backward()
        assert model.trunk[0].weight.grad.abs().sum() > 0
