"""The summary: golden tables, columns that add up, and 80 columns whatever happens."""

from __future__ import annotations

import io
import re
import sys
from collections.abc import Callable
from dataclasses import replace

import pytest

from autopipe.ir.plan import Plan
from autopipe.view import summary
from tests.view import plans

PLANS: dict[str, Callable[[], Plan]] = {
    "gpt_in_4": lambda: plans.gpt(8, 4, 8),
    "gpt_in_2": lambda: plans.gpt(8, 2, 8),
    "gpt_in_16": lambda: plans.gpt(48, 16, 64),
    "gpt_on_2_ranks": lambda: plans.gpt(8, 4, 8, n_ranks=2),
    "gpt_cut_in_a_block": plans.gpt_cut_in_a_block,
    "unet": plans.unet,
    "hostile": plans.hostile,
}
every_plan = pytest.mark.parametrize("make", PLANS.values(), ids=PLANS)

ROW = re.compile(r" +(\d+)  (.+?) +([\d.]+) +([\d.]+)  +([\d.]+ \w+|-)  +([\d.]+ \w+|-)  +([\d.]+ \w+)  (.*)")


@pytest.mark.parametrize("name", PLANS)
def test_summary_is_the_golden_one(name: str, golden: Callable[[str, str], None]) -> None:
    golden(summary(PLANS[name](), ascii_only=name == "hostile") + "\n", f"summary_{name}.txt")


@every_plan
@pytest.mark.parametrize("width", [80, 100])
def test_no_line_is_longer_than_the_width(make: Callable[[], Plan], width: int) -> None:
    plan = replace(make(), notes=("a long note " * 20,))
    for form in (plan, plan.small()):
        text = summary(form, width=width, ascii_only=False)
        assert max(map(len, text.splitlines())) <= width
        assert all(line.startswith(" ") and line == line.rstrip() for line in text.splitlines())


@every_plan
def test_columns_add_up_to_the_plan(make: Callable[[], Plan]) -> None:
    """The columns, read back from the text, are the plan's numbers up to what was rounded."""
    plan = make()
    lines = summary(plan, ascii_only=True).splitlines()
    unit_ms = {"us": 1e-3, "ms": 1.0, "s": 1e3}[lines[0].split("fwd ")[1].split()[0]]
    rows = [match for line in lines if (match := ROW.fullmatch(line))]
    stages = plan.partition.stages
    assert [int(row[1]) for row in rows] == [stage.index for stage in stages]
    fwd, bwd = (sum(float(row[i]) for row in rows) * unit_ms for i in (3, 4))
    rounding = 0.05 * unit_ms * len(rows)
    assert fwd == pytest.approx(sum(s.fwd_ms for s in stages), abs=rounding)
    assert bwd == pytest.approx(sum(s.bwd_ms for s in stages), abs=rounding)
    params, sends, memory = (sum(in_bytes(row[i]) for row in rows) for i in (5, 6, 7))
    assert params == pytest.approx(sum(s.param_bytes for s in stages), rel=0.06)
    assert sends == pytest.approx(sum(link.nbytes for link in plan.transfers), rel=0.06)
    assert memory == pytest.approx(sum(s.memory_bytes for s in stages), rel=0.06)


def in_bytes(cell: str) -> float:
    if cell == "-":
        return 0.0
    value, unit = cell.split()
    return float(value) * 1024.0 ** ["B", "KiB", "MiB", "GiB"].index(unit)


@every_plan
def test_load_bars_are_in_the_order_of_the_loads(make: Callable[[], Plan]) -> None:
    plan = make()
    bars = [
        row[8].count("#") for row in map(ROW.fullmatch, summary(plan, ascii_only=True).splitlines()) if row
    ]
    loads = [stage.total_ms for stage in plan.partition.stages]
    assert max(bars) == bars[loads.index(max(loads))]
    pairs = list(zip(loads, bars, strict=True))
    assert all(bar_a <= bar_b for load_a, bar_a in pairs for load_b, bar_b in pairs if load_a < load_b)


def test_one_stage_is_marked_as_the_bottleneck() -> None:
    plan = plans.gpt(8, 4, 8)
    marked = [line for line in summary(plan).splitlines() if "<-" in line]
    assert len(marked) == 1
    assert marked[0].split()[0] == "3"
    assert "<- bottleneck" in summary(plan, width=100)


def test_ascii_fallback_has_no_other_character() -> None:
    assert summary(plans.hostile(), ascii_only=True).isascii()
    assert "█" in summary(plans.gpt(4, 2, 4), ascii_only=False)


@pytest.mark.parametrize(("encoding", "plain"), [("ascii", True), ("latin-1", True), ("utf-8", False)])
def test_blocks_are_used_where_the_terminal_can_print_them(
    encoding: str, plain: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), encoding=encoding))
    assert summary(plans.gpt(4, 2, 4)).isascii() is plain


def test_units_follow_the_numbers() -> None:
    plan = plans.gpt(4, 2, 4)

    def scaled(factor: float) -> Plan:
        stages = tuple(
            replace(s, fwd_ms=s.fwd_ms * factor, bwd_ms=s.bwd_ms * factor) for s in plan.partition.stages
        )
        return replace(plan, partition=replace(plan.partition, stages=stages))

    assert "fwd us" in summary(scaled(1e-3))
    assert "fwd ms" in summary(scaled(1.0))
    assert "fwd s " in summary(scaled(1e3))


def test_memory_of_a_rank_is_the_sum_over_its_stages() -> None:
    text = summary(plans.gpt(8, 4, 8, n_ranks=2))
    assert " rank 0: stages 0, 2, peak mem 1.1 GiB" in text
    assert "rank 0" not in summary(plans.gpt(8, 4, 8))


def test_a_plan_without_baselines_or_predictions_has_a_summary() -> None:
    text = summary(replace(plans.gpt(4, 2, 4), baselines={}, predictions={}))
    assert "compared with" not in text
    assert "predicted" not in text
    assert "lower bound" in text


def test_a_better_baseline_is_not_hidden() -> None:
    plan = plans.gpt(4, 2, 4)
    better = 0.9 * plan.partition.certificate.bottleneck_ms
    assert "(-10 %)" in summary(replace(plan, baselines={"by luck": better}))
