"""Nodes run under the modes of the model, and an exception leaves no mode behind."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from autopipe.rewrite import rewrite
from autopipe.rewrite.regions import closing_regions, enter_region
from autopipe.trace import capture
from tests.rewrite.cutting import evenly, run, split


class Modes(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            frozen = self.a(x)
            with torch.enable_grad():
                inner = self.b(x)
        with torch.autocast("cpu", torch.bfloat16):
            low = self.c(x)
            with torch.autocast("cpu", enabled=False):
                full = self.c(low.float())
        return frozen + inner + full, low


def test_regions_survive_cuts():
    torch.manual_seed(0)
    model, x = Modes(), torch.randn(3, 4)
    traced = capture(model, (x,))
    expected, expected_low = model(x)
    for n_stages in (1, 2, 3, 6):
        model.zero_grad()
        found, low = run(rewrite(traced, model, evenly(traced, n_stages), n_stages), x)
        assert torch.equal(found, expected)
        assert low.dtype is torch.bfloat16
        assert torch.equal(low, expected_low)
        found.sum().backward()
        assert model.a.weight.grad is None
        assert model.b.weight.grad is not None


def test_what_runs_in_the_ambient_region_gets_no_calls():
    x = torch.ones(2, 4)
    staged = split(nn.Sequential(nn.Linear(4, 4), nn.ReLU()), (x,), n_stages=1)
    assert "region" not in staged.stages[0].module.code
    with torch.no_grad():
        under = split(nn.Sequential(nn.Linear(4, 4), nn.ReLU()), (x,), n_stages=1)
    assert "region" not in under.stages[0].module.code


def fail_inside() -> None:
    with closing_regions():
        enter_region(False, False, (("cpu", "bfloat16"),))
        enter_region(True, True, ())
        raise RuntimeError("stop")


def test_an_exception_leaves_the_modes_as_they_were():
    with pytest.raises(RuntimeError, match="stop"):
        fail_inside()
    assert torch.is_grad_enabled()
    assert not torch.is_inference_mode_enabled()
    assert not torch.is_autocast_enabled("cpu")
