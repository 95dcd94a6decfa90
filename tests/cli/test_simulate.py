"""``autopipe simulate``."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from autopipe.ir.plan import Plan
from tests.cli.running import complaint, data, run, saved_plan


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved_plan(tmp_path_factory.mktemp("plan"))


def test_without_options_it_is_what_the_plan_predicts(plan: Path) -> None:
    told, predicted = data("simulate", plan), Plan.load(plan).predictions
    assert (told["schedule"], told["n_microbatches"]) == ("1f1b", 4)
    assert told["step_ms"] == predicted["step_ms"]
    assert told["bubble_fraction"] == predicted["bubble_fraction"]


def test_more_microbatches_take_longer_and_idle_less(plan: Path) -> None:
    few, many = (data("simulate", plan, "--microbatches", n) for n in (2, 16))
    assert few["step_ms"] < many["step_ms"]
    assert few["bubble_fraction"] > many["bubble_fraction"]
    assert many["busy_ms"] == pytest.approx([8 * busy for busy in few["busy_ms"]])


def test_the_numbers_of_a_long_step_are_as_short_as_those_of_a_short_one(plan: Path) -> None:
    few, many = (run("simulate", plan, "--json", "--microbatches", n).stdout for n in (4, 400))
    assert json.loads(many)["n_spans"] == 100 * json.loads(few)["n_spans"]
    assert len(many) < len(few) + 100


def test_another_schedule_can_be_asked_for(plan: Path) -> None:
    assert data("simulate", plan, "--schedule", "gpipe")["schedule"] == "gpipe"
    assert "there is no schedule" in complaint("simulate", plan, "--schedule", "none")


def test_more_than_can_be_simulated_is_refused(plan: Path) -> None:
    text = complaint("simulate", plan, "--microbatches", 10**9)
    assert "2 stages with 1000000000 microbatches are too many" in text
    assert "Try: --microbatches 1000000 or fewer" in text


def test_its_text_has_a_row_a_rank(plan: Path) -> None:
    rows = run("simulate", plan).stdout.splitlines()
    assert [row.split("|")[0].strip() for row in rows if row.startswith("rank")] == ["rank 0", "rank 1"]


def test_it_writes_a_trace_and_a_picture(plan: Path, tmp_path: Path) -> None:
    trace, picture = tmp_path / "trace.json", tmp_path / "timeline.svg"
    run("simulate", plan, "--trace", trace, "--svg", picture)
    events = json.loads(trace.read_text("utf-8"))["traceEvents"]
    assert {event["pid"] for event in events} == {0, 1}
    assert picture.read_text("utf-8").startswith("<svg")


def test_a_trace_is_json(plan: Path, tmp_path: Path) -> None:
    assert "does not end in .json" in complaint("simulate", plan, "--trace", tmp_path / "trace.txt")
