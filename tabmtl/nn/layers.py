"""Torch blocks that two or more networks use, from features to scores. B is the rows, T the tasks."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Dropout(nn.Module):
    """Dropout with masks cut from random bytes, several times cheaper on a CPU than Bernoulli draws.

    The rate is rounded to a multiple of 1/256 and kept values are scaled by the rounded rate, so the mean is
    exactly that of the input. Masks come from torch's default generator. Identity in eval mode.

    Parameters
    ----------
    p : float, default=0.0
        Share of values set to zero, in [0, 1).

    Raises
    ------
    ValueError
        If p is outside [0, 1).

    Examples
    --------
    >>> import torch
    >>> Dropout(0.5)(torch.ones(4)).unique().numel() <= 2
    True
    """

    def __init__(self, p: float = 0.0) -> None:
        super().__init__()
        if not 0 <= p < 1:
            raise ValueError(f"dropout must be at least 0 and below 1, got {p!r}")
        self.p = p
        self._dropped = min(round(256 * p) or int(p > 0), 255)

    def forward(self, x: Tensor) -> Tensor:
        """Drop values of x, of any shape, in training."""
        if not self.training or self._dropped == 0:
            return x
        if x.device.type != "cpu":
            return F.dropout(x, self.p)
        # random_() without bounds never sets the sign bit: every eighth byte would be biased.
        words = torch.empty(-(-x.numel() // 8), dtype=torch.int64).random_(-(2**63), None)
        bytes_ = words.view(torch.uint8)[: x.numel()].view(x.shape)
        # a mask of x's own type needs no cast
        kept = torch.ge(bytes_, self._dropped, out=torch.empty(x.shape, dtype=x.dtype))
        return x * kept.mul_(256 / (256 - self._dropped))

    def extra_repr(self) -> str:
        """Show the rate in the printed module."""
        return f"p={self.p}"


class MLP(nn.Sequential):
    """Linear layers, each followed by ReLU and dropout.

    Parameters
    ----------
    d_in : int
        Width of the input.
    hidden : sequence of int
        Width of each layer; the last one is the width of the output.
    dropout : float, default=0.0
        Share of values dropped after each layer.
    """

    def __init__(self, d_in: int, hidden: Sequence[int], *, dropout: float = 0.0) -> None:
        layers: list[nn.Module] = []
        for before, after in pairwise((d_in, *hidden)):
            layers += [nn.Linear(before, after), nn.ReLU(), Dropout(dropout)]
        super().__init__(*layers)


class Boundary(nn.Module):
    """End of the parameters that tasks share: a tensor passes through unchanged, such as a row's vector.

    Gradient balancing (:mod:`tabmtl.training.balance`) sets ``cut``. Then the output is a leaf that receives every
    task's gradient, and the balanced gradient goes on from the input.
    """

    def __init__(self) -> None:
        super().__init__()
        self.cut = False

    def forward(self, x: Tensor) -> Tensor:
        """Return x, or a leaf with its values where the graph is cut."""
        return x.detach().requires_grad_() if self.cut else x


class StackedLinear(nn.Module):
    """Several linear layers of equal shape, as one batched matrix product.

    Parameters
    ----------
    n_layers, d_in, d_out : int
        Number of layers, and width of the input and the output of each.
    """

    def __init__(self, n_layers: int, d_in: int, d_out: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(n_layers, d_in, d_out))
        self.bias = nn.Parameter(torch.empty(n_layers, d_out))
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -(d_in**-0.5), d_in**-0.5)

    def forward(self, x: Tensor) -> Tensor:
        """Apply layer i to x[i] of (n_layers, B, d_in)."""
        return torch.baddbmm(self.bias[:, None], x, self.weight)


class TaskLinear(StackedLinear):
    """One linear layer per task, for layers that the loss of their own task alone reaches.

    Where other tasks read what a layer gives, as in a cross-stitch network, it is a `StackedLinear`.
    """

    task_specific = True  # gradient balancing leaves its parameters to their own tasks

    def forward(self, x: Tensor, task: Tensor | None = None) -> Tensor:
        """Apply layer t to x[t] of (T, B, d_in), or layer task[b] to row b of (B, d_in)."""
        if task is None:
            return super().forward(x)
        weight, bias = self.weight.index_select(0, task), self.bias.index_select(0, task)
        return torch.baddbmm(bias[:, None], x[:, None], weight)[:, 0]


class Towers(nn.Module):
    """The heads of all tasks, each Linear(d_in, hidden), ReLU, dropout, Linear(hidden, width).

    Tasks of equal width share a batched product, so no head is padded.

    Parameters
    ----------
    d_in : int
        Width of the features.
    widths : sequence of int
        Number of scores of each task.
    hidden : int or None, default=64
        Width of the hidden layer; 0 or None leaves one linear layer per task.
    dropout : float, default=0.0
        Share of hidden values dropped in training.

    Examples
    --------
    >>> import torch
    >>> [scores.shape[1] for scores in Towers(8, [1, 5])(torch.zeros(3, 8))]
    [1, 5]
    """

    def __init__(self, d_in: int, widths: Sequence[int], *, hidden: int | None = 64, dropout: float = 0.0) -> None:
        super().__init__()
        self.n_tasks = len(widths)
        self.hidden = TaskLinear(self.n_tasks, d_in, hidden) if hidden else None
        self.dropout = Dropout(dropout)
        self._groups = [[t for t, w in enumerate(widths) if w == width] for width in sorted(set(widths))]
        self.out = nn.ModuleList(TaskLinear(len(group), hidden or d_in, widths[group[0]]) for group in self._groups)

    def forward(self, z: Tensor, task: Tensor | None = None) -> list[Tensor]:
        """Score features shared by all tasks (B, d_in) or each task's own (B, T, d_in).

        Parameters
        ----------
        z : Tensor of shape (B, d_in) or (B, T, d_in)
            Features; (B, d_in) where ``task`` is given.
        task : Tensor of shape (B,), optional
            Task of each row. All tasks then have one width.

        Returns
        -------
        list of Tensor
            (B, width) per task, in task order; with ``task``, one tensor that holds each row's own scores.
        """
        if task is not None:
            if self.hidden is not None:
                z = self.dropout(F.relu(self.hidden(z, task)))
            return [self.out[0](z, task)]
        z = z.transpose(0, 1) if z.ndim == 3 else z.expand(self.n_tasks, *z.shape)  # (T, B, d_in)
        if self.hidden is not None:
            z = self.dropout(F.relu(self.hidden(z)))
        scores: dict[int, Tensor] = {}
        for group, layer in zip(self._groups, self.out, strict=True):
            own = z if len(group) == self.n_tasks else torch.stack([z[t] for t in group])
            scores.update(zip(group, layer(own).unbind(), strict=True))
        return [scores[t] for t in range(self.n_tasks)]
