"""The timeline as a Chrome trace, for https://ui.perfetto.dev and chrome://tracing.

A process is a rank; its threads are the three lanes. Arrows lead from a send to its receive.
Format: https://docs.google.com/document/d/1CvAClvFfyA5R-PhYUmn5OOQtYMH4h6I0nSsKchNAySU
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import groupby
from typing import Any

from autopipe.errors import ScheduleError
from autopipe.ir.action import Action
from autopipe.ir.timeline import Span, Timeline

__all__ = ["chrome_trace"]

_THREADS = {"compute": 0, "send": 1, "recv": 2}

Event = dict[str, Any]


def chrome_trace(timeline: Timeline, *, most: int = 100_000) -> dict[str, Any]:
    """Write a timeline as a Chrome trace.

    Times are whole nanoseconds, given in microseconds as the format wants. Where measured spans of one lane
    overlap by the resolution of their clocks, the later one starts at the earlier one's end, so that the
    slices of a thread nest. A step with more in it than ``most`` has one slice for the values that go
    together from stage to stage, and no arrows; one that is still too long has its computes alone, the first
    of them. ``otherData`` says so.

    Args:
        timeline: Measured or predicted.
        most: How many slices and ends of arrows; these many are some 10 MB, which a browser opens in seconds.

    Returns:
        JSON types, deterministic; ``json.dumps`` of it is the file. O(spans log spans).

    Example:
        >>> from autopipe.ir.action import Op
        >>> trace = chrome_trace(Timeline((Span(0, 0, Op.F, 0, 0.5, 2.0, "0F0"),), n_ranks=1))
        >>> [(one["name"], one["ts"], one["dur"]) for one in trace["traceEvents"] if one["ph"] == "X"]
        [('0F0', 500.0, 1500.0)]
    """
    spans, left_out = _shown(sorted(timeline.spans, key=_by_start), most)
    events = [event for rank in range(timeline.n_ranks) for event in _names(rank)]
    free_ns: dict[tuple[int, int], int] = {}
    arrows: dict[str, int] = {}
    for span in spans:
        lane = span.rank, _THREADS[span.lane]
        start_ns = max(_ns(span.start_ms), free_ns.get(lane, 0))
        end_ns = max(_ns(span.end_ms), start_ns)
        free_ns[lane] = end_ns
        events.append(_slice(span, start_ns, end_ns))
        if span.lane != "compute" and not left_out:
            events += _arrow(span, start_ns, end_ns, arrows)
    return {
        "displayTimeUnit": "ms",
        "otherData": {"left out": left_out} if left_out else {},
        "traceEvents": events,
    }


def _shown(spans: Sequence[Span], most: int) -> tuple[Sequence[Span], str]:
    """Return the spans that there is room for, and what was left out, if anything."""
    computes = [span for span in spans if span.lane == "compute"]
    if 2 * len(spans) - len(computes) <= most:
        return spans, ""
    together = sorted(_together(spans), key=_by_start)
    if len(together) <= most:
        return together, "arrows, and values that go together one by one"
    left = len(computes) - most
    return computes[:most], "messages" + (f", and the last {left} computes" if left > 0 else "")


def _together(spans: Iterable[Span]) -> Iterator[Span]:
    """Make one span of the messages that a rank sends or receives one after the other for the same action."""
    lanes = sorted(spans, key=lambda span: (span.rank, _THREADS[span.lane]))
    for (_, lane, action), group in groupby(
        lanes, key=lambda span: (span.rank, span.lane, span.label.partition(":")[0])
    ):
        first, *others = group
        if lane == "compute" or not others:
            yield from (first, *others)
        else:
            label = f"{action}: {1 + len(others)} values"
            yield replace(first, end_ms=max(span.end_ms for span in others), label=label)


def _by_start(span: Span) -> tuple[float, int, float]:
    return span.start_ms, _THREADS[span.lane], span.end_ms


def _ns(time_ms: float) -> int:
    return round(time_ms * 1e6)


def _names(rank: int) -> Iterable[Event]:
    yield {"name": "process_name", "ph": "M", "pid": rank, "args": {"name": f"rank {rank}"}}
    yield {"name": "process_sort_index", "ph": "M", "pid": rank, "args": {"sort_index": rank}}
    for lane, tid in _THREADS.items():
        yield {"name": "thread_name", "ph": "M", "pid": rank, "tid": tid, "args": {"name": lane}}
        yield {"name": "thread_sort_index", "ph": "M", "pid": rank, "tid": tid, "args": {"sort_index": tid}}


def _slice(span: Span, start_ns: int, end_ns: int) -> Event:
    return {
        "name": span.label,
        "cat": span.op.value,
        "ph": "X",
        "ts": start_ns / 1e3,
        "dur": (end_ns - start_ns) / 1e3,
        "pid": span.rank,
        "tid": _THREADS[span.lane],
    }


def _arrow(span: Span, start_ns: int, end_ns: int, arrows: dict[str, int]) -> Iterable[Event]:
    if not (message := _message(span.label)):
        return
    number = arrows.setdefault(message, len(arrows))
    end = {"name": "message", "cat": "message", "id": number, "pid": span.rank, "tid": _THREADS[span.lane]}
    if span.lane == "send":
        yield {**end, "ph": "s", "ts": start_ns / 1e3}
    else:  # a receive may be posted before the send begins; it ends after that
        yield {**end, "ph": "f", "bp": "e", "ts": max(start_ns, end_ns - 1) / 1e3}


def _message(label: str) -> str:
    try:
        return str(Action.parse(label).message)
    except ScheduleError:  # a measured timeline may call its messages otherwise
        return ""
