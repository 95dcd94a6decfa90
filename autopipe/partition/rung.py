"""One relaxation of a problem, searched by windows, by a sweep over all downsets and by bisection.

::

    Rung            relaxed, reduced      every bound holds for the whole problem
      windows  ask for better than the best until there is none
      fused    the same with blocks fused
      sweep    the same over all downsets if they fit in memory, else level by level
      bisect   the largest target that is proven impossible, where none of these ends in time
"""

from __future__ import annotations

import enum

import numpy as np

from autopipe.partition.attempt import Verdict, attempt
from autopipe.partition.blocks import fuse_blocks
from autopipe.partition.incumbent import RELATIVE, Incumbent
from autopipe.partition.lattice import build_lattice
from autopipe.partition.polish import stage_loads
from autopipe.partition.problem import Ints
from autopipe.partition.reach import Reach
from autopipe.partition.reduce import Reduced
from autopipe.partition.relaxed import Relaxed, place_dropped
from autopipe.partition.strides import Strides
from autopipe.partition.sweep import Path, Sweep
from autopipe.partition.symmetric import Symmetric
from autopipe.partition.walk import walk

_DOWNSETS = 400_000
"""Downsets up to which all of them are swept over."""

_CELLS = 200_000_000
"""The same in downsets times items, for the memory that they take."""

_NEAR = 1e-3
"""Gap below which the next target is just below the best split, not halfway."""

_WIDTH = 24
"""Downsets a level that quick walks follow."""

_QUICK = 6
"""A quick walk spends at most this part of the budget on one target."""

_TARGETS = 4
"""The same for a whole walk."""

_AT_ONCE = 8
"""The same for a first walk just below the best split, which often decides it."""

_FEW = 4
"""Ends of a net up to which they count as near each other."""


class Stopped(enum.StrEnum):
    """What ended a search."""

    OPTIMAL = "optimal"
    RELAXATION = "relaxation"
    BUDGET = "work budget"


class Rung:
    """One relaxation.

    Args:
        best: Where splits and bounds are kept.
        relaxed: The relaxed problem.
        reduced: What reduction leaves of it.
        reach: The closure of that, if it is known.
    """

    def __init__(
        self, best: Incumbent, relaxed: Relaxed, reduced: Reduced, reach: Reach | None = None
    ) -> None:
        """Close the precedence of the reduced problem."""
        self.best, self.relaxed, self.reduced = best, relaxed, reduced
        self.reach = reach or Reach(reduced.problem)
        self.work = 0
        self.found: Ints | None = None
        self.lifted: Ints | None = None
        self.known: tuple[Strides, Symmetric] | None = None
        self.least = np.inf

    def windows(self, budget: int) -> Stopped:
        """Ask for better than the best until there is none, each time with that budget."""
        best = self.best
        while True:
            outcome = attempt(self.reduced.problem, self.reach, best.below, budget)
            self.work += outcome.work
            if outcome.verdict is Verdict.IMPOSSIBLE:
                best.prove(best.upper)
                return Stopped.OPTIMAL
            if outcome.stage_of is None:
                return Stopped.BUDGET
            best.prove(outcome.bottleneck_ms)
            self.least = outcome.bottleneck_ms
            before = best.upper
            self._lift(outcome.stage_of)
            if best.closed():
                return Stopped.OPTIMAL
            if best.upper >= before * (1 - RELATIVE):
                return Stopped.RELAXATION

    def fused(self) -> Rung:
        """The same relaxation with blocks fused."""
        blocks = fuse_blocks(self.reduced.problem)
        if blocks.problem.n == self.reduced.problem.n:
            return self
        reduced = Reduced(blocks.problem, blocks.item_of[self.reduced.item_of])
        return Rung(self.best, self.relaxed, reduced)

    def sweep(self, budget: int) -> Stopped:
        """Sweep over all downsets if there are few enough, until the optimum is proven; else walk."""
        best, problem = self.best, self.reduced.problem
        lattice = build_lattice(problem, min(_DOWNSETS, _CELLS // max(problem.n, 64)))
        if lattice is None:
            return self._walk(budget)
        sweep = Sweep(problem, lattice)
        high, target = best.upper, best.below
        while True:
            path = sweep.run(target, budget // 2 - self.work)
            self.work += path.work
            if not path.complete:
                return self._walk(budget)
            if path.stage_of is None:
                best.prove(target)
            else:
                high = path.bottleneck_ms
                self._lift(path.stage_of)
            if best.lower >= high * (1 - 2 * RELATIVE):
                best.prove(high)
                return Stopped.OPTIMAL if best.closed() else Stopped.RELAXATION
            near = high - best.lower < _NEAR * high
            target = high * (1 - RELATIVE) if near else (high + best.lower) / 2

    def _walk(self, budget: int) -> Stopped:
        """Close in on the optimum from above by quick walks, then from below by whole ones."""
        best = self.best
        self._ask(self._top() * (1 - RELATIVE), budget // _AT_ONCE)
        near = self._top() - best.lower <= _NEAR * self._top()
        for width, until in ((None, budget),) if near else ((_WIDTH, budget // 2), (None, budget)):
            near = self._met() or self._close_in(
                until, budget // (_TARGETS if width is None else _QUICK), width
            )
            while near and not self._met() and self.work < until:
                share = max(until - self.work, budget // _TARGETS)
                near = self._ask(self._top() * (1 - RELATIVE), share).complete
            if self._met():
                best.prove(self._top())
                return Stopped.OPTIMAL if best.closed() else Stopped.RELAXATION
        return Stopped.BUDGET

    def _top(self) -> float:
        """What the optimum of the relaxation is at most."""
        return min(self.least, self.best.upper)

    def _met(self) -> bool:
        return self.best.lower >= self._top() * (1 - 2 * RELATIVE)

    def _close_in(self, budget: int, share: int, width: int | None) -> bool:
        """Halve what is open, target by target; one that is not decided is taken for what is likely.

        Returns:
            Whether nothing is left open but what is just below the best.
        """
        low, high = self.best.lower, self._top()
        while self.work < budget and high - low > _NEAR * high:
            target = (high + low) / 2
            path = self._ask(target, min(share, budget - self.work), width)
            if path.stage_of is not None:
                if width is None:
                    self._ask(self._top() * (1 - RELATIVE), min(share, budget - self.work))
                if self._met():
                    return True
                high = self._top()
            elif path.complete or width is not None:
                low = target
            else:
                high = target
        return high == self._top() and high - low <= _NEAR * high

    def _ask(self, target: float, budget: int, width: int | None = None) -> Path:
        """Walk for one target and take what comes of it."""
        problem = self.reduced.problem
        if self.known is None:
            self.known = Strides(problem, self.reach, self.best.upper), Symmetric.of(problem, self.reach)
        path = walk(problem, self.reach, *self.known, target, budget, width)
        self.work += path.work
        if path.stage_of is not None:
            self.least = min(self.least, path.bottleneck_ms)
            self._lift(path.stage_of)
        elif path.complete:
            self.best.prove(target)
        return path

    def bisect(self, budget: int) -> None:
        """Look for the largest target that is proven impossible."""
        best = self.best
        low, high = best.lower, best.upper
        share, left = max(budget // 8, 10_000), budget
        while high - low > _NEAR * best.upper and left > 0:
            target = (low + high) / 2
            outcome = attempt(self.reduced.problem, self.reach, target, share)
            self.work += outcome.work
            left -= max(outcome.work, share // 50)
            if outcome.verdict is Verdict.IMPOSSIBLE:
                low = target
                best.prove(low)
                continue
            high = target
            if outcome.stage_of is not None:
                best.prove(outcome.bottleneck_ms)
                self._lift(outcome.stage_of)
                return

    def _lift(self, stage_of: Ints) -> None:
        """Make a split of the relaxed problem one of the whole."""
        self.found = self.reduced.expand(stage_of)
        placed = place_dropped(self.best.problem, self.relaxed, self.found)
        self.lifted = self.best.offer(placed, "downsets")

    def culprits(self) -> frozenset[int]:
        """Items that the relaxation left out of, or beside, the stages that are dearer than the bound."""
        best, problem = self.best, self.best.problem
        if self.lifted is None:
            return frozenset()
        dear = stage_loads(problem, self.lifted) > best.lower * (1 + RELATIVE)
        near = dear[self.lifted]
        for pins in problem.pins:
            if near[list(pins)].any():
                near[list(pins)] = near[list(pins)] | (len(pins) <= _FEW)
        lighter = np.zeros(problem.n, dtype=bool)
        lighter[list(self.relaxed.dropped)] = True
        kept, at = self.relaxed.whole()
        lighter[kept] = (self.relaxed.problem.weight[:, at] < problem.weight[:, kept]).any(axis=0)
        return frozenset(np.flatnonzero(lighter & near).tolist())
