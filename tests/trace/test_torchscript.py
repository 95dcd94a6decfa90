"""Modules of TorchScript inside a model: one node each, and all else is seen through."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from autopipe.trace import capture
from tests.kept_training import X, assert_kept
from tests.trace.agreement import assert_agrees, opaque_modules

WHY = "it is a TorchScript module"


class Block(nn.Module):
    """Has parameters and statistics of its own, and branches on values as only TorchScript can."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.norm = nn.Linear(6, 6), nn.BatchNorm1d(6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.norm(self.linear(x))
        if bool(y.sum() > 100):
            y = y * 2
        return torch.relu(y)


def scripted() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 6), torch.jit.script(Block()), nn.Linear(6, 3))


def traced_by_jit() -> nn.Module:
    inner = nn.Sequential(nn.Linear(6, 6), nn.Tanh())
    return nn.Sequential(nn.Linear(6, 6), torch.jit.trace(inner, X[:2]), nn.Linear(6, 3))


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("build", [scripted, traced_by_jit])
def test_a_scripted_module_is_one_node_and_trains_as_it_does_plain(build: type[nn.Module]) -> None:
    torch.manual_seed(0)
    assert opaque_modules(assert_agrees(build(), (X,))) == {"1": WHY}
    assert_kept(build, n_stages=3)


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning", "ignore::FutureWarning")
def test_what_a_scripted_module_writes_is_known() -> None:
    model = scripted()
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    info = capture(model, (X,)).info["_1"]
    assert set(info.writes) == {f"1.norm.{name}" for name in dict(nn.BatchNorm1d(6).named_buffers())}
    assert set(info.parameters) == {"1.linear.weight", "1.linear.bias", "1.norm.weight", "1.norm.bias"}
    assert all(torch.equal(buffer, before[name]) for name, buffer in model.named_buffers())
