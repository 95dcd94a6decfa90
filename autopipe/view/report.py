"""One page with everything about a plan. It loads nothing: scripts, styles and pictures are inside."""

from __future__ import annotations

import re
from collections.abc import Iterable
from importlib.resources import files

from autopipe.ir.plan import Plan
from autopipe.ir.timeline import Timeline
from autopipe.view.gantt import gantt_svg
from autopipe.view.module_span import module_spans
from autopipe.view.page_data import page_data, script_json
from autopipe.view.palette import shades
from autopipe.view.partition_svg import partition_svg
from autopipe.view.svg import clean, element
from autopipe.view.units import format_bytes, format_ms, format_share

__all__ = ["report_html"]

# The browser itself refuses to fetch anything.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'"


def report_html(plan: Plan, timeline: Timeline, *, is_measured: bool = False) -> str:
    """Write the page.

    Args:
        plan: The plan.
        timeline: One step.
        is_measured: Whether the timeline was measured rather than predicted.

    Returns:
        HTML that needs no other file and no network. Without scripts it lacks only the graph that can be
        opened.
    """
    model = clean(plan.fingerprint.model)
    how = "measured" if is_measured else "predicted"
    run = f"{plan.schedule.name} x {plan.schedule.n_microbatches} microbatches, {how}"
    sections = [
        element("h1", f"{model} <small>in {plan.n_stages} stages</small>"),
        _figures(plan, timeline, how),
        _section("Stages", _stages(plan)),
        _section("How good the cut is", _proof(plan)),
        _section("What crosses", _scroll(partition_svg(plan))),
        _section("One step", _scroll(gantt_svg(timeline, title=run))),
        _section("Inside", _explorer()),
        _section("Where the numbers come from", _sources(plan)),
    ]
    head = [
        '<meta charset="utf-8">',
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        element("title", f"{model} in {plan.n_stages} stages"),
        f"<style>\n{_asset('report.css')}</style>",
    ]
    scripts = [
        f'<script id="plan" type="application/json">{script_json(page_data(plan))}</script>',
        f"<script>\n/*! dagre\n{_asset('dagre-LICENSE.txt')}*/\n{_dagre()}</script>",
        f"<script>\n{_asset('explorer.js')}</script>",
    ]
    body = "\n".join(["<main>", *sections, "</main>", *scripts])
    return "\n".join(
        [
            "<!DOCTYPE html>",
            '<html lang="en">',
            "<head>",
            *head,
            "</head>",
            "<body>",
            body,
            "</body>",
            "</html>",
            "",
        ]
    )


def _asset(name: str) -> str:
    return files("autopipe.view").joinpath("assets", name).read_text("utf-8")


def _dagre() -> str:
    """The layout library, without the address of its source map: a debugger would fetch that."""
    return re.sub(r"(?m)^//# sourceMappingURL=.*$", "", _asset("dagre-3.1.3.min.js"))


def _section(title: str, *content: str) -> str:
    return element("section", element("h2", clean(title)), *content)


def _scroll(picture: str) -> str:
    return element("div", picture, class_="scroll")


def _figures(plan: Plan, timeline: Timeline, how: str) -> str:
    certificate = plan.partition.certificate
    shown = {
        f"step, {how}": format_ms(timeline.makespan_ms),
        "bottleneck": format_ms(certificate.bottleneck_ms),
        f"lower bound {format_ms(certificate.lower_bound_ms)}, gap": format_share(certificate.gap),
        "bubble": format_share(timeline.bubble_fraction),
        "peak memory": format_bytes(max(_rank_memory(plan))),
        f"{clean(plan.schedule.name)}, microbatches": str(plan.schedule.n_microbatches),
    }
    return element(
        "div", *(element("div", element("b", value), word) for word, value in shown.items()), class_="figures"
    )


def _rank_memory(plan: Plan) -> list[int]:
    held = [0] * plan.partition.n_ranks
    for stage, rank in enumerate(plan.partition.rank_of_stage):
        held[rank] += plan.partition.stages[stage].memory_bytes
    return held


def _stages(plan: Plan) -> str:
    heads = [
        "stage",
        "rank",
        "modules",
        "forward",
        "backward",
        "messages",
        "params",
        "sends/mb",
        "in flight",
        "peak mem",
        "load",
    ]
    slowest_ms = max(stage.total_ms for stage in plan.partition.stages)
    rows = []
    for stage, span in zip(plan.partition.stages, module_spans(plan), strict=True):
        sent = sum(link.nbytes for link in plan.transfers if link.src == stage.index)
        cells = [
            str(stage.index),
            str(plan.partition.rank_of_stage[stage.index]),
            _modules(plan, stage.index, span.exact),
            format_ms(stage.fwd_ms),
            format_ms(stage.bwd_ms),
            format_ms(stage.comm_ms),
            format_bytes(stage.param_bytes),
            format_bytes(sent) if sent else "-",
            str(stage.in_flight),
            format_bytes(stage.memory_bytes),
            _load(stage.total_ms, slowest_ms, shades(stage.index).strong),
        ]
        rows.append(element("tr", *(element("td", cell) for cell in cells)))
    head = element("tr", *(element("th", clean(word)) for word in heads))
    return element(
        "div",
        element("table", element("thead", head), element("tbody", *rows), class_="stages"),
        class_="scroll",
    )


def _modules(plan: Plan, stage: int, span: str) -> str:
    """The first and the last module; all of them on demand."""
    fqns = [clean(fqn) for fqn in plan.fqns[stage]]
    if not fqns:
        return clean(span)
    listing = element("div", "<br>".join(fqns), class_="fqns")
    return element("details", element("summary", f"{clean(span)} <small>({len(fqns)})</small>"), listing)


def _load(total_ms: float, slowest_ms: float, colour: str) -> str:
    share = total_ms / slowest_ms if slowest_ms else 0.0
    bar = element("i", "", style=f"width:{100 * share:.1f}%;background:{colour}")
    return element("div", element("span", bar, class_="bar"), format_ms(total_ms), class_="load")


def _proof(plan: Plan) -> str:
    certificate = plan.partition.certificate
    ours_ms = certificate.bottleneck_ms
    bars = [("lower bound", certificate.lower_bound_ms, "bound"), ("this plan", ours_ms, "ours")]
    bars += [(name, other_ms, "other") for name, other_ms in plan.baselines.items()]
    longest_ms = max(time_ms for _, time_ms, _ in bars)
    rows = []
    for name, time_ms, kind in bars:
        more = f" (+{format_share(time_ms / ours_ms - 1)})" if ours_ms and time_ms > ours_ms else ""
        width = 100 * time_ms / longest_ms if longest_ms else 0.0
        bar = element("i", "", class_=kind, style=f"width:{width:.1f}%")
        cells = [clean(name), element("span", bar, class_="bar"), f"{format_ms(time_ms)}{more}"]
        rows.append(element("tr", *(element("td", cell) for cell in cells)))
    words = (
        f"The largest stage takes {format_ms(ours_ms)}. No partition into {plan.n_stages} stages takes "
        f"less than {format_ms(certificate.lower_bound_ms)}: at most {format_share(certificate.gap)} "
        f"could be saved. Found by {certificate.method}; the search ended by: {certificate.stopped_by}."
    )
    return element("table", element("tbody", *rows), class_="proof") + element("p", clean(words))


def _explorer() -> str:
    hint = "Click a box for its operations; click its + to open the module, its \u2212 to close it again."
    buttons = [
        element("button", word, type="button", data_do=what)
        for word, what in (
            ("Open all", "open"),
            ("Close all", "close"),
            ("Larger", "larger"),
            ("Smaller", "smaller"),
        )
    ]
    graph = element("div", "<noscript>This graph needs scripts.</noscript>", id="graph")
    panel = element("div", element("p", "Nothing chosen yet."), id="chosen")
    return element("p", *buttons, f" {hint}", class_="hint") + element("div", graph, panel, class_="explorer")


def _sources(plan: Plan) -> str:
    lines = [f"Costs: {plan.cost_source}, for {plan.hardware}."]
    lines += [f"{device.name}: {device.source}" for device in plan.hardware.devices]
    lines += [f"{link.name}: {link.source}" for link in plan.hardware.links]
    lines += (
        [f"Example: {', '.join(f'{name} = {size}' for name, size in plan.sizes.items())}."]
        if plan.sizes
        else []
    )
    lines += [f"Model fingerprint: {plan.fingerprint.digest}, plan schema {plan.schema_version}."]
    return _list(dict.fromkeys(lines)) + (_list(plan.notes) if plan.notes else "")


def _list(lines: Iterable[str]) -> str:
    return element("ul", *(element("li", clean(line)) for line in lines))
