"""Small models, good and bad, that the tests of the command line name."""

from __future__ import annotations

import sys

import torch
from torch import nn


class Blocks(nn.Module):
    """A chain of linear layers."""

    def __init__(self, width: int, depth: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))
        self.head = nn.Linear(width, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            x = torch.relu(block(x))
        return self.head(x)


class Branching(nn.Module):
    """Branches on data."""

    def __init__(self) -> None:
        super().__init__()
        self.inside = nn.Linear(8, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.inside(x) if x.sum() > 0 else -x


class Routed(nn.Module):
    """Holds a module that branches on data."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(8, 8)
        self.router = Branching()
        self.last = nn.Linear(8, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.router(self.first(x)))


def build(width: int = 8, depth: int = 4) -> nn.Module:
    sys.stdout.write("a word of the user's\n")
    return Blocks(width, depth)


def example(batch: int = 4, width: int = 8) -> tuple[torch.Tensor]:
    return (torch.ones(batch, width),)


def example_by_name() -> dict[str, torch.Tensor]:
    return {"x": torch.ones(4, 8)}


def example_of_both() -> tuple[tuple[()], dict[str, torch.Tensor]]:
    return (), {"x": torch.ones(4, 8)}


def example_of_another_shape() -> tuple[torch.Tensor]:
    return (torch.ones(4, 5),)


def example_as_list() -> list[torch.Tensor]:
    return [torch.ones(4, 8)]


def branching() -> nn.Module:
    return Branching()


def routed() -> nn.Module:
    return Routed()


def no_model() -> int:
    return 3


def fails() -> nn.Module:
    raise ZeroDivisionError("no good")


def ends() -> nn.Module:
    sys.exit(5)


READY = Blocks(8, 2)
NUMBER = 3
