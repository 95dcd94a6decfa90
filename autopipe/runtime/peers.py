"""The ranks of an engine: they find each other in a store, are connected by gloo, and fail together.

The connections are the engine's own: the user's process group gives its store and its ranks, and carries
nothing. After a failure all ranks close them; the next call connects anew, as another *generation*.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed import distributed_c10d as c10d

from autopipe.errors import ArgumentError, AutopipeError, EngineError, PlanMismatchError
from autopipe.runtime.answered import answered
from autopipe.runtime.first_cause import FirstCause, PeerLost
from autopipe.runtime.interfaces import check_interfaces
from autopipe.runtime.lanes import Lanes

_POLL_S = 0.002
_GRACE = 0.1  # share of the timeout that is kept for finding out who was lost
_LONGEST_GRACE_S = 2.0
_NEVER_SENT = 99  # a tag
_N_TITLE, _N_DATA = 32, 64  # bytes of a small exchange


class Peers:
    """The ranks that run the stages of one engine.

    Args:
        group: The user's process group.
        n_ranks: How many ranks the plan has.
        timeout_s: After how long a rank that does not answer counts as lost.

    Raises:
        ArgumentError: If the group is of another size, or this process is not in it.
    """

    def __init__(self, group: dist.ProcessGroup, n_ranks: int, timeout_s: float) -> None:
        """Take a number in the store of the group; nobody is waited for."""
        self.rank, self.n_ranks = _checked_rank(group, n_ranks), n_ranks
        self._grace_s = min(_LONGEST_GRACE_S, _GRACE * timeout_s)
        self._patience = timedelta(seconds=timeout_s - self._grace_s)
        store = c10d._get_process_group_store(group)
        number = store.add(f"autopipe/engines of {self.rank}", 1)
        self._store = c10d.PrefixStore(f"autopipe/{number}", store)
        self._generation = -1
        self._gloo: Any = None
        self._lanes: Lanes | None = None
        self._renew()

    # Finding each other

    def introduce(self, record: bytes, topic: str) -> list[bytes]:
        """Exchange a record with every rank, before there are connections.

        Args:
            record: What this rank says of itself.
            topic: What it is about; once a generation.

        Returns:
            ``[n_ranks]`` what each says.

        Raises:
            AutopipeError: The first cause, if a rank fails or does not come in time.
        """
        self._here.set(f"{topic}/{self.rank}", record)  # type: ignore[arg-type] # bytes are stored as they are
        deadline = time.monotonic() + self._patience.total_seconds()
        keys = [f"{topic}/{rank}" for rank in range(self.n_ranks)]
        while not self._here.check(keys):
            if (cause := self._cause.find()) is not None:
                raise cause
            if time.monotonic() > deadline:
                absent = [rank for rank, key in enumerate(keys) if not self._here.check([key])]
                raise self._cause.claim(_never_came(absent, self._patience))
            time.sleep(_POLL_S)
        return [self._here.get(key) for key in keys]

    def connect(self) -> None:
        """Connect all ranks, if they are not connected."""
        if self._gloo is not None:
            return
        check_interfaces()
        self.introduce(b"", "here")
        with answered("connecting", range(self.n_ranks)):
            self._gloo = dist.ProcessGroupGloo(self._here, self.rank, self.n_ranks, self._patience)
            if self._lanes is not None:
                self._lanes.connect(self._here, self._patience)

    def use(self, lanes: Lanes) -> None:
        """Take lanes to connect, and to give up, together with the rest."""
        self._lanes = lanes

    @property
    def are_connected(self) -> bool:
        """Whether there are connections."""
        return self._gloo is not None

    def _renew(self) -> None:
        self._generation += 1
        self._here = c10d.PrefixStore(str(self._generation), self._store)
        self._cause = FirstCause(self._here, self.rank, self.n_ranks)

    # Talking

    def gather(self, data: bytes, what: str) -> list[bytes]:
        """Exchange a few bytes with every rank.

        Args:
            data: Of this rank, at most 64 bytes.
            what: What this is for; every rank must be at the same.

        Returns:
            ``[n_ranks]`` of 64 bytes each.

        Raises:
            PlanMismatchError: On every rank, if ranks make different calls.
            PeerLost: If a rank does not answer.
        """
        title = what.encode()[:_N_TITLE].ljust(_N_TITLE, b"\0")
        answers = self._gather(title + data.ljust(_N_DATA, b"\0"), what)
        titles = [answer[:_N_TITLE].rstrip(b"\0").decode() for answer in answers]
        other = next((rank for rank, each in enumerate(titles) if each != titles[0]), None)
        if other is not None:
            raise PlanMismatchError(
                "the ranks make different calls.",
                f"rank 0 is at {titles[0]}, rank {other} at {titles[other]}.",
                remedy="the same calls, in the same order, on every rank",
            )
        return [answer[_N_TITLE:] for answer in answers]

    def gather_any(self, data: bytes, what: str) -> list[bytes]:
        """Exchange bytes with every rank, of any length."""
        answers = self.gather(len(data).to_bytes(8, "little"), what)
        lengths = [int.from_bytes(answer[:8], "little") for answer in answers]
        padded = self._gather(data.ljust(max(lengths), b"\0"), what)
        return [each[:length] for each, length in zip(padded, lengths, strict=True)]

    def _gather(self, data: bytes, what: str) -> list[bytes]:
        """Exchange equally many bytes with every rank."""
        mine = torch.frombuffer(bytearray(data), dtype=torch.uint8)
        everybodys = [torch.empty_like(mine) for _ in range(self.n_ranks)]
        others = [rank for rank in range(self.n_ranks) if rank != self.rank]
        with answered(what, others):
            self._gloo.allgather([everybodys], [mine]).wait(self._patience)
        return [each.numpy().tobytes() for each in everybodys]

    def send(self, buffer: torch.Tensor, peer: int, tag: int) -> Callable[[], None]:
        """Start to send bytes; the function returned waits until they are gone, and keeps them until then."""
        with answered(f"a message to rank {peer}", [peer]):
            work = self._gloo.send([buffer], peer, tag)

        def wait(_kept: torch.Tensor = buffer) -> None:
            with answered(f"a message to rank {peer}", [peer]):
                work.wait(self._patience)

        return wait

    def post(self, buffer: torch.Tensor, peer: int, tag: int) -> Callable[[str], None]:
        """Start to receive bytes; the function returned waits for them, and takes what to call them."""
        with answered(f"a message from rank {peer}", [peer]):
            work = self._gloo.recv([buffer], peer, tag)

        def wait(what: str) -> None:
            with answered(what, [peer]):
                work.wait(self._patience)

        return wait

    # Failing together

    def fail(self, error: BaseException) -> BaseException:
        """Tell every rank that this one failed, or find out why it could not go on.

        Args:
            error: What happened here.

        Returns:
            What to raise: the first cause of all ranks, with its rank; what was raised here, if it is that.
        """
        try:
            if isinstance(error, PeerLost):
                cause = self._cause.find()
                self._disconnect()
                first: BaseException = cause or self._cause.diagnose(error, self._grace_s)
            else:
                first = self._blame(error)
                self._disconnect()
            self._renew()
        except (RuntimeError, ValueError) as store_error:
            if isinstance(store_error, AutopipeError):
                raise
            self._disconnect()
            return self._without_store(error, store_error)
        return first

    def _without_store(self, error: BaseException, store_error: Exception) -> EngineError:
        """Say what is known where ranks can no longer tell each other: who keeps the store is lost."""
        waited = f", in {error.waited_for}" if isinstance(error, PeerLost) else ""
        own = "" if waited else f" This rank had failed: {type(error).__name__}: {error}"
        return EngineError(
            "the store of the process group does not answer.",
            f"rank {self.rank}{waited}",
            f"Who keeps it was killed, or cannot be reached: rank 0, or the launcher.{own}\n"
            f"{type(store_error).__name__}: {str(store_error).strip().splitlines()[0]}",
            "look at what rank 0 and the launcher wrote last",
        )

    def _blame(self, error: BaseException) -> BaseException:
        mine = located(error, self.rank)
        first = self._cause.claim(mine)
        if first is not mine:
            same = isinstance(error, AutopipeError) and error.what == first.what
            return error if same else first
        return mine if isinstance(error, EngineError) else error

    def _disconnect(self) -> None:
        """Close the connections now, whoever else still holds a message."""
        others = range(self.n_ranks) if self._gloo is not None else ()
        for peer in others:  # a receive that times out closes every connection that is still open
            if peer != self.rank:
                with suppress(RuntimeError):
                    nothing = torch.empty(1, dtype=torch.uint8)
                    self._gloo.recv([nothing], peer, _NEVER_SENT).wait(timedelta(milliseconds=1))
        self._let_go()

    def _let_go(self) -> None:
        if self._lanes is not None:
            self._lanes.abort()
        self._gloo = None

    def close(self) -> None:
        """Let go of the connections; says so to ranks that still wait."""
        if self._gloo is not None:
            with suppress(RuntimeError):
                self._cause.leave()
            self._let_go()


def located(error: BaseException, rank: int) -> AutopipeError:
    """Return the error as other ranks should see it: with the rank that it happened on."""
    if not isinstance(error, AutopipeError):
        return EngineError(f"rank {rank} stopped.", why=f"{type(error).__name__}: {error}")
    where = f"rank {rank}, {error.where}" if error.where else f"rank {rank}"
    return type(error)(error.what, where, error.why, error.remedy)


def _checked_rank(group: dist.ProcessGroup, n_ranks: int) -> int:
    rank = dist.get_rank(group)
    if rank < 0:
        raise ArgumentError(
            "this process is not in the group.", remedy="call engine(group=...) on the group's own ranks"
        )
    if group.size() != n_ranks:
        raise ArgumentError(
            f"the group has {group.size()} ranks, the plan {n_ranks}.",
            remedy=f"autopipe.split(..., n_ranks={group.size()}), or a group of {n_ranks}: "
            f"dist.new_group(range({n_ranks}))",
        )
    return int(rank)


def _never_came(absent: Sequence[int], patience: timedelta) -> EngineError:
    some = f"rank {absent[0]}" if len(absent) == 1 else f"ranks {', '.join(map(str, absent))}"
    return EngineError(
        f"{some} never came.",
        why=f"The others waited {patience.total_seconds():.3g} s for its engine, or its next call.",
        remedy="make the same calls on every rank; a larger timeout_s if one starts that late",
    )
