"""What Python may branch on inside a value: plain values, functions, and which tensor it is."""

from __future__ import annotations

import enum
import functools
import types
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

_DEPTH = 8
"""How deep objects are looked into; transformers nests a config of a config of a rope table."""

_LONG = 1000
"""A container with more items, such as a vocabulary, counts by its length alone."""

_CLASSES: dict[str, tuple[type, ...]] = {
    "plain": (bool, int, float, str, bytes, complex, type(None)),
    "tensor": (torch.Tensor,),
    "function": (type, types.FunctionType, types.BuiltinFunctionType, types.MethodType),
    "text": (torch.device, torch.dtype, torch.memory_format, torch.layout, enum.Enum),
    "module": (nn.Module, types.ModuleType),
}

_kinds: dict[type, str] = {}
_slots_of: dict[type, tuple[str, ...]] = {}


class Flags:
    """Collects flags under their names.

    ``found`` is a list of (name, value); values print alike in every process.
    """

    def __init__(self) -> None:
        """Start with none."""
        self.found: list[tuple[str, Any]] = []
        self._seen: set[int] = set()

    def add(self, name: str, value: Any) -> None:
        """Add one that the caller has found."""
        self.found.append((name, value))

    def look(self, name: str, value: Any, depth: int = _DEPTH, *, with_tensors: bool = True) -> None:
        """Find what Python may branch on inside a value.

        Args:
            name: How a user would write it.
            value: Anything; each object is looked into once.
            depth: How many levels deep.
            with_tensors: Whether it matters which tensor is meant: a leaf reads its own in every run.
        """
        cls = type(value)
        kind = _kinds.get(cls) or _kind_of(cls)
        if kind == "plain":
            self.found.append((name, text_of(value)))
        elif kind == "tensor":
            if with_tensors:
                self.found.append((name, TheVery(value)))
        elif kind == "function":
            self.found.append((name, f"{value.__module__}.{value.__qualname__}"))
        elif kind == "text":
            self.found.append((name, str(value)))
        elif kind == "object" and depth and id(value) not in self._seen:
            self._seen.add(id(value))
            for key, inner in _items(value, cls):
                self.look(f"{name}.{key}", inner, depth - 1, with_tensors=with_tensors)


def text_of(value: Any) -> str:
    """Return type and value: 1 == 1.0 == True, and Python can tell them apart."""
    return f"{type(value).__name__} {value!r}"


def _kind_of(cls: type) -> str:
    _kinds[cls] = next((kind for kind, classes in _CLASSES.items() if issubclass(cls, classes)), "object")
    return _kinds[cls]


def _items(value: Any, cls: type) -> Iterable[tuple[Any, Any]]:
    if issubclass(cls, list | tuple):  # whatever length the class says that it has
        value = list(list.__iter__(value) if issubclass(cls, list) else tuple.__iter__(value))
    if issubclass(cls, dict | list | tuple | set | frozenset) and len(value) > _LONG:
        return [("len", len(value))]
    if issubclass(cls, dict):
        return list(value.items())
    if issubclass(cls, list | tuple):
        return [("len", len(value)), *enumerate(value)]
    if issubclass(cls, set | frozenset):
        return [("", str(sorted(map(str, value))))]
    if issubclass(cls, functools.partial):
        return [("func", value.func), ("args", value.args), ("keywords", value.keywords)]
    slots = ((name, getattr(value, name)) for name in _slots(cls) if hasattr(value, name))
    return [*getattr(value, "__dict__", {}).items(), *slots]


def _slots(cls: type) -> tuple[str, ...]:
    """Return the names of the attributes that have no place in ``__dict__``."""
    if cls not in _slots_of:
        found = []
        for base in cls.__mro__:
            names = vars(base).get("__slots__", ())
            found += [names] if isinstance(names, str) else list(names)
        _slots_of[cls] = tuple(name for name in found if not name.startswith("__"))
    return _slots_of[cls]


class TheVery:
    """Equal for the same object only; prints alike in every process, as ranks compare what is printed."""

    __slots__ = ("_it",)

    def __init__(self, it: torch.Tensor | nn.Module) -> None:
        """Take the object."""
        self._it = it

    def __eq__(self, other: object) -> bool:
        """Whether it is the same object."""
        return isinstance(other, TheVery) and self._it is other._it

    def __hash__(self) -> int:
        """Go by the object."""
        return id(self._it)

    def __repr__(self) -> str:
        """Print the shape of a tensor, the class of a module."""
        if isinstance(self._it, torch.Tensor):
            return f"a tensor of shape {list(self._it.shape)}"
        return f"a {type(self._it).__name__}"
