"""Limit on torch's memory and steps while a network is rebuilt from a file.

The hyper-parameters of a file set the size of its network, which is built before its weights are checked. So a file of
a kilobyte could ask for terabytes, or for layers without end.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from math import inf, prod
from typing import Any

import numpy as np

# bytes for masks and the like, and bytes of leftovers from building for every byte of weights
_SPARE, _TIMES = 2**30, 8
_FIRST_STEPS, _STEPS = 2_000, 50  # operations of torch, for every model and for every array of weights
_SMALL = 2**16  # values that need no planning: the operations are counted


def bounded(arrays: Sequence[Mapping[str, np.ndarray]], *, is_own: bool) -> AbstractContextManager[Any]:
    """Return a context that limits torch to the memory and the steps that networks with these weights need.

    Parameters
    ----------
    arrays : sequence of mappings of str to ndarray
        With the weights: the arrays of the model, and those of every part in it.
    is_own : bool
        Whether the model is one of this package. Another may take all the steps that its code wants.

    Raises
    ------
    ValueError
        At the first tensor, before it is made, that goes beyond.
    """
    if "torch" not in sys.modules:  # then there is no network either
        return nullcontext()
    n_bytes = _SPARE + _TIMES * sum(array.nbytes for own in arrays for array in own.values())
    n_steps = sum(_FIRST_STEPS + _STEPS * len(own) for own in arrays) if is_own else inf
    return _limit(n_bytes, n_steps)


def _limit(n_bytes: int, n_steps: float) -> Any:
    """Return a context that stands between torch and its operations."""
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils._pytree import tree_leaves, tree_map

    def planned(value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            return torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device="meta")
        return torch.device("meta") if isinstance(value, torch.device) else value

    def count_bytes(func: Any, args: Any, kwargs: Any) -> int:
        """Count the bytes of the result of an operation, if they can be many."""
        leaves = tree_leaves((args, kwargs))
        tensors = [leaf.numel() for leaf in leaves if isinstance(leaf, torch.Tensor)]
        numbers = [abs(leaf) for leaf in leaves if isinstance(leaf, int) and leaf]
        if func._schema.is_mutable or prod(tensors) * prod(numbers) <= _SMALL:
            return 0
        try:
            made = tree_leaves(func(*tree_map(planned, args), **tree_map(planned, kwargs)))
        except (NotImplementedError, RuntimeError):
            return 0  # it looks at values, and makes none
        return sum(leaf.numel() * leaf.element_size() for leaf in made if isinstance(leaf, torch.Tensor))

    class Limit(TorchDispatchMode):
        bytes_left, steps_left = n_bytes, n_steps

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            self.steps_left -= 1
            self.bytes_left -= count_bytes(func, args, kwargs or {})
            if self.bytes_left < 0 or self.steps_left < 0:
                most = f"{n_bytes} bytes" if self.bytes_left < 0 else f"{n_steps} operations of torch"
                raise ValueError(f"building its network takes more than {most}, far more than its weights need")
            return func(*args, **kwargs or {})

    return Limit()
