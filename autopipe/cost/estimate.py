"""The price of a node that cannot run on fake tensors: read its inputs and parameters, write its output.

Matrices are taken to be used once for every row of the input (every token, every sample), as in linear
layers, each to keep what it multiplies, and each but the first to hand a gradient back. Tables of embeddings
multiply nothing: a row of them is read for every row of the input.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import torch

from autopipe.cost.counting import Count, Made
from autopipe.cost.operation import Operation, dtype_name, tensor_bytes


def estimate(
    inputs: Sequence[torch.Tensor],
    weights: Sequence[torch.Tensor],
    outputs: Sequence[torch.Tensor],
    tables: Sequence[torch.Tensor] = (),
) -> Count:
    """Estimate what a call does from the tensors around it.

    Args:
        inputs: The tensors among its arguments.
        weights: The parameters that it reads, without those in ``tables``.
        outputs: The tensors that it makes, as far as they are known.
        tables: The weights of embeddings.

    Returns:
        One operation forward: ``2 x rows x elements of matrices`` FLOPs. One as large for the gradient of
        what is multiplied, one for that of the parameters. The floating inputs, the outputs, and for every
        matrix but the first what it multiplies are taken to be kept.

    Example:
        >>> x, w = torch.empty(5, 2, device="meta"), torch.empty(3, 2, device="meta")
        >>> (work,) = estimate([x], [w], [torch.empty(5, 3, device="meta")]).forward
        >>> work.flops, work.nbytes
        (60, 124)
    """
    floating = [tensor for tensor in inputs if tensor.is_floating_point()]
    rows = max((prod(tensor.shape[:-1]) for tensor in floating), default=0)
    rows = rows or max((tensor.numel() for tensor in inputs), default=1)
    matrices = [weight for weight in weights if weight.ndim > 1]
    flops = sum(2 * rows * matrix.numel() for matrix in matrices)
    looked_up = [tensor.new_empty((rows, *tensor.shape[1:]), device="meta") for tensor in tables]
    nbytes = sum(map(tensor_bytes, (*inputs, *weights, *outputs, *looked_up)))
    multiplied = [matrix.element_size() * rows * max(matrix.shape[1:]) for matrix in matrices]
    kept_inside = multiplied if tables else multiplied[1:]  # the first one multiplies the input
    dtype = dtype_name((floating or [*weights, torch.empty(0)])[0].dtype)
    work = (Operation("estimate", flops, nbytes, dtype),)
    made = tuple(
        Made(tuple(t.shape), t.stride(), t.dtype, t.requires_grad, ("output", j), tensor_bytes(t))
        for j, t in enumerate(outputs)
    )
    differentiable = any(tensor.requires_grad for tensor in outputs)
    trained = any(weight.requires_grad for weight in (*weights, *tables))
    hands_back = any(tensor.requires_grad for tensor in inputs) or (trained and len(matrices) > 1)
    saved = [("input", i) for i, tensor in enumerate(inputs) if tensor.is_floating_point()]
    saved += [("output", j) for j in range(len(outputs))]
    return Count(
        forward=work,
        bwd_input=work if differentiable and hands_back else (),
        bwd_weight=work if differentiable and trained else (),
        made=made,
        saved=tuple(saved) if differentiable else (),
        saved_inside_bytes=sum(kept_inside) if differentiable else 0,
    )
