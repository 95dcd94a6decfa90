"""Every type of the ground floor names the element that breaks its rule."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from autopipe.errors import AutopipeError
from autopipe.ir.cost_graph import TiedParam
from autopipe.ir.fingerprint import Fingerprint
from autopipe.ir.partition import StageCost
from autopipe.ir.stages import Argument, Port, TiedTensor
from autopipe.ir.structure import Structure
from autopipe.ir.tensor import TensorSpec
from autopipe.ir.traced import InputLeaf, NodeInfo, Region

SPEC = TensorSpec(("B", 4), "float32")
NUMBERS = TensorSpec(("B",), "int64")
COST = StageCost(2, 1.0, 2.0, 0, 0, 0.0, 3.0, 8, 0, 1, 32, 1)
NESTED = Structure.of({"x": torch.ones(1), "more": [torch.ones(1), 3]})[0]


@pytest.mark.parametrize(
    ("good", "change", "said"),
    [
        (Region(), {"autocast": (("cpu", "bfloat16"), ("cpu", "float16"))}, "one a device type"),
        (NodeInfo("h|@h|0", "h", SPEC), {"key": ""}, "module 'h' has no key"),
        (NodeInfo("h|@h|0", "h", SPEC), {"buffers": ("h.mean", "h.mean")}, "names something twice"),
        (InputLeaf("in_0", "x", SPEC, 0), {"batch_dim": 2}, "x has no dimension 2"),
        (Port("a", SPEC, 1, True), {"peer": -1}, "a has stage -1"),
        (Port("ids", NUMBERS, 1, False), {"carries_grad": True}, "ids.* cannot carry a gradient"),
        (Argument("recv", "a"), {"kind": "given"}, "'a' is of kind 'given'"),
        (Argument("recv", "a"), {"name": ""}, "has no name"),
        (TiedTensor("w", 0, (2, 3), True), {"owner": 2}, r"w: stages \[2, 2, 3\]"),
        (TiedParam("w", 8, ("a", "b")), {"nbytes": -8}, "w, -8 bytes"),
        (TiedParam("w", 8, ("a", "b")), {"nodes": ("a", "a")}, "a node named twice"),
        (COST, {"comm_ms": float("nan")}, "stage 2 has comm_ms = nan"),
        (COST, {"saved_bytes": -1}, "stage 2 has saved_bytes = -1"),
        (
            Fingerprint("Net", (("w", (2,), "float32"),)),
            {"tensors": (("w", (-2,), "float32"),)},
            "w is float",
        ),
        (NESTED, {"paths": NESTED.paths[:1]}, "do not fit"),
        (NESTED, {"leaves": NESTED.leaves[:2]}, "2 leaves for"),
    ],
)
def test_the_offending_element_is_named(good: Any, change: dict[str, Any], said: str) -> None:
    good.verify()
    assert str(good)
    with pytest.raises((AssertionError, AutopipeError), match=said):
        replace(good, **change).verify()


def test_fingerprint_names_a_tensor_once() -> None:
    twice = Fingerprint("Net", (("w", (2,), "float32"), ("w", (3,), "float32")))
    with pytest.raises(AutopipeError, match="names w twice"):
        twice.verify()
    good = Fingerprint("Net", (("w", (2, 3), "float32"), ("step", (), "int64")))
    assert Fingerprint.from_json(good.to_json()) == good
