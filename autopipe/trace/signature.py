"""What a captured graph is right for, and what a call must have in common with it.

A graph is the model's Python run once, so every flag that the Python read is frozen into it. All such flags
stand in the signature: the shape of the arguments, the values of those that are no tensors, modes, and the
plain attributes of the modules. A call with another signature is captured again; it is never run on the
wrong graph.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import nn

from autopipe.ir.structure import Structure
from autopipe.ir.traced import Region
from autopipe.trace.dim_order import dim_order
from autopipe.trace.flags import Flags, TheVery
from autopipe.trace.leaves import HAS_HOOKS, has_forward_hooks, has_hooks_on_all, why_leaf
from autopipe.trace.module_state import HARMLESS
from autopipe.trace.one_look import seen
from autopipe.trace.outer_names import look_outside
from autopipe.trace.program import current_region, dtype_name
from autopipe.trace.volatile import volatile_attributes

_SKIPPED = HARMLESS | {"training", "_parameters", "_buffers", "_modules", "_non_persistent_buffers_set"}
_SKIPPED |= {name for name in vars(nn.Module()) if "hook" in name}


@dataclass(frozen=True, slots=True)
class Signature:
    """What a graph is valid for, sizes aside.

    Args:
        structure: The arguments without their tensors, values of plain arguments included.
        tensors: (dtype, rank, requires_grad) of each tensor among the arguments; in the place of the rank the
            order of the dimensions, where that is not the usual one.
        region: Grad mode, inference mode and autocast around the call.
        state: Training flags and other attributes of the modules that Python may branch on, and which
            containers have hooks.
    """

    structure: Structure
    tensors: tuple[tuple[str, int | tuple[int, ...], bool], ...]
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
    tensors = tuple(
        (dtype_name(hole.dtype), dim_order(hole) or hole.dim(), hole.requires_grad) for hole in holes
    )
    device = next((hole.device.type for hole in holes), "cpu")
    return Signature(structure, tensors, current_region(device), seen(model, _state))


def _state(model: nn.Module) -> tuple[tuple[str, Any], ...]:
    flags, classes = Flags(), set()
    modules = _named_modules(model)
    parameters = [p for _, module in modules for p in module._parameters.values() if p is not None]
    flags.add("requires_grad", tuple([parameter.requires_grad for parameter in parameters]))
    flags.add("every module has hooks", has_hooks_on_all())
    for fqn, module in modules:
        flags.add(f"{fqn} is object", TheVery(module))
        flags.add(f"{fqn}.training", module.training)
        reason = why_leaf(module)
        if reason in (None, HAS_HOOKS):
            flags.add(f"{fqn} has hooks", reason == HAS_HOOKS)
            if type(module) not in classes:
                classes.add(type(module))
                look_outside(flags, type(module))
        elif has_forward_hooks(module):
            flags.add(f"{fqn} has forward hooks", True)
        attributes, volatile = vars(module), volatile_attributes(module)
        for name in _signed(tuple(attributes)):
            if name not in volatile:
                flags.look(f"{fqn}.{name}", attributes[name], with_tensors=reason is None)
    return tuple(flags.found)


def _named_modules(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """Return what ``named_modules`` yields, in a third of its time: every step asks."""
    found: dict[int, tuple[str, nn.Module]] = {}

    def visit(fqn: str, module: nn.Module) -> None:
        found[id(module)] = (fqn, module)
        prefix = f"{fqn}." if fqn else ""
        for name, child in module._modules.items():
            if child is not None and id(child) not in found:
                visit(prefix + name, child)

    visit("", model)
    return list(found.values())


@lru_cache(maxsize=1024)
def _signed(names: tuple[str, ...]) -> tuple[str, ...]:
    """Return the attributes of a module that are its own, and none of those that every module has."""
    return tuple(name for name in names if name not in _SKIPPED)


def example_device(model: nn.Module, holes: list[torch.Tensor]) -> torch.device:
    """Return the device that a model is captured on: of its first parameter or argument; CPU for meta."""
    found = next(
        (tensor.device for tensor in [*model.parameters(), *model.buffers(), *holes]), torch.device("cpu")
    )
    return torch.device("cpu") if found.type == "meta" else found
