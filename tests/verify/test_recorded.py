"""What is recorded of a run, by node."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from autopipe.verify.recorded import Recorded


class OfOne(torch.autograd.Function):
    """Multiplies, and has a gradient for the second alone."""

    @staticmethod
    def forward(ctx: Any, one: Tensor, other: Tensor) -> Tensor:
        ctx.save_for_backward(one)
        return one * other

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, Tensor]:
        (one,) = ctx.saved_tensors
        return None, gradient * one


def test_a_value_without_a_gradient_is_recorded_without_one() -> None:
    found, start = Recorded(), torch.full((2,), 3.0, requires_grad=True)
    without, with_one = start * 2, start * 5
    found.keep("without", without)
    found.keep("with", with_one)
    OfOne.apply(without, with_one).sum().backward()
    assert found.gradients.keys() == {"with"}
    assert torch.equal(found.gradients["with"], torch.full((2,), 6.0))
