"""The partition in Mermaid, which GitHub and GitLab draw inside pages and pull requests: a subgraph a stage.

Language: https://mermaid.js.org/syntax/flowchart.html
"""

from __future__ import annotations

import re

from autopipe.ir.plan import Plan
from autopipe.view.modules import Box, Wire, module_graph
from autopipe.view.palette import shades
from autopipe.view.svg import printable
from autopipe.view.units import format_bytes, format_ms

__all__ = ["partition_mermaid"]


def partition_mermaid(plan: Plan) -> str:
    """Write a plan's partition in Mermaid.

    Args:
        plan: The plan.

    Returns:
        The text of a ``.mmd`` file, or of a ``mermaid`` block in Markdown. Values that cross are thick and
        carry their bytes.
    """
    graph = module_graph(plan)
    nbytes = graph.sent_bytes()
    lines = ["flowchart TB"]
    for cost in plan.partition.stages:
        title = f"stage {cost.index}: {format_ms(cost.total_ms)}, {format_bytes(cost.memory_bytes)} peak"
        lines.append(f"  subgraph stage{cost.index}[{_quoted(title)}]")
        lines += [f"    n{index}[{_label(graph.boxes[index])}]" for index in graph.boxes_of(cost.index)]
        lines.append("  end")
    lines += [f"  {_wire(wire, nbytes.get(index))}" for index, wire in enumerate(graph.wires)]
    for stage in range(graph.n_stages):
        sent = [
            str(i) for i, wire in enumerate(graph.wires) if wire.cut and wire.sent and wire.src_stage == stage
        ]
        if sent:
            lines.append(f"  linkStyle {','.join(sent)} stroke:{shades(stage).strong},stroke-width:3px")
    for stage in range(graph.n_stages):
        colour = shades(stage)
        lines.append(f"  style stage{stage} fill:{colour.pale},stroke:{colour.light},color:{colour.ink}")
        own = ",".join(f"n{index}" for index in graph.boxes_of(stage))
        if own:
            lines.append(f"  classDef boxes{stage} fill:#ffffff,stroke:{colour.strong},color:#1d2430")
            lines.append(f"  class {own} boxes{stage}")
    return "\n".join([*lines, ""])


def _label(box: Box) -> str:
    return _quoted(f"{box.label}\n{box.facts}" if box.facts else box.label)


def _wire(wire: Wire, nbytes: int | None) -> str:
    src = f"stage{wire.src_stage}" if wire.src is None else f"n{wire.src}"
    dst = f"stage{wire.dst_stage}" if wire.dst is None else f"n{wire.dst}"
    if not wire.cut:
        return f"{src} --> {dst}"
    if not wire.sent:
        return f"{src} -.-> {dst}"
    return f"{src} ==> {dst}" if nbytes is None else f"{src} ==>|{_quoted(format_bytes(nbytes))}| {dst}"


def _quoted(content: str) -> str:
    """A Mermaid string: what is markup to Mermaid or HTML is an entity, a line break is a ``<br/>``.

    Example:
        >>> print(_quoted('a"b<c>' + chr(10) + '#`'))
        "a#34;b#60;c#62;<br/>#35;#96;"
    """
    parts = printable(content).replace("\r", " ").split("\n")
    return (
        '"'
        + "<br/>".join(re.sub(r"[^\w .,:()/+-]", lambda c: f"#{ord(c[0])};", part) for part in parts)
        + '"'
    )
