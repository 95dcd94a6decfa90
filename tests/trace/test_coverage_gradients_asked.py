"""A forward that asks for the gradient of what it was given, as speech encoders do for their checkpoints."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from autopipe.errors import CaptureError
from autopipe.trace import capture
from tests.trace.agreement import assert_agrees, calls, opaque_modules

WAVE = torch.randn(4, 16, generator=torch.Generator().manual_seed(0))


class Encoder(nn.Module):
    """Asks for the gradient of a view of its argument, then convolves it in checkpoints."""

    def __init__(self, *, by_method: bool, reentrant: bool | None) -> None:
        super().__init__()
        self.convs = nn.ModuleList([nn.Conv1d(1, 4, 3), nn.Conv1d(4, 4, 3)])
        self.by_method, self.reentrant = by_method, reentrant

    def forward(self, wave: Tensor) -> Tensor:
        hidden = wave[:, None]
        if self.by_method:
            hidden = hidden.requires_grad_()
        else:
            hidden.requires_grad = True
        for conv in self.convs:
            if self.reentrant is None:
                hidden = conv(hidden)
            else:
                made: Any = checkpoint(conv, hidden, use_reentrant=self.reentrant)
                hidden = made
        return hidden


class Model(nn.Module):
    def __init__(self, **how: Any) -> None:
        super().__init__()
        self.encoder, self.head = Encoder(**how), nn.Linear(12, 3)

    def forward(self, wave: Tensor) -> Tensor:
        out: Tensor = self.head(self.encoder(wave).relu())
        return out


@pytest.mark.parametrize("reentrant", [None, False, True])
@pytest.mark.parametrize("by_method", [False, True])
def test_encoder_that_asks_for_a_gradient_is_seen_through(by_method: bool, reentrant: bool | None) -> None:
    traced = assert_agrees(Model(by_method=by_method, reentrant=reentrant), (WAVE,), n_stages=(1, 2, 4))
    assert opaque_modules(traced) == {}
    assert "encoder.convs.1" in calls(traced)


def test_nothing_is_recorded_where_a_gradient_flows_already() -> None:
    class Asks(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(16, 4), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.second(self.first(x).requires_grad_())
            return out

    traced = assert_agrees(Asks(), (WAVE,))
    assert [node.name for node in traced.compute_nodes()] == ["first", "second"]


@pytest.mark.parametrize("wanted", [True, False])
def test_gradient_of_an_argument_is_left_to_the_caller(wanted: bool) -> None:
    class Sets(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(16, 2)

        def forward(self, x: Tensor) -> Tensor:
            x.requires_grad = wanted
            out: Tensor = self.linear(x)
            return out

    with pytest.raises(CaptureError, match=r"sets \.requires_grad of"):
        capture(Sets(), (WAVE.clone().requires_grad_(not wanted),))
