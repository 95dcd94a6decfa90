"""The attributes of the model's modules: noted before a capture, put back after it.

A graph forgets what the Python of the model sets on its modules. So every change is looked at: a leaf runs
its own Python in its stage and may change itself; a change that comes from a module seen through would be
lost.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn

PLAIN = (bool, int, float, complex, str, bytes, type(None))
_WRITTEN = (*PLAIN, torch.SymInt)
"""What a graph can set: plain values, and sizes, which a run knows."""

_FUNCTIONS = (type, types.FunctionType, types.MethodType, types.BuiltinFunctionType, types.ModuleType)
_NOT_LOOKED_INTO = (*PLAIN, *_FUNCTIONS, nn.Module, torch.Tensor, torch.device, torch.dtype, torch.Generator)

HARMLESS = frozenset({"_output_capturing_hooks_installed"})
"""Set by transformers on its first call, with hooks that autopipe runs during capture."""

_WEIGHTS = frozenset({"_parameters", "_buffers", "_flat_weights"})
_TABLES = frozenset({"_parameters", "_buffers", "_modules"})
_HOOK_TABLES = frozenset({"_forward_hooks", "_forward_hooks_with_kwargs", "_forward_hooks_always_called"})


def held_tensors(model: nn.Module) -> list[torch.Tensor]:
    """Return the tensors that modules hold as attributes or in lists, dicts and objects in these."""
    found: dict[int, torch.Tensor] = {}
    for module in model.modules():
        own = [name for name in vars(module) if name not in ("_parameters", "_buffers", "_modules")]
        contents = _contents(module)
        for value, inside in (contents[name] for name in own):
            every = [value, *(item for _, item in inside or ())]
            found |= {id(item): item for item in every if isinstance(item, torch.Tensor)}
    return list(found.values())


class ModuleState:
    """The attributes of all modules of a model.

    Args:
        model: The model.
    """

    def __init__(self, model: nn.Module) -> None:
        """Note everything, one level deep into lists, dicts, sets and plain objects."""
        self._modules = [each for each in model.modules() if not isinstance(each, torch.jit.ScriptModule)]
        self._first = {id(module): _contents(module) for module in self._modules}
        self._known = dict(self._first)

    def accept(self, module: nn.Module) -> list[tuple[nn.Module, list[str]]]:
        """Take what a leaf has changed in itself for granted; return the modules that changed, and what."""
        found = []
        for inner in module.modules():
            now, before = _contents(inner), self._known.get(id(inner), {})
            if names := _differing(before, now):
                found.append((inner, names))
            self._known[id(inner)] = now
        return found

    def changed_in(self, module: nn.Module) -> list[str]:
        """Return the names of the attributes of a module and its children that are not as they are known."""
        return [name for inner in module.modules() for name in self.spelled(inner, self._changed(inner))]

    def has_other_weights(self, module: nn.Module) -> bool:
        """Whether tensors are lent to a module and its children, and nothing else of them is another."""
        names = {name for inner in module.modules() for name in self._changed(inner)}
        return bool(names) and names <= _WEIGHTS

    def spelled(self, module: nn.Module, names: list[str]) -> list[str]:
        """Return the names of attributes as a forward writes them: those of buffers for ``_buffers``."""
        found = []
        for name in names:
            before, now = self._known.get(id(module), {}).get(name), _contents(module).get(name)
            if name in _TABLES and before and now:
                old, new = dict(before[1]), dict(now[1])
                found += [key for key in {**old, **new} if old.get(key) is not new.get(key)]
            else:
                found.append(name)
        return found

    def put_back(self, is_the_same: Callable[[torch.Tensor, torch.Tensor], bool]) -> None:
        """Put tensors back that modules hold others in the place of which are the same, in a plain run.

        Args:
            is_the_same: Whether a plain run would have the second in the place of the first.
        """
        for module in self._modules:
            known = self._known[id(module)]
            before = {name: value for name, (value, _) in known.items()}
            tables = [(vars(module), before)]
            tables += [(vars(module)[name], dict(known[name][1])) for name in ("_buffers", "_parameters")]
            for now, then in tables:
                for name, old in then.items():
                    new = now.get(name)
                    if (
                        isinstance(old, torch.Tensor)
                        and isinstance(new, torch.Tensor)
                        and is_the_same(new, old)
                    ):
                        now[name] = old

    def changed(self) -> Iterator[tuple[nn.Module, list[str]]]:
        """Yield every module that is not as it is known, and the names of its attributes that are not."""
        for module in self._modules:
            names = self._changed(module)
            if names:
                yield module, names

    def _changed(self, module: nn.Module) -> list[str]:
        return _differing(self._known.get(id(module), {}), _contents(module))

    def take_for_granted(self) -> None:
        """Know everything as it is now."""
        self._known = {id(module): _contents(module) for module in self._modules}

    def plain_changes(self, module: nn.Module, name: str) -> list[tuple[int, str, Any]] | None:
        """Return what makes an attribute what it is now, in plain values and sizes.

        Returns:
            (whose, key, value): ``whose`` tells the object that a plain value was set on from all others, and
            ``key`` is "" for the module itself. None if the change is of another kind.
        """
        before = self._known.get(id(module), {}).get(name)
        now = _contents(module).get(name)
        if now is None or (before is None and not isinstance(now[0], _WRITTEN)):
            return None
        if isinstance(now[0], _WRITTEN) and (before is None or isinstance(before[0], PLAIN)):
            return [(id(module), "", now[0])]
        return _plain_changes_inside(before, now) if before is not None and before[0] is now[0] else None

    def restore(self) -> None:
        """Put back what was noted first."""
        for module in self._modules:
            attributes = vars(module)
            before = self._first[id(module)]
            for name in [name for name in attributes if name not in before]:
                del attributes[name]
            for name, (value, inside) in before.items():
                attributes[name] = value
                if inside is not None and not _same_inside(_inside(value), inside):
                    _refill(value, inside)


def _contents(module: nn.Module) -> dict[str, tuple[Any, Any]]:
    if isinstance(module, torch.jit.ScriptModule):  # its attributes are not Python's
        return {}
    return {name: (value, _inside(value)) for name, value in vars(module).items()}


def _inside(value: Any) -> Any:
    """Return the elements of a container or plain object, as (key, value) pairs."""
    if isinstance(value, _NOT_LOOKED_INTO):
        return None
    if isinstance(value, dict):
        return tuple(value.items())
    if isinstance(value, list | set | tuple):
        return tuple(enumerate(value))
    return tuple(vars(value).items()) if hasattr(value, "__dict__") else None


def _plain_changes_inside(before: tuple[Any, Any], now: tuple[Any, Any]) -> list[tuple[int, str, Any]] | None:
    value = now[0]
    if now[1] is None or isinstance(value, list | set | tuple):
        return None
    old, new = dict(before[1]), dict(now[1])
    changed = [key for key in new if key not in old or not _same(old[key], new[key])]
    if old.keys() - new.keys() or not all(
        isinstance(k, str) and isinstance(new[k], _WRITTEN) for k in changed
    ):
        return None
    return [(id(value), key, new[key]) for key in changed]


def _refill(value: Any, inside: tuple[tuple[Any, Any], ...]) -> None:
    target = value if isinstance(value, dict | list | set | tuple) else vars(value)
    if isinstance(target, tuple):
        return
    target.clear()
    if isinstance(target, dict):
        target.update(inside)
    elif isinstance(target, list):
        target.extend(item for _, item in inside)
    else:
        target.update(item for _, item in inside)


def _differing(before: dict[str, tuple[Any, Any]], now: dict[str, tuple[Any, Any]]) -> list[str]:
    return [
        name
        for name in {**before, **now}
        if name not in HARMLESS
        and name not in _HOOK_TABLES
        and not (name in before and name in now and _same_entry(before[name], now[name]))
    ]


def _same_entry(one: tuple[Any, Any], other: tuple[Any, Any]) -> bool:
    return _same(one[0], other[0]) and _same_inside(one[1], other[1])


def _same_inside(one: Any, other: Any) -> bool:
    if one is None or other is None:
        return one is other
    return len(one) == len(other) and all(
        _same(key, other_key) and _same(value, other_value)
        for (key, value), (other_key, other_value) in zip(one, other, strict=True)
    )


def _same(one: Any, other: Any) -> bool:
    return one is other or (type(one) is type(other) and isinstance(one, PLAIN) and one == other)
