"""Device, seeds and threads of torch."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Annotated, Any

import numpy as np
import torch
from torch import Tensor

from tabmtl.base.forks import count_threads, is_forked
from tabmtl.base.params import check_jobs
from tabmtl.base.schema import Batch

_PARAMETERS_PER_THREAD = 100_000  # smaller networks lose more to the hand-over than a second thread gains


class _Turn(threading.local):
    """Turn of a thread to draw from torch's generators, which belong to the whole process.

    ``outside`` holds the states of the generators outside of the turn; None while this thread has no turn.
    """

    outside: list[Tensor] | None = None
    device = torch.device("cpu")
    door, room = threading.Lock(), threading.Lock()  # of all threads

    def begin(self, device: torch.device) -> None:
        with self.door:  # so whoever waits comes before a thread that only gives way
            self.room.acquire()
        try:
            self.outside, self.device = generator_states(device), device
        except BaseException:
            self.room.release()
            raise

    def end(self) -> None:
        if self.outside is not None:  # else an interrupt came while `unseeded` waited for the room
            set_generator_states(self.outside, self.device)
            self.outside = None
            self.room.release()

    def renew(self) -> None:
        """Open, in a forked process, the locks that other threads of the parent held."""
        if self.outside is None:
            type(self).door, type(self).room = threading.Lock(), threading.Lock()


_turn = _Turn()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_turn.renew)
_inside: list[tuple[int, int, int]] = []  # who is inside of `threads`: its ident, its number of threads, that outside


def check_device(name: str, value: Any) -> None:
    """Raise a ValueError unless torch has a device of this name."""
    try:
        torch.device("cpu" if str(value) == "auto" else value)
    except (RuntimeError, TypeError) as error:
        expected = "'auto', 'cpu', 'cuda', or another name that torch has for a device, such as 'cuda:1'"
        raise ValueError(f"{name} must be {expected}, got {value!r}") from error


Device = Annotated[str, check_device]


def find_device(device: str) -> torch.device:
    """Find the device of a name; "auto" is a GPU if torch sees one, else the CPU.

    Raises
    ------
    ValueError
        If torch knows no such device, or cannot compute on it here.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    check_device("device", device)
    found = torch.device(device)
    try:
        torch.empty(0, device=found)
    except (AssertionError, ImportError, RuntimeError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise ValueError(f"torch cannot compute on {device=} here ({reason}): say device='auto' or 'cpu'") from error
    return found


def on_device(batch: Batch, device: torch.device) -> Batch:
    """Return a batch of arrays as tensors."""
    return batch.map(lambda array: torch.from_numpy(array).to(device))


def has_bfloat16(device: torch.device) -> bool:
    """Say whether a device is a CPU that multiplies matrices of bfloat16 in hardware (AMX or AVX512-BF16)."""
    return device.type == "cpu" and (torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported())


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Seed torch's generators inside, and leave them outside as they were.

    One thread at a time is inside; others wait. Long work inside calls `give_way`, and calls code of the user, which
    may wait for other threads, in `unseeded`.
    """
    if _turn.outside is not None:
        with torch.random.fork_rng(devices=[] if device.type == "cpu" else [device], device_type=device.type):
            torch.manual_seed(seed)
            yield
        return
    _turn.begin(device)
    try:
        torch.manual_seed(seed)
        yield
    finally:
        _turn.end()


@contextmanager
def unseeded() -> Iterator[None]:
    """Hand torch's generators back for a while, inside of `seeded`: to the caller, and to waiting threads."""
    if _turn.outside is None:
        yield
        return
    device, inside = _turn.device, generator_states(_turn.device)
    _turn.end()
    try:
        yield
    finally:
        _turn.begin(device)
        set_generator_states(inside, device)


def seed_of(*numbers: int) -> int:
    """Return a seed for torch from a seed and the numbers of what it is for."""
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])


def give_way() -> None:
    """Let a thread that waits for `seeded` have its turn now."""
    if _turn.door.locked():
        with unseeded():
            pass


def generator_states(device: torch.device) -> list[Tensor]:
    """Return the states of torch's generators, that of the CPU and that of another device."""
    states = [torch.get_rng_state()]
    if device.type != "cpu":
        states.append(torch.get_device_module(device).get_rng_state(device))
    return states


def set_generator_states(states: Sequence[Tensor], device: torch.device) -> None:
    """Set the states of torch's generators; those of a CPU alone leave another device as it is."""
    torch.set_rng_state(states[0])
    if device.type != "cpu" and len(states) > 1:
        torch.get_device_module(device).set_rng_state(states[1], device)


@contextmanager
def threads(n_jobs: int | None, network: torch.nn.Module) -> Iterator[None]:
    """Set torch's threads inside, and leave them outside as they were.

    A thread of Python that is new to torch begins with the number that was set last, in whichever thread. Where that is
    the number inside of another thread, the number outside of it counts. A forked process is left with one thread.
    """
    if n_jobs is not None:
        check_jobs("n_jobs", n_jobs)
    ident, inside = threading.get_ident(), tuple(_inside)
    now = usual = wanted = 1
    if not is_forked():
        now = torch.get_num_threads()
        usual = wanted = next((outside for _, number, outside in inside if number == now), now)
    after = now if any(ident == other for other, _, _ in inside) else usual
    if n_jobs is not None:
        wanted = count_threads(n_jobs)
    elif usual > 1:  # counting parameters takes as long as a tenth of a small network
        size = sum(parameter.numel() for parameter in network.parameters())
        wanted = min(usual, max(1, size // _PARAMETERS_PER_THREAD))
    mine = (ident, wanted, usual)
    _inside.append(mine)
    torch.set_num_threads(wanted)
    try:
        yield
    finally:
        _inside.remove(mine)
        torch.set_num_threads(after)
