"""The messages that a schedule gets: all of them, once, in an order that nobody can wait for in a circle."""

from __future__ import annotations

from collections import Counter, defaultdict, deque
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autopipe.errors import ScheduleError
from autopipe.ir.schedule import Message, Op, Schedule, Transfer
from autopipe.schedule import build, forward_only, insert_comms, schedule_names, simulate

WORKED = (Transfer("block_a", 0, 1, 8, 8), Transfer("embed", 0, 2, 8, 8), Transfer("block_b", 1, 2, 8, 8))


@st.composite
def cases(draw: st.DrawFn) -> tuple[Schedule, tuple[Transfer, ...]]:
    n_stages, n_microbatches = draw(st.integers(1, 6)), draw(st.integers(1, 7))
    schedule = build(
        draw(st.sampled_from(schedule_names())), n_stages, n_microbatches, draw(st.integers(1, n_stages))
    )
    if draw(st.booleans()):
        schedule = forward_only(schedule)
    pairs = [(src, dst) for dst in range(n_stages) for src in range(dst)]
    chosen = draw(st.lists(st.tuples(st.sampled_from(pairs), st.integers(0, 2)), max_size=9)) if pairs else []
    links = [
        Transfer(f"v{i}", *pair, nbytes=8, grad_nbytes=4 * grads) for i, (pair, grads) in enumerate(chosen)
    ]
    return schedule, tuple(links)


def runs_where_receives_block(schedule: Schedule) -> bool:
    """Take steps in any order that is open, where a RECV waits for its SEND and a SEND for nobody."""
    rows = [deque(row) for row in schedule.rows]
    sent: set[Message] = set()
    moved = True
    while moved:
        moved = False
        for row in rows:
            while row and (row[0].op is not Op.RECV or row[0].message in sent):
                action = row.popleft()
                moved = True
                if action.op is Op.SEND:
                    sent.add(action.message)
    return not any(rows)


def test_worked_example() -> None:
    """Two values leave stage 0, so its gradient comes from two stages."""
    schedule = insert_comms(build("1f1b", 3, 1), WORKED)
    assert str(schedule).splitlines()[1:] == [
        "rank 0: 0F0 0SEND_F0>1:block_a 0SEND_F0>2:embed 0RECV_B0<2:embed 0RECV_B0<1:block_a 0B0",
        "rank 1: 1RECV_F0<0:block_a 1F0 1SEND_F0>2:block_b 1RECV_B0<2:block_b 1B0 1SEND_B0>0:block_a",
        "rank 2: 2RECV_F0<0:embed 2RECV_F0<1:block_b 2F0 2B0 2SEND_B0>0:embed 2SEND_B0>1:block_b",
    ]


def test_receive_stands_in_front_of_what_its_message_can_overlap() -> None:
    """Microbatch 1 is sent when stage 1 begins its first backward, so the RECV is posted there."""
    schedule = insert_comms(build("1f1b", 2, 2), [Transfer("h", 0, 1, 8, 8)])
    assert " ".join(map(str, schedule.rows[1])) == (
        "1RECV_F0<0:h 1F0 1RECV_F1<0:h 1B0 1SEND_B0>0:h 1F1 1B1 1SEND_B1>0:h"
    )


@given(cases())
def test_one_send_and_one_recv_per_value_reader_and_microbatch(
    case: tuple[Schedule, tuple[Transfer, ...]],
) -> None:
    schedule, links = case
    trains = any(action.op is Op.B for row in schedule.rows for action in row)
    expected = Counter(
        message
        for link in links
        for microbatch in range(schedule.n_microbatches)
        for message in (
            Message(link.value, "F", link.src, link.dst, microbatch),
            *([Message(link.value, "B", link.dst, link.src, microbatch)] * (trains and link.grad_nbytes > 0)),
        )
    )
    actions = [action for row in insert_comms(schedule, links).rows for action in row]
    assert Counter(action.message for action in actions if action.op is Op.SEND) == expected
    assert Counter(action.message for action in actions if action.op is Op.RECV) == expected


@given(cases())
def test_compute_is_untouched_and_the_result_is_valid(case: tuple[Schedule, tuple[Transfer, ...]]) -> None:
    schedule, links = case
    result = insert_comms(schedule, links)
    result.verify()
    computes = tuple(tuple(action for action in row if not action.op.is_comm) for row in result.rows)
    assert replace(result, rows=computes) == schedule


@given(cases())
def test_no_deadlock_even_where_receives_block(case: tuple[Schedule, tuple[Transfer, ...]]) -> None:
    assert runs_where_receives_block(insert_comms(*case))


@given(cases())
def test_two_ranks_receive_in_the_order_of_sending(case: tuple[Schedule, tuple[Transfer, ...]]) -> None:
    schedule = insert_comms(*case)
    order: dict[Op, dict[tuple[int, int], list[Message]]] = {
        Op.SEND: defaultdict(list),
        Op.RECV: defaultdict(list),
    }
    for row in schedule.rows:
        for action in row:
            if action.op.is_comm:
                message = action.message
                ranks = schedule.rank_of_stage[message.src], schedule.rank_of_stage[message.dst]
                order[action.op][ranks].append(message)
    assert order[Op.SEND] == order[Op.RECV]


@given(cases())
def test_free_messages_cost_no_time(case: tuple[Schedule, tuple[Transfer, ...]]) -> None:
    schedule, links = case
    times = [1.0 + stage % 3 for stage in range(schedule.n_stages)]
    bare = simulate(schedule, times, times, transfers=links)
    assert simulate(insert_comms(schedule, links), times, times, transfers=links) == bare


@pytest.mark.parametrize(
    ("schedule", "links", "problem"),
    [
        (insert_comms(build("1f1b", 3, 1), WORKED), WORKED, "1f1b has comms already"),
        (build("1f1b", 2, 1), WORKED, "embed goes to stage 2"),
        (build("1f1b", 3, 1), WORKED[:1] * 2, "block_a goes from stage 0 to stage 1 twice"),
        (build("1f1b", 3, 1), [Transfer("a", 1, 0, 0, 0)], "a goes from stage 1 to stage 0"),
        (Schedule.from_rows("mine", ["0B0 0F0"]), (), "0B0 comes before its forward"),
        (
            Schedule.from_rows("mine", ["0F0 0B0 0F1 0B1", "1F1 1B1 1F0 1B0"]),
            [Transfer("a", 0, 1, 8, 8)],
            "mine never ends",
        ),
    ],
)
def test_what_cannot_have_messages_is_refused(
    schedule: Schedule, links: tuple[Transfer, ...], problem: str
) -> None:
    with pytest.raises(ScheduleError, match=problem):
        insert_comms(schedule, links)
