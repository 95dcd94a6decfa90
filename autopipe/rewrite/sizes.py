"""Reads the symbolic sizes of a capture off the tensors of a call."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from autopipe.ir.traced import TracedModel


def bind_sizes(traced: TracedModel, tensors: Sequence[torch.Tensor]) -> dict[str, int]:
    """Return the value of each symbolic size for these arguments.

    Args:
        traced: A capture that is right for the call.
        tensors: The tensors among the arguments, as many as ``traced.inputs``.

    Returns:
        Symbolic size -> its value.
    """
    return {
        size: actual
        for leaf, tensor in zip(traced.inputs, tensors, strict=True)
        for size, actual in zip(leaf.spec.shape, tensor.shape, strict=True)
        if isinstance(size, str) and size in traced.sizes
    }
