"""Insert the messages: one SEND and one RECV a value, receiving stage and microbatch, forward and back.

::

    rank 0   0F0 0SEND_F0>1:h 0F1 0SEND_F1>1:h                   0RECV_B0<1:h 0B0 ...
    rank 1       1RECV_F0<0:h 1F0 1RECV_F1<0:h 1B0 1SEND_B0>0:h 1F1 ...

A SEND follows the action that makes what it sends. A RECV stands where its message is there at the earliest:
in front of the first action of its rank that starts no sooner than the SEND, on a clock where a forward takes
1 and a backward 2. Before that there is nothing to receive; later would keep the message out of reach of what
it can overlap.

Why this cannot deadlock, though a RECV may block and only SENDs never do: give every action its time on the
clock, and at equal times SEND before RECV before compute. Along each row this order never falls, and every
action is after what it waits for. And for two ranks, the messages one way are received in the order in which
they are sent, because both are the order of the clock.

Stages on one rank exchange messages too: one interpreter runs all rows by one rule, and hands such a value
over.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Literal

from autopipe.errors import ScheduleError
from autopipe.ir.schedule import Action, Op, Schedule, Transfer
from autopipe.ir.timeline import Span
from autopipe.schedule.simulate import clocked

__all__ = ["insert_comms"]


def insert_comms(schedule: Schedule, transfers: Iterable[Transfer]) -> Schedule:
    """Insert SEND and RECV for every transfer and microbatch.

    Args:
        schedule: A schedule without comms. Where it has no backwards, no gradients are sent.
        transfers: What crosses between its stages; those with ``grad_nbytes`` send a gradient back.

    Returns:
        The schedule with comms: no deadlock even where RECV blocks, and messages between two ranks are
        received in the order in which they are sent. O(actions x log actions).

    Raises:
        ScheduleError: If the schedule has comms already or breaks a rule, if it deadlocks by itself, or if a
            transfer is wrong by itself, twice there, or from or to a stage that the schedule has not.

    Example:
        >>> schedule = Schedule.from_rows("gpipe", ["0F0 0B0", "1F0 1B0"])
        >>> print(insert_comms(schedule, [Transfer("h", 0, 1, nbytes=4, grad_nbytes=4)]))
        gpipe: 2 stages, 1 microbatches
        rank 0: 0F0 0SEND_F0>1:h 0RECV_B0<1:h 0B0
        rank 1: 1RECV_F0<0:h 1F0 1B0 1SEND_B0>0:h
    """
    links = tuple(transfers)
    _verify_transfers(schedule, links)
    unit = [1.0] * schedule.n_stages
    schedule.verify()
    clock = clocked(schedule, unit, [2.0 * ms for ms in unit], transfers=links, labelled=False)
    spans = sorted(clock.spans, key=lambda span: (span.start_ms, span.rank))
    rows: list[list[Span]] = [[] for _ in range(schedule.n_ranks)]
    for span in spans:  # by start, so each row comes in its own order
        rows[span.rank].append(span)
    starts = [[span.start_ms for span in row] for row in rows]
    messages = _Messages(links)
    sends: dict[tuple[int, int], list[Action]] = defaultdict(list)  # (rank, step) -> what follows that step
    recvs: dict[tuple[int, int], list[Action]] = defaultdict(
        list
    )  # (rank, step) -> what comes in front of it
    made = [(span.end_ms, rank, step, span) for rank, row in enumerate(rows) for step, span in enumerate(row)]
    for end_ms, rank, step, span in sorted(made, key=lambda item: item[:3]):
        for send, recv in messages.of(span):
            sends[rank, step].append(send)
            reader = schedule.rank_of_stage[recv.stage]
            recvs[reader, bisect_left(starts[reader], end_ms)].append(recv)
    return replace(
        schedule,
        rows=tuple(
            tuple(
                action
                for step, compute in enumerate(row)
                for action in (*recvs[rank, step], compute, *sends[rank, step])
            )
            for rank, row in enumerate(schedule.rows)
        ),
    )


class _Messages:
    """The transfers by the stage whose forward or backward gives rise to their messages."""

    def __init__(self, links: Sequence[Transfer]) -> None:
        self._forward: dict[int, list[Transfer]] = defaultdict(list)
        self._back: dict[int, list[Transfer]] = defaultdict(list)
        for link in links:
            self._forward[link.src].append(link)
            if link.grad_nbytes:
                self._back[link.dst].append(link)

    def of(self, made: Span) -> list[tuple[Action, Action]]:
        """Return the SEND and the RECV of every message that an action gives rise to."""
        carries: Literal["F", "B"]
        if made.op is Op.F:
            carries, peers = "F", [(link.value, link.dst) for link in self._forward[made.stage]]
        elif made.op in {Op.B, Op.I}:
            carries, peers = "B", [(link.value, link.src) for link in self._back[made.stage]]
        else:
            return []
        return [
            (
                Action(made.stage, Op.SEND, made.microbatch, peer, value, carries),
                Action(peer, Op.RECV, made.microbatch, made.stage, value, carries),
            )
            for value, peer in peers
        ]


def _verify_transfers(schedule: Schedule, links: Sequence[Transfer]) -> None:
    if schedule.has_comms:
        raise ScheduleError(f"{schedule.name} has comms already.", remedy="the schedule as it was built")
    seen: set[tuple[str, int, int]] = set()
    for link in links:
        link.verify()
        if link.dst >= schedule.n_stages:
            raise ScheduleError(
                f"{link.value} goes to stage {link.dst}.", why=f"{schedule!r} has no such stage."
            )
        if (link.value, link.src, link.dst) in seen:
            raise ScheduleError(f"{link.value} goes from stage {link.src} to stage {link.dst} twice.")
        seen.add((link.value, link.src, link.dst))
