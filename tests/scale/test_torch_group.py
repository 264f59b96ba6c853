"""Process groups that somebody else has started, and what they listen on."""

import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from unittest.mock import Mock

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
def test_a_group_that_stands_is_used():
    with joined() as found:
        assert (found.rank, found.size, found.gather({"a": 1})) == (0, 1, [{"a": 1}])


@pytest.mark.usefixtures("group")
def test_a_group_for_gpus_alone_is_refused(monkeypatch):
    monkeypatch.setattr(dist, "get_backend_config", lambda: "cuda:nccl")
    with pytest.raises(ValueError, match=r"backends 'cuda:nccl', none for .*init_process_group\('cpu:gloo,cuda:nccl'"):
        joined().__enter__()


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


JOB = """
import os, signal, sys
from pathlib import Path

import torch.distributed as dist

from tabmtl.scale import joined


class Harm:
    def __reduce__(self):
        return os.mkdir, (sys.argv[1] + "/harm",)


def listening():
    own = {os.readlink(entry) for entry in Path("/proc/self/fd").iterdir() if entry.is_symlink()}
    lines = [line.split() for kind in ("tcp", "tcp6") for line in open(f"/proc/net/{kind}")][1:]
    return {line[1].partition(":")[0] for line in lines if line[3] == "0A" and f"socket:[{line[9]}]" in own}


with joined(timeout=120) as group:
    print("listens on", *group.gather(sorted(listening()))[0], *listening(), flush=True)
    if group.rank == 0:
        try:
            group.gather("of rank 0")
        except ValueError as error:
            print(error, flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
    try:
        dist.all_gather_object([None, None], Harm())
    except Exception:
        pass  # it cannot read JSON
    group.gather("to nobody")
"""


@pytest.mark.all_faces
@pytest.mark.skipif(sys.platform != "linux", reason="reads the sockets in /proc")
def test_two_processes_keep_to_their_machine_run_no_pickle_and_tell_of_a_lost_rank_0(tmp_path):
    (tmp_path / "job.py").write_text(JOB)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    ranks = []
    for rank in ("0", "1"):
        place = {"RANK": rank, "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        command = [sys.executable, str(tmp_path / "job.py"), str(tmp_path)]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        ranks.append(subprocess.Popen(command, env=os.environ | place, **pipes))
    (told, _), (_, lost) = [rank.communicate(timeout=120) for rank in ranks]
    first, second = told.splitlines()
    assert first == "listens on 0100007F 0100007F"
    assert re.match(r"rank 1 of the group sent no message of tabmtl, but \d+ bytes that begin with b'\\x80\\x0", second)
    assert not (tmp_path / "harm").exists()
    assert "another process of the group has ended, perhaps killed" in lost
    assert [rank.returncode for rank in ranks] == [-signal.SIGKILL, 1]


def test_gloo_listens_where_the_master_does(monkeypatch):
    monkeypatch.delenv("GLOO_SOCKET_IFNAME", raising=False)
    monkeypatch.setattr(socket, "if_nameindex", lambda: [(1, "lo"), (2, "eth0")])
    masters = {"localhost": "lo", "127.0.0.2": "lo", "192.0.2.1": None, "no.such.host.invalid": None, "shop": None}
    for master, expected in masters.items():
        with torch_group._gloo_beside(master):
            assert os.environ.get("GLOO_SOCKET_IFNAME") == expected
        assert "GLOO_SOCKET_IFNAME" not in os.environ
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "eth0")
    with torch_group._gloo_beside("localhost"):
        assert os.environ["GLOO_SOCKET_IFNAME"] == "eth0"
    assert os.environ["GLOO_SOCKET_IFNAME"] == "eth0"


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("192.0.2.77", "is no address of this machine, but 192.0.2.77, so rank 0 listens on all"),
        ("127.0.1.1", "leads to 127.0.1.1 on this machine, where other machines cannot reach it, so"),
    ],
)
def test_a_master_behind_another_address_is_told(monkeypatch, address, said):
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: [(socket.AF_INET, 1, 6, "", (address, 0))])
    with (
        pytest.warns(UserWarning, match=re.escape(f"MASTER_ADDR=shop {said}")),
        torch_group._listener("shop", 0) as listener,
    ):
        assert listener.getsockname()[0] == "0.0.0.0"
    monkeypatch.undo()
    with torch_group._listener("localhost", 0) as listener:
        assert torch_group.is_loopback(listener.getsockname()[0])


@pytest.mark.parametrize(("asked", "expected"), [(None, sys.platform != "win32"), ("0", False), ("1", True)])
def test_a_store_uses_libuv_where_torch_would(monkeypatch, asked, expected):
    store = Mock()
    monkeypatch.setattr(dist, "TCPStore", store)
    be_rank(monkeypatch, "0", "1", "0")
    monkeypatch.delenv("TORCHELASTIC_USE_AGENT_STORE", raising=False)
    monkeypatch.delenv("USE_LIBUV", raising=False)
    if asked is not None:
        monkeypatch.setenv("USE_LIBUV", asked)
    torch_group._open_store(0, 1.0)
    os.close(store.call_args.kwargs["master_listen_fd"])
    assert store.call_args.kwargs["use_libuv"] is expected


def test_a_message_of_impossible_length_is_told(monkeypatch):
    group = torch_group.TorchRanks.__new__(torch_group.TorchRanks)
    group.rank, group.size = 0, 2
    monkeypatch.setattr(dist, "all_gather", lambda parts, own: (parts[0].copy_(own), parts[1].fill_(2**50)))
    with pytest.raises(ValueError, match=r"rank 1 of the group announces a message of 1125899906842624 bytes"):
        group.gather("a")


def be_rank(monkeypatch, rank, size, port):
    """Set what a launcher tells a process."""
    place = {"RANK": rank, "WORLD_SIZE": size, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    for name, value in place.items():
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize(
    ("error", "cure"),
    [
        (
            RuntimeError("[gloo/transport/tcp/pair.cc:538] Connection closed by peer"),
            "start the job again",
        ),
        (RuntimeError("Socket recv error, Connection reset by peer (code: 104)"), "start the job again"),
        (RuntimeError("[gloo] Timed out waiting 6000ms for recv operation to complete"), "give it more seconds"),
        (RuntimeError("could not reach the storage: Connection refused"), None),
        (KeyError("mine"), "start the job again"),  # where the store is gone
    ],
)
def test_what_to_do_where_another_process_is_gone_or_late(error, cure, monkeypatch):
    be_rank(monkeypatch, "0", "1", "0")
    if isinstance(error, KeyError):
        monkeypatch.setattr(torch_group, "_first_to_fail", lambda store, rank: None)
    with pytest.raises(type(error)) as caught, joined(timeout=30):
        raise error
    assert caught.value is error
    assert [cure in note for note in getattr(error, "__notes__", [])] == ([True] if cure else [])


def test_a_rank_that_finds_no_other_says_where_they_meet(monkeypatch):
    be_rank(monkeypatch, "1", "2", "9")

    def fail(rank, timeout):
        raise dist.DistNetworkError("The client socket has timed out")

    monkeypatch.setattr(torch_group, "_open_store", fail)
    with pytest.raises(dist.DistNetworkError) as caught:
        joined(timeout=1).__enter__()
    assert caught.value.__notes__[0].startswith("the processes meet at MASTER_ADDR=127.0.0.1, MASTER_PORT=9: look at")
