"""The cheapest downset between what must be in and what must be out: one maximum flow.

::

    source = inside, sink = outside          infinite arc  item -> its predecessor   (a downset is closed)
    forward net    anchor --cost--> aux --inf--> each end          paid if anchor in, an end out
    backward net   each end --inf--> aux --cost--> anchor          paid if an end in, anchor out
    item of weight x < 0 (a gain if in)   source --(-x)--> item     x > 0   item --x--> sink
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from autopipe.partition.charges import CutNets
from autopipe.partition.problem import Floats, Ints
from autopipe.partition.reach import Bools

_INFINITE = 2**30


class LevelCuts:
    """The flow network of one window, laid out once and priced as often as asked.

    Node 0 is the source, 1 the sink, then come open items, then one a net with many ends.

    Args:
        inside: Items that are in.
        outside: Items that are out.
        arcs: Every item, and an immediate predecessor of it, `[2, arcs]`.
        nets: What is charged.
    """

    def __init__(self, inside: Bools, outside: Bools, arcs: Ints, nets: CutNets) -> None:
        """Lay out closure arcs and one arc a net."""
        self.inside = inside
        self.open_items = np.flatnonzero(~inside & ~outside)
        node = np.ones(len(inside), dtype=np.int64)
        node[inside] = 0
        node[self.open_items] = np.arange(2, len(self.open_items) + 2)
        self.n_nodes = len(self.open_items) + 2
        closure = node[arcs]
        self.always = closure[:, (closure > 1).all(axis=0)]
        self._add_nets(node, nets)

    def least(self, asked: Sequence[tuple[float, float, Floats | None]], limit: float) -> list[float]:
        """Lower bounds of charges plus weight of every downset in the window, exact up to rounding down.

        Args:
            asked: For each bound the multipliers of what is sent and of what is received, and what is added
                for every item that is in, `[n]`, which may be negative; None: nothing.
            limit: A single charge above it is as bad as infinite.

        Returns:
            Each minimum or a little less.

        Complexity: a maximum flow (Dinic, scipy) a bound over the open items and their nets, all in one call.
        """
        weighed = any(weight is not None for _, _, weight in asked)
        costs, sure = [], []
        for send, receive, weight in asked:
            cost = np.minimum(send * self.send + receive * self.receive, limit)
            constant = send * self.sure[0] + receive * self.sure[1]
            if weighed:
                gain = np.zeros(len(self.open_items)) if weight is None else weight[self.open_items]
                cost = np.concatenate([cost, np.maximum(-gain, 0.0), np.maximum(gain, 0.0)])
                constant += float(gain[gain < 0].sum())
            if weight is not None:
                constant += float(weight[self.inside].sum())
            costs.append(cost)
            sure.append(constant)
        flows = least_flows(self.always, self._arcs(weighed=weighed), costs, self.n_nodes)
        return [constant + flow for constant, flow in zip(sure, flows, strict=True)]

    def _arcs(self, *, weighed: bool) -> Ints:
        """Arcs with a price: those of the nets, and if items weigh something two for each."""
        if not weighed:
            return self.priced
        at = np.arange(2, len(self.open_items) + 2)
        items = [np.zeros_like(at), at], [at, np.ones_like(at)]
        return np.concatenate([self.priced, *map(np.stack, items)], axis=1)

    def _add_nets(self, node: Ints, nets: CutNets) -> None:
        """One arc between the anchor and all ends together."""
        forward = nets.forward
        near, far = np.where(forward, 0, 1), np.where(forward, 1, 0)
        end, net_of = node[nets.ends], nets.net_of_end
        n_nets = len(nets.anchor)
        is_far = end == far[net_of]
        any_far = np.bincount(net_of, weights=is_far, minlength=n_nets) > 0
        loose = (end > 1) & ~any_far[net_of]
        n_loose = np.bincount(net_of[loose], minlength=n_nets)
        joint = np.where(any_far, far, 0)
        joint[net_of[loose]] = end[loose]
        many = n_loose > 1
        joint[many] = self.n_nodes + np.arange(many.sum())
        self.n_nodes += int(many.sum())
        anchor = node[nets.anchor]
        sure = any_far & (anchor == near)
        self.sure = float(nets.send[sure].sum()), float(nets.receive[sure].sum())
        kept = (any_far | (n_loose > 0)) & ~sure
        arc = np.where(forward, [anchor, joint], [joint, anchor])
        self.priced, self.send, self.receive = arc[:, kept], nets.send[kept], nets.receive[kept]
        fan = loose & many[net_of]
        hub, spoke = joint[net_of[fan]], end[fan]
        fans = np.where(forward[net_of[fan]], [hub, spoke], [spoke, hub])
        self.always = np.concatenate([self.always, fans], axis=1)


def least_flows(always: Ints, priced: Ints, costs: Sequence[Floats], n_nodes: int) -> list[float]:
    """The maximum flow from node 0 to node 1 for each list of prices, in units that round every price down.

    ::

        source ==> network at the first prices   ==> sink     side by side in one network: the call
               ==> network at the second prices  ==>          takes longer than the flow

    Args:
        always: Tails and heads of arcs that may not be cut, `[2, arcs]`.
        priced: Tails and heads of those with a price. No arc of either ends at the source, begins at the
            sink or joins the two.
        costs: Prices, `[arcs]` each.
        n_nodes: Nodes.

    Returns:
        A flow a list of prices.

    Complexity: sorts the arcs once; then Dinic's algorithm (scipy).
    """
    from scipy.sparse import csr_array
    from scipy.sparse.csgraph import maximum_flow

    arcs = np.concatenate([always, priced], axis=1)
    keys, place = np.unique(arcs[0] * n_nodes + arcs[1], return_inverse=True)
    tails, heads = np.divmod(keys, n_nodes)
    units = [_INFINITE / 4 / (float(cost.sum()) or 1.0) for cost in costs]
    whole = np.full((len(costs), len(place)), float(_INFINITE))
    for row, cost, unit in zip(whole, costs, units, strict=True):
        row[always.shape[1] :] = np.floor(cost * unit)
    capacity = np.stack([np.bincount(place, row, len(keys)) for row in whole])
    capacity = np.minimum(capacity, _INFINITE).astype(np.int32)
    shifts = np.arange(len(costs))[:, None] * (n_nodes - 2)
    columns = np.where(heads > 1, heads + shifts, heads).astype(np.int32)
    out = int(np.searchsorted(tails, 1))
    size = 2 + len(costs) * (n_nodes - 2)
    starts = np.searchsorted((tails[out:] + shifts).ravel(), np.arange(1, size + 1)) + len(costs) * out
    graph = csr_array(
        (
            np.concatenate([capacity[:, :out].ravel(), capacity[:, out:].ravel()]),
            np.concatenate([columns[:, :out].ravel(), columns[:, out:].ravel()]),
            np.concatenate([[0], starts]).astype(np.int32),
        ),
        shape=(size, size),
    )
    flow = maximum_flow(graph, 0, 1).flow
    leaving = slice(0, int(flow.indptr[1]))
    copies = (flow.indices[leaving] - 2) // max(1, n_nodes - 2)
    flows = np.bincount(copies, flow.data[leaving], len(costs))
    return [float(amount / unit) for amount, unit in zip(flows, units, strict=True)]
