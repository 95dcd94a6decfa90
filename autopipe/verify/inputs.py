"""What a verification runs on: the example, and other numbers of the same shapes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor

from autopipe.errors import ArgumentError
from autopipe.ir.structure import Structure

Call = tuple[tuple[Any, ...], dict[str, Any]]


def _has_no_values(tensor: torch.Tensor) -> bool:
    return tensor.is_meta or isinstance(tensor, FakeTensor)


def refuse_without_numbers(model: nn.Module, example: Call) -> None:
    """Raise where there is nothing to compute with.

    Raises:
        ArgumentError: If the model or the example has shapes only, or if the model lies on several devices.
    """
    tensors = [*model.named_parameters(), *model.named_buffers()]
    shapeless = next((item for item in tensors if _has_no_values(item[1])), None)
    if shapeless is not None:
        kind = "on the meta device" if shapeless[1].is_meta else "of fake tensors"
        raise ArgumentError(
            f"a model {kind} cannot be verified.",
            where=f"{shapeless[0]} has no values.",
            remedy='model.to_empty(device="cpu"), load its weights, then pipe.verify()',
        )
    given = Structure.of(example)[1]
    if any(map(_has_no_values, given)):
        raise ArgumentError(
            "the pipeline was made with an example of shapes only, so there is nothing to verify it on.",
            remedy="autopipe.split(model, n_stages, example, plan=pipe.plan, verify=True) with real tensors",
        )
    devices = {tensor.device for _, tensor in tensors}
    if len(devices) > 1:
        raise ArgumentError(
            f"the stages lie on {', '.join(sorted(map(str, devices)))}, where the model itself cannot run.",
            remedy="pipe.verify() before pipe.engine(devices=...)",
        )


def joined(calls: Sequence[Call], dims: Sequence[int | None]) -> Call:
    """Join calls to one batch.

    Args:
        calls: Each of one microbatch, alike but for the numbers.
        dims: The batch dimension of each tensor among the arguments; None: the first call's counts.

    Returns:
        One call, of all samples.

    Example:
        >>> x = torch.tensor([1, 2])
        >>> joined([((x, x), {}), ((x + 5, x), {})], [0, None])
        ((tensor([1, 2, 6, 7]), tensor([1, 2])), {})
    """
    structure, _ = Structure.of(calls[0])
    columns = zip(*(Structure.of(call)[1] for call in calls), strict=True)
    batch: Call = structure.fill([_joined(column, dim) for column, dim in zip(columns, dims, strict=True)])
    return batch


def cut(batch: Call, dims: Sequence[int | None], n: int) -> list[Call]:
    """Cut a batch into calls of sizes that differ by at most one.

    Args:
        batch: One call, of all samples.
        dims: As of ``joined``.
        n: How many calls.

    Example:
        >>> [x.tolist() for (x,), _ in cut(((torch.tensor([1, 2, 3]),), {}), [0], 2)]
        [[1, 2], [3]]
    """
    structure, tensors = Structure.of(batch)
    columns = [
        [tensor] * n if dim is None else tensor.tensor_split(n, dim)
        for tensor, dim in zip(tensors, dims, strict=True)
    ]
    return [structure.fill(row) for row in zip(*columns, strict=True)]


def without_last(batch: Call, dims: Sequence[int | None]) -> Call:
    """Return a batch without its last sample.

    Args:
        batch: One call, of all samples.
        dims: As of ``joined``.
    """
    dim_of = iter(dims)

    def fewer(tensor: torch.Tensor) -> torch.Tensor:
        dim = next(dim_of)
        return tensor.detach() if dim is None else tensor.detach().narrow(dim, 0, tensor.shape[dim] - 1)

    return _mapped(batch, fewer)


def _joined(tensors: Sequence[torch.Tensor], dim: int | None) -> torch.Tensor:
    parts = [tensor.detach() for tensor in tensors]
    whole = parts[0] if dim is None else torch.cat(parts, dim)
    return whole.requires_grad_(tensors[0].requires_grad)


def copied(call: Call) -> Call:
    """Return the same arguments in memory of their own: a model may write into them."""
    return _mapped(call, lambda tensor: tensor.detach().clone())


def perturbed(call: Call, *, integers: bool) -> Call:
    """Return other numbers for which a model runs, wherever it runs for the first ones.

    Floating numbers shrink by up to a tenth, so that zeros, signs and ranges stay; integers are put in the
    opposite order, so that no new ones appear (a vocabulary has an end).

    Args:
        call: The arguments.
        integers: Whether the integers are changed too: those of offsets must ascend.

    Example:
        >>> (x,), _ = perturbed(((torch.tensor([1, 2, 3]),), {}), integers=True)
        >>> x
        tensor([3, 2, 1])
    """
    generator = torch.Generator().manual_seed(0)

    def other(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.is_floating_point() or tensor.is_complex():
            shrink = 1 - 0.1 * torch.rand(tensor.shape, generator=generator)
            return tensor.detach() * shrink.to(tensor.device, tensor.dtype)
        if integers and tensor.dtype != torch.bool and tensor.dim():
            return tensor.flip(-1)
        return tensor.detach().clone()

    return _mapped(call, other)


def _mapped(call: Call, function: Callable[[torch.Tensor], torch.Tensor]) -> Call:
    structure, tensors = Structure.of(call)
    filled: Call = structure.fill(
        [function(tensor).requires_grad_(tensor.requires_grad) for tensor in tensors]
    )
    return filled
