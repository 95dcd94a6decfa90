"""The search for the optimum: a good split, then targets just below it until none is possible."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import islice

import numpy as np

from autopipe.partition.attempt import Outcome, Verdict, attempt
from autopipe.partition.bounds import simple_bound
from autopipe.partition.chain_dp import split_order
from autopipe.partition.lean import lean_problem
from autopipe.partition.orders import linear_orders
from autopipe.partition.problem import Ints, Problem
from autopipe.partition.reach import Reach
from autopipe.partition.reduce import Reduced, reduce_problem
from autopipe.partition.relax import Depth, Relaxed, place_dropped, relax

_ORDERS = ((1500, 7), (2500, 3), (10**9, 1))
"""How many orders are tried up to a number of items: the loads of one take n^2 numbers."""

RELATIVE = 1e-9
"""Splits whose bottlenecks differ by less are the same."""

_LEAN_BUDGET = 20_000_000
"""Work spent at most on the least memory that any split needs."""

_HALF_A_BYTE = 0.5


@dataclass(frozen=True, slots=True)
class Found:
    """A split of the items and what is proven."""

    bottleneck_ms: float
    stage_of: Ints | None
    lower_bound_ms: float
    method: str
    stopped_by: str


def search(problem: Problem, budget: int) -> Found:
    """The best split and the best bound within a budget.

    Args:
        problem: The items.
        budget: Work, counted, not timed, about 1e7 a second; 0: linear orders only.

    Returns:
        What was found; ``stopped_by`` is ``"optimal"`` if the two meet. No split at all: the bottleneck
        is infinite, and so is the bound if that is proven.
    """
    reduced = reduce_problem(replace(problem, allow_empty=True))
    found = _Search(reduced.problem, budget).run()
    if found.stage_of is not None:
        stage_of = reduced.expand(found.stage_of)
        if problem.allow_empty or len(np.unique(stage_of)) == problem.k:
            return replace(found, stage_of=stage_of)
    if problem.allow_empty or np.isinf(found.lower_bound_ms):
        return found
    return _Search(problem, budget, found.lower_bound_ms).run()


def leanest(problem: Problem, budget: int) -> Found:
    """The split whose largest stage holds the fewest bytes, whatever it costs in time.

    Args:
        problem: The items; its own memory limit does not count.
        budget: Work, as in :func:`search`.

    Returns:
        What was found; bottleneck and bound are bytes.
    """
    return search(lean_problem(problem), budget)


class _Search:
    def __init__(self, problem: Problem, budget: int, lower: float = 0.0) -> None:
        self.problem, self.budget = problem, budget
        self.upper, self.method = np.inf, "none"
        self.stage_of: Ints | None = None
        self.lower = max(lower, simple_bound(problem))

    def run(self) -> Found:
        self._orders()
        if self.stage_of is None and self.problem.limit is not None and not self._lean():
            return Found(np.inf, None, np.inf, "memory", "optimal")
        if not self.budget or self.closed():
            return self._found("linear orders")
        reach = Reach(self.problem)
        if self.stage_of is None:
            return self._any(reach)
        stopped = self._ladder(reach) if self.problem.allow_empty else self._exactly(reach)
        return self._found(stopped)

    def _lean(self) -> bool:
        """Start from the split that holds the fewest bytes; False if even that is proven to hold too many."""
        assert self.problem.limit is not None
        lean = leanest(self.problem, min(self.budget, _LEAN_BUDGET))
        if lean.stage_of is not None and lean.bottleneck_ms <= self.problem.limit + _HALF_A_BYTE:
            self._try(by_stage(lean.stage_of), "memory")
        return lean.lower_bound_ms <= self.problem.limit + _HALF_A_BYTE

    def _any(self, reach: Reach) -> Found:
        """No order has a split within the limits: is there any at all?"""
        everything = float(
            self.problem.weight.max(axis=0).sum() + (self.problem.cin + self.problem.cout).sum()
        )
        outcome = attempt(self.problem, reach, everything, self.budget)
        if outcome.verdict is Verdict.IMPOSSIBLE:
            return Found(np.inf, None, np.inf, "downsets", "optimal")
        if outcome.stage_of is None:
            return self._found("work budget")
        return Found(outcome.bottleneck_ms, outcome.stage_of, outcome.bottleneck_ms, "downsets", "optimal")

    def _exactly(self, reach: Reach) -> str:
        """Every stage needs an item, so nothing may be fused or left out."""
        same = np.arange(self.problem.n, dtype=np.int64)
        return self._descend(Relaxed(self.problem, same, ()), Reduced(self.problem, same), reach)

    def _ladder(self, reach: Reach) -> str:
        """Relax a little first; less if that was too much, more if it was too little to be decided."""
        stopped = self._rung(reach, Depth.LOOSE)
        if self.closed():
            return "optimal"
        for depth in (Depth.NO_WEIGHT, Depth.NOTHING):
            if stopped == "relaxation" and not self.closed():
                stopped = self._rung(reach, depth)
        if self.closed() or self.lower > simple_bound(self.problem):
            return stopped
        if self._rung(reach, Depth.ALL_SMALL, bisect=True) == "relaxation":
            return "relaxation"
        return stopped

    def _rung(self, reach: Reach, depth: Depth, *, bisect: bool = False) -> str:
        relaxed = relax(self.problem, reach, self.upper, depth)
        reduced = reduce_problem(relaxed.problem)
        closure = Reach(reduced.problem)
        stopped = self._descend(relaxed, reduced, closure)
        if stopped == "work budget" and bisect:
            self._raise_bound(relaxed, reduced, closure)
        return stopped

    def closed(self) -> bool:
        return self.lower >= self.upper * (1 - RELATIVE)

    def _found(self, stopped: str) -> Found:
        closed = self.closed()
        lower = self.upper if closed else self.lower
        return Found(self.upper, self.stage_of, lower, self.method, "optimal" if closed else stopped)

    def _orders(self) -> None:
        n_orders = next(count for size, count in _ORDERS if self.problem.n <= size)
        for name, order in islice(linear_orders(self.problem), n_orders):
            self._try(order, f"{name} order")

    def _try(self, order: list[int], name: str) -> None:
        bottleneck, stage_of = split_order(self.problem, order, self.upper)
        if bottleneck < self.upper * (1 - RELATIVE):
            self.upper, self.stage_of, self.method = bottleneck, stage_of, name

    def _descend(self, relaxed: Relaxed, reduced: Reduced, reach: Reach) -> str:
        """Ask for better than the best until there is none."""
        while True:
            outcome = attempt(reduced.problem, reach, self.upper * (1 - RELATIVE), self.budget // 2)
            self.budget -= outcome.work
            if outcome.verdict is Verdict.IMPOSSIBLE:
                self.lower = self.upper
                return "optimal"
            if outcome.verdict is Verdict.UNDECIDED:
                return "work budget"
            self.lower = max(self.lower, outcome.bottleneck_ms)
            before = self.upper
            self._lift(relaxed, reduced, outcome)
            if self.closed():
                return "optimal"
            if self.upper >= before * (1 - RELATIVE):
                return "relaxation"

    def _lift(self, relaxed: Relaxed, reduced: Reduced, outcome: Outcome) -> None:
        """Make a split of the relaxed problem one of the whole, by an order that agrees with it."""
        assert outcome.stage_of is not None
        stage = place_dropped(self.problem, relaxed, reduced.expand(outcome.stage_of))
        self._try(by_stage(stage), "downsets")

    def _raise_bound(self, relaxed: Relaxed, reduced: Reduced, reach: Reach) -> None:
        """Bisect for the largest target that is proven impossible."""
        low, high = self.lower, self.upper
        share = max(self.budget // 8, 10_000)
        while high - low > 1e-3 * self.upper and self.budget > 0:
            target = (low + high) / 2
            outcome = attempt(reduced.problem, reach, target, share)
            self.budget -= max(outcome.work, share // 50)
            if outcome.verdict is Verdict.IMPOSSIBLE:
                low = self.lower = target
                continue
            high = target
            if outcome.verdict is Verdict.FOUND:
                low = self.lower = max(self.lower, outcome.bottleneck_ms)
                self._lift(relaxed, reduced, outcome)
                return


def by_stage(stage_of: Ints) -> list[int]:
    """Items in an order that goes stage by stage, topological if the stages agree with precedence."""
    return sorted(range(len(stage_of)), key=lambda x: (int(stage_of[x]), x))
