"""What the page's graph knows, as JSON: nodes, what reads what, and the boxes that it starts with."""

from __future__ import annotations

import json
from typing import Any

from autopipe.ir.plan import Plan
from autopipe.view.modules import module_graph
from autopipe.view.operations import operations
from autopipe.view.palette import shades

__all__ = ["page_data", "script_json"]


def page_data(plan: Plan) -> dict[str, Any]:
    """Collect what the page draws.

    Args:
        plan: The plan.

    Returns:
        JSON types::

            stages      title and colours of each
            boxes       [label, stage] of each box of the collapsed graph
            nodes       [name, op, stage, box, FQNs of the modules around it, fwd ms, bwd ms, parameter bytes,
                         output bytes, bytes kept for backward] of each node
            edges       [maker, reader] by position among the nodes
            sent        [value, maker's stage, reader's stage, bytes, gradient's bytes]
            slowest_ms  of the stages
    """
    graph = module_graph(plan)
    box_of = {name: index for index, box in enumerate(graph.boxes) for name in box.nodes}
    known = operations(plan)
    place = {one.cost.name: index for index, one in enumerate(known)}
    edges = plan.cost_graph.edges() if plan.cost_graph else ()
    return {
        "stages": [{"title": f"stage {s.index}", **shades(s.index)._asdict()} for s in plan.partition.stages],
        "boxes": [[box.label, box.stage] for box in graph.boxes],
        "nodes": [
            [
                one.cost.name,
                one.op,
                one.stage,
                box_of[one.cost.name],
                list(one.units),
                one.cost.fwd_ms,
                one.cost.bwd_ms,
                one.cost.param_bytes,
                one.cost.out_bytes,
                one.cost.saved_bytes,
            ]
            for one in known
        ],
        "edges": [[place[a], place[b]] for a, b, data in edges if data and a in place and b in place],
        "sent": [[link.value, link.src, link.dst, link.nbytes, link.grad_nbytes] for link in plan.transfers],
        "slowest_ms": max(stage.total_ms for stage in plan.partition.stages),
    }


def script_json(data: Any) -> str:
    r"""Write JSON that can stand inside a script element: nothing in it can end that or start a comment.

    Args:
        data: JSON types.

    Returns:
        ASCII text.

    Example:
        >>> print(script_json("</script><!--"))
        "\u003c/script\u003e\u003c!--"
    """
    text = json.dumps(data, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
