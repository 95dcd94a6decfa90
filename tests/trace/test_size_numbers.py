"""Numbers that a forward computes from sizes stay open, floats too."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from autopipe import split


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
