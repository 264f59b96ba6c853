"""Threads as the ranks of a group whose values go over the wire of processes, and files read in small parts."""

from __future__ import annotations

from functools import partial

import pytest
from ranks import ThreadGroup
from ranks import run_ranks as run_threads

from tabmtl.scale import blocks, cache, windows
from tabmtl.scale.wire import pack, unpack


class WiredGroup(ThreadGroup):
    """A rank that is a thread, and sends what a process could."""

    pack, unpack = staticmethod(pack), staticmethod(partial(unpack, source="a thread"))


run_ranks = partial(run_threads, group=WiredGroup)


def read_small_parts(monkeypatch: pytest.MonkeyPatch, chunk_rows: int = 4) -> None:
    """Read 64 rows of shards at a time, and train in windows of a few."""
    monkeypatch.setattr(blocks, "BLOCK_ROWS", 64)
    monkeypatch.setattr(cache, "CHUNK_ROWS", chunk_rows)
    monkeypatch.setattr(windows, "_WINDOW_CHUNKS", 2)
