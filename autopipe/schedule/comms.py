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

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Literal

from autopipe.errors import ScheduleError
from autopipe.ir.schedule import Action, Op, Schedule, Transfer
from autopipe.schedule.placed import Mark, Placed
from autopipe.schedule.steps import COMPUTE, SEND

__all__ = ["insert_comms", "verify_transfers"]

_CARRIES: tuple[Literal["F", "B"], ...] = ("F", "B")


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
    verify_transfers(schedule, links)
    schedule.verify()
    placed = Placed(schedule, links)
    return replace(
        schedule,
        rows=tuple(
            tuple(row[mark.at] if mark.kind == COMPUTE else _end_of(placed, mark) for mark in marks)
            for row, marks in zip(schedule.rows, placed.marks, strict=True)
        ),
    )


def _end_of(placed: Placed, mark: Mark) -> Action:
    """The SEND or RECV of one message."""
    src, dst = placed.ends(mark.at)
    value, carries = placed.links[mark.at // 2].value, _CARRIES[mark.at % 2]
    if mark.kind == SEND:
        return Action(src, Op.SEND, mark.microbatch, dst, value, carries)
    return Action(dst, Op.RECV, mark.microbatch, src, value, carries)


def verify_transfers(schedule: Schedule, links: Sequence[Transfer]) -> None:
    """Check that transfers go with a schedule that has no messages yet.

    Args:
        schedule: The schedule.
        links: The transfers.

    Raises:
        ScheduleError: If it has messages, or if a transfer is wrong by itself, twice there, or from or to a
            stage that the schedule has not.
    """
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
