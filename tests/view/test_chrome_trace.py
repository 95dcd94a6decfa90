"""Chrome traces: what Perfetto needs."""

from __future__ import annotations

import json
from collections import defaultdict
from itertools import pairwise
from typing import Any

import pytest

from autopipe.ir.action import Op
from autopipe.ir.timeline import Span, Timeline
from autopipe.view import chrome_trace
from tests.view import plans
from tests.view.test_gantt import predicted


def slices(trace: dict[str, Any]) -> dict[tuple[int, int], list[dict[str, Any]]]:
    lanes = defaultdict(list)
    for event in trace["traceEvents"]:
        if event["ph"] == "X":
            lanes[event["pid"], event["tid"]].append(event)
    return lanes


def test_ranks_are_processes_and_lanes_are_threads() -> None:
    timeline = predicted(plans.unet())
    trace = chrome_trace(timeline)
    names = {
        (e["pid"], e.get("tid")): e["args"]["name"]
        for e in trace["traceEvents"]
        if "name" in e.get("args", {})
    }
    assert [names[rank, None] for rank in range(4)] == ["rank 0", "rank 1", "rank 2", "rank 3"]
    assert [names[2, tid] for tid in range(3)] == ["compute", "send", "recv"]
    assert sum(map(len, slices(trace).values())) == len(timeline.spans)


def test_times_are_microseconds() -> None:
    timeline = predicted(plans.unet())
    trace = chrome_trace(timeline)
    ends = [event["ts"] + event["dur"] for lane in slices(trace).values() for event in lane]
    assert abs(max(ends) - 1000 * timeline.makespan_ms) < 0.01


def test_slices_of_a_thread_do_not_overlap() -> None:
    for lane in slices(chrome_trace(predicted(plans.gpt(8, 4, 8)))).values():
        for before, after in pairwise(lane):
            assert round(1e3 * (before["ts"] + before["dur"])) <= round(1e3 * after["ts"])


def test_overlap_by_the_clock_is_cut_off() -> None:
    spans = (Span(0, 0, Op.F, 0, 0.0, 1.0004, "0F0"), Span(0, 0, Op.F, 1, 1.0, 2.0, "0F1"))
    first, second = slices(chrome_trace(Timeline(spans, 1)))[0, 0]
    assert (first["ts"], first["dur"]) == (0.0, 1000.4)
    assert (second["ts"], second["dur"]) == (1000.4, 999.6)


def test_arrows_lead_from_each_send_to_its_receive() -> None:
    trace = chrome_trace(predicted(plans.gpt(8, 4, 8)))
    ends: dict[int, list[dict[str, Any]]] = defaultdict(list)
    for event in trace["traceEvents"]:
        if event["ph"] in "sf":
            ends[event["id"]].append(event)
    assert len(ends) == 2 * 3 * 8  # forward and back, over three cuts, for eight microbatches
    for start, end in ends.values():
        assert (start["ph"], end["ph"], start["tid"], end["tid"]) == ("s", "f", 1, 2)
        assert abs(start["pid"] - end["pid"]) == 1
        assert start["ts"] <= end["ts"]


def test_labels_that_are_no_actions_have_no_arrows() -> None:
    trace = chrome_trace(Timeline((Span(0, 0, Op.SEND, 0, 0.0, 1.0, "copy"),), 1))
    assert [event["ph"] for event in trace["traceEvents"] if event["ph"] != "M"] == ["X"]


def a_step(n_ranks: int, n_microbatches: int, n_values: int) -> Timeline:
    """Return a step in which every rank computes, then sends several values, one after the other."""
    spans = []
    for rank in range(n_ranks):
        for i in range(n_microbatches):
            spans.append(Span(rank, rank, Op.F, i, i, i + 0.5, f"{rank}F{i}"))
            for value in range(n_values):
                start_ms = i + 0.5 + 0.5 * value / n_values
                label = f"{rank}SEND_F{i}>{rank + 1}:a.long.name.of.a.value_{value}"
                spans.append(Span(rank, rank, Op.SEND, i, start_ms, start_ms + 0.5 / n_values, label))
    return Timeline(tuple(spans), n_ranks)


def test_small_trace_leaves_nothing_out() -> None:
    trace = chrome_trace(a_step(2, 5, 3))
    assert trace["otherData"] == {}
    assert sum(map(len, slices(trace).values())) == 2 * 5 * (1 + 3)


@pytest.mark.parametrize(
    ("step", "left_out", "names"),
    [
        ((2, 4, 8), "arrows, and values that go together one by one", ["0F0", "0F1", "0F2", "0F3"]),
        ((2, 15, 2), "messages", [f"0F{i}" for i in range(15)]),
        ((2, 60, 2), "messages, and the last 70 computes", [f"0F{i}" for i in range(25)]),
    ],
)
def test_trace_of_a_long_step_is_bounded_and_says_so(
    step: tuple[int, int, int], left_out: str, names: list[str]
) -> None:
    trace = chrome_trace(a_step(*step), most=50)
    assert trace["otherData"] == {"left out": left_out}
    assert [event["name"] for event in slices(trace)[0, 0]] == names
    assert len([event for event in trace["traceEvents"] if event["ph"] != "M"]) <= 50


def test_values_that_go_together_are_one_slice_as_long_as_all_of_them() -> None:
    sent = slices(chrome_trace(a_step(1, 2, 10), most=20))[0, 1]
    assert [(one["name"], one["ts"], one["dur"]) for one in sent] == [
        ("0SEND_F0>1: 10 values", 500, 500),
        ("0SEND_F1>1: 10 values", 1500, 500),
    ]


def test_trace_is_json_and_the_same_each_time() -> None:
    first, second = (json.dumps(chrome_trace(predicted(plans.unet()))) for _ in range(2))
    assert first == second
