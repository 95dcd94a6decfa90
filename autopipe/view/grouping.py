"""Which nodes are drawn as one: those of one module in one stage, without groups that read each other.

::

    FQN of a node                  shown under
    "wte"                          wte                 a module of the model itself
    "transformer.h.3.attn.qkv"     transformer.h.3     a numbered module, whatever it is inside of
    "mid.block.conv"               mid
    ""                             ""                  loose: together with its neighbours of the same kind
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import networkx as nx

from autopipe.ir.cost_graph import Graph
from autopipe.view.operations import Operation

__all__ = ["Group", "group_nodes", "shown_modules"]


@dataclass(frozen=True, slots=True)
class Group:
    """Nodes of one module in one stage.

    Args:
        stage: Their stage.
        fqn: The module.
        loose: They are operations of the module's own forward, and its inner modules are drawn by themselves.
        members: The nodes, in program order.
    """

    stage: int
    fqn: str
    loose: bool
    members: tuple[Operation, ...]


def group_nodes(known: Sequence[Operation], edges: Sequence[tuple[str, str]]) -> list[Group]:
    """Put nodes of one module and stage together.

    Args:
        known: The nodes in program order.
        edges: (maker, reader) by name.

    Returns:
        The groups in an order in which none reads a later one. O(nodes + edges).
    """
    shown, loose = shown_modules(known)
    group_of = _without_cycles(known, _first_groups(known, shown, loose), edges)
    members: dict[int, list[Operation]] = defaultdict(list)
    for one in known:
        members[group_of[one.cost.name]].append(one)
    groups = []
    for number in nx.lexicographical_topological_sort(_quotient(group_of, edges)):
        name, stage = members[number][0].cost.name, members[number][0].stage
        groups.append(Group(stage, shown[name], name in loose, tuple(members[number])))
    return groups


def _first_groups(known: Sequence[Operation], shown: Mapping[str, str], loose: set[str]) -> dict[str, int]:
    """Number groups by the place of their first node; a loose node joins the loose neighbour before it."""
    group_of: dict[str, int] = {}
    whole: dict[tuple[int, str], int] = {}
    newest: dict[int, tuple[str, int]] = {}  # stage -> module and group of its newest node, if that is loose
    for place, one in enumerate(known):
        name, fqn = one.cost.name, shown[one.cost.name]
        if name in loose:
            before, group = newest.get(one.stage, ("", -1))
            group_of[name] = group if group >= 0 and before == fqn else place
            newest[one.stage] = (fqn, group_of[name])
        else:
            group_of[name] = whole.setdefault((one.stage, fqn), place)
            newest.pop(one.stage, None)
    return group_of


def shown_modules(known: Sequence[Operation]) -> tuple[dict[str, str], set[str]]:
    """Choose the module that each node is shown under.

    Args:
        known: The nodes.

    Returns:
        Node -> FQN of its module, and the nodes that lie loose: operations of the forward of a module whose
        inner modules are shown by themselves.
    """
    shown: dict[str, str] = {}
    loose: set[str] = set()
    waiting = [("", 0, list(known))]
    while waiting:
        fqn, depth, members = waiting.pop()
        if fqn and not _is_opened(fqn, depth, members, len(known)):
            shown.update((one.cost.name, fqn) for one in members)
            continue
        inside: dict[str, list[Operation]] = defaultdict(list)
        for one in members:
            if len(one.units) > depth:
                inside[one.units[depth]].append(one)
            else:
                shown[one.cost.name] = fqn
                loose.add(one.cost.name)
        waiting += [(child, depth + 1, nodes) for child, nodes in inside.items()]
    return shown, loose


def _is_opened(fqn: str, depth: int, members: Sequence[Operation], n_nodes: int) -> bool:
    """Whether a module is merely a container: it has numbered modules inside, or most of the model."""
    deeper = {unit for one in members for unit in one.units[depth:]}
    if not deeper:
        return False
    is_most = 2 * len(members) > n_nodes
    if any(_is_numbered(unit) for unit in deeper):
        return is_most or not _is_numbered(fqn)
    return is_most and not _is_numbered(fqn)


def _is_numbered(fqn: str) -> bool:
    return fqn.rpartition(".")[2].isdigit()


def _quotient(group_of: Mapping[str, int], edges: Iterable[tuple[str, str]]) -> Graph:
    graph: Graph = nx.DiGraph()
    graph.add_nodes_from(sorted(set(group_of.values())))
    pairs = ((group_of[a], group_of[b]) for a, b in edges)
    graph.add_edges_from((a, b) for a, b in pairs if a != b)
    return graph


def _without_cycles(
    known: Sequence[Operation], group_of: Mapping[str, int], edges: Sequence[tuple[str, str]]
) -> dict[str, int]:
    """Split groups that read each other in a circle into runs: neighbours in the order of the circle's nodes.

    Runs of a topological order cannot form a circle, and no other circle comes from splitting.
    """
    circles = [c for c in nx.strongly_connected_components(_quotient(group_of, edges)) if len(c) > 1]
    circle_of = {group: number for number, circle in enumerate(circles) for group in circle}
    newest: dict[int, tuple[int, int]] = {}  # circle -> the group of its newest node, and that one's run
    split = dict(group_of)
    for place, one in enumerate(known):
        group = group_of[one.cost.name]
        if group in circle_of:
            before, run = newest.get(circle_of[group], (-1, -1))
            split[one.cost.name] = run if before == group else place
            newest[circle_of[group]] = (group, split[one.cost.name])
    return split
