"""Which downsets of a level need not be kept, because a larger one can stand for them.

::

    a b  --c->  a b c      c is no dearer to make than its own weight and the nets that it closes:
                           whatever follows a b can follow a b c, and no later stage gets dearer
"""

from __future__ import annotations

import numpy as np

from autopipe.partition.downsets import Downsets
from autopipe.partition.problem import Problem
from autopipe.partition.reach import Bools

_ROUNDING = 1e-13
"""Share of all compute below which a loss is rounding."""


class Needless:
    """Finds downsets that a larger one stands for.

    Args:
        problem: The items.
    """

    def __init__(self, problem: Problem) -> None:
        """Sort the nets by item."""
        self.problem = problem
        self.weight = problem.weight.min(axis=0)
        self.rounding = _ROUNDING * float(self.weight.sum())
        self.least = np.minimum(problem.cin, problem.cout).min(axis=0)
        self.most = np.maximum(problem.cin, problem.cout).max(axis=0)
        self.nets_of: list[list[int]] = [[] for _ in range(problem.n)]
        for net, pins in enumerate(problem.pins):
            for pin in pins:
                self.nets_of[pin].append(net)
        self.hash = np.random.default_rng(0).integers(1, 2**63, size=problem.n, dtype=np.uint64)

    def among(self, downsets: Downsets) -> Bools:
        """Which rows have a larger one, one item more at a time, that every later stage gains from."""
        needless = np.zeros(len(downsets), dtype=bool)
        if len(downsets) < 2:
            return needless
        columns = dict(zip(downsets.items.tolist(), downsets.matrix().T, strict=True))
        keys = np.zeros(len(downsets), dtype=np.uint64)
        for item, held in columns.items():
            keys ^= np.where(held, self.hash[item], np.uint64(0))
        order = np.argsort(keys, kind="stable")
        ranked = keys[order]
        for at, item in enumerate(downsets.items.tolist()):
            rows = np.flatnonzero(self._gains(item, columns, downsets.inside))
            place = np.minimum(np.searchsorted(ranked, keys[rows] ^ self.hash[item]), len(order) - 1)
            larger = downsets.bits[rows]
            larger[:, at // 64] |= np.uint64(1) << np.uint64(at % 64)
            needless[rows[(downsets.bits[order[place]] == larger).all(axis=1)]] = True
        return needless

    def _gains(self, item: int, columns: dict[int, Bools], inside: Bools) -> Bools:
        """Rows that can take an item, and whose later stages get no dearer by that."""
        problem, held = self.problem, columns[item]
        gain = np.full(len(held), self.weight[item])
        for net in self.nets_of[item]:
            others = [x for x in problem.pins[net] if x != item]
            some, whole = np.zeros(len(held), dtype=bool), np.ones(len(held), dtype=bool)
            for x in others:
                has = columns[x] if x in columns else inside[x]
                some |= has
                whole &= has
            gain += np.where(some & whole, self.least[net], 0.0)
            gain -= np.where(~some & ~whole, self.most[net], 0.0)
            if item == problem.maker[net]:
                gain -= np.where(some & ~whole, self.most[net] - self.least[net], 0.0)
        good: Bools = ~held & (gain >= -self.rounding)
        for before in problem.preds[item]:
            if not inside[before]:
                good &= columns.get(before, np.False_)
        return good
