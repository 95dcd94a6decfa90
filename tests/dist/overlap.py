"""A case for a crew: messages travel while the ranks compute."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

import autopipe

WIDTH, ROWS, N_MICROBATCHES = 256, 2048, 4  # messages of 2 MiB, more than a socket takes at once
LIMIT = timedelta(seconds=20)

_during: dict[tuple[int, int], Callable[[], None]] = {}
_n_forwards = [0, 0]


class Layer(nn.Linear):
    """A leaf in which something may be awaited."""

    def __init__(self, stage: int) -> None:
        super().__init__(WIDTH, WIDTH)
        self.stage = stage

    def forward(self, x: Tensor) -> Tensor:
        _during.get((self.stage, _n_forwards[self.stage]), lambda: None)()
        _n_forwards[self.stage] += 1
        return super().forward(x)


def arrives_during_another_forward(rank: int) -> bool:
    """Rank 1 stays in its first forward until rank 0, in its third, saw that the second message is gone."""
    store = dist.distributed_c10d._get_default_store()
    model = nn.Sequential(Layer(0), Layer(1))
    pipe = autopipe.split(model, 2, (torch.ones(ROWS, WIDTH),), n_microbatches=N_MICROBATCHES)
    seen: list[int] = []
    with pipe.engine(group=dist.group.WORLD, schedule="gpipe", timeout_s=2 * LIMIT.total_seconds()) as engine:
        transport: Any = engine._transport

        def until_both_are_gone() -> None:
            sent = transport._sent[1]
            seen.append(len(sent))
            while sent:  # as the engine does, which may wait for a message once
                sent.popleft()[1].wait()
            store.set("arrived", "")

        _n_forwards[:] = [0, 0]
        _during[0, 2] = until_both_are_gone
        _during[1, 0] = lambda: store.wait(["arrived"], LIMIT)
        engine.step(torch.ones(N_MICROBATCHES * ROWS, WIDTH), loss_fn=lambda output: output.mean())
        _during.clear()
    return seen == [2] if rank == 0 else seen == []
