"""Plans: files that read back equal, and what is said of those that do not fit."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from autopipe.errors import PlanMismatchError
from autopipe.ir.fingerprint import Fingerprint
from autopipe.ir.plan import SCHEMA_VERSION, Plan
from tests.view import plans


@pytest.fixture(scope="module")
def plan() -> Plan:
    return plans.unet()


def test_plan_reads_back_equal(plan: Plan, tmp_path: Path) -> None:
    plan.save(tmp_path / "plan.json")
    loaded = Plan.load(tmp_path / "plan.json")
    assert loaded == plan
    assert loaded.diff(plan) == []
    assert Plan.from_json(plan.to_json()) == plan


def test_equal_plans_are_equal_bytes(plan: Plan, tmp_path: Path) -> None:
    plan.save(tmp_path / "first.json")
    plans.unet().save(tmp_path / "second.json")
    Plan.load(tmp_path / "first.json").save(tmp_path / "third.json")
    assert (tmp_path / "first.json").read_bytes() == (tmp_path / "second.json").read_bytes()
    assert (tmp_path / "first.json").read_bytes() == (tmp_path / "third.json").read_bytes()


def test_file_is_ascii_whatever_the_modules_are_called(tmp_path: Path) -> None:
    hostile = plans.hostile()
    hostile.save(tmp_path / "plan.json")
    (tmp_path / "plan.json").read_bytes().decode("ascii")
    assert Plan.load(tmp_path / "plan.json") == hostile


def test_small_form_lacks_the_cost_graph_alone(plan: Plan, tmp_path: Path) -> None:
    plan.small().save(tmp_path / "plan.json")
    loaded = Plan.load(tmp_path / "plan.json")
    assert loaded.cost_graph is None
    assert replace(loaded, cost_graph=plan.cost_graph) == plan


def test_stages_are_told_by_fqn_and_by_key(plan: Plan) -> None:
    fqns = plan.fqns_per_stage()
    assert len(fqns) == plan.n_stages == 4
    assert "time_mlp.0" in fqns[0]
    assert "conv_out" in fqns[3]
    assert plan.stage_of_key["conv_out|@conv_out|0"] == 3
    assert set(plan.stage_of_key) == set(plan.keys.values())


def test_moved_node_is_named(plan: Plan) -> None:
    name = "down_2_block_conv1"
    moved = {**plan.partition.stage_of, name: 2}
    other = replace(plan, partition=replace(plan.partition, stage_of=moved))
    assert plan.diff(other) == [f"{plan.keys[name]} moved from stage 1 to stage 2"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"cost_source": "measured"}, "cost_source differs: 'roofline', then 'measured'"),
        ({"notes": ("a note",)}, "notes differs"),
        ({"sizes": {"b": 8}}, "sizes differs"),
        ({"baselines": {}}, "baselines differs"),
    ],
)
def test_difference_is_said(plan: Plan, change: dict[str, Any], said: str) -> None:
    assert plan.diff(replace(plan, **change)) == [said]


def test_difference_in_the_certificate_is_said_by_its_field(plan: Plan) -> None:
    certificate = replace(plan.partition.certificate, method="by hand", lower_bound_ms=0.5)
    other = replace(plan, partition=replace(plan.partition, certificate=certificate))
    was = plan.partition.certificate
    assert plan.diff(other) == [
        f"the certificate's method is 'by hand', not {was.method!r}",
        f"the certificate's lower_bound_ms is 0.5, not {was.lower_bound_ms!r}",
    ]


def test_another_name_of_a_module_is_a_difference(plan: Plan) -> None:
    renamed = replace(plan, fqns=(("other",), *plan.fqns[1:]))
    assert plan.diff(renamed) == ["nodes or modules are named differently"]


def test_other_bottleneck_is_said(plan: Plan) -> None:
    certificate = replace(plan.partition.certificate, bottleneck_ms=99.0)
    (said,) = plan.diff(replace(plan, partition=replace(plan.partition, certificate=certificate)))
    assert said.startswith("the certificate's bottleneck_ms is 99.0, not 12.7")


def test_plans_of_other_sizes_differ() -> None:
    differences = plans.gpt(4, 2, 4).diff(plans.gpt(6, 2, 4))
    assert any("h.5" in one and "only in the" in one for one in differences)


def test_other_model_is_refused_with_the_first_difference(plan: Plan) -> None:
    tensors = tuple(
        (n, (7,), d) if n == "conv_in.weight" else (n, s, d) for n, s, d in plan.fingerprint.tensors
    )
    other = Fingerprint("UNet", tensors)
    plan.check_model(plan.fingerprint)
    with pytest.raises(PlanMismatchError, match=r"plan\.json was made for another model") as caught:
        plan.check_model(other, name="plan.json")
    assert "conv_in.weight is float32[7]" in str(caught.value)
    assert "Try: make the plan again" in str(caught.value)
    assert plan.fingerprint.digest != other.digest


def test_newer_schema_is_refused(plan: Plan, tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    path.write_text(json.dumps({**plan.to_json(), "schema_version": SCHEMA_VERSION + 1}))
    with pytest.raises(PlanMismatchError, match=f"has schema version {SCHEMA_VERSION + 1}") as caught:
        Plan.load(path)
    assert f"reads version {SCHEMA_VERSION}" in str(caught.value)


@pytest.mark.parametrize("text", ["", "not json", "[]", "{}", "null", '{"schema_version"'])
def test_file_that_is_no_plan_is_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    path.write_text(text)
    with pytest.raises(PlanMismatchError, match="is not a plan"):
        Plan.load(path)


def without(part: str) -> Callable[[dict[str, Any]], None]:
    return lambda data: data.pop(part)


def with_stage(stage: int) -> Callable[[dict[str, Any]], None]:
    def damage(data: dict[str, Any]) -> None:
        data["partition"]["stage_of"]["conv_out"] = stage

    return damage


def with_one_list_less(data: dict[str, Any]) -> None:
    data["fqns"].pop()


def with_unknown_node(data: dict[str, Any]) -> None:
    del data["keys"]["conv_out"]


def with_word_for_dict(data: dict[str, Any]) -> None:
    data["hardware"] = "h100"


def with_unknown_action(data: dict[str, Any]) -> None:
    data["schedule"]["rows"][0] += " 0X9"


@pytest.mark.parametrize(
    "damage",
    [
        without("partition"),
        without("fingerprint"),
        with_stage(9),
        with_stage(0),
        with_one_list_less,
        with_unknown_node,
        with_word_for_dict,
        with_unknown_action,
    ],
)
def test_damaged_file_is_refused(
    plan: Plan, tmp_path: Path, damage: Callable[[dict[str, Any]], None]
) -> None:
    data = plan.to_json()
    damage(data)
    path = tmp_path / "plan.json"
    path.write_text(json.dumps(data))
    with pytest.raises(PlanMismatchError, match=r"plan\.json is damaged") as caught:
        Plan.load(path)
    assert "Try: make the plan again." in str(caught.value)
