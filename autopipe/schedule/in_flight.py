"""How many microbatches a stage holds at most: forward done, backward not."""

from __future__ import annotations

from autopipe.ir.schedule import Op, Schedule

__all__ = ["in_flight"]


def in_flight(schedule: Schedule) -> tuple[int, ...]:
    """Return the most microbatches that each stage has in flight at once.

    A microbatch is in flight from its forward until its backward is done, or the W half of it. That is
    min(M, S - s) under 1F1B and M under GPipe. Without backwards nothing is kept, so it is 0.

    Args:
        schedule: The schedule, with or without comms.

    Returns:
        ``[n_stages]`` microbatches. O(actions).

    Example:
        >>> from autopipe.schedule.registry import build
        >>> in_flight(build("1f1b", 3, 4)), in_flight(build("gpipe", 3, 4))
        ((3, 2, 1), (4, 4, 4))
    """
    now, most = [0] * schedule.n_stages, [0] * schedule.n_stages
    trains = any(action.op in {Op.B, Op.W} for row in schedule.rows for action in row)
    for row in schedule.rows if trains else ():
        for action in row:
            now[action.stage] += {Op.F: 1, Op.B: -1, Op.W: -1}.get(action.op, 0)
            most[action.stage] = max(most[action.stage], now[action.stage])
    return tuple(most)
