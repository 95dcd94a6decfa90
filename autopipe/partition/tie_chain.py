"""Of all splits whose stages stay within a limit the one with the least sum, and of those the fewest bytes.

::

    level       0     1            2               f[j, b] = least over a of f[j-1, a] + (ms, bytes) of b - a
    downsets    {}    {a} {a b}    {a b c} ...     compared by milliseconds first, rounding aside

Exact: it goes through every downset that such a split can have after each stage.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from autopipe.partition.attempt import levels_within
from autopipe.partition.downsets import Downsets
from autopipe.partition.objective import Objective
from autopipe.partition.pairs import StagePrices
from autopipe.partition.problem import Floats, Ints, Problem
from autopipe.partition.reach import Reach

_CAP = 3_000
"""Downsets of a level after which it is given up."""

_SAME = 1e-9
"""Sums that differ by less, relatively to a stage, are the same."""


def least_of_equals(prices: Objective, problem: Problem, limit: float, budget: int) -> Ints | None:
    """Find that split.

    Args:
        prices: Knows the bytes.
        problem: The items.
        limit: What a stage may cost, ms.
        budget: Work, about 1e7 a second.

    Returns:
        The stage of every item; None if there is none, or if the budget ended first.

    Complexity: pairs of downsets of neighbouring levels.
    """
    within = levels_within(problem, Reach(problem), limit, budget, cap=_CAP)
    if within.levels is None:
        return None
    bytes_only = replace(
        problem,
        weight=np.zeros_like(problem.weight),
        cin=np.tile(_received_bytes(prices, problem), (len(problem.cin), 1)),
        cout=np.zeros_like(problem.cout),
        overlap=False,
        limit=None,
    )
    sums, sent, backs = np.zeros(1), np.zeros(1), []
    for j in range(1, problem.k + 1):
        ends = within.levels[j - 1], within.levels[j]
        ms, carried = (StagePrices(each, j - 1, *ends) for each in (problem, bytes_only))
        rows = np.flatnonzero(np.isfinite(sums))
        at, b = np.nonzero(ms.subset(rows))
        a = rows[at]
        budget -= 30 * len(a)
        if budget < 0:
            return None
        cost = ms.cost(a, b)
        good = np.flatnonzero((cost <= limit) & (problem.allow_empty | _proper(ms, a, b)))
        a, b = a[good], b[good]
        sums, sent, back = _least_by_end(
            sums[a] + cost[good], sent[a] + carried.cost(a, b), a, b, (len(ends[1]), limit * _SAME)
        )
        backs.append(back)
    return None if not np.isfinite(sums).any() else _traced(problem, within.levels, backs)


def _proper(prices: StagePrices, a: Ints, b: Ints) -> np.ndarray:
    """Which stages are not empty."""
    proper: np.ndarray = (prices.before[a] != prices.after[b]).any(axis=1) | bool(prices.always.any())
    return proper


def _least_by_end(
    sums: Floats, sent: Floats, a: Ints, b: Ints, scale: tuple[int, float]
) -> tuple[Floats, Floats, Ints]:
    """For every end the best beginning: least sum, then fewest bytes, then the first."""
    n_ends, same = scale
    order = np.lexsort((a, sent, np.rint(sums / max(same, 1e-300)), b))
    ends, first = np.unique(b[order], return_index=True)
    chosen = order[first]
    best, fewest = np.full(n_ends, np.inf), np.full(n_ends, np.inf)
    back = np.full(n_ends, -1, dtype=np.int64)
    best[ends], fewest[ends], back[ends] = sums[chosen], sent[chosen], a[chosen]
    return best, fewest, back


def _traced(problem: Problem, levels: list[Downsets], backs: list[Ints]) -> Ints:
    stage_of = np.zeros(problem.n, dtype=np.int64)
    row = 0
    for j in range(problem.k, 0, -1):
        before = int(backs[j - 1][row])
        inside = levels[j].members()[row] & ~levels[j - 1].members()[before]
        stage_of[inside] = j - 1
        row = before
    return stage_of


def _received_bytes(prices: Objective, problem: Problem) -> Floats:
    """What a stage that reads a net of the problem receives, forward and backward."""
    item_of = {node: item for item, nodes in enumerate(problem.members) for node in nodes}
    nbytes: dict[tuple[int, tuple[int, ...]], float] = {}
    for net in prices.nets:
        ends = tuple(sorted({item_of[pin] for pin in net.pins}))
        key = item_of[net.maker], ends
        nbytes[key] = nbytes.get(key, 0.0) + (0 if net.again else net.out_bytes + net.grad_bytes)
    makers = problem.maker.tolist()
    return np.array([nbytes[maker, pins] for maker, pins in zip(makers, problem.pins, strict=True)])
