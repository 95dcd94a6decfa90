"""A lane of a timeline in cells of equal length, for where there is less room than there are spans.

::

    spans   |F0|B0|F1|..|B1        F2      |
    cells   |  F0 |  B1 |  F2 |  F2 |
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from typing import NamedTuple

from autopipe.ir.timeline import Span

__all__ = ["Run", "cell_runs"]


class Run(NamedTuple):
    """Neighbouring cells that belong to one span, or to none: which, the first cell, and how many."""

    span: Span | None
    first: int
    room: int


def cell_runs(
    spans: Sequence[Span], makespan_ms: float, n_cells: int, *, any_shows: bool = False
) -> Iterator[Run]:
    """Give every cell to the span that takes most of it.

    Args:
        spans: Of one lane, by start.
        makespan_ms: What all cells cover together.
        n_cells: How many.
        any_shows: Whether a cell is idle only where no span is in it. Else as many are idle as there is
            idling.

    Yields:
        All cells, from the left. O(spans + cells).

    Example:
        >>> from autopipe.ir.action import Op
        >>> spans = [Span(0, 0, Op.F, i, i, i + 0.6, f"0F{i}") for i in range(2)]
        >>> [(run.span and run.span.label, run.room) for run in cell_runs(spans, 2.0, 4)]
        [('0F0', 1), (None, 1), ('0F1', 1), (None, 1)]
    """
    owners = _owners(spans, makespan_ms / n_cells, n_cells, any_shows)
    first = 0
    for owner, cells in groupby(owners):
        room = sum(1 for _ in cells)
        yield Run(None if owner < 0 else spans[owner], first, room)
        first += room


def _owners(spans: Sequence[Span], cell_ms: float, n_cells: int, any_shows: bool) -> list[int]:
    """Return the span of each cell, -1 for idling; a span is in few cells or many."""
    most_ms, busy_ms, owners = [0.0] * n_cells, [0.0] * n_cells, [-1] * n_cells
    for index, span in enumerate(spans if cell_ms else ()):
        first = min(int(span.start_ms / cell_ms), n_cells - 1)
        last = min(int(span.end_ms / cell_ms), n_cells - 1)
        for cell in range(first, last + 1):
            inside_ms = min(span.end_ms, (cell + 1) * cell_ms) - max(span.start_ms, cell * cell_ms)
            busy_ms[cell] += inside_ms
            if inside_ms > most_ms[cell]:
                most_ms[cell], owners[cell] = inside_ms, index
    if any_shows:
        return owners
    return [-1 if idle else owner for owner, idle in zip(owners, _idle(busy_ms, cell_ms), strict=True)]


def _idle(busy_ms: Iterable[float], cell_ms: float) -> Iterator[bool]:
    """Round each cell to busy or idle and carry the rest over: where a third is idle, a third of them is."""
    owed_ms = 0.0
    for busy in busy_ms:
        owed_ms += cell_ms - busy
        # A cell that is busy all through never owes half a cell, but for rounding.
        is_idle = owed_ms >= cell_ms / 2 and busy < cell_ms * (1 - 1e-9)
        owed_ms -= cell_ms * is_idle
        yield is_idle
