"""The timeline as a Chrome trace, for https://ui.perfetto.dev and chrome://tracing.

A process is a rank; its threads are the three lanes. Arrows lead from a send to its receive.
Format: https://docs.google.com/document/d/1CvAClvFfyA5R-PhYUmn5OOQtYMH4h6I0nSsKchNAySU
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from autopipe.errors import ScheduleError
from autopipe.ir.action import Action
from autopipe.ir.timeline import Span, Timeline

__all__ = ["chrome_trace"]

_THREADS = {"compute": 0, "send": 1, "recv": 2}

Event = dict[str, Any]


def chrome_trace(timeline: Timeline) -> dict[str, Any]:
    """Write a timeline as a Chrome trace.

    Times are whole nanoseconds, given in microseconds as the format wants. Where measured spans of one lane
    overlap by the resolution of their clocks, the later one starts at the earlier one's end, so that the
    slices of a thread nest.

    Args:
        timeline: Measured or predicted.

    Returns:
        JSON types, deterministic; ``json.dumps`` of it is the file.

    Example:
        >>> from autopipe.ir.action import Op
        >>> trace = chrome_trace(Timeline((Span(0, 0, Op.F, 0, 0.5, 2.0, "0F0"),), n_ranks=1))
        >>> [(one["name"], one["ts"], one["dur"]) for one in trace["traceEvents"] if one["ph"] == "X"]
        [('0F0', 500.0, 1500.0)]
    """
    events = [event for rank in range(timeline.n_ranks) for event in _names(rank)]
    free_ns: dict[tuple[int, int], int] = {}
    arrows: dict[str, int] = {}
    for span in sorted(timeline.spans, key=lambda span: (span.start_ms, _THREADS[span.lane], span.end_ms)):
        lane = span.rank, _THREADS[span.lane]
        start_ns = max(_ns(span.start_ms), free_ns.get(lane, 0))
        end_ns = max(_ns(span.end_ms), start_ns)
        free_ns[lane] = end_ns
        events += _slice(span, start_ns, end_ns, arrows)
    return {"displayTimeUnit": "ms", "traceEvents": events}


def _ns(time_ms: float) -> int:
    return round(time_ms * 1e6)


def _names(rank: int) -> Iterable[Event]:
    yield {"name": "process_name", "ph": "M", "pid": rank, "args": {"name": f"rank {rank}"}}
    yield {"name": "process_sort_index", "ph": "M", "pid": rank, "args": {"sort_index": rank}}
    for lane, tid in _THREADS.items():
        yield {"name": "thread_name", "ph": "M", "pid": rank, "tid": tid, "args": {"name": lane}}
        yield {"name": "thread_sort_index", "ph": "M", "pid": rank, "tid": tid, "args": {"sort_index": tid}}


def _slice(span: Span, start_ns: int, end_ns: int, arrows: dict[str, int]) -> Iterable[Event]:
    place = {"pid": span.rank, "tid": _THREADS[span.lane]}
    yield {
        "name": span.label,
        "cat": span.op.value,
        "ph": "X",
        "ts": start_ns / 1e3,
        "dur": (end_ns - start_ns) / 1e3,
        **place,
        "args": {"stage": span.stage, "microbatch": span.microbatch},
    }
    if span.lane != "compute" and (message := _message(span.label)):
        number = arrows.setdefault(message, len(arrows))
        flow = {"name": "message", "cat": "message", "id": number, **place}
        if span.lane == "send":
            yield {**flow, "ph": "s", "ts": start_ns / 1e3}
        else:  # a receive may be posted before the send begins; it ends after that
            yield {**flow, "ph": "f", "bp": "e", "ts": max(start_ns, end_ns - 1) / 1e3}


def _message(label: str) -> str:
    try:
        return str(Action.parse(label).message)
    except ScheduleError:  # a measured timeline may call its messages otherwise
        return ""
