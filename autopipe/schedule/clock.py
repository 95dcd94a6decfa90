"""The clock of the simulator: ranks take their rows step by step, in the order of time.

::

    rank 0  compute  [ 0F0 ][ 0F1 ]......[ 0B0 ]
            send            [m][m]             a message leaves when its SEND is reached and both lanes free
    rank 1  recv            [m][m]
            compute            [ 1F0 ][ 1B0 ]  an action starts when its rank is free and its inputs there

Sends never wait for the receiver. With overlap, a message occupies the send lane of one rank and the receive
lane of the other while both compute, and a RECV only says that the value may come. Without overlap, SEND and
RECV occupy the rank itself, each for the length of the message. Stages of one rank hand values over in no
time.
"""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Literal, NamedTuple

from autopipe.errors import ScheduleError
from autopipe.ir.schedule import Action, Message, Op, Schedule
from autopipe.ir.timeline import Span

__all__ = ["Clock", "Made"]

_MAKING = (Op.F, Op.B, Op.I)
"""What leaves a value behind; a tuple, because enums are slow to hash."""

_SHOWN_RANKS = 4  # of a deadlock: the circle is among the first, the others only wait for it


class Made(NamedTuple):
    """What the forward ("F") or backward ("B") of a stage and microbatch leaves behind."""

    kind: Literal["F", "B"]
    stage: int
    microbatch: int | None

    def __str__(self) -> str:
        """Return it as the action that makes it."""
        return f"{self.stage}{self.kind}{self.microbatch}"


class Clock:
    """One run of a schedule; ``spans`` is what it leaves.

    Args:
        schedule: A verified schedule.
        compute_ms: op -> ``[n_stages]`` ms, for every op that computes.
        message_ms: Prices a SEND between two ranks, in ms.
        overlap: Whether messages travel while their ranks compute.
        needs: What each forward and backward waits for.
        labelled: Whether spans say what they are.
    """

    def __init__(
        self,
        schedule: Schedule,
        compute_ms: Mapping[Op, Sequence[float]],
        message_ms: Callable[[Message], float],
        *,
        overlap: bool,
        needs: Mapping[Made, Sequence[Made | Message]],
        labelled: bool = True,
    ) -> None:
        """Set every rank to the first step of its row, at 0."""
        self.spans: list[Span] = []
        self._schedule, self._compute_ms, self._message_ms = schedule, compute_ms, message_ms
        self._overlap, self._needs, self._labelled = overlap, needs, labelled
        self._next_step = [0] * schedule.n_ranks
        self._wakeups = [(0.0, rank) for rank in range(schedule.n_ranks)]
        self._there_ms: dict[Made | Message, float] = {}
        self._waiting: dict[Made | Message, list[int]] = defaultdict(list)
        self._send_free_ms = [0.0] * schedule.n_ranks
        self._recv_free_ms = [0.0] * schedule.n_ranks

    def run(self) -> None:
        """Take all steps of all ranks.

        Raises:
            ScheduleError: If some are left that nobody can take.
        """
        while self._wakeups:
            now_ms, rank = heapq.heappop(self._wakeups)
            self._advance(rank, now_ms)
        rows = self._schedule.rows
        stuck = {rank: step for rank, step in enumerate(self._next_step) if step < len(rows[rank])}
        if stuck:
            waits = {rank: key for key, ranks in self._waiting.items() for rank in ranks}
            lines = [
                f"rank {rank} at {rows[rank][step]} waits for {waits[rank]}" for rank, step in stuck.items()
            ]
            more = [f"and {len(lines) - _SHOWN_RANKS} more ranks"] if len(lines) > _SHOWN_RANKS else []
            raise ScheduleError(
                f"{self._schedule.name} never ends: ranks wait for each other.",
                where=self._schedule.grid(stuck),
                why="\n".join(lines[:_SHOWN_RANKS] + more),
                remedy="an order in which what an action reads is made before it",
            )

    def _advance(self, rank: int, now_ms: float) -> None:
        """Take the steps of a rank until one takes time or waits for something that nobody has made yet."""
        row = self._schedule.rows[rank]
        while self._next_step[rank] < len(row):
            action = row[self._next_step[rank]]
            if action.op is Op.SEND:
                free_ms = self._send(action, rank, now_ms)
            elif action.op is Op.RECV:
                free_ms = self._receive(action, rank, now_ms)
            else:
                free_ms = self._compute(action, rank, now_ms)
            if free_ms is None:
                return
            self._next_step[rank] += 1
            if free_ms > now_ms:
                heapq.heappush(self._wakeups, (free_ms, rank))
                return

    def _compute(self, action: Action, rank: int, now_ms: float) -> float | None:
        kind: Literal["F", "B"] = "F" if action.op is Op.F else "B"
        made = Made(kind, action.stage, action.microbatch)
        start_ms, is_made = now_ms, action.op in _MAKING
        if is_made:
            for need in self._needs.get(made, ()):
                if need not in self._there_ms:
                    self._waiting[need].append(rank)
                    return None
                start_ms = max(start_ms, self._there_ms[need])
        end_ms = start_ms + self._compute_ms[action.op][action.stage]
        self._span(action, rank, start_ms, end_ms)
        if is_made:
            self._arrive(made, end_ms, now_ms)
        return end_ms

    def _send(self, action: Action, rank: int, now_ms: float) -> float | None:
        message = action.message
        peer = self._peer_rank(action)
        if peer == rank:
            self._arrive(message, now_ms, now_ms)
            return now_ms
        length_ms = self._message_ms(message)
        if not self._overlap:
            self._arrive(message, now_ms, now_ms)
            self._span(action, rank, now_ms, now_ms + length_ms)
            return now_ms + length_ms
        start_ms = max(now_ms, self._send_free_ms[rank], self._recv_free_ms[peer])
        end_ms = self._send_free_ms[rank] = self._recv_free_ms[peer] = start_ms + length_ms
        self._span(action, rank, start_ms, end_ms)
        self._span(_other_end(action), peer, start_ms, end_ms)
        self._arrive(message, end_ms, now_ms)
        return now_ms

    def _receive(self, action: Action, rank: int, now_ms: float) -> float | None:
        if self._overlap:
            return now_ms
        message = action.message
        if message not in self._there_ms:
            self._waiting[message].append(rank)
            return None
        start_ms = max(now_ms, self._there_ms[message])
        end_ms = start_ms + (0.0 if self._peer_rank(action) == rank else self._message_ms(message))
        self._span(action, rank, start_ms, end_ms)
        return end_ms

    def _peer_rank(self, action: Action) -> int:
        assert action.peer is not None
        return self._schedule.rank_of_stage[action.peer]

    def _arrive(self, what: Made | Message, there_ms: float, now_ms: float) -> None:
        """Note when something is there, and wake the ranks that wait for it."""
        self._there_ms[what] = there_ms
        for rank in self._waiting.pop(what, ()):
            heapq.heappush(self._wakeups, (now_ms, rank))

    def _span(self, action: Action, rank: int, start_ms: float, end_ms: float) -> None:
        if end_ms > start_ms or not action.op.is_comm:  # a message that takes no time is not worth a slice
            label = str(action) if self._labelled else ""
            self.spans.append(Span(rank, action.stage, action.op, action.microbatch, start_ms, end_ms, label))


def _other_end(send: Action) -> Action:
    assert send.peer is not None
    return Action(send.peer, Op.RECV, send.microbatch, send.stage, send.value, send.carries)
