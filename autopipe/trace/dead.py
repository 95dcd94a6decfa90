"""Drops what nobody uses: calls without users that write nothing, draw nothing and are no modules."""

from __future__ import annotations

from torch import fx

from autopipe.ir.traced import NodeInfo
from autopipe.trace.decisions import Decision


def without_dead_nodes(graph: fx.Graph, info: dict[str, NodeInfo]) -> None:
    """Erase dead nodes from a graph, and from what is known of it.

    Complexity: linear in the size of the graph.
    """
    for node in reversed(graph.nodes):
        if node.users or node.op in ("placeholder", "output", "call_module"):
            continue
        known = info.get(node.name)
        if known is not None and (known.writes or known.is_random or isinstance(node.target, Decision)):
            continue
        graph.erase_node(node)
        info.pop(node.name, None)
