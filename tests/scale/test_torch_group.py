"""Process groups that somebody else has started, and the addresses of their ranks."""

from __future__ import annotations

import re
import threading
import time

import pytest
import torch.distributed as dist

from tabmtl.scale import joined, torch_group


@pytest.fixture
def group(tmp_path, monkeypatch):
    """A group of one that knows no master."""
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    monkeypatch.delenv("RANK", raising=False)
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.usefixtures("group")
def test_a_group_without_a_master_has_addresses(monkeypatch):
    with joined() as found:
        assert (found.rank, found.size, found.broadcast({"a": 1})) == (0, 1, {"a": 1})
        assert found.address() == "127.0.0.1"
        monkeypatch.setenv("MASTER_ADDR", "localhost")
        assert found.address() == "127.0.0.1"
        monkeypatch.setattr(torch_group, "_own_address", lambda other: None)
        with pytest.raises(OSError, match=r"no address .* \(rank 0\): set MASTER_ADDR to the address of rank 0"):
            found.address()


@pytest.mark.usefixtures("group")
def test_a_group_for_gpus_alone_is_refused(monkeypatch):
    monkeypatch.setattr(dist, "get_backend_config", lambda: "cuda:nccl")
    with pytest.raises(ValueError, match=r"backends 'cuda:nccl', none for .*init_process_group\('cpu:gloo,cuda:nccl'"):
        joined().__enter__()


def test_hosts_find_the_way_to_each_other(monkeypatch):
    ways = {"10.0.0.2": "10.0.0.1", "10.0.0.1": "10.0.0.2"}
    monkeypatch.setattr(torch_group, "_own_address", ways.get)
    assert torch_group._address_among([("a", "10.0.0.1"), ("a", "10.0.0.1")], 0) == "127.0.0.1"
    two = [("a", "10.0.0.1"), ("a", "10.0.0.1"), ("b", "10.0.0.2")]
    assert [torch_group._address_among(two, rank) for rank in range(3)] == ["10.0.0.1", "10.0.0.1", "10.0.0.2"]
    containers = [("localhost", "10.0.0.1"), ("localhost", "10.0.0.2")]
    assert torch_group._address_among(containers, 1) == "10.0.0.2"
    assert torch_group._address_among([("a", None), ("b", None)], 0) is None


def test_a_store_that_outlives_a_restart_tells_nothing_old():
    store = dist.HashStore()
    for _ in range(2):
        parts = {}
        ranks = [
            threading.Thread(
                target=lambda r=rank, parts=parts: parts.setdefault(r, torch_group._own_part(store, r, 3, 30))
            )
            for rank in (1, 0, 2)
        ]
        for rank in ranks:
            rank.start()
            time.sleep(0.05)
        for rank in ranks:
            rank.join()
        assert not parts[1].check(["address"])
        parts[0].set("address", "here")
        assert parts[1].get("address") == parts[2].get("address") == b"here"
    with pytest.raises(TimeoutError, match=r"2 of 3 processes have not joined within timeout=0\.05 .* such as rank 1"):
        torch_group._own_part(store, 0, 3, 0.05)


@pytest.mark.parametrize(
    ("said", "cure"),
    [
        ("[gloo/transport/tcp/pair.cc:538] Connection closed by peer [127.0.0.1]:23456", "start the job again"),
        ("Socket recv error, Connection reset by peer (code: 104)", "start the job again"),
        ("[gloo] Timed out waiting 6000ms for recv operation to complete", "give it more seconds"),
        ("could not reach the storage: Connection refused", None),
    ],
)
def test_what_to_do_where_another_process_is_gone_or_late(said, cure, monkeypatch):
    for name, value in {"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(RuntimeError, match=re.escape(said)) as caught, joined(timeout=30):
        raise RuntimeError(said)
    assert [cure in note for note in getattr(caught.value, "__notes__", [])] == ([True] if cure else [])
