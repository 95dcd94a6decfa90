"""The state of an engine: the model's own tensors under its FQNs, and what continues its random numbers."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

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
    own = OrderedDict((name, value) for name, value in state.items() if name not in (SEED, STEP))
    if hasattr(state, "_metadata"):
        own._metadata = state._metadata  # type: ignore[attr-defined]
    model.load_state_dict(own)
    seed, step = (int(state[name]) if name in state else None for name in (SEED, STEP))
    return seed, step
