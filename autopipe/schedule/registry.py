"""Schedules by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from autopipe.errors import ArgumentError
from autopipe.ir.schedule import Action, Schedule
from autopipe.schedule.gpipe import gpipe_row
from autopipe.schedule.merge import place
from autopipe.schedule.one_f_one_b import one_f_one_b_row

__all__ = ["MAX_ACTIONS", "ROWS", "build", "check_size", "schedule_names"]

MAX_ACTIONS = 4 * 10**6
"""Of a schedule: it is built in seconds. 512 stages with four microbatches each have half as many."""

RowOfStage = Callable[[int, int, int], tuple[Action, ...]]  # (stage, n_stages, n_microbatches) -> its row

ROWS: Mapping[str, RowOfStage] = {"1f1b": one_f_one_b_row, "gpipe": gpipe_row}


def schedule_names() -> tuple[str, ...]:
    """Return the names that ``build`` knows, in alphabetical order.

    Returns:
        The names.

    Example:
        >>> schedule_names()
        ('1f1b', 'gpipe')
    """
    return tuple(sorted(ROWS))


def check_size(n_stages: int, n_microbatches: int) -> None:
    """Check that a schedule is small enough to be built, without the work of building it.

    Args:
        n_stages: Stages of the pipeline, 1 or more.
        n_microbatches: Microbatches of a step.

    Raises:
        ArgumentError: If there would be more actions than ``MAX_ACTIONS``.
    """
    n_actions = 2 * n_stages * n_microbatches
    if n_actions > MAX_ACTIONS:
        most = MAX_ACTIONS // 2 // n_stages
        raise ArgumentError(
            f"{n_stages} stages with {n_microbatches} microbatches are too many.",
            why=f"A step would have {n_actions} actions, a forward and a backward of every microbatch on "
            f"every stage; autopipe plans {MAX_ACTIONS}.",
            remedy=f"n_microbatches={most} or fewer, each of more samples."
            if most >= n_stages
            else "fewer stages.",
        )


def build(name: str, n_stages: int, n_microbatches: int, n_ranks: int | None = None) -> Schedule:
    """Build a schedule by name.

    Args:
        name: One of ``schedule_names()``.
        n_stages: Stages of the pipeline.
        n_microbatches: Microbatches of a step; fewer than stages work.
        n_ranks: Ranks that share the stages, stage s on rank s mod n_ranks; None: one a stage.

    Returns:
        The schedule without comms.

    Raises:
        ArgumentError: If the name is unknown, if a count is below 1 or too large, or if there are more ranks
            than stages.

    Example:
        >>> print(build("1f1b", n_stages=3, n_microbatches=4))
        1f1b: 3 stages, 4 microbatches
        rank 0: 0F0 0F1 0F2 0B0 0F3 0B1 0B2 0B3
        rank 1: 1F0 1F1 1B0 1F2 1B1 1F3 1B2 1B3
        rank 2: 2F0 2B0 2F1 2B1 2F2 2B2 2F3 2B3
    """
    if name not in ROWS:
        known = " or ".join(f'"{known}"' for known in schedule_names())
        raise ArgumentError(f"there is no schedule {name!r}.", remedy=f"schedule={known}")
    n_ranks = n_stages if n_ranks is None else n_ranks
    for what, count in (("n_stages", n_stages), ("n_microbatches", n_microbatches), ("n_ranks", n_ranks)):
        if count < 1:
            raise ArgumentError(f"{what} is {count}.", remedy=f"{what}=1 or more")
    if n_ranks > n_stages:
        why = "Every rank holds at least one stage."
        raise ArgumentError(f"{n_ranks} ranks for {n_stages} stages.", why=why, remedy=f"n_ranks={n_stages}")
    check_size(n_stages, n_microbatches)
    stage_rows = [ROWS[name](stage, n_stages, n_microbatches) for stage in range(n_stages)]
    return place(name, stage_rows, n_microbatches, n_ranks)
