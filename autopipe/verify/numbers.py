"""The numbers of one run, and how far two runs are apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from autopipe.ir.structure import Structure

TOLERANCES = {torch.float64: 1e-10, torch.complex128: 1e-10, torch.float16: 2e-2, torch.bfloat16: 5e-2}
DEFAULT_TOLERANCE = 1e-5
"""Of the largest entry. float32 rounds to 6e-8, and sums of other order add some of these."""


@dataclass(frozen=True, slots=True)
class Numbers:
    """What one run left behind.

    Args:
        structure: The output without its tensors.
        values: Kind ("output", "loss", "gradient", "input gradient", "argument", "buffer") -> name -> tensor,
            or None for a parameter that got no gradient; "argument" is what the run changed there.
    """

    structure: Structure
    values: Mapping[str, Mapping[str, torch.Tensor | None]]

    @classmethod
    def of(
        cls,
        model: nn.Module,
        inputs: Sequence[torch.Tensor],
        output: Any,
        loss: torch.Tensor | None,
        left: Sequence[torch.Tensor] = (),
    ) -> Numbers:
        """Take the numbers of a run that has just ended; gradients are taken, not copied.

        Args:
            model: What ran.
            inputs: The tensors among the arguments, as they were before.
            output: What it returned.
            loss: What the gradients are of.
            left: The tensors that the run put into its arguments, or wrote there.

        Returns:
            The numbers.
        """
        structure, leaves = Structure.of(output)
        values: dict[str, dict[str, torch.Tensor | None]] = {
            "output": {
                path or "output": leaf.detach().clone() if isinstance(leaf, torch.Tensor) else None
                for path, leaf in zip(structure.paths, leaves, strict=True)
            },
            "loss": {} if loss is None else {"loss": loss.detach()},
            "gradient": {fqn: p.grad for fqn, p in model.named_parameters() if p.requires_grad},
            "input gradient": {
                f"input {index}": leaf.grad
                for index, leaf in enumerate(inputs)
                if leaf.is_leaf and leaf.requires_grad
            },
            "argument": {f"argument {index}": tensor.detach().clone() for index, tensor in enumerate(left)},
            "buffer": {fqn: buffer.detach().clone() for fqn, buffer in model.named_buffers()},
        }
        return cls(structure, values)

    @property
    def counts(self) -> dict[str, int]:
        """Kind -> how many, of kinds that there are."""
        return {kind: len(named) for kind, named in self.values.items() if named}


def distances(found: Numbers, expected: Numbers) -> dict[str, dict[str, tuple[float, bool]]]:
    """Compare two runs.

    Args:
        found: Of the one.
        expected: Of the other.

    Returns:
        Kind -> name -> (largest difference as a fraction of the largest entry, whether that is too much), of
        values that are not bitwise equal. A missing gradient is infinitely far from a present one.
    """
    result: dict[str, dict[str, tuple[float, bool]]] = {}
    for kind, named in expected.values.items():
        largest = max((_magnitude(value) for value in named.values()), default=0.0)
        for name, value in named.items():
            distance = distance_of(found.values[kind].get(name), value, largest)
            if distance is not None:
                result.setdefault(kind, {})[name] = distance
    if found.structure != expected.structure:
        result.setdefault("output", {})["its structure"] = (float("inf"), True)
    return result


def distance_of(found: Any, expected: Any, largest: float = 0.0) -> tuple[float, bool] | None:
    """Compare two values.

    Args:
        found: The one; a tensor or None.
        expected: The other.
        largest: The largest entry among values of this kind. What all but cancels (the gradient of a bias
            that changes nothing) is rounding of it.

    Returns:
        None if they are bitwise equal; else the largest difference, as a fraction of the largest entry, and
        whether that is more than rounding.
    """
    if not isinstance(found, torch.Tensor) or not isinstance(expected, torch.Tensor):
        return None if found is expected else (float("inf"), True)
    if found.shape != expected.shape or found.dtype != expected.dtype:
        return float("inf"), True
    if _bitwise(found, expected):
        return None
    one, other = _real(found), _real(expected).to(found.device)
    if not torch.equal(one.isfinite(), other.isfinite()):
        return float("inf"), True
    difference = float((one - other).nan_to_num(0.0, 0.0, 0.0).abs().max())
    own = _magnitude(expected)
    error = difference / own if own else float("inf")
    if not (found.is_floating_point() or found.is_complex()):
        return error, True
    tolerance = TOLERANCES.get(found.dtype, DEFAULT_TOLERANCE)
    noise = torch.finfo(found.dtype).eps * largest
    return error, difference > tolerance * own + noise


def _bitwise(one: torch.Tensor, other: torch.Tensor) -> bool:
    if one.layout != torch.strided or one.is_quantized:
        return bool(
            torch.equal(
                one.to_dense() if one.is_sparse else one, other.to_dense() if other.is_sparse else other
            )
        )
    same = one == other.to(one.device)
    if one.is_floating_point() or one.is_complex():
        same = same | (one.isnan() & other.to(one.device).isnan())
    return bool(same.all())


def _real(tensor: torch.Tensor) -> torch.Tensor:
    dense = tensor.dequantize() if tensor.is_quantized else tensor.to_dense() if tensor.is_sparse else tensor
    return torch.view_as_real(dense).double() if dense.is_complex() else dense.double()


def _magnitude(tensor: torch.Tensor | None) -> float:
    if tensor is None or not tensor.numel():
        return 0.0
    return float(_real(tensor).nan_to_num(0.0, 0.0, 0.0).abs().max())
