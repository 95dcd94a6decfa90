"""The clock of the simulator: ranks take their steps one by one, in the order of time.

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
from collections.abc import Sequence

COMPUTE, SEND, RECV = range(3)

Step = tuple[int, float, int, tuple[int, ...], int]
"""What it does; ms; the number of what it makes or of its message, -1: none; what it waits for; peer rank."""

_NOT_YET = -1.0


class Run:
    """All steps of all ranks, as far as they can be taken.

    Args:
        rows: The steps of every rank, with numbers for what they make, send and wait for.
        n_numbers: How many numbers there are.
        overlap: Whether messages travel while their ranks compute.

    Complexity: O(steps x log ranks).
    """

    def __init__(self, rows: Sequence[Sequence[Step]], n_numbers: int, *, overlap: bool) -> None:
        """Set every rank to its first step, at 0, and let them run."""
        self.taken: list[tuple[int, int, float, float]] = []
        self._rows, self._overlap = rows, overlap
        self._next_step = [0] * len(rows)
        self._wakeups = [(0.0, rank) for rank in range(len(rows))]
        self._there_ms = [_NOT_YET] * n_numbers
        self._asleep: dict[int, list[int]] = {}
        self._send_free_ms = [0.0] * len(rows)
        self._recv_free_ms = [0.0] * len(rows)
        while self._wakeups:
            now_ms, rank = heapq.heappop(self._wakeups)
            self._advance(rank, now_ms)

    @property
    def waiting(self) -> dict[int, tuple[int, int]]:
        """Ranks that wait for ever: the step of each, and the number of what it waits for."""
        what = {rank: number for number, ranks in self._asleep.items() for rank in ranks}
        steps = enumerate(self._next_step)
        return {rank: (step, what[rank]) for rank, step in steps if step < len(self._rows[rank])}

    @property
    def end_ms(self) -> float:
        """When the last step ends."""
        return max((end_ms for _, _, _, end_ms in self.taken), default=0.0)

    def _advance(self, rank: int, now_ms: float) -> None:
        """Take the steps of a rank until one takes time or waits for something that nobody has made yet."""
        row, at = self._rows[rank], self._next_step[rank]
        while at < len(row):
            kind = row[at][0]
            if kind == COMPUTE:
                free_ms = self._compute(row[at], rank, at, now_ms)
            elif kind == SEND:
                free_ms = self._send(row[at], rank, at, now_ms)
            else:
                free_ms = self._receive(row[at], rank, at, now_ms)
            if free_ms == _NOT_YET:
                break
            at += 1
            if free_ms > now_ms:
                heapq.heappush(self._wakeups, (free_ms, rank))
                break
        self._next_step[rank] = at

    def _compute(self, step: Step, rank: int, at: int, now_ms: float) -> float:
        _, length_ms, makes, needs, _ = step
        start_ms = now_ms
        for need in needs:
            there_ms = self._there_ms[need]
            if there_ms == _NOT_YET:
                return self._sleep(rank, need)
            start_ms = max(start_ms, there_ms)
        end_ms = start_ms + length_ms
        self.taken.append((rank, at, start_ms, end_ms))
        if makes >= 0:
            self._arrive(makes, end_ms, now_ms)
        return end_ms

    def _send(self, step: Step, rank: int, at: int, now_ms: float) -> float:
        _, length_ms, message, _, peer = step
        if peer == rank:
            self._arrive(message, now_ms, now_ms)
            return now_ms
        if not self._overlap:
            self._arrive(message, now_ms, now_ms)
            self.taken.append((rank, at, now_ms, now_ms + length_ms))
            return now_ms + length_ms
        start_ms = max(now_ms, self._send_free_ms[rank], self._recv_free_ms[peer])
        end_ms = self._send_free_ms[rank] = self._recv_free_ms[peer] = start_ms + length_ms
        self.taken.append((rank, at, start_ms, end_ms))
        self._arrive(message, end_ms, now_ms)
        return now_ms

    def _receive(self, step: Step, rank: int, at: int, now_ms: float) -> float:
        if self._overlap:
            return now_ms
        _, length_ms, message, _, _ = step
        there_ms = self._there_ms[message]
        if there_ms == _NOT_YET:
            return self._sleep(rank, message)
        start_ms = max(now_ms, there_ms)
        self.taken.append((rank, at, start_ms, start_ms + length_ms))
        return start_ms + length_ms

    def _sleep(self, rank: int, what: int) -> float:
        self._asleep.setdefault(what, []).append(rank)
        return _NOT_YET

    def _arrive(self, what: int, there_ms: float, now_ms: float) -> None:
        """Note when something is there, and wake the ranks that wait for it."""
        self._there_ms[what] = there_ms
        for rank in self._asleep.pop(what, ()):
            heapq.heappush(self._wakeups, (now_ms, rank))
