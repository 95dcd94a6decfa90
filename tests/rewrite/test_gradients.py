"""Gradients flow where parameters are trained, whatever was trained when the model was captured."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import autopipe
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


class Fill(nn.Module):
    """Fills an empty tensor through its views, as transformers does with the keys of an attention."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.project, self.how = nn.Linear(4, 4), how

    def forward(self, x: Tensor) -> Tensor:
        y = self.project(x)
        with torch.set_grad_enabled(self.how != "made without gradients"):
            keys = x.new_empty(len(x), 8) if self.how == "made of what has none" else y.new_empty(len(x), 8)
        if self.how == "set":
            keys[:, :4], keys[:, 4:] = x, y
        else:
            keys[:, :4].copy_(x)
            keys[:, 4:].copy_(y)
        return keys


class Filled(nn.Module):
    def __init__(self, how: str) -> None:
        super().__init__()
        self.fill, self.last = Fill(how), nn.Linear(8, 1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.last(self.fill(x))
        return out


@pytest.mark.parametrize("how", ["copied", "set", "made of what has none", "made without gradients"])
def test_what_is_filled_through_views_has_the_gradient_of_what_is_written(how: str) -> None:
    model, x = Filled(how), torch.randn(2, 4)
    plain = model(x).sum()
    plain.backward()
    expected = [parameter.grad for parameter in model.parameters()]
    model.zero_grad()

    pipe = autopipe.split(model, 2, (x,), pin={"fill": 0, "last": 1}, n_microbatches=1)
    with pipe.engine() as engine:
        assert torch.equal(engine.step(x, loss_fn=torch.sum).loss, plain)
    assert all(map(torch.equal, expected, [parameter.grad for parameter in model.parameters()]))
