"""``autopipe plan``."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from autopipe.cost import hardware
from autopipe.ir.plan import Plan
from tests.cli.running import MODEL, complaint, data, run


def stages_of(*options: object) -> list[list[str]]:
    stages: list[list[str]] = data("plan", *MODEL, "-s", 2, *options)["fqns"]
    return stages


def test_it_prints_the_summary_and_saves_the_plan(tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    result = run("plan", *MODEL, "--stages", 2, "--output", path)
    assert "bottleneck" in result.stdout
    assert "compared with: uniform layers" in result.stdout
    assert result.stderr.endswith(f"{path} written\n")
    assert Plan.load(path).n_stages == 2


def test_its_json_is_the_plan_file(tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    result = run("plan", *MODEL, "-s", 2, "-o", path, "--json")
    assert result.stdout == path.read_text("utf-8")


def test_ranks_microbatches_and_schedule_reach_the_plan() -> None:
    told = data("plan", *MODEL, "-s", 4, "--ranks", 2, "--microbatches", 6, "--schedule", "gpipe")
    plan = Plan.from_json(told)
    assert (plan.schedule.name, plan.schedule.n_ranks, plan.schedule.n_microbatches) == ("gpipe", 2, 6)


def test_the_objective_reaches_the_plan_and_is_shown() -> None:
    plan = Plan.from_json(data("plan", *MODEL, "-s", 2, "--objective", "step_time", "--microbatches", 3))
    certificate, stages = plan.partition.certificate, plan.partition.stages
    step_ms = sum(stage.total_ms for stage in stages) + 2 * certificate.bottleneck_ms
    assert certificate.step_time_ms == pytest.approx(step_ms)
    assert certificate.step_time_gap == 0.0
    assert "step time" in run("plan", *MODEL, "-s", 2, "--objective", "step_time").stdout


def test_constraints_reach_the_plan() -> None:
    assert stages_of("--pin", "blocks.0=0", "--pin", "blocks.1=-1")[1][0] == "blocks.1"
    assert stages_of("--same-stage", "blocks.0,blocks.2", "--pin", "blocks.3=1")[0] == [
        "blocks.0",
        "blocks.1",
        "blocks.2",
    ]


def test_a_kept_module_is_in_one_stage() -> None:
    assert stages_of("--keep-together", "blocks") == [[f"blocks.{block}" for block in range(4)], ["head"]]


def test_hardware_is_a_name_or_a_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    path.write_text(json.dumps({**hardware("a100+ethernet").to_json(), "name": "mine"}), "utf-8")
    named, mine = (data("plan", *MODEL, "-s", 2, "--hardware", which) for which in ("a100+ethernet", path))
    assert mine["hardware"]["name"] == "mine"
    assert mine["partition"] == named["partition"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--stages", 0), "Invalid value for '--stages'"),
        ((), "neither --stages nor --devices is given"),
        (("-s", 2, "--ranks", 3), "3 ranks for 2 stages"),
        (("-s", 2, "--schedule", "2f2b"), "there is no schedule '2f2b'"),
        (("-s", 2, "--cost", "guess"), "--cost guess is unknown"),
        (("-s", 2, "--hardware", "h10"), "Did you mean 'h100'?"),
        (("-s", 2, "--hardware", "none.json"), "there is no file none.json"),
        (("-s", 2, "--memory-limit", "much"), "no number of bytes"),
        (("-s", 2, "--pin", "blocks.0"), "Try: --pin GLOB=STAGE"),
        (("-s", 2, "--pin", "blocks.0=first"), "is pinned to 'first'"),
        (("-s", 2, "--pin", "blocks.0=7"), "pinned to stage 7 of 2"),
        (("-s", 2, "--keep-together", "layer.*"), "matches no module"),
        (("-s", 2, "-o", "no/such/folder/plan.json"), "there is no folder no/such/folder"),
    ],
)
def test_a_wrong_option_is_explained(options: tuple[object, ...], words: str) -> None:
    assert words in complaint("plan", *MODEL, *options)


@pytest.mark.parametrize("text", ["{", "{}", '{"name": "x", "devices": [{"name": 1}]}'])
def test_a_damaged_hardware_file_is_explained(tmp_path: Path, text: str) -> None:
    path = tmp_path / "mine.json"
    path.write_text(text, "utf-8")
    assert "describes no hardware" in complaint("plan", *MODEL, "-s", 2, "--hardware", path)


def test_hardware_with_a_number_that_cannot_be_is_a_wrong_file_and_not_a_missing_split(
    tmp_path: Path,
) -> None:
    form = hardware("h100").to_json()
    form["links"][0]["bytes_per_s"] = -1
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(form), "utf-8")
    assert "bytes_per_s = -1" in complaint("plan", *MODEL, "-s", 2, "--hardware", path, expect=2)


def test_devices_are_laid_out_and_the_table_is_shown() -> None:
    result = run("plan", *MODEL, "--devices", 2)
    assert "stages  replicas  microbatches" in result.stdout
    assert sum(line.startswith("*") for line in result.stdout.splitlines()) == 1
