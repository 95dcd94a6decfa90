"""Puts into the caller's own arguments what the forward changed in them."""

from __future__ import annotations

import warnings
from collections import deque
from collections.abc import Mapping, MutableMapping
from typing import Any

import torch
from torch import nn

from autopipe.errors import ArgumentError
from autopipe.ir.stages import StagedModel
from autopipe.ir.structure import Structure
from autopipe.ir.traced import TracedModel
from autopipe.runtime.argument_names import argument_name
from autopipe.runtime.microbatches import StagedFor


def give_back(traced: TracedModel, values: Mapping[str, Any], given: Any) -> None:
    """Change the arguments of a call as the model's own forward does.

    A tensor that the forward writes is written; a dict, list, set or object that it changes is changed, and
    stays the same object; what is new is put there.

    Args:
        traced: The capture that ran.
        values: The tensors among the arguments, and what the stages returned, by name.
        given: The caller's ``(args, kwargs)``.

    Complexity:
        None where nothing changes, else linear in the size of the arguments.
    """
    after = traced.changed
    if after is None:
        return
    tensors, found = Structure.of(given)[1], []
    for name, index in zip(after.names, after.inputs, strict=True):
        value = None if name is None else values[name]
        if index is not None:
            if name != traced.inputs[index].name:
                tensors[index].copy_(value)
            value = tensors[index]
        found.append(value)
    _synchronise(given, after.structure.fill(found))


def refusing_lost_changes(model: nn.Module, staged_for: StagedFor) -> StagedFor:
    """Return a ``staged_for`` for microbatches: changes of arguments that are not returned would be lost.

    Args:
        model: The user's model.
        staged_for: Gives the stages that are right for a call.

    Returns:
        The same, but an ArgumentError names an object that the forward changes and does not return. A tensor
        that it writes, such as labels whose padding it masks, is warned of only: gradients do not need it.
    """

    def checked(*args: Any, **options: Any) -> tuple[StagedModel, dict[str, Any]]:
        staged, values = staged_for(*args, **options)
        changed = staged.traced.changed
        if changed is not None and changed.lost:
            tensors = staged.traced.in_structure.paths
            objects = [path for path in changed.lost if path not in tensors]
            _tell(argument_name(model, (objects or changed.lost)[0]), is_tensor=not objects)
        return staged, values

    return checked


def _tell(name: str, *, is_tensor: bool) -> None:
    if is_tensor:
        warnings.warn(
            f"The forward writes into {name}. An engine gives it copies, so that yours stays as it is.",
            stacklevel=2,
        )
        return
    raise ArgumentError(
        f"the forward changes {name}, and an engine would lose that.",
        why="The engine cuts the arguments into microbatches: the forward gets others than yours.",
        remedy=f"return {name} from the forward; or call pipe(...), which changes your own arguments",
    )


def _synchronise(own: Any, new: Any) -> Any:
    """Return what belongs in the place of ``own``: itself, made like ``new``, where it can be changed."""
    if own is new or type(own) is not type(new) or isinstance(own, torch.Tensor):
        return new
    if isinstance(own, MutableMapping):
        _synchronise_mapping(own, new)
    elif isinstance(own, list):
        own[:] = [_synchronise(*pair) for pair in zip(own, new, strict=False)] + new[len(own) :]
    elif isinstance(own, deque):
        own.clear()
        own.extend(new)
    elif isinstance(own, set):
        own.clear()
        own.update(new)
    elif type(own) is tuple:
        return tuple(_synchronise(*pair) for pair in zip(own, new, strict=False)) + new[len(own) :]
    elif hasattr(own, "__dict__") and not isinstance(own, type | nn.Module):
        _synchronise_mapping(vars(own), vars(new))
    else:
        return new
    return own


def _synchronise_mapping(own: MutableMapping[Any, Any], new: Mapping[Any, Any]) -> None:
    for key in [key for key in own if key not in new]:
        del own[key]
    for key, value in new.items():
        own[key] = _synchronise(own[key], value) if key in own else value
