"""Shapes of models that research code has: each trains split as it does plain."""

from __future__ import annotations

import torch
from torch import nn

import autopipe
from tests.kept_training import X


def block() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 6))


class Graph(nn.Module):
    """Multiplies by a sparse adjacency, which is a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = block(), block()
        self.register_buffer("adjacency", torch.eye(6).roll(1, 0).to_sparse())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(torch.sparse.mm(self.adjacency, self.first(x).t()).t())


def test_a_sparse_buffer_is_priced_and_read_in_its_stage() -> None:
    torch.manual_seed(0)
    model = Graph()
    pipe = autopipe.split(model, 3, (X,))
    assert pipe.plan.partition.stages[0].param_bytes > 0
    found = []
    for call in (model, pipe):
        model.zero_grad()
        out = call(X)
        out.square().sum().backward()
        found.append([out.detach(), *(parameter.grad for parameter in model.parameters())])
    torch.testing.assert_close(found[1], found[0])
