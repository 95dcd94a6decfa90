"""The best layout of a graph on devices, stages with as many replicas as they need, and the proof.

::

    levels        1  2  3 ........ N-1        borders after so many devices, enumerated for a target T
    from the left ->  F: reached from nothing within T          the side with fewer pairs to look at goes on
    from the right               <- B: from which everything is reached
    in the middle     one stage from some F to some B: there is a layout within T; none: there is not
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice, pairwise

import numpy as np

from autopipe.partition.attempt import Verdict
from autopipe.partition.borders import Borders, Level, lone_border
from autopipe.partition.joints import Joints
from autopipe.partition.orders import linear_orders
from autopipe.partition.problem import Ints
from autopipe.partition.reach import Reach
from autopipe.partition.replicas import Turns, least_bound
from autopipe.partition.replicated_order import Layout, layout_of_order
from autopipe.partition.thinning import Thinning

_CAP = 300_000
"""Borders of one level after which a target is given up."""

_CLOSE = 1e-9
"""Bottlenecks that differ by less, relatively, are the same."""

_LARGE_STEP, _SMALL_STEP = 1e-2, 1e-6
"""By how much less is asked for among the borders that are left, relatively: at first, and at last."""

_N_ORDERS = 6


@dataclass(frozen=True, slots=True)
class FoundLayout:
    """The best layout and what is proven; ``layout`` is None where there is none."""

    layout: Layout | None
    lower_bound_ms: float
    method: str
    stopped_by: str


def search_layout(turns: Turns, budget: int) -> FoundLayout:
    """The layout with the least bottleneck within a budget.

    Args:
        turns: The prices.
        budget: Work, about 1e7 a second; 0: linear orders only.

    Returns:
        What was found.

    Complexity: dynamic programming over orders, then the borders of a few targets, at most quadratic in
    their number.
    """
    return _Search(turns, budget).run()


class _Search:
    def __init__(self, turns: Turns, budget: int) -> None:
        self.turns, self.budget = turns, budget
        self.lower, self.method = least_bound(turns), "none"
        self.layout: Layout | None = None
        self.listed: tuple[float, dict[int, Borders]] | None = None

    @property
    def upper(self) -> float:
        return np.inf if self.layout is None else self.layout.bottleneck_ms

    def run(self) -> FoundLayout:
        for name, order in islice(linear_orders(self.turns.problem), _N_ORDERS):
            self._offer(layout_of_order(self.turns, np.array(order), self.lower, self.upper), f"{name} order")
        stopped = "linear orders"
        if self.budget:
            stopped = self._prove()
        closed = self.lower >= self.upper * (1 - _CLOSE) or stopped == "optimal"
        lower = self.upper if closed else min(self.lower, self.upper)
        return FoundLayout(self.layout, lower, self.method, "optimal" if closed else stopped)

    def _offer(self, layout: Layout | None, name: str) -> None:
        if layout is not None and layout.bottleneck_ms < self.upper * (1 - _CLOSE):
            self.layout, self.method = layout, name

    def _prove(self) -> str:
        """Ask for less than the best until there is none; where that is undecided, bisect."""
        reach = Reach(self.turns.problem)
        everything = float(
            self.turns.problem.weight.sum() + (self.turns.problem.cin + self.turns.problem.cout).sum()
        )
        while self.lower < self.upper * (1 - _CLOSE):
            before = self.upper
            verdict = self._ask(reach, min(before, 2 * everything) * (1 - _CLOSE))
            if verdict is Verdict.IMPOSSIBLE:
                self.lower = self.upper
            elif verdict is Verdict.UNDECIDED:
                self._bisect(reach)
                if self.budget <= 0 or self.upper >= before:
                    return "work budget"
        return "optimal"

    def _bisect(self, reach: Reach) -> None:
        """Raise the bound as far as it can be decided."""
        high = self.upper if self.layout is not None else 4 * self.lower
        while high - self.lower > 2e-3 * high and self.budget > 0:
            middle = (self.lower + high) / 2
            if self._ask(reach, middle) is not Verdict.IMPOSSIBLE:
                high = middle

    def _ask(self, reach: Reach, target: float) -> Verdict:
        attempt = _Attempt(self.turns, reach, target, self.budget, self._known(target))
        verdict = attempt.run()
        self.budget -= max(attempt.work, 1000)
        if attempt.listed is not None:
            self.listed = target, attempt.listed
        if verdict is Verdict.IMPOSSIBLE:
            self.lower = max(self.lower, target)
        if attempt.layout is not None:
            self._offer(attempt.layout, "downsets")
            self._improve(reach, attempt.levels)
        return verdict

    def _known(self, target: float) -> dict[int, Borders] | None:
        """Borders that were listed for a larger target: those of this one are among them."""
        if self.listed is None or self.listed[0] < target:
            return None
        return self.listed[1]

    def _improve(self, reach: Reach, levels: dict[int, Borders]) -> None:
        """Ask for less of the borders that are left of an attempt: quick, and it proves nothing."""
        less = _LARGE_STEP
        while self.budget > 0 and less > _SMALL_STEP:
            before = self.upper
            attempt = _Attempt(self.turns, reach, before * (1 - less), self.budget, levels)
            attempt.run()
            self.budget -= max(attempt.work, 1000)
            self._offer(attempt.layout, "downsets")
            if self.upper >= before:
                less /= 8


class _Attempt:
    """One target, from both ends; all its borders are among ``known``, if that is given."""

    def __init__(
        self,
        turns: Turns,
        reach: Reach,
        target: float,
        budget: int,
        known: dict[int, Borders] | None = None,
    ) -> None:
        self.turns, self.reach, self.target, self.budget = turns, reach, target, budget
        self.last = turns.n_devices
        self.joints, self.thinning = Joints(turns, target), Thinning(turns.problem, reach)
        self.enumerated = 0
        self.known = known
        self.listed: dict[int, Borders] | None = None
        self.layout: Layout | None = None
        problem = turns.problem
        self.levels = {
            0: lone_border(problem, everything=False),
            self.last: lone_border(problem, everything=True),
        }
        self.from_left: dict[int, tuple[Ints, Ints]] = {}
        self.to_right: dict[int, tuple[Ints, Ints]] = {}

    @property
    def work(self) -> int:
        return self.enumerated + self.joints.work

    def run(self) -> Verdict:
        if not self._enumerate():
            return Verdict.UNDECIDED
        low, high = 0, self.last
        while high - low > 1:
            if self.work > self.budget:
                return Verdict.UNDECIDED
            left = len(self.levels[low + 1]) * sum(len(self.levels[a]) for a in range(low + 1))
            right = len(self.levels[high - 1]) * sum(len(self.levels[b]) for b in range(high, self.last + 1))
            if left <= right:
                low += 1
                self._extend(low)
            else:
                high -= 1
                self._retract(high)
        return self._meet(low, high)

    def _enumerate(self) -> bool:
        """All levels, the thin ones at the ends first."""
        for d in sorted(range(1, self.last), key=lambda d: min(d, self.last - d)):
            level = Level(
                self.turns.problem, self.reach, d * self.target, (self.last - d) * self.target, _CAP
            )
            if self.known is not None:
                self.levels[d] = level.among(self.known[d])
                continue
            borders = level.run()
            self.enumerated += level.work * max(1, self.turns.problem.n // 64)
            if borders is None or self.work > self.budget:
                return False
            self.levels[d] = borders
        if self.known is None:
            self.listed = dict(self.levels)
        return True

    def _extend(self, d: int) -> None:
        """Keep the borders of a level that are reached from the left, and remember from where."""
        level = self.levels[d]
        sources = [(self.levels[a], d - a) for a in range(d)]
        where, row = self.joints.reach(level, sources, self.last - d)
        kept = np.flatnonzero(row >= 0)
        kept = kept[self.thinning.reached(level.keep(kept))]
        self.levels[d] = level.keep(kept)
        self.from_left[d] = where[kept], row[kept]

    def _retract(self, d: int) -> None:
        """Keep the borders from which everything can be reached, and remember by what next."""
        level = self.levels[d]
        sinks = [(self.levels[b], b - d, self.last - b) for b in range(self.last, d, -1)]
        where, row = self.joints.lead(level, sinks)
        kept = np.flatnonzero(row >= 0)
        kept = kept[self.thinning.reaching(level.keep(kept))]
        self.levels[d] = level.keep(kept)
        self.to_right[d] = self.last - where[kept], row[kept]

    def _meet(self, low: int, high: int) -> Verdict:
        """Look for a stage from what is reached to what reaches the end."""
        for b in range(high, self.last + 1):
            sources = [(self.levels[a], b - a) for a in range(low + 1)]
            where, row = self.joints.reach(self.levels[b], sources, self.last - b)
            hits = np.flatnonzero(row >= 0)
            if len(hits):
                self._trace(int(where[hits[0]]), int(row[hits[0]]), b, int(hits[0]))
                return Verdict.FOUND
            if self.work > self.budget:
                return Verdict.UNDECIDED
        return Verdict.IMPOSSIBLE

    def _trace(self, a: int, row_a: int, b: int, row_b: int) -> None:
        """Walk to both ends and price the stages."""
        path = [(a, row_a), (b, row_b)]
        while path[0][0]:
            where, row = self.from_left[path[0][0]]
            path.insert(0, (int(where[path[0][1]]), int(row[path[0][1]])))
        while path[-1][0] < self.last:
            where, row = self.to_right[path[-1][0]]
            path.append((int(where[path[-1][1]]), int(row[path[-1][1]])))
        members = [self.levels[d].members(np.array([row]))[0] for d, row in path]
        stage_of = np.zeros(self.turns.problem.n, dtype=np.int64)
        replicas, slowest = [], 0.0
        for stage, (before, after) in enumerate(pairwise(members)):
            stage_of[after & ~before] = stage
            parts = self.joints.parts((after & ~before)[None, :])
            at_most, rest = path[stage + 1][0] - path[stage][0], self.last - path[stage + 1][0]
            m = int(self.turns.needed(parts, self.target, rest, at_most)[0])
            replicas.append(m)
            slowest = max(slowest, float(self.turns.time_ms(parts, m)[0]))
        self.layout = Layout(slowest, stage_of, tuple(replicas))
