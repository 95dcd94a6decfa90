"""What a leaf has inside, as the recorder needs to know it."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import nn


@dataclass(frozen=True, slots=True)
class LeafUse:
    """What a leaf has inside that its node does not show.

    Args:
        parameters: The parameters in the leaf, by canonical FQN.
        buffers: Its buffers, likewise.
        opaque_because: Why a module with children is one node, or "".
        has_hooks: Whether it has forward hooks, which did not run during capture and may change what it
            returns.
        module: The leaf.
    """

    parameters: dict[str, torch.Tensor] = field(default_factory=dict)
    buffers: dict[str, torch.Tensor] = field(default_factory=dict)
    opaque_because: str = ""
    has_hooks: bool = False
    module: nn.Module | None = None
