"""Buffers that a forward replaces by new ones: a graph writes them, and who read the old ones has these."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import autopipe
from autopipe.errors import CaptureError
from autopipe.trace import capture
from tests.kept_training import X, assert_kept
from tests.trace.agreement import opaque_modules


class Memory(nn.Module):
    """Reads what it remembers, also in its backward, and then replaces it."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(6, 6), nn.Linear(6, 6)
        self.register_buffer("memory", torch.linspace(-1, 1, 36).reshape(6, 6))
        self.register_buffer("last", torch.zeros(6), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x)
        read = x @ self.memory
        with torch.no_grad():
            self.memory = self.memory * 0.9 + 0.1 * (x.T @ x)
            self.last = x.mean(0)
        return self.second(torch.tanh(read) + x @ self.memory)


class Returning(Memory):
    """Returns the old numbers and the new ones."""

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        before = self.memory
        return {"y": super().forward(x), "before": before, "after": self.memory.clone()}


class WrittenFirst(Memory):
    """Writes into the buffer before it replaces it."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.memory.mul_(0.5)
        return super().forward(x)


@pytest.mark.parametrize("n_stages", [1, 3])
@pytest.mark.parametrize("build", [Memory, WrittenFirst, lambda: nn.Sequential(nn.Linear(6, 6), Memory())])
def test_buffers_are_replaced_in_every_microbatch_as_in_a_plain_run(build: Any, n_stages: int) -> None:
    assert not opaque_modules(capture(build(), (X,)))
    assert_kept(build, n_stages=n_stages)


def test_the_old_numbers_stay_what_they_were() -> None:
    torch.manual_seed(0)
    plain, model = Returning(), Returning()
    model.load_state_dict(plain.state_dict())
    pipe = autopipe.split(model, 2, (X,))
    for _ in range(2):
        torch.testing.assert_close(pipe(X), plain(X))
        torch.testing.assert_close(dict(model.named_buffers()), dict(plain.named_buffers()))


def test_the_buffer_of_the_model_stays_the_same_object() -> None:
    model = Memory()
    memory = model.memory
    before = memory.clone()
    pipe = autopipe.split(model, 2, (X,))
    assert model.memory is memory
    assert torch.equal(memory, before)
    pipe(X)
    assert model.memory is memory
    assert not torch.equal(memory, before)


class Growing(Memory):
    """Replaces a buffer by a larger one."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.last = torch.cat([self.last, x.detach().mean(0)])
        return self.first(x)


class Wanting(Memory):
    """Replaces a buffer by what gradients flow through."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.last = self.first(x).mean(0)
        return self.second(x)


@pytest.mark.parametrize("model", [Growing(), Wanting()])
def test_what_is_no_number_for_number_replacement_is_explained(model: nn.Module) -> None:
    with pytest.raises(CaptureError, match="the model's forward sets last, which a graph would forget"):
        capture(model, (X,))
