"""The cheapest downset between what must be in and what must be out: one maximum flow.

::

    source = inside, sink = outside          infinite arc  item -> its predecessor   (a downset is closed)
    forward net    anchor --cost--> aux --inf--> each end          paid if anchor in, an end out
    backward net   each end --inf--> aux --cost--> anchor          paid if an end in, anchor out
    item of weight x < 0 (a gain if in)   source --(-x)--> item     x > 0   item --x--> sink
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from autopipe.partition.problem import Floats
from autopipe.partition.reach import Bools

_INFINITE = 2**30
_NEVER = -1.0


@dataclass(frozen=True, slots=True)
class CutNet:
    """A net at one level: charged once if its anchor and an end are on different sides.

    Args:
        anchor: The item that all ends depend on (forward), or that depends on them all.
        ends: The other items that can be apart from it.
        send: What the charge adds to ``send``.
        receive: What it adds to ``receive``.
        forward: The anchor comes first.
    """

    anchor: int
    ends: tuple[int, ...]
    send: float
    receive: float
    forward: bool


def cheapest_downset(
    inside: Bools,
    outside: Bools,
    preds: Sequence[Sequence[int]],
    nets: Sequence[CutNet],
    prices: tuple[float, float],
    weight: Floats,
    limit: float,
) -> float:
    """A lower bound of charges plus weight of every downset in a window, exact up to rounding down.

    Args:
        inside: Items that are in.
        outside: Items that are out.
        preds: Immediate predecessors of every item.
        nets: What is charged.
        prices: Multipliers of send and receive.
        weight: Added for every item that is in, `[n]`; may be negative.
        limit: A single charge above it is as bad as infinite.

    Returns:
        The minimum or a little less.

    Complexity: one maximum flow (Dinic, scipy) over the open items and their nets.
    """
    arcs = _Arcs(inside, outside)
    arcs.add_items(preds, weight)
    for net in nets:
        cost = prices[0] * net.send + prices[1] * net.receive
        if cost:
            arcs.add_net(net, min(cost, limit))
    return arcs.constant + arcs.flow()


class _Arcs:
    """The flow network: node 0 is the source, 1 the sink, then open items, then one a net with many ends."""

    def __init__(self, inside: Bools, outside: Bools) -> None:
        self.inside = inside
        self.open_items = np.flatnonzero(~inside & ~outside)
        node = np.ones(len(inside), dtype=np.int64)
        node[inside] = 0
        node[self.open_items] = np.arange(2, len(self.open_items) + 2)
        self.node: list[int] = node.tolist()
        self.n_nodes = len(self.open_items) + 2
        self.constant = 0.0
        self.tails: list[int] = []
        self.heads: list[int] = []
        self.costs: list[float] = []

    def add(self, tail: int, head: int, cost: float) -> None:
        self.tails.append(tail)
        self.heads.append(head)
        self.costs.append(cost)

    def add_items(self, preds: Sequence[Sequence[int]], weight: Floats) -> None:
        """Closure arcs, and gains and costs of single items."""
        self.constant += float(weight[self.inside].sum())
        for item in self.open_items.tolist():
            at, x = self.node[item], float(weight[item])
            for before in preds[item]:
                if self.node[before] > 1:
                    self.add(at, self.node[before], _NEVER)
            if x < 0:
                self.constant += x
                self.add(0, at, -x)
            elif x > 0:
                self.add(at, 1, x)

    def add_net(self, net: CutNet, cost: float) -> None:
        """One arc of that cost between the anchor and all ends together."""
        anchor, ends = self.node[net.anchor], {self.node[x] for x in net.ends}
        far, near = (1, 0) if net.forward else (0, 1)
        if far in ends:
            ends = {far}
        ends.discard(near)
        if not ends:
            return
        if anchor == near and ends == {far}:
            self.constant += cost
            return
        joint = min(ends)
        if len(ends) > 1:
            joint, self.n_nodes = self.n_nodes, self.n_nodes + 1
            for end in sorted(ends):
                self.add(*((joint, end) if net.forward else (end, joint)), _NEVER)
        self.add(*((anchor, joint) if net.forward else (joint, anchor)), cost)

    def flow(self) -> float:
        """The maximum flow, in units that round every cost down."""
        from scipy.sparse import csr_array
        from scipy.sparse.csgraph import maximum_flow

        costs = np.array(self.costs)
        finite = float(costs[costs > 0].sum()) if len(costs) else 0.0
        if not finite:
            return 0.0
        scale = _INFINITE / 4 / finite
        capacity = np.where(costs < 0, _INFINITE, np.floor(costs * scale)).astype(np.int64)
        graph = csr_array((capacity, (self.tails, self.heads)), shape=(self.n_nodes, self.n_nodes))
        graph.sum_duplicates()
        graph.data = np.minimum(graph.data, _INFINITE).astype(np.int32)
        return float(maximum_flow(graph, 0, 1).flow_value / scale)
