r"""Lossless reduction of whole blocks: what no split needs to cut inside becomes one item.

::

    x --> c --> r --> d --> v          D = {c, r, d}: all that is read in D is read in D or by v
     \_____________________/
    A split that cuts D leaves a part P of it in stages before that of v. Move P to the stage of v:

        that stage     computes P, and receives what P reads from outside (unless v reads it anyway);
                       it no longer receives what P made
        other stages   no longer compute their share of P nor send what it made; they may have to send
                       what it read

If no part P that holds an item can make any stage dearer in this way, the item may be fused with v. Whether
one can is a minimum cut: weights and outside nets as gains of P, the nets inside D and v as its cut. The
mirror image gathers what depends on one item only.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator

import numpy as np

from autopipe.partition.block_cuts import BlockCosts, PartCuts, Region
from autopipe.partition.problem import Problem
from autopipe.partition.reduce import Reduced, close_cycles, contract, reduce_problem

_LARGEST = 64
"""Items of a block at most."""

_HEAVIEST = 6.0
"""Weight of a block at most, in multiples of the dearest net that it touches."""

_ROUNDS = 4
"""Times that all regions are looked at, at most."""

_WORTHWHILE = 0.95
"""Share of items left by a round above which another one does not pay."""

_REGIONS = 8
"""Nested regions that are looked at for one item."""

_ROUNDING = 1e-9
"""Share of a cost that may come of adding and taking back what others cost."""


def fuse_blocks(problem: Problem) -> Reduced:
    """Fuse until little more can be.

    Args:
        problem: A problem whose stages may stay empty.

    Returns:
        A problem with the same optimum; the same problem where transfers overlap or memory is limited.

    Complexity: a few small maximum flows an arc.
    """
    item_of = np.arange(problem.n, dtype=np.int64)
    if problem.overlap or problem.limit is not None:
        return Reduced(problem, item_of)
    for _ in range(_ROUNDS):
        before = problem.n
        for later in (True, False):
            leaders = _Blocks(problem, later=later).leaders()
            fused = contract(problem, close_cycles(problem, leaders))
            reduced = reduce_problem(fused.problem)
            item_of = reduced.item_of[fused.item_of[item_of]]
            problem = reduced.problem
        if problem.n > before * _WORTHWHILE:
            break
    return Reduced(problem, item_of)


class _Blocks:
    """Looks at one block for every item, the item being its end (or its beginning)."""

    def __init__(self, problem: Problem, *, later: bool) -> None:
        self.problem = problem
        self.sign = 1 if later else -1
        self.near, self.far = (problem.preds, problem.succs) if later else (problem.succs, problem.preds)
        self.costs = BlockCosts(problem)
        self.parent = list(range(problem.n))

    def leaders(self) -> list[int]:
        """The class of every item."""
        items = range(self.problem.n)
        for anchor in items if self.sign > 0 else reversed(items):
            for region in self._regions(anchor):
                self._fuse_within(region)
        return [self._find(item) for item in items]

    def _find(self, item: int) -> int:
        while self.parent[item] != item:
            self.parent[item] = self.parent[self.parent[item]]
            item = self.parent[item]
        return item

    def _regions(self, anchor: int) -> list[Region]:
        """Nested sets that only lead to the anchor; those that leave the fewest costs outside."""
        found: list[list[int]] = []
        least = np.inf
        for items, outside in self._grow(anchor):
            if outside <= least * (1 + _ROUNDING) and self._find(items[-1]) != self._find(anchor):
                least = outside
                found.append(items.copy())
        return [self._region(anchor, items) for items in found[-_REGIONS:]]

    def _grow(self, anchor: int) -> Iterator[tuple[list[int], float]]:
        """Take in one item after the other; yields the items and the cost of their nets to others."""
        problem, costs, sign = self.problem, self.costs, self.sign
        span = problem.first[anchor], problem.last[anchor]
        inside = {anchor}
        items: list[int] = []
        seen = set(self.near[anchor])
        queue = [-sign * x for x in seen]
        heapq.heapify(queue)
        left: dict[int, int] = {}
        outside = weight = dearest = 0.0
        while queue and len(items) < _LARGEST:
            item = -sign * heapq.heappop(queue)
            if (problem.first[item], problem.last[item]) != span or not inside.issuperset(self.far[item]):
                continue
            items.append(item)
            inside.add(item)
            weight += costs.heavy[item]
            for net in costs.nets_of[item]:
                dearest = max(dearest, costs.dear[net])
                beside = anchor in costs.pins[net]
                if net not in left:
                    left[net] = len(costs.pins[net]) - beside
                    outside += 0.0 if beside else costs.dear[net]
                left[net] -= 1
                outside -= 0.0 if beside or left[net] else costs.dear[net]
            if weight > _HEAVIEST * dearest:
                return
            yield items, outside
            fresh = [x for x in self.near[item] if x not in seen]
            seen.update(fresh)
            for x in fresh:
                heapq.heappush(queue, -sign * x)

    def _region(self, anchor: int, items: list[int]) -> Region:
        costs = self.costs
        place = {item: at for at, item in enumerate(items)}
        inside = {anchor, *items}
        inner: list[int] = []
        shared: list[int] = []
        outer = np.zeros(len(items))
        for net in sorted({net for item in items for net in costs.nets_of[item]}):
            pins = costs.pins[net]
            if pins <= inside:
                inner.append(net)
                continue
            ends = [place[pin] for pin in pins if pin in place]
            if anchor not in pins and len(ends) > 1:
                shared.append(net)
            beside = costs.cheap[net] if anchor in pins or len(ends) > 1 else 0.0
            outer[ends] += costs.dear[net] - beside
        return Region(anchor, items, place, inner, outer, shared)

    def _fuse_within(self, region: Region) -> None:
        """Fuse with the anchor what no part worth keeping takes away from it."""
        anchor = region.anchor
        apart = [item for item in region.items if self._find(item) != self._find(anchor)]
        if not apart:
            return
        cuts = PartCuts(self.costs, self.near, region)
        if cuts.whole_is_dearer() or not cuts.others_gain():
            return
        everything = cuts.none_gains(None)
        for item in apart:
            if everything or (self._find(item) != self._find(anchor) and cuts.none_gains(item)):
                self.parent[self._find(item)] = self._find(anchor)
