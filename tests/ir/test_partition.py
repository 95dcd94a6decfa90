from __future__ import annotations

import json
from dataclasses import replace

import pytest

from autopipe.errors import PartitionError
from autopipe.ir.partition import Certificate, Partition, StageCost


def two_stages() -> Partition:
    stages = tuple(StageCost(i, 1.0, 2.0, 4 * i, 4 - 4 * i, 0.5, 3.5, 8, 2, 2 - i, 36, 1) for i in range(2))
    return Partition({"a": 0, "b": 1}, (0, 1), stages, Certificate("by hand", 3.5, 3.0, "optimal"))


def test_json_round_trip_keeps_everything() -> None:
    partition = two_stages()
    assert Partition.from_json(json.loads(json.dumps(partition.to_json()))) == partition


def test_gap_is_what_could_be_saved() -> None:
    assert two_stages().certificate.gap == pytest.approx(0.5 / 3.5)


def test_members_keep_the_order_of_the_graph() -> None:
    assert two_stages().members(1) == ("b",)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"stage_of": {"a": 0, "b": 2}}, "node 'b' is in stage 2 of 2"),
        ({"stage_of": {"a": 0, "b": 0}}, "stage 0"),
        ({"rank_of_stage": (0, 2)}, "ranks"),
        ({"certificate": Certificate("x", 1.0, 2.0, "optimal")}, "bound 2.0 ms"),
    ],
)
def test_contradictions_are_named(change: dict[str, object], message: str) -> None:
    with pytest.raises(PartitionError, match=message):
        replace(two_stages(), **change).verify()
