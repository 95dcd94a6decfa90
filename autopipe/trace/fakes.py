"""Fake arguments and fake weights: the model runs on them, and nothing real is touched."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from autopipe.trace.dim_order import dim_order, empty_in_order
from autopipe.trace.sizes import Sizes
from autopipe.trace.values import Values


def fake_arguments(
    holes: Sequence[torch.Tensor], mode: FakeTensorMode, sizes: Sizes, device: torch.device
) -> list[torch.Tensor]:
    """Return fake tensors like the arguments, with open sizes, all on the device of the capture."""
    fakes = []
    for index, hole in enumerate(holes):
        shape = sizes.open_shape(index, tuple(hole.shape), hole.dtype)
        with mode, torch.no_grad():
            fake = empty_in_order(shape, dim_order(hole), hole.dtype, device)
        fakes.append(fake.requires_grad_(hole.requires_grad))
    return fakes


@contextmanager
def fake_weights(
    model: nn.Module, mode: FakeTensorMode, device: torch.device, values: Values
) -> Iterator[None]:
    """Let every parameter and buffer of the model be a fake one, ties kept, for the time of a capture."""
    fakes: dict[int, torch.Tensor] = {}
    real: list[tuple[dict[str, Any], dict[str, Any]]] = []
    for prefix, module in model.named_modules():
        for own, is_parameter in ((module._parameters, True), (module._buffers, False)):
            for name, tensor in own.items():
                if tensor is not None and id(tensor) not in fakes:
                    fakes[id(tensor)] = _fake_weight(tensor, mode, device, is_parameter)
                    fqn = f"{prefix}.{name}" if prefix else name
                    values.own(fakes[id(tensor)], tensor, fqn, is_parameter=is_parameter)
            if not isinstance(module, torch.jit.ScriptModule):  # one keeps its own: nothing can be put there
                real.append((own, dict(own)))
    try:
        for own, before in real:
            own.update(
                {name: tensor if tensor is None else fakes[id(tensor)] for name, tensor in before.items()}
            )
        yield
    finally:
        for own, before in real:
            own.clear()
            own.update(before)


def _fake_weight(
    tensor: torch.Tensor, mode: FakeTensorMode, device: torch.device, is_parameter: bool
) -> torch.Tensor:
    if is_traceable_wrapper_subclass(tensor) or tensor.layout != torch.strided:
        return mode.from_tensor(tensor, static_shapes=True)
    with mode, torch.no_grad():
        fake = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device=device)
    if is_parameter:
        return nn.Parameter(fake, requires_grad=tensor.requires_grad)
    return fake.requires_grad_(tensor.requires_grad)
