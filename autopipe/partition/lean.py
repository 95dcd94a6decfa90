"""The leanest split: the least memory limit that any split fits, found as a partition problem of its own.

::

    milliseconds of an item      fixed + in flight x saved         position by position
    ... of a received net        in flight x kept
    ... of a tied parameter      once with its first item, once with every other stage that holds it

The largest stage of this problem, in bytes, is what the limit must be at least.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from autopipe.partition.problem import Floats, Problem


def lean_problem(problem: Problem) -> Problem:
    """The same items, nets and pins, priced by bytes instead of milliseconds and without a limit.

    Args:
        problem: The items.

    Returns:
        A problem whose stage costs are the bytes that a stage holds, with recompute where that is allowed.

    Complexity: linear.
    """
    flights = sorted(set(problem.in_flight))
    flight = np.array(flights, dtype=float)[:, None]
    kept_alive = np.minimum(flight, 1.0) if problem.allow_recompute else flight
    fixed = problem.fixed.copy()
    shared = [(tied.nbytes, tuple(sorted(set(tied.items)))) for tied in problem.tied]
    for tied in problem.tied:
        np.subtract.at(fixed, list(tied.items), tied.nbytes)
        fixed[min(tied.items)] += tied.nbytes
    shared = [(nbytes, items) for nbytes, items in shared if len(items) > 1]
    once: Floats = np.array([nbytes for nbytes, _ in shared], dtype=float)
    received = np.concatenate([flight * problem.kept, np.repeat(once[None, :], len(flights), axis=0)], axis=1)
    return replace(
        problem,
        weight=fixed + kept_alive * problem.saved,
        pins=(*problem.pins, *(items for _, items in shared)),
        maker=np.concatenate([problem.maker, np.array([items[0] for _, items in shared], dtype=np.int64)]),
        cin=received,
        cout=np.zeros_like(received),
        kind_of_stage=tuple(flights.index(x) for x in problem.in_flight),
        overlap=False,
        kept=np.zeros(received.shape[1]),
        limit=None,
        tied=(),
    )
