"""Models and examples made under a FakeTensorMode of the caller's."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import ShapeEnv

import autopipe
from autopipe.trace import capture


class Net(nn.Module):
    """Weights, a buffer, a tensor in an attribute, and a module that branches on data."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.norm, self.gate = nn.Embedding(11, 8), nn.BatchNorm1d(8), Gate()
        self.register_buffer("shift", torch.ones(8))
        self.scale = torch.ones(8)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.norm(self.embed(ids).transpose(1, 2)).transpose(1, 2)
        return self.gate(x * self.scale + self.shift)


class Gate(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.other = nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.one(x) if x.sum() > 0 else self.other(x)


def ids() -> torch.Tensor:
    return torch.zeros(4, 5, dtype=torch.long)


@pytest.mark.parametrize("stays_on", [True, False])
def test_fake_model_and_example_give_the_plan_of_the_real_ones(stays_on: bool) -> None:
    real = autopipe.plan(Net(), 2, (ids(),))
    mode = FakeTensorMode()
    with mode:
        model, example = Net(), (ids(),)
    with mode if stays_on else nullcontext():
        assert autopipe.plan(model, 2, example).diff(real) == []
        model.gate = model.gate.one
        assert autopipe.split(model, 2, example)(*example).shape == (4, 5, 8)


def test_only_the_example_or_only_the_model_may_be_fake() -> None:
    real = str(capture(Net(), (ids(),)))
    with FakeTensorMode():
        fake, example = Net(), ids()
    assert str(capture(fake, (ids(),))) == str(capture(Net(), (example,))) == real


def test_symbolic_sizes_of_the_caller_are_taken_at_their_hints_and_left_free() -> None:
    environment = ShapeEnv()
    example = FakeTensorMode(shape_env=environment).from_tensor(ids())
    assert isinstance(example.shape[0], torch.SymInt)
    assert str(capture(Net(), (example,))) == str(capture(Net(), (ids(),)))
    assert not environment.guards


def test_size_that_nobody_knows_is_explained() -> None:
    environment = ShapeEnv()
    with FakeTensorMode(shape_env=environment):
        example = torch.zeros(environment.create_unbacked_symint(), 5, dtype=torch.long)
    with pytest.raises(autopipe.ArgumentError, match=r"has the size u0, which has no value"):
        capture(Net(), (example,))


def test_fake_model_cannot_be_verified() -> None:
    with FakeTensorMode():
        model, example = Net(), (ids(),)
    with pytest.raises(autopipe.ArgumentError, match=r"a model of fake tensors cannot be verified\."):
        autopipe.split(model, 2, example, verify=True)
