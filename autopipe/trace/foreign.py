"""What the caller brings along: dispatch modes that are on, and fake tensors of other modes."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils._python_dispatch import _disable_current_modes

from autopipe.errors import ArgumentError


def outside_modes() -> AbstractContextManager[Any]:
    """Switch the caller's own dispatch modes off, such as a ``FakeTensorMode``."""
    return _disable_current_modes()


def with_plain_sizes(tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Return tensors whose sizes are ints: of a fake one with symbolic sizes a meta one at their hints.

    Args:
        tensors: Real, fake or meta tensors.

    Raises:
        ArgumentError: If a size has no hint, so that nobody knows what it is in the example.
    """
    return [_plain(tensor) if _is_symbolic(tensor) else tensor for tensor in tensors]


def _is_symbolic(tensor: torch.Tensor) -> bool:
    return any(isinstance(size, torch.SymInt) for size in tensor.shape)


def _plain(tensor: torch.Tensor) -> torch.Tensor:
    shape = [_hint(size) for size in tensor.shape]
    plain = torch.empty(shape, dtype=tensor.dtype, device="meta")
    return plain.requires_grad_(tensor.requires_grad)


def _hint(size: int | torch.SymInt) -> int:
    if not isinstance(size, torch.SymInt):
        return size
    if size.node.has_hint():
        return int(size.node.hint)
    raise ArgumentError(
        f"a tensor of the example has the size {size}, which has no value.",
        why="A capture runs the model at the sizes of one microbatch, and leaves them open then.",
        remedy="an example with sizes: torch.empty(4, 128, device='meta')",
    )


def has_no_values(tensor: torch.Tensor) -> bool:
    """Whether a tensor has a shape only: it is fake, or on the meta device."""
    return tensor.is_meta or isinstance(tensor, FakeTensor)
