r"""The split with the least step time: fill and drain count, not the slowest stage alone.

::

    microbatch 0   | stage 0 | stage 1 |  stage 2  |                      step = every stage once
    microbatch 1             :         | stage 2 waits, stage 2 ... |          + (M - 1) x the slowest

That is Alpa's objective (Zheng et al., OSDI 2022, section 5.1), an upper estimate of a simulated 1F1B step.
Two criteria, sum and maximum; each point of their frontier is one dynamic programme with a limit::

    sum |  x                    limit = T: the least sum of stages that cost no more than T
        |     x                 next limit: just below the largest stage of that split
        |         x             every split not yet seen: sum >= the last sum, max >= the bottleneck's bound
        +------------ max       stop once  last sum + (M - 1) x bound  is no better than the best
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice

import numpy as np

from autopipe.partition.attempt import Verdict, levels_within
from autopipe.partition.dag_dp import least_sum
from autopipe.partition.loads import stage_loads
from autopipe.partition.order_sum import least_sum_of_order
from autopipe.partition.orders import linear_orders
from autopipe.partition.problem import Ints, Problem
from autopipe.partition.reach import Reach
from autopipe.partition.reduce import Reduced, reduce_problem
from autopipe.partition.relax import Depth, relax
from autopipe.partition.relaxed import Relaxed, place_dropped
from autopipe.partition.search import RELATIVE, Found, by_stage

_WIDE = 4.0
"""Multiple of the bottleneck's bound beyond which stages of one order are not looked at."""

_POINTS = 12
"""Points of the frontier of one order that are looked at."""

_RUNGS = (Depth.LOOSE, Depth.NO_WEIGHT, Depth.NOTHING)
"""How much is left out of the bound: less if that was too much."""


@dataclass(frozen=True, slots=True)
class FoundStep:
    """A split of the items and what is proven of its step time.

    Args:
        step_time_ms: Sum of the stage costs plus (M - 1) times the largest.
        bound_ms: No split has a smaller one.
        stage_of: Stage of every item.
        method: Who found it.
        stopped_by: ``"optimal"`` if the two meet.
    """

    step_time_ms: float
    bound_ms: float
    stage_of: Ints
    method: str
    stopped_by: str


def search_step_time(problem: Problem, first: Found, n_microbatches: int, budget: int) -> FoundStep:
    """The split with the least step time within a budget, and the best bound.

    Args:
        problem: The items.
        first: The split with the least bottleneck.
        n_microbatches: M.
        budget: Work, as in :func:`autopipe.partition.search.search`.

    Returns:
        What was found.

    Complexity: one enumeration of levels, one dynamic programme for every point of the frontier that could
    be better.
    """
    work = _Frontier(problem, n_microbatches, budget, first)
    work.along_orders()
    if budget:
        work.over_downsets()
    return work.found()


class _Frontier:
    """Walks from small sums to small maxima and keeps the best step."""

    def __init__(self, problem: Problem, n_microbatches: int, budget: int, first: Found) -> None:
        assert first.stage_of is not None
        self.problem, self.more, self.budget = problem, n_microbatches - 1, budget
        self.least_max = first.lower_bound_ms
        self.work_ms = float(problem.weight.min(axis=0).sum())
        if problem.overlap:
            self.work_ms = max(self.work_ms, self.least_max)
        self.best, self.method, self.stage_of = np.inf, "", first.stage_of
        self.lower = self.work_ms + self.more * self.least_max
        self.stopped = "work budget" if budget else "linear orders"
        self._offer(first.stage_of, first.method)

    @property
    def target(self) -> float:
        """No stage of a split that is better costs more."""
        return (self.best - self.work_ms) / self.more if self.more else self.best

    @property
    def closed(self) -> bool:
        """The bound meets the best."""
        return self.lower >= self.best * (1 - 2 * RELATIVE)

    def _offer(self, stage_of: Ints, method: str) -> float:
        """Price a split and keep it if it is the best; returns its largest stage."""
        if not self.problem.allow_empty and len(np.unique(stage_of)) < self.problem.k:
            return np.inf
        loads = stage_loads(self.problem, stage_of)
        step = float(loads.sum() + self.more * loads.max())
        if step < self.best * (1 - RELATIVE):
            self.best, self.stage_of, self.method = step, stage_of, method
        return float(loads.max())

    def along_orders(self) -> None:
        """Walk the frontier of a few linear orders, that of the best split first."""
        own = by_stage(self.stage_of)
        self._along(np.array(own), self.method)
        for name, order in islice(linear_orders(self.problem), 1 if self.problem.n > 1500 else 4):
            self._along(np.array(order), f"{name} order")

    def _along(self, order: Ints, name: str) -> None:
        limit = min(self.target, _WIDE * self.least_max) * (1 + RELATIVE)
        for _ in range(_POINTS):
            stage_of = least_sum_of_order(self.problem, order, limit)
            if stage_of is None:
                return
            largest = self._offer(stage_of, name)
            if not np.isfinite(largest):
                return
            limit = min(limit, largest, self.target) * (1 - RELATIVE)

    def over_downsets(self) -> None:
        """Prove it: the bound from relaxed problems, then from the whole."""
        reach = Reach(self.problem)
        lost = False
        for depth in _RUNGS:
            if self.closed or self.budget <= 0:
                return
            relaxed = relax(replace(self.problem, allow_empty=True), reach, self.target, depth)
            reduced = reduce_problem(relaxed.problem)
            lift = partial(self._lift, relaxed, reduced)
            lost = self._walk(reduced.problem, Reach(reduced.problem), lift)
            if not relaxed.dropped:
                break
        if lost and not self.closed and not self.problem.allow_empty:
            self._walk(self.problem, reach, lambda stage_of: stage_of)

    def _lift(self, relaxed: Relaxed, reduced: Reduced, stage_of: Ints) -> Ints:
        """A split of the whole problem from one of the reduced and relaxed."""
        return place_dropped(self.problem, relaxed, reduced.expand(stage_of))

    def _walk(self, problem: Problem, reach: Reach, lift: Callable[[Ints], Ints]) -> bool:
        """Go along the frontier from the largest stage that a better split could have.

        Returns:
            Whether a split with an empty stage came up, so that the bound may be too low.
        """
        limit = self.target * (1 + RELATIVE)
        within = levels_within(problem, reach, limit, self.budget)
        self.budget -= within.work
        if within.levels is None:
            if within.verdict is Verdict.IMPOSSIBLE:
                self._prove(self.best)
            return False
        seen, lost = np.inf, False
        while self.budget > 0:
            chain = least_sum(problem, within.windows, within.levels, self.budget, limit)
            self.budget -= chain.work
            if not chain.complete:
                break
            if chain.stage_of is None:
                self._prove(min(seen, self.best))
                break
            rest = chain.bottleneck_ms + self.more * self.least_max
            self._prove(min(seen, rest))
            if rest >= self.best * (1 - RELATIVE):
                break
            stage_of = lift(chain.stage_of)
            lost |= len(np.unique(stage_of)) < problem.k
            largest = float(stage_loads(problem, chain.stage_of).max())
            seen = min(seen, chain.bottleneck_ms + self.more * largest)
            self._offer(stage_of, "downsets")
            limit = min(limit, largest) * (1 - RELATIVE)
        return lost

    def _prove(self, bound: float) -> None:
        self.lower = max(self.lower, min(bound, self.best))

    def found(self) -> FoundStep:
        """The best split; its bound is the step time itself where the two meet."""
        bound = self.best if self.closed else self.lower
        stopped = "optimal" if self.closed else self.stopped
        return FoundStep(self.best, bound, self.stage_of, self.method, stopped)
