"""Numbers that a forward computes from sizes stay open, floats too."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from autopipe import split
from autopipe.trace import capture


class Scaled(nn.Module):
    """Divides by roots and shares of its sizes."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.b(self.a(x) / x.shape[0] ** 0.5) * math.sqrt(x.shape[0])
        out: torch.Tensor = y / (x.shape[0] / 3) + x.shape[0] // 2
        return out


@pytest.mark.parametrize("batch", [1, 2, 5, 9])
def test_numbers_made_of_sizes_follow_the_batch(batch: int) -> None:
    model = Scaled()
    pipe = split(model, 2, (torch.randn(3, 4),))
    x = torch.randn(batch, 4)
    assert pipe(x).equal(model(x))


class Rowwise(nn.Module):
    """Unrolls a Python loop over the batch, so that every batch size has a graph of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        rows = [row * i for i, row in enumerate(self.a(x))]
        out: torch.Tensor = self.b(torch.stack(rows))
        return out


@pytest.mark.parametrize("batch", [1, 4])
def test_a_graph_that_is_right_for_one_batch_size_is_captured_at_that_of_the_example(batch: int) -> None:
    traced = capture(Rowwise(), (torch.randn(batch, 4),))
    assert traced.bind([(batch, 4)]) is not None


def test_sizes_are_those_of_the_example() -> None:
    traced = capture(nn.Sequential(nn.Linear(4, 8), nn.ReLU()), (torch.ones(4, 4),))
    assert traced.sizes == {"B": 4}
    assert (
        split(nn.Sequential(nn.Linear(4, 8), nn.ReLU()), 2, (torch.ones(4, 4),)).plan.transfers[0].nbytes
        == 128
    )
