"""The best chain of downsets, one of each level: dynamic programming with exact stage costs.

::

    best[j, b] = min over a < b of max(best[j-1, a], cost(b minus a))

Only stages below the target are looked at. Bounds by relaxation rule most pairs out before they are
priced; a pair that cannot improve ``best[j, b]`` is not priced either.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from autopipe.partition.downsets import Downsets
from autopipe.partition.pairs import PAIR, StagePrices
from autopipe.partition.problem import Floats, Ints, Problem
from autopipe.partition.reach import Bools
from autopipe.partition.windows import Windows


@dataclass(frozen=True, slots=True)
class Chain:
    """What the search over the levels found.

    Args:
        bottleneck_ms: Of the best chain within the target; infinite if there is none.
        stage_of: Its stages, or None.
        complete: The search was not cut short.
        work: Pairs priced.
    """

    bottleneck_ms: float
    stage_of: Ints | None
    complete: bool
    work: int


def best_chain(problem: Problem, windows: Windows, levels: list[Downsets], budget: int) -> Chain:
    """The least bottleneck over all chains through the levels, if below the windows' target.

    Args:
        problem: The items.
        windows: Their windows, for light stages and the target.
        levels: Downsets of levels 0 to k.
        budget: At most so many pairs are priced.

    Returns:
        The best chain.

    Complexity: rows times rows compared, the pairs that no bound rules out priced.
    """
    chain = _pass(problem, windows, levels, budget, windows.target, summed=False)
    if chain.stage_of is None:
        return chain
    limit = chain.bottleneck_ms * (1 + 1e-12)
    least_sum = _pass(problem, windows, levels, budget, limit, summed=True)
    work = chain.work + least_sum.work
    return Chain(
        chain.bottleneck_ms, chain.stage_of if least_sum.stage_of is None else least_sum.stage_of, True, work
    )


def least_sum(problem: Problem, windows: Windows, levels: list[Downsets], budget: int, limit: float) -> Chain:
    """The least sum of stage costs over all chains whose stages each cost no more than a limit.

    Args:
        problem: The items.
        windows: Their windows, of a target that is not below the limit.
        levels: Downsets of levels 0 to k.
        budget: At most so many pairs are priced.
        limit: What a stage may cost, ms.

    Returns:
        The chain; its ``bottleneck_ms`` is the sum.

    Complexity: as :func:`best_chain`.
    """
    return _pass(problem, windows, levels, budget, limit, summed=True)


def _pass(
    problem: Problem, windows: Windows, levels: list[Downsets], budget: int, limit: float, *, summed: bool
) -> Chain:
    """One recursion: the least maximum, or the least sum, of stages that each cost no more than a limit."""
    best = np.zeros(1)
    backs: list[Ints] = []
    work = 0
    for j in range(1, problem.k + 1):
        step = _Step(problem, windows, j, levels[j - 1 : j + 1], best)
        complete = step.run(budget - work, limit, summed=summed)
        work += step.work
        best = step.best
        backs.append(step.back)
        if not complete or not np.isfinite(best).any():
            return Chain(np.inf, None, complete, work)
    return Chain(float(best[0]), _trace(problem, levels, backs), True, work)


class _Step:
    """One level of the recursion."""

    def __init__(
        self, problem: Problem, windows: Windows, j: int, ends: list[Downsets], best: Floats
    ) -> None:
        before, after = ends
        self.windows, self.j = windows, j
        self.first, self.after = best, after
        self.before = before
        self.prices = StagePrices(problem, j - 1, before, after)
        self.empty = problem.allow_empty
        self.best = np.full(len(after), np.inf)
        self.back = np.full(len(after), -1, dtype=np.int64)
        self.work = 0

    def run(self, budget: int, limit: float, *, summed: bool) -> bool:
        """Extend the reached downsets of the level before, a block at a time, the best first."""
        reached = np.flatnonzero(np.isfinite(self.first))
        reached = reached[np.argsort(self.first[reached], kind="stable")]
        block = max(1, _BLOCK // max(1, len(self.after)))
        for start in range(0, len(reached), block):
            rows = reached[start : start + block]
            at, b = np.nonzero(self._possible(rows) & self.prices.subset(rows))
            self.work += len(rows) * len(self.after) // 5
            if self.work + PAIR * len(at) > budget:
                return False
            self.work += PAIR * len(at)
            self._relax(rows[at], b, limit, summed=summed)
        return True

    def _relax(self, a: Ints, b: Ints, limit: float, *, summed: bool) -> None:
        """Price pairs and keep the best beginning of every end."""
        cost = self.prices.cost(a, b)
        if not self.empty:
            cost[self._equal(a, b)] = np.inf
        cost[cost > limit] = np.inf
        cost = cost + self.first[a] if summed else np.maximum(cost, self.first[a])
        good = np.flatnonzero(np.isfinite(cost) & (cost < self.best[b]))
        order = good[np.lexsort((a[good], cost[good], b[good]))]
        ends, first = np.unique(b[order], return_index=True)
        self.best[ends] = cost[order[first]]
        self.back[ends] = a[order[first]]

    def _possible(self, rows: Ints) -> Bools:
        """Ends that no relaxation rules out for each beginning, `[rows, after]`."""
        windows, before, after = self.windows, self.before, self.after
        target = windows.target + windows.slack
        step = after.weight[None, :] - before.weight[rows][:, None]
        good: Bools = (step >= -windows.slack) & (step <= target)
        for r, light in enumerate(windows.light):
            send, receive = after.send[r], before.receive[r][rows]
            if windows.overlap:
                heavy = (send - after.weight <= target) & (before.weight[rows] - receive <= target)[:, None]
            else:
                heavy = send <= receive[:, None] + target
            good &= heavy | (step <= light + windows.slack)
        return good

    def _equal(self, a: Ints, b: Ints) -> Bools:
        """Pairs whose stage is empty."""
        if self.prices.always.any():
            return np.zeros(len(a), dtype=bool)
        same: Bools = (self.prices.after[b] == self.prices.before[a]).all(axis=1)
        return same


_BLOCK = 4_000_000
"""Pairs looked at together."""


def _trace(problem: Problem, levels: list[Downsets], backs: list[Ints]) -> Ints:
    """Follow the backward pointers and give every item the first level that contains it."""
    stage_of = np.full(problem.n, problem.k - 1, dtype=np.int64)
    row = 0
    for j in range(problem.k - 1, 0, -1):
        row = int(backs[j][row])
        downsets = levels[j]
        members = downsets.inside.copy()
        members[downsets.items[downsets.matrix()[row]]] = True
        stage_of[members] = j - 1
    return stage_of
