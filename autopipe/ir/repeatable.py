"""Which nodes of a capture may run in several stages, instead of sending their values to the others."""

from __future__ import annotations

from collections.abc import Set

import networkx as nx
from torch import fx

from autopipe.ir.traced import TracedModel

Unit = frozenset[str]


def repeatable_units(traced: TracedModel) -> tuple[Unit, ...]:
    """Return groups of nodes whose running twice gives the same values and touches nothing else.

    Most groups are one node. What makes several tensors comes with what takes them out, and a tensor that is
    written in place with its writers::

        rotary ─┬─ getitem                zeros ── masked_fill_ ─┬─ view
                └─ getitem_1                                     └─ view_1

    Left out is what reads parameters, draws random numbers, writes what others made, reads what others write,
    is an output of the model, or is a module that looks at its values or has hooks.

    Args:
        traced: The captured model.

    Returns:
        Names of nodes, group by group, in program order. O(nodes x arguments).
    """
    order = {node.name: at for at, node in enumerate(traced.compute_nodes())}
    outputs = {*traced.out_names, *(traced.changed.made if traced.changed is not None else ())}
    apart = outputs | {name for pair in traced.order for name in pair}
    written = {name for info in traced.info.values() for name in info.writes}
    nodes = {node.name: node for node in traced.compute_nodes()}
    return tuple(
        unit
        for unit in sorted(_groups(traced), key=lambda names: min(order[name] for name in names))
        if not unit & apart
        and all(_runs_alone(traced, nodes[name]) for name in unit)
        and _writes_its_own(traced, unit)
        and not (_read_by(nodes, unit) - unit) & written
        and _readers_come_last(traced, nodes, order, unit)
    )


def _groups(traced: TracedModel) -> list[Unit]:
    joined: nx.Graph[str] = nx.Graph()
    nodes = traced.compute_nodes()
    joined.add_nodes_from(node.name for node in nodes)
    for group in traced.together:
        nx.add_path(joined, [name for name in group if name in joined])
    for node in nodes:
        info = traced.info[node.name]
        joined.add_edges_from((node.name, name) for name in info.writes if name in joined)
        if info.spec is None:
            joined.add_edges_from((node.name, user.name) for user in node.users if user.name in joined)
    return [frozenset(group) for group in nx.connected_components(joined)]


def _runs_alone(traced: TracedModel, node: fx.Node) -> bool:
    info = traced.info[node.name]
    if info.parameters or info.is_random or info.opaque_because:
        return False
    if node.op != "call_module":
        return True
    module = traced.modules[str(node.target)]
    hooked = bool(module._forward_hooks or module._forward_pre_hooks)
    return not hooked and not any(each.fqn == info.fqn for each in traced.sets)


def _writes_its_own(traced: TracedModel, unit: Unit) -> bool:
    return all(unit.issuperset(traced.info[name].writes) for name in unit)


def _read_by(nodes: dict[str, fx.Node], unit: Unit) -> Set[str]:
    """What the nodes read: values, model inputs, and attributes by their own names."""
    read = [argument for name in unit for argument in nodes[name].all_input_nodes]
    return {str(node.target) if node.op in ("get_attr", "placeholder") else node.name for node in read}


def _readers_come_last(
    traced: TracedModel, nodes: dict[str, fx.Node], order: dict[str, int], unit: Unit
) -> bool:
    """Whether all who read memory after a write read what the writer returns, and so make it run."""
    for writer in (name for name in unit if traced.info[name].writes):
        made_before = [nodes[name] for name in unit if order[name] < order[writer]]
        users = {user.name for node in made_before for user in node.users if user.op != "output"}
        if any(order.get(user, -1) > order[writer] for user in users):
            return False
    return True
