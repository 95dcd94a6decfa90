"""In eval a dropout is its argument, and a write after it is a write into that."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from autopipe.trace import capture


class Residual(nn.Module):
    def __init__(self, p: float) -> None:
        super().__init__()
        self.first, self.last, self.drop = nn.Linear(3, 3), nn.Linear(3, 3), nn.Dropout(p)
        self.p = p

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.first(x)
        z = F.dropout(y, self.p, self.training)
        z += x
        return self.last(self.drop(z))


@pytest.mark.parametrize(
    ("p", "training", "aliases"), [(0.1, True, False), (0.1, False, True), (0.0, True, True)]
)
def test_a_dropout_that_does_nothing_is_a_view_of_its_argument(
    p: float, training: bool, aliases: bool
) -> None:
    traced = capture(Residual(p).train(training), (torch.ones(2, 3),))
    assert traced.info["dropout"].is_view is aliases
    assert traced.info["drop"].is_view is aliases
    held = [group for group in traced.together if {"first", "dropout", "add"} <= set(group)]
    assert bool(held) is aliases
