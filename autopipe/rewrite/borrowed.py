"""Puts the user's own modules and tensors under their own names into the module of a stage.

A leaf is put there itself. A parameter that a module seen through holds is shared: the stage has an empty
module at that place, whose parameters are a view of the entries of the user's module. So what replaces an
entry on one side (``model.to`` does so with buffers) replaces it on the other, and both state dicts speak
the same names.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, MutableMapping
from typing import Any

import torch
from torch import nn


class SharedTensors(MutableMapping[str, Any]):
    """Some entries of another module's parameters or buffers, read and written there.

    Args:
        entries: ``_parameters`` or ``_buffers`` of the module that owns them.
        names: Which of its entries are seen.

    Example:
        >>> linear = nn.Linear(2, 2)
        >>> seen = SharedTensors(linear._parameters, ["bias"])
        >>> list(seen), seen["bias"] is linear.bias
        (['bias'], True)
    """

    def __init__(self, entries: MutableMapping[str, Any], names: Iterable[str]) -> None:
        """Take the entries to share; nothing is copied."""
        self._entries, self._names = entries, tuple(names)

    def __getitem__(self, name: str) -> torch.Tensor | None:
        """Return the entry as it is now."""
        if name not in self._names:
            raise KeyError(name)
        found: torch.Tensor | None = self._entries[name]
        return found

    def __setitem__(self, name: str, value: torch.Tensor | None) -> None:
        """Replace the entry in the module that owns it."""
        if name not in self._names:
            raise KeyError(name)
        self._entries[name] = value

    def __delitem__(self, name: str) -> None:
        """Refuse: a stage does not take tensors out of the user's module."""
        raise KeyError(f"{name} belongs to the model")

    def __iter__(self) -> Iterator[str]:
        """Iterate over the names that the owner still has."""
        return (name for name in self._names if name in self._entries)

    def __len__(self) -> int:
        """Count the names that the owner still has."""
        return sum(1 for _ in self)


def lend_modules(stage: nn.Module, modules: Mapping[str, nn.Module]) -> None:
    """Put modules into the module of a stage, under their FQNs.

    Args:
        stage: The stage's module.
        modules: FQN -> the user's module. One that another one of them holds comes with it.
    """
    for fqn in sorted(modules, key=lambda fqn: fqn.count(".")):
        *path, name = fqn.split(".")
        parent = _shell(stage, path)
        if parent._modules.get(name) is not modules[fqn]:
            parent.add_module(name, modules[fqn])


def lend_tensors(stage: nn.Module, model: nn.Module, fqns: Iterable[str]) -> None:
    """Let parameters and buffers be seen in the module of a stage, under their FQNs.

    Args:
        stage: The stage's module; leaves have been put there before.
        model: The user's model.
        fqns: Of the parameters and buffers.
    """
    names_in: dict[str, list[str]] = {}
    for fqn in fqns:
        prefix, _, name = fqn.rpartition(".")
        names_in.setdefault(prefix, []).append(name)
    for prefix, names in names_in.items():
        owner = model.get_submodule(prefix)
        shell = _shell(stage, prefix.split(".") if prefix else [])
        if shell is owner:
            continue
        parameters = [name for name in names if name in owner._parameters]
        buffers = [name for name in names if name in owner._buffers]
        shell.__dict__["_parameters"] = SharedTensors(owner._parameters, parameters)
        shell.__dict__["_buffers"] = SharedTensors(owner._buffers, buffers)
        shell._non_persistent_buffers_set = owner._non_persistent_buffers_set & set(buffers)


def _shell(stage: nn.Module, path: Iterable[str]) -> nn.Module:
    """Return the module at a path, made empty where there is none."""
    module = stage
    for name in path:
        if name not in module._modules:
            module.add_module(name, nn.Module())
        found = module._modules[name]
        assert found is not None
        module = found
    return module
