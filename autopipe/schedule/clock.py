"""One run of a schedule on a clock, as spans; ``steps`` has the rules."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Literal, NamedTuple

from autopipe.errors import ScheduleError
from autopipe.ir.schedule import Action, Message, Op, Schedule
from autopipe.ir.timeline import Span
from autopipe.schedule.steps import COMPUTE, RECV, SEND, Run, Step

__all__ = ["MAKING", "Clock", "Made"]

MAKING = (Op.F, Op.B, Op.I)
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
    """

    def __init__(
        self,
        schedule: Schedule,
        compute_ms: Mapping[Op, Sequence[float]],
        message_ms: Callable[[Message], float],
        *,
        overlap: bool,
        needs: Mapping[Made, Sequence[Made | Message]],
    ) -> None:
        """Number what ranks wait for."""
        self.spans: list[Span] = []
        self._schedule, self._compute_ms, self._message_ms = schedule, compute_ms, message_ms
        self._overlap, self._needs = overlap, needs
        self._numbers: dict[Hashable, int] = {}

    def run(self) -> None:
        """Take all steps of all ranks.

        Raises:
            ScheduleError: If some are left that nobody can take.
        """
        rows = self._schedule.rows
        steps = [[self._step(action, rank) for action in row] for rank, row in enumerate(rows)]
        run = Run(steps, len(self._numbers), overlap=self._overlap)
        for rank, step, start_ms, end_ms in run.taken:
            action = rows[rank][step]
            self._span(action, rank, start_ms, end_ms)
            if self._overlap and action.op is Op.SEND:
                self._span(_other_end(action), self._peer_rank(action), start_ms, end_ms)
        if run.waiting:
            self._raise_deadlock(run.waiting)

    def _step(self, action: Action, rank: int) -> Step:
        if action.op.is_comm:
            peer, what = self._peer_rank(action), self._number(action.message)
            length_ms = 0.0 if peer == rank else self._message_ms(action.message)
            return (SEND if action.op is Op.SEND else RECV), length_ms, what, (), peer
        compute_ms = self._compute_ms[action.op][action.stage]
        if action.op not in MAKING:
            return COMPUTE, compute_ms, -1, (), rank
        made = Made("F" if action.op is Op.F else "B", action.stage, action.microbatch)
        needs = tuple(self._number(need) for need in self._needs.get(made, ()))
        return COMPUTE, compute_ms, self._number(made), needs, rank

    def _number(self, what: Made | Message) -> int:
        return self._numbers.setdefault(what, len(self._numbers))

    def _raise_deadlock(self, waiting: Mapping[int, tuple[int, int]]) -> None:
        """Show where every rank stands, and what it waits for."""
        rows, names = self._schedule.rows, list(self._numbers)
        lines = [
            f"rank {r} at {rows[r][step]} waits for {names[what]}" for r, (step, what) in waiting.items()
        ]
        more = [f"and {len(lines) - _SHOWN_RANKS} more ranks"] if len(lines) > _SHOWN_RANKS else []
        raise ScheduleError(
            f"{self._schedule.name} never ends: ranks wait for each other.",
            where=self._schedule.grid({rank: step for rank, (step, _) in waiting.items()}),
            why="\n".join(lines[:_SHOWN_RANKS] + more),
            remedy="an order in which what an action reads is made before it",
        )

    def _peer_rank(self, action: Action) -> int:
        assert action.peer is not None
        return self._schedule.rank_of_stage[action.peer]

    def _span(self, action: Action, rank: int, start_ms: float, end_ms: float) -> None:
        if end_ms > start_ms or not action.op.is_comm:  # a message that takes no time is not worth a slice
            span = Span(rank, action.stage, action.op, action.microbatch, start_ms, end_ms, str(action))
            self.spans.append(span)


def _other_end(send: Action) -> Action:
    assert send.peer is not None
    return Action(send.peer, Op.RECV, send.microbatch, send.stage, send.value, send.carries)
