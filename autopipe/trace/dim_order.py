"""The order in which the dimensions of an argument lie in memory: Python can ask for strides."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch._subclasses.fake_tensor import FakeTensor


def dim_order(tensor: torch.Tensor) -> tuple[int, ...]:
    """Return the dimensions of a tensor, the one with the largest stride first; () if they are in order.

    Gaps between the rows of a slice do not count.

    Example:
        >>> dim_order(torch.ones(2, 3)), dim_order(torch.ones(2, 3).t()), dim_order(torch.ones(2, 3)[:, :2])
        ((), (1, 0), ())
        >>> dim_order(torch.ones(2, 3, 4, 5).to(memory_format=torch.channels_last))
        (0, 2, 3, 1)
    """
    if isinstance(tensor, FakeTensor) or tensor.layout != torch.strided or tensor.is_contiguous():
        return ()
    strides = tensor.stride()
    order = tuple(sorted(range(len(strides)), key=lambda dim: -strides[dim]))
    return () if order == tuple(range(len(strides))) else order


def empty_in_order(
    shape: Sequence[int | torch.SymInt], order: Sequence[int], dtype: torch.dtype, device: torch.device
) -> torch.Tensor:
    """Return a tensor without numbers whose dimensions lie in an order, as ``dim_order`` gives it."""
    if not order:
        return torch.empty(shape, dtype=dtype, device=device)
    dense = torch.empty([shape[dim] for dim in order], dtype=dtype, device=device)
    return dense.permute([order.index(dim) for dim in range(len(order))])
