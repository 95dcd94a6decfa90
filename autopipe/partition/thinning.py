r"""Borders that another one of the same level makes superfluous.

::

    left of the border     | right of it            u reads a net that nobody else reads and makes one
    ... --e0--> (u) --e1-->|  ...                   that is no dearer to receive

If both with and without u the border is reached on as many devices, the one with u will do: in any
continuation the stage that would hold u computes less, and receives e1 at most instead of e0. The mirror
image: of two borders from which the end is reached the one without u will do, if what u makes is no cheaper
to send than what it reads. Both hold stage by stage, whatever comes after (before), but not for memory.
"""

from __future__ import annotations

import numpy as np

from autopipe.partition.borders import Borders
from autopipe.partition.problem import Ints, Problem
from autopipe.partition.reach import Bools, Reach

_EARLY = 0.6
"""Share of all work before an item up to which it moves left rather than right, where both would do."""


class Thinning:
    """Knows which items may be moved over a border.

    Args:
        problem: The items.
        reach: Their closure.
    """

    def __init__(self, problem: Problem, reach: Reach) -> None:
        """Compare what every item reads with what it makes."""
        self.problem, self.reach = problem, reach
        read_alone, received, sent, reads = (np.zeros(problem.n) for _ in range(4))
        first = np.ones(problem.n, dtype=bool)
        for net, pins in enumerate(problem.pins):
            maker = int(problem.maker[net])
            received[maker] += problem.cin[0, net]
            sent[maker] += problem.cout[0, net]
            if maker != pins[0]:
                first[list(pins)] = False
            for pin in set(pins) - {maker}:
                reads[pin] += problem.cout[0, net]
                if len(pins) == 2:
                    read_alone[pin] += problem.cin[0, net]
        movable = first & (problem.limit is None)
        into, out_of = movable & (received <= read_alone), movable & (reads <= sent)
        early = reach.before <= _EARLY * reach.total
        self.into = np.flatnonzero(into & (early | ~out_of)).tolist()
        self.out_of = np.flatnonzero(out_of & ~(into & early)).tolist()

    def reached(self, borders: Borders) -> Bools:
        """Which borders to keep of those that are reached from the left.

        Complexity: O(items rows).
        """
        known = _Known(borders)
        return _joined([known.moved(x, self.reach.preds[x], adding=True) for x in self.into], len(borders))

    def reaching(self, borders: Borders) -> Bools:
        """Which borders to keep of those from which the end is reached."""
        known = _Known(borders)
        return _joined(
            [known.moved(x, self.problem.succs[x], adding=False) for x in self.out_of], len(borders)
        )


def _joined(pairs: list[Ints], n: int) -> Bools:
    """Rows in none of the lists."""
    alone = np.ones(n, dtype=bool)
    for rows in pairs:
        alone[rows] = False
    return alone


class _Known:
    """Borders that can be looked up with one item more or less, by a sum of their words."""

    def __init__(self, borders: Borders) -> None:
        self.bits = borders.bits
        odd = np.arange(1, 2 * self.bits.shape[1], 2, dtype=np.uint64)
        self.factors = odd * np.uint64(0x9E3779B97F4A7C15)
        self.sums = (self.bits * self.factors).sum(axis=1, dtype=np.uint64)
        self.order = np.argsort(self.sums, kind="stable")
        self.sorted = self.sums[self.order]

    def moved(self, item: int, near: tuple[int, ...], *, adding: bool) -> Ints:
        """Rows that are known with the item added (or taken out) too, where what is near allows that."""
        word, bit = item // 64, np.uint64(1) << np.uint64(item % 64)
        rows = np.flatnonzero(self.bits[:, word] & bit == (np.uint64(0) if adding else bit))
        for x in near:
            other = np.uint64(1) << np.uint64(x % 64)
            rows = rows[self.bits[rows, x // 64] & other == (other if adding else np.uint64(0))]
        if not len(rows):
            return rows
        change = np.array([bit]) * self.factors[word : word + 1]
        moved = self.sums[rows] + change if adding else self.sums[rows] - change
        at = np.minimum(np.searchsorted(self.sorted, moved), len(self.sorted) - 1)
        hit = self.sorted[at] == moved
        rows, same = rows[hit], self.order[at[hit]]
        differ = self.bits[rows] ^ self.bits[same]
        differ[:, word] ^= bit
        found: Ints = rows[~differ.any(axis=1)]
        return found
