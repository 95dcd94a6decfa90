"""Leaves a model as it was found: gradients, buffers, attributes, training flags, random streams."""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn

from autopipe.trace.module_state import ModuleState, held_tensors


class Untouched:
    """Notes the state of a model, and puts it back as often as asked.

    Args:
        model: The model. Its gradients are set aside, not copied; its buffers are copied, and so are the
            tensors that are attributes of modules.
    """

    def __init__(self, model: nn.Module) -> None:
        """Note everything that a run may change."""
        self._model, self._attributes = model, ModuleState(model)
        self._gradients = [(parameter, parameter.grad) for parameter in model.parameters()]
        tensors = [*model.buffers(), *held_tensors(model)]
        self._buffers = [(tensor, tensor.detach().clone()) for tensor in tensors]

    def before_a_run(self) -> None:
        """Put everything back but the gradients, which are cleared."""
        self._attributes.restore()
        with torch.no_grad():
            for buffer, value in self._buffers:
                if not _same_bits(buffer, value):
                    buffer.copy_(value)
        self._model.zero_grad(set_to_none=True)

    def put_back(self) -> None:
        """Put everything back."""
        self.before_a_run()
        for parameter, gradient in self._gradients:
            parameter.grad = gradient


@contextmanager
def untouched(model: nn.Module) -> Iterator[Untouched]:
    """Leave a model and all random streams as they are, whatever happens inside.

    Args:
        model: The model.
    """
    state = Untouched(model)
    with ExitStack() as stack:
        stack.callback(state.put_back)
        stack.enter_context(kept_streams(model))
        yield state


@contextmanager
def kept_streams(model: nn.Module) -> Iterator[None]:
    """Put the random streams of torch, Python and numpy back in the end."""
    tensors = [*model.parameters(), *model.buffers()]
    devices = sorted({tensor.device.index or 0 for tensor in tensors if tensor.is_cuda})
    numpy = sys.modules.get("numpy")
    python_state, numpy_state = random.getstate(), numpy and numpy.random.get_state()
    try:
        with torch.random.fork_rng(devices=devices):
            yield
    finally:
        random.setstate(python_state)
        if numpy is not None:
            numpy.random.set_state(numpy_state)


def seed_streams(seed: int) -> None:
    """Start the random streams of torch, Python and numpy anew."""
    torch.manual_seed(seed)
    random.seed(seed)
    numpy: Any = sys.modules.get("numpy")
    if numpy is not None:
        numpy.random.seed(seed)


def _same_bits(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Whether a buffer needs no writing, so that one in memory that cannot be written is left alone."""
    return one.shape == other.shape and bool(torch.equal(one, other))
