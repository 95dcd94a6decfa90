"""The partition in the DOT language of Graphviz: a cluster a stage. No ``dot`` program is needed.

Language: https://graphviz.org/doc/info/lang.html
"""

from __future__ import annotations

from autopipe.ir.plan import Plan
from autopipe.view.modules import Box, Wire, module_graph
from autopipe.view.palette import GREY, shades
from autopipe.view.svg import printable
from autopipe.view.units import format_bytes, format_ms

__all__ = ["partition_dot"]


def partition_dot(plan: Plan) -> str:
    """Write a plan's partition in DOT.

    Args:
        plan: The plan.

    Returns:
        The text of a ``.dot`` file; ``dot -Tsvg`` draws it. Values that cross are bold and carry their bytes.
    """
    graph = module_graph(plan)
    nbytes = graph.sent_bytes()
    lines = [
        "digraph partition {",
        f"  label={_quoted(f'{plan.fingerprint.model} in {plan.n_stages} stages')};",
        '  labelloc="t"; fontname="Helvetica"; rankdir="LR"; compound="true";',
        '  node [shape="box", style="rounded,filled", fillcolor="white"];',
        '  node [fontname="Helvetica", fontsize="10"];',
        '  edge [fontname="Helvetica", fontsize="9"];',
    ]
    for stage in plan.partition.stages:
        colour = shades(stage.index)
        title = f"stage {stage.index}: {format_ms(stage.total_ms)}, {format_bytes(stage.memory_bytes)} peak"
        lines += [
            f"  subgraph cluster_{stage.index} {{",
            f'    label={_quoted(title)}; style="rounded,filled"; '
            f'fillcolor="{colour.pale}"; color="{colour.light}"; fontname="Helvetica";',
        ]
        boxes = graph.boxes_of(stage.index)
        lines += [f"    {_box(index, graph.boxes[index], colour.strong)}" for index in boxes]
        lines += [f'    stage{stage.index} [style="invis", width="0", height="0", label=""];', "  }"]
    lines += [f"  {_wire(wire, nbytes.get(index))}" for index, wire in enumerate(graph.wires)]
    return "\n".join([*lines, "}", ""])


def _box(index: int, box: Box, colour: str) -> str:
    label = f"{box.label}\n{box.facts}" if box.facts else box.label
    return f'n{index} [label={_quoted(label)}, color="{colour}"];'


def _wire(wire: Wire, nbytes: int | None) -> str:
    src = f"stage{wire.src_stage}" if wire.src is None else f"n{wire.src}"
    dst = f"stage{wire.dst_stage}" if wire.dst is None else f"n{wire.dst}"
    clusters = f'ltail="cluster_{wire.src_stage}", ' if wire.src is None else ""
    clusters += f'lhead="cluster_{wire.dst_stage}", ' if wire.dst is None else ""
    if not wire.cut:
        return f'{src} -> {dst} [{clusters}color="{GREY.strong}"];'
    if not wire.sent:
        return f'{src} -> {dst} [{clusters}color="{GREY.strong}", style="dashed"];'
    label = "" if nbytes is None else f"label={_quoted(format_bytes(nbytes))}, "
    return f'{src} -> {dst} [{clusters}{label}color="{shades(wire.src_stage).strong}", penwidth="2.2"];'


def _quoted(content: str) -> str:
    r"""A DOT string: quotes and backslashes escaped; a line break is the escape ``\n``.

    Example:
        >>> print(_quoted('a"b' + chr(10) + 'c'))
        "a\"b\nc"
    """
    escaped = printable(content).replace("\\", "\\\\").replace('"', '\\"')
    return '"' + escaped.replace("\r", " ").replace("\n", "\\n") + '"'
