"""Lanes: the elements of messages from device to device, without a way through the host's memory.

What the host must know of a message travels over gloo as ever; a lane carries the elements. The messages of
one group between two ranks run in order, and a receive holds up what is behind it until its sender sends. So
each direction has a group of its own, a receive starts when the host knows that the send has started, and it
starts on a stream that waits for no compute::

    rank 0   F1 ── copy ──► send on the lane to later ranks ── flags over gloo ──┐
    rank 1   ... the lane's stream: receive ◄────────────────── flags arrive ◄───┘   compute waits for it

A pair of ranks is connected when it first has a message, in an order that all ranks share: connecting blocks
both ends, and in two orders two pairs could wait for each other.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed import distributed_c10d as c10d

from autopipe.runtime.answered import answered

_TORCHS_HANDLING = "TORCH_NCCL_ASYNC_ERROR_HANDLING"
_CLEAN_UP_ONLY = "2"


@dataclass(frozen=True, slots=True)
class LaneKind:
    """What carries the elements.

    Args:
        place: The device among all of all hosts; ranks of one place have no lane between them, nor has a rank
            whose place is "".
        make: ``make(store, rank, n_ranks, patience)`` makes a group.
        runs_behind: Whether waiting for a message only makes the device's stream wait, not the host.
    """

    place: str = ""
    make: Callable[[Any, int, int, timedelta], Any] | None = None
    runs_behind: bool = False


def lane_kind(device: torch.device) -> LaneKind:
    """Return what can carry elements from and to a device: NCCL for CUDA, nothing for others."""
    if device.type != "cuda" or not dist.is_nccl_available():
        return LaneKind()
    uuid = torch.cuda.get_device_properties(device).uuid
    return LaneKind(f"{socket.gethostname()}/{uuid}", _nccl_group, runs_behind=True)


class Lanes:
    """The lanes of one rank.

    Args:
        kind: What carries the elements.
        device: Where the elements are.
        places: ``[n_ranks]`` the place of each rank's device.
        rank: This rank.
    """

    def __init__(self, kind: LaneKind, device: torch.device, places: Sequence[str], rank: int) -> None:
        """Find which ranks have lanes to which; nothing is connected."""
        self._kind, self._device, self._places, self._rank = kind, device, tuple(places), rank
        self._stream: torch.cuda.Stream | None = None
        if device.type == "cuda":
            self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._groups: list[Any] = []
        self._forget()

    def _forget(self) -> None:
        self._open: set[tuple[int, int]] = set()
        self._behind: list[tuple[int, Any]] = []

    def reaches(self, peer: int) -> bool:
        """Whether there is a lane between this rank and another."""
        return self._joins(self._rank, peer)

    def _joins(self, one: int, other: int) -> bool:
        places = self._places[one], self._places[other]
        return all(places) and places[0] != places[1]

    # Connecting

    def connect(self, store: Any, patience: timedelta) -> None:
        """Make the two groups; ``patience`` is how long a message may take."""
        self._patience = patience
        if self._kind.make is not None and any(map(self.reaches, range(len(self._places)))):
            for direction in ("later", "earlier"):
                own = c10d.PrefixStore(f"lanes to {direction} ranks", store)
                self._groups.append(self._kind.make(own, self._rank, len(self._places), patience))

    def open(self, pairs: Collection[tuple[int, int]]) -> None:
        """Connect pairs of ranks (from, to) that are not connected; every rank makes the same call."""
        for src, dst in sorted(set(pairs) - self._open):
            self._open.add((src, dst))
            if not self._joins(src, dst) or self._rank not in (src, dst):
                continue
            peer = dst if self._rank == src else src
            with answered(f"connecting to rank {peer}", [peer]), self._on_device():
                byte = torch.zeros(1, dtype=torch.uint8, device=self._device)
                group = self._group(src, dst)
                work = group.send([byte], dst, 0) if self._rank == src else group.recv([byte], src, 0)
                work.wait(self._patience)

    def abort(self) -> None:
        """Give up all messages, and let go of the groups."""
        for group in self._groups:
            with suppress(RuntimeError):
                group.abort()
        self._groups.clear()
        self._forget()

    # Carrying

    def send(self, elements: torch.Tensor, peer: int) -> Any:
        """Start to send bytes that lie on the device, after what the device does now; return the work."""
        with answered(f"a message to rank {peer}", [peer]), self._on_device():
            return self._group(self._rank, peer).send([elements], peer, 0)

    def receive(self, nbytes: int, peer: int, what: str) -> torch.Tensor:
        """Return the bytes of a message whose send has started; what the device does next waits for them."""
        with answered(what, [peer]):
            with self._aside():
                buffer = torch.empty(nbytes, dtype=torch.uint8, device=self._device)
                work = self._group(peer, self._rank).recv([buffer], peer, 0)
            with self._on_device():
                work.wait()
        if self._stream is not None:
            buffer.record_stream(torch.cuda.current_stream(self._device))
        if self._kind.runs_behind:
            self._behind.append((peer, work))
        return buffer

    def is_gone(self, work: Any) -> bool:
        """Whether what was sent may be let go, given that its receiver has begun to receive it."""
        return not self._kind.runs_behind or work.is_completed()

    def finish(self) -> None:
        """Wait until everything that was received is there: after that the device waits for no other rank."""
        for peer, work in self._behind:
            with answered(f"a message from rank {peer}", [peer]), self._on_device():
                work.wait(self._patience)
        self._behind.clear()

    def wait_gone(self, work: Any, peer: int) -> None:
        """Wait until what was sent is gone."""
        with answered(f"a message to rank {peer}", [peer]), self._on_device():
            work.wait(self._patience)

    def _group(self, src: int, dst: int) -> Any:
        return self._groups[0 if src < dst else 1]

    def _on_device(self) -> AbstractContextManager[Any]:
        return torch.cuda.device(self._device) if self._stream is not None else nullcontext()

    def _aside(self) -> AbstractContextManager[Any]:
        return torch.cuda.stream(self._stream) if self._stream is not None else nullcontext()


def _nccl_group(store: Any, rank: int, n_ranks: int, patience: timedelta) -> Any:
    options = dist.ProcessGroupNCCL.Options()
    options._timeout = patience
    options.global_ranks_in_group = list(range(n_ranks))
    options.group_name = "lanes of autopipe"  # type: ignore[assignment]  # a NewType of later torch
    with _variable(_TORCHS_HANDLING, _CLEAN_UP_ONLY):  # the default ends the process when a message is late
        return dist.ProcessGroupNCCL(store, rank, n_ranks, options)


@contextmanager
def _variable(name: str, value: str) -> Iterator[None]:
    """Set an environment variable for as long as a group reads it."""
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before
