"""How the user calls each tensor among the arguments of a call."""

from __future__ import annotations

import inspect
import re

from torch import nn

from autopipe.ir.structure import Structure

_POSITIONAL = re.compile(r"\[0\]\[(\d+)\]")
_KEYWORD = re.compile(r"\[1\]\['([^']+)'\]")


def argument_names(model: nn.Module, structure: Structure) -> list[str]:
    """Return the name of the argument that each tensor is, or is inside of.

    Args:
        model: The user's model.
        structure: Of ``(args, kwargs)``.

    Returns:
        One name a tensor: that of the parameter of ``model.forward``.

    Example:
        >>> import torch
        >>> structure, _ = Structure.of(((torch.ones(2),), {"mask": torch.ones(2)}))
        >>> argument_names(nn.Linear(2, 2), structure)
        ['input', 'mask']
    """
    positional = _positional(model)
    return [_name(path, positional) for path in structure.paths]


def argument_name(model: nn.Module, path: str) -> str:
    """Return the name of the argument at, or around, a place in ``(args, kwargs)``.

    Example:
        >>> argument_name(nn.Linear(2, 2), "[0][0]")
        'input'
    """
    return _name(path, _positional(model))


def _positional(model: nn.Module) -> list[str]:
    parameters = inspect.signature(model.forward).parameters.values()
    return [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]


def _name(path: str, positional: list[str]) -> str:
    if match := _KEYWORD.match(path):
        return match[1]
    match = _POSITIONAL.match(path)
    assert match is not None, f"{path} is no path of (args, kwargs)"
    index = int(match[1])
    return positional[index] if index < len(positional) else f"args[{index}]"
