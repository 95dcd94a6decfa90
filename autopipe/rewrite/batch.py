"""Cuts a batch into microbatches, and puts the outputs of microbatches together again."""

from __future__ import annotations

from collections.abc import Collection, Sequence
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
    tensors: Sequence[torch.Tensor],
    dims: Sequence[int | None],
    names: Sequence[str],
    packed: Collection[str] = (),
) -> int | None:
    """Return how many samples a batch has.

    Args:
        tensors: The tensors among the arguments.
        dims: The dimension of each that carries the batch, or None.
        names: How the user calls each.
        packed: The names of those that may have several entries a sample, such as the patches of an image.

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
    fewest = min(found.values(), default=0)
    if any(size % fewest or (size > fewest and name not in packed) for name, size in found.items() if fewest):
        sizes = ", ".join(f"{name} has {size}" for name, size in found.items())
        raise ArgumentError(
            f"the arguments disagree about the number of samples: {sizes}.",
            remedy="give the same number in each, or name those that carry no batch: "
            f'batch_dims={{"{list(found)[-1]}": None}}',
        )
    if 0 in found.values():
        raise ArgumentError("the batch has no samples.", where=", ".join(found))
    return fewest if found else None


def split(
    tensors: Sequence[torch.Tensor],
    dims: Sequence[int | None],
    n_microbatches: int,
    n_samples: int | None = None,
) -> list[list[torch.Tensor]]:
    """Cut tensors into microbatches whose sizes differ by at most one, the larger ones first.

    Args:
        tensors: The tensors to cut.
        dims: The dimension along which each is cut; None: it goes to every microbatch as it is.
        n_microbatches: How many; not more than there are samples.
        n_samples: Of the batch; None: each tensor has one entry a sample.

    Returns:
        ``[n_microbatches][n_tensors]``; the parts are views.

    Example:
        >>> parts = split([torch.arange(3), torch.ones(2), torch.arange(6)], [0, None, 0], 2, 3)
        >>> parts[1]
        [tensor([2]), tensor([1., 1.]), tensor([4, 5])]
    """
    parts = [
        [tensor] * n_microbatches if dim is None else _cut(tensor, dim, n_microbatches, n_samples)
        for tensor, dim in zip(tensors, dims, strict=True)
    ]
    return [list(microbatch) for microbatch in zip(*parts, strict=True)] or [
        [] for _ in range(n_microbatches)
    ]


def _cut(tensor: torch.Tensor, dim: int, n_microbatches: int, n_samples: int | None) -> list[torch.Tensor]:
    """Return the parts of a tensor, each with as many entries for every sample as the whole."""
    n_entries = tensor.shape[dim]
    n_samples = n_entries if n_samples is None else n_samples
    sizes = [size * (n_entries // n_samples) for size in samples_of(n_samples, n_microbatches)]
    return list(torch.split(tensor, sizes, dim))


def samples_of(n_samples: int, n_microbatches: int) -> list[int]:
    """Return how many samples each microbatch has, the larger ones first.

    Example:
        >>> samples_of(8, 3)
        [3, 3, 2]
    """
    return [(n_samples + n_microbatches - 1 - index) // n_microbatches for index in range(n_microbatches)]


def merge(traced: TracedModel, leaves: Sequence[Sequence[Any]], weights: Sequence[float]) -> list[Any]:
    """Put the output leaves of the microbatches together.

    Args:
        traced: The capture of the first microbatch.
        leaves: ``[n_microbatches][n_leaves]`` the output leaves.
        weights: ``[n_microbatches]`` of the losses.

    Returns:
        One entry a leaf: tensors that carry the batch are joined along it, floating scalars are summed with
        the weights, and of anything else the last microbatch's counts.

    Raises:
        ArgumentError: If there are several of an output whose sizes the values decide.
    """
    if len(leaves) == 1:
        return list(leaves[0])
    _refuse_loose(traced)
    specs = [None if name is None else traced.info[name].spec for name in traced.out_names]
    return [
        _merge_leaf(list(column), _batch_dim_of(traced, spec), weights)
        for column, spec in zip(zip(*leaves, strict=True), specs, strict=True)
    ]


def _refuse_loose(traced: TracedModel) -> None:
    """Check that it is known which dimension of each output carries the batch."""
    for path, name in zip(traced.out_structure.paths, traced.out_names, strict=True):
        if name in traced.loose:
            raise ArgumentError(
                f"the sizes of output{path} depend on the values that the model is given, so that nobody "
                "knows how to join those of several microbatches.",
                where=traced.info[name].source,
                remedy="n_microbatches=1, leave it out of what the model returns, or pad it to a fixed size.",
            )


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
