"""Threads that begin at once."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

N_THREADS = 4
PATIENCE = 60  # seconds until a thread counts as one that waits for ever


def in_threads(work: Callable[[], Any]) -> list[Any]:
    """What threads give that begin at once."""
    begin = threading.Barrier(N_THREADS)

    def run(_: int) -> Any:
        begin.wait(PATIENCE)
        return work()

    with ThreadPoolExecutor(N_THREADS) as pool:
        return list(pool.map(run, range(N_THREADS), timeout=PATIENCE))
