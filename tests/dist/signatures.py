"""A crew's case: steps whose calls have other signatures and sizes, each against the plain loop."""

from __future__ import annotations

import copy
from functools import cache
from types import SimpleNamespace
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn

import autopipe
from autopipe.pipeline import Pipeline
from tests.plain_training import assert_close, gradients_of

N_MICROBATCHES = 2


class Many(nn.Module):
    """Takes another way for every flag, scalar, length, and argument that is given or not."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.body, self.head = nn.Embedding(11, 8), nn.Linear(8, 8), nn.Linear(8, 11)
        self.config = SimpleNamespace(kind=None)

    def forward(
        self, ids: torch.Tensor, labels: torch.Tensor | None = None, mask: Any = None, scale: float = 1.0
    ) -> torch.Tensor:
        x = self.body(self.embed(ids)) * scale
        if ids.shape[1] > 4:
            x = x + x.mean(1, keepdim=True)
        if mask is not None:
            x = x * mask[..., None]
        if self.training:
            x = torch.tanh(x)
        state = x[:, 0]
        for step in range(1, ids.shape[1]):
            state = state + torch.sin(x[:, step] + state)
        logits = self.head(state)
        if labels is None:
            return logits.square().mean()
        if self.config.kind is None:
            self.config.kind = "classes"
        return F.cross_entropy(logits, labels)


def calls() -> list[tuple[str, bool, dict[str, Any]]]:
    ids, labels = torch.arange(24).reshape(4, 6) % 11, torch.tensor([1, 2, 3, 4])
    return [
        ("as the example", True, {"ids": ids}),
        ("another batch", True, {"ids": ids[:3]}),
        ("a length that takes another way", True, {"ids": ids[:, :3]}),
        ("labels", True, {"ids": ids, "labels": labels}),
        ("labels once more, after an attribute was set", True, {"ids": ids, "labels": labels}),
        ("a mask and a scalar", True, {"ids": ids, "mask": (ids > 3).float(), "scale": 0.5}),
        ("evaluation mode", False, {"ids": ids}),
    ]


def plain_step(model: nn.Module, given: dict[str, Any]) -> torch.Tensor:
    n_samples, losses = len(given["ids"]), []
    parts = {name: v.tensor_split(N_MICROBATCHES) for name, v in given.items() if isinstance(v, torch.Tensor)}
    for index in range(N_MICROBATCHES):
        part = {name: parts[name][index] if name in parts else value for name, value in given.items()}
        loss = model(**part) * (len(part["ids"]) / n_samples)
        loss.backward()
        losses.append(loss.detach())
    return torch.stack(losses).sum()


@cache
def split() -> tuple[nn.Module, Pipeline]:
    torch.manual_seed(0)
    model = Many()
    return model, autopipe.split(model, 2, (), {"ids": calls()[0][2]["ids"]})


def steps_of_many_signatures(rank: int) -> list[str]:
    """Take every step over the group and plain; return what was right."""
    model, pipe = split()
    plain = copy.deepcopy(model)
    right = []
    with pipe.engine(group=dist.group.WORLD, timeout_s=30, n_microbatches=N_MICROBATCHES) as engine:
        own = [fqn for fqn, _ in engine.named_parameters()]
        for name, training, given in calls():
            engine.train(training)
            plain.train(training)
            model.zero_grad()
            plain.zero_grad()
            loss = engine.step(**given).loss
            assert_close(loss, plain_step(plain, given))
            found, expected = gradients_of(model), gradients_of(plain)
            assert_close({fqn: found[fqn] for fqn in own}, {fqn: expected[fqn] for fqn in own})
            assert model.config.kind == plain.config.kind
            right.append(name)
    return right
