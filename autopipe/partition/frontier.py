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

from dataclasses import dataclass

import numpy as np

from autopipe.partition.attempt import Verdict, levels_within
from autopipe.partition.downsets import Downsets, lone_downset
from autopipe.partition.extensions import extend
from autopipe.partition.needless import Needless
from autopipe.partition.pairs import StagePrices
from autopipe.partition.problem import Floats, Ints, Problem
from autopipe.partition.reach import Bools, Reach
from autopipe.partition.rows import Words
from autopipe.partition.sweep import Path
from autopipe.partition.windows import Windows

_NARROW = 20_000
"""Partial downsets up to which a level is enumerated beforehand, to narrow the windows."""

_TOGETHER = 60_000
"""Partial downsets built at once."""

_TIGHTEN = 100_000
"""Work of narrowing a window once more, a level."""

_NONE = np.zeros(0, dtype=np.int64), np.zeros(0)


def walk(problem: Problem, reach: Reach, target: float, budget: int) -> Path:
    """Is there a split whose stages all cost no more than the target?

    Args:
        problem: The items; transfers summed with compute, no memory limit, stages may stay empty.
        reach: Their closure.
        target: T, milliseconds.
        budget: Work in rows by items, about 1e7 a second.

    Returns:
        A split, or the proof that there is none; neither if the budget ended first.

    Complexity: O(items) a row that a kept downset leads to.
    """
    narrowed = levels_within(problem, reach, target, budget // 4, cap=_NARROW)
    if narrowed.verdict is Verdict.IMPOSSIBLE:
        return Path(None, np.inf, True, narrowed.work)
    walking = _Walk(problem, narrowed.windows, budget - narrowed.work)
    path = walking.path()
    return Path(path.stage_of, path.bottleneck_ms, path.complete, narrowed.work + path.work)


@dataclass(frozen=True, slots=True)
class _Front:
    """Kept downsets of a level.

    Args:
        downsets: Their rows.
        begin: Row of the level before.
        dearest: Dearest stage so far, `[rows]` ms.
    """

    downsets: Downsets
    begin: Ints
    dearest: Floats


class _Walk:
    def __init__(self, problem: Problem, windows: Windows, budget: int) -> None:
        self.problem, self.windows, self.budget = problem, windows, budget
        self.work = 0
        self.needless = Needless(problem)

    def path(self) -> Path:
        nothing = lone_downset(self.windows, everything=False)
        fronts = [_Front(nothing, np.zeros(1, dtype=np.int64), np.zeros(1))]
        for j in range(1, self.problem.k):
            front = self._step(j, fronts[-1])
            if front is None:
                return Path(None, np.inf, False, self.work)
            if not len(front.downsets):
                return Path(None, np.inf, True, self.work)
            fronts.append(front)
        return self._last(fronts)

    def _last(self, fronts: list[_Front]) -> Path:
        """The cheapest last stage."""
        front = fronts[-1]
        dearest = self._ends(front.downsets, front.begin, front.dearest)
        if dearest.min() > self.windows.target:
            return Path(None, np.inf, True, self.work)
        return Path(self._stages(fronts, int(dearest.argmin())), float(dearest.min()), True, self.work)

    def _ends(self, downsets: Downsets, _: Ints, dearest: Floats) -> Floats:
        """The dearest stage if one more takes what is left of each downset."""
        everything = lone_downset(self.windows, everything=True)
        prices = StagePrices(self.problem, self.problem.k - 1, downsets, everything)
        rows = np.arange(len(downsets))
        return np.maximum(dearest, prices.cost(rows, np.zeros_like(rows)))

    def _step(self, j: int, before: _Front) -> _Front | None:
        """What one stage leads to; None if the budget ends."""
        if j > 1:
            before.downsets.narrow(self.windows, j - 1)
            if not self.windows.tighten(rounds=2):
                return _Front(before.downsets.keep(np.zeros(len(before.downsets), dtype=bool)), *_NONE)
        parts: list[tuple[Downsets, Ints, Floats]] = []
        todo = [(np.arange(len(before.downsets)), self.windows)]
        while todo:
            rows, windows = todo.pop()
            found, work = extend(windows, j, before.downsets.keep(rows), _TOGETHER)
            self.work += work
            if self.work > self.budget:
                return None
            if found is None:
                todo += self._halves(j, before.downsets, rows, windows)
                continue
            downsets, begin, cost = found
            if len(downsets):
                parts.append((downsets, rows[begin], np.maximum(cost, before.dearest[rows[begin]])))
            if j == self.problem.k - 1 and parts and self._ends(*parts[-1]).min() <= self.windows.target:
                return _Front(*parts[-1])
        return self._kept(parts, before)

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

    def _kept(self, parts: list[tuple[Downsets, Ints, Floats]], before: _Front) -> _Front:
        if not parts:
            return _Front(before.downsets.keep(np.zeros(len(before.downsets), dtype=bool)), *_NONE)
        downsets, begin, dearest = _joined(parts)
        keep = _distinct(downsets.bits, dearest)
        keep = keep[~self.needless.among(downsets.keep(keep))]
        self.work += len(downsets) * max(1, len(downsets.items) // 64)
        return _Front(downsets.keep(keep), begin[keep], dearest[keep])

    def _stages(self, fronts: list[_Front], row: int) -> Ints:
        """Stages of the items, along the way back from a downset of the last level."""
        stage_of = np.full(self.problem.n, self.problem.k - 1, dtype=np.int64)
        for j in range(self.problem.k - 1, 0, -1):
            front = fronts[j]
            one = np.arange(len(front.downsets)) == row
            stage_of[front.downsets.keep(one).members()[0]] = j - 1
            row = int(front.begin[row])
        return stage_of


def _middle(windows: Windows, j: int) -> int:
    """The open item of a level with the most on either side of it."""
    level, ancestors = windows.levels[j], windows.reach.ancestors
    items = np.flatnonzero(~level.inside & ~level.outside)
    among = ancestors[np.ix_(items, items)]
    return int(items[np.minimum(among.sum(axis=0), among.sum(axis=1)).argmax()])


def _joined(parts: list[tuple[Downsets, Ints, Floats]]) -> tuple[Downsets, Ints, Floats]:
    """All parts with the same open items."""
    every = [part for part, _, _ in parts]
    inside = np.logical_and.reduce([part.members().all(axis=0) for part in every])
    some = np.logical_or.reduce([part.members().any(axis=0) for part in every])
    items = np.flatnonzero(some & ~inside)
    downsets = Downsets(
        items,
        inside,
        np.concatenate([_packed(part.members()[:, items]) for part in every]),
        np.concatenate([part.weight for part in every]),
        np.concatenate([part.send for part in every], axis=1),
        np.concatenate([part.receive for part in every], axis=1),
    )
    begin, dearest = (np.concatenate(columns) for columns in list(zip(*parts, strict=True))[1:])
    return downsets, begin, dearest


def _packed(members: Bools) -> Words:
    """Rows of bits."""
    octets = np.packbits(members, axis=1, bitorder="little")
    n_words = max(1, -(-members.shape[1] // 64))
    padded = np.zeros((len(members), 8 * n_words), dtype=np.uint8)
    padded[:, : octets.shape[1]] = octets
    return padded.view(np.uint64)


def _distinct(bits: np.ndarray, dearest: Floats) -> Ints:
    """One row of each downset, the one whose stages so far are cheapest."""
    order = np.lexsort((dearest, *bits.T))
    fresh = np.ones(len(order), dtype=bool)
    fresh[1:] = (bits[order[1:]] != bits[order[:-1]]).any(axis=1)
    return order[fresh]
