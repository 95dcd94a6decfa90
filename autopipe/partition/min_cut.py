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

from autopipe.partition.problem import Floats, Ints
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


class LevelCuts:
    """The flow network of one window, laid out once and priced as often as asked.

    Node 0 is the source, 1 the sink, then come open items, then one a net with many ends.

    Args:
        inside: Items that are in.
        outside: Items that are out.
        preds: Immediate predecessors of every item.
        nets: What is charged.
    """

    def __init__(
        self, inside: Bools, outside: Bools, preds: Sequence[Sequence[int]], nets: Sequence[CutNet]
    ) -> None:
        """Lay out closure arcs and one arc a net."""
        self.inside = inside
        self.open_items = np.flatnonzero(~inside & ~outside)
        node = np.ones(len(inside), dtype=np.int64)
        node[inside] = 0
        node[self.open_items] = np.arange(2, len(self.open_items) + 2)
        self.node: list[int] = node.tolist()
        self.n_nodes = len(self.open_items) + 2
        self.sure = [0.0, 0.0]
        self.tails: list[int] = []
        self.heads: list[int] = []
        self.of_nets: list[tuple[int, int, float, float]] = []
        for item in self.open_items.tolist():
            for before in preds[item]:
                if self.node[before] > 1:
                    self._always(self.node[item], self.node[before])
        for net in nets:
            self._add_net(net)
        self.tails += [tail for tail, _, _, _ in self.of_nets]
        self.heads += [head for _, head, _, _ in self.of_nets]
        self.send = np.array([send for _, _, send, _ in self.of_nets])
        self.receive = np.array([receive for _, _, _, receive in self.of_nets])

    def least(self, send: float, receive: float, weight: Floats, limit: float) -> float:
        """A lower bound of charges plus weight of every downset in the window, exact up to rounding down.

        Args:
            send: Multiplier of what is sent.
            receive: Multiplier of what is received.
            weight: Added for every item that is in, `[n]`; may be negative.
            limit: A single charge above it is as bad as infinite.

        Returns:
            The minimum or a little less.

        Complexity: one maximum flow (Dinic, scipy) over the open items and their nets.
        """
        cost = np.minimum(send * self.send + receive * self.receive, limit)
        at = np.arange(2, len(self.open_items) + 2)
        gain = weight[self.open_items]
        constant = send * self.sure[0] + receive * self.sure[1]
        constant += float(weight[self.inside].sum() + gain[gain < 0].sum())
        capacity = np.concatenate([np.full(len(self.tails) - len(cost), _NEVER), cost, np.abs(gain)])
        tails = np.concatenate([self.tails, np.where(gain < 0, 0, at)])
        heads = np.concatenate([self.heads, np.where(gain < 0, at, 1)])
        used = capacity != 0
        return constant + _flow(tails[used], heads[used], capacity[used], self.n_nodes)

    def _always(self, tail: int, head: int) -> None:
        self.tails.append(tail)
        self.heads.append(head)

    def _add_net(self, net: CutNet) -> None:
        """One arc between the anchor and all ends together."""
        anchor, ends = self.node[net.anchor], {self.node[x] for x in net.ends}
        far, near = (1, 0) if net.forward else (0, 1)
        if far in ends:
            ends = {far}
        ends.discard(near)
        if not ends:
            return
        if anchor == near and ends == {far}:
            self.sure[0] += net.send
            self.sure[1] += net.receive
            return
        joint = min(ends)
        if len(ends) > 1:
            joint, self.n_nodes = self.n_nodes, self.n_nodes + 1
            for end in sorted(ends):
                self._always(*((joint, end) if net.forward else (end, joint)))
        arc = (anchor, joint) if net.forward else (joint, anchor)
        self.of_nets.append((*arc, net.send, net.receive))


def _flow(tails: Ints, heads: Ints, costs: Floats, n_nodes: int) -> float:
    """The maximum flow, in units that round every cost down."""
    from scipy.sparse import csr_array
    from scipy.sparse.csgraph import maximum_flow

    finite = float(costs[costs > 0].sum())
    if not finite:
        return 0.0
    scale = _INFINITE / 4 / finite
    capacity = np.where(costs < 0, _INFINITE, np.floor(costs * scale)).astype(np.int64)
    graph = csr_array((capacity, (tails, heads)), shape=(n_nodes, n_nodes))
    graph.sum_duplicates()
    graph.data = np.minimum(graph.data, _INFINITE).astype(np.int32)
    return float(maximum_flow(graph, 0, 1).flow_value / scale)
