"""Threads as the ranks of a group, so that what meets across processes is tested in one."""

from __future__ import annotations

import pickle
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import polars as pl
import torch

from tabmtl.base.ranks import EndedElsewhereError, Ranks
from tabmtl.training.device import unseeded
from tabmtl.training.run import entered

_PATIENCE = 60  # seconds


class _Meeting:
    def __init__(self, size: int) -> None:
        self.barrier = threading.Barrier(size)
        self.values: list[Any] = [None] * size


class ThreadGroup(Ranks):
    """A rank that is a thread; what the others gather are copies."""

    pack, unpack = staticmethod(pickle.dumps), staticmethod(pickle.loads)

    def __init__(self, rank: int, meeting: _Meeting) -> None:
        self.rank, self.size, self._meeting = rank, len(meeting.values), meeting

    def gather(self, value: Any, to: int | None = None) -> list[Any]:
        """Return the values of all ranks, to all or to one of them."""
        messages = self._meet(self.pack(value))
        return [self.unpack(message) for message in messages] if to in (None, self.rank) else []

    def sum(self, tensor: torch.Tensor) -> torch.Tensor:
        """Sum in the order of the ranks."""
        parts = self._meet(tensor.clone())
        assert len({part.shape for part in parts}) == 1, [part.shape for part in parts]
        return tensor.copy_(torch.stack(parts).sum(dim=0))

    def _meet(self, value: Any) -> list[Any]:
        with unseeded():  # a rank that waits must not hold torch's generators
            self._meeting.values[self.rank] = value
            self._meeting.barrier.wait(_PATIENCE)
            values = list(self._meeting.values)
            self._meeting.barrier.wait(_PATIENCE)
        return values


def answers(model: Any, X: pl.DataFrame) -> np.ndarray:
    """Return all values and probabilities of rows: (n, outputs)."""
    return np.concatenate([np.asarray(part, dtype=float).reshape(len(X), -1) for part in model.__answers__(X)], 1)


def assert_same_weights(one: Any, other: Any, atol: float) -> None:
    """Compare the weights of two networks, but for a bias of keys, whose true gradient is 0."""
    for name in [name for name in one.weights_ if "qkv.bias" not in name]:
        np.testing.assert_allclose(other.weights_[name], one.weights_[name], rtol=0, atol=atol, err_msg=name)


def run_ranks(size: int, work: Callable[[], Any], group: type[ThreadGroup] = ThreadGroup) -> list[Any]:
    """Run work on every rank of a group; return the results by rank, or raise the first error."""
    meeting = _Meeting(size)
    results: list[Any] = [None] * size
    errors: list[BaseException] = []

    def run(rank: int) -> None:
        try:
            with entered(group(rank, meeting)):
                results[rank] = work()
        except EndedElsewhereError as error:
            errors.append(error)  # rank 0, which may not have left the meeting yet, raises its own
        except BaseException as error:
            errors.append(error)
            meeting.barrier.abort()

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:  # those that waited for the one that failed come after it, or say nothing of it
        silent = threading.BrokenBarrierError, EndedElsewhereError
        raise next((error for error in errors if not isinstance(error, silent)), errors[0])
    return results
