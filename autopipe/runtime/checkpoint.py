"""The state of an engine: the model's own tensors under its FQNs, and what continues its random numbers."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Set
from typing import Any

import torch
from torch import nn

from autopipe.errors import ArgumentError

SEED, STEP = "_autopipe.seed", "_autopipe.step"


def state_of(model: nn.Module, seed: int, step: int) -> dict[str, Any]:
    """Return the model's state dict and two int64 scalars, ``_autopipe.seed`` and ``_autopipe.step``."""
    state: dict[str, Any] = model.state_dict()
    state[SEED] = torch.tensor(seed, dtype=torch.int64)
    state[STEP] = torch.tensor(step, dtype=torch.int64)
    return state


def load_state(model: nn.Module, state: Mapping[str, Any]) -> tuple[int | None, int | None]:
    """Load what ``state_of`` gave, or the plain model's own state dict.

    Args:
        model: Receives the tensors.
        state: The state.

    Returns:
        Seed and step, each None where the state has none.

    Raises:
        RuntimeError: By torch, if the tensors do not fit the model.
    """
    model.load_state_dict(_tensors_in(state))
    return _place_in(state)


def part_of(model: nn.Module, names: Set[str], seed: int, step: int) -> dict[str, Any]:
    """Return what ``state_of`` returns, without the tensors that are not among the names."""
    state = state_of(model, seed, step)
    return {name: value for name, value in state.items() if name in names or name in (SEED, STEP)}


def load_part(model: nn.Module, names: Set[str], state: Mapping[str, Any]) -> tuple[int | None, int | None]:
    """Load a state that must have some tensors, and may have more.

    Args:
        model: Receives the tensors.
        names: FQNs that must be there.
        state: The state.

    Returns:
        Seed and step, each None where the state has none.

    Raises:
        ArgumentError: If a name is missing, or if the model has no such tensor.
        RuntimeError: By torch, if the tensors do not fit the model.
    """
    if missing := sorted(names - state.keys()):
        raise ArgumentError(f"the state has no {missing[0]}, which a stage of this rank owns.")
    strange = model.load_state_dict(_tensors_in(state), strict=False).unexpected_keys
    if strange:
        raise ArgumentError(f"the state has {strange[0]}, which the model has not.")
    return _place_in(state)


def _tensors_in(state: Mapping[str, Any]) -> OrderedDict[str, Any]:
    own = OrderedDict((name, value) for name, value in state.items() if name not in (SEED, STEP))
    if hasattr(state, "_metadata"):
        own._metadata = state._metadata  # type: ignore[attr-defined]
    return own


def _place_in(state: Mapping[str, Any]) -> tuple[int | None, int | None]:
    seed, step = (int(state[name]) if name in state else None for name in (SEED, STEP))
    return seed, step
