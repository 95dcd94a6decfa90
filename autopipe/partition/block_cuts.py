"""What moving a part of a block costs, against what it spares: minimum cuts over the parts of a region."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from autopipe.partition.problem import Floats, Problem

_SAFE = 1e-6
"""Share by which weights are taken for more (or less) than they are, against rounding of the flows."""

_INFINITE = 2**30

_REMEMBERED = 2**14
"""Flows whose answers are kept."""


class BlockCosts:
    """Prices of items and nets, whatever the position of a stage.

    Args:
        problem: The items.
    """

    def __init__(self, problem: Problem) -> None:
        """Take the dearest and the cheapest over positions and roles."""
        self.heavy, self.light = problem.weight.max(axis=0), problem.weight.min(axis=0)
        self.dear = np.maximum(problem.cin, problem.cout).max(axis=0)
        self.cheap = np.minimum(problem.cin, problem.cout).min(axis=0)
        self.pins = [frozenset(pins) for pins in problem.pins]
        self.nets_of: list[list[int]] = [[] for _ in range(problem.n)]
        for net, pins in enumerate(problem.pins):
            for pin in pins:
                self.nets_of[pin].append(net)


@dataclass(frozen=True, slots=True)
class Region:
    """A set D and the item v that parts of it move to.

    Args:
        anchor: v.
        items: D.
        place: Where each of its items stands.
        inner: Nets with all ends in D or v.
        outer: For each item what its nets to others cost if it moves, at most.
        shared: Nets to others with several ends in D and none in v, which cost more than that only if all
            those ends move: until then the stage of v has an end of its own.
    """

    anchor: int
    items: list[int]
    place: dict[int, int]
    inner: list[int]
    outer: Floats
    shared: list[int]

    def moved_whole(self, part: Collection[int], costs: BlockCosts) -> float:
        """What the shared nets cost whose ends in D are all in a part."""
        inside = frozenset(part)
        return sum(
            float(costs.cheap[net])
            for net in self.shared
            if inside.issuperset(pin for pin in costs.pins[net] if pin in self.place)
        )


class PartCuts:
    """Minimum cuts over the parts of one region.

    Args:
        costs: Prices of items and nets.
        near: What comes with every item: what it depends on, or what depends on it.
        region: The region.
    """

    def __init__(self, costs: BlockCosts, near: Sequence[Sequence[int]], region: Region) -> None:
        """Sum up what moving each item costs."""
        self.costs, self.near, self.region = costs, near, region
        items = region.items
        self.load = costs.heavy[items] * (1 + _SAFE) + region.outer
        self.spared = region.outer - costs.light[items] * (1 - _SAFE)

    def others_gain(self) -> bool:
        """Does no stage but the anchor's get dearer, whatever part of the region it loses?"""
        if (self.spared <= 0).all() and not self.region.shared:
            return True
        return self._saturates(self.spared, closed=False, held=None)

    def whole_is_dearer(self) -> bool:
        """Does the anchor's stage get dearer by the whole region, which is a part that holds every item?"""
        return self._excess(self.region.items) > 0

    def none_gains(self, item: int | None) -> bool:
        """Does the anchor's stage get no dearer by any part (that holds an item)?"""
        if item is not None and self._excess(self._closure(item)) > 0:
            return False
        return self._saturates(self.load, closed=True, held=item)

    def _closure(self, item: int) -> list[int]:
        """The item and all of the region that comes with it."""
        part, stack = {item}, [item]
        while stack:
            for near in self.near[stack.pop()]:
                if near in self.region.place and near not in part:
                    part.add(near)
                    stack.append(near)
        return sorted(part)

    def _excess(self, part: Sequence[int]) -> float:
        inside, costs = frozenset(part), self.costs
        cut = sum(
            costs.cheap[net]
            for net in self.region.inner
            if not inside.isdisjoint(costs.pins[net]) and not inside.issuperset(costs.pins[net])
        )
        load = self.load[[self.region.place[x] for x in part]].sum() + self.region.moved_whole(part, costs)
        return float(load - cut * (1 + _SAFE))

    def _saturates(self, load: Floats, *, closed: bool, held: int | None) -> bool:
        """Can every load flow to the anchor? Then no part has more load than cut."""
        arcs = _FlowArcs(self.region, self.costs)
        arcs.add_loads(load)
        arcs.add_shared()
        if closed:
            arcs.add_closure(self.near)
        if held is not None:
            arcs.add(0, arcs.node(held), np.inf)
        arcs.add_nets()
        return _all_flows(arcs.n_nodes, tuple(arcs.tails), tuple(arcs.heads), tuple(arcs.capacities))


@lru_cache(maxsize=_REMEMBERED)
def _all_flows(
    n_nodes: int, tails: tuple[int, ...], heads: tuple[int, ...], capacities: tuple[float, ...]
) -> bool:
    """Whether the finite capacities out of node 0 can all flow to node 1; blocks that repeat ask again."""
    from scipy.sparse import csr_array
    from scipy.sparse.csgraph import maximum_flow

    costs = np.array(capacities)
    finite = np.isfinite(costs)
    scale = _INFINITE / 4 / max(float(costs[finite].sum()), 1e-300)
    capacity = np.full(len(costs), _INFINITE // 2, dtype=np.int64)
    capacity[finite] = np.rint(costs[finite] * scale)
    wanted = int(capacity[finite & (np.array(tails) == 0)].sum())
    graph = csr_array((capacity, (tails, heads)), shape=(n_nodes, n_nodes))
    graph.sum_duplicates()
    graph.data = np.minimum(graph.data, _INFINITE).astype(np.int32)
    return int(maximum_flow(graph, 0, 1).flow_value) >= wanted


class _FlowArcs:
    """Node 0 is the source, 1 the sink, 2 the anchor, then the items, then two a net of many ends."""

    def __init__(self, region: Region, costs: BlockCosts) -> None:
        self.region, self.costs = region, costs
        self.n_nodes = len(region.items) + 3
        self.tails: list[int] = []
        self.heads: list[int] = []
        self.capacities: list[float] = []
        self.add(2, 1, np.inf)

    def node(self, item: int) -> int:
        return 2 if item == self.region.anchor else self.region.place[item] + 3

    def add(self, tail: int, head: int, cost: float) -> None:
        self.tails.append(tail)
        self.heads.append(head)
        self.capacities.append(cost)

    def add_loads(self, load: Floats) -> None:
        for at, amount in enumerate(load.tolist(), start=3):
            if amount > 0:
                self.add(0, at, amount)
            elif amount < 0:
                self.add(at, 1, -amount)

    def add_shared(self) -> None:
        for net in self.region.shared:
            self.add(0, self.n_nodes, float(self.costs.cheap[net]))
            for pin in sorted(self.costs.pins[net]):
                if pin in self.region.place:
                    self.add(self.n_nodes, self.node(pin), np.inf)
            self.n_nodes += 1

    def add_closure(self, near: Sequence[Sequence[int]]) -> None:
        for item in self.region.items:
            for other in near[item]:
                if other in self.region.place:
                    self.add(self.node(item), self.node(other), np.inf)

    def add_nets(self) -> None:
        for net in self.region.inner:
            ends = [self.node(pin) for pin in sorted(self.costs.pins[net])]
            cost = float(self.costs.cheap[net])
            if len(ends) == 2:
                self.add(ends[0], ends[1], cost)
                self.add(ends[1], ends[0], cost)
                continue
            first, second = self.n_nodes, self.n_nodes + 1
            self.n_nodes += 2
            self.add(first, second, cost)
            for end in ends:
                self.add(end, first, np.inf)
                self.add(second, end, np.inf)
