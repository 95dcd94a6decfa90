"""Where the messages of a schedule stand, in numbers; ``comms`` says by which rule and why.

::

    transfer 0: stage 0 -> 1        kind 0: the value, stage 0 sends       kind 1: its gradient, stage 1 sends
    transfer 1: stage 0 -> 2        message = transfer, kind, microbatch
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from typing import NamedTuple

from autopipe.ir.schedule import Op, Schedule, Transfer
from autopipe.schedule.clock import MAKING
from autopipe.schedule.simulate import clocked
from autopipe.schedule.steps import COMPUTE, RECV, SEND, Run, Step


class Mark(NamedTuple):
    """One step of a row: an action of the schedule, or one end of a message.

    Args:
        kind: COMPUTE, SEND or RECV.
        at: Which action of the row; or twice the transfer, and one more for its gradient.
        microbatch: Of the message.
    """

    kind: int
    at: int
    microbatch: int


class Placed:
    """A schedule with the messages of some transfers between its actions.

    Args:
        schedule: A schedule without messages that keeps its rules.
        links: What crosses.

    Raises:
        ScheduleError: If it deadlocks by itself.

    Complexity: O(actions x log actions).
    """

    def __init__(self, schedule: Schedule, links: Sequence[Transfer]) -> None:
        """Run it on a clock where a forward takes 1 and a backward 2, and put the messages into its rows."""
        self.schedule, self.links = schedule, links
        n_stages = schedule.n_stages
        self._microbatches = max(schedule.n_microbatches, 1)
        self._to = [2 * at for at in range(len(links))]
        self._back = [2 * at + 1 for at, link in enumerate(links) if link.grad_nbytes]
        self._sent: list[list[list[int]]] = [[[] for _ in range(n_stages)] for _ in range(2)]
        self._read: list[list[list[int]]] = [[[] for _ in range(n_stages)] for _ in range(2)]
        for message in (*self._to, *self._back):
            src, dst = self.ends(message)
            self._sent[message % 2][src].append(message)
            self._read[message % 2][dst].append(message)
        self.marks = self._place()

    def ends(self, message: int) -> tuple[int, int]:
        """The stage that sends and the one that receives."""
        link = self.links[message // 2]
        return (link.dst, link.src) if message % 2 else (link.src, link.dst)

    def run(
        self,
        fwd_ms: Sequence[float],
        bwd_ms: Sequence[float],
        message_ms: Callable[[int, int, int], float],
        *,
        overlap: bool,
    ) -> Run:
        """Take all steps.

        Args:
            fwd_ms: ``[n_stages]`` ms.
            bwd_ms: ``[n_stages]`` ms; the halves of a split backward take half of it each.
            message_ms: ms of a message, from the stage that sends it, the one that receives it and its bytes.
            overlap: Whether messages travel while their ranks compute.

        Returns:
            When each step starts and ends.
        """
        ranks, size = self.schedule.rank_of_stage, self._microbatches
        n_made = 2 * self.schedule.n_stages * size
        lengths = {}
        for message in (*self._to, *self._back):
            (src, dst), link = self.ends(message), self.links[message // 2]
            nbytes = link.grad_nbytes if message % 2 else link.nbytes
            lengths[message] = 0.0 if ranks[src] == ranks[dst] else message_ms(src, dst, nbytes)

        def waits(back: int, stage: int, microbatch: int) -> tuple[int, ...]:
            return tuple(n_made + message * size + microbatch for message in self._read[back][stage])

        compute = self._compute(fwd_ms, bwd_ms, waits)
        rows: list[list[Step]] = []
        for rank, marks in enumerate(self.marks):
            row: list[Step] = []
            for kind, at, microbatch in marks:
                if kind == COMPUTE:
                    row.append(compute(rank, at))
                    continue
                peer = ranks[self.ends(at)[1 if kind == SEND else 0]]
                row.append((kind, lengths[at], n_made + at * size + microbatch, (), peer))
            rows.append(row)
        return Run(rows, n_made + 2 * len(self.links) * size, overlap=overlap)

    def _made(self, back: int, stage: int, microbatch: int) -> int:
        """The number of what a forward or backward makes."""
        return (back * self.schedule.n_stages + stage) * self._microbatches + microbatch

    def _compute(
        self,
        fwd_ms: Sequence[float],
        bwd_ms: Sequence[float],
        waits: Callable[[int, int, int], tuple[int, ...]],
    ) -> Callable[[int, int], Step]:
        """From rank and place in its row to the step."""
        halves_ms = [ms / 2 for ms in bwd_ms]
        rest_ms = [ms - half_ms for ms, half_ms in zip(bwd_ms, halves_ms, strict=True)]
        length_ms = {Op.F: fwd_ms, Op.B: bwd_ms, Op.I: rest_ms, Op.W: halves_ms}

        def step(rank: int, at: int) -> Step:
            action = self.schedule.rows[rank][at]
            op, stage, microbatch = action.op, action.stage, action.microbatch
            if op is Op.U or microbatch is None:
                return COMPUTE, 0.0, -1, (), rank
            if op is Op.W:
                return COMPUTE, halves_ms[stage], -1, (), rank
            back = int(op is not Op.F)
            needs = waits(back, stage, microbatch)
            return COMPUTE, length_ms[op][stage], self._made(back, stage, microbatch), needs, rank

        return step

    def _place(self) -> list[list[Mark]]:
        """Each SEND behind what makes it, each RECV in front of what starts no sooner than that."""
        rows = self.schedule.rows
        run = self._alone()
        starts: list[list[float]] = [[] for _ in rows]
        for rank, _, start_ms, _ in run.taken:
            starts[rank].append(start_ms)
        sends: list[list[list[Mark]]] = [[[] for _ in row] for row in rows]
        recvs: list[list[list[Mark]]] = [[[] for _ in range(len(row) + 1)] for row in rows]
        for end_ms, rank, at in sorted((end_ms, rank, at) for rank, at, _, end_ms in run.taken):
            action = rows[rank][at]
            if action.op not in MAKING or action.microbatch is None:
                continue
            for message in self._sent[int(action.op is not Op.F)][action.stage]:
                sends[rank][at].append(Mark(SEND, message, action.microbatch))
                reader = self.schedule.rank_of_stage[self.ends(message)[1]]
                before = bisect_left(starts[reader], end_ms)
                recvs[reader][before].append(Mark(RECV, message, action.microbatch))
        return [
            [
                mark
                for at in range(len(row))
                for mark in (*recvs[rank][at], Mark(COMPUTE, at, 0), *sends[rank][at])
            ]
            for rank, row in enumerate(rows)
        ]

    def _alone(self) -> Run:
        """The schedule on its clock, values there the moment they are made."""
        before = [[{self.ends(x)[0] for x in read} for read in by_stage] for by_stage in self._read]

        def waits(back: int, stage: int, microbatch: int) -> tuple[int, ...]:
            return tuple(self._made(back, other, microbatch) for other in sorted(before[back][stage]))

        unit = [1.0] * self.schedule.n_stages
        compute = self._compute(unit, [2.0 * ms for ms in unit], waits)
        rows = [[compute(rank, at) for at in range(len(row))] for rank, row in enumerate(self.schedule.rows)]
        run = Run(rows, 2 * self.schedule.n_stages * self._microbatches, overlap=True)
        if run.waiting:
            clocked(
                self.schedule, unit, unit, transfers=self.links
            )  # raises, and shows where each rank stops
        return run
