"""Cuts a batch into microbatches, and puts the outputs of microbatches together again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from autopipe.errors import ArgumentError
from autopipe.ir.tensor import TensorSpec, evaluate_size
from autopipe.ir.traced import TracedModel


def guessed_dims(tensors: Sequence[torch.Tensor]) -> list[int | None]:
    """Return 0 for each tensor with as many entries as the first tensor, None for the rest."""
    sizes = [tensor.shape[0] if tensor.dim() else None for tensor in tensors]
    first = next((size for size in sizes if size is not None), None)
    return [0 if size is not None and size == first else None for size in sizes]


def batch_size(
    tensors: Sequence[torch.Tensor], dims: Sequence[int | None], names: Sequence[str]
) -> int | None:
    """Return how many samples a batch has.

    Args:
        tensors: The tensors among the arguments.
        dims: The dimension of each that carries the batch, or None.
        names: How the user calls each.

    Returns:
        The number of samples, or None if no tensor carries the batch.

    Raises:
        ArgumentError: If tensors disagree, lack the dimension, or have no samples.
    """
    found: dict[str, int] = {}
    for tensor, dim, name in zip(tensors, dims, names, strict=True):
        if dim is None:
            continue
        if not -tensor.dim() <= dim < tensor.dim():
            raise ArgumentError(
                f"{name} has {tensor.dim()} dimensions, so none of them is its batch dimension {dim}.",
                remedy=f'batch_dims={{"{name}": None}}',
            )
        found.setdefault(name, tensor.shape[dim])
    if len(set(found.values())) > 1:
        sizes = ", ".join(f"{name} has {size}" for name, size in found.items())
        raise ArgumentError(
            f"the arguments disagree about the number of samples: {sizes}.",
            remedy="give the same number in each, or name those that carry no batch: "
            f'batch_dims={{"{list(found)[-1]}": None}}',
        )
    if 0 in found.values():
        raise ArgumentError("the batch has no samples.", where=", ".join(found))
    return next(iter(found.values()), None)


def split(
    tensors: Sequence[torch.Tensor], dims: Sequence[int | None], n_microbatches: int
) -> list[list[torch.Tensor]]:
    """Cut tensors into microbatches whose sizes differ by at most one, the larger ones first.

    Args:
        tensors: The tensors to cut.
        dims: The dimension along which each is cut; None: it goes to every microbatch as it is.
        n_microbatches: How many; not more than there are samples.

    Returns:
        ``[n_microbatches][n_tensors]``; the parts are views.

    Example:
        >>> parts = split([torch.arange(5), torch.ones(2)], [0, None], 2)
        >>> parts[1]
        [tensor([3, 4]), tensor([1., 1.])]
    """
    parts = [
        [tensor] * n_microbatches if dim is None else list(torch.tensor_split(tensor, n_microbatches, dim))
        for tensor, dim in zip(tensors, dims, strict=True)
    ]
    return [list(microbatch) for microbatch in zip(*parts, strict=True)] or [
        [] for _ in range(n_microbatches)
    ]


def merge(traced: TracedModel, leaves: Sequence[Sequence[Any]], weights: Sequence[float]) -> list[Any]:
    """Put the output leaves of the microbatches together.

    Args:
        traced: The capture of the first microbatch.
        leaves: ``[n_microbatches][n_leaves]`` the output leaves.
        weights: ``[n_microbatches]`` of the losses.

    Returns:
        One entry a leaf: tensors that carry the batch are joined along it, floating scalars are summed with
        the weights, and of anything else the last microbatch's counts.
    """
    if len(leaves) == 1:
        return list(leaves[0])
    specs = [None if name is None else traced.info[name].spec for name in traced.out_names]
    return [
        _merge_leaf(list(column), _batch_dim_of(traced, spec), weights)
        for column, spec in zip(zip(*leaves, strict=True), specs, strict=True)
    ]


def _merge_leaf(column: list[Any], dim: int | None, weights: Sequence[float]) -> Any:
    if not isinstance(column[0], torch.Tensor):
        return column[-1]
    if dim is not None:
        return torch.cat(column, dim)
    if column[0].dim() == 0 and column[0].is_floating_point():
        return weighted_sum(column, weights)
    return column[-1]


def weighted_sum(values: Sequence[torch.Tensor], weights: Sequence[float]) -> torch.Tensor:
    """Return the sum of the values times their weights, added in their order."""
    total = _weighted(values[0], weights[0])
    for value, weight in zip(values[1:], weights[1:], strict=True):
        total = total + _weighted(value, weight)
    return total


def _weighted(value: torch.Tensor, weight: float) -> torch.Tensor:
    return value if weight == 1.0 else value * weight


def _batch_dim_of(traced: TracedModel, spec: TensorSpec | None) -> int | None:
    """Return the dimension that grows with the batch."""
    if spec is None:
        return None
    batches = [leaf.spec.shape[leaf.batch_dim] for leaf in traced.inputs if leaf.batch_dim is not None]
    if not batches:
        return None
    batch = batches[0]
    if isinstance(batch, int):  # the capture had to fix it, so that only equality tells
        return 0 if spec.shape and spec.shape[0] == batch else None
    more = {**traced.sizes, batch: traced.sizes[batch] + 1}
    for dim, size in enumerate(spec.shape):
        if evaluate_size(size, traced.sizes) != evaluate_size(size, more):
            return dim
    return None
