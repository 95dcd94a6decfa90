"""Branches of the model itself on its arguments: the example decides, and every run checks."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from autopipe.errors import CaptureError
from autopipe.trace import capture
from tests.rewrite.cutting import run, split
from tests.trace.agreement import assert_agrees, opaque_modules

X = torch.linspace(-2, 2, 24).reshape(4, 6)


class Checks(nn.Module):
    """Looks at its labels and its mask before it does anything."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.last = nn.Linear(6, 6), nn.Linear(6, 6)
        self.register_buffer("limit", torch.tensor(10))

    def forward(self, x: torch.Tensor, labels: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        if labels.max() >= self.limit:
            raise ValueError("label out of range")
        shifted = torch.zeros_like(labels)
        shifted[1:] = labels[:-1]
        x = self.linear(x)
        if not mask.all():
            x = x * mask[:, None]
        if torch.equal(shifted, labels * 0):
            return x
        return self.last(x)


ARGUMENTS = (X, torch.arange(4), torch.tensor([True, True, False, True]))


def test_branches_on_arguments_are_decided_by_the_example() -> None:
    traced = assert_agrees(Checks(), ARGUMENTS)
    assert opaque_modules(traced) == {}
    assert "last" in traced.modules


def test_branches_are_decided_at_a_batch_of_one() -> None:
    traced = assert_agrees(Checks(), tuple(argument[1:2] for argument in ARGUMENTS))
    assert "last" not in traced.modules


@pytest.mark.parametrize(
    ("argument", "line"), [(1, "if labels.max() >= self.limit:"), (2, "if not mask.all():")]
)
def test_a_call_that_goes_another_way_is_an_error(argument: int, line: str) -> None:
    staged = split(Checks(), ARGUMENTS, n_stages=2)
    arguments: list[Any] = list(ARGUMENTS)
    arguments[argument] = torch.full((4,), 11) if argument == 1 else torch.ones(4, dtype=torch.bool)
    with pytest.raises(CaptureError, match="takes another branch than for the example") as raised:
        run(staged, *arguments)
    assert line in str(raised.value)
    assert "test_decisions.py:" in str(raised.value)


def test_an_example_without_values_decides_nothing() -> None:
    with pytest.raises(CaptureError, match="branches on the values of a tensor"):
        capture(Checks(), tuple(argument.to("meta") for argument in ARGUMENTS))


def test_module_that_branches_stays_opaque() -> None:
    class Outer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.checks, self.last = Checks(), nn.Linear(6, 6)

        def forward(self, *arguments: torch.Tensor) -> torch.Tensor:
            return self.last(self.checks(*arguments))

    assert list(opaque_modules(assert_agrees(Outer(), ARGUMENTS))) == ["checks"]


@pytest.mark.parametrize("probability", [0.0, 0.5])
def test_layers_that_are_dropped_with_probability_0_are_seen_through(probability: float) -> None:
    class LayerDrop(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList([nn.Linear(6, 6) for _ in range(3)])

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            for layer in self.layers:
                skip = self.training and torch.rand([]) < probability
                x = x if skip else layer(x)
            return x

    traced = assert_agrees(nn.Sequential(nn.Linear(6, 6), LayerDrop(), nn.Linear(6, 6)), (X,))
    assert list(opaque_modules(traced)) == ([] if probability == 0 else ["1"])
