"""A refusal: its words, and that it left no trace. With the model that the tests of bad input share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import nn

from autopipe import AutopipeError

X = torch.ones(4, 4)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.last = nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(torch.relu(self.norm(self.first(x))))


def net() -> Net:
    torch.manual_seed(0)
    return Net()


def state_of(model: nn.Module) -> list[Any]:
    """Everything that a failed call could have left behind."""
    tensors = [*model.named_parameters(), *model.named_buffers()]
    modules = [
        (name, type(module), module.training, list(vars(module)), len(module._forward_hooks))
        for name, module in model.named_modules()
    ]
    gradients = [parameter.grad for parameter in model.parameters()]
    values = [None if tensor.is_meta else tensor.tolist() for _, tensor in tensors]
    names = [(name, id(tensor), tensor.device, tensor.requires_grad) for name, tensor in tensors]
    return [modules, gradients, values, names, torch.get_rng_state().tolist(), torch.is_grad_enabled()]


@contextmanager
def refused(kind: type[AutopipeError], text: str, model: nn.Module) -> Iterator[None]:
    """The text, word for word; the model as it was before."""
    before = state_of(model)
    with pytest.raises(kind) as raised:
        yield
    assert str(raised.value) == text
    assert type(raised.value) is kind
    assert state_of(model) == before


def call(function: Callable[..., Any], model: Any, **options: Any) -> Any:
    given = {"n_stages": 2, "example_args": (X,)} | options
    return function(model, given.pop("n_stages"), given.pop("example_args"), **given)
