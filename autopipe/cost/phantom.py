"""Stand-ins for modules: same class, same Python attributes, other tensors, no hooks.

A module is priced by running it, on fake tensors or on real ones. Run on the user's own module, that would
leave traces: hooks would fire, ``self.cache = x`` would stay, a buffer would be bumped. So a phantom runs
instead.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import _disable_current_modes

_HOOKS = tuple(
    name for name, value in vars(nn.Module()).items() if "hook" in name and isinstance(value, dict)
)
LEFT_OUT = (*_HOOKS, "forward")
"""Attributes that a phantom lacks: a forward set on the instance is bound to the user's module."""


class Phantoms:
    """Makes phantoms; the same tensor or module always gets the same stand-in, so tied ones stay tied.

    Args:
        stand_in: Makes the stand-in of a tensor; for an nn.Parameter it is made an nn.Parameter.

    Example:
        >>> linear = nn.Linear(2, 3)
        >>> phantom = Phantoms(torch.zeros_like).module(linear)
        >>> type(phantom) is nn.Linear, phantom.weight is linear.weight, bool(phantom.weight.any())
        (True, False, False)
    """

    def __init__(self, stand_in: Callable[[torch.Tensor], torch.Tensor]) -> None:
        """Start with none."""
        self._stand_in = stand_in
        self._made: dict[int | tuple[int, bool], Any] = {}
        self._alive: list[Any] = []

    def tensor(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return the stand-in of a parameter, a buffer or another tensor.

        One that asks for a gradient since the last time gets another one.
        """
        key = (id(tensor), tensor.requires_grad)
        if key not in self._made:
            made = self._stand_in(tensor)
            if isinstance(tensor, nn.Parameter):
                made = nn.Parameter(made.detach(), requires_grad=tensor.requires_grad)
            self._made[key] = made
            self._alive.append(tensor)
        found: torch.Tensor = self._made[key]
        return found

    def module(self, module: nn.Module) -> nn.Module:
        """Return the stand-in of a module and of all modules inside it."""
        if id(module) in self._made:
            found: nn.Module = self._made[id(module)]
            return found
        if isinstance(module, torch.jit.ScriptModule):  # its tensors are not Python's to swap
            self._alive.append(module)
            with _disable_current_modes():
                self._made[id(module)] = copied = copy.deepcopy(module)
            return copied
        phantom = type(module).__new__(type(module))
        self._made[id(module)] = phantom
        self._alive.append(module)
        inside = {name: self._swap(value) for name, value in vars(module).items() if name not in LEFT_OUT}
        inside |= {name: type(getattr(module, name))() for name in _HOOKS}
        vars(phantom).update(inside)
        return phantom

    def _swap(self, value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            return self.tensor(value)
        if isinstance(value, nn.Module):
            return self.module(value)
        if type(value) in (list, tuple):
            return type(value)(self._swap(item) for item in value)
        if type(value) is dict:
            return {key: self._swap(item) for key, item in value.items()}
        return value


def tensors_of(phantom: nn.Module) -> Iterator[torch.Tensor]:
    """Yield the parameters and buffers of a phantom."""
    yield from phantom.parameters()
    yield from phantom.buffers()
