"""What a captured graph is right for, and what a call must have in common with it.

A graph is the model's Python run once, so every flag that the Python read is frozen into it. All such flags
stand in the signature: the shape of the arguments, the values of those that are no tensors, modes, and the
plain attributes of the modules. A call with another signature is captured again; it is never run on the
wrong graph.
"""

from __future__ import annotations

import enum
import types
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from autopipe.ir.structure import Structure
from autopipe.ir.traced import Region
from autopipe.trace.leaves import HAS_HOOKS, has_forward_hooks, why_leaf
from autopipe.trace.module_state import HARMLESS
from autopipe.trace.program import current_region, dtype_name
from autopipe.trace.volatile import volatile_attributes

_PLAIN = (bool, int, float, str, type(None))
_BY_TEXT = (torch.device, torch.dtype, enum.Enum)
_DEPTH = 4
_SKIPPED = HARMLESS | {"training", "_parameters", "_buffers", "_modules", "_non_persistent_buffers_set"}
_SKIPPED |= {name for name in vars(nn.Module()) if "hook" in name}


@dataclass(frozen=True, slots=True)
class Signature:
    """What a graph is valid for, sizes aside.

    Args:
        structure: The arguments without their tensors, values of plain arguments included.
        tensors: (dtype, rank, requires_grad) of each tensor among the arguments.
        region: Grad mode, inference mode and autocast around the call.
        state: Training flags and other attributes of the modules that Python may branch on, and which
            containers have hooks.
    """

    structure: Structure
    tensors: tuple[tuple[str, int, bool], ...]
    region: Region
    state: tuple[tuple[str, Any], ...]

    def differences(self, other: Signature) -> list[str]:
        """Say in words what differs between two signatures.

        Args:
            other: The signature to compare with.

        Returns:
            One sentence a difference; empty if they are equal.
        """
        found = []
        if self.structure != other.structure:
            found.append(
                f"the arguments are {other.structure.paths}, not {self.structure.paths}, or a value differs"
            )
        if self.tensors != other.tensors:
            found.append(f"the tensors are {other.tensors}, not {self.tensors}")
        if self.region != other.region:
            found.append(f"the modes are {other.region}, not {self.region}")
        mine, theirs = dict(self.state), dict(other.state)
        changed = [name for name in mine.keys() | theirs.keys() if mine.get(name) != theirs.get(name)]
        return found + [
            f"{name} is {theirs.get(name)!r}, not {mine.get(name)!r}" for name in sorted(changed)[:5]
        ]


def signature_of(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Signature:
    """Return the signature of a call.

    Args:
        model: The user's model.
        args: Positional arguments.
        kwargs: Keyword arguments.

    Returns:
        The signature; equal signatures may run the same graph if the sizes allow it.

    Complexity:
        Linear in the number of modules and their plain attributes.
    """
    structure, holes = Structure.of((args, kwargs))
    tensors = tuple((dtype_name(hole.dtype), hole.dim(), hole.requires_grad) for hole in holes)
    device = next((hole.device.type for hole in holes), "cpu")
    return Signature(structure, tensors, current_region(device), tuple(_state(model)))


def _state(model: nn.Module) -> Iterator[tuple[str, Any]]:
    seen: set[int] = set()
    yield "requires_grad", tuple(parameter.requires_grad for parameter in model.parameters())
    for fqn, module in model.named_modules():
        yield f"{fqn} is object", _TheVery(module)
        yield f"{fqn}.training", module.training
        reason = why_leaf(module)
        if reason in (None, HAS_HOOKS):
            yield f"{fqn} has hooks", reason == HAS_HOOKS
        elif has_forward_hooks(module):
            yield f"{fqn} has forward hooks", True
        volatile = volatile_attributes(module)
        for name, value in vars(module).items():
            if name not in _SKIPPED and name not in volatile:
                yield from _flags(f"{fqn}.{name}", value, seen, _DEPTH)


def _flags(name: str, value: Any, seen: set[int], depth: int) -> Iterator[tuple[str, Any]]:
    """Yield what Python may branch on inside a value, down to a few levels."""
    if isinstance(value, _PLAIN):
        yield name, f"{type(value).__name__} {value!r}"  # 1 == 1.0 == True, and Python can tell them apart
    elif isinstance(value, torch.Tensor):
        yield name, _TheVery(value)
    elif isinstance(value, type | types.FunctionType | types.BuiltinFunctionType | types.MethodType):
        yield name, f"{value.__module__}.{value.__qualname__}"
    elif isinstance(value, _BY_TEXT):
        yield name, str(value)
    elif depth and not isinstance(value, nn.Module) and id(value) not in seen:
        seen.add(id(value))
        for key, inner in _items(value):
            yield from _flags(f"{name}.{key}", inner, seen, depth - 1)


def _items(value: Any) -> list[tuple[Any, Any]]:
    if isinstance(value, dict):
        return list(value.items())
    if isinstance(value, list | tuple):
        return [("len", len(value)), *enumerate(value)]
    if isinstance(value, set | frozenset):
        return [("", str(sorted(map(str, value))))]
    return list(vars(value).items()) if hasattr(value, "__dict__") else []


class _TheVery:
    """Equal for the same object only; prints alike in every process, as ranks compare what is printed."""

    def __init__(self, it: torch.Tensor | nn.Module) -> None:
        self._it = it

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _TheVery) and self._it is other._it

    def __hash__(self) -> int:
        return id(self._it)

    def __repr__(self) -> str:
        if isinstance(self._it, torch.Tensor):
            return f"a tensor of shape {list(self._it.shape)}"
        return f"a {type(self._it).__name__}"


def example_device(model: nn.Module, holes: list[torch.Tensor]) -> torch.device:
    """Return the device that a model is captured on: of its first parameter or argument; CPU for meta."""
    found = next(
        (tensor.device for tensor in [*model.parameters(), *model.buffers(), *holes]), torch.device("cpu")
    )
    return torch.device("cpu") if found.type == "meta" else found
