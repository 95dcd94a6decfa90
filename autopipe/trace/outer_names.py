"""What a module's forward reads by name from outside of the model: globals, attributes of classes.

The names are read off the byte code of ``forward`` and of the methods and functions that it names, once a
class; what they stand for is looked up in every call. A name that the code itself assigns (``global n; n +=
1``) is a counter and no flag, and is left out.
"""

from __future__ import annotations

import dataclasses
import dis
import sys
import types
from collections.abc import Iterator, Mapping
from typing import Any
from weakref import WeakKeyDictionary

from torch import nn

from autopipe.trace.flags import Flags

_LIMIT = 400
"""How many functions are looked through for one class."""

_SMALL = 64
"""A dict with more items is a table or a cache, and no set of flags."""

_PLAIN = (bool, int, float, str, bytes, type(None))
_DEPTH = 2
_NOT_THE_USERS = sys.stdlib_module_names | {"torch", "numpy", "autopipe"}


@dataclasses.dataclass(frozen=True, slots=True)
class _Name:
    """A name and where it is looked up."""

    label: str
    holder: Mapping[str, Any]
    name: str


_of_class: WeakKeyDictionary[type[nn.Module], tuple[_Name, ...]] = WeakKeyDictionary()


def look_outside(flags: Flags, cls: type[nn.Module]) -> None:
    """Add what the forward of a class reads from outside of its modules.

    Args:
        flags: Takes what is found.
        cls: The class of a module that is seen through.

    Complexity: linear in the names that stand for flags, once the class is known.
    """
    if cls not in _of_class:
        _of_class[cls] = tuple(_Search(cls).names())
    code = getattr(cls.forward, "__code__", None)
    flags.add(f"{cls.__qualname__}.forward", code and f"{code.co_filename}:{code.co_firstlineno}")
    for found in _of_class[cls]:
        value = found.holder.get(found.name)
        if _is_flag(value):
            flags.look(found.label, value, _DEPTH)


def _is_flag(value: Any) -> bool:
    if type(value) in _PLAIN or isinstance(value, types.SimpleNamespace):
        return True
    if isinstance(value, dict):
        return len(value) <= _SMALL and all(type(item) in _PLAIN for item in value.values())
    return dataclasses.is_dataclass(value) and not isinstance(value, type)


def _is_the_users(name: str | None) -> bool:
    return (name or "").partition(".")[0] not in _NOT_THE_USERS


class _Search:
    """Goes through the code that a call of a class may run.

    Args:
        cls: The class.
    """

    def __init__(self, cls: type[nn.Module]) -> None:
        self._classes = [base for base in cls.__mro__ if _is_the_users(base.__module__)]
        self._assigned: set[str] = set()
        self._found: dict[tuple[int, str], _Name] = {}
        self._seen: set[types.CodeType] = set()
        self._todo: list[types.FunctionType] = []

    def names(self) -> Iterator[_Name]:
        """Yield the names that stand for flags."""
        for base in self._classes:
            self._will_look_through(vars(base).get("forward"))
        while self._todo and len(self._seen) < _LIMIT:
            self._look_through(self._todo.pop(0))
        for found in self._found.values():
            if found.name not in self._assigned:
                yield found

    def _will_look_through(self, value: Any) -> None:
        value = getattr(value, "fget", value) if isinstance(value, property) else value
        while value is not None:
            function = getattr(value, "__func__", value)
            if isinstance(function, types.FunctionType) and _is_the_users(function.__module__):
                self._todo.append(function)
            value = getattr(function, "__wrapped__", None)

    def _look_through(self, function: types.FunctionType) -> None:
        if function.__code__ in self._seen:
            return
        self._seen.add(function.__code__)
        names = list(self._names_in(function.__code__))
        for name in names:
            self._global(function.__globals__, name, names)
            for base in self._classes:
                if name in vars(base):
                    self._note(base.__qualname__, vars(base), name)

    def _names_in(self, code: types.CodeType) -> Iterator[str]:
        """Yield the names in some code and in what is defined inside, and note those that it assigns."""
        yield from code.co_names
        for step in dis.get_instructions(code):
            if step.opname in ("STORE_GLOBAL", "STORE_ATTR", "DELETE_GLOBAL"):
                self._assigned.add(str(step.argval))
        for inner in code.co_consts:
            if isinstance(inner, types.CodeType):
                yield from self._names_in(inner)

    def _global(self, found: dict[str, Any], name: str, names: list[str]) -> None:
        value = found.get(name)
        if isinstance(value, types.ModuleType | type):
            module = value.__name__ if isinstance(value, types.ModuleType) else value.__module__
            for attribute in names if _is_the_users(module) else ():
                if attribute in vars(value):
                    self._note(f"{name}", vars(value), attribute)
        elif name in found:
            self._note(str(found.get("__name__")), found, name)

    def _note(self, where: str, holder: Mapping[str, Any], name: str) -> None:
        value = holder[name]
        if _is_flag(value):
            self._found[id(holder), name] = _Name(f"{where}.{name}", holder, name)
        else:
            self._will_look_through(value)
