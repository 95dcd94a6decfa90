r"""Place what a relaxation left out, exactly: every chain that it leaves possible, then item by item.

::

    relaxed problem     level 1       level 2            chains of what was kept, within the target:
                        A  --------->  C                 A C, A D, B D
                        B  --------->  D                 for each a linear program of everything else; what
                                                         it leaves fractional is tried both ways

Any split within the target goes through one of the chains. So the least bound of all chains is a bound.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass

import numpy as np

from autopipe.partition.chains import Chain, chains_within, unit_weights
from autopipe.partition.incumbent import Incumbent
from autopipe.partition.problem import Floats, Ints
from autopipe.partition.program import Counted, Known, Program
from autopipe.partition.reach import Bools, Reach
from autopipe.partition.relaxed import Relaxed

_NEAR = 0.01
"""Gap up to which what was left out is placed."""

_AT_ONCE = 0.02
"""Share of the budget for the optimum of the relaxation."""

_SHARE = 0.3
"""The same for all chains."""

_ROW = 100
"""Work of a row of a linear program; a third more for each open item, as measured on Swin's."""

_ROWS = 4
"""Rows about which it has for each open item."""

_OPEN = 4_000
"""What may be open in a program: more takes seconds."""

_WHOLE = 1e-6
"""What is as near to 0 or 1 as this is taken for it."""


@dataclass(frozen=True, slots=True)
class Placed:
    """What placing came to; splits that were found are with the incumbent.

    Args:
        bound_ms: No split is below that and below the best.
        work: What it took, about 1e7 a second.
    """

    bound_ms: float
    work: int


def place(best: Incumbent, reach: Reach, relaxed: Relaxed, stage_of: Ints, budget: int) -> int:
    """Place what was left out of a relaxation's optimum; then what it leaves out of any better split.

    Args:
        best: The whole problem with its best split and bound, which are replaced by better ones; transfers
            summed with compute, no memory limit, stages may stay empty.
        reach: Its closure.
        relaxed: A relaxation of it.
        stage_of: The optimum of that: stages of its items.
        budget: Work that is left, of which a part is spent, about 1e7 a second.

    Returns:
        The work that it took.

    Complexity: exponential in what linear programs leave fractional, but for the budget.
    """
    if best.lower < best.upper * (1 - _NEAR):
        return 0
    inside: Bools = stage_of[None, :] < np.arange(best.problem.k + 1)[:, None]
    is_unit = relaxed.kept < 0
    units: Floats = inside[:, is_unit] @ unit_weights(relaxed.problem)[is_unit]
    chain = Chain(inside[:, ~is_unit], units, units)
    work = _place(best, reach, relaxed, chain, int(_AT_ONCE * budget)).work
    placed = _place_all(best, reach, relaxed, int(_SHARE * budget))
    best.prove(min(placed.bound_ms, best.upper))
    return work + placed.work


def _place_all(best: Incumbent, reach: Reach, relaxed: Relaxed, budget: int) -> Placed:
    """Place everything else within every chain of kept items that a better split may go through."""
    listed = chains_within(relaxed, best.below, budget // 2)
    work, bound = listed.work, np.inf
    if listed.chains is None:
        return Placed(0.0, work)
    for chain in listed.chains:
        placed = _place(best, reach, relaxed, chain, budget - work)
        bound = min(bound, placed.bound_ms)
        work += placed.work
    return Placed(bound, work)


def _known(best: Incumbent, reach: Reach, relaxed: Relaxed, inside: Bools) -> Known:
    """What a chain of kept items says about all items: what one of them needs is done no later than it is."""
    problem = best.problem
    kept, _ = relaxed.whole()
    known = Known(*np.zeros((2, problem.k + 1, problem.n), dtype=bool))
    known.inside[:, kept], known.outside[:, kept] = inside, ~inside
    known.inside[-1], known.outside[0] = True, True
    for j in range(problem.k + 1):
        known.inside[j] |= reach.ancestors[known.inside[j]].any(axis=0)
        known.outside[j] |= reach.ancestors[:, known.outside[j]].any(axis=1)
    return known


def _counted(relaxed: Relaxed, chain: Chain) -> Counted:
    """What a chain says about the items of pools."""
    weight = unit_weights(relaxed.problem)
    items = [pool.items for pool in relaxed.pools]
    amounts = [pool.counts * weight[pool.units[0]] for pool in relaxed.pools]
    none = np.zeros(0)
    return Counted(
        np.concatenate([none.astype(np.int64), *items]),
        np.concatenate([none, *amounts]),
        chain.least,
        chain.most,
    )


def _place(best: Incumbent, reach: Reach, relaxed: Relaxed, chain: Chain, budget: int) -> Placed:
    """Place everything else within one chain."""
    known = _known(best, reach, relaxed, chain.inside)
    if (known.inside & known.outside).any():
        return Placed(np.inf, 0)
    n_open = int((~known.inside & ~known.outside).sum())
    if n_open > _OPEN or _work(_ROWS * n_open, n_open) > budget:
        return Placed(0.0, 0)
    return branch(best, Program(best.problem, known, best.upper, _counted(relaxed, chain)), budget)


def _work(n_rows: int, n_open: int) -> int:
    """What solving a linear program takes."""
    return n_rows * (_ROW + n_open // 3)


def branch(best: Incumbent, program: Program, budget: int) -> Placed:
    """Branch on what is nearest to a half until nothing is left below the best.

    Args:
        best: The best split, which better ones replace.
        program: What is open.
        budget: Work, about 1e7 a second.

    Returns:
        A bound of what is below the best within the program.

    Complexity: exponential in what linear programs leave fractional, but for the budget.
    """
    nodes = [(0.0, 0, np.zeros(program.n_open), np.ones(program.n_open))]
    work = count = 0
    while nodes and nodes[0][0] < best.below:
        least, _, lower, upper = heapq.heappop(nodes)
        if work >= budget:
            return Placed(least, work)
        solved = program.solve(lower, upper)
        work += _work(program.n_rows, program.n_open)
        bound = max(least, solved.bound_ms)
        if bound >= best.below:
            continue
        if solved.values is None:
            return Placed(least, work)
        best.offer(program.stages(solved.values), "placing")
        parted = np.abs(solved.values - np.round(solved.values))
        at = int(parted.argmax()) if len(parted) else -1
        if at < 0 or parted[at] <= _WHOLE:
            if bound < best.below:
                return Placed(least, work)
            continue
        for value in (0.0, 1.0):
            count -= 1  # of equal bounds the latest goes first: down to whole numbers
            fixed = lower.copy(), upper.copy()
            fixed[0][at] = fixed[1][at] = value
            if program.follow(*fixed):
                heapq.heappush(nodes, (bound, count, *fixed))
    return Placed(np.inf, work)
