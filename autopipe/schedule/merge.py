"""Fewer ranks than stages: one row a rank out of one row a stage.

Stage s lives on rank s mod n_ranks, so a rank holds several virtual stages and needs an order between their
actions. The clock gives it: every stage runs its row as if it had a rank of its own, and a rank takes the
actions of its stages by their start there::

    stage 0   0F0 0F1                 0B0         0B1       rank 0   0F0 0F1 2F0 2B0 2F1 2B1 0B0 0B1
    stage 1       1F0 1F1         1B0         1B1           rank 1   1F0 1F1 1B0 1B1
    stage 2           2F0 2B0 ... 2F1 2B1 ...

All rows are then parts of one order in time in which every action comes after what it reads, so the ranks
cannot wait for each other in a circle; and each stage keeps its own order, so it keeps its microbatches in
flight.
"""

from __future__ import annotations

from collections.abc import Sequence

from autopipe.ir.schedule import Action, Op, Schedule
from autopipe.schedule.simulate import simulate

__all__ = ["place"]


def place(name: str, stage_rows: Sequence[Sequence[Action]], n_microbatches: int, n_ranks: int) -> Schedule:
    """Put stage s on rank s mod n_ranks and merge the rows of each rank's stages by simulated start.

    In the simulation a forward takes 1 and a backward 2. Of equal starts the backward goes first, as it frees
    memory, then the later stage.

    Args:
        name: Name of the schedule.
        stage_rows: ``[n_stages]`` one compute-only row a stage.
        n_microbatches: Microbatches of a step.
        n_ranks: Ranks, at most one a stage.

    Returns:
        The schedule without comms. O(actions x log actions).

    Raises:
        ScheduleError: If the rows break a rule, or wait for each other for ever.

    Example:
        >>> from autopipe.schedule.gpipe import gpipe_row
        >>> rows = [gpipe_row(stage, n_stages=2, n_microbatches=2) for stage in range(2)]
        >>> print(place("gpipe", rows, n_microbatches=2, n_ranks=1))
        gpipe: 2 stages, 2 microbatches
        rank 0: 0F0 1F0 0F1 1F1 1B0 1B1 0B0 0B1
    """
    n_stages = len(stage_rows)
    apart = Schedule(name, tuple(map(tuple, stage_rows)), n_stages, n_microbatches, tuple(range(n_stages)))
    if n_ranks == n_stages:
        return apart
    spans = simulate(apart, [1.0] * n_stages, [2.0] * n_stages).spans
    rows: list[list[Action]] = [[] for _ in range(n_ranks)]
    for span in sorted(spans, key=lambda span: (span.start_ms, span.op is Op.F, -span.stage)):
        rows[span.stage % n_ranks].append(Action(span.stage, span.op, span.microbatch))
    rank_of_stage = tuple(stage % n_ranks for stage in range(n_stages))
    return Schedule(name, tuple(map(tuple, rows)), n_stages, n_microbatches, rank_of_stage)
