"""Processes that fit one model together, started by ``torchrun`` or by another launcher of torch's process groups."""

from __future__ import annotations

import errno
import logging
import os
import secrets
import socket
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from datetime import timedelta
from ipaddress import ip_address
from os import PathLike
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from tabmtl.base.ranks import ALONE, EndedElsewhereError, Ranks
from tabmtl.base.schema import warn_user
from tabmtl.scale.wire import pack, unpack
from tabmtl.training.run import entered

_GLOO = "GLOO_SOCKET_IFNAME"  # names the network that gloo listens on
_BACKLOG = 4_096  # processes that may come at once
_POLL = 0.02  # seconds
_MOST_BYTES = 2**40  # of a message, more than any machine holds
_SMALL = 2**16  # bytes; 10 Gbit/s send them while a message is on its way, some 50 microseconds
_LIBUV = "0" if sys.platform == "win32" else "1"  # torch's own default of USE_LIBUV
_LOST = (
    "another process of the group has ended, perhaps killed: look at the end of its output, and start the job again; "
    "fits with a checkpoint go on after their last epoch"
)
_CURES = {  # of what gloo says where another process is gone, or late
    "Connection closed by peer": _LOST,
    "Connection reset by peer": _LOST,
    "Timed out waiting": "another process takes longer than joined(timeout=...) allows: give it more seconds",
}
_FAILED = "failed"  # the key under which the first rank that fails leaves its number

logger = logging.getLogger(__name__)


class TorchRanks(Ranks):
    """The default process group of `torch.distributed`.

    Raises
    ------
    ValueError
        If it has no backend for tensors of a CPU.
    """

    def __init__(self) -> None:
        self.rank, self.size = dist.get_rank(), dist.get_world_size()
        backends = dist.get_backend_config()
        if "cpu:" not in backends:
            raise ValueError(
                f"the process group that stands has the backends {backends!r}, none for what meets on CPUs: start it "
                "by init_process_group('cpu:gloo,cuda:nccl'), or leave starting it to joined()"
            )

    def gather(self, value: Any, to: int | None = None) -> list[Any]:
        """Return the values of all ranks, to all or to one of them."""
        own = torch.from_numpy(pack(value))
        sizes = self._sizes(len(own))
        if to is None and max(sizes) > _SMALL:  # one by one, so that none is filled up
            messages = [own if rank == self.rank else own.new_empty(size) for rank, size in enumerate(sizes)]
            for rank, message in enumerate(messages):
                dist.broadcast(message, src=rank)
            return [_read(message, rank) for rank, message in enumerate(messages)]
        # of one length, that of the longest
        parts = list(own.new_empty((self.size, max(sizes)))) if to in (None, self.rank) else []
        sent = own.new_zeros(max(sizes))
        sent[: len(own)] = own
        if to is None:
            dist.all_gather(parts, sent)
        else:
            dist.gather(sent, parts or None, dst=to)
        return [_read(part[:size], rank) for rank, (part, size) in enumerate(zip(parts, sizes, strict=False))]

    def _sizes(self, own: int) -> list[int]:
        """Return the lengths of the messages of all ranks."""
        parts = list(torch.empty((self.size, 1), dtype=torch.int64))
        dist.all_gather(parts, torch.tensor([own]))
        sizes = [int(part) for part in parts]
        for rank, size in enumerate(sizes):
            if not 0 <= size <= _MOST_BYTES:
                raise ValueError(
                    f"rank {rank} of the group announces a message of {size} bytes, and the longest has {_MOST_BYTES}; "
                    "run one version of tabmtl in all processes, and let nobody else reach their ports"
                )
        return sizes

    def sum(self, tensor: Tensor) -> Tensor:
        """Replace a tensor by its sum over all ranks.

        A large one goes twice round the ring of ranks, in parts. Of a small one all get all parts, in one round, and
        add them in the order of the ranks, which gives the same bits on every kind of processor.
        """
        if not (tensor.is_cpu and tensor.nbytes <= _SMALL):
            dist.all_reduce(tensor)
            return tensor
        own = tensor.detach()
        first, *others = parts = list(own.new_empty((self.size, *own.shape)))
        dist.all_gather(parts, own.contiguous())
        own.copy_(first)
        for part in others:
            own.add_(part)
        return tensor


def _read(message: Tensor, rank: int) -> Any:
    return unpack(message.numpy(), f"rank {rank} of the group")


@contextmanager
def joined(*, timeout: float = 600.0, checkpoint: str | PathLike[str] | None = None) -> Iterator[Ranks]:
    """Let fits on `tabmtl.scale.Shards` inside share their work with the other processes that a launcher has started.

    Every process runs the same lines. Each reads, encodes and trains on its share of the rows. Sums are taken over all
    processes, so every process ends with the same model, which equals the model of one process up to rounding. A script
    without a launcher, and so without ``RANK`` in its environment, fits alone.

    An existing group of `torch.distributed` is used as it is. Otherwise one is made, with gloo on CPUs. If torch sees
    GPUs, the group has nccl too, and each process takes the GPU of its ``LOCAL_RANK``.

    Parameters
    ----------
    timeout : float, default=600.0
        Seconds that a process waits for the others before it gives up. No process may need more time for its share of
        the rows between two sums.
    checkpoint : str or path, optional
        Folder for checkpoints, which belongs to one job. By default there are none, and a job that was cut off begins
        anew. Every network that is fitted inside leaves a checkpoint after each epoch: from `Shards` in any number of
        processes, from a frame in one. Trials of `tabmtl.tuning.run_study` leave none. A job that is started again goes
        on from its checkpoints, also with another number of processes; with the same number, it ends with the same
        model, bit for bit. Rank 0 reads and writes the folder, and empties it when all fits have succeeded.

    Yields
    ------
    ranks : Ranks
        Processes, with the attributes ``rank``, from 0, and ``size``. ``gather(value)`` returns the values of all
        ranks, made of plain values, lists, tuples, dicts, arrays of numbers and frames of polars. Save the model on
        rank 0.

    Raises
    ------
    SystemExit
        If another process has failed first, with the exit code 1. Read the error of that process.
    ValueError
        If the process group that stands cannot sum on CPUs, or, from a fit, if a checkpoint is of another training.

    Notes
    -----
    Processes send each other JSON and arrays, never pickles. Messages are neither encrypted nor authenticated, so ports
    belong on a private network. The store of rank 0 listens on the address of ``MASTER_ADDR`` alone, if this is
    ``localhost``, or an address of its machine that others reach too.

    Start as many processes as there are CPUs or GPUs, with one thread each (``torchrun`` sets ``OMP_NUM_THREADS=1``)::

        torchrun --nproc-per-node 8 job.py

    Examples
    --------
    >>> from tabmtl.scale import joined
    >>> with joined() as ranks:
    ...     print(ranks.rank, ranks.size)
    0 1
    """
    found: AbstractContextManager[Ranks] = nullcontext(ALONE)
    if dist.is_available() and dist.is_initialized():
        found = nullcontext(TorchRanks())
    elif "RANK" in os.environ:
        found = _started(timeout)
    with found as group, entered(group, None if checkpoint is None else Path(checkpoint)):
        yield group


@contextmanager
def _started(timeout: float) -> Iterator[Ranks]:
    """Start the process group that the environment describes, and end it; of several errors, show the first."""
    rank, size, master = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]), os.environ["MASTER_ADDR"]
    backend = "gloo"
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", 0)))
        backend = "cpu:gloo,cuda:nccl"
    limit = timedelta(seconds=timeout)
    try:
        store = _own_part(_open_store(rank, timeout), rank, size, timeout)
        with _gloo_beside(master):
            dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=limit)
    except (OSError, RuntimeError) as error:
        error.add_note(
            f"the processes meet at MASTER_ADDR={master}, MASTER_PORT={os.environ['MASTER_PORT']}: look at the output "
            "of rank 0, and whether the others reach it there"
        )
        raise
    try:
        yield TorchRanks()
    except EndedElsewhereError:
        with suppress(RuntimeError):
            store.wait([_FAILED])  # a launcher may end rank 0 when this process ends, before its error is shown
        raise SystemExit(1) from None
    except Exception as error:
        first = _first_to_fail(store, rank)
        if first not in (rank, None):
            logger.debug("rank %d stops, because rank %d has failed: %s", rank, first, error)
            raise SystemExit(1) from None
        cures = {cure for words, cure in _CURES.items() if words in str(error)}
        for cure in cures | ({_LOST} if first is None else set()):
            error.add_note(cure)
        raise
    finally:
        with suppress(RuntimeError):  # its connections may be broken
            dist.destroy_process_group()


def _open_store(rank: int, timeout: float) -> Any:
    """Open the store of the launcher, or else that of rank 0, which listens on the address of MASTER_ADDR alone."""
    limit = timedelta(seconds=timeout)
    if rank or os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
        store, _, _ = next(dist.rendezvous("env://", timeout=limit))
    else:
        host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        with _listener(host, port) as listener:  # torch's own would listen on all addresses
            port = listener.getsockname()[1]
            store = dist.TCPStore(
                host,
                port,
                is_master=True,
                timeout=limit,
                multi_tenant=True,
                master_listen_fd=listener.detach(),
                use_libuv=os.environ.get("USE_LIBUV", _LIBUV) == "1",
            )
    store.set_timeout(limit)
    return store


def _listener(host: str, port: int) -> socket.socket:
    """Listen on the address of a host, or on all if it is none of this machine, or one that others cannot reach."""
    family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    found = f"is no address of this machine, but {address[0]}"
    if is_loopback(str(address[0])) and not is_loopback(host):
        found = f"leads to {address[0]} on this machine, where other machines cannot reach it"
    else:
        try:
            return socket.create_server(address[:2], family=family, backlog=_BACKLOG)
        except OSError as error:
            if error.errno != errno.EADDRNOTAVAIL:
                raise
    warn_user(
        f"MASTER_ADDR={host} {found}, so rank 0 listens on all addresses; set it to the address of rank 0, or, if all "
        "ranks are on this machine, to localhost"
    )
    return socket.create_server(("", port), backlog=_BACKLOG)


def is_loopback(host: str) -> bool:
    """Return whether a host says by itself that it is this machine; a name may lead there on its own machine alone."""
    with suppress(ValueError):
        return ip_address(host).is_loopback
    return host == "localhost"


@contextmanager
def _gloo_beside(master: str) -> Iterator[None]:
    """Let gloo listen on this machine alone if the master does; otherwise it takes the address of the host's name."""
    interfaces = {name for _, name in socket.if_nameindex()} & {"lo", "lo0"}
    if _GLOO in os.environ or not is_loopback(master) or not interfaces:
        yield
        return
    os.environ[_GLOO] = interfaces.pop()
    try:
        yield
    finally:
        del os.environ[_GLOO]


def _own_part(store: Any, rank: int, size: int, timeout: float) -> Any:
    """Return the part of a store that is of this start of the job alone.

    The store of torchrun outlives a restart, and gloo would find the addresses of processes that are gone (issue 135712
    of pytorch; counts of restarts differ from machine to machine). So each process greets with a word of its own, and
    rank 0 answers every word that it finds with the name of the part, until all who have greeted just now are in.
    """
    word = f"tabmtl/{secrets.token_hex(8)}"
    if rank:
        store.set(f"tabmtl/rank {rank}", word)
        name = store.get(word).decode()  # waits for it
        store.set(f"{name}/rank {rank}", "")
        return dist.PrefixStore(name, store)
    missing, end = set(range(1, size)), monotonic() + timeout
    while missing:
        if monotonic() > end:
            raise TimeoutError(
                f"{len(missing)} of {size} processes have not joined within timeout={timeout:g} seconds, such as rank "
                f"{min(missing)}; look at its output, or give more time"
            )
        for other in sorted(missing):
            if store.check([f"{word}/rank {other}"]):
                missing.remove(other)
            elif store.check([f"tabmtl/rank {other}"]):
                store.set(store.get(f"tabmtl/rank {other}").decode(), word)
        sleep(_POLL)
    return dist.PrefixStore(word, store)


def _first_to_fail(store: Any, rank: int) -> int | None:
    """Return the rank that failed first, this one if none has before; None if the process with the store is gone."""
    try:
        return int(store.compare_set(_FAILED, "", str(rank)))
    except (RuntimeError, ValueError):
        return None
