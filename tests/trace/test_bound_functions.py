"""Custom autograd functions that were bound before the capture: ``scan = Scan.apply`` in a model's file."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.kept_training import X, assert_kept
from tests.trace.agreement import assert_agrees, calls, opaque_modules


class Reversed(torch.autograd.Function):
    """Writes in place as a forward may, and has a backward of its own."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, factor: float) -> Tensor:
        ctx.factor = factor
        out = x.clone()
        out[:, 1:].add_(x[:, :-1])
        return out * factor

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return -grad * ctx.factor, None


class WithSetup(torch.autograd.Function):
    """Keeps what its backward needs in a method of its own, and has a default."""

    @staticmethod
    def forward(x: Tensor, factor: float = 3.0) -> Tensor:
        return x * factor

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.factor = inputs[1]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad * ctx.factor * 2, None


reversed_by, set_up = Reversed.apply, WithSetup.apply


class Bound(nn.Module):
    """Calls them by the names that they were bound to."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(6, 6) for _ in range(3)])

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = set_up(reversed_by(layer(x), 0.5))
        return x


@pytest.mark.parametrize("n_stages", [1, 3, 8])
def test_a_function_bound_before_the_capture_keeps_its_own_backward(n_stages: int) -> None:
    torch.manual_seed(0)
    traced = assert_agrees(Bound(), (X,), n_stages=(n_stages,))
    assert not opaque_modules(traced)
    assert [calls(traced).count(name) for name in ("Reversed", "WithSetup")] == [3, 3]
    if n_stages == 3:
        assert_kept(Bound, n_stages=3)
