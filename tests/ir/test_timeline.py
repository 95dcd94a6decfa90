"""Timelines: what is counted, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from autopipe.errors import ScheduleError
from autopipe.ir.action import Op
from autopipe.ir.timeline import Span, Timeline


def span(label: str, rank: int, op: Op, start_ms: float, end_ms: float) -> Span:
    return Span(rank, rank, op, 0, start_ms, end_ms, label)


TIMELINE = Timeline(
    (
        span("0F0", 0, Op.F, 0.0, 2.0),
        span("0SEND_F0>1:a", 0, Op.SEND, 2.0, 3.0),
        span("1RECV_F0<0:a", 1, Op.RECV, 2.0, 3.0),
        span("1F0", 1, Op.F, 3.0, 8.0),
    ),
    n_ranks=2,
)


def test_bubble_counts_compute_lanes_only() -> None:
    TIMELINE.verify()
    assert TIMELINE.makespan_ms == 8.0
    assert TIMELINE.bubble_fraction == pytest.approx(1 - (2 + 5) / 16)
    assert [TIMELINE.busy_ms(rank, lane) for rank in (0, 1) for lane in ("compute", "send", "recv")] == [
        2,
        1,
        0,
        5,
        0,
        1,
    ]


def test_spans_are_read_once_however_often_one_asks() -> None:
    class Counted(tuple[Span, ...]):
        n_readings = 0

        def __iter__(self) -> Iterator[Span]:
            Counted.n_readings += 1
            return super().__iter__()

    timeline = Timeline(Counted(TIMELINE.spans), n_ranks=2)
    before = Counted.n_readings
    assert {timeline.makespan_ms for _ in range(9)} == {8.0}
    assert {timeline.busy_ms(1) for _ in range(9)} == {5.0}
    assert Counted.n_readings == before


def test_rank_without_spans_is_idle() -> None:
    assert Timeline(TIMELINE.spans, n_ranks=4).bubble_fraction == pytest.approx(1 - 7 / 32)


def test_empty_timeline_has_no_bubble() -> None:
    empty = Timeline((), n_ranks=2)
    empty.verify()
    assert (empty.makespan_ms, empty.bubble_fraction) == (0.0, 0.0)
    assert "rank 1: compute 0.000 ms (0.0 %)" in str(empty)


def test_text_is_one_line_a_rank() -> None:
    assert str(TIMELINE).splitlines() == [
        "Timeline: 2 ranks, makespan 8.000 ms, bubble 56.2 %",
        "rank 0: compute 2.000 ms (25.0 %), send 1.000 ms, recv 0.000 ms",
        "rank 1: compute 5.000 ms (62.5 %), send 0.000 ms, recv 1.000 ms",
    ]
    assert repr(TIMELINE) == "Timeline(2 ranks, makespan 8.000 ms, bubble 56.2 %)"


def test_json_reads_back() -> None:
    assert Timeline.from_json(json.loads(json.dumps(TIMELINE.to_json()))) == TIMELINE


@pytest.mark.parametrize(
    ("bad", "problem"),
    [
        (span("0F0", 0, Op.F, 2.0, 1.0), "0F0 ends before it starts"),
        (span("0F0", 0, Op.F, -1.0, 1.0), "starts before 0"),
        (span("0F0", 0, Op.F, 0.0, float("nan")), "ends before it starts"),
        (span("9F0", 9, Op.F, 0.0, 1.0), "9F0 is on rank 9 of 2"),
        (span("0B0", 0, Op.B, 1.0, 3.0), "0F0 and 0B0 overlap on the compute lane of rank 0"),
    ],
)
def test_impossible_span_is_named(bad: Span, problem: str) -> None:
    with pytest.raises(ScheduleError, match=problem):
        Timeline((*TIMELINE.spans, bad), n_ranks=2).verify()


def test_lanes_of_a_rank_may_overlap() -> None:
    Timeline((*TIMELINE.spans, span("0RECV", 0, Op.RECV, 0.0, 8.0)), n_ranks=2).verify()
