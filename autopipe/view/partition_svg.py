"""The partition as a picture: a column a stage, modules as boxes, every crossing value with its bytes."""

from __future__ import annotations

from autopipe.ir.partition import StageCost
from autopipe.ir.plan import Plan
from autopipe.view.columns import HEADER_HEIGHT, Layout, Net, Rect, lay_out
from autopipe.view.modules import Box, ModuleGraph, Wire, module_graph
from autopipe.view.names import fit
from autopipe.view.palette import GREY, Shades, shades
from autopipe.view.svg import clean, document, element, polyline, text
from autopipe.view.units import format_bytes, format_ms, format_share

__all__ = ["partition_svg"]

_WARNING = "#c0392b"
_END = {"text_anchor": "end"}


def partition_svg(plan: Plan) -> str:
    """Draw a plan's partition.

    Args:
        plan: The plan; in the small form, arrows end at the stage, and wires inside stages are missing.

    Returns:
        An SVG document that needs nothing else.
    """
    graph = module_graph(plan)
    layout = lay_out(graph)
    width = max(layout.width, 640.0)
    children = [*_title(plan)]
    slowest = max(plan.partition.stages, key=lambda stage: stage.total_ms)
    for stage, frame in zip(plan.partition.stages, layout.frames, strict=True):
        children += _frame(plan, stage, frame, slowest)
    children += [_inner(net) for net in layout.inner]
    children += [_crossing(net) for net in layout.crossing]
    children += _boxes(graph, layout, slowest.total_ms)
    children += [_label(net) for net in layout.crossing]
    return document(
        width, layout.height, children, title=f"{plan.fingerprint.model} in {plan.n_stages} stages"
    )


def _title(plan: Plan) -> list[str]:
    certificate = plan.partition.certificate
    stages = f"{plan.n_stages} stage{'' if plan.n_stages == 1 else 's'}"
    bound = f"lower bound {format_ms(certificate.lower_bound_ms)} (gap {format_share(certificate.gap)})"
    verdict = f"bottleneck {format_ms(certificate.bottleneck_ms)}, {bound}"
    return [
        text(20, 32, f"{plan.fingerprint.model} in {stages}", font_size=17, font_weight="600", fill=GREY.ink),
        text(20, 54, verdict, fill=GREY.ink),
    ]


def _frame(plan: Plan, stage: StageCost, frame: Rect, slowest: StageCost) -> list[str]:
    colour = shades(stage.index)
    left, right = frame.x + 12, frame.right - 12
    load = stage.total_ms / slowest.total_ms if slowest.total_ms else 0.0
    facts = f"{format_bytes(stage.param_bytes)} params, {format_bytes(stage.memory_bytes)} peak"
    rank = plan.partition.rank_of_stage[stage.index]
    bar = {"x": left, "y": frame.y + 29, "height": 5.0, "rx": 2.5}
    drawn = [
        element("rect", **frame._asdict(), rx=8.0, fill=colour.pale, stroke=colour.light),
        text(left, frame.y + 21, f"stage {stage.index}", font_weight="600", fill=colour.ink, font_size=13),
        text(right, frame.y + 21, format_ms(stage.total_ms), **_END, font_weight="600", fill=colour.ink),
        element("rect", **bar, width=right - left, fill="#ffffff"),
        element("rect", **bar, width=(right - left) * load, fill=colour.strong),
        text(left, frame.y + HEADER_HEIGHT - 8, facts, font_size=10, fill=colour.ink),
    ]
    if rank != stage.index:
        drawn.append(text(left + 58, frame.y + 21, f"on rank {rank}", font_size=10, fill=colour.ink))
    if stage is slowest:
        drawn.append(text(left, frame.y - 5, "bottleneck", font_size=11, font_weight="600", fill=_WARNING))
    return drawn


def _boxes(graph: ModuleGraph, layout: Layout, slowest_ms: float) -> list[str]:
    return [
        _box(box, rect, shades(box.stage), slowest_ms)
        for box, rect in zip(graph.boxes, layout.boxes, strict=True)
    ]


def _box(box: Box, rect: Rect, colour: Shades, slowest_ms: float) -> str:
    compute_ms = box.fwd_ms + box.bwd_ms
    middle = rect.y + rect.height / 2
    share = min(1.0, compute_ms / slowest_ms) if slowest_ms else 0.0
    return element(
        "g",
        element("title", clean(_box_tip(box))),
        element("rect", **rect._asdict(), rx=5.0, fill="#ffffff", stroke=colour.strong),
        element(
            "rect",
            x=rect.x + 1,
            y=rect.bottom - 4,
            width=share * (rect.width - 2),
            height=3.0,
            rx=1.5,
            fill=colour.light,
        ),
        text(
            rect.x + 9,
            middle - (3 if box.facts else -4),
            fit(box.label, 23),
            fill="#1d2430",
            font_weight="500",
        ),
        text(rect.x + 9, middle + 11, box.facts, font_size=10, fill=GREY.strong) if box.facts else "",
    )


def _box_tip(box: Box) -> str:
    modules = [fqn for fqn in box.fqns if fqn]
    lines = (
        [", ".join(modules[:6]) + (" ..." if len(modules) > 6 else "")]
        if modules
        else ["the model's own forward"]
    )
    lines += [
        f"{len(box.nodes)} operation{'' if len(box.nodes) == 1 else 's'}",
        f"forward {format_ms(box.fwd_ms)}, backward {format_ms(box.bwd_ms)}",
        f"parameters {format_bytes(box.param_bytes)}, kept for backward {format_bytes(box.saved_bytes)}",
    ]
    return "\n".join(lines)


def _inner(net: Net) -> str:
    ways = [_way(path, GREY.strong, 1.2) for path in net.paths]
    return element("g", element("title", clean("\n".join(map(_wire_tip, net.wires)))), *ways)


def _crossing(net: Net) -> str:
    colour = shades(net.wires[0].src_stage).strong
    dash = None if net.wires[0].sent else "3 3"
    ways = [_way(path, colour, 2.2, dash) for path in net.paths]
    return element("g", element("title", clean("\n".join(map(_wire_tip, net.wires)))), *ways)


def _way(path: tuple[tuple[float, float], ...], colour: str, width: float, dash: str | None = None) -> str:
    """A line that ends in an arrow head; the line stops inside the head, so that its tip is sharp."""
    *before, (x, y) = path
    dx, dy = (x > before[-1][0]) - (x < before[-1][0]), (y > before[-1][1]) - (y < before[-1][1])
    size = 3.5 + width
    line = polyline([*before, (x - dx * (size - 1), y - dy * (size - 1))])
    wing_x, wing_y = size * dx + 0.55 * size * dy, size * dy + 0.55 * size * dx
    other_x, other_y = size * dx - 0.55 * size * dy, size * dy - 0.55 * size * dx
    head = f"M{x:g} {y:g}L{x - wing_x:.2f} {y - wing_y:.2f}L{x - other_x:.2f} {y - other_y:.2f}Z"
    return element(
        "path", d=line, fill="none", stroke=colour, stroke_width=width, stroke_dasharray=dash
    ) + element("path", d=head, fill=colour)


def _label(net: Net) -> str:
    """The bytes of a message, once, where it enters the reading stage."""
    x, y = net.paths[0][-1]
    sent = net.wires[0].sent
    nbytes = sum(flow.nbytes for flow in {flow for wire in net.wires for flow in wire.flows})
    return text(
        x - 12,
        y - 5,
        format_bytes(nbytes) if sent else "not sent",
        text_anchor="end",
        font_size=10,
        font_weight="600" if sent else None,
        fill=shades(net.wires[0].src_stage).ink,
        stroke="#ffffff",
        stroke_width=3,
        paint_order="stroke",
    )


def _wire_tip(wire: Wire) -> str:
    values = ", ".join(flow.value for flow in wire.flows[:6]) + (" ..." if len(wire.flows) > 6 else "")
    nbytes = sum(flow.nbytes for flow in wire.flows)
    grad_nbytes = sum(flow.grad_nbytes for flow in wire.flows)
    if not wire.cut:
        return f"{values}: {format_bytes(nbytes)}"
    if not wire.sent:
        return f"{values}: stage {wire.dst_stage} does not receive it but makes it again"
    back = f"{format_bytes(grad_nbytes)} back" if grad_nbytes else "no gradient back"
    return f"{values}: stage {wire.src_stage} to {wire.dst_stage}, {format_bytes(nbytes)}, {back}"
