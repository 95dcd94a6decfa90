"""Which values every reading stage computes for itself, because that is cheaper than sending in every split.

::

    ids ─► mask ─► float_mask ──► blocks of all stages      both come from the model's inputs alone: a reader
                                                            computes both, and nothing crosses
    x ─► half ─► full ──► blocks of all stages              full is twice as large as half: half crosses, and
                                                            a reader computes full

A reader of a value v that it does not receive has to run what v is made from, the *closure* of v: v and the
values before it that are recomputed too. What the closure reads besides, its *frontier*, crosses instead of
v. If closure and frontier cost no reader more than receiving v, the frontier no maker more than sending v,
and both hold no more memory, then no stage of any split is dearer for it: nothing is lost by deciding before
the search, and its bound holds for both ways.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

from autopipe.ir.cost_graph import CostGraph, CostNode
from autopipe.ir.hardware import Link
from autopipe.ir.partition import Partition
from autopipe.partition.objective import Objective


def worth_recomputing(prices: Objective) -> frozenset[str]:
    """Find the values that no split gains by sending.

    Args:
        prices: The graphs, hardware and number of stages.

    Returns:
        Names of recomputable nodes without a gradient (those of copies would be added in another order);
        nodes that must share a stage all or none.

    Complexity: linear in the sizes of the closures.
    """
    if prices.n_stages == 1:
        return frozenset()
    found: dict[str, _Needs] = {}
    for unit in _units(prices.graph):
        needs = _needs(prices.graph, unit, found)
        values = [node for node in unit if _is_read_outside(prices.graph, node, unit)]
        if values and all(_pays(prices, value, needs[value.name]) for value in values):
            found |= needs
    return frozenset(found)


def without_idle(partition: Partition, graph: CostGraph) -> Partition:
    """Leave out of what is recomputed what no other stage reads; nodes that share a stage stay together.

    Args:
        partition: A split.
        graph: What was split.

    Returns:
        The same split.
    """
    stages_of: dict[str, set[int]] = {}
    again = set(partition.recomputed)
    for name in reversed(list(graph.graph)):
        here = stages_of[name] = {partition.stage_of[name]}
        for reader, edge in graph.graph.adj[name].items():
            if edge["data"]:
                here |= stages_of[reader] if reader in again else {partition.stage_of[reader]}
    used = {name for name in again if len(stages_of[name]) > 1}
    for group in graph.together:
        used |= set(group) if used.intersection(group) else set()
    return replace(partition, recomputed=tuple(name for name in partition.recomputed if name in used))


@dataclass(frozen=True, slots=True)
class _Needs:
    """What computing values takes where they are read."""

    closure: frozenset[str]
    frontier: frozenset[str]


def _units(graph: CostGraph) -> list[list[CostNode]]:
    """Nodes that must share a stage, or single ones, that can run again, by their last in program order."""
    group_of = {name: group for group in graph.together for name in group}
    place = {name: at for at, name in enumerate(graph.graph)}
    able = {node.name: node for node in graph.nodes if node.recomputable and not node.grad_bytes}
    groups = {tuple(sorted(group_of.get(name, (name,)), key=place.__getitem__)) for name in able}
    whole = [group for group in groups if all(name in able for name in group)]
    return [[able[name] for name in group] for group in sorted(whole, key=lambda group: place[group[-1]])]


def _is_read_outside(graph: CostGraph, node: CostNode, unit: list[CostNode]) -> bool:
    inside = {each.name for each in unit}
    return any(edge["data"] and reader not in inside for reader, edge in graph.graph.adj[node.name].items())


def _needs(graph: CostGraph, unit: list[CostNode], found: Mapping[str, _Needs]) -> dict[str, _Needs]:
    """What every node of a unit takes: others of the unit only if it is made from them."""
    inside: dict[str, _Needs] = {}
    for node in unit:
        edges = graph.graph.in_edges(node.name, data=True)
        before = {source for source, _, edge in edges if edge["data"]}
        known = [
            inside.get(source) or found[source] for source in before if source in inside or source in found
        ]
        sent = frozenset(source for source in before if source not in inside and source not in found)
        closure = frozenset({node.name}).union(*(needs.closure for needs in known))
        inside[node.name] = _Needs(closure, sent.union(*(needs.frontier for needs in known)))
    return inside


def _pays(prices: Objective, value: CostNode, needs: _Needs) -> bool:
    frontier = [prices.graph.node(name) for name in sorted(needs.frontier)]
    ours = _Prices.of(prices, frontier, needs.closure)
    if prices.hardware.overlap and any(ours.compute_ms):
        return False  # beside transfers, compute in the place of one is not free
    return ours.is_within(_Prices.of(prices, [value]))


@dataclass(frozen=True, slots=True)
class _Prices:
    """What a way to have values costs their readers and makers, by position, and holds for a microbatch."""

    compute_ms: tuple[float, ...]
    receive_ms: tuple[float, ...]
    send_ms: tuple[float, ...]
    kept_bytes: int

    @classmethod
    def of(cls, prices: Objective, sent: list[CostNode], computed: Collection[str] = ()) -> _Prices:
        graphs, hardware, inner = prices.graphs, prices.hardware, range(1, prices.n_stages)
        by_graph = [math.fsum(graph.node(name).compute_ms for name in sorted(computed)) for graph in graphs]
        saved = sum(prices.graph.node(name).saved_bytes for name in computed)
        return cls(
            tuple(by_graph[stage % len(graphs)] for stage in inner),
            tuple(_ms(sent, hardware.link_in(stage)) for stage in inner),
            tuple(_ms(sent, hardware.link_out(stage - 1)) for stage in inner),
            saved + sum(value.out_bytes for value in sent),
        )

    def is_within(self, other: _Prices) -> bool:
        """Whether no stage is dearer than the other way."""
        mine = map(sum, zip(self.compute_ms, self.receive_ms, strict=True))
        theirs = map(sum, zip(other.compute_ms, other.receive_ms, strict=True))
        reads = all(one <= two for one, two in zip(mine, theirs, strict=True))
        sends = all(one <= two for one, two in zip(self.send_ms, other.send_ms, strict=True))
        return reads and sends and self.kept_bytes <= other.kept_bytes


def _ms(values: list[CostNode], link: Link) -> float:
    return math.fsum(
        link.transfer_ms(value.out_bytes) + link.transfer_ms(value.grad_bytes) for value in values
    )
