"""Operators of torch that ONNX lacks, by others that it has: those that read lists of any length.

onnxscript has translations of some, but with a loop over all lists, or with a matrix of all lists by all entries. That
of `index_add` is ONNX's ScatterND, whose kernel of onnxruntime loses summands of one row on several threads.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode


class ListOperators(TorchFunctionMode):
    """Context in which operators that read lists are computed by others."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Sequence[type], args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        """Call a function, or what takes its place."""
        return _INSTEAD.get(func, func)(*args, **kwargs or {})


def repeat(x: Tensor, repeats: Tensor, dim: int = 0, *, output_size: int) -> Tensor:
    """Repeat the items of an axis, each its own number of times."""
    ends = repeats.cumsum(0)
    # an entry belongs to the item of which all items before it have ended
    ended = ends.new_zeros(output_size + 1).scatter_add(0, ends, torch.ones_like(ends))
    return x.index_select(dim, ended.cumsum(0)[:output_size])


def sum_bags(
    codes: Tensor, table: Tensor, offsets: Tensor, *, per_sample_weights: Tensor, mode: str, **of_gradients: Any
) -> Tensor:
    """Add the rows of a table by their weights: for each bag a difference of two sums of all rows so far.

    These are of float64, so that a bag loses no digit of float32 to those before it.
    """
    rows = table.index_select(0, codes) * per_sample_weights[:, None]
    so_far = F.pad(rows.double(), (0, 0, 1, 0)).cumsum(0)
    ends = torch.cat([offsets[1:], offsets.new_full((1,), codes.shape[0])])
    return (so_far.index_select(0, ends) - so_far.index_select(0, offsets)).to(table.dtype)


def add_rows(x: Tensor, dim: int, index: Tensor, source: Tensor) -> Tensor:
    """Add rows to those of x that an index names, as often as it does."""
    if dim != 0:  # columns, each once
        return x.index_add(dim, index, source)
    return x.scatter_add(0, index.view(-1, *(1,) * (source.ndim - 1)).expand_as(source), source)


_INSTEAD: dict[Any, Callable[..., Any]] = {
    Tensor.repeat_interleave: repeat,
    F.embedding_bag: sum_bags,
    Tensor.index_add: add_rows,
}
