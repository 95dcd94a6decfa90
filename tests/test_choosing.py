"""Plans for a number of devices, and tables of plans."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

import autopipe
from autopipe.cost import hardware
from autopipe.ir.alternatives import Alternatives
from autopipe.ir.hardware import Hardware

with torch.device("meta"):
    MODEL = nn.Sequential(*(nn.Linear(1024, 1024) for _ in range(8)))
    EXAMPLE = (torch.empty(256, 1024),)


@pytest.fixture(scope="module")
def chosen() -> autopipe.Plan:
    return autopipe.plan(MODEL, None, EXAMPLE, n_devices=4, hardware="a100")


def table_of(plan: autopipe.Plan) -> Alternatives:
    assert plan.alternatives is not None
    return plan.alternatives


def test_the_fastest_row_is_the_plan(chosen: autopipe.Plan) -> None:
    table = table_of(chosen)
    assert table.taken is not None
    row = table.rows[table.taken]
    assert row.ms_per_sample == min(other.ms_per_sample for other in table.rows)
    assert (row.n_stages, row.n_replicas) == (chosen.n_stages, chosen.n_replicas)
    assert row.n_microbatches == chosen.schedule.n_microbatches
    assert row.step_ms == pytest.approx(chosen.predictions["step_ms"])
    assert {row.n_devices for row in table.rows} == {4}
    assert {row.n_samples for row in table.rows} == {4 * 4 * 256}


def test_the_row_predicts_what_the_plan_alone_predicts(chosen: autopipe.Plan) -> None:
    row = next(row for row in table_of(chosen).rows if (row.n_stages, row.samples) == (4, 256))
    alone = autopipe.plan(MODEL, 4, EXAMPLE, n_microbatches=16, hardware="a100", schedule=row.schedule)
    assert row.step_ms == pytest.approx(alone.predictions["step_ms"])
    assert row.bottleneck_ms == pytest.approx(alone.partition.certificate.bottleneck_ms)


def test_a_limit_that_a_whole_model_does_not_fit_brings_stages() -> None:
    plan = autopipe.plan(MODEL, None, EXAMPLE, n_devices=4, hardware="a100", memory_limit="60MiB")
    assert plan.n_stages > 1
    assert max(stage.memory_bytes for stage in plan.partition.stages) <= 60 * 2**20
    assert any(row.refused and row.n_stages == 1 for row in table_of(plan).rows)


def test_a_limit_that_nothing_fits_is_an_error() -> None:
    with pytest.raises(autopipe.InfeasibleError, match="layouts can be planned within 1000 bytes a device"):
        autopipe.plan(MODEL, None, EXAMPLE, n_devices=2, hardware="a100", memory_limit=1000)


def test_stages_and_microbatches_may_be_given() -> None:
    plan = autopipe.plan(MODEL, 2, EXAMPLE, n_devices=4, n_microbatches=12, hardware="a100")
    assert (plan.n_stages, plan.n_replicas, plan.schedule.n_microbatches) == (2, 2, 6)
    assert {row.samples for row in table_of(plan).rows} == {256}


def test_the_table_is_saved_with_the_plan(chosen: autopipe.Plan, tmp_path: Path) -> None:
    chosen.save(tmp_path / "plan.json")
    loaded = autopipe.Plan.load(tmp_path / "plan.json")
    assert loaded.diff(chosen) == []
    assert str(loaded.alternatives) == str(chosen.alternatives)


def test_a_chosen_plan_splits_the_model() -> None:
    model = nn.Sequential(*(nn.Linear(16, 16) for _ in range(4)))
    example = (torch.ones(8, 16),)
    plan = autopipe.plan(model, 2, example, n_devices=4)
    pipe = autopipe.split(model, plan.n_stages, example, plan=plan)
    assert torch.equal(pipe(*example), model(*example))


def test_auto_takes_the_faster_schedule() -> None:
    plan = autopipe.plan(MODEL, 3, EXAMPLE, schedule="auto", hardware="a100")
    rows = table_of(plan).rows
    assert {row.schedule for row in rows} == {"1f1b", "gpipe"}
    assert plan.predictions["step_ms"] == pytest.approx(min(row.step_ms for row in rows))


def test_what_if_has_the_plans_that_each_choice_alone_has() -> None:
    table = autopipe.what_if(
        MODEL, [2, 3], EXAMPLE, hardware=["a100", "a100+ethernet"], n_microbatches=[4, 6], schedule="gpipe"
    )
    assert [(row.hardware, row.n_stages, row.n_microbatches) for row in table.rows] == [
        (name, stages, microbatches)
        for name in ("a100", "a100+ethernet-100g")
        for stages in (2, 3)
        for microbatches in (4, 6)
    ]
    alone = autopipe.plan(MODEL, 3, EXAMPLE, hardware="a100+ethernet", n_microbatches=4, schedule="gpipe")
    assert table.plan(6).diff(alone) == []
    assert str(table).count("\n") == len(table) + 1


def test_what_if_counts_microbatches_for_the_step_time() -> None:
    table = autopipe.what_if(MODEL, 2, EXAMPLE, n_microbatches=[1, 8], hardware="a100", objective="step_time")
    for row, count in enumerate((1, 8)):
        partition = table.plan(row).partition
        times = [stage.total_ms for stage in partition.stages]
        assert partition.certificate.step_time_ms == pytest.approx(sum(times) + (count - 1) * max(times))


def test_devices_that_differ_are_priced_apart_and_put_in_the_best_order() -> None:
    old, new = hardware("a100").devices[0], hardware("h100").devices[0]
    mixed = Hardware("mixed", (old, new, new), hardware("a100").links)
    given, best, chosen = (
        autopipe.plan(MODEL, 3, EXAMPLE, hardware=mixed, device_order=order, schedule=schedule)
        for order, schedule in (("given", "1f1b"), ("best", "1f1b"), ("best", "auto"))
    )
    assert [device.name for device in given.hardware.devices] == ["a100", "h100", "h100"]
    assert len(given.fqns_per_stage()[0]) < len(given.fqns_per_stage()[1])
    assert sorted(device.name for device in best.hardware.devices) == ["a100", "h100", "h100"]
    assert best.partition.certificate.bottleneck_ms <= given.partition.certificate.bottleneck_ms
    assert chosen.partition == best.partition
    again = autopipe.plan(MODEL, 3, EXAMPLE, hardware=best.hardware)
    assert again.partition.stages == best.partition.stages


def test_what_if_says_why_there_is_no_plan() -> None:
    table = autopipe.what_if(MODEL, [2, 20], EXAMPLE, hardware="a100")
    assert "only 7 cut points are legal" in table.rows[1].refused
    assert table.best == table.rows[0]
    with pytest.raises(autopipe.InfeasibleError, match="no plan with 20 stages"):
        table.plan(1)


def test_no_layout_at_all_is_explained_by_what_was_asked_for() -> None:
    with pytest.raises(autopipe.InfeasibleError) as caught:
        autopipe.plan(MODEL, 20, EXAMPLE, schedule="auto", hardware="a100")
    assert caught.value.what == "none of 2 layouts can be planned."
    assert "only 7 cut points are legal" in caught.value.why
    with pytest.raises(autopipe.InfeasibleError, match="within 100 bytes a device"):
        autopipe.plan(MODEL, 2, EXAMPLE, schedule="auto", hardware="a100", memory_limit=100)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "neither n_stages nor n_devices"),
        ({"n_devices": 0}, "n_devices is 0"),
        ({"n_devices": 10**6}, "n_devices is 1000000"),
        ({"n_devices": 2, "n_ranks": 2}, "n_ranks and n_devices"),
        ({"n_devices": 2, "n_stages": 3}, "asked for 3 stages on 2 devices"),
    ],
)
def test_bad_counts_are_refused(arguments: dict[str, int], message: str) -> None:
    with pytest.raises(autopipe.AutopipeError, match=message):
        autopipe.plan(MODEL, example_args=EXAMPLE, **arguments)


def test_pins_to_the_last_stage_follow_the_number_of_stages() -> None:
    table = autopipe.what_if(MODEL, [2, 4], EXAMPLE, hardware="a100", pin={"7": -1, "0": 0})
    for index, n_stages in enumerate((2, 4)):
        assert "7" in table.plan(index).fqns_per_stage()[n_stages - 1]
