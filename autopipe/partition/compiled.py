"""From a cost graph to the solver's problem: what is never cut becomes one item.

::

    CostGraph + together + followers + pins  --compile_problem-->  Problem
        nodes that must share a stage, and every cycle that this closes, become one item
        nets between items only; items in topological order; precedence without followers
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise

import networkx as nx
import numpy as np

from autopipe.errors import PartitionError
from autopipe.partition.nets import Net
from autopipe.partition.objective import Objective
from autopipe.partition.problem import Ints, Problem, TiedItems


def compile_problem(
    objective: Objective,
    *,
    together: Iterable[Iterable[str]] = (),
    followers: Mapping[str, str] | None = None,
    pin: Mapping[str, int] | None = None,
    allow_empty: bool = False,
) -> Problem:
    """Contract what is never cut and lay the rest out in arrays.

    Args:
        objective: Prices of nodes and nets.
        together: Groups that share a stage, besides those of the graph.
        followers: Node to the node whose stage it takes; it puts no order on the stages.
        pin: Node to stage.
        allow_empty: Stages may stay empty.

    Returns:
        The problem.

    Raises:
        PartitionError: An unknown node, more stages than items, or pins that contradict the graph.

    Complexity: linear, but for the sort of the items.
    """
    followers = followers or {}
    groups = [tuple(group) for group in (*objective.graph.together, *together)]
    named = (*followers, *followers.values(), *(pin or {}), *(x for group in groups for x in group))
    unknown = next((name for name in named if name not in objective.index), None)
    if unknown is not None:
        raise PartitionError(f"there is no node {unknown!r}.")
    order = _order(objective, _contract(objective, groups, followers), followers)
    first, last = _levels(objective, order, pin or {})
    return _arrays(objective, order, first, last, allow_empty)


@dataclass(frozen=True, slots=True)
class _Order:
    item_of: Ints
    members: tuple[tuple[int, ...], ...]
    preds: tuple[tuple[int, ...], ...]
    succs: tuple[tuple[int, ...], ...]


def _contract(objective: Objective, groups: list[tuple[str, ...]], followers: Mapping[str, str]) -> list[int]:
    """Components of "shares a stage", closed over cycles: both ways along a group, one way along an edge."""
    graph: nx.DiGraph[int] = nx.DiGraph()
    graph.add_nodes_from(range(len(objective.names)))
    index = objective.index
    pairs = [(index[a], index[b]) for group in groups for a, b in pairwise(group)]
    pairs += [(index[a], index[b]) for a, b in followers.items()]
    graph.add_edges_from(pairs)
    graph.add_edges_from((b, a) for a, b in pairs)
    edges = ((a, b) for a, b, _ in objective.graph.edges() if not {a, b} & followers.keys())
    graph.add_edges_from((index[a], index[b]) for a, b in edges)
    item_of = [0] * len(objective.names)
    components = sorted(nx.strongly_connected_components(graph), key=min)
    for item, component in enumerate(components):
        for node in component:
            item_of[node] = item
    return item_of


def _order(objective: Objective, item_of: list[int], followers: Mapping[str, str]) -> _Order:
    """Items in a topological order as near to program order as there is one."""
    members: list[list[int]] = [[] for _ in range(max(item_of, default=-1) + 1)]
    for node, item in enumerate(item_of):
        members[item].append(node)
    quotient: nx.DiGraph[int] = nx.DiGraph()
    quotient.add_nodes_from(range(len(members)))
    for a, b, _ in objective.graph.edges():
        if a in followers or b in followers:
            continue
        source, target = item_of[objective.index[a]], item_of[objective.index[b]]
        if source != target:
            quotient.add_edge(source, target)
    leader = [min((x for x in m if objective.names[x] not in followers), default=min(m)) for m in members]
    sequence = list(nx.lexicographical_topological_sort(quotient, key=leader.__getitem__))
    place = {item: at for at, item in enumerate(sequence)}
    preds = tuple(tuple(sorted(place[x] for x in quotient.predecessors(item))) for item in sequence)
    succs = tuple(tuple(sorted(place[x] for x in quotient.successors(item))) for item in sequence)
    at_item = np.array([place[item] for item in item_of], dtype=np.int64)
    return _Order(at_item, tuple(tuple(members[item]) for item in sequence), preds, succs)


def _levels(objective: Objective, order: _Order, pin: Mapping[str, int]) -> tuple[Ints, Ints]:
    """Earliest and latest stage of every item, by its own pin and those before and after it."""
    n, k = len(order.members), objective.n_stages
    first, last = np.zeros(n, dtype=np.int64), np.full(n, k - 1, dtype=np.int64)
    why_first, why_last = [""] * n, [""] * n
    for name, stage in pin.items():
        item = int(order.item_of[objective.index[name]])
        if not 0 <= stage < k:
            raise PartitionError(f"node {name!r} is pinned to stage {stage} of {k}.")
        if first[item] < stage:
            first[item], why_first[item] = stage, name
        if last[item] > stage:
            last[item], why_last[item] = stage, name
    for item in range(n):
        for before in order.preds[item]:
            if first[before] > first[item]:
                first[item], why_first[item] = first[before], why_first[before]
    for item in reversed(range(n)):
        for after in order.succs[item]:
            if last[after] < last[item]:
                last[item], why_last[item] = last[after], why_last[after]
    for item in np.flatnonzero(first > last).tolist():
        a, b = why_first[item], why_last[item]
        raise PartitionError(
            f"pins contradict each other: {a!r} to stage {pin[a]}, {b!r} to stage {pin[b]}.",
            where=f"node {objective.names[order.members[item][0]]!r}",
            why="What a node reads, or must share a stage with, cannot come in a later stage.",
            remedy=f"{a!r} to stage {pin[b]} or earlier, or {b!r} to stage {pin[a]} or later.",
        )
    return first, last


def _arrays(objective: Objective, order: _Order, first: Ints, last: Ints, allow_empty: bool) -> Problem:
    n = len(order.members)
    kinds, kind_of_stage = _kinds(objective)
    groups = net_groups(objective, order.item_of)
    cin = [[sum(objective.recv_ms(x, stage) for x in nets) for nets in groups.values()] for stage in kinds]
    cout = [[sum(objective.send_ms(x, stage) for x in nets) for nets in groups.values()] for stage in kinds]
    kept = [sum(net.kept_bytes for net in nets) for nets in groups.values()]
    keeps = objective.rules.memory.keeps_received
    weight = np.zeros((len(kinds), n))
    fwd = np.zeros((len(kinds), n))
    for c, stage in enumerate(kinds):
        nodes = objective.nodes[stage % len(objective.nodes)]
        np.add.at(weight[c], order.item_of, [node.compute_ms for node in nodes])
        np.add.at(fwd[c], order.item_of, [node.fwd_ms for node in nodes])
    fixed, saved = np.zeros(n), np.zeros(n)
    nodes = objective.nodes[0]
    held_bytes = objective.rules.memory.held_bytes
    np.add.at(fixed, order.item_of, [held_bytes(node, objective.hardware) for node in nodes])
    np.add.at(saved, order.item_of, [float(node.saved_bytes) for node in nodes])
    tied = tuple(
        TiedItems(
            held_bytes(t, objective.hardware),
            tuple(int(order.item_of[objective.index[x]]) for x in t.nodes),
        )
        for t in objective.graph.tied
    )
    limit = objective.rules.memory_limit_bytes
    return Problem(
        members=order.members,
        preds=order.preds,
        succs=order.succs,
        weight=weight,
        pins=tuple(ends for _, ends in groups),
        maker=np.array([maker for maker, _ in groups], dtype=np.int64),
        cin=np.array(cin, dtype=float).reshape(len(kinds), -1),
        cout=np.array(cout, dtype=float).reshape(len(kinds), -1),
        kind_of_stage=kind_of_stage,
        first=first,
        last=last,
        overlap=objective.hardware.overlap,
        allow_empty=allow_empty,
        fixed=fixed,
        saved=saved,
        kept=np.array(kept, dtype=float) * keeps,
        fwd=fwd,
        in_flight=objective.in_flight,
        limit=None if limit is None else float(limit),
        allow_recompute=objective.rules.allow_recompute,
        tied=tied,
    )


def net_groups(objective: Objective, item_of: Ints) -> dict[tuple[int, tuple[int, ...]], list[Net]]:
    """Nets between items, by the item that makes them and all items that they join.

    Args:
        objective: Knows the nets.
        item_of: The item of every node.

    Returns:
        In the order of the nets.
    """
    groups: dict[tuple[int, tuple[int, ...]], list[Net]] = {}
    items = item_of.tolist()
    for net in objective.nets:
        ends = tuple(sorted({items[pin] for pin in net.pins}))
        if len(ends) > 1:
            groups.setdefault((items[net.maker], ends), []).append(net)
    return groups


def _kinds(objective: Objective) -> tuple[list[int], tuple[int, ...]]:
    """One stage of each kind of position, and the kind of every stage."""
    hardware = objective.hardware
    kinds: dict[tuple[object, ...], int] = {}
    kind_of_stage: list[int] = []
    graphs = objective.graphs
    like = [next(i for i, other in enumerate(graphs) if other is graph) for graph in graphs]
    for stage in range(objective.n_stages):
        links = hardware.link_in(stage), hardware.link_out(stage)
        key = (like[stage % len(graphs)], *links)
        kinds.setdefault(key, stage)
        kind_of_stage.append(list(kinds).index(key))
    return list(kinds.values()), tuple(kind_of_stage)
