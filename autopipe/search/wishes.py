"""What every layout of a table has in common."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Wishes:
    """What every partition has to keep to.

    Args:
        memory_limit_bytes: What a device may hold.
        pin: Node -> stage; -1 is the last.
        together: Groups of nodes that share a stage.
        objective: What every partition makes least.
        device_order: "given", or "best" of those that devices which differ can be put in.
    """

    memory_limit_bytes: int | None = None
    pin: Mapping[str, int] = field(default_factory=dict)
    together: tuple[tuple[str, ...], ...] = ()
    objective: str = "bottleneck"
    device_order: str = "given"
