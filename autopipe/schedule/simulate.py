"""Time a schedule without running it, and find ranks that would wait for ever; ``steps`` has the rules."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence

from autopipe.errors import ArgumentError, ScheduleError
from autopipe.ir.schedule import Message, Op, Schedule, Transfer
from autopipe.ir.timeline import Timeline
from autopipe.schedule.clock import Clock, Made

__all__ = ["LinkMs", "clocked", "simulate"]

LinkMs = Callable[[int, int, int], float]  # (stage that sends, stage that receives, bytes) -> ms


def simulate(
    schedule: Schedule,
    fwd_ms: Sequence[float],
    bwd_ms: Sequence[float],
    *,
    transfers: Iterable[Transfer] | None = None,
    link_ms: LinkMs | None = None,
    overlap: bool = True,
    bwd_weight_ms: Sequence[float] | None = None,
) -> Timeline:
    """Run the schedule on a clock.

    A schedule without SEND and RECV is timed as if values arrived the moment they are made, along
    ``transfers``, or from each stage to the next where none are given. Use ``insert_comms`` first to have
    messages charged.

    Args:
        schedule: The schedule, with or without comms.
        fwd_ms: ``[n_stages]`` ms of one microbatch's forward.
        bwd_ms: ``[n_stages]`` ms of one microbatch's whole backward.
        transfers: What crosses between stages: sizes of the messages, or who waits for whom without comms.
        link_ms: ms of a message, from the stage that sends it, the stage that receives it and its bytes;
            asked for messages between two ranks only. None: messages take no time.
        overlap: Whether messages travel while their ranks compute.
        bwd_weight_ms: ``[n_stages]`` the part of ``bwd_ms`` that W takes, I takes the rest; None: half. An
            update takes no time.

    Returns:
        The predicted timeline, spans by start; a message between ranks has a span at both ends, unless it
        takes no time. O(actions x log ranks).

    Raises:
        ScheduleError: If the schedule breaks its rules, if ranks wait for each other for ever (shown with
            ``<-- ERROR HERE`` where each of them stops), or if a message is in no transfer.
        ArgumentError: If there is not one time a stage, or if a time is negative or not finite.

    Example:
        >>> schedule = Schedule.from_rows("1f1b", ["0F0 0F1 0B0 0B1", "1F0 1B0 1F1 1B1"])
        >>> timeline = simulate(schedule, fwd_ms=[1.0, 1.0], bwd_ms=[2.0, 2.0])
        >>> timeline.makespan_ms, round(timeline.bubble_fraction, 3)
        (9.0, 0.333)
    """
    schedule.verify()
    clock = clocked(
        schedule,
        fwd_ms,
        bwd_ms,
        transfers=transfers,
        link_ms=link_ms,
        overlap=overlap,
        bwd_weight_ms=bwd_weight_ms,
    )
    return Timeline(tuple(sorted(clock.spans, key=lambda span: (span.start_ms, span.rank))), schedule.n_ranks)


def clocked(
    schedule: Schedule,
    fwd_ms: Sequence[float],
    bwd_ms: Sequence[float],
    *,
    transfers: Iterable[Transfer] | None = None,
    link_ms: LinkMs | None = None,
    overlap: bool = True,
    bwd_weight_ms: Sequence[float] | None = None,
) -> Clock:
    """Run a schedule that is known to keep its rules; arguments as in :func:`simulate`.

    Args:
        schedule: The schedule; it is not verified again.
        fwd_ms: ``[n_stages]`` ms.
        bwd_ms: ``[n_stages]`` ms.
        transfers: What crosses between stages.
        link_ms: ms of a message.
        overlap: Whether messages travel while their ranks compute.
        bwd_weight_ms: ``[n_stages]`` ms.

    Returns:
        The clock that ran, with its spans.
    """
    weight_ms = [ms / 2 for ms in bwd_ms] if bwd_weight_ms is None else bwd_weight_ms
    for name, times_ms in (("fwd_ms", fwd_ms), ("bwd_ms", bwd_ms), ("bwd_weight_ms", weight_ms)):
        _check_times(name, times_ms, schedule.n_stages)
    input_ms = [all_ms - part_ms for all_ms, part_ms in zip(bwd_ms, weight_ms, strict=True)]
    _check_times("bwd_ms - bwd_weight_ms", input_ms, schedule.n_stages)
    compute_ms = {
        Op.F: fwd_ms,
        Op.B: bwd_ms,
        Op.I: input_ms,
        Op.W: weight_ms,
        Op.U: [0.0] * schedule.n_stages,
    }
    links = None if transfers is None else tuple(transfers)
    needs = _received(schedule) if schedule.has_comms else _made(schedule, links)
    price = _message_ms(links or (), link_ms)
    clock = Clock(schedule, compute_ms, price, overlap=overlap, needs=needs)
    clock.run()
    return clock


def _check_times(name: str, times_ms: Sequence[float], n_stages: int) -> None:
    if len(times_ms) != n_stages:
        raise ArgumentError(
            f"{name} has {len(times_ms)} times for {n_stages} stages.", remedy="one time a stage, in ms"
        )
    for stage, time_ms in enumerate(times_ms):
        if not (math.isfinite(time_ms) and time_ms >= 0):
            raise ArgumentError(f"{name}[{stage}] is {time_ms}.", remedy="a finite time in ms, 0 or more")


def _message_ms(links: Sequence[Transfer], link_ms: LinkMs | None) -> Callable[[Message], float]:
    """Return the function that prices a message."""
    if link_ms is None:
        return lambda message: 0.0
    nbytes = {(link.value, link.src, link.dst): link.nbytes for link in links}
    nbytes |= {(link.value, link.dst, link.src): link.grad_nbytes for link in links}

    def price(message: Message) -> float:
        size = nbytes.get((message.value, message.src, message.dst))
        if size is None:
            raise ScheduleError(
                f"{message} is in no transfer.", remedy="the transfers that insert_comms was given"
            )
        length_ms = link_ms(message.src, message.dst, size)
        if not (math.isfinite(length_ms) and length_ms >= 0):
            raise ArgumentError(
                f"link_ms gives {length_ms} ms for {message}.", remedy="a finite time, 0 or more"
            )
        return length_ms

    return price


def _received(schedule: Schedule) -> Mapping[Made, Sequence[Message]]:
    """Return the messages that each forward and backward waits for: those that its stage receives for it."""
    needs: dict[Made, list[Message]] = defaultdict(list)
    for row in schedule.rows:
        for action in row:
            if action.op is Op.RECV and action.carries is not None:
                needs[Made(action.carries, action.stage, action.microbatch)].append(action.message)
    return needs


def _made(schedule: Schedule, links: Sequence[Transfer] | None) -> Mapping[Made, Sequence[Made]]:
    """Return the forwards and backwards of other stages that each forward and backward waits for."""
    if links is None:
        links = [Transfer("", stage, stage + 1, 0, 1) for stage in range(schedule.n_stages - 1)]
    needs: dict[Made, list[Made]] = defaultdict(list)
    for microbatch in range(schedule.n_microbatches):
        for src, dst in sorted({(link.src, link.dst) for link in links}):
            needs[Made("F", dst, microbatch)].append(Made("F", src, microbatch))
        for src, dst in sorted({(link.src, link.dst) for link in links if link.grad_nbytes}):
            needs[Made("B", src, microbatch)].append(Made("B", dst, microbatch))
    return needs
