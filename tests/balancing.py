"""A small problem for the tests of balancing."""

import torch
from torch import nn

from tabmtl.nn.layers import MLP, Boundary, Dropout, TaskLinear, Towers
from tabmtl.targets import Task

N_TASKS = 3


class Network(nn.Module):
    def __init__(self, n_tasks, dropout=0.0, norm=False):
        super().__init__()
        self.trunk = MLP(5, (8, 6))
        self.norm = nn.BatchNorm1d(6) if norm else nn.Identity()
        self.dropout = Dropout(dropout)
        self.shared = Boundary()
        self.towers = Towers(6, [1] * n_tasks, hidden=16)

    def forward(self, x):
        return torch.cat(self.towers(self.shared(self.dropout(self.norm(self.trunk(x))))), dim=1)


class Problem:
    """A network, rows whose targets conflict and differ in scale, and their losses; NaN = unlabelled."""

    def __init__(self, n_tasks=2, **network):
        torch.manual_seed(0)
        self.tasks = [Task(name=f"t{t}", kind="regression") for t in range(n_tasks)]
        self.network = Network(n_tasks, **network)
        self.x = torch.randn(16, 5)
        signs = torch.tensor([1.0, -3.0, 0.5, 2.0])[:n_tasks]
        self.y = self.x[:, :1] * signs + 0.1 * torch.randn(16, n_tasks)

    def losses(self):
        labelled = ~self.y.isnan()
        rows = (self.network(self.x) - self.y.nan_to_num()).square()
        return torch.where(labelled, rows, 0.0).sum(dim=0) / len(self.x)

    @property
    def present(self):
        return (~self.y.isnan()).any(dim=0)

    def gradients(self, method, **options):
        """Flat gradient (shared, own) of one step."""
        self.network.zero_grad()
        self.start(method, **options).backward(self.losses, self.present)
        shared = torch.cat([p.grad.flatten() for p in self.network.trunk.parameters()])
        return shared, torch.cat([p.grad.flatten() for p in self.network.towers.parameters()])

    def start(self, method, *, is_long=False):
        return method.start(self.network, self.tasks, is_long=is_long)


class Mixture(nn.Module):
    """Experts on a trunk, gates that read the trunk too, towers; the boundary that runs last is registered first."""

    def __init__(self):
        super().__init__()
        self.after_experts, self.after_trunk = Boundary(), Boundary()
        self.experts = nn.ModuleList(MLP(8, (6,)) for _ in range(4))
        self.trunk = MLP(5, (8,))
        self.gates = TaskLinear(N_TASKS, 8, 4)
        self.towers = Towers(6, [1] * N_TASKS, hidden=4)

    def forward(self, x):
        x = self.after_trunk(self.trunk(x))
        experts = self.after_experts(torch.stack([expert(x) for expert in self.experts], dim=1))
        gates = self.gates(x.expand(N_TASKS, *x.shape)).softmax(dim=-1)
        return self.towers(torch.einsum("tbk,bkd->btd", gates, experts))


class OneCut(nn.Module):
    def __init__(self):
        super().__init__()
        self.trunk, self.shared, self.towers = MLP(5, (8, 6)), Boundary(), Towers(6, [1] * N_TASKS, hidden=4)

    def forward(self, x):
        return self.towers(self.shared(self.trunk(x)))


class Branches(OneCut):
    """Two boundaries side by side, which share what is below them; one boundary runs twice."""

    def forward(self, x):
        z = self.trunk(x)
        return self.towers(self.shared(z) * self.shared(z.tanh()))


def losses_of(network, x, y):
    return (torch.cat(network(x), dim=1) - y).square().mean(dim=0)


def data(dtype=torch.float64):
    return torch.randn(20, 5, dtype=dtype), torch.randn(20, N_TASKS, dtype=dtype)
