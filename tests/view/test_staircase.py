"""The timeline as text."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from autopipe.ir.action import Op
from autopipe.ir.timeline import Span, Timeline
from autopipe.schedule import build, simulate
from autopipe.view import gantt_text
from tests.view import plans
from tests.view.test_gantt import predicted


def unit_times(name: str, n_stages: int, n_microbatches: int, bwd_ms: float) -> Timeline:
    schedule = build(name, n_stages, n_microbatches)
    return simulate(schedule, [1.0] * n_stages, [bwd_ms] * n_stages)


def test_1f1b_is_a_staircase() -> None:
    assert gantt_text(unit_times("1f1b", 3, 4, 2.0), width=8 + 2 * 18).splitlines()[1:4] == [
        "rank 0 |F0F1F2........B0==F3B1==..B2==..B3==",
        "rank 1 |..F0F1....B0==F2B1==F3B2==..B3==....",
        "rank 2 |....F0B0==F1B1==F2B2==F3B3==........",
    ]


def test_gpipe_is_a_staircase() -> None:
    assert gantt_text(unit_times("gpipe", 3, 3, 1.0), width=8 + 2 * 10).splitlines()[1:4] == [
        "rank 0 |F0F1F2........B0B1B2",
        "rank 1 |..F0F1F2....B0B1B2..",
        "rank 2 |....F0F1F2B0B1B2....",
    ]


def test_text_is_the_golden_one(golden: Callable[[str, str], None]) -> None:
    golden(gantt_text(predicted(plans.gpt(8, 4, 8))) + "\n", "timeline_gpt.txt")
    golden(gantt_text(predicted(plans.gpt(48, 16, 64))) + "\n", "timeline_gpt_in_16.txt")
    golden(gantt_text(predicted(plans.gpt(4, 4, 4, n_ranks=2)), width=120) + "\n", "timeline_two_ranks.txt")


@pytest.mark.parametrize("width", [20, 80, 131])
def test_lines_fit_and_idle_columns_are_the_bubble(width: int) -> None:
    timeline = predicted(plans.gpt(8, 4, 8))
    lines = gantt_text(timeline, width=width).splitlines()
    rows = [line.split("|")[1] for line in lines if "|" in line]
    assert all(len(line) <= width for line in lines[1:])
    assert len({len(row) for row in rows}) == 1
    if width > 100:
        idle = sum(row.count(".") for row in rows) / sum(map(len, rows))
        assert idle == pytest.approx(timeline.bubble_fraction, abs=0.05)


@pytest.mark.parametrize("n_microbatches", [8, 64, 150])
def test_as_many_columns_are_dots_as_there_is_idling(n_microbatches: int) -> None:
    timeline = predicted(plans.gpt(48, 16, n_microbatches))
    rows = [line.split("|")[1] for line in gantt_text(timeline).splitlines() if "|" in line]
    for rank, row in enumerate(rows):
        idle = 1 - timeline.busy_ms(rank) / timeline.makespan_ms
        assert row.count(".") / len(row) == pytest.approx(idle, abs=1 / len(row))


def test_text_is_ascii() -> None:
    assert gantt_text(predicted(plans.unet())).isascii()


@pytest.mark.parametrize(
    "timeline", [Timeline((), 2), Timeline((Span(0, 0, Op.F, 0, 0.0, 0.0, "0F0"),), 1), Timeline((), 0)]
)
def test_empty_timeline_is_drawn(timeline: Timeline) -> None:
    assert gantt_text(timeline).startswith("step 0 ms")
