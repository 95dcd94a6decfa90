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
    parameters = list(inspect.signature(model.forward).parameters.values())
    positional = [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    return [_name(path, positional) for path in structure.paths]


def _name(path: str, positional: list[str]) -> str:
    if match := _KEYWORD.match(path):
        return match[1]
    match = _POSITIONAL.match(path)
    assert match is not None, f"{path} is no path of (args, kwargs)"
    index = int(match[1])
    return positional[index] if index < len(positional) else f"args[{index}]"
