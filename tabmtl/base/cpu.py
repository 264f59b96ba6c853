"""CPU time of this process and of its children, those that still run among them."""

from __future__ import annotations

import os
from collections import defaultdict
from contextlib import suppress
from glob import iglob
from pathlib import Path

# of the words behind the name in /proc/<pid>/stat; the last two are those of children that have ended
_PARENT, _TIMES = 1, slice(11, 15)


def cpu_seconds() -> float:
    """Return the seconds of CPU that this process and its children have used so far.

    All threads count, and all children that have ended. Where there is a ``/proc``, as on Linux, children that run
    count too, and theirs: workers of joblib outlive the fit that they have worked for.
    """
    return sum(os.times()[:4]) + sum(_of_children().values())


def _of_children() -> dict[int, float]:
    """Return the seconds of all processes that descend from this one and have not been waited for."""
    if not hasattr(os, "sysconf"):
        return {}
    ticks = os.sysconf("SC_CLK_TCK")
    children, seconds = defaultdict(list), {}
    for file in iglob("/proc/[0-9]*/stat"):
        with suppress(OSError):  # it has ended
            # the name in brackets may hold anything
            words = Path(file).read_text(errors="replace").rpartition(")")[2].split()
            pid = int(file.split("/")[2])
            children[int(words[_PARENT])].append(pid)
            seconds[pid] = sum(map(int, words[_TIMES])) / ticks
    found, waiting = {}, [os.getpid()]
    while waiting:
        for pid in children[waiting.pop()]:
            found[pid] = seconds[pid]
            waiting.append(pid)
    return found
