"""The timeline as text: the staircase that papers draw, one line a rank.

::

    rank 0 |F0F1F2F3......B0--F4B1--F5B2--
    rank 1 |..F0F1F2..B0--F3B1--F4B2--F5B3
"""

from __future__ import annotations

from itertools import groupby

from autopipe.ir.timeline import Span, Timeline
from autopipe.view.gantt import headline
from autopipe.view.units import format_ms

__all__ = ["gantt_text"]


def gantt_text(timeline: Timeline, *, width: int = 80) -> str:
    """Draw the compute lanes of a timeline to scale.

    Args:
        timeline: Measured or predicted.
        width: Columns.

    Returns:
        A headline, one line a rank, and a scale. A column shows the span that takes most of it, or a dot
        where idling does. A span starts with its action, as far as there is room: the op and the microbatch,
        with the stage in front where a rank holds several; it goes on with ``-`` for forwards and ``=`` for
        the rest.

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
    lines = [headline(timeline)]
    for rank, name in enumerate(names):
        spans = [span for span in timeline.spans if span.rank == rank and span.lane == "compute"]
        lines.append(f"{name.ljust(margin - 2)} |{_row(spans, timeline.makespan_ms, columns)}")
    lines.append(f"{' ' * (margin - 1)}0{format_ms(timeline.makespan_ms).rjust(columns)}")
    return "\n".join(lines)


def _row(spans: list[Span], makespan_ms: float, columns: int) -> str:
    many = len({span.stage for span in spans}) > 1
    ordered = sorted(spans, key=lambda span: span.start_ms)
    text = []
    for owner, run in groupby(_owners(ordered, makespan_ms / columns, columns)):
        room = sum(1 for _ in run)
        text.append("." * room if owner < 0 else _span(ordered[owner], room, many))
    return "".join(text)


def _owners(spans: list[Span], column_ms: float, columns: int) -> list[int]:
    """Return the span that takes most of each column, -1 for idling; a span is in few columns or many."""
    most_ms = [0.0] * columns
    idle_ms = [column_ms] * columns
    owners = [-1] * columns
    for index, span in enumerate(spans if column_ms else ()):
        first = min(int(span.start_ms / column_ms), columns - 1)
        last = min(int(span.end_ms / column_ms), columns - 1)
        for column in range(first, last + 1):
            inside_ms = min(span.end_ms, (column + 1) * column_ms) - max(span.start_ms, column * column_ms)
            idle_ms[column] -= inside_ms
            if inside_ms > most_ms[column]:
                most_ms[column], owners[column] = inside_ms, index
    return [-1 if idle > most else owner for owner, idle, most in zip(owners, idle_ms, most_ms, strict=True)]


def _span(span: Span, room: int, many: bool) -> str:
    microbatch = "" if span.microbatch is None else span.microbatch
    label = f"{span.stage if many else ''}{span.op}{microbatch}"
    if len(label) > room:
        label = span.op.value
    return label.ljust(room, "-" if span.op == "F" else "=")
