r"""Chains of what a relaxation kept, one downset a level, that some split within the target may go through.

::

    level 1             level 2            downsets that differ in units of pools alone are one; how many
    a b  u1..u3         a b c  u1..u9      units a stage can take is what the target leaves beside its kept
    a b  u1..u4  \____  a b c  u1..u8      items, and so many have to be taken until the end
                 /
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from autopipe.partition.attempt import Verdict, levels_within
from autopipe.partition.downsets import Downsets
from autopipe.partition.pairs import PAIR, StagePrices, contained
from autopipe.partition.problem import Floats, Ints, Problem
from autopipe.partition.reach import Bools, Reach
from autopipe.partition.relaxed import Relaxed

_MANY = 1_000
"""Chains after which they are too many."""

_ROUNDING = 1e-9
"""Share of the target that may be rounding."""


@dataclass(frozen=True, slots=True)
class Chain:
    """A chain of kept items.

    Args:
        inside: Which of them are done after 0 to k stages, `[k + 1, kept]`.
        least: Weight of the units that have to be done by then, `[k + 1]` ms.
        most: Weight of those that may be, `[k + 1]` ms.
    """

    inside: Bools
    least: Floats
    most: Floats


@dataclass(frozen=True, slots=True)
class Chains:
    """All chains.

    Args:
        chains: The likeliest first; None if they are too many.
        work: What it took, about 1e7 a second.
    """

    chains: list[Chain] | None
    work: int


def unit_weights(problem: Problem) -> Floats:
    """What items weigh at least, by which units are measured, `[n]` ms."""
    weight: Floats = problem.weight.min(axis=0)
    return weight


def chains_within(relaxed: Relaxed, target: float, budget: int) -> Chains:
    """List the chains of kept items that the splits of a relaxed problem within a target go through.

    Args:
        relaxed: The relaxed problem; transfers summed with compute, no memory limit.
        target: T, ms.
        budget: Work, about 1e7 a second.

    Returns:
        The chains, a few too many perhaps.

    Complexity: as of listing all levels; then pairs of downsets that differ in kept items, and chains.
    """
    problem = relaxed.problem
    within = levels_within(problem, Reach(problem), target, budget)
    if within.levels is None:
        return Chains([] if within.verdict is Verdict.IMPOSSIBLE else None, within.work)
    levels = [_Level(relaxed, downsets) for downsets in within.levels]
    pairs = PAIR * sum(len(a.kept) * len(b.kept) for a, b in pairwise(levels))
    if within.work + pairs > budget:
        return Chains(None, within.work)
    search = _Search(relaxed, levels, target * (1 + _ROUNDING))
    found = search.run()
    return Chains(found, within.work + pairs + search.steps * PAIR)


class _Level:
    """Downsets of one level, without what tells only units apart."""

    def __init__(self, relaxed: Relaxed, downsets: Downsets) -> None:
        members, is_unit = downsets.members(), relaxed.kept < 0
        self.kept, first, which = np.unique(
            members[:, ~is_unit], axis=0, return_index=True, return_inverse=True
        )
        units = members[:, is_unit] @ unit_weights(relaxed.problem)[is_unit]
        self.least, self.most = np.full((2, len(self.kept)), [[np.inf], [0.0]])
        np.minimum.at(self.least, which.ravel(), units)
        np.maximum.at(self.most, which.ravel(), units)
        self.one_each = downsets.keep(first)


class _Search:
    """Goes through the chains from the first stage to the last."""

    def __init__(self, relaxed: Relaxed, levels: list[_Level], target: float) -> None:
        self.levels, self.target, self.steps = levels, target, 0
        is_unit = relaxed.kept < 0
        free = replace(relaxed.problem, weight=np.where(is_unit, 0.0, relaxed.problem.weight))
        self.unit = np.unique(unit_weights(relaxed.problem)[is_unit])
        self.rounding = target * _ROUNDING
        self.room = [self._room(free, stage) for stage in range(free.k)]
        self.needed = self._needed()
        self.found: list[Chain] = []

    def _room(self, problem: Problem, stage: int) -> Floats:
        """Units that fit beside the kept items of a stage, -infinity if there is no such stage, `[a, b]`."""
        before, after = self.levels[stage], self.levels[stage + 1]
        prices = StagePrices(problem, stage, before.one_each, after.one_each)
        rows, columns = np.nonzero(contained(before.kept, (~after.kept).astype(np.float32)))
        room: Floats = np.full((len(before.kept), len(after.kept)), -np.inf)
        room[rows, columns] = self.target - prices.cost(rows, columns)
        room[room < 0] = -np.inf
        if len(self.unit) == 1 and self.unit[0] > self.rounding:
            room = np.floor(room / self.unit[0] + _ROUNDING) * self.unit[0]
        return room

    def _needed(self) -> list[Floats]:
        """Units that must be done by each level, so that the later stages can take the others."""
        needed = [level.least.copy() for level in self.levels]
        for stage in reversed(range(len(self.room))):
            least = (needed[stage + 1][None, :] - self.room[stage]).min(axis=1)
            needed[stage] = np.maximum(needed[stage], least)
            needed[stage][least > self.levels[stage].most + self.rounding] = np.inf
        return needed

    def run(self) -> list[Chain] | None:
        """The chains, or None if they are too many."""
        return self.found if self._follow([0], [0.0]) else None

    def _follow(self, path: list[int], units: list[float]) -> bool:
        """Go on from a chain with as many units as it can have taken; False if there are too many."""
        stage = len(path) - 1
        if stage == len(self.room):
            self.found.append(self._chain(path, units))
            return len(self.found) <= _MANY
        room, after = self.room[stage][path[-1]], self.levels[stage + 1]
        taken = np.minimum(units[-1] + room, after.most)
        self.steps += len(room)
        good = np.flatnonzero(np.isfinite(room) & (taken >= self.needed[stage + 1] - self.rounding))
        order: Ints = good[np.argsort(-room[good], kind="stable")]
        return self.steps <= _MANY * _MANY and all(
            self._follow([*path, at], [*units, float(taken[at])]) for at in order.tolist()
        )

    def _chain(self, path: list[int], units: list[float]) -> Chain:
        """A chain with the units that its own stages leave room for."""
        inside = np.array([level.kept[at] for level, at in zip(self.levels, path, strict=True)])
        least = [float(level.least[at]) for level, at in zip(self.levels, path, strict=True)]
        for stage in reversed(range(len(self.room))):
            room = float(self.room[stage][path[stage], path[stage + 1]])
            least[stage] = max(least[stage], least[stage + 1] - room)
        return Chain(inside, np.array(least), np.array(units))
