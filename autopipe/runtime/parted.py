"""Which models are trained in parts, one a rank, so that no process has all of their weights."""

from __future__ import annotations

from weakref import WeakSet

from torch import nn

from autopipe.errors import EngineError

_parted: WeakSet[nn.Module] = WeakSet()


def remember_parted(model: nn.Module) -> None:
    """Note that from now on this process trains only a part of a model."""
    _parted.add(model)


def forget_parted(model: nn.Module) -> None:
    """Note that all weights of a model were loaded in this process."""
    _parted.discard(model)


def check_whole(model: nn.Module) -> None:
    """Raise if this process has stale weights of a model.

    Raises:
        EngineError: If the model was trained over a group, and not loaded since.

    Example:
        >>> check_whole(nn.Linear(2, 2))
    """
    if model in _parted:
        raise EngineError(
            "this process has only a part of the model's weights; the others are stale.",
            why="Each rank of engine(group=...) trains its own stages.",
            remedy="engine.forward(...) runs all stages where their weights are; for the whole model in one\n"
            "place, save engine.state_dict() by torch.distributed.checkpoint on every rank, and\n"
            "pipe.load_state_dict(...) what is loaded",
        )
