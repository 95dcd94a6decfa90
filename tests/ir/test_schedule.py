"""Schedules as text, CSV and JSON, and each rule with the grid that shows where it is broken."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from autopipe.errors import ScheduleError
from autopipe.ir.schedule import Action, Schedule

COMPUTE = Schedule.from_rows("1f1b", ["0F0 0F1 0B0 0B1", "1F0 1B0 1F1 1B1"])
MESSAGES = Schedule.from_rows(
    "by hand",
    ["0F0 0SEND_F0>1:a,b 0RECV_B0<1:a,b 0B0 0U", "1RECV_F0<0:a,b 1F0 1I0 1SEND_B0>0:a,b 1W0 1U"],
)
VIRTUAL = Schedule.from_rows("gpipe", ["0F0 2F0 2B0 0B0", "1F0 1B0"])
schedules = pytest.mark.parametrize(
    "schedule", [COMPUTE, MESSAGES, VIRTUAL], ids=lambda schedule: schedule.name
)


@schedules
def test_text_csv_and_json_read_back(schedule: Schedule) -> None:
    schedule.verify()
    assert Schedule.parse(str(schedule)) == schedule
    assert Schedule.from_csv(schedule.to_csv(), name=schedule.name) == schedule
    assert Schedule.from_json(json.loads(json.dumps(schedule.to_json()))) == schedule


def test_text_and_csv_are_what_a_reader_expects() -> None:
    assert str(VIRTUAL) == "gpipe: 3 stages, 1 microbatches\nrank 0: 0F0 2F0 2B0 0B0\nrank 1: 1F0 1B0"
    assert COMPUTE.to_csv() == "0F0,0F1,0B0,0B1\n1F0,1B0,1F1,1B1\n"
    assert repr(VIRTUAL) == "Schedule(gpipe, 3 stages, 1 microbatches, 2 ranks)"


def test_csv_of_others_may_have_bubbles_and_blanks() -> None:
    text = "0F0, 0F1,,0B0,,0B1\n,1F0,1B0,1F1,1B1,\n"
    assert Schedule.from_csv(text, name="1f1b") == COMPUTE


def test_sizes_are_read_off_the_rows() -> None:
    assert (VIRTUAL.n_stages, VIRTUAL.n_microbatches, VIRTUAL.n_ranks) == (3, 1, 2)
    assert VIRTUAL.rank_of_stage == (0, 1, 0)
    assert MESSAGES.has_comms
    assert not VIRTUAL.has_comms


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "no title"),
        ("0F0 0B0", "no title"),
        ("mine: \nrank 1: 0F0 0B0", "not the row of rank 0"),
        ("mine: \n0F0 0B0", "not the row of rank 0"),
        ("mine: \nrank 0: 0F0 0Z0", "'0Z0' is no action"),
        ("mine: \nrank 0: 0F0 0B0\nrank 1: 0F1 0B1", "stage 0 is on rank 0 and on rank 1"),
        ("mine: \nrank 0: 1F0 1B0", "stage 0 has no action"),
    ],
)
def test_text_that_is_no_schedule_is_refused(text: str, problem: str) -> None:
    with pytest.raises(ScheduleError, match=problem):
        Schedule.parse(text)


@pytest.mark.parametrize(
    ("rows", "problem", "marked"),
    [
        (["0F0 0B0", "1B0 1F0"], "1B0 comes before its forward", "rank 1: 1B0 <-- ERROR HERE 1F0"),
        (["0F0 0F0 0B0"], "0F0 comes twice", "rank 0: 0F0 0F0 <-- ERROR HERE 0B0"),
        (["0F0 0B0 0B0"], "0B0 comes twice", "rank 0: 0F0 0B0 0B0 <-- ERROR HERE"),
        (["0F0 0B0 0I0 0W0"], "0I0 comes twice", "0I0 <-- ERROR HERE"),
        (["0F0 0W0 0I0"], "0W0 comes before its gradient of the inputs", "0W0 <-- ERROR HERE"),
        (["0F0 0I0 0W0 0W0"], "0W0 comes twice", "0W0 0W0 <-- ERROR HERE"),
        (["0F0 0I0"], "stage 0 has no complete backward of microbatch 0", "rank 0: 0F0 0I0 <-- ERROR HERE"),
        (["0F0 0F1 0B0"], "stage 0 has no complete backward of microbatch 1", "0B0 <-- ERROR HERE"),
        (["0F0 0F1", "1F1"], "stage 1 has no forward of microbatch 0", "rank 1: 1F1 <-- ERROR HERE"),
        (
            ["0F0 0SEND_F0>1:a", "1F0"],
            "0SEND_F0>1:a has no RECV at the other end",
            "0SEND_F0>1:a <-- ERROR HERE",
        ),
        (
            ["0F0", "1RECV_F0<0:a 1F0"],
            "1RECV_F0<0:a has no SEND at the other end",
            "1RECV_F0<0:a <-- ERROR HERE",
        ),
        (["0F0 0SEND_F0>1:a", "1F0 1RECV_F0<0:a"], "1RECV_F0<0:a comes after the action that reads", "HERE"),
        (["0SEND_F0>1:a 0F0", "1RECV_F0<0:a 1F0"], "0SEND_F0>1:a comes before the action that makes", "HERE"),
        (["0F0 0SEND_F0>1:a 0SEND_F0>1:a", "1RECV_F0<0:a 1F0"], "0SEND_F0>1:a comes twice", "HERE"),
        (["0F0 0SEND_F0>3:a", "1F0"], "no stage at the other end", "0SEND_F0>3:a <-- ERROR HERE"),
    ],
)
def test_broken_rule_is_named_and_marked_in_the_grid(rows: list[str], problem: str, marked: str) -> None:
    with pytest.raises(ScheduleError) as caught:
        Schedule.from_rows("mine", rows).verify()
    assert problem in str(caught.value)
    assert marked in str(caught.value)
    assert str(caught.value).count("<-- ERROR HERE") == 1


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"rank_of_stage": (0,)}, "a rank for every stage"),
        ({"rank_of_stage": (0, 2)}, "has a stage on rank 2"),
        ({"rank_of_stage": (1, 0)}, "0F0 is on rank 0, which does not hold stage 0"),
        ({"n_microbatches": 1}, "0F1 is not one of 1 microbatches"),
        ({"n_microbatches": 3}, "stage 0 has no forward of microbatch 2"),
        (
            {"rows": ((Action.parse("0F0"), replace(Action.parse("0F1"), peer=1)), ())},
            "0F of microbatch 1 computes",
        ),
    ],
)
def test_sizes_that_the_rows_do_not_have_are_refused(change: dict[str, object], problem: str) -> None:
    with pytest.raises(ScheduleError, match=problem):
        replace(COMPUTE, **change).verify()  # type: ignore[arg-type]


def test_grid_of_a_long_schedule_shows_the_steps_around_the_mark() -> None:
    row = [f"0F{m}" for m in range(40)] + [f"0B{m}" for m in range(40)]
    row[50] = "0B9"
    with pytest.raises(ScheduleError) as caught:
        Schedule.from_rows("mine", [row]).verify()
    around = "rank 0: ... 0B4 0B5 0B6 0B7 0B8 0B9 0B9 <-- ERROR HERE 0B11 0B12 0B13 0B14 0B15 0B16 ..."
    assert str(caught.value) == f"0B9 comes twice.\n  {around}"


def test_a_schedule_may_have_no_backwards_at_all() -> None:
    Schedule.from_rows("forward", ["0F0 0F1", "1F0 1F1"]).verify()
