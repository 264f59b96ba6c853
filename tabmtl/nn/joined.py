"""Several networks of one form as one network, so that each layer of all of them is one product.

K networks with F columns and T tasks become one with K F columns and K T tasks. A row of it holds a row
of every network, side by side, and its parameters are those of all networks, one after the other along their first
axis. A linear layer becomes a batched product, so that K small networks take little more time than one, up to the size
at which the products themselves take the time.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tabmtl.nn.experts import Gates
from tabmtl.nn.layers import StackedLinear, Widened, shared_copy
from tabmtl.nn.sequences import SequenceEmbedding
from tabmtl.nn.task_network import TaskNetwork

if TYPE_CHECKING:
    from tabmtl.columns import Features

#: Outputs for which batched products on a CPU round a row by its place, where those of one layer do not.
_UNEVEN_OUTPUTS = (5, 6, 7, 9, 10, 11)


def can_join(network: nn.Module) -> bool:
    """Tell whether networks of this form can be joined, and then answer a row alike in any batch."""
    if not (isinstance(network, TaskNetwork) and network.is_joinable):
        return False
    for module in network.modules():
        if isinstance(module, SequenceEmbedding):  # it reads the table of another module
            return False
        if isinstance(module, nn.Linear) and module.out_features in _UNEVEN_OUTPUTS:
            return False
        if (isinstance(module, Gates) and not module.sees.all()) or (
            isinstance(module, nn.Embedding | nn.EmbeddingBag) and module.sparse
        ):
            return False
    return True


class JoinedNetworks:
    """K networks as one.

    Parameters
    ----------
    networks : sequence of Module
        Of one form: they differ in their weights only. They are left as they are.

    Attributes
    ----------
    network : Module
        The joined network. Its rows have the columns of all networks, those of the first one first, and it gives scores
        of K T tasks.
    n : int
        Number K of networks.

    Examples
    --------
    >>> import torch
    >>> from tabmtl import SharedBottom
    >>> from tabmtl.columns import Features
    >>> from tabmtl.base.schema import Columns
    >>> from tabmtl.targets import Task
    >>> columns = Columns(numeric=("a", "b"), categorical=(), levels=(), has_missing=(False, False), bins=((0, 1),) * 2)
    >>> networks = [SharedBottom()._network(columns, [Task(name="y", kind="regression")]) for _ in range(3)]
    >>> row = Features(numbers=torch.rand(1, 6), codes=torch.zeros(1, 0, dtype=torch.int32))
    >>> [score.shape[1] for score in JoinedNetworks(networks).network(row)]
    [1, 1, 1]
    """

    def __init__(self, networks: Sequence[nn.Module]) -> None:
        self.network, self.n = copy.deepcopy(networks[0]), len(networks)
        self._linear = [path for path, module in self.network.named_modules() if isinstance(module, nn.Linear)]
        for path in self._linear:
            parent, _, name = path.rpartition(".")
            own = getattr(self.network.get_submodule(parent), name)
            setattr(self.network.get_submodule(parent), name, StackedLinear(self.n, own.in_features, own.out_features))
        states = [self._stacked(network.state_dict()) for network in networks]
        self._set({name: torch.cat([state[name] for state in states]) for name in states[0]})
        self.network.train(networks[0].training)

    def _stacked(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the state of a network in the layout of the joined one; counts of batches are left out."""
        stacked = {name: tensor for name, tensor in state.items() if tensor.ndim}
        for path in self._linear:
            stacked[f"{path}.weight"] = state[f"{path}.weight"].mT[None]
            stacked[f"{path}.bias"] = state[f"{path}.bias"][None]
        return stacked

    def _set(self, state: Mapping[str, Tensor]) -> None:
        """Take the parameters and buffers of K networks."""
        for path, module in self.network.named_modules():
            own = chain(module.named_parameters(path, recurse=False), module.named_buffers(path, recurse=False))
            for name, tensor in own:
                if name in state:
                    tensor.data = state[name]
            if isinstance(module, Widened):
                module.widen(self.n)

    def _parts(self) -> dict[str, Tensor]:
        """Return views of parameters and buffers by network, (K, ...), in the joined layout."""
        state = self.network.state_dict()
        return {name: tensor.unflatten(0, (self.n, -1)) for name, tensor in state.items() if tensor.ndim}

    def keep(self, kept: Sequence[int]) -> None:
        """Leave some of the networks only, by their numbers."""
        state = {name: part[list(kept)].flatten(0, 1) for name, part in self._parts().items()}
        self.n = len(kept)
        self._set(state)

    def weights(self, number: int) -> dict[str, Tensor]:
        """Return the state of one of the networks, as its ``state_dict`` does; views of the joined weights."""
        state = dict(self.network.state_dict()) | {name: part[number] for name, part in self._parts().items()}
        for path in self._linear:
            state[f"{path}.weight"], state[f"{path}.bias"] = state[f"{path}.weight"][0].mT, state[f"{path}.bias"][0]
        return state

    def load(self, number: int, weights: Mapping[str, Tensor]) -> None:
        """Give one of the networks the weights of its ``state_dict``."""
        parts = self._parts()
        for name, tensor in self._stacked(weights).items():
            parts[name][number].copy_(tensor)


class FewRows(nn.Module):
    """Network of k members for few rows, whose products have B rows, and not k B.

    It takes B rows, of which the first B / k count: as many rows of every member are B rows.

    Parameters
    ----------
    network : SharedBottomNetwork
        Left as it is; its weights are shared.
    """

    batch_dependent = False

    def __init__(self, network: TaskNetwork) -> None:
        super().__init__()
        self._heads, self._n_members = network.heads, network.heads.n_members
        self._network = shared_copy(network)
        self._network.vector = _First(network.get_submodule("vector"), self._n_members)

    @staticmethod
    def suits(network: TaskNetwork, n_rows: int) -> bool:
        """Tell whether a network answers so many rows alike by products of 16."""
        return network.is_even and 1 < network.heads.n_members * n_rows <= 16 and not 16 % network.heads.n_members

    def forward(self, x: Features, task: Tensor | None = None) -> list[Tensor]:
        """Score rows as the network does; rows beyond the first B / k have no meaning."""
        z, n_rows = self._heads.represent(self._network.task_features(x)), len(x.numbers)
        z = z.unflatten(1, (self._n_members, -1))  # (T, k, B / k, hidden)
        # each member has last layers of its own, whose products need B rows too
        return self._heads.score(F.pad(z, (0, 0, 0, n_rows - z.shape[2])).flatten(1, 2))


class _First(nn.Module):
    """Vectors (K, k B, D) of k members for the first B / k rows only, (K, B, D)."""

    def __init__(self, vector: nn.Module, n_members: int) -> None:
        super().__init__()
        self._vector, self._n_members = vector, n_members

    def forward(self, x: Features) -> Tensor:
        vector = self._vector(x).unflatten(1, (self._n_members, -1))
        return vector[:, :, : vector.shape[2] // self._n_members].flatten(1, 2)
