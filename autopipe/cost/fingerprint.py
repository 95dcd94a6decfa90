"""When two calls cost the same: equal code, attributes and shapes. So blocks that repeat are priced once."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

from autopipe.cost.phantom import LEFT_OUT
from autopipe.ir.traced import Region

_NUMBERS_AND_NAMES = (type(None), bool, int, float, complex, str, bytes, type(Ellipsis))
_PLAIN = (*_NUMBERS_AND_NAMES, torch.dtype, torch.device, torch.memory_format, torch.layout)


class Fingerprints:
    """Makes hashable keys, and keeps the objects behind them alive, so that no identity is used twice.

    Example:
        >>> keys = Fingerprints()
        >>> keys.module(nn.Linear(2, 3)) == keys.module(nn.Linear(2, 3)) != keys.module(nn.Linear(2, 4))
        True
        >>> keys.module(nn.Dropout(0.1)) == keys.module(nn.Dropout(0.2))
        False
    """

    def __init__(self) -> None:
        """Start with no module known."""
        self._modules: dict[int, Hashable] = {}
        self._alive: list[Any] = []

    def call(self, target: Callable[..., Any], args: Any, region: Region) -> tuple[Hashable, list[Any]]:
        """Return the key of a call and the leaves of its arguments.

        Args:
            target: The function, or the module.
            args: ``(args, kwargs)`` with tensors.
            region: The modes of the call.

        Returns:
            The key, equal for calls that cost the same; and the leaves that pytree finds, tensors among them.

        Complexity: linear in the number of arguments; a module is looked at once.
        """
        leaves, tree = pytree.tree_flatten(args)
        first: dict[int, int] = {}
        repeats = tuple(first.setdefault(id(leaf), i) for i, leaf in enumerate(leaves) if _is_tensor(leaf))
        head = self.module(target) if isinstance(target, nn.Module) else id(target)
        return (head, region, tree, tuple(map(self._value, leaves)), repeats), leaves

    def module(self, module: nn.Module) -> Hashable:
        """Return the key of a module: class, attributes, shapes of its tensors, and those of its children."""
        if id(module) not in self._modules:
            self._alive.append(module)
            self._modules[id(module)] = ("inside itself",)
            names = [name for name in vars(module) if name not in LEFT_OUT]
            inside = tuple((name, self._value(vars(module)[name])) for name in names)
            self._modules[id(module)] = (type(module), inside)
        return self._modules[id(module)]

    def _value(self, value: Any) -> Hashable:
        if isinstance(value, _PLAIN):
            return type(value), value
        if isinstance(value, torch.Tensor):
            strides = value.stride() if value.layout is torch.strided else value.layout
            return type(value), tuple(value.shape), strides, value.dtype, value.requires_grad
        if isinstance(value, nn.Module):
            return self.module(value)
        parts = _parts(value)
        if parts is None:
            self._alive.append(value)
            return "object", id(value)
        return type(value), tuple(map(self._value, parts))


def _parts(value: Any) -> Sequence[Any] | None:
    """Return what a container holds, in an order that equals share; None for what is no container."""
    if type(value) in (list, tuple, torch.Size):
        parts: Sequence[Any] = value
        return parts
    if type(value) in (set, frozenset):
        return sorted(value, key=repr)
    if type(value) is dict:
        return [part for item in value.items() for part in item]
    if isinstance(value, slice):
        return value.start, value.stop, value.step
    return () if isinstance(value, weakref.ReferenceType) else None


def _is_tensor(leaf: Any) -> bool:
    return isinstance(leaf, torch.Tensor)


def is_plain(leaves: Sequence[Any]) -> bool:
    """Whether no leaf is an object that might hold tensors."""
    return all(isinstance(leaf, (*_PLAIN, torch.Tensor, slice)) for leaf in leaves)
