"""One number that depends on every entry of an output, so that its gradient reaches everything."""

from __future__ import annotations

import math
from typing import Any

import torch

from autopipe.ir.structure import Structure


def projection(output: Any) -> torch.Tensor | None:
    """Weigh all entries of all floating tensors of an output with fixed random numbers, and add them.

    Args:
        output: What a model returned; its own loss, if it has one, is weighed like the rest.

    Returns:
        A scalar in float32 or better; None if no tensor in the output is floating. Entries that are not
        finite (masked scores) count as zero.

    Example:
        >>> projection({"ids": torch.arange(3)}) is None, projection(torch.zeros(3))
        (True, tensor(0.))
    """
    parts = [
        _weighed(leaf, index)
        for index, leaf in enumerate(Structure.of(output)[1])
        if isinstance(leaf, torch.Tensor) and (leaf.is_floating_point() or leaf.is_complex())
    ]
    if not parts:
        return None
    total = parts[0]
    for part in parts[1:]:
        total = total + part.to(total.device)
    return total


def _weighed(leaf: torch.Tensor, index: int) -> torch.Tensor:
    real = torch.view_as_real(leaf) if leaf.is_complex() else leaf
    wide = real if real.dtype == torch.float64 else real.float()
    weights = torch.randn(wide.shape, generator=torch.Generator().manual_seed(index), dtype=torch.float32)
    finite = wide.masked_fill(~wide.isfinite(), 0.0)
    return (finite * weights.to(wide.device, wide.dtype)).sum() / math.sqrt(max(1, wide.numel()))
