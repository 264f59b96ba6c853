"""Scores and representations of many rows, in slices that do not depend on each other."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from tabmtl.base.schema import Batch
from tabmtl.nn.sequences import weigh_entries
from tabmtl.training.losses import BLOCK

_PREDICT_ROWS = 1_024
_ROW_MULTIPLE = 8
_MOST_CELLS = 1_000_000  # rows times columns of a pass: embeddings of quantiles have 48 numbers a cell
_WATCHED_ROWS = 136  # a number that no other axis is likely to have
_LEAST_ROWS = 16  # for fewer, MKL takes another kernel on processors with AMX
_LEAST_PRODUCT = 400  # multiplications; for fewer, torch's batched products on CPUs take another kernel
_UNEVEN = {f"aten::{name}" for name in ("sigmoid", "silu", "mish", "softplus", "pow", "exp2", "logaddexp")}  # see BLOCK


def autocast(batch: Batch, precision: str) -> AbstractContextManager[Any]:
    """Compute matrix products in bfloat16 inside, if the precision is bf16."""
    return torch.autocast(batch.x.numbers.device.type, dtype=torch.bfloat16, enabled=precision == "bf16")


def predict_scores(
    network: torch.nn.Module,
    data: Batch,
    precision: str = "float32",
    *,
    batch_size: int = _PREDICT_ROWS,
    link: Callable[[list[Tensor]], list[Tensor]] | None = None,
    slice_rows: int = _PREDICT_ROWS,
) -> list[Tensor]:
    """Return scores of all rows, one tensor per task (long layout: one tensor), computed in slices.

    They are raw scores, or what ``link`` makes of those of a slice. Where the rows of a batch depend on each other, at
    most ``batch_size`` rows meet: a slice is a batch.
    """
    function: Any = network if link is None else lambda *inputs: link(network(*inputs))
    return _in_slices(network, function, data, precision, batch_size, slice_rows=slice_rows)


def represent_rows(
    network: torch.nn.Module,
    data: Batch,
    precision: str = "float32",
    *,
    batch_size: int = _PREDICT_ROWS,
    fill: bool = True,
) -> Tensor:
    """Return the shared representation (n, r) of all rows, computed in slices like `predict_scores`.

    Without ``fill``, the network sees the rows and nothing else, at the price of their last bits.
    """
    represent: Any = network.represent
    (features,) = _in_slices(network, lambda *inputs: [represent(*inputs)], data, precision, batch_size, fill=fill)
    return features


def apply_rows(
    network: torch.nn.Module,
    function: Callable[..., list[Tensor]],
    data: Batch,
    precision: str = "float32",
    *,
    batch_size: int = _PREDICT_ROWS,
) -> list[Tensor]:
    """Return what ``function(x, task)`` computes of all rows by a network, in slices like `predict_scores`."""
    return _in_slices(network, function, data, precision, batch_size)


def weigh_sequences(
    network: torch.nn.Module, data: Batch, precision: str = "float32", *, batch_size: int = _PREDICT_ROWS
) -> list[Tensor]:
    """Return the weights of the entries of all rows, (m,) on the CPU for every column of sequences."""
    network.eval()
    slices = [slice(start, start + batch_size) for start in range(0, max(len(data), 1), batch_size)]
    with torch.inference_mode(), autocast(data, precision):
        parts = [weigh_entries(network, data.x.rows(rows)) for rows in slices]
    return [torch.cat(own).float().cpu() for own in zip(*parts, strict=True)]


def _in_slices(
    network: torch.nn.Module,
    function: Callable[..., list[Tensor]],
    data: Batch,
    precision: str,
    batch_size: int,
    *,
    fill: bool = True,
    slice_rows: int = _PREDICT_ROWS,
) -> list[Tensor]:
    """Apply a function of the network to all rows, a few at a time; return its answers in float32.

    Slices are filled up to a multiple of 8 rows, 16 at least, and more where the network needs them: for fewer rows
    torch takes other kernels, which round differently, so a row's scores would depend, by some 1e-6 of the scale, on
    the number of rows. Batches whose rows depend on each other are not filled up, but of about equal size, so that no
    row is left alone.
    """
    if network.training:
        network.eval()
    size, fill, n_rows = min(slice_rows, rows_at_once(data)), fill and not network.batch_dependent, len(data)
    if network.batch_dependent:
        size = math.ceil(n_rows / math.ceil(n_rows / batch_size))
    parts = []
    with torch.inference_mode(), autocast(data, precision):
        least, spare = _rows_needed(network, data) if fill else (0, 0)
        for start in range(0, n_rows, size):
            n = min(size, n_rows - start)
            filled = max(n + spare, least)
            rows = _rows(data, n_rows, start, filled + (-filled % _ROW_MULTIPLE if fill else 0))
            parts.append([answer[:n] for answer in function(rows.x, rows.task)])
    return [(torch.cat(columns) if len(parts) > 1 else columns[0]).float() for columns in zip(*parts, strict=True)]


def rows_at_once(data: Batch) -> int:
    """Return the most rows of a pass without gradients, which of a wide table are fewer to spare memory."""
    n_columns = data.x.numbers.shape[1] + data.x.codes.shape[1]
    return max(_MOST_CELLS // max(n_columns, 1) // _ROW_MULTIPLE * _ROW_MULTIPLE, _WATCHED_ROWS)


def _rows(data: Batch, n_rows: int, start: int, n: int) -> Batch:
    """Return the inputs of n of all rows; past the end, the last row is repeated."""
    index = torch.arange(start, start + n, device=data.x.numbers.device).clamp_(max=n_rows - 1)
    return Batch(x=data.x, task=data.task).rows(index)


def _rows_needed(network: torch.nn.Module, data: Batch) -> tuple[int, int]:
    """Return the least rows of a slice, and the rows to append, so that no kernel rounds a row by its place."""
    if network not in _needed:
        with _Kernels() as kernels:
            if data.x.numbers.device.type == "cpu":
                rows = _rows(data, len(data), 0, _WATCHED_ROWS)
                network(rows.x, rows.task)
        _needed[network] = kernels.least, kernels.spare
    return _needed[network]


_needed: WeakKeyDictionary[torch.nn.Module, tuple[int, int]] = WeakKeyDictionary()


class _Kernels(TorchDispatchMode):
    """Watch the kernels that compute `_WATCHED_ROWS` rows, and find the answer of `_rows_needed`."""

    least, spare = _LEAST_ROWS, 0

    @classmethod  # a private switch of torch: 2.13 asks it, 2.6 did not
    def _should_skip_dynamo(cls) -> bool:
        """Leave `__torch_dispatch__` as it is: to wrap it, torch loads its compiler, which takes two seconds."""
        return False

    def __torch_dispatch__(self, kernel: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = kernel(*args, **(kwargs or {}))
        name = kernel._schema.name.rstrip("_")
        if name in ("aten::bmm", "aten::baddbmm"):
            (_, m, k), (_, _, n) = (factor.shape for factor in args[-2:])
            if m % _WATCHED_ROWS == 0 or n % _WATCHED_ROWS == 0:
                self.least = max(self.least, math.ceil(_LEAST_PRODUCT * _WATCHED_ROWS / (m * k * n)))
        elif name in _UNEVEN:
            for size, stride in zip(result.shape, result.stride(), strict=True):
                if size % _WATCHED_ROWS == 0:
                    self.spare = max(self.spare, math.ceil((BLOCK - 1) / stride))
        return result
