"""The tensors of a model: each once, with every place and every name that it has there."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import torch
from torch import nn


@dataclass(slots=True)
class Held:
    """A parameter or a buffer.

    Args:
        tensor: The tensor.
        fqns: Its names in the model; several if it is tied. The first is the canonical one.
        is_kept: Whether a state dict has it: it is a parameter, or a buffer that persists.
    """

    tensor: torch.Tensor
    fqns: list[str] = field(default_factory=list)
    is_kept: bool = False

    @property
    def fqn(self) -> str:
        """The canonical name."""
        return self.fqns[0]


def held_by(model: nn.Module) -> list[Held]:
    """Return the parameters and buffers of a model, each once, in the order of its modules.

    Example:
        >>> model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
        >>> model[1].weight = model[0].weight
        >>> [held.fqns for held in held_by(model)]
        [['0.weight', '1.weight'], ['0.bias'], ['1.bias']]
    """
    found: dict[int, Held] = {}
    for prefix, module in model.named_modules(remove_duplicate=False):
        for name, tensor in [*module._parameters.items(), *module._buffers.items()]:
            if tensor is not None:
                held = found.setdefault(id(tensor), Held(tensor))
                held.fqns.append(f"{prefix}.{name}" if prefix else name)
                held.is_kept |= name not in module._non_persistent_buffers_set
    return list(found.values())


def tensor_now(model: nn.Module, fqn: str) -> torch.Tensor | None:
    """Return what a module holds under a name now: it may have put another tensor there."""
    prefix, _, name = fqn.rpartition(".")
    module = model.get_submodule(prefix)
    return module._parameters.get(name, module._buffers.get(name))


def names_within(fqns: Iterable[str], prefix: str) -> bool:
    """Return whether one of the names lies inside a module."""
    return any(not prefix or fqn.startswith(prefix + ".") for fqn in fqns)
