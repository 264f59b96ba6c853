"""Memory that a fit may still take."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

_CGROUP = Path("/sys/fs/cgroup")


def free_memory() -> int | None:
    """Return the bytes that this process may still take, or None where nobody says.

    On Linux that is what the machine can give, or the container that the process runs in, pages of files among it; on
    other systems of POSIX all memory of the machine.

    Examples
    --------
    >>> free = free_memory()
    >>> free is None or free > 0
    True
    """
    found = []
    with suppress(OSError, ValueError, IndexError):
        words = Path("/proc/meminfo").read_text().partition("MemAvailable:")[2].split()
        found.append(int(words[0]) * 1024)
    with suppress(OSError, ValueError, IndexError):  # a container without a limit says "max"
        anonymous = (_CGROUP / "memory.stat").read_text().partition("anon ")[2].split()
        found.append(max(int((_CGROUP / "memory.max").read_text()) - int(anonymous[0]), 0))
    if not found and hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        found.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    return min(found, default=None)
