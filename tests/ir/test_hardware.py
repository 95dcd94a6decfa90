from __future__ import annotations

import json
from dataclasses import replace

import pytest

from autopipe.errors import PartitionError
from autopipe.ir.hardware import Device, Hardware, Link

GPU = Device("gpu", {"float32": 1e13}, 1e12, 2**34, 0.002, "a test")
FAST, SLOW = Link("fast", 1e10, 0.0, "a test"), Link("slow", 1e9, 0.5, "a test")


def test_json_round_trip_keeps_everything() -> None:
    hardware = Hardware("h", (GPU, replace(GPU, name="old"), GPU), (FAST, SLOW), overlap=True)
    assert Hardware.from_json(json.loads(json.dumps(hardware.to_json()))) == hardware


def test_links_join_neighbours() -> None:
    hardware = Hardware("h", (GPU,), (FAST, SLOW))
    assert [hardware.link_out(s).name for s in (0, 1)] == ["fast", "slow"]
    assert [hardware.link_in(s).name for s in (1, 2)] == ["fast", "slow"]


def test_a_message_costs_latency_and_bytes_and_nothing_costs_nothing() -> None:
    assert SLOW.transfer_ms(1_000_000) == pytest.approx(1.5)
    assert SLOW.transfer_ms(0) == 0.0


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (Hardware("h", (), (FAST,)), "at least one device"),
        (Hardware("h", (GPU,), (replace(FAST, bytes_per_s=0.0),)), "'fast' has bytes_per_s"),
        (Hardware("h", (GPU,), (replace(FAST, latency_ms=float("inf")),)), "'fast' has latency_ms"),
        (Hardware("h", (GPU,), (FAST,), optimizer_bytes_per_param=float("inf")), "optimizer_bytes_per_param"),
        (Hardware("h", (replace(GPU, launch_ms=-1.0),), (FAST,)), "'gpu' has launch_ms"),
        (Hardware("h", (GPU,) * 4, (FAST, SLOW)), "4 devices and 2 links"),
    ],
)
def test_wrong_hardware_is_named(wrong: Hardware, message: str) -> None:
    with pytest.raises(PartitionError, match=message):
        wrong.verify()
