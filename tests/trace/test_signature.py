"""Calls whose graphs may differ have different signatures."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from autopipe.trace import signature_of

X = torch.ones(2, 4)


class Model(nn.Module):
    """Reads flags from everywhere."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.drop = nn.Linear(4, 4), nn.Dropout(0.1)
        self.scale, self.config = 1.0, SimpleNamespace(depth=2, rope={"theta": 1e4})
        self.activation, self.mask, self.sizes = F.gelu, torch.ones(4), [1, 2]

    def forward(self, x: torch.Tensor, labels: Any = None, factor: float = 1.0) -> torch.Tensor:
        return self.linear(x)


CHANGES = {
    "eval": lambda m: m.eval(),
    "eval of one leaf": lambda m: m.drop.eval(),
    "plain attribute": lambda m: setattr(m, "scale", 2.0),
    "attribute of a leaf": lambda m: setattr(m.drop, "p", 0.2),
    "config": lambda m: setattr(m.config, "depth", 3),
    "nested config": lambda m: m.config.rope.update(theta=1e5),
    "function": lambda m: setattr(m, "activation", F.relu),
    "another tensor": lambda m: setattr(m, "mask", torch.zeros(4)),
    "list": lambda m: m.sizes.append(3),
    "forward hook of a leaf": lambda m: m.drop.register_forward_hook(lambda *_: None),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_what_python_may_branch_on_is_signed(change: Any) -> None:
    model = Model()
    before = signature_of(model, (X,), {})
    assert signature_of(model, (X + 1,), {}) == before
    change(model)
    after = signature_of(model, (X,), {})
    assert after != before
    assert before.differences(after) != []


CALLS: dict[str, tuple[tuple[Any, ...], dict[str, Any]]] = {
    "labels given": ((X, X), {}),
    "another scalar": ((X,), {"factor": 2.0}),
    "another dtype": ((X.double(),), {}),
    "another rank": ((X[0],), {}),
    "by keyword": ((), {"x": X}),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS.keys())
def test_another_call_has_another_signature(call: Any) -> None:
    model = Model()
    assert signature_of(model, *call) != signature_of(model, (X,), {})


def test_sizes_and_values_are_not_signed() -> None:
    model = Model()
    assert signature_of(model, (torch.zeros(7, 4),), {}) == signature_of(model, (X,), {})


def test_modes_are_signed() -> None:
    model = Model()
    with torch.no_grad():
        no_grad = signature_of(model, (X,), {})
    with torch.autocast("cpu"):
        autocast = signature_of(model, (X,), {})
    assert len({signature_of(model, (X,), {}).region, no_grad.region, autocast.region}) == 3


def test_a_signature_prints_alike_for_models_that_are_built_alike() -> None:
    built = [signature_of(nn.Sequential(nn.Linear(2, 2), nn.ReLU()), (), {}) for _ in range(2)]
    assert built[0] != built[1]
    assert repr(built[0].state) == repr(built[1].state)
