"""Windows: which downsets can follow j stages of a split whose stages all stay within a target T.

::

    level     0      1            2            3      k = 3
              |------|------------|------------|
    most[j]   no downset after j stages has more of   weight - receive
    least[j]  none has less of                        weight + send

A split is a chain of downsets D_0 < D_1 < ... < D_k of items; stage j is D_j minus D_{j-1}. If it
weighs more than some ``light`` share of T, it touches every net whose two ends leave no more than that
weight beside them, so it pays for those that D_{j-1} cuts (``receive``) and those that D_j cuts
(``send``). Nets of which it is known otherwise that the stage touches them are added. Within T::

    weight(D_j) + send(D_j)    <= most[j-1] + T           (1)   or the stage before is light
    weight(D_j) - receive(D_j) >= least[j+1] - T          (2)   or the stage after is light
    (1) - (2):  send + receive <= most[j-1] - least[j+1] + 2 T

Minimum cuts over the items that a window leaves open bound the left side from below, which lowers
``most`` and raises ``least``; thinner windows force more items in or out, and so on until nothing
moves. If a level is left with no room, no split stays within T. Several values of ``light`` are
followed at once; each is a relaxation of its own.
"""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass

import numpy as np

from autopipe.partition.charges import CutNets, Sides, charged
from autopipe.partition.min_cut import LevelCuts
from autopipe.partition.problem import Floats, Problem
from autopipe.partition.reach import Bools, Reach

TINY = 1e-10
"""Relative slack of comparisons, so that rounding never cuts off a split."""

LIGHT = (0.5, 0.15, 0.02)
"""Shares of the target below which a stage counts as light, one relaxation each."""

MANY = 24
"""Stages beyond which one relaxation has to do."""

PRICE = 0.5
"""Multiplier of the Lagrangian bounds that trade weight for charges."""


@dataclass(slots=True)
class Level:
    """What is known about the downset after some stages.

    Args:
        inside: Items that are in it.
        outside: Items that are not.
        heaviest: No such downset weighs more.
        lightest: None weighs less.
        most: By relaxation: the most of weight less what the next stage receives for it.
        least: By relaxation: the least of weight plus what the last stage sends.
    """

    inside: Bools
    outside: Bools
    heaviest: float
    lightest: float
    most: list[float]
    least: list[float]

    def copy(self) -> Level:
        """The same, to be narrowed apart from this."""
        sides = self.inside.copy(), self.outside.copy()
        return Level(*sides, self.heaviest, self.lightest, self.most.copy(), self.least.copy())


class Windows:
    """Levels 0 to k for one target.

    Args:
        problem: The items.
        reach: Their closure.
        target: T, milliseconds.
    """

    def __init__(self, problem: Problem, reach: Reach, target: float) -> None:
        """Start from weights alone."""
        self.problem, self.reach, self.target = problem, reach, target
        self.k, self.overlap = problem.k, problem.overlap
        self.slack = TINY * max(1.0, reach.total)
        self.light = [share * target for share in (LIGHT if self.k <= MANY else LIGHT[:1])]
        total, n_relax = reach.total, len(self.light)
        self.levels = []
        for j in range(self.k + 1):
            most, least = min(j * target, total), max(total - (self.k - j) * target, 0.0)
            level = Level(
                problem.last < j, problem.first >= j, most, least, [most] * n_relax, [least] * n_relax
            )
            self.levels.append(level)
        self._thorough = False
        self._size_then = [np.inf] * (self.k + 1)
        self._cuts = [[[0.0] * 3 for _ in self.light] for _ in range(self.k + 1)]
        self._settled: list[int] = []
        self._forced: dict[int, tuple[float, ...]] = {}
        self.levels[0].outside[:] = True
        self.levels[self.k].inside[:] = True

    def copy(self) -> Windows:
        """The same levels, to be narrowed apart from these."""
        other = copy(self)
        other.levels = [level.copy() for level in self.levels]
        other._size_then = self._size_then.copy()
        other._cuts = [cuts.copy() for cuts in self._cuts]
        other._forced = self._forced.copy()
        return other

    def tighten(self, rounds: int = 4) -> bool:
        """Propagate forward and backward until nothing moves.

        Args:
            rounds: How often minimum cuts are taken again at levels whose window shrank.

        Returns:
            False if no split stays within the target: a proof.

        Complexity: at most 5 minimum cuts a level, relaxation and round.
        """
        self._settled = [self._n_settled(j) for j in range(self.k + 1)]
        for turn in range(rounds):
            fresh = False
            self._thorough = turn > 1
            for j in range(1, self.k):
                if not self.force(j):
                    return False
                fresh |= self._refresh(j)
                if not self._forward(j):
                    return False
            for j in range(self.k - 1, 0, -1):
                if not self.force(j):
                    return False
                fresh |= self._refresh(j)
                if not self._backward(j):
                    return False
            if not self._ends_meet():
                return False
            if not fresh:
                break
        return True

    def _refresh(self, j: int) -> bool:
        """Take the minimum cuts of a level again if its window or those beside it shrank."""
        size = 3 * self.problem.n - sum(self._settled[j - 1 : j + 2])
        if size >= (0.95 if self._thorough and size > 200 else 0.75) * self._size_then[j]:
            return False
        self._size_then[j] = size
        asked: list[tuple[float, float, Floats | None]] = [(1.0, 0.0, None), (0.0, 1.0, None)]
        if not self.overlap:
            asked.append((1.0, 1.0, None))
        if self._thorough and not self.overlap:
            traded = (1.0 - PRICE) * self.reach.weight
            asked += [(PRICE, 1.0, -traded), (1.0, PRICE, traded)]
        for r, light in enumerate(self.light):
            level = self.levels[j]
            cuts = LevelCuts(level.inside, level.outside, self.reach.arcs, self.charges(j, light))
            self._cuts[j][r] = cuts.least(asked, 4 * self.target)
        return True

    def n_open(self, j: int) -> int:
        """Items of a level that are neither in nor out."""
        level = self.levels[j]
        return self.problem.n - int(np.count_nonzero(level.inside | level.outside))

    def _n_settled(self, j: int) -> int:
        """Items that are in plus items that are out: more with every item that is learnt to be either."""
        level = self.levels[j]
        return int(np.count_nonzero(level.inside)) + int(np.count_nonzero(level.outside))

    def _ends_meet(self) -> bool:
        last = self.levels[self.k - 1]
        for r, light in enumerate(self.light):
            heavy = last.most[r] + self.target
            lighter = last.heaviest + light if self.may_be_light(self.k, light) else 0.0
            if max(heavy, lighter) < self.reach.total - self.slack:
                return False
        return True

    def may_be_light(self, stage: int, light: float) -> bool:
        """Can stage number `stage` (from 1) weigh no more than that?"""
        return self.levels[stage].lightest - self.levels[stage - 1].heaviest <= light

    def _forward(self, j: int) -> bool:
        level, before = self.levels[j], self.levels[j - 1]
        for r, light in enumerate(self.light):
            send, _, *both = self._cuts[j][r]
            lighter = before.heaviest + light if self.may_be_light(j, light) else -np.inf
            if self.overlap:
                level.heaviest = min(level.heaviest, max(before.heaviest + self.target, lighter))
                if send > self.target + self.slack and not self.may_be_light(j, light):
                    return False
                continue
            room = before.most[r] + self.target
            level.heaviest = min(level.heaviest, max(room - send, lighter))
            bound = room - both[0] if len(both) == 1 else min(room - both[0], PRICE * room - both[1])
            level.most[r] = min(level.most[r], max(bound, lighter), level.heaviest)
        if self.overlap:
            level.most = [level.heaviest] * len(self.light)
        return level.lightest <= level.heaviest + self.slack

    def _backward(self, j: int) -> bool:
        level, after = self.levels[j], self.levels[j + 1]
        for r, light in enumerate(self.light):
            _, receive, *both = self._cuts[j][r]
            heavier = after.lightest - light if self.may_be_light(j + 1, light) else np.inf
            if self.overlap:
                level.lightest = max(level.lightest, min(after.lightest - self.target, heavier))
                if receive > self.target + self.slack and not self.may_be_light(j + 1, light):
                    return False
                continue
            room = after.least[r] - self.target
            level.lightest = max(level.lightest, min(room + receive, heavier))
            bound = room + both[0] if len(both) == 1 else max(room + both[0], PRICE * room + both[2])
            level.least[r] = max(level.least[r], min(bound, heavier), level.lightest)
        if self.overlap:
            level.least = [level.lightest] * len(self.light)
        return level.lightest <= level.heaviest + self.slack

    def force(self, j: int) -> bool:
        """Find the items that must be in, or out, for what comes with them; False if one must be both."""
        level, reach = self.levels[j], self.reach
        known = level.heaviest, level.lightest, *self._settled[j - 1 : j + 2]
        if self._forced.get(j) == known:
            return True
        level.outside |= reach.before > level.heaviest + self.slack
        level.inside |= reach.total - reach.after < level.lightest - self.slack
        level.inside |= self.levels[j - 1].inside
        level.outside |= self.levels[j + 1].outside
        self._settled[j] = self._n_settled(j)
        if (level.inside & level.outside).any():
            return False
        self._forced[j] = level.heaviest, level.lightest, *self._settled[j - 1 : j + 2]
        return True

    def charges(self, j: int, light: float) -> CutNets:
        """The nets of a level with their sure charges, if no stage beside it weighs `light` or less."""
        level, before, after = self.levels[j], self.levels[j - 1], self.levels[j + 1]
        inside, outside = level.inside, level.outside
        sides = Sides(inside, outside, before.outside, after.inside, light)
        mirrored = Sides(outside, inside, after.inside, before.outside, light)
        forward = charged(self.reach.rooted, sides, forward=True)
        return forward.and_then(charged(self.reach.corooted, mirrored, forward=False))
