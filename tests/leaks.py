"""Tensors, objects and memory that are alive, to be compared before and after fits."""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Callable

import torch

_FITS = 10
_WARMING_UP = 3
_SLACK = 50_000  # bytes; one tiny network a fit would be several times as much


class _Allocated(ctypes.Structure):
    """``struct mallinfo2`` of glibc."""

    _names = ("arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost")
    _fields_ = tuple((name, ctypes.c_size_t) for name in _names)


def allocated() -> int:
    """Bytes that malloc has given out and that are not freed, exactly; 0 where the C library does not count them."""
    mallinfo2 = getattr(ctypes.CDLL(None), "mallinfo2", None)
    if mallinfo2 is None:
        return 0
    mallinfo2.restype = _Allocated
    found = mallinfo2()
    return found.uordblks + found.hblkhd


def alive() -> tuple[int, int, int]:
    """How many tensors and objects the garbage collector knows, and the bytes in use."""
    gc.collect()
    objects = gc.get_objects()
    return sum(issubclass(type(found), torch.Tensor) for found in objects), len(objects), allocated()


def assert_nothing_stays(fit: Callable[[], object]) -> None:
    """Check that a fit leaves no tensor, no object and no memory."""
    gc.collect()
    gc.freeze()  # what there is already: to count and collect it takes seconds behind many other tests
    try:
        for _ in range(_WARMING_UP):
            fit()
        tensors, objects, memory = alive()
        for _ in range(_FITS):
            fit()
        tensors_now, objects_now, memory_now = alive()
    finally:
        gc.unfreeze()
    assert tensors_now == tensors
    assert objects_now < objects + _FITS
    assert memory_now < memory + _SLACK
