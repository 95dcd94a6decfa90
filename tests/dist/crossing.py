"""Cases for a crew: everything that can cross between two stages."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

import autopipe
from autopipe.pipeline import Pipeline
from autopipe.runtime.tensor_bytes import NOTHING
from tests.plain_training import gradients_of


class Make(nn.Linear):
    """A leaf that returns tensors of many kinds."""

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        h = super().forward(x)
        return h > 0, (x * 10).long(), h.bfloat16(), torch.complex(h, -h), h.t(), h.detach()


class Use(nn.Linear):
    """A leaf that reads all of them; one that carries a gradient it does not use."""

    def forward(self, mask: Tensor, ints: Tensor, *more: Tensor) -> Tensor:
        half, both, turned, fixed = more
        assert not mask.requires_grad
        assert not fixed.requires_grad
        assert turned.requires_grad
        assert turned.t().is_contiguous()
        found = super().forward(turned.t()) * mask + ints + both.abs() + fixed
        return found + 0 * half.detach()


class Mixed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.make, self.use = Make(4, 4), Use(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.use(*self.make(x))
        return found


def judge(output: Tensor) -> Tensor:
    return output.square().mean()


NAMES = ("make", "use")


@cache
def split() -> Pipeline:
    torch.manual_seed(0)
    return autopipe.split(Mixed(), 2, (torch.randn(2, 4),), pin={"make": 0, "use": 1})


def prepare() -> None:
    split().engine(n_microbatches=3).step(torch.randn(5, 4), loss_fn=judge)
    split().model.zero_grad()


def forget_layouts(transport: Any) -> None:
    usual = transport.expect
    transport.expect = lambda _layouts, call: usual(lambda _message: NOTHING, call)


def everything_crosses(rank: int, knows_layouts: bool) -> int:
    """Compare with one process; without layouts every message is described, the first time."""
    pipe = split()
    torch.manual_seed(1)
    batches = [torch.randn(5, 4) for _ in range(3)]
    results: list[Any] = []
    for group in (None, dist.group.WORLD):
        pipe.model.zero_grad()
        with pipe.engine(group=group, n_microbatches=3, timeout_s=20) as engine:
            if group is not None and not knows_layouts:
                forget_layouts(engine._transport)
            losses = [engine.step(batch, loss_fn=judge).loss for batch in batches]
            results.append((losses, gradients_of(pipe.model)))
            n_changed = 0 if group is None else len(engine._transport._changed)
    (expected, gradients), (losses, found) = results
    assert all(one.equal(other) for one, other in zip(losses, expected, strict=True))
    for each in ("weight", "bias"):
        torch.testing.assert_close(found[f"{NAMES[rank]}.{each}"], gradients[f"{NAMES[rank]}.{each}"])
    assert found[f"{NAMES[1 - rank]}.weight"] is None
    return n_changed


class Selecting(nn.Module):
    """A loss, and the rows of its first layer that are positive."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        first = self.first(x)
        return {"loss": self.second(first).square().mean(), "found": first[x[:, 0] > 0]}


def values_decide_how_many_rows_arrive(rank: int) -> list[float]:
    """Return losses of what each microbatch selects, of one process and of two."""
    torch.manual_seed(0)
    pipe = autopipe.split(Selecting(), 2, (torch.randn(2, 4),), pin={"first": 0, "second": 1})
    torch.manual_seed(1)
    batches = [torch.randn(6, 4) for _ in range(2)]
    losses = []
    for group in (None, dist.group.WORLD):
        pipe.model.zero_grad()
        with pipe.engine(group=group, n_microbatches=3, timeout_s=20) as engine:
            steps = [engine.step(batch, loss_fn=lambda out: out["found"].square().sum()) for batch in batches]
            losses += [float(step.loss) for step in steps]
    return losses
