"""The simulator against longest paths, cycles found by networkx, and small cases by hand."""

from __future__ import annotations

from functools import cache

import networkx as nx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autopipe.errors import ArgumentError, ScheduleError
from autopipe.ir.schedule import Action, Op, Schedule, Transfer
from autopipe.schedule import build, insert_comms, schedule_names, simulate

LINK = (Transfer("h", 0, 1, nbytes=10, grad_nbytes=20),)
TWO = insert_comms(build("1f1b", 2, 1), LINK)
times = st.integers(0, 9).map(float)


def neighbours(n_stages: int) -> list[Transfer]:
    return [Transfer(f"h{stage}", stage, stage + 1, 10 + stage, 20 + stage) for stage in range(n_stages - 1)]


def nbytes_ms(src: int, dst: int, nbytes: int) -> float:
    return nbytes / 10 + (src > dst)


def dependencies(schedule: Schedule) -> nx.DiGraph:
    """What each action comes after: the one before in its row, its SEND, or without comms its neighbour's."""
    graph = nx.DiGraph()
    for row in schedule.rows:
        graph.add_nodes_from(row)
        nx.add_path(graph, row)
        for action in row:
            if action.op is Op.RECV:
                _, carries, src, dst, microbatch = action.message
                graph.add_edge(Action(src, Op.SEND, microbatch, dst, action.value, carries), action)
            if not schedule.has_comms:
                before = action.stage + (-1 if action.op is Op.F else 1)
                if 0 <= before < schedule.n_stages:
                    graph.add_edge(Action(before, action.op, action.microbatch), action)
    return graph


@st.composite
def pipelines(draw: st.DrawFn) -> tuple[Schedule, list[float], list[float]]:
    n_stages = draw(st.integers(1, 6))
    name, n_ranks = draw(st.sampled_from(schedule_names())), draw(st.integers(1, n_stages))
    schedule = build(name, n_stages, draw(st.integers(1, 7)), n_ranks)
    each = st.lists(times, min_size=n_stages, max_size=n_stages)
    return schedule, draw(each), draw(each)


@given(pipelines())
def test_without_comms_every_action_starts_at_its_longest_path(
    case: tuple[Schedule, list[float], list[float]],
) -> None:
    schedule, fwd_ms, bwd_ms = case
    graph = dependencies(schedule)

    @cache
    def start_ms(action: Action) -> float:
        before = graph.predecessors(action)
        return max((start_ms(a) + (fwd_ms if a.op is Op.F else bwd_ms)[a.stage] for a in before), default=0.0)

    timeline = simulate(schedule, fwd_ms, bwd_ms)
    timeline.verify()
    assert {span.label: span.start_ms for span in timeline.spans} == {
        str(action): start_ms(action) for action in graph
    }


@given(pipelines())
def test_without_overlap_every_action_starts_at_its_longest_path(
    case: tuple[Schedule, list[float], list[float]],
) -> None:
    bare, fwd_ms, bwd_ms = case
    links = neighbours(bare.n_stages)
    schedule = insert_comms(bare, links)
    graph, nbytes = dependencies(schedule), {link.value: (link.nbytes, link.grad_nbytes) for link in links}

    def length_ms(action: Action) -> float:
        if not action.op.is_comm:
            return (fwd_ms if action.op is Op.F else bwd_ms)[action.stage]
        message = action.message
        if schedule.rank_of_stage[message.src] == schedule.rank_of_stage[message.dst]:
            return 0.0
        return nbytes_ms(message.src, message.dst, nbytes[message.value][message.carries == "B"])

    @cache
    def start_ms(action: Action) -> float:  # a RECV begins with its SEND, everything else when the last ended
        def ready_ms(before: Action) -> float:
            sent = action.op is Op.RECV and before.op is Op.SEND and before.message == action.message
            return start_ms(before) + (0.0 if sent and before.stage != action.stage else length_ms(before))

        return max(map(ready_ms, graph.predecessors(action)), default=0.0)

    timeline = simulate(schedule, fwd_ms, bwd_ms, transfers=links, link_ms=nbytes_ms, overlap=False)
    for span in timeline.spans:
        if not span.op.is_comm:
            assert span.start_ms == pytest.approx(start_ms(Action.parse(span.label)))


@given(pipelines())
def test_messages_that_overlap_keep_to_their_lanes_and_order(
    case: tuple[Schedule, list[float], list[float]],
) -> None:
    bare, fwd_ms, bwd_ms = case
    links = neighbours(bare.n_stages)
    timeline = simulate(insert_comms(bare, links), fwd_ms, bwd_ms, transfers=links, link_ms=nbytes_ms)
    timeline.verify()
    spans = {span.label: span for span in timeline.spans}
    for label, span in spans.items():
        action = Action.parse(label)
        if action.op is Op.SEND:
            made = spans[str(Action(action.stage, Op(action.carries), action.microbatch))]
            read = spans[str(Action(action.peer, Op(action.carries), action.microbatch))]
            assert made.end_ms <= span.start_ms
            assert span.end_ms <= read.start_ms
    assert timeline.makespan_ms >= simulate(bare, fwd_ms, bwd_ms).makespan_ms


@given(st.integers(1, 6), st.integers(1, 8), st.data())
def test_uneven_1f1b_takes_at_least_its_slowest_rank(
    n_stages: int, n_microbatches: int, data: st.DataObject
) -> None:
    each = st.lists(times, min_size=n_stages, max_size=n_stages)
    fwd_ms, bwd_ms = data.draw(each), data.draw(each)
    makespan_ms = simulate(build("1f1b", n_stages, n_microbatches), fwd_ms, bwd_ms).makespan_ms
    for stage in range(n_stages):
        fill_and_drain_ms = sum(fwd_ms[:stage]) + sum(bwd_ms[:stage])
        assert makespan_ms >= fill_and_drain_ms + n_microbatches * (fwd_ms[stage] + bwd_ms[stage])


@given(st.lists(st.permutations(["F0", "F1", "B0", "B1", "F2", "B2"]), min_size=1, max_size=3))
def test_deadlock_is_found_where_and_only_where_there_is_a_cycle(orders: list[list[str]]) -> None:
    rows = [" ".join(f"{stage}{word}" for word in order) for stage, order in enumerate(orders)]
    schedule = Schedule.from_rows("mine", rows)
    try:
        schedule.verify()
    except ScheduleError:
        return
    ones = [1.0] * len(rows)
    if nx.is_directed_acyclic_graph(dependencies(schedule)):
        assert len(simulate(schedule, ones, ones).spans) == 6 * len(rows)
    else:
        with pytest.raises(ScheduleError, match="never ends"):
            simulate(schedule, ones, ones)


def test_deadlock_shows_where_each_rank_stops_and_what_for() -> None:
    schedule = Schedule.from_rows("mine", ["0F0 0B0 0F1 0B1", "1F0 1F1 1B0 1B1"])
    with pytest.raises(ScheduleError) as caught:
        simulate(schedule, [1.0, 1.0], [1.0, 1.0])
    assert str(caught.value).splitlines() == [
        "mine never ends: ranks wait for each other.",
        "  rank 0: 0F0 0B0 <-- ERROR HERE 0F1 0B1",
        "  rank 1: 1F0 1F1 <-- ERROR HERE 1B0 1B1",
        "  rank 0 at 0B0 waits for 1B0",
        "  rank 1 at 1F1 waits for 0F1",
        "  Try: an order in which what an action reads is made before it",
    ]


@pytest.mark.parametrize("overlap", [True, False])
def test_deadlock_of_messages_names_the_message(overlap: bool) -> None:
    rows = ["0F0 0SEND_F0>1:h 0RECV_B0<1:h 0B0 0F1 0SEND_F1>1:h 0RECV_B1<1:h 0B1"]
    rows += ["1RECV_F0<0:h 1F0 1RECV_F1<0:h 1F1 1B0 1SEND_B0>0:h 1B1 1SEND_B1>0:h"]
    with pytest.raises(ScheduleError, match="waits for 0SEND_F1>1:h") as caught:
        simulate(Schedule.from_rows("mine", rows), [1.0, 1.0], [1.0, 1.0], overlap=overlap)
    assert "waits for 1SEND_B0>0:h" in str(caught.value)


def test_long_list_of_stuck_ranks_is_cut() -> None:
    rows = [f"{stage}F0 {stage}B0 {stage}F1 {stage}B1" for stage in range(6)]
    rows[5] = "5F1 5B1 5F0 5B0"
    with pytest.raises(ScheduleError, match="never ends") as caught:
        simulate(Schedule.from_rows("mine", rows), [1.0] * 6, [1.0] * 6)
    assert str(caught.value).count("<-- ERROR HERE") == 6
    assert "rank 3 at 3B0 waits for 4B0\n  and 2 more ranks\n" in str(caught.value)


def test_uneven_stages_and_links_with_overlap_by_hand() -> None:
    timeline = simulate(TWO, [2.0, 3.0], [4.0, 5.0], transfers=LINK, link_ms=nbytes_ms)
    assert [str(span) for span in timeline.spans] == [
        "0F0 on rank 0, 0.000 to 2.000 ms",
        "0SEND_F0>1:h on rank 0, 2.000 to 3.000 ms",
        "1RECV_F0<0:h on rank 1, 2.000 to 3.000 ms",
        "1F0 on rank 1, 3.000 to 6.000 ms",
        "1B0 on rank 1, 6.000 to 11.000 ms",
        "0RECV_B0<1:h on rank 0, 11.000 to 14.000 ms",
        "1SEND_B0>0:h on rank 1, 11.000 to 14.000 ms",
        "0B0 on rank 0, 14.000 to 18.000 ms",
    ]


def test_messages_hide_behind_compute_only_with_overlap() -> None:
    schedule = insert_comms(build("gpipe", 2, 4), LINK)
    ones, longs = [1.0, 1.0], [2.0, 2.0]

    def makespan_ms(overlap: bool) -> float:
        link_ms = lambda src, dst, nbytes: 1.0  # noqa: E731
        return simulate(schedule, ones, longs, transfers=LINK, link_ms=link_ms, overlap=overlap).makespan_ms

    assert makespan_ms(True) == 5 * (1 + 2) + 2
    assert makespan_ms(False) > makespan_ms(True)


def test_messages_of_one_rank_leave_one_after_the_other() -> None:
    links = (Transfer("a", 0, 1, 8, 0), Transfer("b", 0, 2, 8, 0))
    schedule = insert_comms(build("gpipe", 3, 1), links)
    timeline = simulate(schedule, [1.0] * 3, [1.0] * 3, transfers=links, link_ms=lambda src, dst, nbytes: 5.0)
    starts = {span.label: span.start_ms for span in timeline.spans if span.op is Op.F}
    assert starts == {"0F0": 0.0, "1F0": 6.0, "2F0": 11.0}


def test_stages_of_one_rank_hand_over_in_no_time() -> None:
    schedule = insert_comms(build("1f1b", 2, 3, n_ranks=1), LINK)
    timeline = simulate(
        schedule, [1.0, 1.0], [2.0, 2.0], transfers=LINK, link_ms=lambda src, dst, nbytes: 99.0
    )
    assert timeline.makespan_ms == 3 * 2 * 3
    assert not [span for span in timeline.spans if span.op.is_comm]


def test_without_transfers_stages_wait_for_their_neighbours_and_with_them_for_what_they_read() -> None:
    schedule, ones = build("gpipe", 3, 1), [1.0, 1.0, 1.0]
    towers = (Transfer("left", 0, 2, 8, 8), Transfer("right", 1, 2, 8, 0))
    assert simulate(schedule, ones, ones).makespan_ms == 6
    spans = {span.label: span.start_ms for span in simulate(schedule, ones, ones, transfers=towers).spans}
    assert spans == {"0F0": 0, "1F0": 0, "1B0": 1, "2F0": 1, "2B0": 2, "0B0": 3}


def test_halves_of_a_backward_share_its_time_and_gradients_leave_between_them() -> None:
    schedule = Schedule.from_rows("zero bubble", ["0F0 0I0 0W0 0U", "1F0 1I0 1W0 1U"])
    spans = simulate(schedule, [1.0, 1.0], [3.0, 3.0], bwd_weight_ms=[1.0, 1.0]).spans
    starts = {span.label: span.start_ms for span in spans}
    assert starts == {"0F0": 0, "1F0": 1, "1I0": 2, "1W0": 4, "1U": 5, "0I0": 4, "0W0": 6, "0U": 7}
    halved = simulate(schedule, [1.0, 1.0], [3.0, 3.0])
    assert halved.makespan_ms == 1 + 1 + 1.5 + 3


@pytest.mark.parametrize(
    ("fwd_ms", "bwd_ms", "message"),
    [
        ([1.0], [1.0, 1.0], "fwd_ms has 1 times for 2 stages"),
        ([1.0, 1.0], [1.0] * 3, "bwd_ms has 3 times for 2 stages"),
        ([1.0, -1.0], [1.0, 1.0], r"fwd_ms\[1\] is -1.0"),
        ([1.0, 1.0], [float("nan"), 1.0], r"bwd_ms\[0\] is nan"),
        ([1.0, float("inf")], [1.0, 1.0], r"fwd_ms\[1\] is inf"),
    ],
)
def test_times_must_be_one_a_stage_and_finite(fwd_ms: list[float], bwd_ms: list[float], message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        simulate(TWO, fwd_ms, bwd_ms)


def test_weight_half_may_not_exceed_the_whole() -> None:
    with pytest.raises(ArgumentError, match=r"bwd_ms - bwd_weight_ms\[1\] is -1.0"):
        simulate(TWO, [1.0, 1.0], [2.0, 2.0], bwd_weight_ms=[1.0, 3.0])


def test_message_that_no_transfer_knows_has_no_price() -> None:
    with pytest.raises(
        ScheduleError, match=r"0SEND_F0>1:h is in no transfer\.\n  Try: the transfers that insert_comms"
    ):
        simulate(TWO, [1.0, 1.0], [1.0, 1.0], transfers=(), link_ms=nbytes_ms)


def test_link_that_gives_no_time_is_refused() -> None:
    with pytest.raises(ArgumentError, match=r"link_ms gives -1\.0 ms for 0SEND_F0>1:h"):
        simulate(TWO, [1.0, 1.0], [1.0, 1.0], transfers=LINK, link_ms=lambda src, dst, nbytes: -1.0)
