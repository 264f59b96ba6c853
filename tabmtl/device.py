"""Where and how torch computes: device, seeds and threads."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from joblib import effective_n_jobs

_PARAMETERS_PER_THREAD = 100_000  # smaller networks lose more to the hand-over than a second thread gains


def find_device(device: str) -> torch.device:
    """The device of a name; "auto" is a GPU if torch sees one, else the CPU."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(device)


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Seed torch's generators inside, and leave them outside as they were."""
    with torch.random.fork_rng(devices=[] if device.type == "cpu" else [device], device_type=device.type):
        torch.manual_seed(seed)
        yield


@contextmanager
def threads(n_jobs: int | None, network: torch.nn.Module) -> Iterator[None]:
    """Set torch's threads inside, and leave them outside as they were."""
    before = torch.get_num_threads()
    size = sum(parameter.numel() for parameter in network.parameters())
    by_size = min(before, max(1, size // _PARAMETERS_PER_THREAD))
    torch.set_num_threads(by_size if n_jobs is None else effective_n_jobs(n_jobs))
    try:
        yield
    finally:
        torch.set_num_threads(before)
