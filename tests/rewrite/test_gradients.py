"""Gradients flow where parameters are trained, whatever was trained when the model was captured."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from autopipe.rewrite.gradients import values_with_gradient
from autopipe.trace import capture


class Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)
        cut = y.detach()
        out: Tensor = self.second(cut) * (y > 0)
        return out


def test_detach_integers_and_frozen_parameters_stop_gradients():
    traced = capture(Two(), (torch.ones(2, 4),))
    both = values_with_gradient(traced, {"first.weight", "first.bias", "second.weight", "second.bias"})
    assert {"first", "second", "mul"} == {name for name in both if traced.info[name].spec is not None}
    assert values_with_gradient(traced, {"first.weight"}) == {"first"}
    assert values_with_gradient(traced, set()) == frozenset()
    assert "first" in values_with_gradient(traced, {traced.inputs[0].name})
