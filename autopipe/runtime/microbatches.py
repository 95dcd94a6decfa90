"""One call of the engine as microbatches: which tensors are cut where, and the stages that run each."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from autopipe.errors import ArgumentError
from autopipe.ir.stages import StagedModel
from autopipe.ir.structure import Structure
from autopipe.rewrite.batch import batch_size, guessed_dims, samples_of, split
from autopipe.runtime.argument_names import argument_names

StagedFor = Callable[..., tuple[StagedModel, dict[str, Any]]]
BatchDims = Mapping[str, int | None]


@dataclass(frozen=True, slots=True)
class Microbatches:
    """The microbatches of one call.

    Args:
        tensors: The tensors among the arguments, as the user gave them.
        dims: The dimension along which each was cut, or None.
        parts: ``[n_microbatches][n_tensors]``; leaves of their own where the user's tensor requires a
            gradient.
        staged: ``[n_microbatches]`` the stages that are right for each.
        samples: ``[n_microbatches]`` samples in each.
        sizes: Samples of a microbatch -> the value of each symbolic size.
    """

    tensors: tuple[torch.Tensor, ...]
    dims: tuple[int | None, ...]
    parts: tuple[tuple[torch.Tensor, ...], ...]
    staged: tuple[StagedModel, ...]
    samples: tuple[int, ...]
    sizes: Mapping[int, Mapping[str, int]]

    def __len__(self) -> int:
        """How many microbatches."""
        return len(self.parts)

    def values(self, microbatch: int) -> dict[str, Any]:
        """Return the model inputs and symbolic sizes of a microbatch by name."""
        traced, parts = self.staged[microbatch].traced, self.parts[microbatch]
        named: dict[str, Any] = dict(self.sizes[self.samples[microbatch]])
        return named | {leaf.name: part for leaf, part in zip(traced.inputs, parts, strict=True)}

    def pass_gradients_back(self) -> None:
        """Run the user's own graph backwards from the inputs that require a gradient."""
        for index, tensor in enumerate(self.tensors):
            gradients = [parts[index].grad for parts in self.parts]
            if not tensor.requires_grad or all(gradient is None for gradient in gradients):
                continue
            dim = self.dims[index]
            if dim is None:
                torch.autograd.backward(tensor, self.parts[0][index].grad)
                continue
            filled = [
                torch.zeros_like(parts[index]) if gradient is None else gradient
                for parts, gradient in zip(self.parts, gradients, strict=True)
            ]
            torch.autograd.backward(tensor, torch.cat(filled, dim) if len(filled) > 1 else filled[0])


@dataclass(frozen=True, slots=True)
class Cutter:
    """Cuts calls into microbatches.

    Args:
        model: The user's model, which names the arguments.
        staged_for: Gives the stages that are right for the arguments of a microbatch, and the values of their
            inputs and symbolic sizes by name.
        n_microbatches: At most so many.
        batch_dims: Name of an argument -> the dimension that carries the batch in its tensors, or None. One
            that is named here may be packed: with several entries a sample, the same for each.
    """

    model: nn.Module
    staged_for: StagedFor
    n_microbatches: int
    batch_dims: BatchDims

    def cut(self, args: tuple[Any, ...], kwargs: dict[str, Any], known: StagedModel) -> Microbatches:
        """Cut the arguments of a call.

        An argument that ``known`` has is cut as it is there; a new one if it is as long as the first tensor.

        Args:
            args: Positional arguments of the whole batch.
            kwargs: Keyword arguments.
            known: The split for the example, which tells the batch dimensions of its arguments.

        Returns:
            At most ``n_microbatches`` microbatches, sizes that differ by at most one.

        Raises:
            ArgumentError: If tensors disagree about the number of samples, or ``batch_dims`` names no
                argument.
        """
        structure, tensors = Structure.of((args, kwargs))
        names = argument_names(self.model, structure)
        if strange := sorted(self.batch_dims.keys() - {*names, "target"}):
            raise ArgumentError(
                f"batch_dims names {strange[0]!r}, but no tensor among the arguments is called so.",
                remedy=f"one of {', '.join(dict.fromkeys(names))}",
            )
        captured = dict(zip(known.traced.in_structure.paths, _dims_of(known), strict=True))
        dims = [
            self.batch_dims.get(name, captured.get(path, guess))
            for name, path, guess in zip(names, structure.paths, guessed_dims(tensors), strict=True)
        ]
        return self._cut(structure, tensors, dims, names)

    def _cut(
        self,
        structure: Structure,
        tensors: Sequence[torch.Tensor],
        dims: Sequence[int | None],
        names: Sequence[str],
    ) -> Microbatches:
        n_samples = batch_size(tensors, dims, names, self.batch_dims)
        n = 1 if n_samples is None else min(self.n_microbatches, n_samples)
        parts = [tuple(map(_leaf, tensors, row)) for row in split(tensors, dims, n, n_samples)]
        samples = [1] if n_samples is None else samples_of(n_samples, n)
        own = tuple(_unless_packed(*each, n_samples) for each in zip(tensors, dims, strict=True))
        found: dict[int, tuple[StagedModel, dict[str, Any]]] = {}
        for row, size in zip(parts, samples, strict=True):
            if size not in found:
                moved = any(dim is not None for dim in self.batch_dims.values())
                overrides = {"batch_dims": own} if moved else {}
                found[size] = self.staged_for(*structure.fill(row), **overrides)
        return Microbatches(
            tensors=tuple(tensors),
            dims=tuple(dims),
            parts=_shared(tuple(parts), dims),
            staged=tuple(found[size][0] for size in samples),
            samples=tuple(samples),
            sizes={size: _sizes_among(*both) for size, both in found.items()},
        )

    def cut_target(self, target: Any, n_samples: int, n_microbatches: int) -> list[Any] | None:
        """Cut the target like the inputs: a tensor with as many entries as samples is cut along them.

        Args:
            target: Any value with tensors inside; None: there is none.
            n_samples: Of the batch.
            n_microbatches: How many microbatches.

        Returns:
            ``[n_microbatches]`` targets, or None.

        Raises:
            ArgumentError: If no tensor in the target has as many entries as there are samples.
        """
        if target is None:
            return None
        structure, tensors = Structure.of(target)
        dim = self.batch_dims.get("target", 0)
        dims = [
            dim if dim is not None and t.dim() > dim and t.shape[dim] == n_samples else None for t in tensors
        ]
        uncut = next((t for t in tensors if t.dim()), None)
        if (
            dim is not None
            and n_microbatches > 1
            and uncut is not None
            and not any(d is not None for d in dims)
        ):
            raise ArgumentError(
                f"the target has the shape {tuple(uncut.shape)}, but the arguments have {n_samples} samples.",
                why="Each microbatch gets its part of the target, along the batch.",
                remedy='give one target a sample, or batch_dims={"target": None} to give each the whole.',
            )
        return [structure.fill(row) for row in split(tensors, dims, n_microbatches)]


def _dims_of(staged: StagedModel) -> list[int | None]:
    return [leaf.batch_dim for leaf in staged.traced.inputs]


def _unless_packed(tensor: torch.Tensor, dim: int | None, n_samples: int | None) -> int | None:
    """Return the dimension that has one entry a sample; that of a packed tensor is a size of its own."""
    return dim if dim is not None and tensor.shape[dim] == n_samples else None


def _sizes_among(staged: StagedModel, values: Mapping[str, Any]) -> dict[str, int]:
    inputs = {leaf.name for leaf in staged.traced.inputs}
    return {name: value for name, value in values.items() if name not in inputs}


def _leaf(tensor: torch.Tensor, part: torch.Tensor) -> torch.Tensor:
    """Return a part as a leaf, so that its gradient waits until the whole batch has one."""
    return part.detach().requires_grad_() if tensor.requires_grad and torch.is_grad_enabled() else part


def _shared(
    parts: tuple[tuple[torch.Tensor, ...], ...], dims: Sequence[int | None]
) -> tuple[tuple[torch.Tensor, ...], ...]:
    """Use one leaf in all microbatches for a tensor that goes to each as it is: it sums the gradients."""
    return tuple(
        tuple(
            part if dim is not None else first for part, first, dim in zip(row, parts[0], dims, strict=True)
        )
        for row in parts
    )
