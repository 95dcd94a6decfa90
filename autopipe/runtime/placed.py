"""Which models a pipeline has spread over devices; every other model must lie on one."""

from __future__ import annotations

from weakref import WeakSet

from torch import nn

from autopipe.errors import ArgumentError

_placed: WeakSet[nn.Module] = WeakSet()


def remember_placed(model: nn.Module) -> None:
    """Note that the stages of a model were moved to their devices by a pipeline."""
    _placed.add(model)


def check_one_device(model: nn.Module) -> None:
    """Raise unless a model lies on one device, or a pipeline spread it.

    Raises:
        ArgumentError: Naming two tensors on different devices.

    Example:
        >>> check_one_device(nn.Linear(2, 2))
    """
    tensors = [*model.named_parameters(), *model.named_buffers()]
    if not tensors or model in _placed:
        return
    first, *rest = tensors
    other = next(((name, t) for name, t in rest if t.device != first[1].device), None)
    if other is not None:
        is_meta = first[1].is_meta or other[1].is_meta
        raise ArgumentError(
            "the model lies on several devices, and no split of autopipe put it there.",
            where=f"{first[0]} is on {first[1].device}, {other[0]} on {other[1].device}.",
            why="The capture must know which devices written in the code mean the stage's own.",
            remedy='model.to("meta") before the split; pipe[i].materialize(...) gives a stage values.'
            if is_meta
            else 'model.to("cpu") before the split; engine(devices=...) spreads the stages.',
        )
