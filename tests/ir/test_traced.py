"""What a captured model says about calls."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from torch import nn

from autopipe.trace import capture


class Net(nn.Module):
    """Looks at its length."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return self.linear(x) * mask[..., None] if x.shape[1] < 9 else x


TRACED = capture(Net(), (torch.ones(2, 5, 4), torch.ones(2, 5, dtype=torch.long)))


@pytest.mark.parametrize(
    ("shapes", "bound"),
    [
        ([(2, 5, 4), (2, 5)], {"B": 2, "L5": 5}),
        ([(7, 3, 4), (7, 3)], {"B": 7, "L5": 3}),
        ([(7, 3, 4), (6, 3)], None),
        ([(7, 3, 5), (7, 3)], None),
        ([(2, 9, 4), (2, 9)], None),
    ],
)
def test_bind_gives_sizes_or_refuses(shapes: Any, bound: dict[str, int] | None) -> None:
    assert TRACED.bind(shapes) == bound


def test_verify_names_what_breaks() -> None:
    broken = dataclasses.replace(TRACED, order=(("linear", "nothing"),))
    with pytest.raises(AssertionError, match="nothing"):
        broken.verify()


def test_it_prints_a_line_a_node() -> None:
    lines = str(TRACED).splitlines()
    assert lines[0].startswith("TracedModel(")
    assert len(lines) == 1 + len(TRACED.compute_nodes())
    assert any("linear" in line and "f32[B, L5, 4]" in line for line in lines)
