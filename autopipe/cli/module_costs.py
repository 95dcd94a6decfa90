"""A cost graph summed up by module."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from autopipe.ir.cost_graph import CostGraph, CostNode


@dataclass(frozen=True, slots=True)
class ModuleCost:
    """What the nodes of one module cost, for one microbatch.

    Args:
        module: FQN; "" for operations of the model itself.
        n_nodes: Nodes.
        fwd_ms: Forward.
        bwd_ms: Backward, for inputs and weights.
        param_bytes: Parameters, a tied one once.
        saved_bytes: Kept for the backward.
        out_bytes: Values that other modules read.
    """

    module: str
    n_nodes: int
    fwd_ms: float
    bwd_ms: float
    param_bytes: int
    saved_bytes: int
    out_bytes: int


def module_costs(graph: CostGraph, depth: int | None = None) -> list[ModuleCost]:
    """Sum a cost graph up by module, in program order.

    Args:
        graph: The graph.
        depth: How many names of an FQN tell rows apart; None: up to its first number, ``model.layers.3``, or
            two names where there is none.

    Returns:
        One row a module.
    """
    row_of = {node.name: row_name(node.fqn, depth) for node in graph.nodes}
    members: dict[str, list[CostNode]] = {}
    for node in graph.nodes:
        members.setdefault(row_of[node.name], []).append(node)
    read_outside = {
        maker for maker, reader, data in graph.edges() if data and row_of[maker] != row_of[reader]
    }
    return [_summed(module, nodes, graph, read_outside) for module, nodes in members.items()]


def whole_cost(graph: CostGraph) -> ModuleCost:
    """Sum up all of a cost graph."""
    return _summed("", graph.nodes, graph, ())


def row_name(fqn: str, depth: int | None) -> str:
    """Cut an FQN to the name of its row.

    Example:
        >>> row_name("model.layers.3.mlp.up", None), row_name("transformer.wte", None), row_name("a.b.c", 1)
        ('model.layers.3', 'transformer.wte', 'a')
    """
    names = fqn.split(".")
    if depth is None:
        numbers = (place for place, name in enumerate(names, start=1) if name.isdigit())
        depth = next(numbers, 2)
    return ".".join(names[:depth])


def _summed(
    module: str, nodes: Sequence[CostNode], graph: CostGraph, read_outside: Iterable[str]
) -> ModuleCost:
    inside, read_outside = {node.name for node in nodes}, set(read_outside)
    again = sum(tied.nbytes * max(len(inside.intersection(tied.nodes)) - 1, 0) for tied in graph.tied)
    return ModuleCost(
        module,
        len(nodes),
        math.fsum(node.fwd_ms for node in nodes),
        math.fsum(node.bwd_input_ms + node.bwd_weight_ms for node in nodes),
        sum(node.param_bytes for node in nodes) - again,
        sum(node.saved_bytes for node in nodes),
        sum(node.out_bytes for node in nodes if node.name in read_outside),
    )
