"""A module that is given sizes and no tensor, as ProphetNet's positions are, and returns several tensors."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import autopipe


class Positions(nn.Embedding):
    def forward(self, shape: torch.Size, device: torch.device) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        positions = torch.arange(shape[1], device=device).expand(shape)
        return super().forward(positions), positions


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.positions, self.head = nn.Embedding(9, 4), Positions(16, 4), nn.Linear(4, 2)

    def forward(self, ids: Tensor) -> Tensor:
        made, numbers = self.positions(ids.shape, ids.device)
        out: Tensor = self.head(self.tokens(ids) + made) * (numbers[..., None] + 1)
        return out


@pytest.mark.parametrize("cost", ["roofline", "measured"])
def test_module_of_sizes_is_priced_and_runs(cost: str) -> None:
    model, ids = Model(), torch.arange(10).reshape(2, 5) % 9
    pipe = autopipe.split(model, 2, (ids,), cost=cost)
    assert pipe.cost_graph.node("positions").param_bytes == 16 * 4 * 4
    assert torch.equal(pipe(ids[:, :3]), model(ids[:, :3]))
    pipe.engine().step(ids.repeat(2, 1), loss_fn=torch.sum)
    assert model.positions.weight.grad is not None
