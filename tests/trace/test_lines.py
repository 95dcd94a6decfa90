"""The line that a message names is one of the model's own file, whatever that calls elsewhere."""

from __future__ import annotations

import random
from contextlib import contextmanager
from random import random as drawn

import numpy as np
import pytest
import torch
from torch import nn

from autopipe.errors import CaptureError
from autopipe.trace import capture
from tests.trace.agreement import opaque_modules
from tests.trace.helper_of_a_model import Counting, refuse_large

X = torch.randn(4, 6)


class Helped(nn.Module):
    """Its helper, elsewhere, branches."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(6, 6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        refuse_large(x)
        return self.inner(x)


class Mixed(Counting, Helped):
    """What it inherits, from elsewhere, branches."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.inner(x)
        return y if self.is_positive(y) else -y


@contextmanager
def regardless() -> None:
    yield


class Inside(Helped):
    """Branches in a function of its own file, inside of one of the standard library's."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with regardless():
            return next(map(halved, [self.inner(x)]))


def halved(y: torch.Tensor) -> torch.Tensor:
    return y / 2 if y.sum() > 0 else y


@pytest.mark.parametrize(
    ("block", "line", "helper"),
    [
        (Helped, "Helped.forward:  refuse_large(x)", "refuse_large:  if x.sum() > 1000:"),
        (Mixed, "Mixed.forward:  return y if self.is_positive", "Counting.is_positive:  return bool("),
        (Inside, "halved:  return y / 2 if y.sum() > 0 else y", ""),
    ],
)
def test_a_branch_is_named_by_the_line_of_the_model_and_that_of_its_helper(
    block: type[nn.Module], line: str, helper: str
) -> None:
    (reason,) = opaque_modules(capture(nn.Sequential(block(), nn.Linear(6, 6)), (X,))).values()
    named, _, there = reason.partition(" (that is ")
    assert line in named
    assert "test_lines.py:" in named
    assert helper in there
    assert ("helper_of_a_model.py:" in there) == bool(helper)
    with pytest.raises(CaptureError) as raised:
        capture(block(), (X,))
    assert line in raised.value.where


class Dropping(nn.Module):
    """Skips layers by Python's random numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(6, 6) for _ in range(2)])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            chance = random.uniform(0, 1)
            x = layer(x) if chance > 0.5 else x
        return x


class ByNumpy(Dropping):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers[0](x) if self.is_kept() else x

    def is_kept(self) -> bool:
        return bool(np.random.rand() > 0.5)


class ByName(Dropping):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers[0](x) if drawn() > 0.5 else x


class Importing(Dropping):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        import random as chances

        return self.layers[0](x) if chances.random() > 0.5 else x


@pytest.mark.parametrize(
    ("block", "line"),
    [
        (Importing, "Importing.forward:  return self.layers[0](x) if chances.random() > 0.5 else x"),
        (Dropping, "Dropping.forward:  chance = random.uniform(0, 1)"),
        (ByNumpy, "ByNumpy.is_kept:  return bool(np.random.rand() > 0.5)"),
        (ByName, "ByName.forward:  return self.layers[0](x) if drawn() > 0.5 else x"),
    ],
)
def test_a_draw_that_is_not_torchs_is_named_by_its_line(block: type[nn.Module], line: str) -> None:
    (reason,) = opaque_modules(capture(nn.Sequential(block(), nn.Linear(6, 6)), (X,))).values()
    assert line in reason
    assert "test_lines.py:" in reason
    with pytest.raises(CaptureError, match="draws from Python's or numpy's") as raised:
        capture(block(), (X,))
    assert line in raised.value.where


class Asking(Helped):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.inner(x.requires_grad_())


class Hooking(Helped):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.inner(x)
        y.register_hook(lambda grad: grad)
        return y


@pytest.mark.parametrize(
    ("block", "line"),
    [
        (Asking, "Asking.forward:  return self.inner(x.requires_grad_())"),
        (Hooking, "Hooking.forward:  y.register_hook(lambda grad: grad)"),
    ],
)
def test_what_the_model_itself_may_not_do_has_a_line_and_a_remedy(block: type[nn.Module], line: str) -> None:
    with pytest.raises(CaptureError, match="cannot see through the module") as raised:
        capture(block(), (X,))
    assert line in raised.value.where
    assert "a module inside the model" in raised.value.remedy


class Counted(Helped):
    """Gives a function of torch a number that only a run knows."""

    def forward(self, x: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        return self.inner(x) * torch.arange(0, lengths.max().item())[:1]


class Unpacked(Helped):
    """Gives a function of torch a tensor for a size."""

    def forward(self, x: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        return self.inner(x) + torch.zeros(1, lengths.max().clamp(1, 1))


@pytest.mark.parametrize("block", [Counted, Unpacked])
def test_a_number_that_torch_asks_for_is_data_too(block: type[nn.Module]) -> None:
    class Around(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.block, self.head = block(), nn.Linear(6, 6)

        def forward(self, x: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
            return self.head(self.block(x, lengths))

    given = X, torch.tensor([3, 1, 2, 4])
    (reason,) = opaque_modules(capture(Around(), given)).values()
    assert reason.startswith("it depends on data at ")
    with pytest.raises(CaptureError, match="branches on the values of a tensor"):
        capture(block(), given)
