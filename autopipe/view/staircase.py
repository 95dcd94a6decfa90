"""The timeline as text: the staircase that papers draw, one line a rank.

::

    rank 0 |F0F1F2F3......B0--F4B1--F5B2--
    rank 1 |..F0F1F2..B0--F3B1--F4B2--F5B3
"""

from __future__ import annotations

from collections import defaultdict

from autopipe.ir.timeline import Span, Timeline
from autopipe.view.cells import cell_runs
from autopipe.view.gantt import headline
from autopipe.view.units import format_ms

__all__ = ["gantt_text"]


def gantt_text(timeline: Timeline, *, width: int = 80) -> str:
    """Draw the compute lanes of a timeline to scale.

    Args:
        timeline: Measured or predicted.
        width: Columns.

    Returns:
        A headline, one line a rank, and a scale. A column shows the span that takes most of it; as many are
        dots as there is idling. A span starts with its action, as far as there is room: the op and the
        microbatch, with the stage in front where a rank holds several; it goes on with ``-`` for forwards
        and ``=`` for the rest.

    Example:
        >>> from autopipe.ir.action import Op
        >>> spans = [Span(0, 0, Op.F, 0, 0, 1, "0F0"), Span(1, 1, Op.F, 0, 1, 2, "1F0"),
        ...          Span(1, 1, Op.B, 0, 2, 4, "1B0"), Span(0, 0, Op.B, 0, 4, 6, "0B0")]
        >>> print(gantt_text(Timeline(tuple(spans), 2), width=32))
        step 6.00 ms, bubble 50 %
        rank 0 |F0--............B0======
        rank 1 |....F0--B0======........
               0                 6.00 ms
    """
    names = [f"rank {rank}" for rank in range(timeline.n_ranks)]
    margin = max(map(len, names), default=0) + 2
    columns = max(10, width - margin)
    lines, makespan_ms = [headline(timeline)], timeline.makespan_ms
    computes: dict[int, list[Span]] = defaultdict(list)
    for span in timeline.spans:
        if span.lane == "compute":
            computes[span.rank].append(span)
    for rank, name in enumerate(names):
        lines.append(f"{name.ljust(margin - 2)} |{_row(computes[rank], makespan_ms, columns)}")
    lines.append(f"{' ' * (margin - 1)}0{format_ms(makespan_ms).rjust(columns)}")
    return "\n".join(lines)


def _row(spans: list[Span], makespan_ms: float, columns: int) -> str:
    many = len({span.stage for span in spans}) > 1
    ordered = sorted(spans, key=lambda span: span.start_ms)
    return "".join(
        "." * room if span is None else _span(span, room, many)
        for span, _, room in cell_runs(ordered, makespan_ms, columns)
    )


def _span(span: Span, room: int, many: bool) -> str:
    microbatch = "" if span.microbatch is None else span.microbatch
    label = f"{span.stage if many else ''}{span.op}{microbatch}"
    if len(label) > room:
        label = span.op.value
    return label.ljust(room, "-" if span.op == "F" else "=")
