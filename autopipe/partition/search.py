"""The search for the optimum: a good split, then targets just below it until none is possible."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import islice

import numpy as np

from autopipe.partition.attempt import Verdict, attempt
from autopipe.partition.blocks import fuse_blocks
from autopipe.partition.bounds import simple_bound
from autopipe.partition.incumbent import RELATIVE, Incumbent, by_stage
from autopipe.partition.lean import lean_problem
from autopipe.partition.orders import linear_orders
from autopipe.partition.placing import place
from autopipe.partition.problem import Ints, Problem
from autopipe.partition.reach import Reach
from autopipe.partition.reduce import Reduced, reduce_problem
from autopipe.partition.relax import POOLS, Depth, relax
from autopipe.partition.relaxed import Relaxed
from autopipe.partition.rung import Rung, Stopped

__all__ = ["RELATIVE", "Found", "by_stage", "leanest", "search"]

_ORDERS = ((1500, 7), (2500, 3), (10**9, 1))
"""How many orders are tried up to a number of items: the loads of one take n^2 numbers."""

_LEAN_BUDGET = 20_000_000
"""Work spent at most on the least memory that any split needs."""

_CLIMBS = (0.15, 1.0)
"""Shares of what is left of the budget for each climb."""

_POOLED = {Depth.POOLED: 0.4, Depth.QUIET: 0.1, Depth.COARSE: 0.2}
"""Shares of the budget for relaxations that count what is small."""

_AT_ONCE = {Depth.LOOSE: 0.05, Depth.NOTHING: 0.05}
"""The same for what is asked before any climb: most graphs need no more."""

_PUT_BACK = 40
"""Items of the fringe after which no more are put back."""

_HALF_A_BYTE = 0.5


@dataclass(frozen=True, slots=True)
class Found:
    """A split of the items and what is proven."""

    bottleneck_ms: float
    stage_of: Ints | None
    lower_bound_ms: float
    method: str
    stopped_by: str


def search(problem: Problem, budget: int, reduced: Reduced | None = None) -> Found:
    """The best split and the best bound within a budget.

    Args:
        problem: The items.
        budget: Work, counted, not timed, about 1e7 a second; 0: linear orders only.
        reduced: What reduction leaves of it if stages may stay empty, where that is known.

    Returns:
        What was found; ``stopped_by`` is ``"optimal"`` if the two meet. No split at all: the bottleneck
        is infinite, and so is the bound if that is proven.
    """
    reduced = reduced or reduce_problem(replace(problem, allow_empty=True))
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


_Same = tuple[bool, tuple[int, ...], bytes]
"""What tells relaxations apart: whether memory is limited, what is left out, and what the rest weighs."""


def _same(relaxed: Relaxed) -> _Same:
    return relaxed.problem.limit is not None, relaxed.dropped, relaxed.problem.weight.tobytes()


class _Search:
    def __init__(self, problem: Problem, budget: int, lower: float = 0.0) -> None:
        self.problem, self.budget, self.whole = problem, budget, budget
        self.best = Incumbent(problem, lower)
        self.searched: dict[_Same, tuple[Stopped, Rung]] = {}
        self.undecided: dict[_Same, tuple[float, int]] = {}

    def run(self) -> Found:
        self._orders()
        best = self.best
        if best.stage_of is None and self.problem.limit is not None and not self._lean():
            return Found(np.inf, None, np.inf, "memory", Stopped.OPTIMAL.value)
        if not self.budget or best.closed():
            return self._found("linear orders")
        if best.stage_of is None:
            return self._any(Reach(self.problem))
        return self._found((self._among_blocks() if self.problem.allow_empty else self._exactly()).value)

    def _lean(self) -> bool:
        """Start from the split that holds the fewest bytes; False if even that is proven to hold too many."""
        assert self.problem.limit is not None
        lean = leanest(self.problem, min(self.budget, _LEAN_BUDGET))
        if lean.stage_of is not None and lean.bottleneck_ms <= self.problem.limit + _HALF_A_BYTE:
            self.best.try_order(by_stage(lean.stage_of), "memory")
        return lean.lower_bound_ms <= self.problem.limit + _HALF_A_BYTE

    def _any(self, reach: Reach) -> Found:
        """No order has a split within the limits: is there any at all?"""
        everything = float(
            self.problem.weight.max(axis=0).sum() + (self.problem.cin + self.problem.cout).sum()
        )
        outcome = attempt(self.problem, reach, everything, self.budget)
        if outcome.verdict is Verdict.IMPOSSIBLE:
            return Found(np.inf, None, np.inf, "downsets", Stopped.OPTIMAL.value)
        if outcome.stage_of is None:
            return self._found(Stopped.BUDGET.value)
        bottleneck = outcome.bottleneck_ms
        return Found(bottleneck, outcome.stage_of, bottleneck, "downsets", Stopped.OPTIMAL.value)

    def _exactly(self) -> Stopped:
        """Every stage needs an item, so nothing may be fused or left out."""
        same = np.arange(self.problem.n, dtype=np.int64)
        rung = Rung(self.best, Relaxed(self.problem, same, ()), Reduced(self.problem, same))
        return rung.windows(self.budget // 2)

    def _among_blocks(self) -> Stopped:
        """Ask once as it is, which does for a chain; then fuse blocks, which leaves an optimum as it is."""
        best, problem, reach = self.best, self.problem, Reach(self.problem)
        if problem.limit is not None or problem.overlap:
            return self._ladder(reach)
        relaxed = relax(problem, reach, best.upper, Depth.LOOSE)
        budget = int(_AT_ONCE[Depth.LOOSE] * self.budget)
        self._windows(self._of(relaxed, reach), _same(relaxed), budget)
        if best.closed():
            return Stopped.OPTIMAL
        blocks = fuse_blocks(problem)
        if blocks.problem.n == problem.n:
            return self._ladder(reach)
        fused = _Search(blocks.problem, self.budget, best.lower)
        fused._orders()
        fused.best.beat(best.upper)
        stopped = Stopped.OPTIMAL if fused.best.closed() else fused._ladder(Reach(fused.problem))
        best.prove(fused.best.lower)
        if fused.best.stage_of is not None:
            best.offer(blocks.expand(fused.best.stage_of), fused.best.method)
        return stopped

    def _ladder(self, reach: Reach) -> Stopped:
        """Ask at once; then climb in a hurry if there is something to count; then climb in earnest."""
        best, stopped = self.best, Stopped.BUDGET
        counts = any(relax(self.problem, reach, best.upper, depth).dropped for depth in POOLS)
        for depth, share in _AT_ONCE.items():
            if self.problem.limit is None and not best.closed():
                self._rung(reach, depth, share=share)
        whole = self.budget
        for part in _CLIMBS if counts else _CLIMBS[-1:]:
            if best.closed():
                return Stopped.OPTIMAL
            self.budget = int(part * whole)
            stopped = self._climb(reach, counts=counts)
            if best.closed():
                return Stopped.OPTIMAL
            whole -= int(part * whole) - self.budget
        if best.lower > simple_bound(self.problem):
            return stopped
        last, rung = self._rung(reach, Depth.ALL_SMALL)
        if last is Stopped.BUDGET:
            rung.bisect(max(self.budget, self.whole // 10))
        return last if last is Stopped.RELAXATION else stopped

    def _climb(self, reach: Reach, *, counts: bool) -> Stopped:
        """Relax a little first; less if that was too much, more if it was too little to be decided."""
        if self.problem.limit is not None:
            self._rung(reach, Depth.LOOSE, limited=False)
            if self.best.closed():
                return Stopped.OPTIMAL
        if counts:
            self._counted(reach)
        if self.best.closed():
            return Stopped.OPTIMAL
        stopped, _ = self._rung(reach, Depth.LOOSE)
        if stopped is Stopped.RELAXATION:
            stopped = self._fringe(reach)
        for depth in (Depth.NO_WEIGHT, Depth.NOTHING):
            if stopped is Stopped.RELAXATION:
                stopped, _ = self._rung(reach, depth)
        return stopped

    def _counted(self, reach: Reach) -> None:
        """Count what is small and loose; the more of it the better, as long as that can be decided.

        What is counted too coarsely finds a better split all the same: below that, more can be decided.
        """
        stopped, rung = self._rung(reach, Depth.POOLED, share=_POOLED[Depth.POOLED])
        if stopped is Stopped.RELAXATION and rung.relaxed.dropped:
            self._rung(reach, Depth.QUIET, share=_POOLED[Depth.QUIET])
        elif stopped is Stopped.BUDGET:
            stopped, _ = self._rung(reach, Depth.COARSE, share=_POOLED[Depth.COARSE])
            if stopped is Stopped.RELAXATION:
                self._rung(reach, Depth.POOLED, share=_POOLED[Depth.POOLED])

    def _fringe(self, reach: Reach) -> Stopped:
        """Leave out the fringe; put back what was left out of the dearest stages as long as that helps."""
        exempt: frozenset[int] = frozenset()
        while True:
            stopped, rung = self._rung(reach, Depth.FRINGE, exempt)
            culprits = rung.culprits() - exempt
            if stopped is not Stopped.RELAXATION or not culprits or len(exempt) > _PUT_BACK:
                return Stopped.RELAXATION if exempt and not self.best.closed() else stopped
            exempt |= culprits

    def _rung(
        self,
        reach: Reach,
        depth: Depth,
        exempt: frozenset[int] = frozenset(),
        *,
        limited: bool = True,
        share: float = 1.0,
    ) -> tuple[Stopped, Rung]:
        """Search one relaxation: windows first, then all downsets, then windows of what blocks leave."""
        problem = self.problem if limited else replace(self.problem, limit=None)
        relaxed = relax(problem, reach, self.best.upper, depth, exempt)
        rung = self._of(relaxed, reach)
        same = _same(relaxed)
        if depth in POOLS and not relaxed.dropped:
            return Stopped.RELAXATION, rung
        if same in self.searched:
            return self.searched[same]
        stopped = self._windows(rung, same, int(share * self.budget) // 10)
        exact = problem.overlap or problem.limit is not None
        if stopped is Stopped.BUDGET:
            rung = rung.fused()
            rung.work = 0
            budget = int(share * self.budget)
            stopped = rung.windows(budget // 2) if exact else rung.sweep(budget)
            self.budget -= rung.work
        if stopped is Stopped.RELAXATION and rung.found is not None and limited and not exact:
            self.budget -= place(self.best, reach, relaxed, rung.found, self.budget)
            stopped = Stopped.OPTIMAL if self.best.closed() else stopped
        if stopped is not Stopped.BUDGET:
            self.searched[same] = stopped, rung
        return stopped, rung

    def _windows(self, rung: Rung, same: _Same, budget: int) -> Stopped:
        """Ask by windows, unless as much was spent before on the same question."""
        target, spent = self.undecided.get(same, (0.0, 0))
        if target == self.best.below and spent >= budget:
            return Stopped.BUDGET
        stopped = rung.windows(budget)
        self.budget -= rung.work
        if stopped is Stopped.BUDGET:
            self.undecided[same] = self.best.below, budget
        return stopped

    def _of(self, relaxed: Relaxed, reach: Reach) -> Rung:
        """Reduce what a relaxation leaves; the whole problem is reduced and closed already."""
        whole, left = self.problem, relaxed.problem
        same = not relaxed.dropped and left.limit == whole.limit
        if same and np.array_equal(left.weight, whole.weight):
            return Rung(self.best, relaxed, Reduced(whole, np.arange(whole.n)), reach)
        return Rung(self.best, relaxed, reduce_problem(left))

    def _found(self, stopped: str) -> Found:
        best = self.best
        closed = best.closed()
        lower = best.upper if closed else best.lower
        stopped = Stopped.OPTIMAL.value if closed else stopped
        return Found(best.upper, best.stage_of, lower, best.method, stopped)

    def _orders(self) -> None:
        n_orders = next(count for size, count in _ORDERS if self.problem.n <= size)
        for name, order in islice(linear_orders(self.problem), n_orders):
            self.best.try_order(order, f"{name} order")
