"""Where and how torch computes: device, seeds and threads."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from numbers import Integral

import torch
from joblib import effective_n_jobs

_PARAMETERS_PER_THREAD = 100_000  # smaller networks lose more to the hand-over than a second thread gains


def find_device(device: str) -> torch.device:
    """The device of a name; "auto" is a GPU if torch sees one, else the CPU.

    Raises
    ------
    ValueError
        If torch knows no such device, or cannot compute on it here.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        found = torch.device(device)
    except (RuntimeError, TypeError) as error:
        expected = "'auto', 'cpu', 'cuda', or another name that torch has for a device, such as 'cuda:1'"
        raise ValueError(f"device must be {expected}, got {device!r}") from error
    if found.type != "cpu":
        _check_there(found)
    return found


def _check_there(device: torch.device) -> None:
    try:
        torch.empty(0, device=device)
    except (AssertionError, ImportError, RuntimeError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise ValueError(
            f"torch cannot compute on device={str(device)!r} here ({reason}): say device='auto' or 'cpu'"
        ) from error


def check_jobs(n_jobs: int | None) -> None:
    """Raise a ValueError for what scikit-learn does not take for a number of threads."""
    if n_jobs is not None and (not isinstance(n_jobs, Integral) or isinstance(n_jobs, bool) or n_jobs == 0):
        raise ValueError(f"n_jobs must be None or a whole number other than 0, such as -1 for all, got {n_jobs!r}")


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Seed torch's generators inside, and leave them outside as they were."""
    with torch.random.fork_rng(devices=[] if device.type == "cpu" else [device], device_type=device.type):
        torch.manual_seed(seed)
        yield


@contextmanager
def threads(n_jobs: int | None, network: torch.nn.Module) -> Iterator[None]:
    """Set torch's threads inside, and leave them outside as they were."""
    before = wanted = torch.get_num_threads()
    if n_jobs is not None:
        check_jobs(n_jobs)
        wanted = effective_n_jobs(n_jobs)
    elif before > 1:  # counting parameters takes as long as a tenth of a small network
        size = sum(parameter.numel() for parameter in network.parameters())
        wanted = min(before, max(1, size // _PARAMETERS_PER_THREAD))
    torch.set_num_threads(wanted)
    try:
        yield
    finally:
        torch.set_num_threads(before)
