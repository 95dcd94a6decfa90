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


class Tables(nn.Module):
    """Takes only the dtype of its first argument, under no_grad inside."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("steps", torch.ones(4))

    @torch.no_grad()
    def forward(self, x: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        angles = positions[:, None] * self.steps
        return angles.cos().to(x.dtype), angles.sin().to(x.dtype)


class Turned(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.tables = nn.Linear(4, 4), Tables()

    def forward(self, x: Tensor, positions: Tensor) -> Tensor:
        y = self.first(x)
        cos, sin = self.tables(y, positions)
        return y * cos + y * sin


def test_a_module_that_stops_gradients_itself_lets_none_through():
    traced = capture(Turned(), (torch.ones(2, 4), torch.ones(2)))
    trained = {"first.weight", "first.bias"}
    tables = {"tables", "getitem", "getitem_1"}
    assert tables <= {node.name for node in traced.compute_nodes()}
    assert not tables & values_with_gradient(traced, trained)
    positions = {
        traced.inputs[1].name
    }  # asked for nothing in the capture: whether it would pass is not known
    assert tables <= values_with_gradient(traced, trained | positions)
