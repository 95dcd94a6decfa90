"""The operations of a plan, in program order: what the pictures know of each node.

The cost graph has them with their prices. A plan in the small form has none; the keys of its nodes still tell
module and operation.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from autopipe.ir.cost_graph import CostNode
from autopipe.ir.plan import Plan

__all__ = ["Operation", "operations", "units"]

_ORDINAL = re.compile(r"_\d+$")


@dataclass(frozen=True, slots=True)
class Operation:
    """One node of a plan.

    Args:
        cost: Name, module and prices; prices are 0 in the small form.
        op: What it does, such as ``add``; for a module kept whole, the last part of the module's name.
        stage: Its stage.
        units: The modules that it is inside of, outermost first, a numbered one with the list it is in.
    """

    cost: CostNode
    op: str
    stage: int
    units: tuple[str, ...]


def units(fqn: str) -> tuple[str, ...]:
    """Return the modules around a module and itself, outermost first; a number belongs to the name before it.

    Args:
        fqn: Its FQN, "" for the model itself.

    Returns:
        FQNs, each the start of the next.

    Example:
        >>> units("model.layers.3.mlp.act")
        ('model', 'model.layers.3', 'model.layers.3.mlp', 'model.layers.3.mlp.act')
    """
    parts = fqn.split(".") if fqn else []
    ends = [end for end in range(1, len(parts) + 1) if end == len(parts) or not parts[end].isdigit()]
    return tuple(".".join(parts[:end]) for end in ends)


def operations(plan: Plan) -> tuple[Operation, ...]:
    """List the nodes that have a stage, in program order.

    Args:
        plan: The plan, in either form.

    Returns:
        One entry a node.
    """
    stage_of = plan.partition.stage_of
    if plan.cost_graph is None:
        nodes = tuple(CostNode(name, _fqn(plan.keys.get(name, ""))) for name in stage_of)
    else:
        nodes = tuple(node for node in plan.cost_graph.nodes if node.name in stage_of)
    return tuple(
        Operation(node, _op(plan.keys.get(node.name, ""), node), stage_of[node.name], units(node.fqn))
        for node in nodes
    )


def _fqn(key: str) -> str:
    return key.rsplit("|", 2)[0] if key.count("|") >= 2 else ""


def _op(key: str, node: CostNode) -> str:
    op = key.rsplit("|", 2)[1] if key.count("|") >= 2 else _ORDINAL.sub("", node.name)
    return (node.fqn.rpartition(".")[2] or op) if op.startswith("@") else op
