"""Gives the nodes of a new capture the stages of the plan.

A model captured for other arguments has mostly the same nodes, under the same keys. They keep their stages.
New ones (a loss that labels brought, a mask) go where their inputs are, or, without inputs, where they are
used.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import fx

from autopipe.ir.traced import TracedModel


def assign(traced: TracedModel, stage_of_key: Mapping[str, int]) -> dict[str, int]:
    """Return a legal stage for every node that runs.

    Args:
        traced: A capture.
        stage_of_key: Stage by node key, from the plan.

    Returns:
        Node name -> stage, in program order: what the plan says where values then flow forwards only and
        what must stay together does; a later stage where not.

    Complexity:
        O(edges) for a capture that the plan fits; O(edges x stages) at worst.
    """
    nodes = traced.compute_nodes()
    keys = {node.name: traced.info[node.name].key for node in nodes}
    found = {name: stage_of_key[key] for name, key in keys.items() if key in stage_of_key}
    _follow_dataflow(nodes, found)
    _make_legal(traced, nodes, found)
    return {node.name: found[node.name] for node in nodes}


def _follow_dataflow(nodes: list[fx.Node], found: dict[str, int]) -> None:
    """Place nodes that the plan does not know: behind their inputs, else before their users, else first."""
    for node in nodes:
        before = [found[other.name] for other in node.all_input_nodes if other.name in found]
        if node.name not in found and before:
            found[node.name] = max(before)
    for node in reversed(nodes):
        if node.name not in found:
            found[node.name] = min((found[user.name] for user in node.users if user.name in found), default=0)


def _make_legal(traced: TracedModel, nodes: list[fx.Node], found: dict[str, int]) -> None:
    """Raise stages until no value flows backwards and no group is cut; stages only grow, so this ends."""
    group_of = {name: group for group in traced.together for name in group}
    after = {node.name: [n.name for n in node.all_input_nodes if n.name in found] for node in nodes}
    for first, then in traced.order:
        after[then].append(first)
    changed = True
    while changed:
        changed = False
        for node in nodes:
            group = group_of.get(node.name, (node.name,))
            stage = max(found[name] for name in (*group, *after[node.name]))
            if any(found[name] != stage for name in group):
                found.update(dict.fromkeys(group, stage))
                changed = True
