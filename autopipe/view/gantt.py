"""The timeline as a picture: a row a rank, forwards light and backwards strong, messages on thin lanes below.

::

    rank 0  [0][1][2][3]            [ 0 ][4][ 1 ] ...
             ----  ----  send
    rank 1     [0][1][2]      [ 0 ][3][ 1 ][4]    ...
    ms      0         10         20         30
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from math import floor, log10
from typing import Any

from autopipe.ir.action import Op
from autopipe.ir.timeline import Span, Timeline
from autopipe.view.cells import Run, cell_runs
from autopipe.view.palette import GREY, Shades, shades
from autopipe.view.svg import clean, document, element, number, text
from autopipe.view.units import format_ms, format_share, time_unit

__all__ = ["gantt_svg", "headline"]

_LEFT, _RIGHT, _TOP = 66.0, 20.0, 88.0
_ROW, _COMPUTE, _LANE = 44.0, 24.0, 5.0
_WIDTHS = (720.0, 2600.0)  # of the time axis, at least and at most
_READABLE = 15.0  # pixels in which the number of a microbatch can be read
_EACH = 10_000  # spans that are drawn one by one; more are drawn as cells
_CELLS = 400_000  # of all lanes together: some megabytes
_TITLE: dict[str, Any] = {"font_size": 17, "font_weight": "600", "fill": GREY.ink}
_NUMBERS: dict[str, Any] = {"text_anchor": "middle", "font_size": 11, "pointer_events": "none"}
_WORDS = {
    Op.F: "forward",
    Op.B: "backward",
    Op.I: "backward, for the inputs",
    Op.W: "backward, for the weights",
    Op.U: "update",
}


def headline(timeline: Timeline) -> str:
    """Say what matters most: how long the step takes, and how much of it the ranks are idle.

    Args:
        timeline: The timeline.

    Returns:
        A line such as ``"step 130.1 ms, bubble 27 %"``.
    """
    return f"step {format_ms(timeline.makespan_ms)}, bubble {format_share(timeline.bubble_fraction)}"


def gantt_svg(timeline: Timeline, *, title: str = "") -> str:
    """Draw a timeline.

    Args:
        timeline: Measured or predicted.
        title: What it is of, in front of the step's length and bubble.

    Returns:
        An SVG document that needs nothing else; wider for more microbatches. Of more spans than anybody
        can tell apart, each cell of some pixels shows the longest, so that the size is bounded.
    """
    width = _axis_width(timeline)
    scale = width / timeline.makespan_ms if timeline.makespan_ms else 0.0
    bottom = _TOP + _ROW * timeline.n_ranks
    children = [
        text(20, 32, f"{title}: {headline(timeline)}" if title else headline(timeline), **_TITLE),
        *_legend(timeline),
        *_axis(timeline.makespan_ms, scale, bottom),
    ]
    for rank in range(timeline.n_ranks):
        children += _row(rank, width)
    if len(timeline.spans) > _EACH:
        children += _dense(timeline, width)
    else:
        children += _alike(timeline, scale)
    return document(_LEFT + width + _RIGHT, bottom + 44, children, title=title or "timeline")


def _axis_width(timeline: Timeline) -> float:
    """Wide enough to read the numbers on a forward of middling length, within limits."""
    lengths = sorted(span.duration_ms for span in timeline.spans if span.op is Op.F and span.duration_ms)
    least, most = _WIDTHS
    if not lengths:
        return least
    return min(most, max(least, _READABLE * timeline.makespan_ms / lengths[len(lengths) // 2]))


def _legend(timeline: Timeline) -> Iterable[str]:
    ops = dict.fromkeys(span.op for span in timeline.spans)
    x = 20.0
    for op in Op:
        if op in ops:
            word = _WORDS.get(op, op.value.lower())
            fill = _fill(op, shades(0))
            height = _LANE if op.is_comm else 11.0
            yield element("rect", x=x, y=55 - height / 2, width=16.0, height=height, rx=2.0, fill=fill)
            yield text(x + 21, 59, word, fill=GREY.ink, font_size=11)
            x += 21 + 6.2 * len(word) + 18
    many = f"{len(timeline.spans):,} spans: the longest of each place is drawn"
    note = many if len(timeline.spans) > _EACH else "numbers are microbatches"
    yield text(x, 59, f"one colour a stage, {note}", fill=GREY.strong, font_size=11)


def _axis(makespan_ms: float, scale: float, bottom: float) -> Iterable[str]:
    unit, unit_ms = time_unit(makespan_ms)
    step_ms = _tick_ms(90 / scale) if scale else 1.0
    for tick in range(floor(makespan_ms / step_ms) + 1):
        x = _LEFT + tick * step_ms * scale
        yield element("line", x1=x, x2=x, y1=_TOP - 8, y2=bottom + 4, stroke=GREY.light)
        label = f"{tick * step_ms / unit_ms:g}"
        yield text(x, bottom + 20, label, text_anchor="middle", fill=GREY.ink, font_size=11)
    yield text(_LEFT - 12, bottom + 20, unit, text_anchor="end", fill=GREY.strong, font_size=11)


def _tick_ms(at_least_ms: float) -> float:
    """Round up to 1, 2 or 5 times a power of ten."""
    power = 10.0 ** floor(log10(at_least_ms))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= at_least_ms * 0.999)


def _row(rank: int, width: float) -> Iterable[str]:
    y = _TOP + _ROW * rank
    yield text(_LEFT - 12, y + 16, f"rank {rank}", text_anchor="end", fill=GREY.ink)
    yield element("rect", x=_LEFT, y=y, width=width, height=_COMPUTE, fill=GREY.pale)


def _alike(timeline: Timeline, scale: float) -> Iterable[str]:
    """Group the spans that look the same: thousands of them share one place and one colour."""
    groups: dict[tuple[int, int, Op], list[Span]] = defaultdict(list)
    for span in timeline.spans:
        groups[span.rank, span.stage, span.op].append(span)
    for (rank, stage, op), spans in groups.items():
        bars = [_bar(span, scale) for span in spans]
        fill, place = _fill(op, shades(stage)), _place(rank, op)
        yield element("g", *bars, fill=fill, transform=place)
        if numbers := "".join(_number(span, scale) for span in spans):
            ink = shades(stage).ink if op is Op.F else "#ffffff"
            yield element("g", numbers, fill=ink, transform=place, **_NUMBERS)


def _place(rank: int, op: Op) -> str:
    y = _TOP + _ROW * rank
    if op.is_comm:
        y += _COMPUTE + (1.5 if op is Op.SEND else 2.5 + _LANE)
    return f"translate({number(_LEFT)} {number(y)})"


def _dense(timeline: Timeline, width: float) -> Iterable[str]:
    """Draw every lane in cells, all of one look as one path; a lane says what it holds in all."""
    lanes: dict[tuple[int, str], list[Span]] = defaultdict(list)
    for span in timeline.spans:
        lanes[span.rank, span.lane].append(span)
    n_cells = max(1, min(int(width), _CELLS // len(lanes)))
    makespan_ms = timeline.makespan_ms
    for (rank, lane), spans in sorted(lanes.items()):
        spans.sort(key=lambda span: span.start_ms)
        # A message is shorter than a cell, and seen all the same.
        runs = cell_runs(spans, makespan_ms, n_cells, any_shows=lane != "compute")
        looks: dict[tuple[int, Op], list[Run]] = defaultdict(list)
        for run in runs:
            if run.span is not None:
                looks[run.span.stage, run.span.op].append(run)
        paths = [_path(stage, op, alike, width / n_cells) for (stage, op), alike in looks.items()]
        yield element("g", element("title", _contents(spans)), *paths, transform=_place(rank, spans[0].op))


def _contents(spans: Iterable[Span]) -> str:
    took_ms: dict[tuple[int, Op], list[float]] = defaultdict(list)
    for span in spans:
        took_ms[span.stage, span.op].append(span.duration_ms)
    return "; ".join(
        f"stage {stage}: {len(each)} x {_WORDS.get(op, op.value.lower())}, {format_ms(sum(each))} together"
        for (stage, op), each in took_ms.items()
    )


def _path(stage: int, op: Op, runs: Iterable[Run], cell: float) -> str:
    height = number(_LANE if op.is_comm else _COMPUTE)
    bars = []
    for run in runs:
        room = run.room * cell
        across = number(room - min(1.0, room / 8))
        bars.append(f"M{number(run.first * cell)} 0h{across}v{height}h-{across}z")
    return element("path", d="".join(bars), fill=_fill(op, shades(stage)))


def _bar(span: Span, scale: float) -> str:
    tip = element("title", clean(f"{span.label}: {format_ms(span.start_ms)} to {format_ms(span.end_ms)}"))
    room = span.duration_ms * scale
    gap = min(1.0, room / 8)  # neighbours stay apart
    height = _LANE if span.op.is_comm else _COMPUTE
    return element("rect", tip, x=span.start_ms * scale, width=max(room - gap, 0.75), height=height)


def _number(span: Span, scale: float) -> str:
    """The microbatch, where there is room for it."""
    if span.op.is_comm or span.microbatch is None:
        return ""
    shown = str(span.microbatch)
    if span.duration_ms * scale < 4 + 6.5 * len(shown):
        return ""
    return text((span.start_ms + span.end_ms) / 2 * scale, 16, shown)


def _fill(op: Op, colour: Shades) -> str:
    return {
        Op.F: colour.light,
        Op.W: colour.ink,
        Op.U: "#1d2430",
        Op.SEND: GREY.strong,
        Op.RECV: GREY.light,
    }.get(op, colour.strong)
