"""One target: prove that no split stays within it, or find the best one that does.

::

    tighten windows --> enumerate the level with the fewest open items --> its downsets tighten the
         ^                                                                 windows of the levels beside it
         |_________________________________________________________________________|
    all levels enumerated --> dynamic programming with exact costs
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

import numpy as np

from autopipe.partition.dag_dp import best_chain
from autopipe.partition.downsets import Downsets, Enumeration, lone_downset
from autopipe.partition.problem import Ints, Problem
from autopipe.partition.reach import Reach
from autopipe.partition.windows import Windows


class Verdict(enum.Enum):
    """What one target came to."""

    IMPOSSIBLE = "no split stays within the target"
    FOUND = "the best split within the target"
    UNDECIDED = "the budget ended first"


@dataclass(frozen=True, slots=True)
class Outcome:
    """A verdict, and the best split if there is one within the target."""

    verdict: Verdict
    work: int
    bottleneck_ms: float = np.inf
    stage_of: Ints | None = None


def attempt(problem: Problem, reach: Reach, target: float, budget: int) -> Outcome:
    """Decide one target.

    Args:
        problem: The items.
        reach: Their closure.
        target: T, milliseconds.
        budget: Work in rows by items, about 1e7 a second.

    Returns:
        The verdict; IMPOSSIBLE is a proof that the optimum is above the target, and FOUND has the
        optimum itself.

    Complexity: windows need O(k) minimum cuts a round; the rest depends on how many downsets are left.
    """
    return _Attempt(problem, reach, target, budget).run()


@dataclass(frozen=True, slots=True)
class Within:
    """All downsets that a split within a target can go through, level by level.

    Args:
        windows: The windows of the levels.
        levels: Their downsets; None if there is no such split, or if that was not decided.
        verdict: IMPOSSIBLE or UNDECIDED where there are no levels.
        work: What it took.
    """

    windows: Windows
    levels: list[Downsets] | None
    verdict: Verdict | None
    work: int


def levels_within(
    problem: Problem, reach: Reach, target: float, budget: int, cap: int | None = None
) -> Within:
    """Enumerate what a split whose stages all stay within a target can go through.

    Args:
        problem: The items.
        reach: Their closure.
        target: T, milliseconds.
        budget: Work in rows by items, about 1e7 a second.
        cap: Partial downsets after which a level is given up.

    Returns:
        The levels: every such split is a chain through them.

    Complexity: as :func:`attempt`, without its dynamic programming.
    """
    work = _Attempt(problem, reach, target, budget, cap or _LAST_CAP)
    verdict = work.prepare()
    return Within(work.windows, work.in_order() if verdict is None else None, verdict, work.work)


_FIRST_CAP = 2_000
"""Partial downsets after which a level is put off until its neighbours are known."""

_LAST_CAP = 600_000
"""Partial downsets after which a level is given up."""


class _Attempt:
    def __init__(
        self, problem: Problem, reach: Reach, target: float, budget: int, cap: int = _LAST_CAP
    ) -> None:
        self.problem, self.reach, self.budget, self.cap = problem, reach, budget, cap
        self.windows = Windows(problem, reach, target)
        self.levels: dict[int, Downsets] = {
            0: lone_downset(self.windows, everything=False),
            problem.k: lone_downset(self.windows, everything=True),
        }
        self.work = 0

    def prepare(self) -> Verdict | None:
        """Enumerate and thin out the levels; None if there may be a split through them."""
        known = self.windows.tighten() and self._all_levels()
        if known is None:
            return Verdict.UNDECIDED
        return None if known and self._refine() else Verdict.IMPOSSIBLE

    def in_order(self) -> list[Downsets]:
        """Downsets of levels 0 to k."""
        return [self.levels[j] for j in range(self.problem.k + 1)]

    def run(self) -> Outcome:
        verdict = self.prepare()
        if verdict is not None:
            return Outcome(verdict, self.work)
        chain = best_chain(self.problem, self.windows, self.in_order(), self.budget)
        self.work += chain.work
        if not chain.complete:
            return Outcome(Verdict.UNDECIDED, self.work)
        if chain.stage_of is None:
            return Outcome(Verdict.IMPOSSIBLE, self.work)
        return Outcome(Verdict.FOUND, self.work, chain.bottleneck_ms, chain.stage_of)

    def _all_levels(self) -> bool | None:
        """Enumerate all levels: False if one has no downset, None if the budget ends first."""
        todo = set(range(1, self.problem.k))
        cap = _FIRST_CAP
        while todo:
            j = self._enumerate(todo, cap)
            if j is None:
                cap *= 8
                if self.work > self.budget or cap > self.cap:
                    return None
                continue
            todo.discard(j)
            if not len(self.levels[j]) or not self._settle(j):
                return False
        return True

    def _enumerate(self, todo: set[int], cap: int) -> int | None:
        for j in sorted(todo, key=lambda x: (self.windows.n_open(x), x)):
            n_words = max(1, self.windows.n_open(j) // 64)
            enumeration = Enumeration(self.windows, j, cap, (self.budget - self.work) / n_words)
            downsets = enumeration.run()
            self.work += enumeration.work * n_words
            if downsets is not None:
                self.levels[j] = downsets
                return j
            if self.work > self.budget:
                return None
        return None

    def _refine(self) -> bool:
        """Let the levels rule out each other's downsets until they agree."""
        for _ in range(6):
            before = sum(map(len, self.levels.values()))
            for j in (*range(1, self.problem.k), *range(self.problem.k - 2, 0, -1)):
                rules = Enumeration(self.windows, j, 0)
                keep = rules.still_allowed(self.levels[j])
                self.work += len(keep)
                if not keep.any():
                    return False
                if not keep.all():
                    self.levels[j] = self.levels[j].keep(keep)
                    self.levels[j].narrow(self.windows, j)
            if not self.windows.tighten(rounds=2):
                return False
            if sum(map(len, self.levels.values())) > 0.9 * before:
                break
        return True

    def _settle(self, j: int) -> bool:
        """Learn from a level and narrow the windows beside it."""
        self.levels[j].narrow(self.windows, j)
        return self.windows.tighten(rounds=2)
