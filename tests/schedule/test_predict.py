"""What a partition takes under a schedule, with all spans or as one number."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autopipe.ir.hardware import Device, Hardware, Link
from autopipe.ir.partition import Certificate, Partition, StageCost
from autopipe.ir.schedule import Schedule, Transfer
from autopipe.schedule import build, schedule_names
from autopipe.schedule.predict import predict, predict_step_ms

GPU = Device("gpu", {}, 1e12, 2**34, 0.0, "a test")


def split(fwd_ms: list[float]) -> Partition:
    stages = tuple(StageCost(i, ms, 2 * ms, 0, 0, 0.0, 3 * ms, 0, 0, 1, 0, 1) for i, ms in enumerate(fwd_ms))
    return Partition({}, tuple(range(len(fwd_ms))), stages, Certificate("a test", 0.0, 0.0, ""))


@settings(max_examples=15, deadline=None)
@given(
    st.lists(st.sampled_from([1.0, 2.5, 4.0]), min_size=3, max_size=3),
    st.integers(1, 6),
    st.sampled_from([name for name in schedule_names() if name in ("gpipe", "1f1b", "zbh1")]),
    st.booleans(),
)
def test_the_number_is_the_end_of_the_last_span(
    fwd_ms: list[float], n_microbatches: int, name: str, overlap: bool
) -> None:
    wire = Hardware("wire", (GPU,), (Link("wire", 1e6, 0.125, "a test"),), overlap)
    transfers = [Transfer("a", 0, 1, 500, 500), Transfer("b", 1, 2, 700, 0), Transfer("c", 0, 2, 100, 100)]
    schedule = build(name, 3, n_microbatches)
    whole = predict(schedule, split(fwd_ms), transfers, wire)
    assert predict_step_ms(schedule, split(fwd_ms), transfers, wire) == whole.makespan_ms


def test_a_schedule_is_checked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    wire = Hardware("wire", (GPU,), (Link("wire", 1e6, 0.125, "a test"),))
    schedule = build("1f1b", 3, 4)
    checked: list[Schedule] = []
    verify = Schedule.verify
    monkeypatch.setattr(Schedule, "verify", lambda self: checked.append(self) or verify(self))
    predict_step_ms(schedule, split([1.0, 1.0, 1.0]), [Transfer("a", 0, 1, 8, 8)], wire)
    assert checked == [schedule]


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 5), st.booleans(), st.lists(st.sampled_from([0.5, 3.0]), min_size=4, max_size=4))
def test_the_number_is_the_end_of_the_last_span_where_ranks_hold_two_stages(
    n_microbatches: int, overlap: bool, fwd_ms: list[float]
) -> None:
    wire = Hardware("wire", (GPU,), (Link("wire", 1e6, 0.125, "a test"),), overlap)
    transfers = [Transfer("a", 0, 1, 500, 500), Transfer("b", 1, 2, 700, 0), Transfer("c", 0, 2, 100, 100)]
    schedule = build("1f1b", 4, n_microbatches, 2)
    whole = predict(schedule, split(fwd_ms), transfers, wire)
    assert predict_step_ms(schedule, split(fwd_ms), transfers, wire) == whole.makespan_ms


@pytest.mark.parametrize("overlap", [False, True])
def test_the_number_is_the_end_of_the_last_span_of_split_backwards_and_updates(overlap: bool) -> None:
    wire = Hardware("wire", (GPU,), (Link("wire", 1e6, 0.125, "a test"),), overlap)
    rows = ["0F0 0F1 0I0 0W0 0I1 0W1 0U", "1F0 1I0 1F1 1W0 1I1 1W1 1U"]
    schedule = Schedule.from_rows("halves", rows)
    transfers = [Transfer("a", 0, 1, 500, 300)]
    whole = predict(schedule, split([1.0, 2.5]), transfers, wire)
    assert predict_step_ms(schedule, split([1.0, 2.5]), transfers, wire) == whole.makespan_ms
