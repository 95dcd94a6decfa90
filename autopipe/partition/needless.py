r"""Which downsets of a level need not be kept, because a larger one can stand for them.

::

    a b  --c->  a b c      c is no dearer to make than its own weight and the nets that it closes:
                           whatever follows a b can follow a b c, and no later stage gets dearer

The larger one may be another row of the level, or one that its stage has room for. Between rows that differ
by more than an item, the way is looked for step by step: single items that gain, and strides.
"""

from __future__ import annotations

import numpy as np

from autopipe.partition.downsets import Downsets
from autopipe.partition.problem import Floats, Ints, Problem
from autopipe.partition.reach import Bools
from autopipe.partition.strides import Strides

_ROUNDING = 1e-13
"""Share of all compute below which a loss is rounding."""

_FITS = 1e-9
"""Share of the target by which one item more has to fit."""

_BLOCK = 256
"""Rows compared with all larger ones at once."""

_LARGER = 4096
"""With how many larger ones a row is compared, the heaviest: all of 70,000 take 15 s and gigabytes."""

_PAIR = 30
"""Work of looking for the way from one row to another."""

_PASSES = 2
"""How often the way from a row to a larger one is looked for, item by item."""


class Needless:
    """Finds downsets that a larger one stands for; counts the work of comparing them.

    Args:
        problem: The items.
        strides: What comes along with them.
    """

    def __init__(self, problem: Problem, strides: Strides) -> None:
        """Sort the nets by item."""
        self.problem, self.strides, self.work = problem, strides, 0
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
        """Which rows have a larger one, one item more at a time, that every later stage gains from.

        Complexity: O(pins rows).
        """
        needless = np.zeros(len(downsets), dtype=bool)
        if len(downsets) < 2:
            return needless
        columns = _columns(downsets)
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

    def with_room(self, downsets: Downsets, before: Bools, cost: Floats, target: float, j: int) -> Bools:
        """Which rows leave room for one item more that every later stage gains from.

        Args:
            downsets: Downsets of a level.
            before: For each the downset before the stage that leads to it, `[rows, n]`.
            cost: What that stage costs, `[rows]` ms.
            target: What it may cost, ms.
            j: The level.

        Returns:
            One flag a row.

        Complexity: O(pins rows).
        """
        needless = np.zeros(len(downsets), dtype=bool)
        columns = _columns(downsets)
        room = target * (1 - _FITS) - cost
        for item in downsets.items.tolist():
            if self.problem.first[item] >= j:
                continue
            rows = np.flatnonzero(self._gains(item, columns, downsets.inside) & ~needless)
            if len(rows):
                more = self._dearer(item, rows, columns, downsets.inside, before[rows], j)
                needless[rows[more <= room[rows]]] = True
        return needless

    def overtaken(self, downsets: Downsets, budget: int) -> Bools:
        """Which rows a larger one stands for, where a way from the one to the other is found.

        Args:
            downsets: Downsets of a level.
            budget: Work after which the rows that are left are kept unseen.

        Returns:
            One flag a row.

        Complexity: O(rows) times the thousands that each is compared with, O(pins) for each pair.
        """
        order = np.argsort(-downsets.weight, kind="stable")
        bits, matrix = downsets.bits[order], downsets.matrix()[order]
        needless = np.zeros(len(order), dtype=bool)
        until = self.work + budget
        for start in range(0, len(order), _BLOCK):
            if self.work > until:
                break
            mine = np.arange(start, min(start + _BLOCK, len(order)))
            others = np.flatnonzero(~needless[: mine[-1] + 1])[:_LARGER]
            smaller = mine[:, None] != others[None, :]
            for word in range(bits.shape[1]):
                smaller &= (bits[mine, word][:, None] & ~bits[others, word][None, :]) == 0
            small, large = mine[np.nonzero(smaller)[0]], others[np.nonzero(smaller)[1]]
            self.work += len(small) * _PAIR + smaller.size // _PAIR
            if len(small):
                needless[small[self._ways(downsets, matrix[small].T, matrix[large].T)]] = True
        result = np.zeros(len(order), dtype=bool)
        result[order] = needless
        return result

    def _ways(self, downsets: Downsets, small: Bools, large: Bools) -> Bools:
        """From which of the smaller downsets steps that gain lead to the larger, `[items, pairs]` both."""
        items, inside = downsets.items.tolist(), downsets.inside
        row_of = {item: at for at, item in enumerate(items)}
        now, goal = small.copy(), np.ascontiguousarray(large)
        columns = dict(zip(items, now, strict=True))
        for _ in range(_PASSES):
            for at, item in enumerate(items):
                wanted = goal[at] & ~now[at]
                if not wanted.any():
                    continue
                now[at] |= wanted & self._gains(item, columns, inside)
                wanted &= ~now[at] & self._possible(item, columns, inside)
                stride = self.strides.of(item) if wanted.any() else None
                if stride is not None:
                    along = [x for x in stride.items.tolist() if not inside[x]]
                    if all(x in row_of for x in along):
                        which = [row_of[x] for x in along]
                        now[which] |= wanted & goal[which].all(axis=0)
        reached: Bools = (now == goal).all(axis=0)
        return reached

    def _possible(self, item: int, columns: dict[int, Bools], inside: Bools) -> Bools:
        """Rows that hold what an item needs."""
        good = np.ones(len(columns[item]), dtype=bool)
        for before in self.problem.preds[item]:
            if not inside[before]:
                good &= columns.get(before, np.False_)
        return good

    def _dearer(
        self, item: int, rows: Ints, columns: dict[int, Bools], inside: Bools, before: Bools, j: int
    ) -> Floats:
        """What the stage before a downset costs more with one item more."""
        problem, kind = self.problem, self.problem.kind_of_stage[j - 1]
        more = np.full(len(before), float(problem.weight[kind, item]))
        for net in self.nets_of[item]:
            maker = int(problem.maker[net])
            touched, whole = np.zeros(len(before), dtype=bool), np.ones(len(before), dtype=bool)
            made = np.zeros(len(before), dtype=bool)
            for x in problem.pins[net]:
                if x != item:
                    has = (columns[x][rows] if x in columns else inside[x]) & ~before[:, x]
                    whole, touched = whole & has, touched | has
                    made |= has & (x == maker)
            cin, cout = problem.cin[kind, net], problem.cout[kind, net]
            more += np.where(whole, 0.0, np.where(made | (maker == item), cout, cin))
            more -= np.where(touched, np.where(made, cout, cin), 0.0)
        return more

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
            gain -= np.where(~some & ~whole, self.strides.opening[net], 0.0)
            if item == problem.maker[net]:
                gain -= np.where(some & ~whole, self.most[net] - self.least[net], 0.0)
        good: Bools = ~held & (gain >= -self.rounding)
        return good & self._possible(item, columns, inside)


def _columns(downsets: Downsets) -> dict[int, Bools]:
    """Membership of each open item, `[rows]`."""
    return dict(zip(downsets.items.tolist(), downsets.matrix().T, strict=True))
