"""Fits that are over leave nothing behind: no tensor, no object, no memory."""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Callable

import pytest
import torch
from cases import quick
from conformance import ESTIMATORS, features, targets_for, tiny

_FITS = 10
_WARMING_UP = 3
_SLACK = 50_000  # bytes; one tiny network a fit would be several times as much
#: Checked by `make test`: a plain network, and trees; the others have their training in common with these.
_QUICK = ("SharedBottom", "SharedTrees")


@pytest.fixture(autouse=True, scope="module")
def _others_apart():
    """Count and collect no object that there is already, which takes seconds behind many other tests."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


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
    for _ in range(_WARMING_UP):
        fit()
    tensors, objects, memory = alive()
    for _ in range(_FITS):
        fit()
    tensors_now, objects_now, memory_now = alive()
    assert tensors_now == tensors
    assert objects_now < objects + _FITS
    assert memory_now < memory + _SLACK


@pytest.mark.parametrize("cls", quick([cls for cls in ESTIMATORS if cls._target_kind is None], *_QUICK))
def test_a_fit_leaves_nothing_behind(cls):
    X = features(40)
    y = targets_for(cls, X)
    assert_nothing_stays(lambda: tiny(cls, epochs=1).fit(X, y).predict(X))


@pytest.mark.parametrize("make", [lambda: torch.zeros(1), lambda: [[]], lambda: bytes(10_000)])
def test_what_stays_is_seen(make):
    held = []
    with pytest.raises(AssertionError):
        assert_nothing_stays(lambda: held.append(make()))
