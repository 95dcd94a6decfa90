"""The data that passes talk through: frozen, checked by ``verify()``, printed by ``str``. No algorithms.

Names resolve when they are first used, so that the types that need torch do not load it for those that do
not.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

_HOMES = {
    "action": ("Action", "Message", "Op", "Transfer"),
    "alternatives": ("Alternative", "Alternatives"),
    "cost_graph": ("CostGraph", "CostNode", "TiedParam"),
    "fingerprint": ("Fingerprint",),
    "hardware": ("Device", "Hardware", "Link"),
    "partition": ("Certificate", "Partition", "StageCost"),
    "plan": ("Plan",),
    "schedule": ("Schedule",),
    "stages": ("Argument", "Port", "StagedModel", "StageModule", "TiedTensor"),
    "structure": ("Structure",),
    "tensor": ("SizeExpression", "TensorSpec"),
    "timeline": ("Span", "Timeline"),
    "traced": ("InputLeaf", "NodeInfo", "Region", "TracedModel"),
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}

__all__ = sorted(_HOME_OF)  # noqa: PLE0605 - a list of names, computed once


def __getattr__(name: str) -> Any:
    """Import a type where it is first used."""
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME_OF[name]}"), name)
