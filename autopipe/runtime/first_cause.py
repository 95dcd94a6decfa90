"""The first cause of a failure, in the store that the ranks of a group share, so that all raise the same.

Whoever fails writes the cause, if none is there, and closes its connections. That wakes every rank that waits
for it; it finds the cause, or, if there is none, says that it is alive and closes its own. So the news
travels along every chain of ranks that wait for each other, and who says nothing is the one that was lost::

    rank 0 ── waits for ──► rank 1 ── waits for ──► rank 2   killed, so its connections close
       alive   ◄── closes ── alive, waited for rank 2        says nothing

No thread watches, and nothing is polled while all is well.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from typing import Any

from autopipe import errors
from autopipe.errors import AutopipeError, EngineError

_POLL_S = 0.01


class PeerLost(EngineError):
    """A connection broke, or a message did not come in time; the reason is yet to be found.

    Args:
        waited_for: What was waited for, such as an action.
        peers: The ranks that it should have come from.
        error: What torch said.
    """

    def __init__(self, waited_for: str, peers: Sequence[int], error: BaseException) -> None:
        """Keep what the diagnosis needs."""
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        super().__init__(f"{waited_for} got no answer.", why=reason)
        self.waited_for, self.peers, self.reason = waited_for, tuple(peers), reason


class FirstCause:
    """Finds, or writes, why the ranks of a group stop.

    Args:
        store: Shared by the ranks, and by nobody else.
        rank: This one.
        n_ranks: All of them.
    """

    def __init__(self, store: Any, rank: int, n_ranks: int) -> None:
        """Start with no cause known."""
        self._store, self._rank, self._n_ranks = store, rank, n_ranks

    def find(self) -> AutopipeError | None:
        """Return the cause, if a rank wrote one."""
        return _error_of(self._store.get("cause").decode()) if self._store.check(["cause"]) else None

    def claim(self, error: AutopipeError) -> AutopipeError:
        """Write a cause unless there is one.

        Args:
            error: What this rank knows.

        Returns:
            The error itself if it is the first cause, else the first.
        """
        text = _text_of(error)
        first = self._store.compare_set("cause", "", text).decode()
        return error if first == text else _error_of(first)

    def leave(self) -> None:
        """Say that this rank closed its engine, so that nobody takes it for lost."""
        self._store.set(f"left/{self._rank}", "closed its engine")

    def diagnose(self, lost: PeerLost, grace_s: float) -> AutopipeError:
        """Find out which rank was lost, after the connections of this one were closed.

        Args:
            lost: What this rank waited for.
            grace_s: How long ranks that are alive have to say so.

        Returns:
            The first cause.
        """
        self._store.set(f"alive/{self._rank}", lost.waited_for)
        deadline = time.monotonic() + grace_s
        silent = self._silent()
        while silent and time.monotonic() < deadline:
            if (cause := self.find()) is not None:
                return cause
            time.sleep(_POLL_S)
            silent = self._silent()
        return self.claim(self._explained(lost, silent))

    def _silent(self) -> list[int]:
        return [rank for rank in range(self._n_ranks) if not self._store.check([f"alive/{rank}"])]

    def _explained(self, lost: PeerLost, silent: Sequence[int]) -> EngineError:
        guilty = [rank for rank in silent if rank in lost.peers] or list(silent)
        where = f"rank {self._rank} waited for it in {lost.waited_for}."
        left = [rank for rank in guilty if self._store.check([f"left/{rank}"])]
        if left:
            return EngineError(
                f"rank {left[0]} closed its engine.", where, remedy="make the same calls on every rank"
            )
        if not guilty:
            return EngineError(
                f"rank {self._rank} waited in vain.",
                f"{lost.waited_for}; every rank is alive.",
                lost.reason,
                "a larger timeout_s, if a step may take so long; else look at the network",
            )
        return EngineError(
            f"{_ranks(guilty)} not answer.",
            where,
            f"It was killed, is stuck, or never came. {lost.reason}",
            "look at what that rank wrote last; a larger timeout_s, if a step may take so long",
        )


def _ranks(ranks: Sequence[int]) -> str:
    if len(ranks) == 1:
        return f"rank {ranks[0]} does"
    return f"ranks {', '.join(map(str, ranks))} do"


def _text_of(error: AutopipeError) -> str:
    kind = next(kind.__name__ for kind in type(error).__mro__ if kind.__name__ in errors.__all__)
    return json.dumps([kind, error.what, error.where, error.why, error.remedy])


def _error_of(text: str) -> AutopipeError:
    kind, *parts = json.loads(text)
    found: AutopipeError = getattr(errors, kind)(*parts)
    return found
