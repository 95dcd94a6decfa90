"""``autopipe show``."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from autopipe.ir.plan import Plan
from autopipe.view import summary
from tests.cli.running import complaint, data, run, saved_plan


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved_plan(tmp_path_factory.mktemp("plan"))


def test_it_prints_the_summary_that_planning_printed(plan: Path) -> None:
    assert run("show", plan).stdout == summary(Plan.load(plan)) + "\n"


def test_its_json_says_what_the_summary_says(plan: Path) -> None:
    loaded, told = Plan.load(plan), data("show", plan)
    assert [stage["total_ms"] for stage in told["stages"]] == [s.total_ms for s in loaded.partition.stages]
    assert [stage["fqns"] for stage in told["stages"]] == loaded.fqns_per_stage()
    assert told["certificate"]["gap"] == loaded.partition.certificate.gap
    assert told["predictions"] == dict(loaded.predictions)


def test_it_draws_every_picture(plan: Path, tmp_path: Path) -> None:
    files = {suffix: tmp_path / f"picture.{suffix}" for suffix in ("html", "svg", "dot", "mmd")}
    options = [part for suffix, path in files.items() for part in (f"--{suffix}", path)]
    told = run("show", plan, *options).stderr
    assert told.splitlines() == [f"{path} written" for path in files.values()]
    assert all(path.stat().st_size for path in files.values())


def test_a_picture_has_the_suffix_of_its_form(plan: Path, tmp_path: Path) -> None:
    assert "does not end in .svg" in complaint("show", plan, "--svg", tmp_path / "picture.png")
    assert "there is no folder" in complaint("show", plan, "--svg", tmp_path / "gone" / "picture.svg")
    assert list(tmp_path.iterdir()) == []


def test_a_missing_file_is_explained() -> None:
    assert "does not exist" in complaint("show", "gone.json")


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"schema_version": 1}', "\N{BULLET}"])
def test_a_damaged_plan_is_explained(tmp_path: Path, text: str) -> None:
    path = tmp_path / "plan.json"
    path.write_text(text, "utf-8")
    assert complaint("show", path).startswith("PlanMismatchError")


def test_a_cut_off_plan_is_explained(plan: Path, tmp_path: Path) -> None:
    half = tmp_path / "half.json"
    half.write_text(plan.read_text("utf-8")[:2000], "utf-8")
    assert "is not a plan" in complaint("show", half)
    assert "is not a plan" in complaint("simulate", half)


def test_a_newer_plan_is_refused(plan: Path, tmp_path: Path) -> None:
    newer = tmp_path / "newer.json"
    newer.write_text(json.dumps({**json.loads(plan.read_text("utf-8")), "schema_version": 99}), "utf-8")
    assert "has schema version 99" in complaint("show", newer)


def test_a_plan_that_cannot_be_read_as_text_is_explained(tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    path.write_bytes(b"\xff\xfe\x00")
    assert "is not a plan" in complaint("show", path)
