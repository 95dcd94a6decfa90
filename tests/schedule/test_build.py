"""GPipe and 1F1B: the figures, then what holds for any number of stages, microbatches and ranks."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autopipe.errors import ArgumentError
from autopipe.ir.schedule import Action, Schedule
from autopipe.ir.timeline import Timeline
from autopipe.schedule import build, forward_only, in_flight, schedule_names, simulate
from autopipe.schedule.registry import ROWS

names = st.sampled_from(schedule_names())
stages = st.integers(1, 9)
microbatches = st.integers(1, 12)


def drawn(timeline: Timeline) -> str:
    """Each rank on its line, each action at its start, where all take one tick."""
    rows = []
    for rank in range(timeline.n_ranks):
        at = {span.start_ms: span.label for span in timeline.spans if span.rank == rank}
        ticks = range(int(timeline.makespan_ms))
        rows.append("".join(at.get(float(tick), "").ljust(4) for tick in ticks).rstrip())
    return "\n".join(rows)


def ticks(schedule: Schedule) -> Timeline:
    return simulate(schedule, [1.0] * schedule.n_stages, [1.0] * schedule.n_stages)


def test_1f1b_is_the_figure() -> None:
    assert drawn(ticks(build("1f1b", 3, 4))).splitlines() == [
        "0F0 0F1 0F2         0B0 0F3 0B1     0B2     0B3",
        "    1F0 1F1     1B0 1F2 1B1 1F3 1B2     1B3",
        "        2F0 2B0 2F1 2B1 2F2 2B2 2F3 2B3",
    ]


def test_gpipe_is_the_figure() -> None:
    assert drawn(ticks(build("gpipe", 3, 4))).splitlines() == [
        "0F0 0F1 0F2 0F3                 0B0 0B1 0B2 0B3",
        "    1F0 1F1 1F2 1F3         1B0 1B1 1B2 1B3",
        "        2F0 2F1 2F2 2F3 2B0 2B1 2B2 2B3",
    ]


def test_1f1b_with_fewer_microbatches_than_stages() -> None:
    assert drawn(ticks(build("1f1b", 4, 2))).splitlines() == [
        "0F0 0F1                     0B0     0B1",
        "    1F0 1F1             1B0     1B1",
        "        2F0 2F1     2B0     2B1",
        "            3F0 3B0 3F1 3B1",
    ]


def test_two_ranks_merge_four_stages_by_simulated_start() -> None:
    schedule = build("1f1b", 4, 4, n_ranks=2)
    assert str(schedule).splitlines()[1:] == [
        "rank 0: 0F0 0F1 2F0 0F2 2F1 0F3 2B0 2F2 2B1 0B0 2F3 2B2 0B1 2B3 0B2 0B3",
        "rank 1: 1F0 1F1 3F0 1F2 3B0 3F1 3B1 1B0 3F2 3B2 1F3 1B1 3F3 3B3 1B2 1B3",
    ]
    assert schedule.rank_of_stage == (0, 1, 0, 1)


def test_one_rank_takes_backwards_first_among_equal_starts() -> None:
    assert str(build("1f1b", 2, 2, n_ranks=1)).endswith("rank 0: 0F0 1F0 0F1 1B0 0B0 1F1 1B1 0B1")


@given(names, stages, microbatches, st.data())
def test_any_schedule_is_valid_ends_and_keeps_the_order_of_each_stage(
    name: str, n_stages: int, n_microbatches: int, data: st.DataObject
) -> None:
    n_ranks = data.draw(st.integers(1, n_stages))
    schedule = build(name, n_stages, n_microbatches, n_ranks)
    schedule.verify()
    ticks(schedule).verify()
    assert schedule.name == name
    assert schedule.rank_of_stage == tuple(stage % n_ranks for stage in range(n_stages))
    for stage in range(n_stages):
        row = tuple(action for action in schedule.rows[stage % n_ranks] if action.stage == stage)
        assert row == ROWS[name](stage, n_stages, n_microbatches)


@given(stages, microbatches, st.data())
def test_in_flight_depends_on_the_schedule_and_not_on_the_ranks(
    n_stages: int, n_microbatches: int, data: st.DataObject
) -> None:
    n_ranks = data.draw(st.integers(1, n_stages))
    one_f_one_b = build("1f1b", n_stages, n_microbatches, n_ranks)
    assert in_flight(one_f_one_b) == tuple(min(n_microbatches, n_stages - stage) for stage in range(n_stages))
    assert in_flight(build("gpipe", n_stages, n_microbatches, n_ranks)) == (n_microbatches,) * n_stages
    assert in_flight(forward_only(one_f_one_b)) == (0,) * n_stages


def test_in_flight_lasts_until_the_weights_have_their_gradient() -> None:
    late = Schedule.from_rows("zero bubble", ["0F0 0I0 0F1 0I1 0W0 0W1 0U"])
    assert in_flight(late) == (2,)


@given(names, stages, microbatches, st.integers(1, 5), st.integers(1, 5))
def test_bubble_of_equal_stages_is_the_formula(
    name: str, n_stages: int, n_microbatches: int, fwd_ms: int, bwd_ms: int
) -> None:
    schedule = build(name, n_stages, n_microbatches)
    timeline = simulate(schedule, [fwd_ms] * n_stages, [bwd_ms] * n_stages)
    assert timeline.makespan_ms == (n_microbatches + n_stages - 1) * (fwd_ms + bwd_ms)
    assert timeline.bubble_fraction == pytest.approx((n_stages - 1) / (n_microbatches + n_stages - 1))


@given(names, stages, microbatches)
def test_one_rank_is_never_idle(name: str, n_stages: int, n_microbatches: int) -> None:
    assert ticks(build(name, n_stages, n_microbatches, n_ranks=1)).bubble_fraction == 0.0


@given(names, st.integers(1, 5), st.integers(1, 4), st.integers(1, 4))
def test_virtual_stages_of_gpipe_shrink_its_bubble(
    name: str, n_ranks: int, n_virtual: int, n_rounds: int
) -> None:
    """With M a multiple of R, v stages a rank give (R - 1) / v stage times of bubble; 1F1B is near that."""
    n_stages, n_microbatches = n_ranks * n_virtual, n_ranks * n_rounds
    timeline = ticks(build(name, n_stages, n_microbatches, n_ranks))
    apart = ticks(build(name, n_ranks, n_microbatches))
    bubble_ms = n_ranks * timeline.makespan_ms * timeline.bubble_fraction
    if name == "gpipe":
        assert timeline.makespan_ms == 2 * (n_virtual * n_microbatches + n_ranks - 1)
    assert bubble_ms <= n_virtual * n_ranks * apart.makespan_ms * apart.bubble_fraction + 1e-9


def test_forward_only_keeps_forwards_and_what_they_send() -> None:
    rows = ["0F0 0SEND_F0>1:h 0RECV_B0<1:h 0B0 0U", "1RECV_F0<0:h 1F0 1B0 1SEND_B0>0:h 1U"]
    inference = forward_only(Schedule.from_rows("1f1b", rows))
    inference.verify()
    assert inference.rows == (
        (Action.parse("0F0"), Action.parse("0SEND_F0>1:h")),
        (Action.parse("1RECV_F0<0:h"), Action.parse("1F0")),
    )


def test_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(ArgumentError) as caught:
        build("pipedream", 2, 2)
    assert str(caught.value) == 'there is no schedule \'pipedream\'.\n  Try: schedule="1f1b" or "gpipe"'


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        ((0, 1), "n_stages is 0.\n  Try: n_stages=1 or more"),
        ((2, 0), "n_microbatches is 0.\n  Try: n_microbatches=1 or more"),
        ((2, 1, 0), "n_ranks is 0.\n  Try: n_ranks=1 or more"),
        ((2, 1, 3), "3 ranks for 2 stages.\n  Every rank holds at least one stage.\n  Try: n_ranks=2"),
    ],
)
def test_impossible_counts_are_refused(counts: tuple[int, ...], message: str) -> None:
    with pytest.raises(ArgumentError) as caught:
        build("1f1b", *counts)
    assert str(caught.value) == message
