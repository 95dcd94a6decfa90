r"""Decide a target level by level, from the downsets that stages within it lead to.

::

    level   0        1           2
            {}  -->  a b    -->  a b c d      of what is reached only those are kept that no larger one
                     a c         a b c e      can stand for, as in a sweep; nothing else is listed
                     ^ kept

A sweep needs all downsets of the graph at once; here only those within the windows of a target and one
stage beyond what was kept are enumerated, each with the exact cost of its stage.
"""

from __future__ import annotations

import numpy as np

from autopipe.partition.downsets import Downsets, lone_downset
from autopipe.partition.extensions import extend
from autopipe.partition.fronts import Front, joined
from autopipe.partition.needless import Needless
from autopipe.partition.pairs import StagePrices
from autopipe.partition.problem import Floats, Ints, Problem
from autopipe.partition.strides import Strides
from autopipe.partition.sweep import Path
from autopipe.partition.symmetric import Symmetric
from autopipe.partition.windows import Windows

_TOGETHER = 60_000
"""Partial downsets built at once."""

_AT_ONCE = 4_000
"""The same where only a few downsets are followed."""

_FIRST = 8
"""How many times as many downsets are looked at as are followed."""

_TIGHTEN = 10_000
"""Work of narrowing a window once more, a level."""


class Walk:
    """One target.

    Args:
        problem: The items; transfers summed with compute, no memory limit, stages may stay empty.
        windows: Their windows for the target.
        budget: Work in rows by items, about 1e7 a second.
        strides: What comes along with its items.
        branches: Which of them are alike.
        width: Follow only so many downsets of each level, those that reach farthest among the first that
            are found; a split may then be missed, and nothing is proven unless all were followed.
    """

    def __init__(
        self,
        problem: Problem,
        windows: Windows,
        budget: int,
        strides: Strides,
        branches: Symmetric,
        width: int | None = None,
    ) -> None:
        """Start before the first stage."""
        self.problem, self.windows, self.budget = problem, windows.copy(), budget
        self.width, self.complete = width, True
        self.together = _TOGETHER if width is None else min(_AT_ONCE, _TOGETHER)
        self.work = 0
        self.needless = Needless(problem, strides)
        self.along = strides if width is None else None
        self.branches = branches

    def path(self) -> Path:
        """A split within the target, or the proof that there is none; neither if the budget ended first.

        Complexity: O(items) a row that a kept downset leads to.
        """
        nothing = lone_downset(self.windows, everything=False)
        fronts = [Front(nothing, np.zeros(1, dtype=np.int64), np.zeros(1))]
        for j in range(1, self.problem.k):
            front = self.step(j, fronts[-1])
            if front is None:
                return Path(None, np.inf, False, self.work)
            if not len(front.downsets):
                return Path(None, np.inf, self.complete, self.work)
            fronts.append(front)
        return self._last(fronts)

    def _last(self, fronts: list[Front]) -> Path:
        """The cheapest last stage."""
        front = fronts[-1]
        dearest = self._ends(front)
        if dearest.min() > self.windows.target:
            return Path(None, np.inf, self.complete, self.work)
        return Path(self._stages(fronts, int(dearest.argmin())), float(dearest.min()), True, self.work)

    def _ends(self, front: Front) -> Floats:
        """The dearest stage if one more takes what is left of each downset."""
        everything = lone_downset(self.windows, everything=True)
        prices = StagePrices(self.problem, self.problem.k - 1, front.downsets, everything)
        rows = np.arange(len(front.downsets))
        return np.maximum(front.dearest, prices.cost(rows, np.zeros_like(rows)))

    def step(self, j: int, before: Front) -> Front | None:
        """What one stage leads to; None if the budget ends."""
        narrow = self.windows.copy() if self.branches.groups else self.windows
        if j > 1:
            before.downsets.narrow(narrow, j - 1)
            if not narrow.tighten(rounds=2):
                return before.keep(np.zeros(0, dtype=np.int64))
        parts: list[Front] = []
        todo = [(np.arange(len(before.downsets)), narrow)]
        while todo:
            if self.width and sum(len(part.downsets) for part in parts) >= _FIRST * self.width:
                self.complete = False
                break
            rows, windows = todo.pop()
            found, work = extend(windows, j, before.downsets.keep(rows), self.together, self.along)
            self.work += work
            if self.work > self.budget:
                return None
            if found is None:
                todo += self._halves(j, before.downsets, rows, windows)
                continue
            part = self._front(j, before, rows, *found)
            if len(part.downsets):
                parts.append(part)
            if j == self.problem.k - 1 and parts and self._ends(parts[-1]).min() <= self.windows.target:
                return parts[-1]
        return self.kept(parts, before)

    def _front(
        self, j: int, before: Front, rows: Ints, downsets: Downsets, begin: Ints, cost: Floats
    ) -> Front:
        """What some beginnings lead to, but for what has room for more."""
        start = rows[begin]
        front = Front(downsets, start, np.maximum(cost, before.dearest[start]))
        if self.along is None:
            return front
        members = before.downsets.keep(rows).members()[begin]
        needless = self.needless.with_room(downsets, members, cost, self.windows.target, j)
        return front.keep(~needless)

    def _halves(self, j: int, before: Downsets, rows: Ints, windows: Windows) -> list[tuple[Ints, Windows]]:
        """Two halves of some beginnings, or of what one leads to, with the windows of each."""
        both = []
        for side in (False, True):
            narrow = windows.copy()
            half = rows
            if len(rows) > 1:
                half = rows[len(rows) // 2 :] if side else rows[: len(rows) // 2]
                before.keep(half).narrow(narrow, j - 1)
            else:
                level, item = narrow.levels[j], _middle(windows, j)
                ancestors = windows.reach.ancestors
                if side:
                    level.inside |= ancestors[item]
                else:
                    level.outside |= ancestors[:, item]
            self.work += _TIGHTEN * self.problem.k
            if narrow.tighten(rounds=2):
                both.append((half, narrow))
        return both

    def kept(self, parts: list[Front], before: Front) -> Front:
        """What no larger downset can stand for."""
        if not parts:
            return before.keep(np.zeros(0, dtype=np.int64))
        front = joined(parts)
        self.work += len(front.downsets) * max(1, len(front.downsets.items) // 64)
        front = front.distinct().in_order(self.branches)
        front = front.keep(~self.needless.among(front.downsets))
        if self.width is None:
            spent, left = self.needless.work, self.budget - self.work
            overtaken = self.needless.overtaken(front.downsets, left)
            self.work += self.needless.work - spent
            return front.keep(~overtaken)
        self.complete &= len(front.downsets) <= self.width
        return front.keep(np.argsort(front.downsets.receive[0], kind="stable")[-self.width :])

    def _stages(self, fronts: list[Front], row: int) -> Ints:
        """Stages of the items, along the way back from a downset of the last level."""
        n = self.problem.n
        stage_of = np.full(n, self.problem.k - 1, dtype=np.int64)
        came_from = np.arange(n)
        for j in range(self.problem.k - 1, 0, -1):
            front = fronts[j]
            one = np.arange(len(front.downsets)) == row
            stage_of[came_from[front.downsets.keep(one).members()[0]]] = j - 1
            if front.turn is not None:
                came_from = came_from[self.branches.turned(front.turn[row], n)]
            row = int(front.begin[row])
        return stage_of


def _middle(windows: Windows, j: int) -> int:
    """The open item of a level with the most on either side of it."""
    level, ancestors = windows.levels[j], windows.reach.ancestors
    items = np.flatnonzero(~level.inside & ~level.outside)
    among = ancestors[np.ix_(items, items)]
    return int(items[np.minimum(among.sum(axis=0), among.sum(axis=1)).argmax()])
