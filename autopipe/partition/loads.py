"""What the stages of a split of items cost and hold: one pass over items and nets."""

from __future__ import annotations

import numpy as np

from autopipe.partition.problem import Floats, Ints, Problem


def stage_loads(problem: Problem, stage_of: Ints) -> Floats:
    """Price every stage of a split.

    Args:
        problem: The items.
        stage_of: Stage of every item.

    Returns:
        Milliseconds a stage, `[k]`; infinite where a stage does not fit the memory limit.

    Complexity: linear in the pins.
    """
    k, kinds = problem.k, np.array(problem.kind_of_stage)
    items = np.arange(problem.n)

    def by_stage(amount: Floats) -> Floats:
        return np.bincount(stage_of, weights=amount, minlength=k).astype(np.float64)

    compute = by_stage(problem.weight[kinds[stage_of], items])
    received, sent, kept = np.zeros(k), np.zeros(k), np.zeros(k)
    for net, pins in enumerate(problem.pins):
        touched = {int(stage_of[x]) for x in pins}
        if len(touched) > 1:
            home = int(stage_of[problem.maker[net]])
            sent[home] += problem.cout[kinds[home], net]
            for stage in touched - {home}:
                received[stage] += problem.cin[kinds[stage], net]
                kept[stage] += problem.kept[net]
    loads = _combined(problem, compute, received, sent)
    if problem.limit is None:
        return loads
    flight = np.array(problem.in_flight)
    fixed, saved = by_stage(problem.fixed) - _held_twice(problem, stage_of), by_stage(problem.saved)
    limit = problem.limit + 0.5
    fits = fixed + flight * (saved + kept) <= limit
    if not problem.allow_recompute:
        return np.where(fits, loads, np.inf)
    forward = by_stage(problem.fwd[kinds[stage_of], items])
    again = _combined(problem, compute + forward, received, sent)
    fits_again = fixed + flight * kept + saved <= limit
    return np.where(fits, loads, np.where(fits_again, again, np.inf))


def _held_twice(problem: Problem, stage_of: Ints) -> Floats:
    """Bytes of tied parameters that an item of a stage counts although another of it has them."""
    extra = np.zeros(problem.k)
    for tied in problem.tied:
        count = np.bincount(stage_of[list(tied.items)], minlength=problem.k)
        extra += tied.nbytes * np.maximum(count - 1, 0)
    return extra


def _combined(problem: Problem, compute: Floats, received: Floats, sent: Floats) -> Floats:
    if problem.overlap:
        return np.maximum(np.maximum(compute, received), sent)
    return compute + received + sent
