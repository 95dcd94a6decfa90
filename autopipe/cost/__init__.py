"""What every node of a captured model costs: time from a roofline or from measurement, bytes by counting."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from autopipe.cost.known_hardware import HARDWARE, LINKS, default_hardware, hardware
    from autopipe.cost.measured import measure
    from autopipe.cost.memory import NodeMemory, memory_of, node_memory
    from autopipe.cost.roofline import cost_graph

_HOME = {
    "HARDWARE": "known_hardware",
    "LINKS": "known_hardware",
    "default_hardware": "known_hardware",
    "hardware": "known_hardware",
    "measure": "measured",
    "NodeMemory": "memory",
    "memory_of": "memory",
    "node_memory": "memory",
    "cost_graph": "roofline",
}

__all__ = [
    "HARDWARE",
    "LINKS",
    "NodeMemory",
    "cost_graph",
    "default_hardware",
    "hardware",
    "measure",
    "memory_of",
    "node_memory",
]


def __getattr__(name: str) -> Any:
    """Import what is asked for only then: the catalogue of hardware needs no torch."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
