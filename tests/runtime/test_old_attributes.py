"""What a module notes on itself in a forward, its backward finds, whatever forwards came in between."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.runtime.training import engine_of, gradients

X = torch.linspace(-2, 2, 48).reshape(8, 6)


class Replayed(torch.autograd.Function):
    """Has a backward that goes by what a module noted."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, module: Noting) -> Tensor:
        ctx.module = module
        return x * module.noted

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad * ctx.module.noted, None


class Noting(nn.Module):
    """Notes a number of its argument, and counts its calls."""

    def __init__(self) -> None:
        super().__init__()
        self.noted, self.n_calls = torch.ones(()), 0

    def forward(self, x: Tensor) -> Tensor:
        self.noted, self.n_calls = x.detach().abs().mean(), self.n_calls + 1
        return Replayed.apply(x, self)


def build() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 6), Noting(), nn.Linear(6, 6), Noting(), nn.Linear(6, 2))


@pytest.mark.parametrize("recompute", [(), (0, 1, 2)])
def test_a_backward_finds_what_its_own_forward_noted(recompute: tuple[int, ...]):
    plain, model = build(), build()
    for x in X.chunk(4):
        (plain(x).square().mean() / 4).backward()
    engine = engine_of(model, (X[:2],), n_stages=3, n_microbatches=4, recompute=recompute)
    engine.step(X, loss_fn=lambda out: out.square().mean())
    for name, gradient in gradients(plain).items():
        torch.testing.assert_close(gradients(model)[name], gradient, msg=name)
    for one, other in zip(plain.modules(), model.modules(), strict=True):
        if isinstance(one, Noting):
            assert other.n_calls == one.n_calls == 4
            torch.testing.assert_close(other.noted, one.noted)
