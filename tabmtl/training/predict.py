"""Scores and representations of many rows, in slices that do not depend on each other."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from tabmtl.schema import Batch

_PREDICT_ROWS = 1_024
_ROW_MULTIPLE = 8


@contextmanager
def autocast(batch: Batch, precision: str) -> Iterator[None]:
    """Compute matrix products in bfloat16 inside, if the precision is bf16."""
    with torch.autocast(batch.x_num.device.type, dtype=torch.bfloat16, enabled=precision == "bf16"):
        yield


def predict_scores(
    network: torch.nn.Module, data: Batch, precision: str = "float32", *, batch_size: int = _PREDICT_ROWS
) -> list[Tensor]:
    """Return raw scores of all rows, one tensor per task (long layout: one tensor), computed in slices.

    Where the rows of a batch depend on each other, at most ``batch_size`` rows meet: a slice is a batch.
    """
    parts = _in_slices(network, network, data, precision, batch_size)
    return [_joined(columns).float() for columns in zip(*parts, strict=True)]


def represent_rows(
    network: torch.nn.Module, data: Batch, precision: str = "float32", *, batch_size: int = _PREDICT_ROWS
) -> Tensor:
    """Return the shared representation (n, r) of all rows, computed in slices like `predict_scores`."""
    represent: Any = network.represent
    parts = _in_slices(network, lambda *inputs: [represent(*inputs)], data, precision, batch_size)
    return _joined([part for (part,) in parts]).float()


def _joined(parts: Sequence[Tensor]) -> Tensor:
    return torch.cat(list(parts)) if len(parts) > 1 else parts[0]


def _in_slices(
    network: torch.nn.Module, function: Callable[..., list[Tensor]], data: Batch, precision: str, batch_size: int
) -> list[list[Tensor]]:
    """Apply a function of the network to all rows, a few at a time.

    Every slice is filled up to a multiple of 8 rows: matrix products of fewer rows take other kernels, which round
    differently, so a row's scores would depend, by some 1e-6 of the scale, on the number of rows. Batches whose rows
    depend on each other are not filled up, but of about equal size, so that no row is left alone.
    """
    if network.training:
        network.eval()
    size, multiple = _PREDICT_ROWS, _ROW_MULTIPLE
    if network.batch_dependent:
        size, multiple = math.ceil(len(data) / math.ceil(len(data) / batch_size)), 1
    parts = []
    with torch.inference_mode(), autocast(data, precision):
        for start in range(0, len(data), size):
            n = min(size, len(data) - start)
            filled = torch.arange(start, start + n + -n % multiple, device=data.x_num.device).clamp_(max=len(data) - 1)
            inputs = (None if x is None else x.index_select(0, filled) for x in (data.x_num, data.x_cat, data.task))
            parts.append([answer[:n] for answer in function(*inputs)])
    return parts
