"""Weights of trained networks: as arrays, and as the module that is built of them once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self
from weakref import WeakKeyDictionary

import numpy as np
import torch

from tabmtl.training.device import seeded

Weights = Mapping[str, np.ndarray]

#: Modules of trained networks. They live as long as these; no pickle has them.
_modules: WeakKeyDictionary[TrainedNetwork, Any] = WeakKeyDictionary()


@dataclass(frozen=True, kw_only=True, eq=False)
class TrainedNetwork:
    """Network as it was trained, frozen; pickles and deep copies hold its weights, and build its module anew.

    A module is built at the first answer, and moved where answers are computed.

    Attributes
    ----------
    maker : estimator
        Unfitted, with the parameters of fit; it builds networks.
    weights : mapping of str to ndarray
    """

    maker: Any
    weights: Weights

    @classmethod
    def of(cls, network: torch.nn.Module, **facts: Any) -> Self:
        """Return a network that has just been trained, given what its weights do not tell."""
        return cls(weights=weight_arrays(network.state_dict()), **facts).holding(network)

    def holding(self, network: torch.nn.Module) -> Self:
        """Keep a module that has these weights; return self."""
        _modules[self] = network.eval()
        return self

    def module(self, device: torch.device | None = None) -> Any:
        """Return the module, built once, on a device or where it is."""
        if self not in _modules:
            with seeded(0, torch.device("cpu")):  # which one thread does at a time, a training among them
                if self not in _modules:
                    _modules[self] = self._rebuilt()
        network = _modules[self]
        return network if device in (None, next(network.parameters()).device) else network.to(device)

    def _rebuilt(self) -> Any:
        """Build the module of the weights, ready to predict; weights that do not fit are an error."""
        raise NotImplementedError


def weight_arrays(weights: Mapping[str, torch.Tensor]) -> dict[str, np.ndarray]:
    """Return the state of a network as arrays."""
    return {name: tensor.detach().cpu().numpy() for name, tensor in weights.items()}


def load_weights(network: torch.nn.Module, weights: Mapping[str, np.ndarray]) -> torch.nn.Module:
    """Load copies of fitted weights into a network, and make it ready to predict."""
    network.load_state_dict({name: torch.tensor(array) for name, array in weights.items()})
    return network.eval()
