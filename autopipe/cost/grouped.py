"""Products of grouped matrices (the experts of a mixture), which torch's fake tensors know in bfloat16 alone.

::

    a [rows, k]     x  b [groups, k, n]  ->  [rows, n]            the rows of each group with their own matrix
    a [m, rows]     x  b [rows, n]       ->  [groups, m, n]       the gradient of the matrices
    a [groups, m, k] x b [groups, k, n]  ->  [groups, m, n]
    a [groups, m, k] x b [k, columns]    ->  [m, columns]         the columns of each group with their own
"""

from __future__ import annotations

from typing import Any

import torch

_MATRIX = 2


def grouped_product(
    a: torch.Tensor, b: torch.Tensor, offsets: torch.Tensor | None = None, *rest: Any, **more: Any
) -> torch.Tensor:
    """Return the empty result of ``aten._grouped_mm`` on fake tensors.

    Args:
        a: As the module docstring shows.
        b: As the module docstring shows.
        offsets: End of each group, `[groups]`.
        rest: Bias and dtype.
        more: ``out_dtype``.

    Returns:
        A tensor of the right shape and dtype.
    """
    shape = [a.shape[-2], b.shape[-1]]
    if a.ndim == b.ndim == _MATRIX:
        assert offsets is not None, "two matrices are grouped by offsets"
        shape.insert(0, offsets.numel())
    elif a.ndim == b.ndim:
        shape.insert(0, a.shape[0])
    return a.new_empty(shape, dtype=more.get("out_dtype") or a.dtype)


def grouped_product_flops(a: Any, b: Any, *_: Any, **__: Any) -> int:
    """Return the FLOPs: every row (or column) meets the matrix of its own group alone.

    Example:
        >>> tokens, experts = torch.empty(10, 4, device="meta"), torch.empty(3, 4, 5, device="meta")
        >>> grouped_product_flops(tokens, experts)
        400
    """
    rows_and_inner = a.shape[-2] * a.shape[-1]
    n_groups = a.shape[0] if a.ndim == b.ndim > _MATRIX else 1
    return int(2 * n_groups * rows_and_inner * b.shape[-1])
