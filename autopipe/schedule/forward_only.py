"""The forward part of a schedule, for inference."""

from __future__ import annotations

from dataclasses import replace

from autopipe.ir.schedule import Op, Schedule

__all__ = ["forward_only"]


def forward_only(schedule: Schedule) -> Schedule:
    """Keep the forwards, and the messages that carry values forward, in their order.

    Args:
        schedule: A schedule, with or without comms.

    Returns:
        The schedule without backwards, gradients and updates. What was free of deadlock stays so. O(actions).

    Example:
        >>> schedule = Schedule.from_rows("1f1b", ["0F0 0F1 0B0 0B1", "1F0 1B0 1F1 1B1"])
        >>> print(forward_only(schedule))
        1f1b: 2 stages, 2 microbatches
        rank 0: 0F0 0F1
        rank 1: 1F0 1F1
    """
    rows = tuple(
        tuple(action for action in row if action.op is Op.F or action.carries == "F") for row in schedule.rows
    )
    return replace(schedule, rows=rows)
